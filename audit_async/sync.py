"""The front door for synchronous code: `SyncAuditLogger`, for scripts, WSGI services and workers without an event loop.

Its log lives on an event loop in one daemon thread of this module, which all logs of the process share. `emit` only
hands an event over, as ever. Nothing waits for that thread as the interpreter ends: the logs are closed by an exit
handler before, and if the loop can't do it any more, the exiting thread drains them itself (`_writer.process_exit`).
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import importlib.util
import logging
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self, TypeVar

import msgspec

from audit_async._writer import signals
from audit_async._writer.home_loop import call_and_block
from audit_async._writer.receipts import Receipt
from audit_async.config import AuditConfig, Disabled
from audit_async.errors import AuditError, ConfigError, LogClosed, WriteFailed
from audit_async.events import AuditEvent
from audit_async.logger import AuditLogger
from audit_async.logger.blocking_calls import BlockingCalls
from audit_async.status import CommitObserver, Health, LoggerStats, Position, describe_error

__all__ = ["SyncAuditLogger"]

_log = logging.getLogger("audit_async")
_T = TypeVar("_T")

#: How much longer than the drain timeout the end of a log may take: opening and closing files.
_MARGIN_S: Final = 5.0


class SyncAuditLogger(BlockingCalls):
    """One audit log for synchronous code: `with SyncAuditLogger(config) as audit: audit.emit(event)`.

    Promises what `AuditLogger` promises. It is closed by `close`, by the end of `with` and of the interpreter, and
    drained if SIGTERM or SIGINT ends the process (`AuditConfig.handle_signals`; it has to be started in the main thread
    for that). After a KeyboardInterrupt that is caught it goes on. What `os._exit` or SIGKILL interrupt is not drained:
    then the flush mode says what can be lost.

    Prefork servers may start it before they fork: a forked child has a log of its own, in the next instance slot, which
    is opened when it emits for the first time. So leave `instance` out of the configuration.

    Args:
        config: All settings, as for `AuditLogger`.
        in_child: What a forked child does at its first call: `open` a log of its own, or `refuse`, as `AuditLogger`
            does, with `LogClosed`.

    Raises:
        ConfigError: `config` is no `AuditConfig`, or `in_child` is something else.
    """

    def __init__(self, config: AuditConfig, *, in_child: Literal["open", "refuse"] = "open") -> None:
        if in_child not in {"open", "refuse"}:
            raise ConfigError("in_child", "give 'open' or 'refuse'")
        self._logger = AuditLogger(config)  # refuses what is no configuration
        self.config: Final = config
        self._in_child: Final = in_child
        self._state: Literal["new", "open", "forked", "closed"] = "new"
        # Re-entrant: a signal handler may close the log, or emit in a child, while its thread holds it.
        self._lock = threading.RLock()
        self._is_opening = False
        self._close_asked = False  #: by a signal handler that has interrupted the opening
        self._uncounted: Counter[tuple[str, str]] = Counter()  #: what a child has lost before its log was open
        self._emit: Callable[[AuditEvent], Receipt] = self._logger.emit
        self._observers: Final[dict[CommitObserver, Callable[[], None]]] = {}  # with what ends each
        _all.add(self)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, or copied: the log is open in this process and once."""
        raise TypeError(
            f"a {type(self).__name__} can't be pickled or copied, since its log belongs to one object of one process; "
            "give the other process config, which can be pickled, and open a logger there"
        )

    def __repr__(self) -> str:
        return f"<SyncAuditLogger {self._state} {self._logger!r}>"

    # Recording.

    def emit(self, event: AuditEvent) -> Receipt:
        """Take `event` into the trail. Never waits; from any thread.

        In a forked child the first call opens a log, which takes some milliseconds.

        Args:
            event: An event of `audit_async.events`, or of a class of your own.

        Returns:
            The event's receipt; its `wait()` returns once the record is durable.

        Raises:
            InvalidEvent, BufferFull, WriteFailed: As `AuditLogger.emit` does.
            LogClosed: Before the start and after the end.
            AuditError, OSError: The log of a forked child can't be opened.
        """
        return self._emit(event)

    def emit_durable(self, event: AuditEvent, timeout_s: float | None = None) -> Position:
        """Record `event` and return its place in the chain once it is on stable storage.

        Waits for room if the buffer is full, and does not wait for the flush mode's interval. Blocks its thread.

        Args:
            event: As for `emit`.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The record's sequence number and hash.

        Raises:
            TimeoutError: It is not durable yet, or not recorded for want of room.
            InvalidEvent, WriteFailed, LogClosed: As `emit` does.
            RuntimeError: This thread runs an event loop, which would stand still; use an `AuditLogger` there.
        """
        logger = self._opened()
        return self._call(lambda: logger.emit_durable(event), timeout_s)

    def flush(self, timeout_s: float | None = None) -> None:
        """Return once everything emitted so far is on stable storage. Blocks its thread.

        Args:
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer.
            WriteFailed, LogClosed, RuntimeError: As `emit_durable` does.
        """
        logger = self._opened()
        self._call(logger.flush, timeout_s)

    def count_lost(self, event_type: str, reason: str) -> None:
        """Count an event that could not be emitted, so that its loss does not go unnoticed; from any thread.

        For code that makes events of something else, as the integrations do, and fails at it. In a forked child whose
        log can't be opened now, it is counted as soon as the log is open.

        Args:
            event_type: The type of the event that is missing.
            reason: A word for the record, such as `invalid_event`.
        """
        if self._state == "forked":
            try:
                self._open_in_child()  # the log that counts for this process
            except (AuditError, OSError) as error:
                self._count_once_open(event_type, reason, error)
                return
        self._logger.count_lost(event_type, reason)

    def _count_once_open(self, event_type: str, reason: str, error: Exception) -> None:
        """Keep what a child has lost until its log is open, and report it, since that may never be."""
        if self._in_child == "refuse":
            _log.error("an event of a forked process is lost uncounted: %s", describe_error(error))
            return
        with self._lock:
            if self._state == "forked":
                self._uncounted[event_type, reason] += 1
            else:  # another thread has opened it meanwhile
                self._logger.count_lost(event_type, reason)
        _log.error(
            "an event of a forked process is lost, and counted only once its log is open: %s", describe_error(error)
        )

    # State.

    def health(self) -> Health:
        """Return whether events are being recorded, and what is wrong; from any thread, never waits."""
        return self._logger.health()

    def stats(self) -> LoggerStats:
        """Return counts and times since the opening; from any thread, never waits."""
        return self._logger.stats()

    @property
    def directory(self) -> Path | None:
        """The log's own directory, `<base_dir>/<service_id>/<instance>`; None before the start and when disabled."""
        return None if self._state == "forked" else self._logger.directory

    def observe_commits(self, observer: CommitObserver) -> Callable[[], None]:
        """Call `observer(commit)` after each commit to the disk, in the log's own thread; return what ends that.

        May be called before the start, so that no commit is missed. A forked child's log is observed as well.

        Args:
            observer: Should take microseconds. One that raises is logged and called no more.

        Returns:
            A function that ends it.
        """
        self._observers[observer] = self._logger.observe_commits(observer)

        def end() -> None:
            if stop := self._observers.pop(observer, None):
                stop()

        return end

    # Life cycle.

    def start(self, *, blocks_event_loop: bool = False) -> None:
        """Open the log and begin to take events; `with` does the same. Blocks its thread until the log is open.

        Args:
            blocks_event_loop: Open it also if this thread runs an event loop, which stands still for the milliseconds
                that it takes: for frameworks whose code is synchronous, and is loaded or called by a server's loop.

        Raises:
            LogLocked, LogCorrupted, ConfigError, WriteFailed: As `AuditLogger.start` does.
            LogClosed: It was started before, or a signal handler has closed it meanwhile.
            RuntimeError: This thread runs an event loop; use an `AuditLogger` there.
        """
        if not blocks_event_loop and not isinstance(self.config.mode, Disabled):
            _refuse_in_event_loop()
        with self._lock:
            if self._state != "new" or self._is_opening:
                before = "closed" if self._state == "closed" else "started"
                raise LogClosed(f"this SyncAuditLogger was {before} before; it is opened once, make a new one")
            self._open()

    def close(self) -> None:
        """Take no more events, make everything that was taken durable, and unlock the log. Blocks its thread.

        May be called again, and from several threads. In a forked child that has emitted nothing there is nothing to
        close, and it opens no log any more. In a signal handler that interrupts the opening, or another closing, of the
        same thread it returns at once, and that call does it.

        Raises:
            WriteFailed: Something could not be made durable; the message says how much.
            RuntimeError: This thread runs an event loop. The log stays open; close it after the loop has ended.
        """
        with self._lock:
            if self._is_opening:
                self._close_asked = True
                return
            if self._state != "open":
                self._state = "closed"
                self._emit = self._logger.emit  # which refuses: it was never opened, is closed, or is the parent's
                return
            session = self._logger._session  # noqa: SLF001 - the two are one thing
            if session is not None:
                _refuse_in_event_loop()  # before anything changes: it can still be closed afterwards
            self._state = "closed"
            _open.discard(self)
            if session is None:  # it is disabled
                return
            signals.forget(session)
            try:
                _home().call(self._logger.aclose, self._close_timeout_s)
            except (LogClosed, TimeoutError):
                session.drain_at_exit()  # the loop does not answer: this thread does it

    @property
    def _close_timeout_s(self) -> float:
        forward = self.config.forward
        return self.config.drain_timeout + _MARGIN_S + (0.0 if forward is None else forward.close_timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except WriteFailed as failure:
            if error is None:
                raise
            # The application's own error, or its KeyboardInterrupt, must not be replaced by ours.
            error.add_note(f"{self.config.service_id}: {failure}")
            _log.error("%s", failure)

    def _open(self) -> None:
        """Open the log on the shared loop, unless a signal handler closes it meanwhile; the caller has the lock."""
        self._is_opening = True
        try:
            self._open_on_home_loop()
        except BaseException:
            if self._close_asked:
                self._state = "closed"
            raise
        finally:
            self._is_opening = False
        if self._close_asked:
            self.close()
            raise LogClosed("the audit log was closed, by a signal handler, while it was opened")

    def _open_on_home_loop(self) -> None:
        logger = self._logger
        if isinstance(self.config.mode, Disabled):
            self._state = "open"
            return
        if (server := sys.modules.get("uwsgi")) is not None:
            _fit_uwsgi(server)
        own = msgspec.structs.replace(self.config, handle_signals=False)  # they are handled from the main thread, below
        logger = self._logger = AuditLogger(own)
        for observer in self._observers:
            self._observers[observer] = logger.observe_commits(observer)
        home = _home()
        home.open(logger.start)
        self._emit = logger._intake.emit_elsewhere  # noqa: SLF001 - one call less than `logger.emit`, which asks where it is
        self._state = "open"
        # Nothing is added any more: from here on the log counts by itself.
        for (event_type, reason), count in self._uncounted.items():
            for _ in range(count):
                logger.count_lost(event_type, reason)
        self._uncounted.clear()
        _open.add(self)
        _finalize_in_child_processes()
        session = logger._session  # noqa: SLF001 - the two are one thing
        if self.config.handle_signals and session is not None:
            if threading.current_thread() is threading.main_thread():
                signals.drain_on_signals(session, home.loop)
            else:
                _log.warning(
                    "handle_signals has no effect here: a SyncAuditLogger is drained on SIGTERM and SIGINT only if it "
                    "is started in the main thread. Start it there, or say handle_signals=False"
                )

    def open_in_child(self) -> None:
        """Open the log of a forked child now, instead of at its first event; in any other process this does nothing.

        For a server's hook that runs in the child's main thread, such as gunicorn's `post_fork`: a log that is opened
        there is drained on SIGTERM and SIGINT as well.

        Raises:
            LogLocked, LogCorrupted, ConfigError, WriteFailed: As `AuditLogger.start` does.
            LogClosed: `in_child` is `refuse`.
        """
        if self._state == "forked":
            self._open_in_child()

    def _opened(self) -> AuditLogger:
        """Return the logger, after opening the one of a forked child."""
        if self._state == "forked":
            self._open_in_child()
        if self._state == "closed":
            raise LogClosed("the audit log is closed; it takes no more events")
        return self._logger

    def _emit_in_child(self, event: AuditEvent) -> Receipt:
        self._open_in_child()
        return self._emit(event)

    def _open_in_child(self) -> None:
        if self._in_child == "refuse":
            raise LogClosed("this process was forked from the one that opened the audit log; open another one here")
        with self._lock:
            if self._is_opening:
                raise LogClosed("the audit log of this process is being opened by the call that this one interrupts")
            if self._state == "forked":
                self._open()

    def _call(self, call: Callable[[], Coroutine[Any, Any, _T]], timeout_s: float | None) -> _T:
        session = self._logger._session  # noqa: SLF001 - the two are one thing
        if session is None:  # not started, or disabled: the answer is there at once
            return _answer_at_once(call())
        return session.home.call_and_block(call, timeout_s)

    def forked(self) -> None:
        """Leave the log to the parent that this process was forked from."""
        self._lock = threading.RLock()  # another thread of the parent may have had it, as it opened or closed the log
        self._is_opening = self._close_asked = False
        self._uncounted = Counter()  # the parent counts its own
        if self._state in {"open", "forked"} and not isinstance(self.config.mode, Disabled):
            self._state = "forked"
            self._emit = self._emit_in_child


class _Home:
    """The event loop of all synchronous logs of a process, and its thread."""

    def __init__(self) -> None:
        running: Future[asyncio.AbstractEventLoop] = Future()
        threading.Thread(target=self._run, args=(running,), name="audit-async", daemon=True).start()
        self.loop: Final = running.result()

    def call(self, call: Callable[[], Coroutine[Any, Any, _T]], timeout_s: float | None) -> _T:
        """Run a coroutine function on the loop, and block this thread until it has an answer."""
        _refuse_in_event_loop()
        return call_and_block(call, timeout_s, self.loop, self._check_runs)

    def open(self, start: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Start a log on the loop, and block this thread until it is open, whatever runs here."""
        asyncio.run_coroutine_threadsafe(start(), self.loop).result()

    def _check_runs(self) -> None:
        if not self.loop.is_running():
            raise LogClosed("the event loop of the synchronous audit logs has ended")

    @staticmethod
    def _run(running: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            uvloop = importlib.import_module("uvloop") if importlib.util.find_spec("uvloop") else None
            loop: asyncio.AbstractEventLoop = (asyncio if uvloop is None else uvloop).new_event_loop()
        except Exception as error:  # noqa: BLE001 - raised where the log is started, which waits for it
            running.set_exception(error)
            return
        asyncio.set_event_loop(loop)
        loop.call_soon(running.set_result, loop)
        loop.run_forever()


#: Settings of uWSGI with which Python knows of a worker's fork; the older one crashes workers from Python 3.13 on.
_SAYS_THAT_IT_FORKS: Final = frozenset({"py-call-uwsgi-fork-hooks", "py-call-osafterfork"})


def _fit_uwsgi(server: Any) -> None:  # noqa: ANN401 - a module that uWSGI makes
    """Refuse settings of uWSGI that would lose events without a word, and close the logs at a worker's end.

    Its workers run no threads of Python unless told so, are forked without Python's knowledge, and run no exit
    handlers: https://uwsgi-docs.readthedocs.io/en/latest/ThingsToKnow.html
    """
    is_set = {name for name, value in server.opt.items() if value not in {b"false", b"0", b"no", False}}
    if not is_set & {"enable-threads", "threads"}:
        raise ConfigError("uwsgi", "set enable-threads = true: without it no thread runs that could write the trail")
    forks = "master" in is_set or server.numproc > 1
    if forks and server.worker_id() == 0 and is_set.isdisjoint(_SAYS_THAT_IT_FORKS):
        raise ConfigError(
            "uwsgi",
            "set lazy-apps = true, so that each worker loads the application, or py-call-uwsgi-fork-hooks = true: "
            "without it a worker takes the master's log, which only the master can write, for its own",
        )
    before = getattr(server, "atexit", None)
    if before is not _close_at_uwsgi_s_end:
        _before_uwsgi_s_end.append(before)
        server.atexit = _close_at_uwsgi_s_end


def _close_at_uwsgi_s_end() -> None:
    close_open_logs()
    for before in _before_uwsgi_s_end:
        if callable(before):
            before()


#: What the application has had uWSGI call at a worker's end.
_before_uwsgi_s_end: Final[list[object]] = []


def _refuse_in_event_loop() -> None:
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - None instead of an error
        raise RuntimeError(
            "a SyncAuditLogger blocks, and an event loop runs in this thread; use an AuditLogger with async with"
        )


def _answer_at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        answer: _T = end.value
        return answer
    finally:
        coroutine.close()
    raise RuntimeError("it waits")


_all: Final[weakref.WeakSet[SyncAuditLogger]] = weakref.WeakSet()  # a fork concerns the closing ones, too
_open: Final[set[SyncAuditLogger]] = set()  # strong references: what is open is closed at the end
_the_home: _Home | None = None
_home_lock = threading.RLock()  # re-entrant, as each log's


def _home() -> _Home:
    global _the_home  # noqa: PLW0603 - one a process
    with _home_lock:
        if _the_home is None:
            _the_home = _Home()
        return _the_home


def close_open_logs() -> None:
    """Close every log that is open in this process, as at its end; for processes that end without exit handlers."""
    while _open:
        log = next(iter(_open))
        try:
            log.close()
        except Exception as error:  # noqa: BLE001 - the other logs have to be closed as well
            _log.error("the audit log could not be closed as the process ended: %s", describe_error(error))
        finally:
            _open.discard(log)


def _finalize_in_child_processes() -> None:
    """Have the logs closed at the end of a child of `multiprocessing`, which runs no exit handlers."""
    for module in ("multiprocessing", "billiard"):
        util, process = sys.modules.get(f"{module}.util"), sys.modules.get(f"{module}.process")
        if util is None or process is None:
            continue
        parent = getattr(process, "parent_process", None)
        if parent is None or parent() is not None:  # billiard can't say; its finalizer does nothing twice
            util.Finalize(None, close_open_logs, exitpriority=10)


def _after_fork_in_child() -> None:
    global _the_home, _home_lock
    _the_home, _home_lock = None, threading.RLock()
    for log in list(_all):
        log.forked()
    _open.clear()


atexit.register(close_open_logs)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
