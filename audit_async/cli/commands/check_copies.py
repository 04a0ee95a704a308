"""`audit-async check-copies`: whether what a receiver has is what the trail says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from audit_async.cli.arguments import EventModules, Json
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output
from audit_async.delivery.copy_check import CopyCheck, check_copies
from audit_async.delivery.event_modules import import_event_modules

__all__ = ["register"]

_KINDS = {
    "unreadable": "is no copy in this format",
    "unknown": "is of no record of this trail",
    "hash": "has another hash than the record",
    "content": "says something else than the record",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "check-copies",
        epilog="Example: audit-async check-copies export.ndjson ./audit --format ocsf",
        short_help="Compare a receiver's copies with the trail.",
    )(compare)


@with_option_groups
def compare(
    copies: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", show_default=False, exists=True, dir_okay=False, help="Copies, a JSON object in each line."
        ),
    ],
    at: ReadableLogs,
    *,
    form: Annotated[
        Literal["record", "ocsf", "ecs"], typer.Option("--format", help="The format that they were delivered in.")
    ] = "record",
    module: EventModules = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Compare what a SIEM or another receiver has of a trail with the trail, record by record.

    FILE is an export of the receiver: the documents themselves, hits with `_source`, or results with `_raw`. Each copy
    is found in the trail by its audit_id; the record's hash has to be the copy's, and every member that was delivered
    has to be there unchanged. Exit status 1 if a copy is not genuine. What the receiver lacks is not looked for: see
    `deliver --reconcile`.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        import_event_modules(module)
        result = await check_copies(_lines(copies), at.reader(), form)
        if as_json:
            output.document(result)
        else:
            _show(output, result, form)
        return ExitStatus.FINDINGS if result.others else ExitStatus.OK

    perform(output, run)


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        yield from (line for line in lines if line.strip())


def _show(output: Output, result: CopyCheck, form: str) -> None:
    if result.copies > 1 and not result.genuine and all(one.kind == "unreadable" for one in result.findings):
        output.line(
            Cell(f"No line seen is a copy in the format {form}", "red"),
            "; give a file with a JSON object in each line, and with --format the one that was delivered",
        )
        output.line(f"{result.copies} lines: none genuine")
        return
    for finding in result.findings:
        members = f": {', '.join(finding.members)}" if finding.members else ""
        output.row(f"line {finding.line}  {finding.audit_id}  ", Cell(_KINDS[finding.kind], "red"), members)
    if result.others > len(result.findings):
        output.line(f"... and {result.others - len(result.findings)} more")
    more = f" ({result.repeated} of them repeated)" if result.repeated else ""
    if result.altered:
        more += f" ({result.altered} of them altered for the receiver: the hash alone was compared)"
    copies = "1 copy" if result.copies == 1 else f"{result.copies} copies"
    output.line(f"{copies}: {result.genuine} genuine{more}, {result.others} not")
