"""When to sync: the flush modes as one small clock. It does no I/O and starts no timer; the writer asks it.

What each mode promises stands in `audit_async.config.flush_mode` beside `Immediate`, `Batched` and `Hybrid`.
"""

from __future__ import annotations

from audit_async.config import Batched, FlushMode, Hybrid


class SyncSchedule:
    """Says whether a sync is due, and when the next one will be. Owned by the writer task.

    All times are seconds on one monotonic clock, the caller's.
    """

    def __init__(self, mode: FlushMode) -> None:
        self.critical_at_once = False  #: whether a critical event makes everything up to it durable at once
        self._after_records = 1
        self._after_s = 0.0
        if isinstance(mode, Batched):
            self._after_records, self._after_s = mode.size, mode.interval
        elif isinstance(mode, Hybrid):
            self._after_records, self._after_s = mode.batch_size, mode.batch_interval
            self.critical_at_once = mode.critical_immediate
        self._demanded_seq = -1
        self._waiting_since: float | None = None

    def demand(self, up_to_seq: int) -> None:
        """Make a sync due at once, until everything up to `up_to_seq` is durable."""
        self._demanded_seq = max(self._demanded_seq, up_to_seq)

    def framed(self, now: float) -> None:
        """Note that records were added; the interval counts from the oldest that is not synced."""
        if self._waiting_since is None:
            self._waiting_since = now

    def synced(self, synced_seq: int, framed_seq: int, now: float) -> None:
        """Note that all up to `synced_seq` is durable; what was framed behind it starts a new interval."""
        self._waiting_since = now if framed_seq > synced_seq else None

    def is_due(self, synced_seq: int, framed_seq: int, now: float) -> bool:
        """True where what is framed behind `synced_seq` must be synced without waiting longer."""
        unsynced = framed_seq - synced_seq
        return unsynced > 0 and (
            unsynced >= self._after_records
            or self._demanded_seq > synced_seq
            or (self._waiting_since is not None and now - self._waiting_since >= self._after_s)
        )

    @property
    def deadline(self) -> float | None:
        """When a sync becomes due though nothing more arrives; None while nothing waits for one."""
        return None if self._waiting_since is None else self._waiting_since + self._after_s
