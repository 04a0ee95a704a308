"""Which part of a trail is verified."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import BinaryIO, Final

import msgspec

from audit_async._chain import Head
from audit_async._trail.log_files import SegmentFile, open_segment
from audit_async.errors import ConfigError

_BLOCK: Final = 64 << 10


class Everything(msgspec.Struct, frozen=True):
    """All of it."""


class LastRecords(msgspec.Struct, frozen=True):
    """The newest `count` records of each log; no more than they need is read, so sealed segments are read in part."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError("count", f"{self.count} records can't be verified; give at least 1")


class SeqRange(msgspec.Struct, frozen=True):
    """The segments with the sequence numbers from `first` to `last`, both included."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ConfigError("first", f"{self.first} to {self.last} is no range; give 0 <= first <= last")


class TimeRange(msgspec.Struct, frozen=True):
    """The segments between the first and the last one that reach into the time from `start` to `end` (aware)."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for field, moment in (("start", self.start), ("end", self.end)):
            if moment.tzinfo is None:
                raise ConfigError(field, "it has no time zone; give an aware datetime, such as one with tzinfo=UTC")
        if self.end < self.start:
            raise ConfigError("end", "it is before `start`; give a later time")


Scope = Everything | LastRecords | SeqRange | TimeRange


class Part(msgspec.Struct, frozen=True):
    """A segment that is to be read, from byte `begin` on."""

    segment: SegmentFile
    begin: int = 0
    resumed_after: Head | None = None  #: its first line was verified before, and must follow this
    is_repeated: bool = False  #: what it states is known: it is read again because its file has changed


def select(segments: Sequence[SegmentFile], scope: Scope) -> list[Part]:
    """Return what is to be read, an unbroken run of the segments; raises `OSError` for one that can't be read."""
    match scope:
        case Everything():
            return [Part(segment) for segment in segments]
        case LastRecords(count):
            return _newest(segments, count)
        case SeqRange(first, last):
            ends = [*(segment.first_seq for segment in segments[1:]), last + 1]
            wanted = [
                index
                for index, (segment, end) in enumerate(zip(segments, ends, strict=True))
                if segment.first_seq <= last and (first < end or index == len(segments) - 1)
            ]
        case TimeRange(start, end):
            befores = [None, *segments]
            wanted = [
                index
                for index, (before, segment) in enumerate(zip(befores, segments, strict=False))
                if _reaches_into(segment, before, start, end)
            ]
    return [Part(segment) for segment in segments[wanted[0] : wanted[-1] + 1]] if wanted else []


def _reaches_into(segment: SegmentFile, before: SegmentFile | None, start: datetime, end: datetime) -> bool:
    """Return whether a segment has a record of that time, unless the clock was set back within it."""
    if segment.sealed is None:
        begun = f"{segment.date}T00:00:00.000000Z"
        if before is not None and before.sealed is not None:
            begun = max(begun, before.sealed.last_timestamp)
        return _utc(end) >= begun
    times = sorted((segment.sealed.first_timestamp, segment.sealed.last_timestamp))
    return times[0] <= _utc(end) and _utc(start) <= times[1]


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _newest(segments: Sequence[SegmentFile], count: int) -> list[Part]:
    """Go back from the end until there are `count` records."""
    parts: list[Part] = []
    for segment in reversed(segments):
        if count <= 0:
            break
        sealed = segment.sealed
        if sealed is not None and (sealed.state != "live" or sealed.records <= count):
            parts.append(Part(segment))
            count -= sealed.records
            continue
        with open_segment(segment) as file:
            begin, lines = _last_lines(file, count)
        parts.append(Part(segment, begin))
        count -= lines
    return parts[::-1]


def _last_lines(file: BinaryIO, count: int) -> tuple[int, int]:
    r"""Return the offset of the last `count` whole lines of a file, or of all if there are fewer, and how many."""
    at = os.fstat(file.fileno()).st_size
    lines = -1  # the end of the last line is no beginning
    while at > 0:
        size = min(_BLOCK, at)
        at -= size
        file.seek(at)
        block = file.read(size)
        end = len(block)
        while (newline := block.rfind(b"\n", 0, end)) >= 0:
            lines += 1
            if lines == count:
                return at + newline + 1, count
            end = newline
    return 0, lines + 1
