"""`audit-async query`: finding records."""

from __future__ import annotations

from typing import Annotated

import typer

from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.event_types import check_types
from audit_async.cli.filters import Filters
from audit_async.cli.key_options import KeyOptions, could_not_search
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.record_view import OnDamageChoice, RecordLines, RecordView
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, count_of
from audit_async.reader import AuditQuery, AuditReader

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "query",
        epilog="Example: audit-async query ./audit --outcome failure --actor mallory --since 24h",
        short_help="Find records by actor, resource, type, time and text.",
    )(query)


@with_option_groups
def query(
    logs: ReadableLogs,
    *,
    filters: Filters,
    view: RecordView,
    count: Annotated[
        bool, typer.Option("--count", help="Only say how many there are, of each log and in all.")
    ] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Only intents without a known outcome.")] = False,
    no_index: Annotated[bool, typer.Option("--no-index", help="Read all records, without their index.")] = False,
    damage: OnDamageChoice,
    keys: KeyOptions,
    access: Access,
    as_json: Json = False,
) -> None:
    """Find records. Each one shown was checked by its own hash; whether the chain holds is for verify.

    Several logs are merged by time. Below a head, a record has its target (what it was done to, or the path), its
    result (status, outcome) and the rest, cut at the terminal's width; in a pipe nothing is cut. With --json each
    record is a line of NDJSON, in ASCII: the same data, but not the recorded bytes, which export --format ndjson has.
    """
    wanted = filters.query()
    output = Output(as_json=as_json)
    undecided: list[int] = []
    _check_together(wanted, view, count=count, unfinished=unfinished)

    async def run() -> ExitStatus:
        with keys.opened(logs.directory) as key_store:
            await (show_count if count else show)(logs.reader(key_store))
        for number in undecided:
            output.message(f"audit-async: {could_not_search(number)}", "yellow")
        return ExitStatus.UNREADABLE if undecided else ExitStatus.OK

    async def show(reader: AuditReader) -> None:
        lines = await RecordLines.of(reader, output, view)
        async with access.recording(reader, keys) as audit:
            await check_types(reader, wanted, output)
            records = (reader.unfinished if unfinished else reader.query)(
                wanted,
                audit=audit,
                accessed_by=access.as_name,
                use_index=not no_index,
                on_damage=damage.on_damage,
                on_undecided=undecided.append,
            )
            await lines.write_all(records)
        if not as_json:
            output.flush()
            output.message(count_of(lines.written, "record"), "dim")

    async def show_count(reader: AuditReader) -> None:
        async with access.recording(reader, keys) as audit:
            await check_types(reader, wanted, output)
            counted = await reader.count(
                wanted,
                audit=audit,
                accessed_by=access.as_name,
                use_index=not no_index,
                on_damage=damage.on_damage,
                on_undecided=undecided.append,
            )
        _write_counts(output, counted)

    perform(output, run)


def _check_together(wanted: AuditQuery, view: RecordView, *, count: bool, unfinished: bool) -> None:
    """Raise `BadParameter` if one option makes another one meaningless."""
    if count and (view.columns is not None or view.wide):
        raise typer.BadParameter("--count shows no records, so --columns and --wide mean nothing with it")
    if unfinished and (count or wanted.event_types):
        raise typer.BadParameter("--unfinished lists records of one type, so --type and --count mean nothing with it")


def _write_counts(output: Output, counted: dict[str, int]) -> None:
    """Write how many records there are in each log, and in all."""
    total = sum(counted.values())
    if output.as_json:
        logs = [{"name": name, "records": records} for name, records in counted.items()]
        output.document({"records": total, "logs": logs})
        return
    if len(counted) > 1:
        for name, records in counted.items():
            if records:
                output.line(f"{name}: {count_of(records, 'record')}")
        without = sum(not records for records in counted.values())
        if without:
            output.message(f"{count_of(without, 'log')} without any", "dim")
    output.line(Cell(count_of(total, "record"), "bold"))
