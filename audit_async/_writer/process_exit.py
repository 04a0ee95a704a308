"""The end of the interpreter: a log that was never closed is drained, or the loss is reported.

An orderly end is no crash: a script that ends without `aclose()`, or whose loop runs in a daemon thread, loses nothing
that `emit` took. The drain runs in the exiting thread, and starts no thread and no loop: an interpreter that is about
to end refuses both.
"""

from __future__ import annotations

import atexit
import sys
from typing import Final, Protocol


class Unclosed(Protocol):
    """What is called, as the interpreter ends, on a log that is open still."""

    def drain_at_exit(self) -> None:
        """Make everything durable within a limited time, and say what could not be. Doesn't raise."""


_open: Final[set[Unclosed]] = (
    set()
)  # strong references: an open log that is no longer referred to holds events all the same


def drain_at_exit(log: Unclosed) -> None:
    """Have `log` drained should the interpreter end before `forget(log)`."""
    _open.add(log)
    # A child of `multiprocessing` ends by os._exit, and runs no atexit; it has finalizers of its own.
    util = sys.modules.get("multiprocessing.util")
    if util is not None and sys.modules["multiprocessing.process"].parent_process() is not None:
        util.Finalize(None, _at_exit, exitpriority=0)


def forget(log: Unclosed) -> None:
    """Leave `log` alone: it is closed."""
    _open.discard(log)


def _at_exit() -> None:
    while _open:
        _open.pop().drain_at_exit()


atexit.register(_at_exit)
