"""The event loop that a log lives on, and the way to it from any other: never a wait for a loop that doesn't run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

from audit_async.errors import LogClosed

#: How often a wait on another loop looks whether the log's loop still runs, in seconds.
_LOOK_S: Final = 0.5

_T = TypeVar("_T")


def running_loop() -> asyncio.AbstractEventLoop:
    """Return asyncio's running loop; raises `LogClosed`, with what to do, if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise LogClosed(
            "an audit log lives on asyncio's event loop, and none is running here. Use asyncio.run(), uvloop.run(), "
            "audit_async.run() or anyio.run(main, backend='asyncio'); under trio, or in a program without a loop, open "
            "the log in the loop of anyio.from_thread.start_blocking_portal('asyncio'), and emit() from any thread"
        ) from None


class HomeLoop:
    """The loop on which a log was started."""

    def __init__(self) -> None:
        self.loop: Final = running_loop()

    @property
    def is_here(self) -> bool:
        """True if the running loop is the log's own."""
        here = asyncio._get_running_loop()  # noqa: SLF001 - None instead of an error, and no Python function
        return (here or running_loop()) is self.loop

    def check_runs(self) -> None:
        """Raise `LogClosed` if the log's loop can't answer, because it is closed or doesn't run."""
        if self.loop.is_running():
            return
        how = "is closed" if self.loop.is_closed() else "has stopped"
        raise LogClosed(
            f"the event loop that the audit log was started on {how}, so nothing can become durable now. Await this on "
            "that loop, and keep it running: one asyncio.run() around the log and all that uses it; with "
            "pytest-asyncio the same loop_scope for fixture and tests"
        )

    async def call(self, call: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """Await `call()` on the log's loop, from another one; raises `LogClosed` if that loop ends meanwhile."""
        self.check_runs()
        there = call()
        try:
            future = asyncio.run_coroutine_threadsafe(there, self.loop)
            answer = asyncio.wrap_future(future)
        except RuntimeError:  # it was closed since
            there.close()
            self.check_runs()
            raise
        try:
            while not (await asyncio.wait({answer}, timeout=_LOOK_S))[0]:
                self.check_runs()
        except BaseException:
            answer.cancel()
            if not self.loop.is_running() and inspect.getcoroutinestate(there) == inspect.CORO_CREATED:
                there.close()  # it never began, and never will
            raise
        return answer.result()
