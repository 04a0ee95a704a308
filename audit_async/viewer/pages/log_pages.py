"""The logs: which there are, how they are, their segments, archives, checkpoints, holds, and what retention will do."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from audit_async._layout.hold_file import Hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log, SegmentFile, list_segments
from audit_async._trail.running_writer import writer_of
from audit_async._writer.due_retention import LogRetention, planned_retention
from audit_async.config import RetentionPolicy
from audit_async.errors import AuditError
from audit_async.events import Record, decode_record
from audit_async.forwarding.collected_logs import STALE, LogAtCollector, logs_of
from audit_async.forwarding.collector_root import Finding, open_findings, read_status
from audit_async.reader import AuditQuery, RecordNotFound
from audit_async.viewer.pages.proof_state import Checkpoints, checkpoints_of, policy_of_log
from audit_async.viewer.pages.rendering import render_page
from audit_async.viewer.viewing import Viewing, viewing_of

__all__ = ["list_logs", "show_holds", "show_log"]

#: Segments on a log's page, the newest.
_MOST_SEGMENTS: Final = 500
#: A host without any record for so long is called silent.
_SILENT_AFTER: Final = timedelta(days=1)


class LogState(NamedTuple):
    """What is known of a log without reading its records but the newest."""

    log: Log
    newest: Record | None
    segments: list[SegmentFile]
    bytes: int  #: on disk uncompressed, as far as the manifest knows
    writer: int | None  #: pid of the process that writes it
    holds: tuple[Hold, ...]
    checkpoints: Checkpoints
    failure: str  #: what could not be read

    @property
    def archived(self) -> int:
        """How many segments are in the archive."""
        return sum(segment.is_archived for segment in self.segments)

    @property
    def unsigned(self) -> int | None:
        """How many records no checkpoint covers yet; None if the log publishes none."""
        size = self.checkpoints.size
        return None if size is None or self.newest is None else max(0, self.newest.seq + 1 - size)

    @property
    def lacking(self) -> int:
        """How many records the checkpoint is over that come after the newest one here; 0 if that could not be found."""
        size = self.checkpoints.size
        if size is None or self.failure or self.checkpoints.refused is not None:
            return 0
        return max(0, size - (self.newest.seq + 1 if self.newest is not None else 0))


class _Collected(NamedTuple):
    """What a collector says of the logs that a person may see."""

    collector: str
    updated_at: datetime
    has_failed: bool  #: its last round did
    error: str  #: why; for who sees all logs, since it may name any of them
    logs: list[LogAtCollector]
    findings: list[Finding]
    is_stale: bool


async def list_logs(request: Request) -> Response:
    """Show the logs, and at a collector the hosts."""
    viewing = viewing_of(request)

    def look() -> tuple[list[LogState], _Collected | None]:
        return [_state_of(log, viewing) for log in viewing.reader.logs()], _collected(viewing)

    states, collected = await anyio.to_thread.run_sync(look)
    return await render_page(request, "logs.html", states=states, collected=collected)


async def show_log(request: Request) -> Response:
    """Show a log: its head, its segments, and what it has published."""
    viewing = viewing_of(request)
    name = request.path_params["log"]

    def look() -> LogState:
        return _state_of(_log_named(viewing, name), viewing)

    state = await anyio.to_thread.run_sync(look)
    shown = state.segments[::-1][:_MOST_SEGMENTS]
    return await render_page(
        request, "log.html", state=state, shown=shown, number=len(state.segments), has_policy=viewing.policy is not None
    )


async def show_holds(request: Request) -> Response:
    """Show the legal holds in force, and what retention will do next."""
    viewing = viewing_of(request)
    policy = viewing.retention

    def look() -> list[tuple[Log, tuple[Hold, ...] | None, LogRetention | None, str]]:
        return [_upkeep_of(log, policy) for log in viewing.reader.logs()]

    return await render_page(request, "holds.html", upkeep=await anyio.to_thread.run_sync(look), policy=policy)


def _state_of(log: Log, viewing: Viewing) -> LogState:
    """Return what is known of a log; blocks."""
    # Before the newest record is read: a later checkpoint may be over records that came meanwhile.
    checkpoints = checkpoints_of(log, policy_of_log(log, viewing.policy, viewing.base_dir))
    failures: list[str] = []
    segments: list[SegmentFile] = []
    holds: tuple[Hold, ...] = ()
    newest: Record | None = None
    writer: int | None = None
    try:
        segments = list_segments(log)
        newest, damage = _newest(log)
        if damage.skipped or damage.not_searched is not None:
            reason = damage.not_searched or damage.first
            failures.append(f"newer records than the head that is shown may be here and can't be read: {reason}")
        holds = find_holds(log.directory)
        writer = writer_of(log)
    except (AuditError, OSError) as error:
        failures.append(str(error))
    size = sum(segment.sealed.bytes for segment in segments if segment.sealed is not None)
    return LogState(log, newest, segments, size, writer, holds, checkpoints, "; ".join(failures))


def _newest(log: Log) -> tuple[Record | None, Damage]:
    """Return the newest record that can be read, checked by its hash, and what was passed over on the way to it."""
    damage = Damage(skip=True)
    with closing(Search([log], AuditQuery(newest_first=True, limit=1), damage, use_index=False).run()) as found:
        return next((decode_record(one.line, log=log.name) for one in found if one is not None), None), damage


def _upkeep_of(
    log: Log, policy: RetentionPolicy | None
) -> tuple[Log, tuple[Hold, ...] | None, LogRetention | None, str]:
    try:
        holds = find_holds(log.directory)
        plan = planned_retention(log, policy) if policy is not None else None
    except (AuditError, OSError) as error:
        return log, None, None, str(error)
    return log, holds, plan, ""


def _collected(viewing: Viewing) -> _Collected | None:
    """Return what the collector says, if this is its directory."""
    try:
        status = read_status(viewing.base_dir)
        findings = open_findings(viewing.base_dir) if status is not None else []
    except (AuditError, OSError):
        return None
    if status is None:
        return None
    names = {log.directory.name for log in viewing.reader.logs()}
    logs = [log for log in logs_of(status, findings, _SILENT_AFTER) if f"{log.instance}.{log.log_id}" in names]
    seen = {log.log for log in logs}
    stale = datetime.now(UTC) - status.updated_at > STALE
    error = status.error if viewing.person.services is None else ""
    findings = [one for one in findings if one.log in seen]
    return _Collected(status.collector, status.updated_at, bool(status.error), error, logs, findings, stale)


def _log_named(viewing: Viewing, name: str) -> Log:
    log = next((one for one in viewing.reader.logs() if one.name == name), None)
    if log is None:
        raise RecordNotFound("there is no such log here")
    return log
