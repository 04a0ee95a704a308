"""The commands that need the extra `tlog`, `privacy` or `viewer`; if it is not installed, they say what to install."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import import_module
from typing import Final

import typer

from audit_async.cli.run import ExitStatus
from audit_async.cli.terminal import Output
from audit_async.cli.trusted import NEEDS_TLOG

__all__ = ["NAMES", "register"]

_NEEDS_PRIVACY: Final = "a key store needs the extra privacy; install it with: pip install 'audit-async[cli,privacy]'"
_NEEDS_VIEWER: Final = "the viewer needs the extra viewer; install it with: pip install 'audit-async[cli,viewer]'"
_NEEDS_SQLITE: Final = "a key store needs the module sqlite3, which this Python was built without"
_TAKES_ANYTHING: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
_NEEDED: Final = {
    "keys": NEEDS_TLOG,
    "prove": NEEDS_TLOG,
    "verify-proof": NEEDS_TLOG,
    "monitor": NEEDS_TLOG,
    "keystore": _NEEDS_PRIVACY,
    "serve": _NEEDS_VIEWER,
}
#: What the help says of a command that can't be imported.
_SUMMARIES: Final = {
    "keys": "Make the key that a log signs with. Needs the extra tlog.",
    "prove": "Write the evidence that a record is in a log. Needs the extra tlog.",
    "verify-proof": "Check the evidence for records, without the log. Needs the extra tlog.",
    "monitor": "Watch a published log from elsewhere. Needs the extra tlog.",
    "keystore": "Make, check, back up and rotate a key store. Needs the extra privacy.",
    "serve": "Show the trail in a browser. Needs the extra viewer.",
}
#: What the extra of a command installs, if that is more than `cryptography`.
_INSTALLED: Final = {"serve": ("starlette", "jinja2", "uvicorn", "joserfc", "cryptography")}
#: The commands.
NAMES: Final = tuple(_NEEDED)


def register(app: typer.Typer, name: str) -> None:
    """Add the command of this name."""
    if any(importlib.util.find_spec(module) is None for module in _INSTALLED.get(name, ("cryptography",))):
        _add_refusing(app, name, _NEEDED[name])
        return
    try:
        module = import_module(f"audit_async.cli.commands.{name.replace('-', '_')}")
    except ImportError as error:  # an interpreter that was built without it
        if error.name not in {"sqlite3", "_sqlite3"}:
            raise
        _add_refusing(app, name, _NEEDS_SQLITE)
    else:
        module.register(app)


def _add_refusing(app: typer.Typer, name: str, needed: str) -> None:
    app.command(name, help=_SUMMARIES[name], context_settings=_TAKES_ANYTHING)(_refusing(needed))


def _refusing(needed: str) -> Callable[[], None]:
    def refuse() -> None:
        Output(as_json=False).message(f"audit-async: {needed}")
        raise typer.Exit(ExitStatus.USAGE)

    return refuse
