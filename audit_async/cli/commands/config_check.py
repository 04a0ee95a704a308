"""`audit-async config check`: whether a configuration is valid, and what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from audit_async.cli.arguments import Json
from audit_async.cli.crash_risk import at_risk
from audit_async.cli.place import load_config
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Column, Output
from audit_async.config import AuditConfig, Disabled, Local, Redaction
from audit_async.errors import ConfigError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    group = typer.Typer(no_args_is_help=True, help="Check a configuration.")
    app.add_typer(group, name="config")
    group.command(
        "check",
        epilog="Example: audit-async config check audit.toml",
        short_help="Check a configuration file, or the environment.",
    )(check)


def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", show_default=False, readable=False, help="A TOML file.")
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            metavar="PREFIX",
            help="Check the variables that begin with PREFIX, such as AUDIT_; with a FILE they replace its settings.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a configuration file, or the environment, or both together, and show every setting as it will be.

    Exit status 1 if a setting is wrong; the message names it and what is allowed.
    """
    if file is None and environment is None:
        raise typer.BadParameter("give a FILE, or --environment PREFIX, or both")
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        return _check(output, file, environment)

    perform(output, run)


def _check(output: Output, file: Path | None, environment: str | None) -> ExitStatus:
    try:
        if file is not None:
            config = load_config(file, env_prefix=environment)
        else:
            config = AuditConfig.from_env(environment or "")
    except ConfigError as error:
        if output.as_json:
            output.document({"valid": False, "field": error.field, "reason": error.reason})
        else:
            output.line(Cell("wrong", "red"), f"  {error}")
        return ExitStatus.FINDINGS
    settings = _flat(msgspec.to_builtins(config))
    if config.redaction.keys == Redaction().keys:
        settings["redaction.keys"] = f"the {len(config.redaction.keys)} names that are built in"
    records = isinstance(config.mode, Local)
    risk = at_risk(config.flush_mode) if records else "everything: recording is switched off"
    if output.as_json:
        output.document({"valid": True, "settings": msgspec.to_builtins(config), "a_crash_can_lose": risk})
        return ExitStatus.OK
    sources = [
        *([] if file is None else [str(file)]),
        *([] if environment is None else [f"the variables {environment}*"]),
    ]
    output.line(Cell("valid", "green"), f"  {' and '.join(sources)}")
    output.table([Column("setting"), Column("value")], sorted(settings.items()))
    output.line()
    output.line(Cell("A crash can lose: ", "bold"), f"{risk}.")
    if isinstance(config.mode, Disabled):
        output.line(Cell("Nothing is recorded with this configuration: mode is disabled.", "yellow"))
    return ExitStatus.OK


def _flat(table: dict[str, object], above: str = "") -> dict[str, str]:
    """Return nested settings by their dotted names."""
    flat: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            flat[above + name] = ", ".join(map(str, value)) or "none"
        elif isinstance(value, bool):
            flat[above + name] = str(value).lower()  # as it is written in the file
        else:
            flat[above + name] = "not set" if value is None else str(value)
    return flat
