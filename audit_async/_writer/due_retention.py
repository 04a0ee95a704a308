"""What retention would do to a log now, for who has no lock: nothing is changed."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from audit_async._layout.confirmed_file import confirmed_seq
from audit_async._layout.hold_file import Hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._store.retention_plan import plan_retention
from audit_async._trail.log_files import Log, list_segments
from audit_async._writer.upkeep import RetentionOutcome
from audit_async.config import RetentionPolicy

__all__ = ["LogRetention", "planned_retention"]


class LogRetention(msgspec.Struct, frozen=True, kw_only=True):
    """What is due, or was done, in one log."""

    log: str
    hold: Hold | None
    steps: tuple[RetentionOutcome, ...]


def planned_retention(log: Log, policy: RetentionPolicy) -> LogRetention:
    """Return what is due; without the log's lock, so it also works while a service runs."""
    sealed = [segment.sealed for segment in list_segments(log) if segment.sealed is not None]
    hold = next(iter(find_holds(log.directory)), None)
    now = datetime.now(UTC)
    confirmed = confirmed_seq(log.directory, log.log_id, copies=policy.min_copies, now=now)
    steps = plan_retention(sealed, policy, now, hold, confirmed_seq=confirmed)
    outcomes = tuple([RetentionOutcome.of(step) for step in steps])
    return LogRetention(log=log.name, hold=hold, steps=outcomes)
