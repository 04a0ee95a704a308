"""`audit-async export`: what a query finds, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from audit_async._export.record_export import ExportFormat
from audit_async.cli.access import recording
from audit_async.cli.arguments import AccessLog, AsName, Directory, Instance, Json, Service
from audit_async.cli.filters import (
    Actor,
    AfterSeq,
    Context,
    Critical,
    Limit,
    NewestFirst,
    Resource,
    Since,
    Text,
    Types,
    Until,
    build_query,
)
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, byte_size, count_of
from audit_async.reader import AuditReader

__all__ = ["register"]

_BY_SUFFIX: Final[dict[str, ExportFormat]] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".parquet": "parquet",
    ".zip": "bundle",
}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        "export",
        epilog="Example: audit-async export ./audit evidence.zip --actor mallory --since 7d",
        short_help="Write records to a file: NDJSON, CSV, Parquet, or an evidence bundle.",
    )(export_records)


def export_records(
    directory: Directory,
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
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE where it is there.")] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="CSV: no apostrophe before cells that a spreadsheet would take for a formula."),
    ] = False,
    service: Service = None,
    instance: Instance = None,
    actor: Actor = None,
    resource: Resource = None,
    types: Types = None,
    since: Since = None,
    until: Until = None,
    critical: Critical = None,
    context: Context = None,
    text: Text = None,
    after_seq: AfterSeq = None,
    limit: Limit = None,
    newest_first: NewestFirst = False,
    as_name: AsName = None,
    access_log: AccessLog = None,
    as_json: Json = False,
) -> None:
    """Write the records that a query finds to a file; it appears when it is whole, readable only for its owner.

    ndjson has the lines byte for byte as they were recorded. A bundle is evidence: a zip with the records, the
    unbroken chain from the first of them to the last (so records that nobody asked for, too), manifest, checksums, a
    README and a verifier that needs Python alone.
    """
    query = build_query(
        actor=actor,
        resource=resource,
        types=types,
        since=since,
        until=until,
        critical=critical,
        context=context,
        text=text,
        after_seq=after_seq,
        limit=limit,
        newest_first=newest_first,
    )
    chosen = format_name or _BY_SUFFIX.get(target.suffix.lower())
    if chosen is None:
        raise typer.BadParameter(
            f"{target.name!a} has no known ending; say --format {', '.join(get_args(ExportFormat))}"
        )
    if str(target) == "-":
        raise typer.BadParameter("an export is a file; for a pipe there is: audit-async query --json")
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = AuditReader(directory, service=service, instance=instance)
        async with recording(reader, as_name, access_log) as audit:
            with output.counter("exporting") as counter:
                report = await reader.export(
                    target,
                    chosen,
                    query,
                    audit=audit,
                    accessed_by=as_name,
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
