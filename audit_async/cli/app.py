"""The commands of `audit-async`, put together.

A command imports what it needs, which may be half the package and a database. So only the module of the command that
is named is imported; the help, and a command line that names none, import all of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final

import typer

from audit_async._version import __version__
from audit_async.cli import extra_commands
from audit_async.cli.run import ExitStatus

__all__ = ["command_line", "run"]

#: The commands by what somebody wants to do, in the order of the help.
PANELS: Final = {
    "Read and check": (
        "verify", "query", "tail", "show", "stats", "sql", "serve", "report", "export", "partitions", "events",
    ),
    "Keep in order": ("doctor", "config", "index", "backup", "restore", "retention", "hold"),
    "Prove to others": ("keys", "prove", "verify-proof", "monitor"),
    "Personal data": ("keystore", "erase", "subject-data"),
    "Deliver to other systems": ("deliver", "replay", "alerts", "check-copies"),
    "Beyond one machine": ("forward", "collect", "hosts", "engine", "bucket"),
}  # fmt: skip
#: Where the next example begins: `... --since 24h. In a pipe: audit-async ...`.
_NEXT_EXAMPLE: Final = re.compile(r"\.\s+(?=[A-Z][^.:]*: (?:audit-async|SELECT) )")
_NAMES: Final = tuple(name for names in PANELS.values() for name in names)
#: Commands whose module has another name, since a package of the library has theirs.
_OTHER_MODULES: Final = {"alerts": "alert_commands", "config": "config_check", "events": "event_catalogue"}


def command_line(only: str | None = None) -> typer.Typer:
    """Return the program with all its commands; with `only`, if that is the name of a command, with no other."""
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
    app.callback()(_options)
    for panel, names in PANELS.items():
        for name in names:
            if only not in _NAMES or name == only:
                _register(app, name, panel)
    return app


def _register(app: typer.Typer, name: str, panel: str) -> None:
    """Add a command to its panel of the help."""
    before = len(app.registered_commands), len(app.registered_groups)
    if name in extra_commands.NAMES:
        extra_commands.register(app, name)
    else:
        module = _OTHER_MODULES.get(name, name.replace("-", "_"))
        import_module(f"audit_async.cli.commands.{module}").register(app)
    for command in app.registered_commands[before[0] :]:
        command.rich_help_panel = panel
        command.epilog = _examples(command.epilog)
    for group in app.registered_groups[before[1] :]:
        group.rich_help_panel = panel
        for command in group.typer_instance.registered_commands if group.typer_instance is not None else ():
            command.epilog = _examples(command.epilog)


def _examples(epilog: str | None) -> str | None:
    """Return the examples of a command's help, each on a line of its own and as code, whose asterisks stay."""
    if epilog is None or "`" in epilog:
        return epilog
    examples = (re.sub(r"^([^:]+): (.+)$", r"\1: `\2`", example) for example in _NEXT_EXAMPLE.split(epilog))
    return "\n\n".join(examples)


def run(arguments: Sequence[str]) -> int:
    """Run the command that these arguments name; return the exit status."""
    try:
        command_line(arguments[0] if arguments else None)(list(arguments), prog_name="audit-async")
    except SystemExit as end:
        return int(end.code or 0)
    return ExitStatus.OK


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"audit-async {__version__}\n")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that are not of a command."""
