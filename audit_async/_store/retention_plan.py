"""What retention has to do: which sealed segments are old enough to be compressed, and which to be deleted.

A segment's way is live, archived, deleted; a step back does not exist. Nothing is read or changed here; `archiving` and
`removal` take the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec

from audit_async._layout.hold_file import Hold
from audit_async._layout.manifest import SealedSegment
from audit_async.config import RetentionPolicy


class RetentionStep(NamedTuple):
    """One thing that retention does to one segment."""

    action: Literal["archive", "delete"]
    segment: SealedSegment
    age_days: int  #: whole days since its last record


def overdue_unshipped(
    segments: Sequence[SealedSegment], policy: RetentionPolicy, now: datetime, hold: Hold | None, *, confirmed_seq: int
) -> list[RetentionStep]:
    """Return the steps that are due, and wait only for collectors to confirm what they would take away."""
    if not policy.hold_unshipped:
        return []
    everything = plan_retention(segments, msgspec.structs.replace(policy, hold_unshipped=False), now, hold)
    return [
        step
        for step in everything
        if step.segment.last_seq > confirmed_seq and (step.action == "delete" or policy.archive_recipients)
    ]


def plan_retention(
    segments: Iterable[SealedSegment],
    policy: RetentionPolicy,
    now: datetime,
    hold: Hold | None,
    *,
    confirmed_seq: int = -1,
) -> list[RetentionStep]:
    """Return what `policy` asks for at `now` (aware), oldest segment first; nothing while there is a hold.

    This is the dry run, too. A segment is as old as its last record, counted in whole days. Deletion proceeds from the
    chain's beginning and stops at the first segment that has to stay, so what remains is one unbroken piece. A
    `damaged` segment is evidence: it is never compressed. With recipients, what was archived without encryption is
    archived again.

    The chain's order is believed before a clock that was set back: a segment is no older than its first record, nor,
    for deletion, than anything before it. (A host without a clock of its own starts in 1970, and its first records go
    to yesterday's segment.)

    With `hold_unshipped`, what is not confirmed by collectors up to `confirmed_seq` is neither deleted nor encrypted.
    """
    if hold is not None:
        return []
    delete_after = max(policy.delete_after_days, policy.min_retention_days)
    steps: list[RetentionStep] = []
    deleting = True
    latest = datetime.min.replace(tzinfo=UTC)  # of all up to here
    for segment in segments:
        if segment.state == "lost":
            continue
        last = datetime.fromisoformat(max(segment.first_timestamp, segment.last_timestamp))
        latest = max(latest, last)
        if segment.state == "deleted":
            continue
        age_days = (now - last).days
        shipped = not policy.hold_unshipped or segment.last_seq <= confirmed_seq
        deleting = deleting and shipped and (now - latest).days >= delete_after
        if deleting:
            steps.append(RetentionStep("delete", segment, (now - latest).days))
        elif not shipped and policy.archive_recipients:
            continue  # the forwarder could not read it any more
        elif age_days >= policy.archive_after_days and (
            segment.state == "live"
            or (segment.state == "archived" and policy.archive_recipients and not segment.is_encrypted)
        ):
            steps.append(RetentionStep("archive", segment, age_days))
    return steps
