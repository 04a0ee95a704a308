"""What a log says of itself: its counters, and how it is doing. Cheap, and read from any thread."""

from __future__ import annotations

from audit_async._writer.intake import Intake
from audit_async._writer.session import Session
from audit_async.status import Condition, Health, LoggerStats, Measurements, VerificationStats

__all__ = ["health_of", "stats_of"]


def stats_of(intake: Intake, session: Session | None, measured: Measurements) -> LoggerStats:
    """Return the counters since the start; before the start (no session) only what was dropped."""
    dropped = dict(intake.drops.by_type)
    if session is None:
        return LoggerStats(dropped=sum(dropped.values()), dropped_by_type=dropped)
    buffer, writer = intake.buffer, session.writer
    counters = writer.counters
    return LoggerStats(
        records=writer.head_seq - writer.first_seq + 1,
        durable=session.acknowledgements.durable_seq - writer.first_seq + 1,
        waiting=buffer.held_events,
        waiting_bytes=buffer.held_bytes,
        dropped=sum(dropped.values()),
        dropped_by_type=dropped,
        commits=counters.commits,
        syncs=counters.syncs,
        write_errors=counters.write_errors,
        bytes_written=counters.bytes_written,
        head_seq=writer.head_seq,
        batch_events=measured.batch_events.snapshot(),
        sync_seconds=measured.sync_seconds.snapshot(),
        last_sync_at=measured.last_sync_at,
        since_sync_s=measured.since_sync_s,
        verification=session.upkeep.verified,
        free_bytes=measured.free_bytes,
    )


def health_of(intake: Intake, session: Session | None, condition: Condition) -> Health:
    """Return how the log is doing, also before the start and after the end."""
    verified = (None if session is None else session.upkeep.verified) or VerificationStats()
    return Health(
        status=condition.status,
        reason=condition.reason,
        since=condition.since,
        durable_seq=session.acknowledgements.durable_seq if session else -1,
        waiting_events=intake.buffer.held_events,
        buffer_fill=intake.buffer.fill,
        dropped=sum(dict(intake.drops.by_type).values()),
        verified_seq=verified.verified_seq,
        findings=verified.findings,
    )
