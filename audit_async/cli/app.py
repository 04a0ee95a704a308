"""The commands of `audit-async`, put together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from audit_async._version import __version__
from audit_async.cli import extra_commands
from audit_async.cli.commands import (
    backup,
    config_check,
    doctor,
    erase,
    export,
    hold,
    index,
    query,
    restore,
    retention,
    show,
    sql,
    stats,
    subject_data,
    tail,
    verify,
)
from audit_async.cli.run import ExitStatus

__all__ = ["run"]

app = typer.Typer(
    name="audit-async",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Read, check and look after audit trails.",
    epilog="Exit status: 0 all is well, 1 something was found, 2 wrong usage, 3 something can't be read or done.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"audit-async {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that are not of a command."""


# A module is named after its command. They are in the order of the help.
READING = (verify, query, tail, show, stats, export, sql, subject_data)
UPKEEP = (index, backup, restore, retention, hold, erase, doctor, config_check)
for module in (*READING, *UPKEEP, extra_commands):
    module.register(app)


def run(arguments: Sequence[str]) -> int:
    """Run the command that these arguments name; return the exit status."""
    try:
        app(list(arguments), prog_name="audit-async")
    except SystemExit as end:
        return int(end.code or 0)
    return ExitStatus.OK
