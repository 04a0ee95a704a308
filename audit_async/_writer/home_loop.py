"""The event loop that a log lives on, and the way to it from any other: never a wait for a loop that doesn't run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as NotYet
from time import monotonic
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
            "audit_async.run() or anyio.run(main, backend='asyncio'); in a "
            "program without a loop, and under trio, audit_async.sync.SyncAuditLogger"
        ) from None


def call_and_block(
    call: Callable[[], Coroutine[None, None, _T]],
    timeout_s: float | None,
    loop: asyncio.AbstractEventLoop,
    check_runs: Callable[[], None],
) -> _T:
    """Run `call()` on another thread's loop and block this thread until it has an answer.

    Raises what `check_runs` does, which is asked now and then, if the loop doesn't run, or ends meanwhile;
    `TimeoutError`, and `RuntimeError` in a thread that runs an event loop, which would stand still.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - None instead of an error
        raise RuntimeError(
            "this would block the event loop that runs here; await it with an AuditLogger, or call it in a thread "
            "(asyncio.to_thread)"
        )
    check_runs()
    until = None if timeout_s is None else monotonic() + timeout_s
    there = call()
    try:
        future = asyncio.run_coroutine_threadsafe(there, loop)
    except RuntimeError:  # it was closed since
        there.close()
        check_runs()
        raise
    try:
        while True:
            left_s = _LOOK_S if until is None else min(_LOOK_S, max(0.0, until - monotonic()))
            try:
                return future.result(left_s)
            except NotYet:
                if future.done():  # the answer itself is a TimeoutError
                    raise
                check_runs()
                if until is not None and monotonic() >= until:
                    raise TimeoutError(f"no answer in {timeout_s} s; what was recorded stays recorded") from None
    finally:
        if not future.done():
            future.cancel()


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

    def call_and_block(self, call: Callable[[], Coroutine[None, None, _T]], timeout_s: float | None) -> _T:
        """Run `call()` on the log's loop and block this thread until it has an answer; see `call_and_block`."""
        return call_and_block(call, timeout_s, self.loop, self.check_runs)

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
