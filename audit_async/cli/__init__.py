"""The command line `audit-async`: reading, checking and looking after trails, for people and for programs.

Needs the extra `cli` (typer and rich); nothing else in the package imports this room.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `audit-async` with these arguments, by default those of the process; return the exit status.

    0: all is well. 1: something was found, such as damage. 2: wrong usage. 3: something can't be read or done.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"audit-async: the command line needs {' and '.join(missing)}; install it with: "
            "pip install 'audit-async[cli]'\n"
        )
        return 2
    from audit_async.cli.app import run  # noqa: PLC0415 - imports typer and rich, which may be missing

    return run(sys.argv[1:] if arguments is None else arguments)
