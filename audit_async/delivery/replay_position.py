"""Setting a sink's positions back, so that a deliverer sends records once more, or forward, over what can't be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

import anyio.to_thread
import msgspec

from audit_async._layout.lock_file import read_acknowledged
from audit_async._query.audit_query import AuditQuery
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.delivery.deliver_settings import DeliverSettings, SinkSettings
from audit_async.delivery.deliverer import base_dir_of, deliverer_log, logs_of
from audit_async.delivery.delivery_records import DeliveryRecords
from audit_async.delivery.position_file import Position, SinkDirectory
from audit_async.errors import AuditError, ConfigError
from audit_async.events import AuditDeliveryReplayed

__all__ = ["ReplayStart", "Replayed", "replay", "sink_of"]

#: A record's number, a time, or `end`: nothing that is there by now is delivered.
ReplayStart = int | datetime | str

_PREV: Final = b'"prev_hash":"'


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A position that was set.

    Args:
        log: The service and the instance.
        log_id: The log.
        from_seq: The record that is delivered next.
        before_seq: The last record that the sink had before; -1 for none.
    """

    log: str
    log_id: str
    from_seq: int
    before_seq: int


class _NoRecord(AuditError):
    """There is no such record."""


async def replay(
    settings: DeliverSettings,
    sink: str,
    start: ReplayStart,
    *,
    base_dir: Path | None = None,
    service: str | None = None,
    instance: str | None = None,
    requested_by: str | None = None,
) -> list[Replayed]:
    """Set the positions of a sink, and record it; the deliverer must not run.

    Args:
        settings: The deliverer's.
        sink: The sink's name.
        start: The number of the first record that is delivered again, of one log; or a time, for all logs; or `end`.
        base_dir: The trail, instead of the settings' one.
        service: Only logs of this service.
        instance: Only logs of this instance.
        requested_by: Who asks for it.

    Raises:
        ConfigError: There is no such sink.
        DelivererRuns: The deliverer runs.
        TrailUnreadable: There is no such log; an `AuditError`, as is that a log has no such record.
    """
    chosen = sink_of(settings, sink)
    trail = base_dir_of(settings, base_dir)
    directory = SinkDirectory(Path(settings.state_dir), chosen.name)

    def move() -> list[tuple[Replayed, Position]]:
        logs = [log for log in logs_of(trail, service=service) if log.log_id and instance in {None, log.instance}]
        logs = [log for log in logs if not chosen.services or log.service_id in chosen.services]
        if isinstance(start, int) and start > 0 and len(logs) != 1:
            raise ConfigError("start", f"there are {len(logs)} logs, and a record's number is of one; name its service")
        return [_moved(directory, log, start) for log in logs]

    await anyio.to_thread.run_sync(directory.lock)
    try:
        moved = await anyio.to_thread.run_sync(move)
        async with deliverer_log(settings, trail) as audit:
            records = DeliveryRecords(audit)
            for replayed, moved_to in moved:
                position = await anyio.to_thread.run_sync(_recorded, directory, moved_to, records.delivered(sink))
                event = AuditDeliveryReplayed(
                    sink=sink,
                    log=replayed.log,
                    log_id=replayed.log_id,
                    from_seq=replayed.from_seq,
                    before_seq=replayed.before_seq if replayed.before_seq >= 0 else None,
                    requested_by=requested_by,
                )
                await records.record(event).durable()
                await anyio.to_thread.run_sync(directory.write, position)
    finally:
        directory.unlock()
    return [replayed for replayed, _ in moved]


def _recorded(directory: SinkDirectory, position: Position, record: Callable[[Position], bool]) -> Position:
    """Return the position after what was delivered by now is recorded: its record could not be named afterwards."""
    before = directory.read(position.log_id)
    if before is not None and before.is_unrecorded and record(before):
        return msgspec.structs.replace(position, recorded_delivered=before.delivered)
    return position


def sink_of(settings: DeliverSettings, name: str) -> SinkSettings:
    """Return the settings of a sink; raises `ConfigError` if there is none of this name."""
    sinks: Sequence[SinkSettings] = settings.sinks
    for sink in sinks:
        if sink.name == name:
            return sink
    raise ConfigError("sink", f"there is no sink {name[:64]!a}; there are {', '.join(sink.name for sink in sinks)}")


def _moved(directory: SinkDirectory, log: Log, start: ReplayStart) -> tuple[Replayed, Position]:
    """Return where a log is set to; nothing is written."""
    before = directory.read(log.log_id) or Position(log_id=log.log_id, log=log.name)
    seq, digest = _place_before(log, start)
    return (
        Replayed(log=log.name, log_id=log.log_id, from_seq=seq + 1, before_seq=before.seq),
        msgspec.structs.replace(before, seq=seq, hash=digest),
    )


def _place_before(log: Log, start: ReplayStart) -> tuple[int, str]:
    """Return the record before the one to begin with: -1 and nothing if that is the first."""
    if start == 0:
        return -1, ""
    if isinstance(start, str):
        head = read_acknowledged(log.directory)
        return (-1, "") if head is None else (head.seq, head.hash.decode())
    query = AuditQuery(after_seq=start - 1) if isinstance(start, int) else AuditQuery(start=start)
    with closing(Search([log], query, Damage(skip=True)).run()) as search:
        found = next((found for found in search if found is not None), None)
    if found is None and isinstance(start, datetime):
        return _place_before(log, "end")
    if found is None or (isinstance(start, int) and found.seq != start):
        raise _NoRecord(f"{log.name} has no record {start} that can be read; give another one, or a time")
    digest = found.line[found.line.rindex(_PREV) + len(_PREV) :][:64]
    return (-1, "") if found.seq == 0 else (found.seq - 1, digest.decode())
