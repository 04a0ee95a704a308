"""The one thread that touches the disk for a log: calls go in, are made in order, and their results come back.

A thread of our own, not the host's pool: that may be exhausted or shut down just when the log needs it. It is a
daemon, so a disk that hangs for ever does not keep a process from ending; a log that was closed in order has stopped
it before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, Final, Generic, ParamSpec, TypeVar

import msgspec

from audit_async.errors import LogClosed

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: How long the thread has no call before it makes the one that is to be made then, in seconds.
_IDLE_S: Final = 0.01


class Done(msgspec.Struct, Generic[_T], frozen=True):
    """How a call in the disk thread ended: with a result, or an error."""

    result: _T | None
    error: BaseException | None


_Ended = Callable[[Done[Any]], object]


class DiskThread:
    """A thread with a queue of calls. `start` is the way in; `call` is the same to await, and `wait` to block for."""

    def __init__(self, name: str) -> None:
        # A call with its arguments, and what is called when it has ended; None is the end of the thread.
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], _Ended] | None] = SimpleQueue()
        self._stopped = False
        #: Made once, as soon as no call came for 10 ms; set in the thread. It must not raise.
        self.once_idle: Callable[[], None] | None = None
        Thread(target=self._run, name=name, daemon=True).start()

    def start(
        self, call: Callable[_P, _T], done: Callable[[Done[_T]], object], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        """Have the thread make a call, then `done(...)`, in the thread, with how it ended. It can't be cancelled.

        Raises `LogClosed` after `stop`.
        """
        if self._stopped:
            raise LogClosed("the audit log is closed, so its files are left as they are")
        self._calls.put((partial(call, **kwargs) if kwargs else call, args, done))

    def call(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        """Have the thread make a call; the future, of the running loop, has its result or error. Raises as `start`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self.start(call, in_loop(loop, lambda done: _settle(future, done)), *args, **kwargs)
        return future

    def wait(self, call: Callable[[], _T], timeout_s: float) -> Done[_T] | None:
        """Have the thread make a call, and block until it is done; None if that takes longer. Raises as `start`."""
        ended = Event()
        outcome: list[Done[_T]] = []

        def done(how: Done[_T]) -> None:
            outcome.append(how)
            ended.set()

        self.start(call, done)
        return outcome[0] if ended.wait(timeout_s) else None

    def stop(self) -> None:
        """Let the thread end after the calls that were made before; doesn't wait, since the disk may hang."""
        self._stopped = True
        self._calls.put(None)

    def _run(self) -> None:
        get = self._calls.get
        while True:
            try:
                due = get() if self.once_idle is None else get(timeout=_IDLE_S)
            except Empty:
                assert self.once_idle is not None  # noqa: S101 - the timeout is for it
                once_idle, self.once_idle = self.once_idle, None
                once_idle()
                continue
            if due is None:
                return
            call, args, done = due
            result, error = None, None
            try:
                result = call(*args)
            except BaseException as caught:  # noqa: BLE001 - it belongs to `done`
                error = caught
            done(Done(result, error))
            # Or what they refer to would live until the next call. And an error's traceback refers to this frame: while
            # the disk fails, that circle would keep what each try was to write, megabytes of it.
            del due, call, args, done, result, error


def in_loop(loop: asyncio.AbstractEventLoop, done: Callable[[Done[_T]], object]) -> Callable[[Done[_T]], None]:
    """Return what calls `done` in `loop`, from the disk thread; does nothing if that loop is closed by then."""

    def deliver(how: Done[_T]) -> None:
        try:
            loop.call_soon_threadsafe(done, how)
        except RuntimeError:  # closed: no task waits any more
            return

    return deliver


def _settle(future: asyncio.Future[_T], done: Done[_T]) -> None:
    if future.done():  # the task that waited was cancelled
        return
    if done.error is not None:
        future.set_exception(done.error)
    else:
        future.set_result(done.result)  # type: ignore[arg-type]  # None only if the call returns it
