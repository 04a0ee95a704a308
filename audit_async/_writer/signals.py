"""How a process ends: SIGTERM and SIGINT drain the logs, then take their ordinary course.

One handler per signal serves all loggers of the process. It changes nothing about what the signal does in the end,
only what happens before:

- if nobody else handles the signal (SIGTERM's default, Python's own KeyboardInterrupt), the logs are closed in order,
  `audit.log_closed` included, and the signal has the effect that it would have had: exit status 143, KeyboardInterrupt.
  A log of another thread's loop stays open for KeyboardInterrupt, which the program may catch: everything emitted so
  far is made durable, and the log is closed as the program ends;
- if another handler was there (uvicorn, gunicorn, asyncio.Runner, the application), everything emitted so far is made
  durable and that handler is called; the logs stay open for the requests that are still running, and are closed by
  their context managers as the application ends;
- a signal that is ignored stays ignored.

Logs may live on several loops, in other threads as well (`audit_async.sync`): each loop drains its own, and when the
last one has, the signal takes effect in the main thread, to which it is sent once more.

A second signal of the same kind does not wait for the first one's drain, nor for a loop that is too busy to begin it;
and if no loop runs that could drain, the signal takes effect at once.

No process lives on with a log that was closed for a signal: one that the signal does not end (the kernel drops SIGTERM
for the first process of a container, a thread may have blocked it) ends with the exit status that a shell shows for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, Protocol

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_Handler = Callable[[int, FrameType | None], object]
#: In the place of a handler: whichever are there when the drain is over.
_ITS_COURSE: Final = -1


class Drainable(Protocol):
    """What the handler needs of a logger. Both methods return within the logger's drain timeout, and don't raise."""

    async def flush_for_signal(self) -> None:
        """Make everything emitted so far durable, and stay open."""

    async def close_for_signal(self) -> None:
        """Drain, and close the log in order."""


class _SignalCourse:
    """One signal: its handlers before ours, and which logs to drain. Owned by the main thread."""

    def __init__(self, signum: signal.Signals) -> None:
        self.signum = signum
        self.logs: dict[Drainable, asyncio.AbstractEventLoop] = {}
        # The handlers that ours was put in front of, the latest last. More than one if another handler was put in front
        # of ours, which may call ours, and then another log was opened.
        self._before: list[_Handler | int] = []
        self._given_back = False
        self._asked = False  # a signal has come, and its drain is not over
        self._draining: set[asyncio.AbstractEventLoop] = set()  # the loops whose drain is not over
        self._due: _Handler | int | None = None  # drained: what the signal does now, in the main thread
        self._lock = threading.RLock()  # over the two; a handler may interrupt its holder
        self._drains: set[asyncio.Task[None]] = set()  # kept, since a loop has only weak references to its tasks
        # While the signal takes effect: which of `_before` comes next if the one that is called calls ours in its turn.
        self._older: int | None = None
        # Kept, since each look-up of a bound method is a new object and `uninstall` asks "still ours?".
        self._handler: _Handler = self._on_signal

    def __repr__(self) -> str:
        state = "draining" if self._asked else "waiting"
        return f"<{type(self).__name__} {self.signum.name} {state} logs={len(self.logs)}>"

    def install(self) -> None:
        """Put our handler before the one that is there, unless it is there already or the signal is ignored."""
        before = signal.getsignal(self.signum)
        if before is None or before is self._handler or before == signal.SIG_IGN:
            return  # None: a handler that wasn't set from Python, which could not be called in its turn
        if before in self._before:
            del self._before[self._before.index(before) :]
        elif self._given_back and len(self._before) == 1:
            self._before.clear()  # it never had our handler before it, so it can't call ours
        self._given_back = False
        self._before.append(before)
        signal.signal(self.signum, self._handler)

    def uninstall(self) -> None:
        """Give the signal back, unless another handler was put in front of ours, which may call it."""
        if signal.getsignal(self.signum) is not self._handler or not self._before:
            return
        signal.signal(self.signum, self._before[-1])  # and kept, for whoever has remembered our handler
        self._given_back = True

    def forked(self) -> None:
        """Leave the logs, and a drain that is under way, to the parent."""
        self.logs.clear()
        self._lock = threading.RLock()  # the parent's may be held by a thread that is not here
        self._asked = False
        self._draining.clear()
        self._due = None

    def _on_signal(self, _signum: int, frame: FrameType | None) -> None:
        """Begin to drain on the loop; without one, or at the second signal, let the signal take effect at once."""
        with self._lock:
            due, self._due = self._due, None
        if due is not None:
            self._asked = False
            self._finish(due, frame)
            return
        loops = {loop for loop in self.logs.values() if loop.is_running()}  # one that does not may never run again
        if self._older is not None or self._asked or not loops:
            self._take_effect(frame)
            return
        self._asked = True
        with self._lock:
            self._draining = set(loops)
        begun = 0
        for loop in loops:
            try:
                loop.call_soon_threadsafe(self._begin_drain, loop, frame)
                begun += 1
            except RuntimeError:  # that loop is closed: there is nothing left to drain with
                self._draining.discard(loop)
        if not begun:
            self._asked = False
            self._take_effect(frame)

    def _begin_drain(self, loop: asyncio.AbstractEventLoop, frame: FrameType | None) -> None:
        task = loop.create_task(self._drain(loop, frame), name="audit-async signal")
        self._drains.add(task)  # it may be over by now: an eager task runs at once
        task.add_done_callback(self._drains.discard)

    async def _drain(self, loop: asyncio.AbstractEventLoop, frame: FrameType | None) -> None:
        # Decided once: whatever handler is set meanwhile, a process whose logs were closed has to end.
        before = self._before[-1]
        ends_here = before == signal.SIG_DFL or before is signal.default_int_handler
        # A KeyboardInterrupt ends the loop of the main thread, and none else: what is recorded after it, by whoever
        # catches it and on the way out, needs the logs of the others.
        is_elsewhere = threading.current_thread() is not threading.main_thread()
        closes = before == signal.SIG_DFL or (ends_here and not is_elsewhere)
        try:
            for log in [log for log, its_loop in self.logs.items() if its_loop is loop]:
                await (log.close_for_signal() if closes else log.flush_for_signal())
        finally:
            with self._lock:
                self._draining.discard(loop)
                is_last = not self._draining
            what = before if ends_here else _ITS_COURSE
            if is_last and threading.current_thread() is threading.main_thread():
                self._asked = False
                # From a callback, not from this task: a KeyboardInterrupt belongs to the loop's runner.
                loop.call_soon(self._finish, what, frame)
            elif is_last:
                self._due = what
                self._interrupt_main_thread()

    def _interrupt_main_thread(self) -> None:
        """Have our handler called there, also if that thread waits for something."""
        main = threading.main_thread().ident
        if sys.platform != "win32" and main is not None:
            signal.pthread_kill(main, self.signum)
        else:
            signal.raise_signal(self.signum)

    def _finish(self, what: _Handler | int, frame: FrameType | None) -> None:
        """Let the signal take effect now that all is drained: as it was decided then, or as its handlers are by now."""
        if what == _ITS_COURSE:
            self._take_effect(frame)
        else:
            self._call(what, frame)

    def _take_effect(self, frame: FrameType | None) -> None:
        """Let the signal do what it would have done without us."""
        outer = self._older
        index = len(self._before) - 1 if outer is None else outer
        if index < 0:
            return
        self._older = index - 1
        try:
            self._call(self._before[index], frame)
        finally:
            self._older = outer

    def _call(self, before: _Handler | int, frame: FrameType | None) -> None:
        if callable(before):
            before(self.signum, frame)
        else:
            self._end_process()

    def _end_process(self) -> None:
        """End by the signal, or by an exit status if the signal does not end this process; never returns."""
        signal.signal(self.signum, signal.SIG_DFL)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.signum})
        signal.raise_signal(self.signum)
        # Still here: the kernel drops it for the first process of a pid namespace. As abrupt as the signal would be,
        # since a thread or an exit handler that does not end must not keep alive what was told to end.
        os._exit(128 + self.signum)


_courses: dict[signal.Signals, _SignalCourse] = {}


def drain_on_signals(log: Drainable, loop: asyncio.AbstractEventLoop) -> None:
    """Drain `log`, which lives on `loop`, when a signal ends the process. No-op outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in _SIGNALS:
        course = _courses.setdefault(signum, _SignalCourse(signum))
        course.logs[log] = loop
        course.install()


def forget(log: Drainable) -> None:
    """Stop draining `log`; after the last one each signal has its earlier handler again. Any thread may call it."""
    for course in _courses.values():
        if course.logs.pop(log, None) is None:
            continue
        if not course.logs and threading.current_thread() is threading.main_thread():
            course.uninstall()


def forget_all() -> None:
    """Drain nothing any more, and let signals take effect at once: for a forked child, whose logs are its parent's."""
    for course in _courses.values():
        course.forked()
