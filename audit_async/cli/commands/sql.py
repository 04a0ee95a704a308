"""`audit-async sql`: questions that no filter asks, in SQL; it reads the trail's records and nothing else."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import anyio.to_thread
import typer

from audit_async._export.formats import csv_cell
from audit_async._export.record_blocks import last_seqs_of
from audit_async._query.sealed_filter import NOT_RECORDED, asked_without_names
from audit_async._query.sealing_logs import seals
from audit_async._query.segment_scan import Damage
from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.event_types import check_types
from audit_async.cli.filters import PeriodFilters
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.record_view import OnDamageChoice
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Column, Output, count_of, json_line
from audit_async.reader import AuditQuery, AuditReader, Log

if TYPE_CHECKING:
    from audit_async._export.sql_session import SqlSession  # needs an extra

__all__ = ["register"]

#: Rows that a person is shown; all of them are in the JSON and the CSV.
_SHOWN: Final = 1000

Rows = Iterator[list[tuple[object, ...]]]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The options that say what else is read, and how much the database may take."""

    parquet: Annotated[
        list[Path] | None,
        typer.Option(
            "--parquet",
            metavar="FILE",
            readable=False,
            help="A Parquet export, as the table `exported`; may be repeated. Nothing in it is checked.",
        ),
    ] = None
    memory: Annotated[
        int, typer.Option("--memory", metavar="MB", min=64, help="What it may keep in memory; nothing goes to disk.")
    ] = 1024
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Its threads; one a core by default.")
    ] = None

    def open(self, logs: Sequence[Log], query: AuditQuery, damage: Damage, ends: Mapping[str, int]) -> SqlSession:
        """Return a session; raises `Refused` if the extra is missing, and as `SqlSession` does."""
        try:
            from audit_async._export.sql_session import RecordsTable, SqlLimits, SqlSession  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise Refused(f"SQL needs duckdb and pyarrow; install them with: {_INSTALL}") from error
        records = RecordsTable(logs, query, damage, ends=ends)
        return SqlSession(records, self.parquet or (), SqlLimits(self.memory, self.threads))


_INSTALL: Final = "pip install 'audit-async[cli,sql]'"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "sql",
        epilog="Example: audit-async sql ./audit 'select actor, count(*) n from records group by all order by n desc'",
        short_help="Ask in SQL: the table is records. Needs the extra sql.",
    )(sql)


@with_option_groups
def sql(
    logs: ReadableLogs,
    statement: Annotated[str, typer.Argument(metavar="SELECT", show_default=False, help="One SELECT of DuckDB.")],
    *,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Verify the trail first, and ask only what was verified; see the exit status."),
    ] = False,
    engine: Engine,
    filters: PeriodFilters,
    damage: OnDamageChoice,
    access: Access,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV, all rows.")] = False,
    as_json: Json = False,
) -> None:
    """Run one SELECT over the records, as the table `records`; its columns: describe records.

    The options say which records are in the table; with --since or --type less is read. Each of them was checked by its
    own hash. Whether one is missing is for verify to say, so what is shown is unverified unless --verify is given.
    Nothing is written, and no file, network, extension or setting can be reached from the statement.

    Exit status: with --verify 1 if something was found and 3 if something can't be read, also if there is a result.
    """
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json say different things; give one of them")
    wanted = filters.query()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = logs.reader()
        found = await anyio.to_thread.run_sync(reader.logs)
        passed_over = Damage(skip=damage.skip_damage)
        rows: int | None = None
        async with access.recording(reader) as audit:
            await check_types(reader, wanted, output)
            status, ends = await _verified(reader, output) if verify else (ExitStatus.OK, None)
            if ends is None:
                ends = await anyio.to_thread.run_sync(last_seqs_of, found)
            try:
                session = await anyio.to_thread.run_sync(engine.open, found, wanted, passed_over, ends)
                rows = await _write_result(session, statement, output, as_csv=as_csv)
            finally:
                if audit is not None and access.as_name is not None:
                    asked = await anyio.to_thread.run_sync(_asked, statement, wanted, found)
                    audit.record_access(access.as_name, asked, rows)
        output.flush()
        if passed_over.skipped:
            output.message(f"passed over damage {passed_over.skipped} times; the first: {passed_over.first}", "yellow")
        if not verify:
            output.message(
                "unverified: each record was checked by its own hash alone (--verify checks the trail)", "dim"
            )
        return status

    perform(output, run)


def _asked(statement: str, query: AuditQuery, logs: Sequence[Log]) -> dict[str, object]:
    """Return what is recorded of a question: of a trail that seals names, no text that may hold one in the clear."""
    if any(map(seals, logs)):
        return {"sql": NOT_RECORDED} | asked_without_names(query)
    return {"sql": statement} | query.asked()


async def _verified(reader: AuditReader, output: Output) -> tuple[ExitStatus, dict[str, int]]:
    """Verify the trail and say how that ended; return the status, and the last verified record of each log."""
    with output.meter("verifying") as meter:
        report = await reader.verify(progress=lambda progress: meter.show(progress.bytes_done, progress.bytes_total))
    ends = {log.log: log.head.seq if log.head is not None else -1 for log in report.logs}
    records = count_of(sum(log.records for log in report.logs), "record")
    if report.findings:
        findings = count_of(sum(log.findings for log in report.logs), "finding")
        output.message(f"NOT valid: {findings}, see audit-async verify; what is shown may be false", "red")
        return ExitStatus.FINDINGS, ends
    if report.unreadable:
        output.message("NOT verified: a part of the trail can't be read, see audit-async verify", "yellow")
        return ExitStatus.UNREADABLE, ends
    output.message(f"verified: {records}, every hash and every link holds; later records are left out", "green")
    return ExitStatus.OK, ends


async def _write_result(session: SqlSession, statement: str, output: Output, *, as_csv: bool) -> int:
    """Run the statement in a thread, which closes the session; return the number of rows."""

    def work() -> int:
        try:
            result = session.run(statement)
            write = _write_csv if as_csv else _write_json if output.as_json else _write_table
            return write(output, _distinct(result.names), result.rows)
        finally:
            session.close()

    async def stop_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            session.stop()

    outcome: int | Exception
    async with anyio.create_task_group() as group:
        group.start_soon(stop_at_the_end)
        try:
            outcome = await anyio.to_thread.run_sync(work)
        except Exception as error:  # noqa: BLE001 - raised below, where no group is made of it
            outcome = error
        group.cancel_scope.cancel()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names of columns, of which SQL allows several to be the same."""
    distinct: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in distinct:
            number += 1
            unique = f"{name}_{number}"
        distinct.append(unique)
    return distinct


# -- the forms of a result ----------------------------------------------------------------------------------------


def _write_table(output: Output, names: Sequence[str], rows: Rows) -> int:
    """Show the first rows to a person."""
    every = chain.from_iterable(rows)
    shown = list(islice(every, _SHOWN))
    texts = [[_text(value) for value in row] for row in shown]
    widths = [min(max(map(len, column)), _READABLE) for column in zip(names, *texts, strict=True)]
    if sum(widths) + _GAP * len(widths) <= output.width:
        is_number = [any(map(_is_number, column)) for column in zip(*shown, strict=True)] or [False] * len(names)
        output.table([Column(name, right=right) for name, right in zip(names, is_number, strict=True)], texts)
    else:
        _write_pairs(output, names, texts)
    more = sum(1 for _ in every)
    if more:
        output.line(f"... and {count_of(more, 'more row')}; --csv and --json have all of them.")
    output.flush()
    output.message(count_of(len(shown) + more, "row"), "dim")
    return len(shown) + more


#: A column that is narrower than this and than its texts can't be read; next to it a table leaves a gap.
_READABLE: Final = 12
_GAP: Final = 3


def _write_pairs(output: Output, names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Show each row as a list of its columns, without those that are null or empty."""
    for number, row in enumerate(texts, 1):
        output.line(Cell(f"row {number}", "bold"))
        output.pairs([(Cell(name, "dim"), text) for name, text in zip(names, row, strict=True) if text])


def _write_json(output: Output, names: Sequence[str], rows: Rows) -> int:
    """Write an object a line."""
    number = 0
    for some in rows:
        for row in some:
            output.json_row({name: _plain(value) for name, value in zip(names, row, strict=True)})
        number += len(some)
    return number


def _write_csv(output: Output, names: Sequence[str], rows: Rows) -> int:
    """Write CSV; what a spreadsheet would compute gets an apostrophe, and what misleads is made visible."""
    number = 0
    writer = csv.writer(sys.stdout)
    writer.writerow(map(csv_cell, names))
    output.flush()
    for some in rows:
        for row in some:
            writer.writerow([csv_cell(_text(value)) if not _is_number(value) else value for value in row])
        number += len(some)
        output.flush()
    return number


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _text(value: object) -> str:
    """Return a value as a person reads it; empty for null."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    plain = _plain(value)
    return plain if isinstance(plain, str) else json_line(plain)


def _plain(value: object) -> object:
    """Return a value as JSON has it; a number that JSON doesn't have, and bytes, as texts."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if isfinite(value) else str(value)
        case Decimal():
            return int(value) if value.as_tuple().exponent == 0 else str(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case dict():
            return {str(name): _plain(of) for name, of in value.items()}
        case list():
            return [_plain(element) for element in value]
        case _:
            return str(value)
