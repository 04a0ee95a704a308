"""`audit-async doctor`: whether this host is a good place for this trail, and what would be lost if it failed now."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from audit_async._trail.log_files import Log
from audit_async.cli.archive_bucket import BUCKET_HELP
from audit_async.cli.arguments import Json
from audit_async.cli.diagnosis import bucket_checks, host_checks, key_store_checks, log_checks
from audit_async.cli.diagnosis.outcomes import Check, fail, ok
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ConfiguredLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, Style
from audit_async.cli.writing import base_directory
from audit_async.config import AuditConfig, Local
from audit_async.config.key_store_settings import ExternalMasterKey

__all__ = ["register"]

_STYLES: dict[str, Style] = {"ok": "green", "warn": "yellow", "fail": "red"}


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out."""

    healthy: bool  #: nothing fails
    checks: list[Check]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "doctor",
        epilog="Example: audit-async doctor ./audit --config audit.toml. With a key store: audit-async doctor ./audit "
        "--key-store /var/lib/orders-keys --master-key file:/etc/orders/master.key",
        short_help="Check permissions, disk, clock, locks and configuration.",
    )(doctor)


@with_option_groups
def doctor(
    at: ConfiguredLogs,
    keys: KeyOptions,
    *,
    bucket: Annotated[
        str | None, typer.Option("--bucket", metavar="URL", show_default=False, help=f"Check it as well. {BUCKET_HELP}")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check permissions, disk, clock, locks and configuration, and say what would be lost in a crash now.

    It changes nothing and reads no more of the trail than it has to; whether the records are genuine is for verify.
    With --key-store, or if the configuration names one, it also checks who can open the key store, whether it came back
    from a backup older than an erasure, and with the master key whether that opens it. Whether every sealed member has
    its key is for: keystore check. With --bucket it tries whether the bucket of `bucket push` really locks, and says
    what it lacks of the logs; a tiny object stays there, locked for an hour.
    Exit status 1 if a check fails, 3 if something can't be read.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        settings = at.settings()
        logs = at.logs(settings)
        checks = _examine(logs, at.directory, settings)
        checks += _key_store(logs, keys, settings)
        if bucket is not None:
            checks += await bucket_checks.examine(logs, bucket)
        healthy = not any(check.status == "fail" for check in checks)
        if as_json:
            output.document(Diagnosis(healthy=healthy, checks=checks))
        else:
            _report(output, checks)
        if any(check.unreadable for check in checks):
            return ExitStatus.UNREADABLE
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


def _key_store(logs: list[Log], keys: KeyOptions, settings: AuditConfig | None) -> list[Check]:
    """Check the key store of the options, else that of the configuration."""
    if keys.key_store is not None:
        return key_store_checks.examine(logs, keys.key_store, keys.master_key)
    configured = settings.privacy if settings is not None else None
    if configured is None or not isinstance(configured.key_store, str):
        return []
    source = configured.master_key
    assert isinstance(source, str | ExternalMasterKey)  # noqa: S101 - a Privacy with a path has one
    return key_store_checks.examine(logs, configured.key_store, source)


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
    for subject, of_subject in groupby(checks, key=lambda check: check.subject):
        output.line(Cell(subject, "bold"))
        output.pairs((check.name, Cell(check.status, _STYLES[check.status]), check.text) for check in of_subject)
    counts = Counter(check.status for check in checks)
    output.line()
    output.line(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} wrong.")
