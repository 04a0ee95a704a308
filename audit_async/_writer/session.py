"""What exists between a logger's start and its close: the open store, its thread, the writer and the tasks beside it.

The story of a session: the store is opened, locked and recovered in the disk thread; the opening records are made
durable; only then does the intake take events, and the writer, the checkpoints and the daily retention run as tasks of
the loop. Closing goes the other way: the tasks beside the writer end, the intake closes, the writer drains, a last
checkpoint is signed, the store is unlocked. No wait of it is without a limit, and a cancellation takes effect only
afterwards, so neither a disk that hangs nor a caller in a hurry leaves a log half closed.

What applications call stands in `audit_async.logger`; what becomes of an event on its way, in
`audit_async._writer.intake` and `audit_async._writer.write_loop`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from audit_async._chain import FORMAT_VERSION, Framer
from audit_async._store.log_store import Committed, LogStore
from audit_async._version import __version__
from audit_async._writer.disk_thread import DiskThread
from audit_async._writer.intake import Intake
from audit_async._writer.receipts import Acknowledgements
from audit_async._writer.sync_schedule import SyncSchedule
from audit_async._writer.upkeep import Upkeep
from audit_async._writer.write_loop import Writer, events_of
from audit_async.config import AuditConfig
from audit_async.errors import ConfigError, LogClosed, WriteFailed
from audit_async.events.base import AuditEvent
from audit_async.events.lifecycle import AuditLogClosed, AuditLogOpened, AuditLogRecovered
from audit_async.status import Condition, HealthStatus, Measurements

if TYPE_CHECKING:  # it needs the extra `tlog`
    from audit_async._writer.checkpoint_task import CheckpointLog

_T = TypeVar("_T")


class Session:
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
    ) -> Session:
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
            from audit_async._trail.log_files import Log  # noqa: PLC0415 - only logs that sign need these
            from audit_async._writer.checkpoint_task import CheckpointLog  # noqa: PLC0415
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
        opening.extend(events_of(Committed(store.head, store.head, store.opening.sealed, store.opening.damaged)))
        try:
            await self.writer.begin([self._intake.stamp(event, self.acknowledgements) for event in opening])
        except OSError as error:
            raise WriteFailed(
                f"the first record of this session could not be written to {store.directory}: {error}. Nothing was "
                "lost; mend the cause and start again"
            ) from error
        if self._condition.status is HealthStatus.NOT_STARTED:  # else the first commit has found the disk nearly full
            self._condition.set_status(HealthStatus.OK)
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
        self._condition.set_status(HealthStatus.CLOSED)
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
