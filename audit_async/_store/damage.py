"""Damage to the files of an open log: what was found, and which of it still has to be recorded in the chain.

This is the one place that decides it: every finding goes through `DamageRegister`, and the writer records what
`Committed.damaged` and `LogStore.damaged_at_opening` hold, no more and no less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from audit_async._layout.manifest import SealedSegment


class DamagedSegment(NamedTuple):
    """A file that somebody changed, replaced or removed, for `audit.segment_damaged` in the chain."""

    segment: str
    reason: str
    expected_bytes: int  #: what was written to it
    actual_bytes: int | None  #: what was found, 0 if there was nothing; None if that is not known


class DamageRegister:
    """The damage that one opening of a log has found. Owned by the disk thread; `LogStore` reads `pending`."""

    def __init__(self) -> None:
        self.pending: list[DamagedSegment] = []  #: found since `take`
        self._found: set[str] = set()

    def found(self, damage: DamagedSegment) -> None:
        """Note a finding; the next `take` hands it over, also if the commit that found it raises."""
        self.pending.append(damage)
        self._found.add(damage.segment)

    def sealed(self, segments: Iterable[SealedSegment]) -> None:
        """Note that segments were sealed: a removed one is damage that only sealing finds."""
        for segment in segments:
            if segment.state == "lost" and segment.segment not in self._found:
                self.found(DamagedSegment(segment.segment, "removed", segment.bytes, 0))

    def take(self) -> tuple[DamagedSegment, ...]:
        """Return what was found since the last call, for the chain."""
        taken = tuple(self.pending)
        self.pending.clear()
        return taken


def damaged_at_opening(sealed: Iterable[SealedSegment]) -> tuple[DamagedSegment, ...]:
    """Return the damage that a session found in its last commit, when it could not record it any more.

    `sealed` are the sealed segments of whose seal the chain has no record.
    """
    return tuple(
        DamagedSegment(
            entry.segment, f"{entry.state}, which was found as the session before this one ended", entry.bytes, None
        )
        for entry in sealed
        if entry.state in {"damaged", "lost"}
    )
