"""How many matches there are of which type, by whom, when: counted from the newest on, within a bound that is stated.

A trail can have more records than anybody waits for. So the counting ends after some records or some time, sooner if
other people wait for their search. What it returns says how far back it came: a page never shows the count of a part as
that of the whole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from audit_async._query.recorded_members import (
    FAILURE,
    SUCCESS,
    actors_of,
    outcomes_of,
    read_said,
    statuses_of,
    type_of,
)
from audit_async._query.search import Search
from audit_async._query.segment_scan import Found
from audit_async.privacy.sealed_text import SEALED, is_sealed
from audit_async.reader import AuditQuery
from audit_async.viewer.scoped_reader import Asked, ScopedReader

__all__ = ["Bar", "Histogram", "MatchCounts", "count_matches"]

#: Matches that are counted at most.
MOST_MATCHES: Final = 20_000
#: The longest time that counting takes.
MOST_S: Final = 2.0
#: While others wait for their search to begin, as many matches are enough, and so long a time.
ENOUGH_MATCHES: Final = 2_000
ENOUGH_S: Final = 0.3
#: A name that is longer is not listed.
_LONGEST_NAME: Final = 256
_COUNTED_OUTCOMES: Final = frozenset({SUCCESS, FAILURE})
#: Bars of a histogram, at most.
_MOST_BARS: Final = 60
_STEPS: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (
        1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 7 * 86_400, 28 * 86_400, 364 * 86_400
    )
)  # fmt: skip


class Bar(msgspec.Struct, frozen=True):
    """The matches of one span of time."""

    start: datetime
    end: datetime
    count: int
    failures: int


class Histogram(msgspec.Struct, frozen=True):
    """Matches over time, in spans of equal length."""

    bars: tuple[Bar, ...]
    highest: int
    #: Before this the matches were not counted; None if all were.
    not_counted_before: datetime | None


@dataclass
class MatchCounts:
    """What was counted."""

    matches: int = 0
    is_complete: bool = False  #: all matches were counted
    newest: datetime | None = None
    oldest: datetime | None = None
    types: Counter[str] = field(default_factory=Counter)
    actors: Counter[str] = field(default_factory=Counter)
    services: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    times: list[tuple[float, bool]] = field(default_factory=list)  #: of each match: POSIX seconds, whether it failed

    def histogram(self, query: AuditQuery) -> Histogram | None:
        """Return the matches over the time that is asked for, or over their own; None if there are none."""
        if self.newest is None or self.oldest is None:
            return None
        # The order of the chain is not quite that of time, so the times themselves say where they begin and end.
        seconds = [moment for moment, _ in self.times]
        first = query.start or datetime.fromtimestamp(min(seconds), UTC)
        last = query.end or datetime.fromtimestamp(max(seconds), UTC) + timedelta(microseconds=1)
        step = next((step for step in _STEPS if (last - first) / step <= _MOST_BARS - 1), _STEPS[-1])
        begin = first.timestamp() // step.total_seconds() * step.total_seconds()
        number = int((last.timestamp() - begin) // step.total_seconds()) + 1
        if number > 10 * _MOST_BARS:  # a year was mistyped; nothing can be seen on such an axis
            return None
        counts, failures = [0] * number, [0] * number
        for moment, failed in self.times:
            at = min(max(int((moment - begin) // step.total_seconds()), 0), number - 1)
            counts[at] += 1
            failures[at] += failed
        starts = [datetime.fromtimestamp(begin, UTC) + step * at for at in range(number)]
        bars = tuple(
            Bar(start, start + step, count, failed)
            for start, count, failed in zip(starts, counts, failures, strict=True)
        )
        return Histogram(bars, max(counts), None if self.is_complete else self.oldest)

    def add(self, found: Found) -> None:
        """Count one match; what is sealed in it stays sealed."""
        said = read_said(found.line)
        event, moment = said.event, datetime.fromisoformat(said.timestamp)
        self.matches += 1
        self._count_name(self.types, _shown(type_of(event)))
        # As recorded: whoever is called `[sealed]` is counted.
        if (actor := next(actors_of(event), None)) is not None and not is_sealed(actor):
            self._count_name(self.actors, actor)
        self.services[found.log.service_id] += 1
        for status in statuses_of(event):
            self._count_name(self.statuses, _shown(status))
        outcomes = {*outcomes_of(event)}
        for outcome in _COUNTED_OUTCOMES & outcomes:
            self.outcomes[outcome] += 1
        self.times.append((moment.timestamp(), FAILURE in outcomes))
        self.newest, self.oldest = self.newest or moment, moment

    def _count_name(self, names: Counter[str], name: str) -> None:
        """Count a name that can be listed; many of a longer kind would take what memory there is."""
        if len(name) <= _LONGEST_NAME:
            names[name] += 1


def _shown(text: str) -> str:
    return SEALED if is_sealed(text) else text


async def count_matches(reader: ScopedReader, query: AuditQuery) -> MatchCounts:
    """Count the newest matches of a query, as many as the bounds allow. Raises as `ScopedReader.page` does."""
    newest = msgspec.structs.replace(query, newest_first=True, limit=None)
    return await reader.blocking(_count, newest, counts=True)


def _count(asked: Asked) -> Generator[MatchCounts | None, None, None]:
    counts, began = MatchCounts(), time.monotonic()
    with closing(Search(asked.logs, asked.query, asked.damage, wanted=asked.wanted).run()) as found:
        for one in found:
            if one is None:
                yield None
                if _is_enough(counts, asked, time.monotonic() - began):
                    break
            elif counts.matches == MOST_MATCHES:
                break
            else:
                counts.add(one)
        else:
            counts.is_complete = True
    yield counts


def _is_enough(counts: MatchCounts, asked: Asked, took_s: float) -> bool:
    if took_s > MOST_S:
        return True
    return (counts.matches >= ENOUGH_MATCHES or took_s > ENOUGH_S) and asked.others_wait()
