"""`audit-async report`: control by control of a framework, what a trail shows and what it can't."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from anyio import to_thread

from audit_async.cli.access import Access
from audit_async.cli.arguments import Host, IdentityFiles, Json, parse_heads, parse_time
from audit_async.cli.filters import Since, Until
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ConfiguredLogs
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Output, count_of
from audit_async.cli.trusted import NEEDS_TLOG, Published, Trust
from audit_async.config import AuditConfig, Local
from audit_async.config.transparency import default_origin
from audit_async.reader import AuditReader, Identities
from audit_async.reports import (
    CheckedReport,
    InvalidReport,
    Report,
    WrittenReport,
    check_report,
    framework_names,
    load_framework,
    make_report,
    report_schema,
    write_report,
)

if TYPE_CHECKING:
    from audit_async.logger import AuditLogger
    from audit_async.privacy.key_store import KeyStore  # needs an extra
    from audit_async.tlog.signing_keys import Signer  # needs an extra

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "report",
        epilog="Example: audit-async report ./audit --framework pci_dss --since 2026-10-01 --until 2026-12-31 "
        "--out pci-q4.html --as carol. Signed by the log's key: "
        "audit-async report ./audit --framework soc2 --out soc2.html --as carol --config orders.toml. To check it: "
        "audit-async report --check pci-q4.html --vkey ...",
        short_help="Write a report for auditors: what the trail shows for each control, and what it can't.",
    )(report)


@dataclass(frozen=True, kw_only=True)
class ReportedLogs(ConfiguredLogs):
    """The logs that a report is about, and what opens their encrypted archives."""

    host: Host = None
    identity: IdentityFiles = None

    def reader(self, settings: AuditConfig | None, key_store: KeyStore | None) -> AuditReader:
        """Return a reader of these logs.

        Raises `typer.BadParameter` if there is no directory, `ConfigError` for an identity file that is none.
        """
        directory = self.directory
        if directory is None and settings is not None and isinstance(settings.mode, Local):
            directory = Path(settings.mode.base_dir)
        if directory is None:
            raise typer.BadParameter("give a DIRECTORY, or a --config that has one; or --check FILE")
        service = self.service or (settings.service_id if settings is not None else None) or None
        identities = Identities.from_files(*self.identity) if self.identity else None
        return AuditReader(
            directory,
            service=service,
            instance=self.instance,
            host=self.host,
            key_store=key_store,
            identities=identities,
        )


@dataclass(frozen=True, kw_only=True)
class ReportChoice:
    """Which report is made."""

    framework: Annotated[
        str | None,
        typer.Option("--framework", metavar="NAME", help=f"One of: {', '.join(framework_names())}."),
    ] = None
    framework_file: Annotated[
        Path | None,
        typer.Option("--framework-file", metavar="FILE", readable=False, help="A framework of your own, in TOML."),
    ] = None
    since: Since = None
    until: Until = None
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.html",
            help="The page to be made; the same as JSON, and a signed note, go next to it.",
        ),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files of a report that are there.")] = False
    unseal: Annotated[
        bool, typer.Option("--unseal", help="Show what is sealed in the clear, with the key store; recorded.")
    ] = False
    viewer_url: Annotated[
        str | None,
        typer.Option("--viewer-url", metavar="URL", help="Where a viewer of these logs is; examples link to it."),
    ] = None

    def require_complete(self, access: Access, keys: KeyOptions) -> None:
        """Raise `typer.BadParameter` unless all is given that a report needs."""
        if (self.framework is None) == (self.framework_file is None):
            raise typer.BadParameter("say which report: --framework NAME or --framework-file FILE, one of them")
        if self.out is None:
            raise typer.BadParameter("--out FILE.html is missing: the page to be made")
        if access.as_name is None:
            raise typer.BadParameter("--as NAME is missing: that a report was made, and by whom, is recorded")
        if self.unseal != (keys.key_store is not None):
            raise typer.BadParameter("--unseal and the key store (--key-store, --master-key) belong together")


@dataclass(frozen=True, kw_only=True)
class ReportEvidence:
    """What the trail is verified against."""

    expected_head: Annotated[
        list[str] | None,
        typer.Option(
            "--expected-head", metavar="[LOG=]SEQ:HASH", help="A head that was kept elsewhere. May be repeated."
        ),
    ] = None
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            readable=False,
            help="With --vkey or --policy: a signed checkpoint that was kept elsewhere. May be repeated.",
        ),
    ] = None
    published: Published = None


@with_option_groups
def report(
    at: ReportedLogs,
    *,
    choice: ReportChoice,
    evidence: ReportEvidence,
    trust: Trust,
    keys: KeyOptions,
    access: Access,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", readable=False, help="Check the files of a report; makes none."),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the JSON; makes none.")] = False,
    as_json: Json = False,
) -> None:
    """Write what the trail shows for each control of a framework, and what it can't show, for an auditor.

    All logs are verified, and the records of the period are read. The page prints as a document (to PDF in a browser);
    the JSON next to it says the same. With --config of a service that signs, the log's key signs both. That the report
    was made is recorded in a log of the service audit-cli.

    Exit status: 0 written and the trail is valid, 1 written and something was found, or a check has failed, 3 written
    and something of the trail can't be read, or not written.
    """
    output = Output(as_json=as_json)
    if schema:
        Output(as_json=True).document(report_schema())
        return
    if check is not None:
        perform(output, lambda: _check(output, check, trust))
        return
    choice.require_complete(access, keys)
    if evidence.checkpoint or evidence.published is not None:
        trust.require()
    perform(output, lambda: _make(output, at, choice, evidence, trust=trust, keys=keys, access=access))


async def _make(
    output: Output,
    at: ReportedLogs,
    choice: ReportChoice,
    evidence: ReportEvidence,
    *,
    trust: Trust,
    keys: KeyOptions,
    access: Access,
) -> ExitStatus:
    now = datetime.now(UTC)
    settings = at.settings()
    framework = load_framework(choice.framework_file or choice.framework or "")
    signers = _signers(settings, at.instance)
    name, target = str(access.as_name), choice.out or Path()
    place = at.reader(settings, None)
    with keys.opened(place.base_dir) as key_store:
        reader = at.reader(settings, key_store)
        async with access.recording(reader, keys) as recorder:
            audit = cast("AuditLogger", recorder)  # a name is given, so there is one
            with output.meter("verifying") as meter:
                made = await make_report(
                    reader,
                    framework,
                    audit=audit,
                    accessed_by=name,
                    since=parse_time(choice.since, "--since", now=now),
                    until=parse_time(choice.until, "--until", now=now, end_of_day=True),
                    expected_heads=parse_heads(evidence.expected_head or (), [log.name for log in reader.logs()]),
                    policy=trust.policy() if trust.is_given else None,
                    known_checkpoints={str(path): path.read_bytes() for path in evidence.checkpoint or ()},
                    published=evidence.published,
                    retention=settings.retention if settings is not None else None,
                    viewer_url=choice.viewer_url,
                    verifying=lambda progress: meter.show(progress.bytes_done, progress.bytes_total),
                )
            written = await write_report(
                made, target, audit=audit, accessed_by=name, signers=signers, overwrite=choice.force
            )
    _show(output, made, written)
    if made.verification.findings:
        return ExitStatus.FINDINGS
    return ExitStatus.OK if made.verification.valid else ExitStatus.UNREADABLE


def _signers(settings: AuditConfig | None, instance: str | None) -> Sequence[Signer]:
    """Return the keys of the log that a configuration is of; none if it does not sign."""
    if settings is None or settings.transparency is None:
        return ()
    try:
        from audit_async.tlog.signing_keys import load_signers  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise Refused(NEEDS_TLOG) from error
    signing = settings.transparency
    named = instance or settings.instance or "00"
    origin = signing.origin or default_origin(socket.gethostname(), settings.service_id, named)
    return load_signers(signing.keys, origin=origin, passphrase=signing.passphrase)


async def _check(output: Output, path: Path, trust: Trust) -> ExitStatus:
    policy = trust.policy() if trust.is_given else None
    try:
        checked = await to_thread.run_sync(check_report, path, policy)
    except InvalidReport as error:
        if output.as_json:
            output.document({"valid": False, "reason": str(error)})
        else:
            output.line(Cell("NOT valid", "red"), f"  {error}")
        return ExitStatus.FINDINGS
    _show_checked(output, checked)
    return ExitStatus.OK


def _show(output: Output, made: Report, written: WrittenReport) -> None:
    if output.as_json:
        output.document(
            written.to_dict()
            | {
                "valid": made.verification.valid,
                "records": made.records,
                "not_counted": list(made.not_counted),
                "concerns": list(made.concerns),
            }
        )
        return
    verdict = Cell("NOT valid", "red") if made.verification.findings else Cell("NOT verified", "yellow")
    if made.verification.valid:
        verdict = Cell("valid", "green")
    output.line(verdict, f"  {made.framework.name}: {count_of(made.records, 'record')} in the period.")
    if made.not_counted:
        output.line(Cell("Not counted:", "bold"))
        output.items(Cell("-", "yellow"), made.not_counted)
    if made.concerns:
        output.line(Cell("To look at first:", "bold"))
        output.items(Cell("!", "yellow"), made.concerns)
    output.line(Cell("Written:", "bold"))
    files = [("page", written.page), ("SHA-256", written.page_sha256)]
    files += [("data", written.data), ("SHA-256", written.data_sha256)]
    files.append(("signed", written.note or "no"))
    output.pairs([*files, *[("by", key) for key in written.signed_by]])


def _show_checked(output: Output, checked: CheckedReport) -> None:
    made = checked.report
    if output.as_json:
        output.document(
            {"valid": True, "signed_by": list(checked.signed_by), "page": checked.page, "made_at": made.made.at}
        )
        return
    said = "page and data say the same" if checked.page == "same" else "page and data are those that were signed"
    output.line(Cell("valid", "green"), f"  {made.framework.name}, made {made.made.at} by {made.made.by}: {said}.")
    output.pairs([("signed by", key) for key in checked.signed_by] or [("signed by", "not checked: give --vkey")])
