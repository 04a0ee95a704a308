"""What an opening does for erasures: it completes interrupted ones, and does again what a restored key store forgot.

A store that several logs share came back from a backup if its epoch is older than one that a log states, or if a key
that a log states as destroyed is alive in it, or unknown. The log that notices it first destroys again what it and all
logs below its base directory record. An erasure that none of them records is noted in the store as missing: it opens
nothing until a log that records the erasure has destroyed its keys again.

An erasure that was killed half-way is completed in the order in which it began: what is missing of its records, the
keys, the record of its end.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audit_async._query.chain_erasures import (
    ChainStatement,
    RecordedErasure,
    RecordedErasures,
    recorded_erasures,
    stated_erasures,
)
from audit_async._trail.log_files import DAMAGED_ARCHIVE, Log, find_logs
from audit_async.errors import AuditError
from audit_async.events import AuditErasureStarted, AuditEvent, AuditKeyStoreRestored, AuditSubjectErased
from audit_async.privacy.data_keys import date_of, day_of, key_id_bytes, key_id_text
from audit_async.privacy.key_store import Changes, Destroyed, Erasure, KeyStore
from audit_async.privacy.opening_sealed import Opener
from audit_async.privacy.store_failures import ErasureRefused, KeyStoreOutdated

_log: Final = logging.getLogger("audit_async")

#: Key ids in one record: 25 KiB of them.
MOST_KEY_IDS: Final = 1000


class BegunErasure(NamedTuple):
    """An erasure without an end, as it is to be completed."""

    erasure_id: str
    epoch: int
    key_ids: list[bytes]
    is_whole: bool  #: all its keys are known
    forced: bool
    was_recorded: bool = True  #: or it was killed before its first record


class Recovered(NamedTuple):
    """What an opening has found out, and done, before its first record."""

    events: list[AuditEvent]  #: to be recorded before the rest is done
    begun: list[BegunErasure]
    own_erased_key: str | None  #: a key of the newest erasure that the log records


def recover_erasures(log: Log, keys: KeyStore, holds: Iterable[str], base_dir: Path) -> Recovered:
    """Destroy again what a restored key store has forgotten, and find what is to be completed.

    Before the log is open; blocks. `complete_erasures` does the rest once the events are durable, and `end_erasures`
    ends them once that is durable too.

    Args:
        log: The log, locked.
        keys: Its key store.
        holds: The ids of the legal holds in force; copied into the key store first.
        base_dir: What is searched for other logs that use the key store, if it came back from a backup.
    """
    for hold_id in holds:
        keys.set_hold(log.log_id, hold_id)
    unfinished = [erasure_id for erasure_id in keys.unfinished_erasures() if erasure_id.startswith(log.log_id[:16])]
    stated, now = stated_erasures(log), keys.changes_since(0)
    witnesses = set(stated.erased_keys)
    if now.erased_key is not None:  # a copy that was taken in the middle of an erasure contradicts itself
        witnesses.add(key_id_text(now.erased_key))
    has_gone_back = stated.epoch > now.epoch or bool(_undestroyed(keys, witnesses, now))
    if not (has_gone_back or now.missing or stated.has_open or unfinished):
        return Recovered([], [], stated.own_erased_key)
    recorded = recorded_erasures(log)
    events: list[AuditEvent] = []
    for erasure_id in unfinished:  # what has ended was allowed then; a hold keeps only what was just begun
        if (erasure := recorded.by_id.get(erasure_id)) is not None and erasure.has_ended:
            keys.destroy(map(key_id_bytes, erasure.key_ids), erasure_id=erasure_id, force=True)
    if has_gone_back or now.missing:
        others = list(_other_chains(log, base_dir, keys.store_id))
        restored = _destroy_again(keys, recorded, others, stated, now, has_gone_back=has_gone_back)
        if restored.keys or restored.expected_epoch > now.epoch or (restored.missing or 0) > now.missing:
            events.append(restored)
    begun: list[BegunErasure] = []
    for erasure_id, erasure in recorded.by_id.items():
        if not erasure.has_ended:
            parts = _missing_parts(log, erasure, keys.resume_erasure(erasure_id), keys)
            events.extend(parts)
            begun.append(_begun(erasure, parts))
    # Killed before its first record: nothing says who asked for it and why, so nothing is destroyed.
    begun += [
        BegunErasure(erasure_id, resumed.epoch, [], is_whole=False, forced=False, was_recorded=False)
        for erasure_id in unfinished
        if erasure_id not in recorded.by_id and (resumed := keys.resume_erasure(erasure_id)) is not None
    ]
    return Recovered(events, begun, stated.own_erased_key)


class Completed(NamedTuple):
    """What an opening has done for erasures."""

    events: list[AuditEvent]  #: to be recorded
    postponed: set[str]  #: erasures that a legal hold has stopped half-way


def complete_erasures(log: Log, keys: KeyStore, begun: Iterable[BegunErasure]) -> Completed:
    """Destroy the keys of erasures that have begun, all records of which are durable now; blocks."""
    completed = Completed([], set())
    for erasure in begun:
        if not erasure.was_recorded:
            keys.requests.release(erasure.erasure_id)
        try:
            keys.destroy(erasure.key_ids, erasure_id=erasure.erasure_id, force=erasure.forced)
        except ErasureRefused as refused:
            _log.warning(
                "audit log %s: the erasure %s was begun, and is not completed: %s",
                log.name,
                erasure.erasure_id,
                refused,
            )
            completed.postponed.add(erasure.erasure_id)
            continue
        completed.events.append(
            AuditSubjectErased(
                erasure_id=erasure.erasure_id,
                epoch=erasure.epoch,
                keys=len(erasure.key_ids),
                resumed=True,
                incomplete=not erasure.is_whole or None,
            )
        )
    return completed


def end_erasures(log_id: str, keys: KeyStore, postponed: Container[str]) -> None:
    """End this log's erasures in the key store: each is complete, or was never recorded and has destroyed nothing."""
    for erasure_id in keys.unfinished_erasures():
        if erasure_id.startswith(log_id[:16]) and erasure_id not in postponed:
            keys.end_erasure(erasure_id)


def in_groups(key_ids: list[str]) -> list[list[str]]:
    """Return key ids as the records of an erasure list them; one empty group if there are none."""
    return [key_ids[at : at + MOST_KEY_IDS] for at in range(0, len(key_ids), MOST_KEY_IDS)] or [[]]


# A key store that came back from a backup.


def _undestroyed(keys: KeyStore, key_ids: Iterable[str], now: Changes) -> list[bytes]:
    """Return which of these keys, all of which were destroyed once, are alive or unknown."""
    wanted = [key_id for key_id in map(key_id_bytes, key_ids) if day_of(key_id) >= now.forgotten_before]
    found = keys.keys(wanted)
    return [key_id for key_id in wanted if not isinstance(found.get(key_id), Destroyed)]


def _other_chains(log: Log, base_dir: Path, store_id: str) -> Iterator[RecordedErasures]:
    """Yield what the other logs below a directory record of erasures, if they use this key store."""
    try:
        logs = find_logs(base_dir)
    except AuditError as error:
        _log.warning("audit log %s: other logs could not be searched for erasures: %s", log.name, error)
        return
    for other in logs:
        if other.directory.samefile(log.directory):
            continue
        try:
            recorded = recorded_erasures(other)
        except (AuditError, OSError, *DAMAGED_ARCHIVE) as error:
            _log.warning("audit log %s: %s could not be searched for erasures: %s", log.name, other.name, error)
            continue
        if recorded.key_store == store_id:
            yield recorded


def _destroy_again(
    keys: KeyStore,
    own: RecordedErasures,
    others: list[RecordedErasures],
    stated: ChainStatement,
    now: Changes,
    *,
    has_gone_back: bool,
) -> AuditKeyStoreRestored:
    """Destroy what these logs record as destroyed, and note in the store what none of them records."""
    alive, found, ended_requests = 0, set[int](), set[str]()
    for recorded in (*others, own):  # the log's own, newest last: that key is what the next opening would look for
        for erasure_id, erasure in sorted(recorded.by_id.items(), key=lambda item: item[1].epoch):
            if erasure.has_ended:
                alive += keys.destroy(map(key_id_bytes, erasure.key_ids), erasure_id=erasure_id, force=True)
            if erasure.has_ended or recorded is own:  # one of its own that has begun is completed next
                found.add(erasure.epoch)
        found |= recorded.request_epochs
        ended_requests |= recorded.ended_requests
        alive += keys.destroy(map(key_id_bytes, recorded.refused), erasure_id="", force=True)
        if recorded.forgotten_before and date.fromisoformat(recorded.forgotten_before) > date_of(now.forgotten_before):
            keys.forget(date.fromisoformat(recorded.forgotten_before), force=True)
    expected = max(stated.epoch, now.epoch, *found, 0)
    missing = set(range(now.epoch + 1, expected + 1))
    for erasure_id in keys.unfinished_erasures() if has_gone_back else ():  # perhaps ended since the backup
        if (erasure_begun := keys.resume_erasure(erasure_id)) is not None:
            missing.add(erasure_begun.epoch)
    missing -= found
    alive_keys = _undestroyed(keys, stated.erased_keys, now)
    if own.key_store not in {"", keys.store_id}:  # another store, which never had the keys; empty: in an archive
        missing, alive_keys = set(), []
    keys.catch_up(expected, missing=missing, alive=alive_keys, found=found)
    keys.requests.withdraw(sorted(ended_requests))
    open_requests = set[str]().union(*(recorded.open_requests for recorded in (*others, own))) - ended_requests
    lost_requests = open_requests.difference(request.request_id for request in keys.requests.waiting())
    return AuditKeyStoreRestored(
        key_store=keys.store_id,
        epoch=now.epoch,
        expected_epoch=expected,
        keys=alive,
        missing=keys.changes_since(0).missing or None,
        lost_requests=len(lost_requests) or None,
    )


# An erasure that was killed half-way.


def _begun(erasure: RecordedErasure, added: list[AuditErasureStarted]) -> BegunErasure:
    key_ids = [*erasure.key_ids, *(key_id for part in added for key_id in part.key_ids)]
    return BegunErasure(
        erasure.first.erasure_id,
        erasure.epoch,
        list(map(key_id_bytes, key_ids)),
        is_whole=erasure.is_whole or bool(added),
        forced=erasure.forced,
    )


def _missing_parts(
    log: Log, erasure: RecordedErasure, resumed: Erasure | None, keys: KeyStore
) -> list[AuditErasureStarted]:
    """Return the records that an erasure still needs; none if it has all, or if its other keys can't be known any more.

    Nothing was destroyed before all of them were durable. So the subject's keys are still those that the erasure began
    with, in the same order, and after them any that were made since, which are not its own.
    """
    first, listed = erasure.first, erasure.key_ids
    if erasure.is_whole or resumed is None or first.keys is None:
        return []
    there = list(map(key_id_text, resumed.key_ids[: first.keys]))
    if len(there) != first.keys or there[: len(listed)] != listed:
        return []  # the store is from a backup, or somebody else has erased the person meanwhile
    first = _in_the_clear(log, first, keys)
    return [
        msgspec.structs.replace(first, key_ids=group, part=part, resumed=True)
        for part, group in enumerate(in_groups(there[len(listed) :]), len(erasure.parts) + 1)
    ]


def _in_the_clear(log: Log, part: AuditErasureStarted, keys: KeyStore) -> AuditErasureStarted:
    """Return a record with its sealed members opened, so that they can be sealed again."""
    event = msgspec.json.decode(msgspec.json.encode(part))
    try:
        opened = Opener(keys).open(log.log_id, event, {}).event
    except KeyStoreOutdated:
        opened = Opener(None).open(log.log_id, event, {}).event
    return msgspec.convert(opened, AuditErasureStarted)
