"""`audit-async retention`: what is due to be archived and deleted, and, with `--apply`, doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from audit_async._trail.log_files import Log
from audit_async._writer.due_retention import LogRetention, planned_retention
from audit_async._writer.upkeep import RetentionOutcome
from audit_async.cli.arguments import Json
from audit_async.cli.each_log import Failures, for_each_log
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ConfiguredLogs
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Column, Output, byte_size, count_of
from audit_async.cli.writing import config_for, require_owner
from audit_async.config import AuditConfig, RetentionPolicy
from audit_async.errors import LogLocked
from audit_async.logger import AuditLogger

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "retention",
        epilog="Example: audit-async retention ./audit --config audit.toml",
        short_help="Show what is due to be archived or deleted; do it with --apply.",
    )(retention)


@with_option_groups
def retention(
    at: ConfiguredLogs,
    *,
    archive_after_days: Annotated[int | None, typer.Option(metavar="DAYS", help="Compress what is older.")] = None,
    delete_after_days: Annotated[int | None, typer.Option(metavar="DAYS", help="Delete what is older.")] = None,
    min_retention_days: Annotated[
        int | None, typer.Option(metavar="DAYS", help="Never delete anything younger.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it; without this it is only shown. The service must not be running.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which segments are due to be archived or deleted by the policy. Nothing is changed without --apply.

    A running service does this by itself once a day. The policy comes from --config or from the options; without
    either the library's own is shown, and --apply is refused. What goes wrong with one log keeps no other waiting.
    """
    output = Output(as_json=as_json)
    given = {
        "archive_after_days": archive_after_days,
        "delete_after_days": delete_after_days,
        "min_retention_days": min_retention_days,
    }
    if apply and at.config_file is None and None in given.values():
        raise typer.BadParameter("--apply needs the whole policy: --config FILE, or all three --...-days options")

    async def run() -> ExitStatus:
        settings = at.settings()
        policy = _with(settings.retention if settings is not None else RetentionPolicy(), given)

        async def of_one(log: Log) -> LogRetention:
            return await _applied(log, settings, policy) if apply else planned_retention(log, policy)

        logs = at.logs(settings)
        done, failures = await for_each_log(logs, of_one)
        collected = any(log.collected is not None for log in logs)
        return _report(output, policy, done, failures, applied=apply, collected=collected)

    perform(output, run)


def _with(policy: RetentionPolicy, given: dict[str, int | None]) -> RetentionPolicy:
    changes = {name: days for name, days in given.items() if days is not None}
    return msgspec.structs.replace(policy, **changes)


async def _applied(log: Log, settings: AuditConfig | None, policy: RetentionPolicy) -> LogRetention:
    require_owner(log.directory)
    config = config_for(log, settings)
    config = msgspec.structs.replace(config, retention=msgspec.structs.replace(policy, automatic=False))
    try:
        async with AuditLogger(config) as audit:
            report = await audit.apply_retention()
    except LogLocked as error:
        by = f"process {error.pid}" if error.pid is not None else "another process"
        raise Refused(
            f"{log.name} is being written by {by}, which applies its own policy once a day; stop it, or call "
            "`await audit.apply_retention()` in it"
        ) from error
    return LogRetention(log=log.name, hold=report.hold, steps=report.steps)


def _report(
    output: Output,
    policy: RetentionPolicy,
    done: Sequence[LogRetention],
    failures: Failures,
    *,
    applied: bool,
    collected: bool,
) -> ExitStatus:
    failed = any(step.error is not None for log in done for step in log.steps)
    status = failures.status(ExitStatus.FINDINGS if failed else ExitStatus.OK)
    failures.show(output)
    if output.as_json:
        output.document({"applied": applied, "policy": policy, "logs": done, "errors": failures.texts})
        return status
    output.line(
        f"Archive after {count_of(policy.archive_after_days, 'day')}, delete after {policy.delete_after_days}, never "
        f"before {policy.min_retention_days}."
    )
    for log in done:
        if log.hold is not None:
            output.line(Cell(f"{log.log}: on hold since {log.hold.since}", "yellow"), f" ({log.hold.reason})")
    rows = [_row(log.log, step) for log in done for step in log.steps]
    if rows:
        columns = [Column("log"), Column("segment"), Column("age", right=True), Column("size", right=True),
                   Column("action"), Column("outcome")]  # fmt: skip
        output.line()
        output.table(columns, rows)
    output.line()
    if not rows and failures.texts:
        output.line("Nothing is known to be due; not every log could be looked at.")
    elif not rows:
        output.line("Nothing is due.")
    elif not applied:
        advice = "Do it with --apply while the service is stopped."
        if collected:
            advice = "Nothing of what a collector has is archived or deleted: --apply is for the host."
        output.line(Cell("Nothing was changed.", "bold"), f" {advice}")
    return status


def _row(log: str, step: RetentionOutcome) -> list[Cell | str]:
    outcome = Cell("done", "green") if step.done else Cell("due")
    if step.error is not None:
        outcome = Cell(step.error, "red")
    return [log, step.segment, f"{step.age_days} d", byte_size(step.bytes), step.action, outcome]
