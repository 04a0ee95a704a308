"""Whether an `audit_id` was given twice, in memory that does not grow with the number of records.

A writer draws a prefix at each opening and counts. The numbers are taken in any thread and put into the chain a
moment later, so a few may be in the chain in another order; none may be there twice. What is kept of one opening is how
far it has counted and which numbers below that are still missing: none, or a few ranges.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import msgspec

#: Ranges of missing numbers that are kept; nothing is claimed of what was forgotten.
_MOST_RANGES: Final = 10_000
#: And that are remembered from one verification to the next.
_MOST_REMEMBERED: Final = 1_000


class IdRun(msgspec.Struct):
    """The numbers that were seen of one opening: all from `first` to `last` but those in `missing`."""

    prefix: str  #: 16 hex digits
    first: int
    last: int
    missing: list[tuple[int, int]] = []  #: ranges, both ends included, ascending

    def add(self, number: int) -> bool:
        """Add a number; False if it was seen before."""
        if number == self.last + 1:
            self.last = number
        elif number > self.last:
            self._miss(self.last + 1, number - 1)
            self.last = number
        elif number < self.first:
            if number + 1 < self.first:
                self.missing.insert(0, (number + 1, self.first - 1))
            self.first = number
        else:
            return self._find(number)
        return True

    def _miss(self, begin: int, end: int) -> None:
        self.missing.append((begin, end))
        if len(self.missing) > _MOST_RANGES:
            self.first = self.missing.pop(0)[1] + 1

    def _find(self, number: int) -> bool:
        """Take a missing number out of its range; False if it is not missing."""
        at = bisect_right(self.missing, (number, self.last)) - 1
        if at < 0 or not self.missing[at][0] <= number <= self.missing[at][1]:
            return False
        begin, end = self.missing[at]
        self.missing[at : at + 1] = [part for part in ((begin, number - 1), (number + 1, end)) if part[0] <= part[1]]
        return True

    def copy(self) -> IdRun:
        """Return one that may be changed without changing this one."""
        return IdRun(self.prefix, self.first, self.last, list(self.missing))

    def shortened(self) -> IdRun:
        """Return the part of it that is remembered: nothing is claimed of what was forgotten."""
        if len(self.missing) <= _MOST_REMEMBERED:
            return self.copy()
        begin = self.missing[-_MOST_REMEMBERED - 1][1] + 1
        return IdRun(self.prefix, begin, self.last, self.missing[-_MOST_REMEMBERED:])

    def merge(self, later: IdRun) -> int | None:
        """Add what a later part of the chain has of the same opening; return a number that is in both, None if none."""
        twice: int | None = None
        for begin, end in _ranges(later):
            twice = twice if twice is not None else self._common(begin, end)
        for begin, end in _ranges(later):
            self._add_range(begin, end)
        return twice

    def _common(self, begin: int, end: int) -> int | None:
        """Return a number of a range that was seen."""
        begin, end = max(begin, self.first), min(end, self.last)
        while begin <= end:
            at = bisect_right(self.missing, (begin, self.last)) - 1
            if at < 0 or self.missing[at][1] < begin:
                return begin
            begin = self.missing[at][1] + 1
        return None

    def _add_range(self, begin: int, end: int) -> None:
        if begin > self.last:
            if begin > self.last + 1:
                self._miss(self.last + 1, begin - 1)
            self.last = end
            return
        if end < self.first:
            if end + 1 < self.first:
                self.missing.insert(0, (end + 1, self.first - 1))
            self.first = begin
            return
        self.first, self.last = min(self.first, begin), max(self.last, end)
        left: list[tuple[int, int]] = []
        for low, high in self.missing:
            left.extend(part for part in ((low, min(high, begin - 1)), (max(low, end + 1), high)) if part[0] <= part[1])
        self.missing = sorted(set(left))


def _ranges(run: IdRun) -> list[tuple[int, int]]:
    """Return the numbers that a run has, as ranges."""
    ranges = []
    begin = run.first
    for low, high in run.missing:
        if low > begin:
            ranges.append((begin, low - 1))
        begin = high + 1
    if begin <= run.last:
        ranges.append((begin, run.last))
    return ranges


class AuditIds:
    """The audit_ids of consecutive records: one run for each opening, in order."""

    def __init__(self) -> None:
        self.runs: list[IdRun] = []

    def add(self, audit_ids: str, count: int) -> int | None:
        """Add `count` audit_ids, each followed by a line feed.

        Returns the index of the first that was given before, None if all are new.
        """
        run = self.runs[-1] if self.runs else None
        prefix = audit_ids[:16]
        is_begun = run is not None and run.prefix == prefix
        begin = run.last + 1 if run is not None and is_begun else int(audit_ids[17 : audit_ids.index("\n")], 16)
        # The usual case, and three times as fast as comparing each: one opening, counting without a gap.
        if (f"{prefix}-%x\n" * count) % tuple(range(begin, begin + count)) == audit_ids:
            if run is not None and is_begun:
                run.last += count
            else:
                self.runs.append(IdRun(prefix, begin, begin + count - 1))
            return None
        again: int | None = None
        for index, audit_id in enumerate(audit_ids.split("\n")[:count]):
            prefix, number = audit_id[:16], int(audit_id[17:], 16)
            if run is None or run.prefix != prefix:
                run = IdRun(prefix, number, number)
                self.runs.append(run)
            elif not run.add(number) and again is None:
                again = index
        return again
