"""The commands that need the extra `tlog`; if it is not installed, they say what to install."""

from __future__ import annotations

import importlib.util

import typer

from audit_async.cli.trusted import NEEDS_TLOG

__all__ = ["register"]

_COMMANDS = ("keys", "prove", "verify-proof", "monitor")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    if importlib.util.find_spec("cryptography") is None:
        takes_anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        for name in _COMMANDS:
            app.command(name, hidden=True, context_settings=takes_anything)(_refuse)
        return
    from audit_async.cli.commands import keys, monitor, prove, verify_proof  # noqa: PLC0415 - they need the extra

    for module in (keys, prove, verify_proof, monitor):
        module.register(app)


def _refuse() -> None:
    """Needs the extra tlog."""
    raise typer.BadParameter(NEEDS_TLOG)
