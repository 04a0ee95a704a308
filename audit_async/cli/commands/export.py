"""`audit-async export`: writing what a query finds to a file, or to a pipe."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from audit_async._export.record_export import Evidence, ExportFormat, ExportReport
from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.event_types import check_types
from audit_async.cli.filters import Filters
from audit_async.cli.key_options import KeyOptions, could_not_search
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, byte_size, count_of
from audit_async.cli.trusted import Published
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
    """Add the command."""
    app.command(
        "export",
        epilog="Example: audit-async export ./audit evidence.zip --actor mallory --since 7d. In a pipe: "
        "audit-async export ./audit --format csv | gzip > all.csv.gz. Without other records: "
        "audit-async export ./audit evidence.zip --evidence selective --actor mallory --until 1h",
        short_help="Write records to a file: NDJSON, CSV, Parquet, or an evidence bundle.",
    )(export_records)


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What is written."""

    format_name: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format",
            help="What to write; without it FILE's ending says it: .ndjson, .csv, .parquet, .zip (bundle). To standard "
            "output it is ndjson.",
        ),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False
    raw: Annotated[
        bool,
        typer.Option("--raw", help="CSV: no apostrophe before cells that a spreadsheet would take for a formula."),
    ] = False
    unseal: Annotated[
        bool,
        typer.Option(
            "--unseal", help="Write what is sealed in the clear, with the key store; recorded, so it needs --as."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class EvidenceOptions:
    """What a bundle proves its records with, and what of them is shown."""

    evidence: Annotated[
        Evidence | None,
        typer.Option(
            "--evidence",
            help="What a bundle has besides the records: all records between the first and the last (chain), or none "
            "but a proof for each against the log's newest signed checkpoint (selective). Without it: chain.",
        ),
    ] = None
    disclose: Annotated[
        list[str] | None,
        typer.Option(
            "--disclose",
            metavar="MEMBER[,MEMBER]",
            help="With --evidence selective: show these sealed members, such as actor.user_id or context.user_id, with "
            "the key store; recorded, so it needs --as. May be repeated.",
        ),
    ] = None
    published: Published = None

    @property
    def members(self) -> list[str]:
        """The members to disclose."""
        return [name.strip() for names in self.disclose or () for name in names.split(",")]

    def require_valid(self, keys: KeyOptions, access: Access, format_name: ExportFormat) -> None:
        """Raise `typer.BadParameter` unless the options fit each other and the file."""
        if self.evidence is not None and format_name != "bundle":
            raise typer.BadParameter("--evidence is for a bundle: give a FILE that ends in .zip, or --format bundle")
        if self.evidence != "selective":
            for option, value in (("--disclose", self.disclose), ("--published", self.published)):
                if value:
                    raise typer.BadParameter(f"{option} needs --evidence selective")
        if self.disclose:
            if not all(self.members):
                raise typer.BadParameter("--disclose has an empty name; give members such as actor.user_id")
            _require_recorded("--disclose", keys, access)


@with_option_groups
def export_records(
    logs: ReadableLogs,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="[FILE]",
            show_default=False,
            readable=False,
            help="The file to be made; '-', and if it is left out, standard output.",
        ),
    ] = Path("-"),
    *,
    file: FileOptions,
    bundle: EvidenceOptions,
    filters: Filters,
    keys: KeyOptions,
    access: Access,
    as_json: Json = False,
) -> None:
    """Write the records that a query finds to a file; it appears when it is complete, readable only for its owner.

    To standard output they are written as they are found, each checked by its own hash; never to a terminal, since
    they are not made harmless for one. If the command fails, what was written is a part.

    ndjson has the lines byte for byte as they were recorded. A bundle is evidence: a zip with the records, the
    unbroken chain from the first of them to the last (so it holds records that were not asked for, too), manifest,
    checksums, a README and a verifier that needs Python alone. With --evidence selective it holds no other record,
    needs a log that signs, and is checked with verify-proof.

    What is sealed stays sealed unless --unseal or --disclose is given. No erasure reaches a file that was written so.
    """
    query = filters.query()
    to_stdout = str(target) == "-"
    chosen = file.format_name or _format_for(target)
    output = Output(as_json=as_json)
    if to_stdout:
        _require_pipe(output, chosen)
    if file.unseal:
        _require_unsealable(keys, access, chosen)
    bundle.require_valid(keys, access, chosen)

    async def run() -> ExitStatus:
        with keys.opened(logs.directory) as key_store:
            report = await write(logs.reader(key_store))
        _show(output, report)
        if report.undecided:
            output.message(f"audit-async: {could_not_search(report.undecided)}", "yellow")
            return ExitStatus.UNREADABLE
        return ExitStatus.OK

    async def write(reader: AuditReader) -> ExportReport:
        async with access.recording(reader, keys) as audit:
            await check_types(reader, query, output)
            with output.counter("exporting") as counter:
                return await reader.export(
                    sys.stdout.buffer if to_stdout else target,
                    chosen,
                    query,
                    audit=audit,
                    accessed_by=access.as_name,
                    overwrite=file.force,
                    raw_cells=file.raw,
                    unseal=file.unseal,
                    evidence=bundle.evidence or "chain",
                    disclose=bundle.members,
                    published=bundle.published,
                    progress=counter.show,
                )

    perform(output, run)


def _format_for(target: Path) -> ExportFormat:
    """Return what is written to a file of this name; raises `typer.BadParameter` if the name doesn't say it."""
    if str(target) == "-":
        return "ndjson"
    chosen = _BY_SUFFIX.get(target.suffix.lower())
    if chosen is None:
        raise typer.BadParameter(
            f"{target.name!a} has no known ending; say --format {', '.join(get_args(ExportFormat))}"
        )
    return chosen


def _require_unsealable(keys: KeyOptions, access: Access, format_name: ExportFormat) -> None:
    """Raise `typer.BadParameter` unless what is sealed can be opened in such a file, and that it was is recorded."""
    _require_recorded("--unseal", keys, access)
    if format_name == "bundle":
        raise typer.BadParameter(
            "a bundle has the lines as they were recorded, so nothing in it can be unsealed; single members can be "
            "shown: --evidence selective --disclose MEMBER"
        )


def _require_recorded(option: str, keys: KeyOptions, access: Access) -> None:
    """Raise `typer.BadParameter` unless there are keys to open what is sealed, and a name to record it under."""
    if keys.key_store is None:
        raise typer.BadParameter(f"{option} needs the key store: --key-store and --master-key")
    if access.as_name is None:
        raise typer.BadParameter(f"{option} needs --as: personal data that leaves the trail has to be recorded")


def _show(output: Output, report: ExportReport) -> None:
    if report.path == "-":
        output.message(f"{count_of(report.records, 'record')}, SHA-256 {report.sha256}", "dim")
    elif output.as_json:
        output.document(report)
    else:
        output.line(Cell(count_of(report.records, "record"), "bold"), f", {byte_size(report.bytes)}: {report.path}")
        output.line(f"SHA-256 {report.sha256}")
        if report.disclosed:
            output.line(f"{count_of(report.disclosed, 'sealed member')} disclosed")
    if report.undisclosed:
        output.message(
            f"audit-async: {count_of(report.undisclosed, 'member')} could not be disclosed: the key was destroyed, or "
            "is not in this key store",
            "yellow",
        )


def _require_pipe(output: Output, format_name: ExportFormat) -> None:
    """Raise `typer.BadParameter` if standard output can't take the records, or also has to take something else."""
    if output.is_terminal:
        raise typer.BadParameter(
            "the records are not made harmless for a terminal; give a FILE, or a pipe. To read them there is: "
            "audit-async query"
        )
    if output.as_json:
        raise typer.BadParameter("--json is the report on a FILE; standard output has the records")
    if format_name == "bundle":
        raise typer.BadParameter("a bundle is a file, which is complete or not there at all; give a FILE")
