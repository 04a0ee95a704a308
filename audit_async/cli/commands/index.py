"""`audit-async index`: making the index that speeds up queries."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from audit_async.cli.arguments import Json
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import LogsAt
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Column, Output, byte_size, count_of
from audit_async.reader import IndexedSegment

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "index",
        epilog="Example: audit-async index ./audit",
        short_help="Index the sealed segments that have no index, so that queries find records fast.",
    )(index)


@with_option_groups
def index(
    at: LogsAt,
    *,
    again: Annotated[bool, typer.Option("--again", help="Index those again that have an index.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", "--jobs", min=1, metavar="N", help="Processes that index segments; one a core by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Index the sealed segments that have no index yet.

    An index is a cache: it can be deleted at any time, holds no text but event types, and changes no result. It works
    next to running services and may be stopped at any point; run it daily, or after large imports.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        with output.meter("indexing") as meter:
            building = at.reader().build_index(again=again, processes=processes, progress=meter.show)
            async with aclosing(building) as segments:
                made = [segment async for segment in segments]
        failed = [segment for segment in made if segment.problem is not None]
        if as_json:
            output.document(made)
        else:
            _report(output, made, failed)
        return ExitStatus.UNREADABLE if failed else ExitStatus.OK

    perform(output, run)


def _report(output: Output, made: list[IndexedSegment], failed: list[IndexedSegment]) -> None:
    done = [segment for segment in made if segment.problem is None]
    records, size = sum(segment.records for segment in done), sum(segment.index_bytes for segment in done)
    if not made:
        output.line("Every sealed segment has an index, but for those that are encrypted.")
    elif done:
        output.line(f"Indexed {count_of(records, 'record')} in {count_of(len(done), 'segment')}: {byte_size(size)}.")
    if failed:
        output.table(
            [Column("log"), Column("segment"), Column("not indexed because")],
            [[segment.log, segment.segment, Cell(segment.problem or "", "yellow")] for segment in failed],
        )
