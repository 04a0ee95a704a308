"""The drop counter: which events were not recorded, since when, and which of them no record mentions yet."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from threading import RLock
from typing import Final

from audit_async.events import AuditEventsDropped


class _Unrecorded:
    """Losses for one reason that no record mentions yet."""

    def __init__(self, now: datetime) -> None:
        self.by_type: Counter[str] = Counter()
        self.since = self.until = now


class DropCounter:
    """Counts what was lost, by type and reason. Any thread may count; each loss is recorded once."""

    def __init__(self) -> None:
        self.by_type: Final[Counter[str]] = Counter()  #: all losses since the start, by event type
        # Re-entrant: a signal handler or a finalizer may emit, and be refused, while its thread holds the lock.
        self._lock = RLock()
        self.unrecorded: dict[str, _Unrecorded] = {}  #: by reason; empty if all losses are recorded

    @property
    def total(self) -> int:
        """All losses since the start."""
        return self.by_type.total()

    def count(self, event_type: str, reason: str) -> None:
        """Count the loss of one event of this type; `reason` is a word for the record, such as `buffer_full`."""
        now = datetime.now(UTC)
        with self._lock:
            self.by_type[event_type] += 1
            lost = self.unrecorded.setdefault(reason, _Unrecorded(now))
            lost.by_type[event_type] += 1
            lost.until = now

    def forked(self) -> None:
        """Go on counting in a forked child, which may have been forked while another thread counted."""
        self._lock = RLock()

    def take_unrecorded(self) -> list[AuditEventsDropped]:
        """Return the events that record what was lost since the last call, one a reason."""
        with self._lock:
            taken, self.unrecorded = self.unrecorded, {}
        return [
            AuditEventsDropped(
                count=lost.by_type.total(),
                by_type=dict(lost.by_type),
                first_at=lost.since,
                last_at=lost.until,
                reason=reason,
            )
            for reason, lost in taken.items()
        ]
