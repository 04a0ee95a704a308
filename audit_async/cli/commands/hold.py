"""`audit-async hold`: legal holds, set at once and lifted with care.

A hold on a log that no service writes goes through a logger, and so into the log's own chain. While a service writes
the log, only the service may add to its chain; a hold must not wait for that, so its file is put in place, which the
service respects at once and records at its next run of retention or its next start, and the command is recorded in the
log of `audit-cli`. Lifting can wait, and does.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import typer

from audit_async._layout.hold_file import Hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._store.legal_hold import place_hold
from audit_async._trail.log_files import Log, find_logs
from audit_async.cli.arguments import Directory, Instance, Json, Service
from audit_async.cli.each_log import Failures, for_each_log
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Column, Output
from audit_async.cli.writing import OWN_SERVICE, base_directory, config_for, own_base_directory, require_owner
from audit_async.config import AuditConfig, Local
from audit_async.errors import AuditError, LogLocked
from audit_async.events import AuditEvent, Personal
from audit_async.logger import AuditLogger

__all__ = ["HoldPlaced", "register"]

By = Annotated[str, typer.Option("--as", metavar="NAME", help="Who does it; recorded.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded.")]


class HoldPlaced(AuditEvent, tag="audit_cli.hold_placed"):
    """A hold was put in force while another process wrote `log`, whose chain therefore does not have it yet."""

    critical: ClassVar[bool] = True

    log: str
    reason: Annotated[str, Personal("set_by")]
    set_by: Annotated[str, Personal("set_by")]


class LogHold(msgspec.Struct, frozen=True, kw_only=True):
    """The hold of one log after the command."""

    log: str
    hold: Hold | None
    recorded_in: str | None = None  #: the log in whose chain the command is recorded; None if nothing was done


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Set, lift and show legal holds: nothing is archived or deleted.")
    app.add_typer(group, name="hold")
    group.command(
        "set",
        epilog="Example: audit-async hold set ./audit --as 'R. Roe' --reason 'case 4711'",
        short_help="Put a hold in force, at once, also while the service runs.",
    )(set_hold)
    group.command(
        "lift",
        epilog="Example: audit-async hold lift ./audit --as 'R. Roe' --reason 'case 4711 closed'",
        short_help="End a hold; the service must not be running.",
    )(lift_hold)
    group.command(
        "show", epilog="Example: audit-async hold show ./audit", short_help="Show the holds that are in force."
    )(show_hold)


@with_option_groups
def set_hold(
    directory: Directory,
    *,
    by: By,
    reason: Reason,
    service: Service = None,
    instance: Instance = None,
    keys: KeyOptions,
    as_json: Json = False,
) -> None:
    """Put a legal hold in force: nothing is archived or deleted until it is lifted.

    It takes effect at once, also while a service writes the log; then it is recorded in the log of audit-cli. A hold
    that is in force already stays as it is. With --key-store the name and the reason are recorded sealed.
    """
    _require_said(by, reason)
    output = Output(as_json=as_json)

    async def of_one(log: Log) -> LogHold:
        _require_own(log)
        there: Hold | None = None
        with suppress(AuditError, OSError):  # a damaged log gets its hold all the same
            there = _hold_of(log)
        if there is not None:
            output.message(
                f"audit-async: {log.name} is on hold already, since {_to_the_second(there.since)} by {there.set_by} "
                f"({there.reason}); that hold stays as it is, and this one is recorded",
                "yellow",
            )
        # First of all, so that no trouble with the recording keeps the hold waiting.
        hold = place_hold(log.directory, reason=reason, set_by=by, now=datetime.now(UTC))
        try:
            async with AuditLogger(_config_for(log, keys)) as audit:  # records the hold that is in the file
                if there is not None:
                    await audit.set_hold(reason=reason, set_by=by)
        except AuditError:  # a service writes it, or it is damaged
            return LogHold(
                log=log.name, hold=hold, recorded_in=await _record_elsewhere(log, keys, reason=reason, by=by)
            )
        return LogHold(log=log.name, hold=hold, recorded_in=log.name)

    _for_each(of_one, output, directory, service=service, instance=instance)


def _hold_of(log: Log) -> Hold | None:
    """Return the hold that is in force, by its file or by the chain; the oldest if there are several."""
    return next(iter(find_holds(log.directory)), None)


def _require_own(log: Log) -> None:
    """Raise `Refused` for a log of another user, or of another host."""
    own_base_directory(
        log, "nothing of it is archived or deleted; set and lift a hold on the host, and it arrives here"
    )
    require_owner(log.directory)


def _require_said(by: str, reason: str) -> None:
    if not reason.strip() or not by.strip():
        raise typer.BadParameter("--reason and --as must not be empty: they are what an auditor will read")


def _config_for(log: Log, keys: KeyOptions) -> AuditConfig:
    """Return the configuration of a log that records a hold; sealed, if there is a key store."""
    return msgspec.structs.replace(config_for(log), privacy=keys.privacy())


def _to_the_second(since: str) -> str:
    """Return a recorded time as short as a person reads it."""
    return f"{since[:19]}Z"


async def _record_elsewhere(log: Log, keys: KeyOptions, *, reason: str, by: str) -> str:
    """Record in the log of `audit-cli` that a hold was set; return that log's name."""
    try:
        own = AuditConfig(mode=Local(base_directory(log)), service_id=OWN_SERVICE, privacy=keys.privacy())
        async with AuditLogger(own) as audit:
            await audit.emit_durable(HoldPlaced(log=log.name, reason=reason, set_by=by))
            assert audit.directory is not None  # noqa: S101 - it is open, and not disabled
            return f"{OWN_SERVICE}/{audit.directory.name}"
    except AuditError as error:
        raise Refused(f"the hold on {log.name} is in force, but could not be recorded: {error}") from error


@with_option_groups
def lift_hold(
    directory: Directory,
    *,
    by: By,
    reason: Reason,
    service: Service = None,
    instance: Instance = None,
    keys: KeyOptions,
    as_json: Json = False,
) -> None:
    """End a legal hold, and record in the log's own chain who did it and why.

    Refused while a service writes the log: what is due is deleted soon after, so the service itself has to record it.
    """
    _require_said(by, reason)

    async def of_one(log: Log) -> LogHold:
        if _hold_of(log) is None:
            return LogHold(log=log.name, hold=None)
        _require_own(log)
        try:
            async with AuditLogger(_config_for(log, keys)) as audit:
                await audit.lift_hold(reason=reason, lifted_by=by)
        except LogLocked as error:
            who = f"process {error.pid}" if error.pid is not None else "another process"
            raise Refused(
                f"{log.name} is being written by {who}, so its hold stays; stop it first, or call "
                "`await audit.lift_hold(reason=..., lifted_by=...)` in it"
            ) from error
        return LogHold(log=log.name, hold=_hold_of(log), recorded_in=log.name)

    _for_each(of_one, Output(as_json=as_json), directory, service=service, instance=instance)


def show_hold(
    directory: Directory, *, service: Service = None, instance: Instance = None, as_json: Json = False
) -> None:
    """Show the legal holds that are in force."""

    async def of_one(log: Log) -> LogHold:
        return LogHold(log=log.name, hold=_hold_of(log))

    _for_each(of_one, Output(as_json=as_json), directory, service=service, instance=instance)


def _for_each(
    of_one: Callable[[Log], Coroutine[None, None, LogHold]],
    output: Output,
    directory: Path,
    *,
    service: str | None,
    instance: str | None,
) -> None:
    async def run() -> ExitStatus:
        logs = find_logs(directory, service=service, instance=instance)
        done, failures = await for_each_log(logs, of_one)
        _report(output, done, failures)
        return failures.status(ExitStatus.OK)

    perform(output, run)


def _report(output: Output, holds: list[LogHold], failures: Failures) -> None:
    failures.show(output)
    if output.as_json:
        output.document({"logs": holds, "errors": failures.texts})
        return
    if not holds:
        return
    rows: list[list[Cell | str]] = []
    for entry in holds:
        hold = entry.hold
        state = Cell("on hold", "yellow") if hold is not None else Cell("no hold")
        said = [_to_the_second(hold.since), hold.set_by, hold.reason] if hold is not None else ["", "", ""]
        rows.append([entry.log, state, *said, entry.recorded_in or ""])
    columns = ["log", "state", "since", "set by", "reason", "recorded in"]
    shown = len(columns) if any(entry.recorded_in for entry in holds) else len(columns) - 1
    output.table(
        [Column(title, whole=title in {"log", "since"}) for title in columns[:shown]], [row[:shown] for row in rows]
    )
