"""The front door for writing: `AuditLogger`, its life cycle, and `run`."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar, TypeVarTuple

import anyio

from audit_async import signals
from audit_async._version import __version__
from audit_async.chain import FORMAT_VERSION, Framer
from audit_async.config import AuditConfig, Disabled
from audit_async.disk_thread import DiskThread
from audit_async.errors import AuditError, ConfigError, LogClosed, WriteFailed
from audit_async.events.base import AuditEvent
from audit_async.events.lifecycle import AuditLogAccessed, AuditLogClosed, AuditLogOpened, AuditLogRecovered
from audit_async.flush import SyncSchedule
from audit_async.intake import Intake, State
from audit_async.receipt import NOTHING_RECORDED, NOWHERE, Acknowledgements, Receipt
from audit_async.status import CommitObserver, Condition, Health, HealthStatus, LoggerStats, Measurements, Position
from audit_async.store import Committed, Hold, LogStore
from audit_async.upkeep import RetentionReport, Upkeep
from audit_async.writer import Writer, events_of

if TYPE_CHECKING:  # they need the extra `tlog`
    from audit_async.tlog.checkpoint import SignedCheckpoint
    from audit_async.tlog.proof import TlogProof
    from audit_async.transparency import CheckpointLog

_log = logging.getLogger("audit_async")

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class AuditLogger:
    """One audit log, open for writing: `async with AuditLogger(config) as audit: audit.emit(event)`.

    A logger is opened once, on the event loop that it will live on, and closed once. `emit` may be called from any
    thread. What is promised, and when, depends on the flush mode: see `audit_async.config`.

    Entering raises `LogLocked` where another process (or logger) writes this log, `LogCorrupted` where what is on
    disk is not what was written, `ConfigError` for a directory that others can write to, and `WriteFailed` where
    the disk does not take the first record.
    """

    def __init__(self, config: AuditConfig) -> None:
        self.config: Final = config
        self._intake: Final = Intake(config)
        self._condition = Condition(HealthStatus.NOT_STARTED)
        self._measurements: Final = Measurements()
        self._session: _Session | None = None
        self._starting = False
        if isinstance(config.mode, Disabled):
            self._condition = Condition(HealthStatus.DISABLED)
            self.emit = _emit_nothing  # type: ignore[method-assign]  # so that it costs a look-up and a call
        else:
            # Saves the call below on every event: 60 of 700 ns (python -m bench emit).
            self.emit = self._intake.emit  # type: ignore[method-assign]

    # Recording.

    def emit(self, event: AuditEvent) -> Receipt:
        """Take `event` into the trail. Never waits, never blocks; from any thread, sync or async code.

        The event is encoded before this returns, so what is changed in it afterwards changes nothing. On return it
        is in the process's memory, in order, and will be written unless the process dies first; the receipt tells
        when it is durable. Events of one thread keep their order, and what was emitted before in time, as far as
        threads can tell, stands before in the chain.

        Text that could mislead a reader is recorded in a harmless form, or refused, as `on_unsafe` says.

        Raises `InvalidEvent` for an event that can't be recorded, `BufferFull` when the buffer has no room (the last
        tenth is kept for critical events; the refusal is counted and recorded), `LogClosed` before the start, after
        the end and in a forked child, `WriteFailed` once the writer has stopped for good.
        """
        return self._intake.emit(event)

    async def emit_durable(self, event: AuditEvent) -> Position:
        """Record `event` and return its place in the chain once it is on stable storage.

        Waits for room where the buffer is full, and does not wait for the flush mode's interval: this event, with
        all before it, is synced at once. Raises as `emit` does, except `BufferFull`.
        """
        session = self._session
        if session is None or session.is_here:
            if isinstance(self.config.mode, Disabled):
                return NOWHERE
            receipt = await self._intake.emit_durably(event)
            return await receipt.durable()
        return await session.elsewhere(lambda: self.emit_durable(event))

    async def flush(self) -> None:
        """Return once everything emitted so far is on stable storage, without waiting for the flush mode's interval.

        While the disk fails this waits, as long as it takes (`anyio.fail_after` sets a limit). Raises `WriteFailed`
        where the log has stopped for good, `LogClosed` where it was never started.
        """
        if isinstance(self.config.mode, Disabled):
            return
        if self._session is None:
            raise LogClosed("the audit log is not started, so there is nothing to flush")
        if self._intake.state is State.FORKED:
            raise LogClosed("this process was forked from the one that opened the audit log; flush it there")
        session = self._session
        await (session.writer.flush() if session.is_here else session.elsewhere(session.writer.flush))

    def record_access(self, actor: str, query: Mapping[str, object], records: int | None = None) -> Receipt:
        """Put into the trail that `actor` has read it: what was asked, and how many records were returned.

        `AuditReader.query` calls this where it is given the logger; call it for reads that go another way. From any
        thread, never waits; the buffer's bounds don't apply. Raises `LogClosed` and `WriteFailed` as `emit` does.
        """
        if isinstance(self.config.mode, Disabled):
            return NOTHING_RECORDED
        return self._intake.emit_on_record(AuditLogAccessed(actor=actor, query=dict(query), records=records))

    # Proving, where `AuditConfig.transparency` is set.

    async def checkpoint(self) -> SignedCheckpoint:
        """Sign and publish a checkpoint over everything that is durable now, and return it; witnesses come later.

        The log does this by itself when its `Transparency` says so. Raises `ConfigError` where the log has none,
        `LogForked` or `LogRolledBack` where the log would contradict what it signed before, another
        `TransparencyError` where the key or the tiles fail, `LogClosed`, `OSError`.
        """
        checkpoints = self._checkpoints()
        return await self._here(checkpoints.checkpoint)

    async def prove(self, record: Receipt | str) -> TlogProof:
        """Return the evidence that a record is in this log, named by its receipt or its `audit_id`.

        What `.encode()` returns is a `.tlog-proof` file, which anybody can check without the log. Waits until the
        record is durable (a receipt), and makes a checkpoint where none covers it yet. Raises as `checkpoint` does;
        `RecordNotFound` for an `audit_id` that this log does not have.
        """
        checkpoints = self._checkpoints()

        async def prove() -> TlogProof:
            if isinstance(record, Receipt):
                position = await record.durable()
            else:
                position = await checkpoints.position_of(record)
            return await checkpoints.prove(position.seq, bytes.fromhex(position.hash))

        return await self._here(prove)

    def _checkpoints(self) -> CheckpointLog:
        if self._session is None or self._intake.state is not State.OPEN:
            raise LogClosed("the audit log is not open, so it signs nothing")
        if self._session.checkpoints is None:
            raise ConfigError("transparency", "is left out, so this log signs no checkpoints and proves nothing")
        return self._session.checkpoints

    # Keeping and forgetting.

    async def apply_retention(self, *, dry_run: bool = False, at: datetime | None = None) -> RetentionReport:
        """Archive and delete what `RetentionPolicy` says is due, or only list it with `dry_run`.

        An open log does this by itself once a day, the first time a minute after its opening (unless the policy's
        `automatic` is off). Each step is in the chain, durably, before it is taken; what was done stays done where
        this is cancelled. A step that fails is reported in the outcome, and the segment stays as it was.

        `at` (aware) asks what would be due then, in a dry run. Raises `ConfigError` for another use of it,
        `RetentionRefused` where the clock was set forward by more than a day since the opening, `LogCorrupted` for a
        `hold.json` that nobody can read or an archive that is missing, `LogClosed`, `OSError`.
        """
        if at is not None and (not dry_run or at.utcoffset() is None):
            raise ConfigError("at", "only a dry run may ask about another time, and it needs a time zone")
        if isinstance(self.config.mode, Disabled):
            return RetentionReport(steps=(), hold=None, dry_run=dry_run)
        upkeep = self._upkeep()
        return await self._here(lambda: upkeep.apply(dry_run=dry_run, at=at))

    async def set_hold(self, *, reason: str, set_by: str) -> Hold:
        """Put a legal hold in force: nothing is archived or deleted until it is lifted, also after a restart.

        On return the hold, and its record in the chain, are durable. Where one is in force already it stays as it is,
        and is returned; the chain has the new reason, too. Raises `LogClosed`, `WriteFailed`, `OSError`.
        """
        upkeep = self._upkeep()
        return await self._here(lambda: upkeep.set_hold(reason=reason, set_by=set_by))

    async def lift_hold(self, *, reason: str, lifted_by: str) -> None:
        """End the legal hold; its record in the chain is durable before. Does nothing where there is none.

        Raises `LogClosed`, `WriteFailed`, `OSError`.
        """
        upkeep = self._upkeep()
        await self._here(lambda: upkeep.lift_hold(reason=reason, lifted_by=lifted_by))

    async def hold(self) -> Hold | None:
        """Return the legal hold that is in force, None where there is none; raises as `set_hold` does."""
        upkeep = self._upkeep()
        return await self._here(upkeep.hold)

    def _upkeep(self) -> Upkeep:
        if self._session is None or self._intake.state is not State.OPEN:
            raise LogClosed("the audit log is not open, so nothing can be said of what it keeps")
        return self._session.upkeep

    async def _here(self, call: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """Await `call()` on the log's own loop, from whichever loop."""
        session = self._session
        return await (call() if session is None or session.is_here else session.elsewhere(call))

    # What it says of itself.

    def stats(self) -> LoggerStats:
        """Return the counters since the start; cheap, from any thread."""
        session = self._session
        if session is None:
            return LoggerStats()
        intake, writer, measured = self._intake, session.writer, self._measurements
        dropped = dict(intake.dropped)
        return LoggerStats(
            records=writer.head_seq - writer.first_seq + 1,
            durable=session.acknowledgements.durable_seq - writer.first_seq + 1,
            waiting=intake.held_events,
            waiting_bytes=intake.held_bytes,
            dropped=sum(dropped.values()),
            dropped_by_type=dropped,
            commits=writer.commits,
            syncs=writer.syncs,
            write_errors=writer.write_errors,
            bytes_written=writer.bytes_written,
            head_seq=writer.head_seq,
            batch_events=measured.batch_events.snapshot(),
            sync_seconds=measured.sync_seconds.snapshot(),
            last_sync_at=measured.last_sync_at,
            since_sync_s=measured.since_sync_s,
            free_bytes=measured.free_bytes,
        )

    def observe_commits(self, observer: CommitObserver) -> Callable[[], None]:
        """Call `observer(commit)` behind each commit to the disk, in the log's loop; return what ends that.

        For metrics that are pushed; `stats()` has the same as histograms. It should take microseconds. Before the
        start too, so that no commit is missed; one that raises is logged and called no more.
        """
        self._measurements.observe(observer)
        return lambda: self._measurements.forget(observer)

    def health(self) -> Health:
        """Return how the log is doing: for health endpoints; cheap, from any thread."""
        condition, session = self._condition, self._session
        return Health(
            status=condition.status,
            reason=condition.reason,
            since=condition.since,
            durable_seq=session.acknowledgements.durable_seq if session else -1,
            waiting_events=self._intake.held_events,
            buffer_fill=self._intake.fill,
        )

    @property
    def directory(self) -> Path | None:
        """The log's own directory, `<base_dir>/<service_id>/<instance>`; None before the start and when disabled."""
        return self._session.store.directory if self._session else None

    # The life cycle.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        except WriteFailed as failure:
            if exc_value is None:
                raise
            # The application's own error is the first thing to know; ours must not take its place.
            exc_value.add_note(f"{self._condition.where}: {failure}")
            _log.error("%s", failure)

    async def start(self) -> None:
        """Open the log and begin to take events; `async with` does the same.

        On return the log is locked, recovered where a crash left something behind, and `audit.log_opened` is
        durable. Raises what the class says, and `LogClosed` where this logger was started before.
        """
        if isinstance(self.config.mode, Disabled):
            return
        if self._starting or self._session is not None:
            raise LogClosed("this AuditLogger was started before; a logger is opened once, make a new one")
        self._starting = True
        try:
            self._session = await _Session.open(
                self.config, Path(self.config.mode.base_dir), self._intake, self._condition, self._measurements
            )
        finally:
            self._starting = False
        _open_loggers.add(self)
        if self.config.handle_signals:
            signals.drain_on_signals(self)

    async def aclose(self) -> None:
        """Take no more events, make everything that was taken durable, write `audit.log_closed`, and unlock the log.

        Drains also while the surrounding task is being cancelled, for up to `drain_timeout` seconds; a cancellation
        takes effect afterwards. May be called again, and from several tasks; only the first does anything.

        Raises `WriteFailed` where something could not be made durable: the message says how much.
        """
        session = self._session
        if session is None or self._intake.state is State.FORKED:
            return
        signals.forget(self)
        _open_loggers.discard(self)
        await (session.close() if session.is_here else session.elsewhere(session.close))

    async def flush_for_signal(self) -> None:
        """Make durable what there is, for `audit_async.signals`."""
        with anyio.move_on_after(self.config.drain_timeout):
            try:
                await self.flush()
            except AuditError as error:
                _log.error(
                    "%s: a signal came, but not everything could be made durable: %s",
                    self._condition.where,
                    error,
                )

    async def close_for_signal(self) -> None:
        """Close the log, for `audit_async.signals`."""
        try:
            await self.aclose()
        except AuditError as error:
            _log.error("%s: closing at a signal: %s", self._condition.where, error)

    def forked(self) -> None:
        """Give up the log in a forked child: it belongs to the parent."""
        self._intake.forked()
        if self._session is not None:
            self._session.store.abandon()


class _Session:
    """What exists between start and close. Owned by the loop's thread."""

    def __init__(
        self,
        config: AuditConfig,
        *,
        intake: Intake,
        condition: Condition,
        measurements: Measurements,
        store: LogStore,
        thread: DiskThread,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.store = store
        self._config = config
        self._intake = intake
        self._condition = condition
        self._thread = thread
        self._closed = asyncio.Event()
        self._closing = False
        # 64 bits of the OS's randomness an opening: no audit_id is ever given twice, also not after a crash that
        # took records with it whose audit_id somebody knows.
        self.acknowledgements = Acknowledgements(self.loop, os.urandom(8).hex(), store.head.seq)
        schedule = SyncSchedule(config.flush_mode)
        self.writer = Writer(
            store=store,
            thread=thread,
            framer=Framer(store.head, audit_prefix=self.acknowledgements.audit_prefix, service_id=config.service_id),
            intake=intake,
            acknowledgements=self.acknowledgements,
            schedule=schedule,
            condition=condition,
            measurements=measurements,
            low_disk_bytes=config.low_disk_bytes,
            drain_timeout_s=config.drain_timeout,
        )
        self.upkeep = Upkeep(
            store=store,
            thread=thread,
            writer=self.writer,
            intake=intake,
            condition=condition,
            policy=config.retention,
        )
        self.checkpoints: CheckpointLog | None = None
        self._signing: asyncio.Task[None] | None = None
        self._critical_at_once = schedule.critical_at_once
        self._writing: asyncio.Task[None] | None = None
        self._daily: asyncio.Task[None] | None = None

    @property
    def is_here(self) -> bool:
        """True where the running loop is the log's own."""
        return asyncio.get_running_loop() is self.loop

    async def elsewhere(self, call: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """Await `call()` on the log's own loop, from another one."""
        there = call()
        try:
            future = asyncio.run_coroutine_threadsafe(there, self.loop)
        except RuntimeError as error:
            there.close()
            raise LogClosed("the event loop that the audit log was started on is closed") from error
        return await asyncio.wrap_future(future)

    @classmethod
    async def open(
        cls, config: AuditConfig, base_dir: Path, intake: Intake, condition: Condition, measurements: Measurements
    ) -> _Session:
        """Open the store, put the opening records into the chain, and let the writer run."""
        thread = DiskThread(f"audit-async {config.service_id}")
        try:
            opening = thread.submit(
                LogStore.open,
                base_dir,
                config.service_id,
                config.instance,
                rotation=config.rotation,
                allow_insecure_dir=config.allow_insecure_dir,
            )
            opened = asyncio.wrap_future(opening)
            try:
                await asyncio.wait({opened})
                store = opened.result()
            except OSError as error:
                raise WriteFailed(f"the audit log under {base_dir} could not be opened: {error}") from error
            except asyncio.CancelledError:
                # The worker thread goes on; without this the lock would be held for as long as the process lives.
                opened.add_done_callback(_forget_outcome)
                opening.add_done_callback(_close_unwanted)
                raise
            condition.where = f"audit log {store.directory}"
            session = cls(
                config, intake=intake, condition=condition, measurements=measurements, store=store, thread=thread
            )
            try:
                if config.transparency is not None:
                    session.checkpoints = await session._open_checkpoints()
                await session._begin()
            except BaseException:
                if session.checkpoints is not None:
                    thread.submit(session.checkpoints.abandon)
                # Waited for, so that whoever tries again finds the log unlocked, and takes no other slot for it.
                await _settle(asyncio.wrap_future(thread.submit(store.close)), 1.0)
                raise
        except BaseException:
            thread.shutdown()
            raise
        return session

    async def _open_checkpoints(self) -> CheckpointLog:
        """Open the tree of signed checkpoints; nothing may be written to a log that contradicts them."""
        try:
            from audit_async.reading.trail import Log  # noqa: PLC0415 - only logs that sign need these
            from audit_async.transparency import CheckpointLog  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError("transparency", "needs the extra: pip install 'audit-async[tlog]'") from error
        config, store = self._config, self.store
        assert config.transparency is not None  # noqa: S101 - open has asked
        return await asyncio.wrap_future(
            self._thread.submit(
                CheckpointLog.open,
                config.transparency,
                Log(store.directory, config.service_id, store.directory.name, store.log_id),
                records=store.head.seq + 1,
                emit=self._intake.emit_on_record,
                durable_seq=lambda: self.acknowledgements.durable_seq,
                sealed=lambda: len(store.sealed_segments),
            )
        )

    async def _begin(self) -> None:
        config, store = self._config, self.store
        opening: list[AuditEvent] = [
            AuditLogRecovered(torn_bytes=torn.bytes, torn_sha256=torn.sha256, torn_file=torn.file, reason=torn.reason)
            for torn in store.recovered
        ]
        opening.append(
            AuditLogOpened(
                library_version=__version__,
                format_version=FORMAT_VERSION,
                host=socket.gethostname(),
                pid=os.getpid(),
                flush_mode=str(config.flush_mode),
            )
        )
        opening.extend(events_of(Committed(store.head, store.head, store.sealed_at_opening)))
        try:
            await self.writer.begin([self._intake.stamp(event, self.acknowledgements) for event in opening])
        except OSError as error:
            raise WriteFailed(
                f"the first record of this session could not be written to {store.directory}: {error}. Nothing was "
                "lost; mend the cause and start again"
            ) from error
        self._condition.becomes(HealthStatus.OK)
        self._intake.open(self.acknowledgements, self.writer.chunk_sent, critical_at_once=self._critical_at_once)
        self._writing = self.loop.create_task(self.writer.run(), name="audit-async writer")
        if self.checkpoints is not None:
            self._signing = self.loop.create_task(self.checkpoints.run(), name="audit-async checkpoints")
        if config.retention.automatic:
            self._daily = self.loop.create_task(self.upkeep.run_daily(), name="audit-async retention")
        await asyncio.sleep(0)  # so that it runs, and a cancellation finds it at work

    async def close(self) -> None:
        """Drain and close, whatever happens to the task that asked for it; see `AuditLogger.aclose`."""
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        self.upkeep.stop()
        beside = [task for task in (self._daily, self._signing) if task is not None]
        for task in beside:
            task.cancel()
        self._intake.close(AuditLogClosed())
        self.writer.hurry()
        assert self._writing is not None  # noqa: S101 - _begin has made it, or there is no session
        with anyio.CancelScope(shield=True):
            cancelled = False
            for task in beside:
                cancelled |= await _settle(task, 1.0)
            cancelled |= await _settle(self._writing, self._config.drain_timeout)
            if not self._writing.done():
                self.writer.fail(
                    TimeoutError(f"the disk did not take everything within {self._config.drain_timeout} s")
                )
                cancelled |= await _settle(self._writing, 1.0)
            if self.checkpoints is not None:
                finishing = self.loop.create_task(self.checkpoints.finish())
                cancelled |= await _settle(finishing, self._config.drain_timeout)
            # A worker thread that hangs in a system call can't be waited for; the store is closed when it returns.
            cancelled |= await _settle(asyncio.wrap_future(self._thread.submit(self.store.close)), 1.0)
        self._thread.shutdown()
        self._closed.set()
        if (failure := self.acknowledgements.failure) is not None:
            raise failure
        self._condition.becomes(HealthStatus.CLOSED)
        if cancelled:
            raise asyncio.CancelledError


async def _settle(future: asyncio.Future[None], timeout_s: float) -> bool:
    """Wait until `future` is done or the time is over, through any cancellation; True where there was one."""
    deadline = time.monotonic() + timeout_s
    cancelled = False
    while not future.done() and (left_s := deadline - time.monotonic()) > 0:
        try:
            await asyncio.wait({future}, timeout=left_s)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


def _forget_outcome(opened: asyncio.Future[LogStore]) -> None:
    """Keep asyncio from reporting an error that nobody waits for any more."""
    if not opened.cancelled():
        opened.exception()


def _close_unwanted(opening: Future[LogStore]) -> None:
    """Close a store that was opened for a caller who was cancelled meanwhile. Runs in the worker thread."""
    if opening.exception() is None:
        opening.result().close()


def _emit_nothing(event: AuditEvent) -> Receipt:  # noqa: ARG001 - it stands in for `emit`
    return NOTHING_RECORDED


def run(main: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
    """Run the async function `main(*args)` on uvloop where the platform has it, and return its result.

    Like `asyncio.run`, SIGINT included; uvloop makes a service's loop, not the log, faster.
    """
    return anyio.run(main, *args, backend="asyncio", backend_options={"use_uvloop": _has_uvloop()})


def _has_uvloop() -> bool:
    return importlib.util.find_spec("uvloop") is not None


_open_loggers: weakref.WeakSet[AuditLogger] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    signals.forget_all()
    for logger in list(_open_loggers):
        logger.forked()
    _open_loggers.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
