"""A lock for what a module keeps for the whole process, which no thread of a parent can hold in a forked child."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any

__all__ = ["ForkLock"]


class ForkLock:
    """Has a re-entrant lock that is a new one in each forked child: a thread that is not there may have had the other.

    Re-entrant, since a signal handler may import a module, and so need it, while its thread holds it. For a module's
    whole life: nothing takes it from the list of what is done at a fork.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        # Typed as what `with` needs: `threading.RLock` is a function before Python 3.13.
        self.current: Any = RLock()  #: to be held, `with lock.current:`, which releases what it took, also after a fork
