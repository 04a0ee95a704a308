"""A log's segments as parts to read, one after the other, each with the sequence numbers it holds."""

from __future__ import annotations

from typing import NamedTuple

from audit_async._trail.log_files import (
    Log,
    SegmentFile,
    list_segments,
    require_known_format,
)


class Range(NamedTuple):
    """Which sequence numbers of a log are wanted: those between the two, both excluded."""

    after: int = -1
    before: int = 1 << 63

    def holds(self, seq: int) -> bool:
        """Whether a sequence number is wanted."""
        return self.after < seq < self.before


class Part(NamedTuple):
    """A segment, and up to which record it belongs to the chain."""

    segment: SegmentFile
    until_seq: int | None  #: the first seq of the next segment; None for the last one, whose end is open

    @property
    def name(self) -> str:
        """What the segment is called among several logs: `orders/00/000000000000-2026-11-22.audit`."""
        return f"{self.segment.log.name}/{self.segment.name}"

    @property
    def sealed_bytes(self) -> int | None:
        """How many bytes of the segment are sealed; None if it is not sealed yet."""
        return self.segment.sealed.bytes if self.segment.sealed is not None else None

    def overlaps(self, seqs: Range) -> bool:
        """False if none of its records is in `seqs`."""
        return self.segment.first_seq < seqs.before and (self.until_seq is None or self.until_seq - 1 > seqs.after)


def parts_of(log: Log) -> list[Part]:
    """Return the segments of a log that can be read, oldest first.

    Raises `TrailUnreadable` if the log is of another format version or can't be read, `LogCorrupted` if its manifest
    is damaged.
    """
    require_known_format(log)
    segments = list_segments(log)
    nexts: list[int | None] = [segment.first_seq for segment in segments[1:]]
    parts = map(Part, segments, [*nexts, None])
    return [part for part in parts if part.segment.is_readable]
