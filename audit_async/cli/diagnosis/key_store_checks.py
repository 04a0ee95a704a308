"""What `doctor` looks at in a key store: who can open it, whether it is as new as the logs, what is not finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from audit_async._query.audit_query import AuditQuery
from audit_async._query.chain_erasures import own_events, stated_erasures
from audit_async._query.recorded_members import read_said
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.cli.diagnosis.outcomes import Check, attempt, fail, ok, warn
from audit_async.cli.terminal import byte_size, count_of
from audit_async.cli.writing import base_directory
from audit_async.config.key_store_settings import MasterKeySource

if TYPE_CHECKING:
    from audit_async.privacy.store_status import KeyStoreStatus  # needs an extra

__all__ = ["examine"]

_SUBJECT: Final = "key store"
#: Incidents are often noticed only after weeks.
_INCIDENT_DAYS: Final = 30
_OLD_BACKUP_DAYS: Final = 7


def examine(logs: list[Log], path: str | os.PathLike[str], master_key: MasterKeySource | None) -> list[Check]:
    """Return the checks of the key store of some logs; no sealed member is opened.

    Args:
        logs: The logs that may use it.
        path: Its directory.
        master_key: The source of its master key, None if whether it opens the store is not to be checked.
    """
    try:
        from audit_async.privacy.store_status import key_store_status  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError:
        return [fail(_SUBJECT, "place", "needs cryptography to be checked; run: pip install 'audit-async[privacy]'")]
    found: list[KeyStoreStatus] = []

    def place() -> Iterator[Check]:
        for base_dir in dict.fromkeys(base_directory(log) for log in logs):
            _refuse_inside(path, base_dir)
        status = key_store_status(path)
        found.append(status)
        files = f"{count_of(status.months, 'month')}, {byte_size(status.size_bytes)}"
        yield ok(_SUBJECT, "place", f"{status.path}, to be opened by user {os.geteuid()} only: {files}")

    checks = attempt(_SUBJECT, "place", place)
    for status in found:
        checks += _state(status)
        checks += attempt(_SUBJECT, "recent erasures", lambda: _recent(logs))
        for log in logs:
            checks += attempt(log.name, "key store", lambda of=log, by=status: _compare(of, by))  # type: ignore[misc]
        if master_key is not None:
            checks += attempt(_SUBJECT, "master key", lambda: _open(path, master_key))
    return checks


def _refuse_inside(path: str | os.PathLike[str], base_dir: Path) -> None:
    from audit_async.privacy.store_directory import refuse_inside_trail  # noqa: PLC0415 - needs an extra

    refuse_inside_trail(Path(os.path.abspath(path)), base_dir)


def _state(status: KeyStoreStatus) -> Iterator[Check]:
    if status.unfinished_erasures:
        begun = count_of(len(status.unfinished_erasures), "erasure")
        text = f"{begun} begun and not ended; the next start of the log that records one completes it"
        yield warn(_SUBJECT, "erasures", text)
    else:
        yield ok(_SUBJECT, "erasures", f"{status.epoch:,} begun, and all of them ended")
    if status.waiting_erasures:
        text = f"{count_of(status.waiting_erasures, 'erasure')} waiting; see who is to be erased: erase --waiting"
        yield warn(_SUBJECT, "requests", text)
    yield _backup(status.backed_up_at)
    if status.holds:
        yield ok(_SUBJECT, "holds", f"{count_of(len(status.holds), 'legal hold')} in force: no key is destroyed")
    if status.has_escrow:
        yield ok(_SUBJECT, "escrow", "the escrow key opens it as well")
    else:
        text = "without one: if the master key is lost, everybody is erased; keep copies of the master key"
        yield warn(_SUBJECT, "escrow", text)


def _backup(backed_up_at: datetime | None) -> Check:
    if backed_up_at is None:
        return warn(_SUBJECT, "backup", "no copy was made by keystore backup: a store that is lost erases everybody")
    days = max((datetime.now(UTC) - backed_up_at).days, 0)
    text = f"the newest copy by keystore backup is {count_of(days, 'day')} old"
    if days > _OLD_BACKUP_DAYS:
        return warn(_SUBJECT, "backup", f"{text}: what was sealed since is lost with the store")
    return ok(_SUBJECT, "backup", text)


def _recent(logs: list[Log]) -> Iterator[Check]:
    """Report the erasures since the time in which an incident is noticed: somebody may have erased his traces."""
    since = datetime.now(UTC) - timedelta(days=_INCIDENT_DAYS)
    started = AuditQuery(event_types=("audit.erasure_started",), start=since)
    erasures: set[str] = set()
    damage = Damage(skip=True)
    with closing(Search(logs, started, damage).run()) as search:
        for record in search:
            if record is not None:
                erasures.add(str(read_said(record.line).event.get("erasure_id")))
    unread = "; a part of the trail could not be read" if damage.skipped or damage.not_searched is not None else ""
    if erasures:
        text = (
            f"{count_of(len(erasures), 'erasure')} in the last {_INCIDENT_DAYS} days{unread}; who asked, and why: "
            "query --type audit.erasure_started with the key store"
        )
        yield warn(_SUBJECT, "recent erasures", text)
    else:
        yield ok(_SUBJECT, "recent erasures", f"none in the last {_INCIDENT_DAYS} days{unread}")


def _compare(log: Log, status: KeyStoreStatus) -> Iterator[Check]:
    """Compare the store with what the newest records of a log state; nothing if the log does not seal."""
    store_id = _stated_store(log)
    if store_id is not None and store_id != status.store_id:
        text = f"it seals with the key store {store_id}, and {status.path} is {status.store_id}: another one"
        yield fail(log.name, "key store", text)
        return
    yield from _newest_keys(log, status)
    stated = stated_erasures(log).epoch
    if stated > status.epoch:
        yield fail(
            log.name,
            "key store",
            f"it states {count_of(stated, 'erasure')}, and the key store knows {status.epoch:,}: the store came back "
            "from a backup, so persons who were erased are legible; start the service of this log, which destroys "
            "their keys again",
        )
    elif store_id is not None or stated:
        yield ok(log.name, "key store", f"as new as the log, which states {count_of(stated, 'erasure')}")


def _newest_keys(log: Log, status: KeyStoreStatus) -> Iterator[Check]:
    """Look up the keys of the newest segment; `verify --keys` does all of them."""
    from audit_async._query.key_check import find_missing_keys  # noqa: PLC0415 - needs an extra
    from audit_async.privacy.known_ids import KnownIds  # noqa: PLC0415 - likewise

    known = KnownIds(status.path)
    try:
        missing = find_missing_keys(log, known, newest_segment_only=True)
    finally:
        known.close()
    if missing.records:
        yield warn(
            log.name,
            "keys",
            f"the store never knew {count_of(missing.keys, 'key')} of {count_of(missing.records, 'record')} in the "
            "newest segment; restore a newer copy of it if there is one, and see verify --keys for all segments",
        )


def _stated_store(log: Log) -> str | None:
    """Return the id of the key store of the newest session; None if it does not seal, or began segments ago."""
    for event in own_events(log):
        if event["event_type"] == "audit.segment_sealed":
            return None  # a session may be as long as the trail: no more is read than has to be
        if event["event_type"] == "audit.log_opened":
            store_id = event.get("key_store")
            return store_id if isinstance(store_id, str) else None
    return None


def _open(path: str | os.PathLike[str], master_key: MasterKeySource) -> Iterator[Check]:
    from audit_async.privacy.sqlite_key_store import open_key_store  # noqa: PLC0415 - needs an extra

    store = open_key_store(path, master_key)
    try:
        missing = store.changes_since(0).missing
    finally:
        store.close()
    yield ok(_SUBJECT, "master key", "it opens the store")
    if missing:
        yield fail(
            _SUBJECT,
            "restored",
            f"it came back from a backup, and the keys of {count_of(missing, 'erasure')} could not be destroyed again: "
            "nothing that is sealed is opened until each log that uses it was started once",
        )
