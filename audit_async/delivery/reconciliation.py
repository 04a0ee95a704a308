"""Comparing what a sink says it has with what the trail says it was sent.

A file is read. An HTTP receiver is asked by the sink's `count_url`, which answers with `{"count": N}` and perhaps the
`last` key, as Elasticsearch's `_count` does. Nobody can say it of syslog, OpenTelemetry and standard output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread
import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.delivery.deliver_settings import DeliverSettings, FileSettings, HttpSettings, SinkSettings
from audit_async.delivery.deliverable_record import DeliveredLog
from audit_async.delivery.deliverer import base_dir_of, deliverer_log, logs_of
from audit_async.delivery.delivery_records import DeliveryRecords
from audit_async.delivery.delivery_sink import SendResult
from audit_async.delivery.position_file import SinkDirectory
from audit_async.delivery.record_selection import Selection
from audit_async.events import AuditDeliveryProblem

if TYPE_CHECKING:
    from audit_async.delivery.http_connection import HttpConnection  # needs an extra

__all__ = ["Reconciled", "reconcile"]

#: How often a receiver is asked again that lacks something, and after how long, in seconds.
_ASK_AGAIN: Final = 2
_ASK_AGAIN_AFTER_S: Final = 2.0
_AUDIT_ID: Final = re.compile(rb"[0-9a-f]{16}-[0-9a-f]{1,16}(?![0-9a-f])")


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink has, compared with what it was sent.

    Args:
        sink: The sink's name.
        log: The service and the instance; empty for all logs together.
        log_id: The log; empty for all logs together.
        sent: How many records the sink was sent, without those that the receiver refused.
        found: How many of them it has, or how many it says it has; None if it does not say it.
        missing_seq: The first one that it lacks, if that is known.
        last_is_there: Whether it has the last one; None if it does not say it.
        problem: Why it does not say it, or what is wrong.
    """

    sink: str
    log: str
    log_id: str
    sent: int
    found: int | None = None
    missing_seq: int | None = None
    last_is_there: bool | None = None
    problem: str | None = None

    @property
    def differs(self) -> bool:
        """Whether the sink lacks something."""
        return (self.found is not None and self.found < self.sent) or self.last_is_there is False


class _Sent(msgspec.Struct, kw_only=True):
    """What a sink was sent of one log."""

    log: DeliveredLog
    keys: list[tuple[bytes, int]]  #: the audit_id and the seq of each, in order


async def reconcile(
    settings: DeliverSettings, *, sink: str | None = None, base_dir: Path | None = None
) -> list[Reconciled]:
    """Compare each sink with the trail, as far as it can be asked; what is missing is recorded.

    The deliverer may run. Reads the whole trail, and keeps the keys of one log at a time, of a file of all logs, in
    memory.

    Args:
        settings: The deliverer's.
        sink: Only the sink of this name.
        base_dir: The trail, instead of the settings' one.

    Raises:
        TrailUnreadable: There is no log; an `AuditError`.
        StateUnusable: A position is damaged.
    """
    trail = base_dir_of(settings, base_dir)
    found: list[Reconciled] = []
    for one in settings.sinks:
        if sink in {None, one.name}:
            found += await _compare(one, settings, trail)
    if any(one.differs for one in found):
        async with deliverer_log(settings, trail) as audit:
            records = DeliveryRecords(audit)
            for one in found:
                if one.differs:
                    reason = one.problem or f"it was sent {one.sent} records, and has {one.found}"
                    await records.record(
                        AuditDeliveryProblem(
                            sink=one.sink,
                            kind="count_differs",
                            reason=reason,
                            log=one.log or None,
                            log_id=one.log_id or None,
                            seq=one.missing_seq,
                        )
                    ).durable()
    return found


async def _compare(one: SinkSettings, settings: DeliverSettings, trail: Path) -> list[Reconciled]:
    sent = await anyio.to_thread.run_sync(lambda: list(_all_sent(one, settings, trail)))
    if isinstance(one, FileSettings):
        return await anyio.to_thread.run_sync(_compare_file, one, sent)
    if isinstance(one, HttpSettings) and one.count_url is not None:
        from audit_async.delivery.http_connection import HttpConnection  # noqa: PLC0415 - needs an extra

        connection = HttpConnection(one)
        try:
            if "{log_id}" in one.count_url:
                return [
                    await _ask(connection, one, one.count_url.replace("{log_id}", each.log.log_id), [each])
                    for each in sent
                ]
            return [await _ask(connection, one, one.count_url, sent)]
        finally:
            await connection.aclose()
    what = "count_url is not set" if isinstance(one, HttpSettings) else "nothing of this type can say what it has"
    return [_result(one, [each], problem=what) for each in sent]


def _all_sent(one: SinkSettings, settings: DeliverSettings, trail: Path) -> Iterator[_Sent]:
    """Yield what the sink was sent of each log, by its stored position."""
    directory = SinkDirectory(Path(settings.state_dir), one.name)
    aside = {(entry.log_id, entry.seq) for entry in directory.all_set_aside()}
    for log in logs_of(trail):
        position = directory.read(log.log_id) if log.log_id else None
        if position is None or position.seq < 0:
            continue
        delivered = DeliveredLog(log_id=log.log_id, service=log.service_id, instance=log.instance, host="")
        keys = [key for key in _keys(one, log, delivered, position.seq) if (log.log_id, key[1]) not in aside]
        yield _Sent(log=delivered, keys=keys)


def _keys(one: SinkSettings, log: Log, delivered: DeliveredLog, until: int) -> Iterator[tuple[bytes, int]]:
    selection = Selection(msgspec.structs.replace(one, redact=(), unseal=False), log, delivered)
    with closing(Search([log], AuditQuery(), Damage(skip=False)).run()) as search:
        for found in search:
            if found is not None and found.seq <= until:
                for record in selection.take(found.line if found.line.endswith(b"\n") else found.line + b"\n"):
                    yield record.audit_id.encode(), found.seq


def _result(one: SinkSettings, sent: list[_Sent], **members: object) -> Reconciled:
    only = sent[0].log if len(sent) == 1 else None
    given: dict[str, object] = {
        "sink": one.name,
        "log": "" if only is None else only.name,
        "log_id": "" if only is None else only.log_id,
        "sent": sum(len(each.keys) for each in sent),
    }
    return msgspec.convert(given | members, Reconciled)


def _compare_file(one: FileSettings, sent: list[_Sent]) -> list[Reconciled]:
    """Compare with the keys in the files; what was rotated away is not missing."""
    paths = [f"{one.path}.{number}" for number in range(one.keep_files, 0, -1)] + [one.path]
    there: set[bytes] = set()
    try:
        for path in paths:
            if Path(path).exists():
                with open(path, "rb") as file:
                    for line in file:
                        there.update(_AUDIT_ID.findall(line))
    except OSError as error:
        return [_result(one, [each], problem=f"{path} can't be read: {error.strerror}") for each in sent]
    rotated = Path(paths[0]).exists()
    results = []
    for each in sent:
        keys = each.keys
        if rotated:  # files before these are gone
            first = next((index for index, (key, _) in enumerate(keys) if key in there), len(keys))
            keys = keys[first:]
        missing = [seq for key, seq in keys if key not in there]
        results.append(
            _result(
                one,
                [_Sent(log=each.log, keys=keys)],
                found=len(keys) - len(missing),
                missing_seq=missing[0] if missing else None,
                last_is_there=(keys[-1][0] in there) if keys else None,
            )
        )
    return results


async def _ask(connection: HttpConnection, one: SinkSettings, url: str, sent: list[_Sent]) -> Reconciled:
    """Ask a receiver what it has; again if it lacks something, since an index shows later what it has taken."""
    for last_time in (*[False] * _ASK_AGAIN, True):
        found = await _ask_once(connection, one, url, sent)
        if last_time or not found.differs:
            break
        await anyio.sleep(_ASK_AGAIN_AFTER_S)
    return found


async def _ask_once(connection: HttpConnection, one: SinkSettings, url: str, sent: list[_Sent]) -> Reconciled:
    answer = await connection.get(url)
    if isinstance(answer, SendResult):
        return _result(one, sent, problem=answer.reason)
    if not 200 <= answer.status < 300:
        return _result(one, sent, problem=f"count_url answers {answer.status}; check it, and the token")
    try:
        said = msgspec.json.decode(answer.body, type=_Count)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _result(
            one, sent, problem=f'status {answer.status}, and no {{"count": N}} in the answer; check count_url'
        )
    return _result(one, sent, found=said.count, last_is_there=_has_last(said.last, sent))


def _has_last(last: str | None, sent: list[_Sent]) -> bool | None:
    """Return whether the last record that a receiver names is the last of a log; None if that is not known.

    One that was not among those that were sent may have been delivered meanwhile, or be of another log.
    """
    if last is None or len(sent) != 1 or not sent[0].keys:
        return None
    keys = sent[0].keys
    if last == keys[-1][0].decode():
        return True
    return False if any(last == key.decode() for key, _ in keys) else None


class _Count(msgspec.Struct):
    """What a receiver answers."""

    count: int
    last: str | None = None
