"""`audit-async stats`: how many records of which type, by whom, at which hour; counted in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final

import anyio.from_thread
import anyio.to_thread
import msgspec
import typer

from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.recorded_members import actors_of, read_said, type_of
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async._trail.segment_parts import Part, parts_of
from audit_async.cli.arguments import Json
from audit_async.cli.event_types import check_types
from audit_async.cli.filters import PeriodFilters
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import LogsAt
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Meter, Output, count_of
from audit_async.events.registry import known_types

__all__ = ["Frequencies", "register"]

#: At most twice as many different names are counted at a time.
_KEPT: Final = 20_000


class Frequencies:
    """How often each name came, in bounded memory.

    When there are too many names, the rarest are put together into `others`. From then on a rare name that comes
    again is counted from zero, so a count may be too low by at most `uncertain`; it is exact as long as that is 0. The
    sum of all counts and `others` is always exact.
    """

    def __init__(self, *, kept: int = _KEPT) -> None:
        self._kept = kept
        self._counts: Counter[str] = Counter()
        self.others = 0
        self.uncertain = 0

    def add(self, name: str) -> None:
        """Count a name."""
        self._counts[name] += 1
        if len(self._counts) > 2 * self._kept:
            self._forget_the_rarest()

    def _forget_the_rarest(self) -> None:
        ranked = self._counts.most_common()
        forgotten = ranked[self._kept :]
        self.others += sum(count for _, count in forgotten)
        self.uncertain += forgotten[0][1]
        self._counts = Counter(dict(ranked[: self._kept]))

    def top(self, number: int) -> tuple[list[tuple[str, int]], int]:
        """Return the most frequent names, equal ones by name, and the sum of all the others."""
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return ranked[:number], self.others + sum(count for _, count in ranked[number:])


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A name and how many records there are of it."""

    name: str
    records: int


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The most frequent names."""

    top: list[Named]
    others: int  #: records of all other names
    uncertain: int  #: by how much a count may be too low; 0 unless there were very many names


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted."""

    records: int
    critical: int
    first: str | None  #: time of the first record
    last: str | None
    logs: list[Named]
    types: Ranking
    actors: Ranking
    hours: list[int]  #: records in each hour of the day, UTC, from 0 to 23


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "stats",
        epilog="Example: audit-async stats ./audit --since 7d",
        short_help="Count events by type, actor and hour.",
    )(stats)


@with_option_groups
def stats(
    at: LogsAt,
    *,
    filters: PeriodFilters,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, metavar="N", help="Rows in each chart.")] = 10,
    as_json: Json = False,
) -> None:
    """Count events by type, by actor and by hour of the day (UTC).

    Each record is checked by its own hash; whether the chain holds is for verify. Nothing of this is recorded.
    """
    query = filters.query()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = at.reader()
        await check_types(reader, query, output)
        logs = reader.logs()
        with output.meter("counting") as meter:
            statistics = await anyio.to_thread.run_sync(_count, logs, query, meter, top)
        if as_json:
            output.document(statistics)
        else:
            _report(output, statistics)
        return ExitStatus.OK

    perform(output, run)


def _count(logs: list[Log], query: AuditQuery, meter: Meter, top: int) -> Statistics:
    critical_types = frozenset(tag for tag, cls in known_types().items() if cls.critical)
    types, actors = Frequencies(), Frequencies()
    by_log: Counter[str] = Counter()
    hours = [0] * 24
    critical = 0
    first, last = "", ""
    for log, timestamp, line in _records(logs, query, meter):
        event = read_said(line).event
        event_type = type_of(event)
        types.add(event_type)
        actors.add(next(actors_of(event), _NO_ACTOR))
        by_log[log] += 1
        critical += event_type in critical_types
        hours[int(timestamp[11:13]) % 24] += 1
        first = min(first or timestamp, timestamp)
        last = max(last, timestamp)
    return Statistics(
        records=sum(hours),
        critical=critical,
        first=first or None,
        last=last or None,
        logs=[Named(name=name, records=by_log[name]) for name in (log.name for log in logs)],
        types=_ranking(types, top),
        actors=_ranking(actors, top),
        hours=hours,
    )


#: For an event that names no actor; no recorded name has parentheses around it.
_NO_ACTOR: Final = "(nobody)"


def _records(logs: list[Log], query: AuditQuery, meter: Meter) -> Iterator[tuple[str, str, bytes]]:
    """Yield the log, time and line of each record that is wanted."""
    everything = Filter(query).is_open and not Filter(query).asks_for_times
    total = sum(map(_bytes_of, (part for log in logs for part in parts_of(log)))) if everything else None
    read = 0
    for found in Search(logs, query, Damage(skip=False)).run():
        if found is None:
            meter.show(read, total)
            anyio.from_thread.check_cancelled()
        else:
            read += len(found.line)
            yield found.log.name, found.timestamp, found.line


def _bytes_of(part: Part) -> int:
    if part.sealed_bytes is not None:
        return part.sealed_bytes
    try:
        return (part.segment.log.directory / part.segment.name).stat().st_size
    except FileNotFoundError:  # sealed and archived in this moment
        return 0


def _ranking(counted: Frequencies, top: int) -> Ranking:
    names, others = counted.top(top)
    return Ranking(
        top=[Named(name=name, records=count) for name, count in names], others=others, uncertain=counted.uncertain
    )


def _report(output: Output, counted: Statistics) -> None:
    if not counted.records:
        output.line("No records.")
        return
    logs = count_of(len(counted.logs), "log") if len(counted.logs) != 1 else counted.logs[0].name
    output.line(
        Cell(count_of(counted.records, "record"), "bold"),
        f" of {logs}, ",
        Cell(f"{counted.critical:,} critical", "red" if counted.critical else ""),
    )
    if counted.first and counted.last:
        output.line(f"{counted.first[:19]}Z to {counted.last[:19]}Z")
    if len(counted.logs) > 1:
        output.line()
        output.bars("By log", [(log.name, log.records) for log in counted.logs])
    for title, ranking in (("By type", counted.types), ("By actor", counted.actors)):
        output.line()
        others = [("(all others)", ranking.others)] if ranking.others else []
        output.bars(title, [(named.name, named.records) for named in ranking.top] + others)
        if ranking.uncertain:
            output.line(f"  There are very many names: a count may be too low by up to {ranking.uncertain:,}.")
    output.line()
    hours = [hour for hour, records in enumerate(counted.hours) if records]
    shown = range(min(hours), max(hours) + 1)
    output.bars("By hour of the day, UTC", [(f"{hour:02d}:00", counted.hours[hour]) for hour in shown])
