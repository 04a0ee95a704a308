"""`audit-async subject-data`: what is recorded about one person, for a person who asks for it."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from audit_async._export.export_file import new_file
from audit_async._export.subject_page import SubjectPage
from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.key_options import KeyOptions, SubjectOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, byte_size, count_of, json_line
from audit_async.logger import AuditLogger
from audit_async.reader import AuditReader

if TYPE_CHECKING:
    from audit_async.privacy.subjects import Subject

__all__ = ["SubjectDataReport", "register"]


class SubjectDataReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written about a person."""

    path: str
    format: str
    records: int
    bytes: int
    sha256: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "subject-data",
        epilog="Example: audit-async subject-data ./audit alice.html --subject alice --as 'R. Roe' "
        "--key-store /var/lib/audit-keys --master-key file:/etc/audit/master.key",
        short_help="Write all that is recorded about one person, for an access request.",
    )(subject_data)


@with_option_groups
def subject_data(
    logs: ReadableLogs,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            readable=False,
            help="The file to be made: .ndjson for a program, .html for a person.",
        ),
    ],
    *,
    subject: SubjectOptions,
    keys: KeyOptions,
    access: Access,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write all records about a person, with what is sealed under the person's keys in the clear, and nobody else's.

    Records of before the log sealed are in it if they name the person in the clear. The file is readable only for its
    owner. Erasing the person later does not reach it, so that it was made has to be recorded: give --as.
    """
    if target.suffix.lower() not in {".ndjson", ".jsonl", ".html"}:
        raise typer.BadParameter(f"{target.name!a} has no known ending; give .ndjson or .html")
    if keys.key_store is None:
        raise typer.BadParameter("--key-store is missing: without the keys nobody can say what is about a person")
    if access.as_name is None:
        raise typer.BadParameter("--as is missing: personal data that leaves the trail has to be recorded")
    output = Output(as_json=as_json)
    person = subject.chosen()

    async def run() -> ExitStatus:
        with keys.opened(logs.directory) as key_store:
            reader = logs.reader(key_store)
            async with access.recording(reader, keys) as audit:
                assert audit is not None  # noqa: S101 - there is a name
                report = await _write(target, reader, person, audit, access.as_name or "", overwrite=force)
        if as_json:
            output.document(report)
        else:
            output.line(Cell(count_of(report.records, "record"), "bold"), f", {byte_size(report.bytes)}: {report.path}")
            output.line(f"SHA-256 {report.sha256}")
        return ExitStatus.OK

    perform(output, run)


async def _write(
    target: Path, reader: AuditReader, person: Subject, audit: AuditLogger, by: str, *, overwrite: bool
) -> SubjectDataReport:
    """Write the file, and record that it was made before it gets its name."""
    format_name = "html" if target.suffix.lower() == ".html" else "ndjson"
    page = SubjectPage(person.id, made=datetime.now(UTC)) if format_name == "html" else None
    with new_file(target, overwrite=overwrite) as new:
        written = 0
        if page is not None:
            new.file.write(page.head().encode())
        async with aclosing(reader.about(person, audit=audit, accessed_by=by)) as records:
            async for record in records:
                written += 1
                line = page.section(record) if page is not None else json_line(record.to_dict()) + "\n"
                new.file.write(line.encode())
        if page is not None:
            new.file.write(page.end(written).encode())
        size, digest = new.digest()
        receipt = audit.record_export(by, format=format_name, records=written, sha256=digest, unsealed=True)
        await receipt.durable()
        new.finish()
    return SubjectDataReport(path=str(target), format=format_name, records=written, bytes=size, sha256=digest)
