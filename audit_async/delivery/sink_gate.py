"""What the deliveries of one sink share: how many may send at a time, and when the receiver may be tried again."""

from __future__ import annotations

import random
import time
from typing import Final

import anyio

from audit_async.delivery.delivery_sink import DeliverySink, Outcome, SendResult

__all__ = ["SinkGate"]

#: So many logs have a batch in memory at a time; the others wait with nothing but their position.
AT_A_TIME: Final = 4
#: Waits after a failure, in seconds: doubled from the first to the last, each shortened by chance.
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 60.0
#: While a person has to act.
_SLOW_RETRY_S: Final = 60.0
#: No receiver is left alone for longer, whatever it asks for.
_LONGEST_RETRY_S: Final = 3600.0


class SinkGate:
    """Lets the deliveries of a sink through; for one event loop.

    Args:
        sink: What they send to.
    """

    def __init__(self, sink: DeliverySink) -> None:
        self.sink: Final = sink
        self.slots: Final = anyio.Semaphore(AT_A_TIME)
        self._retry_s = _FIRST_RETRY_S
        self._not_before = 0.0
        self._known = ""  # the problem that was reported last

    def __repr__(self) -> str:
        return f"<SinkGate {self.sink!r} opens_in={self.opens_in_s:.1f}>"

    @property
    def opens_in_s(self) -> float:
        """How long the receiver is left alone."""
        return max(0.0, self._not_before - time.monotonic())

    def accepted(self) -> None:
        """The receiver takes records."""
        self._retry_s, self._not_before, self._known = _FIRST_RETRY_S, 0.0, ""

    def is_news(self, problem: str) -> bool:
        """Return whether a problem of the receiver is another one than before; all logs of the sink have the same."""
        is_news, self._known = problem != self._known, problem
        return is_news

    def failed(self, result: SendResult) -> None:
        """The receiver did not take a batch: nobody tries before the time that follows from it."""
        if result.outcome is Outcome.RETRY:
            wait_s = self._retry_s * random.uniform(0.5, 1.0)  # noqa: S311 - so that hosts don't all come back at once
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
            wait_s = max(wait_s, min(result.retry_after_s or 0.0, _LONGEST_RETRY_S))
        else:
            wait_s = _SLOW_RETRY_S * random.uniform(0.5, 1.0)  # noqa: S311 - as above
        self._not_before = time.monotonic() + wait_s
