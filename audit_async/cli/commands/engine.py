"""`audit-async engine`: preparing and checking the engine that hosts forward to, and giving them rights to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from audit_async.cli.arguments import Json
from audit_async.cli.engine_url import refuse_password
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.setting_table import show_settings
from audit_async.cli.terminal import Cell, Output
from audit_async.forwarding.confirmations import ConfirmationInvalid, check_confirmations, confirmed_at_least
from audit_async.forwarding.engine_admin import Engine, Kind, Limits, Trimmed, open_engine
from audit_async.forwarding.identities import LogIdentity
from audit_async.tlog.failures import Malformed
from audit_async.tlog.notes import VerifierKey

__all__ = ["register"]

EngineUrl = Annotated[
    str,
    typer.Option(
        "--engine", metavar="URL", envvar="AUDIT_ENGINE_URL", show_default=False, show_envvar=True,
        help="The engine, as its administrator: postgres://ROLE@HOST/DATABASE?passfile=FILE, or "
        "nats://HOST:PORT,HOST:PORT,HOST:PORT?nkey=FILE&accounts=FILE&system=FILE. A URL with a password is taken from "
        "the environment only.",
    ),
]  # fmt: skip
Tenant = Annotated[
    str,
    typer.Option("--tenant", metavar="NAME", envvar="AUDIT_TENANT", show_default=False, help="Whose engine it is."),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="The host, as its logs name it, or the collector.")
]
IsCollector = Annotated[
    bool, typer.Option("--collector", help="NAME is a collector: it reads and confirms all logs, and writes none.")
]
_NO_LIMITS = Limits()


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Prepare and check the engine that hosts forward their logs to, and give them rights to it.",
    )
    app.add_typer(group, name="engine")
    group.command(
        "init",
        epilog="Example: audit-async engine init --engine postgres:///audit --tenant acme",
        short_help="Make an engine, or bring it up to date.",
    )(init)
    group.command(
        "check",
        epilog="Example: audit-async engine check --engine postgres:///audit --tenant acme",
        short_help="Look for wrong settings, rights and tables.",
    )(check)
    group.command(
        "grant",
        epilog="Example: audit-async engine grant web-1 --secret-file web-1.pgpass --engine postgres:///audit "
        "--tenant acme",
        short_help="Give a host or a collector its rights, and make its password or key.",
    )(grant)
    group.command(
        "revoke",
        epilog="Example: audit-async engine revoke web-1 --engine postgres:///audit --tenant acme",
        short_help="Take a host's or a collector's rights away at once.",
    )(revoke)
    group.command(
        "trim",
        epilog="Example: audit-async engine trim --keep-days 30 --collector-key 'c1+…' --engine postgres:///audit "
        "--tenant acme",
        short_help="Drop old days that collectors have confirmed.",
    )(trim)


def init(context: typer.Context, *, engine: EngineUrl, tenant: Tenant, as_json: Json = False) -> None:
    """Make the engine of a tenant, in a database of its own, or bring one that is there up to date.

    May be run again: what is there is kept, and rights that others were given on it are corrected as far as they can't
    be meant. `engine check` says what is left.
    """
    output = Output(as_json=as_json)

    async def run(opened: Engine) -> ExitStatus:
        done = await opened.init()
        if as_json:
            output.document({"done": done})
        else:
            for line in done:
                output.line(Cell("done", "green"), f"  {line}")
        return ExitStatus.OK

    _perform(output, context, engine, tenant, run)


def check(context: typer.Context, *, engine: EngineUrl, tenant: Tenant, as_json: Json = False) -> None:
    """Look at all that a trail depends on in the engine; each wrong thing is named, with what corrects it (status 1).

    Settings that lose data, an owner that can log in, rights of anybody that are not the engine's, changed functions,
    tables that are missing, days that were dropped. A note is worth knowing and no finding.
    """
    output = Output(as_json=as_json)

    async def run(opened: Engine) -> ExitStatus:
        return show_settings(output, await opened.check())

    _perform(output, context, engine, tenant, run)


def grant(
    context: typer.Context,
    name: Name,
    *,
    engine: EngineUrl,
    tenant: Tenant,
    secret_file: Annotated[
        Path,
        typer.Option(
            "--secret-file",
            metavar="FILE",
            readable=False,
            show_default=False,
            help="A new file for the password or the seed of the key, for that host; nothing shows it.",
        ),
    ],
    collector: IsCollector = False,
    max_bytes_per_day: Annotated[
        int, typer.Option("--max-bytes-per-day", min=1, help="How many bytes of records a host may send in a UTC day.")
    ] = _NO_LIMITS.max_bytes_per_day,
    max_logs: Annotated[
        int, typer.Option("--max-logs", min=1, help="How many logs a host may have.")
    ] = _NO_LIMITS.max_logs,
    as_json: Json = False,
) -> None:
    """Give a host the right to write its own logs and no other, or a collector the right to read and confirm all.

    Run again it makes a new password, the one before is void at once, and the limits are those that are given now.
    """
    output = Output(as_json=as_json)
    limits = Limits(max_bytes_per_day=max_bytes_per_day, max_logs=max_logs)

    async def run(opened: Engine) -> ExitStatus:
        granted = await opened.grant(name, kind=_kind(collector), secret_file=secret_file, limits=limits)
        if as_json:
            output.document(granted)
        else:
            output.line(Cell("granted", "green"), f"  {granted.kind} {granted.name}, as {granted.account}")
            for file in granted.files:
                output.line(f"  secret in {file}; bring it to that machine, and delete it here")
            output.whole(f"  {granted.url}")
            if granted.next_step:
                output.whole(f"  {granted.next_step}")
        return ExitStatus.OK

    _perform(output, context, engine, tenant, run)


def revoke(
    context: typer.Context,
    name: Name,
    *,
    engine: EngineUrl,
    tenant: Tenant,
    collector: IsCollector = False,
    as_json: Json = False,
) -> None:
    """Take the rights of a host or a collector away and end its sessions. What it has stored stays, and is readable."""
    output = Output(as_json=as_json)

    async def run(opened: Engine) -> ExitStatus:
        done = await opened.revoke(name, kind=_kind(collector))
        if as_json:
            output.document({"done": done})
        else:
            for line in done:
                output.line(Cell("done", "green"), f"  {line}")
        return ExitStatus.OK

    _perform(output, context, engine, tenant, run)


def trim(
    context: typer.Context,
    *,
    engine: EngineUrl,
    tenant: Tenant,
    keep_days: Annotated[
        int, typer.Option("--keep-days", min=1, metavar="DAYS", help="How many days before today stay in any case.")
    ],
    collector_key: Annotated[
        list[str],
        typer.Option(
            "--collector-key", metavar="VKEY", show_default=False,
            help="The verifier key of a collector that is trusted, as `audit-async keys show` prints it. May be "
            "repeated.",
        ),
    ],
    copies: Annotated[
        int, typer.Option("--copies", min=1, max=99, help="In how many places a record has to be besides the engine.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be dropped.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Drop whole days of a PostgreSQL engine that are older, if collectors have confirmed every record in them.

    The heads stay, so no log can be begun again. A day that has to stay is shown with the reason (status 1): a record
    that no trusted collector has confirmed, or whose confirmation has expired.
    """
    output = Output(as_json=as_json)

    async def confirmed(log: LogIdentity, confirmation: bytes) -> int | None:
        try:
            found = check_confirmations(confirmation, collector_key, log_id=log.log_id)
        except ConfirmationInvalid:
            return None
        return confirmed_at_least(found, copies)

    async def run(opened: Engine) -> ExitStatus:
        days = await opened.trim(keep_days=keep_days, confirmed=confirmed, dry_run=dry_run)
        if as_json:
            output.document({"dry_run": dry_run, "days": days})
            return _status_of(days)
        for day in days:
            text = f"  {day.day}  {day.batches} batches"
            if day.reason:
                output.line(Cell("kept", "yellow"), f"{text}: {day.reason}")
            else:
                output.line(Cell("due" if dry_run else "dropped", "green"), text)
        if not days:
            output.line(f"No day is older than {keep_days} days.")
        return _status_of(days)

    for key in collector_key:
        _require_key(key)
    _perform(output, context, engine, tenant, run)


def _status_of(days: list[Trimmed]) -> ExitStatus:
    return ExitStatus.FINDINGS if any(day.reason for day in days) else ExitStatus.OK


def _require_key(key: str) -> None:
    """Raise `typer.BadParameter` if a text is no verifier key: nothing would ever be trimmed."""
    try:
        VerifierKey.parse(key)
    except Malformed as error:
        raise typer.BadParameter(f"--collector-key: {error.reason}") from None


def _kind(collector: bool) -> Kind:
    return "collector" if collector else "host"


def _perform(
    output: Output,
    context: typer.Context,
    url: str,
    tenant: str,
    command: Callable[[Engine], Awaitable[ExitStatus]],
) -> None:
    """Run a command on an engine, and close that."""
    refuse_password(context, "engine", "--engine", url)

    async def run() -> ExitStatus:
        engine = open_engine(url, tenant=tenant)
        try:
            return await command(engine)
        finally:
            await engine.aclose()

    perform(output, run)
