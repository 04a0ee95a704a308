"""`audit-async export`: writing what a query finds to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from audit_async._export.record_export import ExportFormat
from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.event_types import check_types
from audit_async.cli.filters import Filters
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import LogsAt
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, byte_size, count_of

__all__ = ["register"]

_BY_SUFFIX: Final[dict[str, ExportFormat]] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".parquet": "parquet",
    ".zip": "bundle",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "export",
        epilog="Example: audit-async export ./audit evidence.zip --actor mallory --since 7d",
        short_help="Write records to a file: NDJSON, CSV, Parquet, or an evidence bundle.",
    )(export_records)


@with_option_groups
def export_records(
    logs: LogsAt,
    target: Annotated[
        Path, typer.Argument(metavar="FILE", show_default=False, readable=False, help="The file to be made.")
    ],
    *,
    format_name: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format", help="What to write; without it FILE's ending says it: .ndjson, .csv, .parquet, .zip (bundle)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="CSV: no apostrophe before cells that a spreadsheet would take for a formula."),
    ] = False,
    filters: Filters,
    access: Access,
    as_json: Json = False,
) -> None:
    """Write the records that a query finds to a file; it appears when it is complete, readable only for its owner.

    ndjson has the lines byte for byte as they were recorded. A bundle is evidence: a zip with the records, the
    unbroken chain from the first of them to the last (so it holds records that were not asked for, too), manifest,
    checksums, a README and a verifier that needs Python alone.
    """
    query = filters.query()
    chosen = format_name or _BY_SUFFIX.get(target.suffix.lower())
    if chosen is None:
        raise typer.BadParameter(
            f"{target.name!a} has no known ending; say --format {', '.join(get_args(ExportFormat))}"
        )
    if str(target) == "-":
        raise typer.BadParameter("an export is a file; for a pipe there is: audit-async query --json")
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = logs.reader()
        async with access.recording(reader) as audit:
            await check_types(reader, query, output)
            with output.counter("exporting") as counter:
                report = await reader.export(
                    target,
                    chosen,
                    query,
                    audit=audit,
                    accessed_by=access.as_name,
                    overwrite=force,
                    raw_cells=raw,
                    progress=counter.show,
                )
        if as_json:
            output.document(report)
        else:
            output.line(Cell(count_of(report.records, "record"), "bold"), f", {byte_size(report.bytes)}: {report.path}")
            output.line(f"SHA-256 {report.sha256}")
        return ExitStatus.OK

    perform(output, run)
