"""`audit-async partitions`: a copy of many logs as Parquet files by service and day."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, count_of

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "partitions",
        epilog="Example: audit-async partitions /srv/audit /srv/audit-parquet. Then in DuckDB: SELECT "
        "event_type, count(*) FROM read_parquet('/srv/audit-parquet/*/*/*.parquet', hive_partitioning=true) "
        "WHERE day >= '2026-11-01' GROUP BY 1",
        short_help="Bring a copy as Parquet files by service and day up to date, for DuckDB.",
    )(partitions)


@with_option_groups
def partitions(
    logs: ReadableLogs,
    target: Annotated[
        Path,
        typer.Argument(metavar="COPY", show_default=False, readable=False, help="Where the Parquet files are."),
    ],
    *,
    access: Access,
    as_json: Json = False,
) -> None:
    """Bring COPY/service=SERVICE/day=DATE/ up to date with the logs: one Parquet file for each segment.

    A sealed segment is written once, the one that is being written each time, and files of what retention has deleted
    are removed, so that only what is new costs anything. May be stopped at any time. The copy is no evidence: each
    record has its hash, and verify is for the logs. What is sealed stays sealed.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = logs.reader()
        async with access.recording(reader) as audit:
            with output.counter("writing") as counter:
                report = await reader.write_partitions(
                    target, audit=audit, accessed_by=access.as_name, progress=counter.show
                )
        if as_json:
            output.document(report)
        else:
            output.line(
                Cell(count_of(report.records, "record"), "bold"),
                f" in {count_of(report.written, 'new file')}, {report.kept} kept, {report.removed} removed: {target}",
            )
        if report.encrypted:
            output.message(
                f"audit-async: {count_of(report.encrypted, 'encrypted segment')} left out; give --identity", "yellow"
            )
            return ExitStatus.UNREADABLE
        return ExitStatus.OK

    perform(output, run)
