"""`audit-async doctor`: whether this host is a good place for this trail, and what would be lost if it failed now."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from audit_async._trail.log_files import Log
from audit_async.cli.arguments import Instance, Json, Service
from audit_async.cli.commands.config_check import load
from audit_async.cli.commands.retention import configured_logs
from audit_async.cli.diagnosis import host_checks, log_checks
from audit_async.cli.diagnosis.outcomes import Check, fail, ok
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Column, Output, Style
from audit_async.cli.writing import base_directory
from audit_async.config import AuditConfig, Local

__all__ = ["register"]

_STYLES: dict[str, Style] = {"ok": "green", "warn": "yellow", "fail": "red"}


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out."""

    healthy: bool  #: nothing fails
    checks: list[Check]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        "doctor",
        epilog="Example: audit-async doctor ./audit --config audit.toml",
        short_help="Check permissions, disk, clock, locks and configuration.",
    )(doctor)


def doctor(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIRECTORY",
            envvar="AUDIT_BASE_DIR",
            show_default=False,
            readable=False,
            help="The base directory of the trail; that of --config where it is left out.",
        ),
    ] = None,
    *,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", readable=False, help="The service's configuration, to be checked, too."
        ),
    ] = None,
    service: Service = None,
    instance: Instance = None,
    as_json: Json = False,
) -> None:
    """Check permissions, disk, clock, locks and configuration, and say what would be lost in a crash now.

    It changes nothing and reads no more of the trail than it has to; whether the records are genuine is for verify.
    Exit status 1 where a check fails.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        settings = load(config_file) if config_file is not None else None
        logs = configured_logs(directory, settings, service=service, instance=instance)
        checks = _examine(logs, directory, settings)
        healthy = not any(check.status == "fail" for check in checks)
        if as_json:
            output.document(Diagnosis(healthy=healthy, checks=checks))
        else:
            _report(output, checks)
        return ExitStatus.OK if healthy else ExitStatus.FINDINGS

    perform(output, run)


def _examine(logs: list[Log], directory: Path | None, settings: AuditConfig | None) -> list[Check]:
    checks: list[Check] = []
    for base_dir in dict.fromkeys(base_directory(log) for log in logs):
        checks += host_checks.examine(base_dir, low_disk_bytes=(settings or _DEFAULTS).low_disk_bytes)
    if settings is not None:
        checks += _configuration(logs, directory, settings)
    for log in logs:
        checks += log_checks.examine(log, settings)
    return checks


_DEFAULTS = AuditConfig(mode=Local("."), service_id="any")


def _configuration(logs: list[Log], directory: Path | None, settings: AuditConfig) -> list[Check]:
    """Compare the configuration with the trail that was found."""
    if not isinstance(settings.mode, Local):
        return [fail("configuration", "mode", "recording is switched off: nothing is recorded")]
    configured = Path(settings.mode.base_dir).absolute()
    if directory is not None and all(base_directory(log) != configured for log in logs):
        return [fail("configuration", "base_dir", f"the service writes to {configured}, not to the trail given here")]
    return [ok("configuration", "settings", "valid, and of this trail")]


def _report(output: Output, checks: list[Check]) -> None:
    rows: list[list[Cell | str]] = [
        [check.subject, check.name, Cell(check.status, _STYLES[check.status]), check.text] for check in checks
    ]
    output.table([Column("of"), Column("check"), Column("status", whole=True), Column("what was found")], rows)
    counts = Counter(check.status for check in checks)
    output.line()
    output.line(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} wrong.")
