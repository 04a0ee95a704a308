"""`audit-async stats`: how many records of which type, by whom, at which hour; counted in constant memory."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress
from typing import Annotated, Final

import anyio.from_thread
import anyio.to_thread
import msgspec
import typer

from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.record_counts import Frequencies, SegmentCounts, Tally, count_segment
from audit_async._query.recorded_members import Said, read_said
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found, scan
from audit_async._query.term_index import IndexTask
from audit_async._trail.log_files import Log
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async._trail.worker_pool import processes_for, take_answers
from audit_async.cli.arguments import Json
from audit_async.cli.event_types import check_types
from audit_async.cli.filters import PeriodFilters
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Meter, Output, count_of

__all__ = ["register"]

#: So many records found are counted together.
_AT_A_TIME: Final = 500


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
    at: ReadableLogs,
    *,
    filters: PeriodFilters,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, metavar="N", help="Rows in each chart.")] = 10,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", "--jobs", min=1, metavar="N", help="Processes that count segments; one a core by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count events by type, by actor and by hour of the day (UTC).

    Each record is checked by its own hash, or its segment by the hash that it was sealed with; whether the chain holds
    is for verify. Nothing of this is recorded.
    """
    query = filters.query()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = at.reader()
        await check_types(reader, query, output)
        logs = reader.logs()
        with output.meter("counting") as meter:
            tally = await _Counting(logs, query, meter).run(processes)
        statistics = _statistics(tally, top)
        if as_json:
            output.document(statistics)
        else:
            _report(output, statistics)
        return ExitStatus.OK

    perform(output, run)


class _Counting:
    """One count over several logs, one after the other, so that no more than a few files are open."""

    def __init__(self, logs: list[Log], query: AuditQuery, meter: Meter) -> None:
        self._logs = logs
        self._query = query
        self._meter = meter
        self._tally = Tally(log.name for log in logs)
        self._total: int | None = None
        self._done = 0

    async def run(self, processes: int | None) -> Tally:
        """Count: what is sealed by the segment, in several processes, and the rest, or what is asked for, by record."""
        damage = Damage(skip=False)
        await self._count(damage, processes)
        damage.require_searched()
        return self._tally

    async def _count(self, damage: Damage, processes: int | None) -> None:
        wanted = Filter(self._query)
        if not wanted.is_open or wanted.asks_for_times:
            for log in self._logs:
                await anyio.to_thread.run_sync(self._count_found, log, Search([log], self._query, damage))
            return
        tasks, others = await anyio.to_thread.run_sync(self._divide)
        sizes = [task.sealed.bytes for task in tasks]
        self._total = sum(sizes)
        unsound: list[Part] = []

        def take(index: int, counts: SegmentCounts) -> None:
            if counts.is_sound:
                self._tally.add(tasks[index].part.segment.log.name, counts)
            else:
                unsound.append(tasks[index].part)

        count = processes_for(self._total, processes)
        await take_answers(count_segment, tasks, sizes, processes=count, advance=self._advance, take=take)
        for part in [*sorted(unsound, key=lambda part: part.name), *others]:
            # Which says what is wrong with a segment.
            found = scan(part, wanted, Range(), damage)
            await anyio.to_thread.run_sync(self._count_found, part.segment.log, found)

    def _divide(self) -> tuple[list[IndexTask], list[Part]]:
        """Return the sealed segments as tasks, and the others: an identity is not given to another process."""
        parts = [part for log in self._logs for part in parts_of(log)]
        is_task = [part.segment.sealed is not None and not part.segment.needs_identity for part in parts]
        others = [part for part, is_one in zip(parts, is_task, strict=True) if not is_one]
        return list(IndexTask.of(compress(parts, is_task))), others

    def _count_found(self, log: Log, found: Iterable[Found | None]) -> None:
        records: list[Said] = []
        for one in found:
            if one is None:
                anyio.from_thread.check_cancelled()
                self._meter.show(self._done, self._total)
            else:
                self._done += len(one.line)
                records.append(read_said(one.line))
            if one is None or len(records) >= _AT_A_TIME:
                self._add(log, records)
                records = []
        self._add(log, records)

    def _add(self, log: Log, records: list[Said]) -> None:
        counts = SegmentCounts()
        counts.add(records)
        self._tally.add(log.name, counts)

    def _advance(self, bytes_: int, _records: int) -> None:
        self._done += bytes_
        self._meter.show(self._done, self._total)


def _statistics(tally: Tally, top: int) -> Statistics:
    return Statistics(
        records=sum(tally.hours),
        critical=tally.critical,
        first=tally.first or None,
        last=tally.last or None,
        logs=[Named(name=name, records=records) for name, records in tally.by_log.items()],
        types=_ranking(tally.types, top),
        actors=_ranking(tally.actors, top),
        hours=tally.hours,
    )


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
