"""The commands that need the extra `tlog` or `privacy`; if it is not installed, they say what to install."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Final

import typer

from audit_async.cli.trusted import NEEDS_TLOG

__all__ = ["register"]

_NEEDS_PRIVACY: Final = "a key store needs the extra privacy; install it with: pip install 'audit-async[cli,privacy]'"
_NEEDS_SQLITE: Final = "a key store needs the module sqlite3, which this Python was built without"
_TAKES_ANYTHING: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
_COMMANDS: Final = {
    "keys": NEEDS_TLOG,
    "prove": NEEDS_TLOG,
    "verify-proof": NEEDS_TLOG,
    "monitor": NEEDS_TLOG,
    "keystore": _NEEDS_PRIVACY,
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    if importlib.util.find_spec("cryptography") is None:  # what both extras install
        for name, needed in _COMMANDS.items():
            app.command(name, hidden=True, context_settings=_TAKES_ANYTHING)(_refusing(needed))
        return
    from audit_async.cli.commands import keys, monitor, prove, verify_proof  # noqa: PLC0415 - need an extra

    for module in (keys, prove, verify_proof, monitor):
        module.register(app)
    try:
        from audit_async.cli.commands import keystore  # noqa: PLC0415 - needs an extra, and sqlite3
    except ImportError:  # an interpreter that was built without it
        app.command("keystore", hidden=True, context_settings=_TAKES_ANYTHING)(_refusing(_NEEDS_SQLITE))
    else:
        keystore.register(app)


def _refusing(needed: str) -> Callable[[], None]:
    def refuse() -> None:
        """Needs an extra."""
        raise typer.BadParameter(needed)

    return refuse
