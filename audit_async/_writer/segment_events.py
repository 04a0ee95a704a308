"""What the chain says of segments besides their records: that one was sealed, and that one is damaged or lost.

Which seals and which damage are to be recorded the store decides; here it is put into words.
"""

from __future__ import annotations

from audit_async._store.log_store import Committed
from audit_async._writer.stated_erasures import NOTHING_STATED, StatedErasures
from audit_async._writer.stated_holds import StatedHolds
from audit_async.events import AuditEvent, AuditSegmentDamaged, AuditSegmentSealed


def events_of(committed: Committed, holds: StatedHolds, erasures: StatedErasures | None = None) -> list[AuditEvent]:
    """Return the records of what the store did besides writing."""
    events: list[AuditEvent] = [
        AuditSegmentSealed(
            segment=sealed.segment,
            first_seq=sealed.first_seq,
            last_seq=sealed.last_seq,
            records=sealed.records,
            bytes=sealed.bytes,
            sha256=sealed.sha256,
            holds=holds.stated(),
            **(NOTHING_STATED if erasures is None else erasures.stated()),
        )
        for sealed in committed.sealed
    ]
    events.extend(
        AuditSegmentDamaged(
            segment=damaged.segment,
            reason=damaged.reason,
            expected_bytes=damaged.expected_bytes,
            actual_bytes=damaged.actual_bytes,
        )
        for damaged in committed.damaged
    )
    return events
