"""When to sync: the flush modes as one small clock. It does no I/O and starts no timer; the writer asks it.

What each mode promises is in `audit_async.config.flush_mode`, with `Immediate`, `Batched` and `Hybrid`.
"""

from __future__ import annotations

import math
from typing import Final

from audit_async.config import Batched, FlushMode, Hybrid, Immediate


class SyncSchedule:
    """Says whether a sync is due, and when the next one will be. Owned by the writer task.

    All times are seconds on one monotonic clock, the caller's; it may be frozen, as tests do: an interval that a timer
    has waited for is over, whatever the clock says.
    """

    def __init__(self, mode: FlushMode) -> None:
        #: When a sync becomes due though nothing more arrives; None while nothing waits for one.
        self.deadline: float | None = None
        after_records: float
        critical_at_once, after_records, interval_s = False, 1, 0.0
        #: Whether records wait in memory until a sync is due; otherwise they are written at once, and synced then.
        self.delays_writes: Final = isinstance(mode, Immediate) and mode.max_delay > 0
        if isinstance(mode, Immediate) and mode.max_delay:
            critical_at_once, after_records, interval_s = True, math.inf, mode.max_delay
        elif isinstance(mode, Batched):
            after_records, interval_s = mode.size, mode.interval
        elif isinstance(mode, Hybrid):
            after_records, interval_s = mode.batch_size, mode.batch_interval
            critical_at_once = mode.critical_immediate
        self.critical_at_once: Final = critical_at_once  #: whether a critical event makes all up to it durable at once
        self._after_records: Final = after_records
        self._interval_s: Final = interval_s
        self._demanded_seq = -1
        self._next_deadline: float | None = None  # of what was framed since the last commit began

    def demand(self, up_to_seq: int) -> None:
        """Make a sync due at once, until everything up to `up_to_seq` is durable."""
        self._demanded_seq = max(self._demanded_seq, up_to_seq)

    def framed(self, now: float) -> None:
        """Note that records were added; the interval counts from the oldest that is not synced."""
        if self._next_deadline is None:
            self._next_deadline = now + self._interval_s
        if self.deadline is None:
            self.deadline = now + self._interval_s

    def commit_begun(self) -> None:
        """Note that all that is framed, none of it excepted, is on its way to the disk."""
        self._next_deadline = None

    def synced(self, synced_seq: int, framed_seq: int, now: float) -> None:
        """Note that all up to `synced_seq` is durable; a new interval starts if more is framed.

        If writes are delayed, it has started already, since what was framed during the sync has waited for company.
        """
        if framed_seq == synced_seq:
            self.deadline = self._next_deadline = None
        elif self.delays_writes and self._next_deadline is not None:
            self.deadline = self._next_deadline
        else:
            self.deadline = now + self._interval_s

    def interval_over(self, deadline: float) -> None:
        """Make a sync due because a timer for `deadline` has ended, unless another interval has begun since."""
        if self.deadline == deadline:
            self.deadline = -math.inf

    def is_due(self, synced_seq: int, framed_seq: int, now: float) -> bool:
        """True if what is framed after `synced_seq` must be synced without waiting longer."""
        unsynced = framed_seq - synced_seq
        return unsynced > 0 and (
            unsynced >= self._after_records
            or self._demanded_seq > synced_seq
            or (self.deadline is not None and now >= self.deadline)
        )
