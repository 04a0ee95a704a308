"""What the deliveries of one sink share: who may send, when the receiver is tried again, and how much it takes."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from audit_async.delivery.deliverable_record import EncodedRecord
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
#: How long a batch stays smaller after one was too large, in seconds; then it is tried with twice the size.
_LARGER_AFTER_S: Final = 600.0


class SinkGate:
    """Lets the deliveries of a sink through; for one event loop.

    After a failure only one of them tries at a time, until the receiver has taken something: it is not asked once for
    each log.

    Args:
        sink: What they send to.
        max_bytes: How many bytes are sent at a time, by the settings.
    """

    def __init__(self, sink: DeliverySink, *, max_bytes: int = 1 << 20) -> None:
        self.sink: Final = sink
        self.failure: SendResult | None = None  #: why nobody is let through, or only one at a time
        self.last_taken: EncodedRecord | None = None  #: what the receiver took last, of any log
        self._slots: Final = anyio.Semaphore(AT_A_TIME)
        self._probe: Final = anyio.Lock()
        self._retry_s = _FIRST_RETRY_S
        self._not_before = 0.0
        self._accepted_at = float("-inf")
        self._breaks = sink.breaks
        self._broke_at = float("-inf")
        self._known = ""  # the problem that was reported last
        self._most_bytes: Final = max_bytes
        self._max_bytes = max_bytes
        self._larger_at = 0.0

    def __repr__(self) -> str:
        return f"<SinkGate {self.sink!r} opens_in={self.opens_in_s:.1f} max_bytes={self._max_bytes}>"

    @property
    def opens_in_s(self) -> float:
        """How long the receiver is left alone."""
        return max(0.0, self._not_before - time.monotonic())

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Wait for a place; whether the receiver may be tried by then, `opens_in_s` says."""
        async with self._slots:
            if self.failure is None:
                yield
                return
            async with self._probe:
                yield

    def accepted(self, last: EncodedRecord) -> None:
        """The receiver takes records, this one at last."""
        self.last_taken = last
        now = time.monotonic()
        self.failure, self._accepted_at, self._known = None, now, ""
        if now - self._broke_at > _LAST_RETRY_S:  # what breaks again and again takes something each time
            self._retry_s, self._not_before = _FIRST_RETRY_S, 0.0

    def is_news(self, problem: str) -> bool:
        """Return whether a problem of the receiver is another one than before; all logs of the sink have the same."""
        is_news, self._known = problem != self._known, problem
        return is_news

    def failed(self, result: SendResult) -> float:
        """The receiver did not take a batch: nobody tries before the time that follows from it.

        Returns:
            How long this log waits. If the receiver takes the records of other logs and refuses those of this one, the
            others don't wait for it.
        """
        now = time.monotonic()
        if result.outcome is Outcome.REFUSED:
            if now - self._accepted_at > _SLOW_RETRY_S:
                self._close(now + _SLOW_RETRY_S * _chance(), result)
            return 2 * _SLOW_RETRY_S * _chance()  # other logs try before it does
        if result.outcome is Outcome.RETRY:
            wait_s = max(self._next_retry_s(now), min(result.retry_after_s or 0.0, _LONGEST_RETRY_S))
        else:
            wait_s = _SLOW_RETRY_S * _chance()
        self._close(now + wait_s, result)
        return self.opens_in_s

    def broke(self, breaks: int, reason: str) -> None:
        """What was sent lately may be lost: it is sent again, after a wait that grows with each break."""
        if breaks != self._breaks:  # each delivery notices it
            self._breaks = breaks
            now = time.monotonic()
            self._close(now + self._next_retry_s(now), SendResult(outcome=Outcome.RETRY, reason=reason))
            self._broke_at = now

    def _close(self, until: float, result: SendResult) -> None:
        self.failure = result
        self._not_before = max(self._not_before, until)

    def _next_retry_s(self, now: float) -> float:
        wait_s = self._retry_s * _chance()
        if now >= self._not_before:  # failures of the same moment are one
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
        return wait_s

    # -- how much at a time ------------------------------------------------------------------------------------------

    @property
    def max_bytes(self) -> int:
        """How many bytes the receiver takes at a time, as far as is known; no more than the settings allow."""
        now = time.monotonic()
        if self._max_bytes < self._most_bytes and now >= self._larger_at:
            self._max_bytes = min(2 * self._max_bytes, self._most_bytes)
            self._larger_at = now + _LARGER_AFTER_S
        return self._max_bytes

    def learn_size(self, taken: int, refused: int | None) -> None:
        """Learn from a batch that was sent in parts.

        Args:
            taken: How many bytes the receiver took together at most.
            refused: The fewest that were too many for it; None if it said so of none. If it took more than that, it is
                not their number that it refused.
        """
        if refused is not None and taken < refused:
            self._max_bytes = max(1, taken, min(self._max_bytes, refused) // 2)
            self._larger_at = time.monotonic() + _LARGER_AFTER_S


def _chance() -> float:
    """Return by how much a wait is shortened, so that hosts don't all come back at once."""
    return random.uniform(0.5, 1.0)  # noqa: S311 - no secret
