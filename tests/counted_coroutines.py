"""Count the lines that coroutines run after an exception was handled, which Python 3.11 does not report by itself.

If a task is resumed with an exception (most often since its wait was cancelled) and an inner coroutine handles it,
CPython 3.11 continues the coroutines that await the inner one without a `call` event to the trace function, but sends
their `return` events. Coverage takes the lines that follow, up to the next real wait, for those of another frame: so it
loses what follows most task groups and time limits of anyio. Python 3.12 sends the event.
https://github.com/python/cpython/issues/106749
"""

from __future__ import annotations

import asyncio
import functools
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import uvloop


class CountedCoroutine(Coroutine[Any, Any, Any]):
    """A task's coroutine, resumed without the exception if the future that it waits for raises the same by itself.

    `Future.__await__` raises what became of the future as soon as it is resumed, so the coroutine sees no difference;
    but its frames are entered one by one from the outermost on, and each is reported.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._waits_for: object = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        """Return the coroutine's own iterator; a task doesn't ask for it."""
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """Resume it."""
        self._waits_for = self._coroutine.send(value)
        return self._waits_for

    def throw(self, *raised: Any) -> Any:
        """Resume it with an exception."""
        if _raises(self._waits_for, raised[0]):
            return self.send(None)
        self._waits_for = self._coroutine.throw(*raised)
        return self._waits_for

    def close(self) -> None:
        """End it."""
        self._coroutine.close()


def _raises(future: object, error: object) -> bool:
    """Return whether waiting for a future raises this error."""
    if not isinstance(future, asyncio.Future) or not future.done():
        return False
    if future.cancelled():
        return isinstance(error, asyncio.CancelledError)
    return future.exception() is error


def count_coroutines() -> None:
    """Let each task that is created in this process, on either loop, run a `CountedCoroutine`."""
    for loop in (BaseEventLoop, uvloop.Loop):
        loop.create_task = _counting(loop.create_task)  # type: ignore[method-assign]


def _counting(create_task: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(create_task)
    def create_counted_task(self: asyncio.AbstractEventLoop, coro: Any, **given: Any) -> Any:
        return create_task(self, CountedCoroutine(coro) if asyncio.iscoroutine(coro) else coro, **given)

    return create_counted_task
