"""The open files of logs that have nothing new at the moment: kept for what comes next, but only so many of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from audit_async.forwarding.log_tail import LogTail

__all__ = ["IdleTails"]

#: Opening a segment again costs some hundred microseconds.
_MOST: Final = 64


class IdleTails:
    """Closes the file of the log that was idle for longest, if there are too many. For one event loop."""

    def __init__(self) -> None:
        self._tails: Final[OrderedDict[LogTail, None]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<IdleTails {len(self._tails)}>"

    def keep(self, tail: LogTail) -> None:
        """Take a tail that is not read now; its file may be closed from here on, and is opened again by `read`."""
        self._tails[tail] = None
        self._tails.move_to_end(tail)
        if len(self._tails) > _MOST:
            oldest, _ = self._tails.popitem(last=False)
            oldest.close()

    def take(self, tail: LogTail) -> None:
        """Leave the tail alone from here on: it is read, or closed for good."""
        self._tails.pop(tail, None)
