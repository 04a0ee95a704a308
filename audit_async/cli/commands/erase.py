"""`audit-async erase`: erasing a person from the command line, or saying what that would reach.

The keys are destroyed for all logs of the key store, and the erasure is recorded in one: the first of the trail's logs
that no service writes, else the command line's own.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import anyio.to_thread
import msgspec
import typer

from audit_async._layout.holds_in_force import find_holds
from audit_async._query.audit_query import AuditQuery
from audit_async._query.recorded_members import read_said
from audit_async._query.sealed_filter import SubjectFilter
from audit_async._query.sealing_logs import seals
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.cli.arguments import Json
from audit_async.cli.erasure_steps import StepOptions, in_free_log, show_waiting, take_step
from audit_async.cli.key_options import KeyOptions, SubjectOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Output, count_of
from audit_async.cli.writing import base_directory

if TYPE_CHECKING:
    from audit_async._writer.erasure_report import ErasureReport
    from audit_async.logger import AuditLogger
    from audit_async.privacy.subjects import Subject

__all__ = ["ErasureDone", "ErasurePreview", "register"]

By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who asks for it; recorded, sealed.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; recorded, sealed.")]


class ErasurePreview(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure would reach, and what it would not."""

    keys: int  #: that would be destroyed
    sealed_records: int  #: with something that is sealed under one of them
    plain_records: int  #: that name the person in the clear, and stay
    unsealed_logs: list[str]  #: that do not seal now
    held_logs: list[str]  #: under a legal hold, which refuses the erasure
    unsealed_exports: int  #: files with sealed members in the clear that were made of this trail


class ErasureDone(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased, and where that is recorded."""

    erasure_id: str
    keys: int
    waiting_for: tuple[str, ...]
    recorded_in: str
    unsealed_logs: list[str]
    partly_sealed_logs: tuple[str, ...]  #: that have segments of sessions which did not seal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "erase",
        epilog="Example: audit-async erase ./audit --subject alice --reason 'request 4711' --by 'R. Roe' "
        "--key-store /var/lib/audit-keys --master-key file:/etc/audit/master.key. If it has to wait: "
        "audit-async erase ./audit --request --subject alice --reason 'request 4711' --by 'R. Roe'. What waits: "
        "audit-async erase ./audit --waiting. By somebody else: audit-async erase ./audit --approve ID --subject alice "
        "--by 'L. Law'",
        short_help="Erase a person: destroy the keys that the person's data is sealed under.",
    )(erase)


@with_option_groups
def erase(
    logs: ReadableLogs,
    *,
    subject: Annotated[
        str,
        typer.Option("--subject", metavar="ID", help="The person's id, as events have it; as a user by default."),
    ] = "",
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="Which ids it is one of: user, customer, or your own.")
    ] = "user",
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="The tenant whose ids these are, if ids differ by tenant.")
    ] = "",
    steps: StepOptions,
    reason: Reason = None,
    by: By = None,
    approved_by: Annotated[
        str | None, typer.Option("--approved-by", metavar="NAME", help="Who else agrees; recorded, sealed.")
    ] = None,
    keys: KeyOptions,
    force: Annotated[bool, typer.Option("--force", help="Also under a legal hold; that is recorded.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: count what would be erased, and what would stay.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Erase a person: destroy the keys of what is sealed, in every copy of the trail, for good.

    The records stay and verify as before; what is personal in them shows as [erased DATE]. It works while services run:
    they drop the keys within a second. What names the person in the clear is not reached: records of before the log
    sealed, and files that were exported unsealed; --dry-run counts both.

    If the rules of the key store want an erasure to wait, or a second person, this is refused, with --force as well:
    --request asks for it, --approve and --cancel take the name in --by, --waiting shows what there is. A service that
    runs executes what is due, and so does --due.

    Exit status 3 if a process did not confirm in time that it has dropped the keys.
    """
    step = "dry-run" if dry_run and steps.chosen() is None else steps.chosen()
    if dry_run and step != "dry-run":
        raise typer.BadParameter(f"--dry-run changes nothing, and --{step} is another step; give one")
    needs_person = step in {None, "dry-run", "request", "approve"}
    person = SubjectOptions(subject=subject, kind=kind, tenant=tenant).chosen() if needs_person else None
    if keys.key_store is None:
        raise typer.BadParameter("--key-store is missing: erasing a person is destroying keys in it")
    _require_why(step, by=by, reason=reason)
    if steps.chosen() is not None and (force or approved_by is not None):
        raise typer.BadParameter(f"--{step} goes with neither --force nor --approved-by")
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        found = await anyio.to_thread.run_sync(logs.reader().logs)
        if step == "waiting":
            return await anyio.to_thread.run_sync(show_waiting, output, found, keys)
        if steps.chosen() is not None:
            return await take_step(output, found, keys, steps, person=person, by=by or "", reason=reason or "")
        assert person is not None  # noqa: S101 - asked for above
        if dry_run:
            preview = await anyio.to_thread.run_sync(lambda: _preview(found, person, keys))
            _show_preview(output, preview)
            return ExitStatus.OK
        held = [] if force else _held(found)
        if held:
            raise Refused(
                f"a legal hold is in force on {', '.join(held)}: nobody is erased until it is lifted, or with --force, "
                "which is recorded"
            )
        done = await _erase(found, person, keys, reason=reason or "", by=by or "", approved_by=approved_by, force=force)
        _show_done(output, done)
        return ExitStatus.UNREADABLE if done.waiting_for else ExitStatus.OK

    perform(output, run)


def _require_why(step: str | None, *, by: str | None, reason: str | None) -> None:
    """Raise `typer.BadParameter` if a step lacks the name or the reason that its record has."""
    if step in {None, "request", "approve", "cancel"} and not (by and by.strip()):
        raise typer.BadParameter("--by is missing or empty: it is what an auditor will read")
    if step in {None, "request", "cancel"} and not (reason and reason.strip()):
        raise typer.BadParameter("--reason is missing or empty: it is what an auditor will read")


async def _erase(
    logs: list[Log],
    person: Subject,
    keys: KeyOptions,
    *,
    reason: str,
    by: str,
    approved_by: str | None,
    force: bool,
) -> ErasureDone:
    async def erase_now(audit: AuditLogger) -> ErasureReport:
        return await audit.erase_subject(
            person.id,
            kind=person.kind,
            tenant=person.tenant or None,
            reason=reason,
            requested_by=by,
            approved_by=approved_by,
            force=force,
        )

    unsealed = await anyio.to_thread.run_sync(lambda: [log.name for log in logs if not seals(log)])
    report, name = await in_free_log(logs, keys, person, erase_now)
    return ErasureDone(
        erasure_id=report.erasure_id,
        keys=report.keys,
        waiting_for=report.waiting_for,
        recorded_in=name,
        unsealed_logs=unsealed,
        partly_sealed_logs=report.partly_sealed_logs,
    )


def _held(logs: list[Log]) -> list[str]:
    return [log.name for log in logs if any(True for _ in find_holds(log.directory))]


def _preview(logs: list[Log], person: Subject, keys: KeyOptions) -> ErasurePreview:
    with keys.opened(base_directory(logs[0])) as store:
        assert store is not None  # noqa: S101 - there is a --key-store
        key_ids = store.find(person)
    about = SubjectFilter(AuditQuery(), person, key_ids)
    sealed = plain = 0
    with closing(Search(logs, AuditQuery(), Damage(skip=False), wanted=about).run()) as search:
        for found in search:
            if found is not None:
                is_sealed = about.is_sealed(read_said(found.line))
                sealed += is_sealed
                plain += not is_sealed
    exported = AuditQuery(event_types=("audit.exported",), fields={"unsealed": "true"})
    with closing(Search(logs, exported, Damage(skip=False)).run()) as search:
        exports = sum(found is not None for found in search)
    return ErasurePreview(
        keys=len(key_ids),
        sealed_records=sealed,
        plain_records=plain,
        unsealed_logs=[log.name for log in logs if not seals(log)],
        held_logs=_held(logs),
        unsealed_exports=exports,
    )


def _show_preview(output: Output, preview: ErasurePreview) -> None:
    if output.as_json:
        output.document(preview)
        return
    output.line(Cell("Nothing was changed.", "bold"), " An erasure would destroy ", count_of(preview.keys, "key"), ":")
    output.pairs(
        [
            ("erased", f"what is sealed under them in {count_of(preview.sealed_records, 'record')}"),
            ("would stay", f"{count_of(preview.plain_records, 'record')} that name the person in the clear"),
            ("copies", f"{count_of(preview.unsealed_exports, 'file')} exported with sealed members in the clear"),
        ]
    )
    _show_logs(output, preview.unsealed_logs)
    if preview.held_logs:
        output.line(Cell("refused", "yellow"), f"  A legal hold is in force on {', '.join(preview.held_logs)}.")


def _show_done(output: Output, done: ErasureDone) -> None:
    if output.as_json:
        output.document(done)
        return
    output.line(Cell("erased", "green"), f"  {count_of(done.keys, 'key')} destroyed, recorded in {done.recorded_in}")
    output.line(f"Erasure {done.erasure_id}")
    if not done.keys:
        output.line("Nothing was sealed under keys of this person; look at --kind and --tenant if there should be.")
    _show_logs(output, done.unsealed_logs)
    if done.partly_sealed_logs:
        names = ", ".join(done.partly_sealed_logs)
        output.line(Cell("partly sealed", "yellow"), f"  {names}: what was recorded before they sealed stays as it is.")
    if done.waiting_for:
        output.line(
            Cell("waiting", "yellow"),
            f"  Not confirmed yet by {', '.join(done.waiting_for)}: a key may be in memory until that process ends.",
        )


def _show_logs(output: Output, unsealed: list[str]) -> None:
    if unsealed:
        output.line(Cell("not sealed", "yellow"), f"  {', '.join(unsealed)}: an erasure does not reach them.")
