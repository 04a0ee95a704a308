"""What a fork leaves to the child: nothing. The logs that are open belong to the parent.

In the child every open log is given up, so that it takes no events, writes nothing and keeps no file, and signals take
effect at once. A child that is forked while a log is being opened has no copy of its lock: see `_store.writer_lock`.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Final, Protocol

from audit_async._writer import signals


class Inherited(Protocol):
    """What the child calls on a logger that was open in its parent."""

    def forked(self) -> None:
        """Give up the log: it belongs to the parent."""


_open: Final[weakref.WeakSet[Inherited]] = weakref.WeakSet()


def give_up_in_child(log: Inherited) -> None:
    """Have `log`, which is open now, given up in a child that is forked from here on."""
    _open.add(log)


def forget(log: Inherited) -> None:
    """Leave `log` alone: it is closed, and there is nothing to give up."""
    _open.discard(log)


def _after_fork_in_child() -> None:
    signals.forget_all()
    for log in list(_open):
        log.forked()
    _open.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
