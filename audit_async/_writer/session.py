"""What exists between a logger's start and its close: the open store, its thread, the writer and the other tasks.

The story of a session: the store is opened, locked and recovered in the disk thread; the opening records are made
durable; only then does the intake take events, and the writer, the checkpoints and the daily retention run as tasks of
the loop. Closing goes the other way: the other tasks end, the intake closes, the writer drains, a last checkpoint is
signed, the store is unlocked. No wait of it is without a limit, and a cancellation takes effect only afterwards, so
neither a disk that hangs nor a caller that stops waiting leaves a log half closed.

What applications call is in `audit_async.logger`; what happens to an event on its way, in `audit_async._writer.intake`
and `audit_async._writer.write_loop`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from audit_async._chain import FORMAT_VERSION, Framer
from audit_async._layout.access_modes import PRIVATE, Access
from audit_async._store.log_store import Committed, LogStore
from audit_async._version import __version__
from audit_async._writer import forks, process_exit, signals
from audit_async._writer.buffer import State
from audit_async._writer.disk_thread import DiskThread
from audit_async._writer.home_loop import HomeLoop, running_loop
from audit_async._writer.intake import Intake
from audit_async._writer.receipts import Acknowledgements
from audit_async._writer.segment_events import events_of
from audit_async._writer.stated_erasures import NOTHING_STATED
from audit_async._writer.stated_holds import StatedHolds
from audit_async._writer.sync_schedule import SyncSchedule
from audit_async._writer.upkeep import Upkeep
from audit_async._writer.write_loop import Writer, WriterTask
from audit_async.config import AuditConfig, Local
from audit_async.errors import AuditError, ConfigError, WriteFailed
from audit_async.events import AuditEvent, AuditLogClosed, AuditLogOpened, AuditLogRecovered
from audit_async.status import Condition, HealthStatus, Measurements, Position, describe_error
from audit_async.tlog.guard import refuse_uncovered

if TYPE_CHECKING:  # they need the extras `tlog` and `privacy`
    from audit_async._writer.checkpoint_task import CheckpointLog
    from audit_async._writer.erasures import Erasures
    from audit_async._writer.opened_keys import OpenedKeys
    from audit_async._writer.verification_task import VerificationTask

_log = logging.getLogger("audit_async")

#: The version of the format of sealed members.
SEALING_VERSION: Final = 1

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
        keys: OpenedKeys | None,
    ) -> None:
        self.home: Final = HomeLoop()
        self.store: Final = store
        self._config: Final = config
        self._intake: Final = intake
        self._condition: Final = condition
        self._thread: Final = thread
        # 64 bits of the OS's randomness an opening: no audit_id is ever given twice, also not after a crash that
        # took records with it whose audit_id somebody knows.
        self.acknowledgements: Final = Acknowledgements(self.home, os.urandom(8).hex(), store.head.seq)
        self._holds: Final = StatedHolds(
            store.opening.holds, closed=store.opening.sealed_holds if config.privacy is None else ()
        )
        verification = self._make_verification()  # it has a thread, which the system may refuse
        self.writer: Final = Writer(
            store=store,
            thread=thread,
            framer=Framer(store.head, audit_prefix=self.acknowledgements.audit_prefix, service_id=config.service_id),
            intake=intake,
            acknowledgements=self.acknowledgements,
            schedule=SyncSchedule(config.flush_mode),
            condition=condition,
            measurements=measurements,
            low_disk_bytes=config.low_disk_bytes,
            holds=self._holds,
            keys=None if keys is None else keys.commits,
            on_sealed=self._segments_sealed,
        )
        self.upkeep: Final = Upkeep(
            store=store,
            thread=thread,
            writer=self.writer,
            intake=intake,
            condition=condition,
            policy=config.retention,
            index_sealed=config.rotation.index_sealed,
            holds=self._holds,
            cover=self._cover,
            verification=verification,
            key_store=None if keys is None else keys.store,
        )
        self.erasures: Final = None if keys is None else self._erasures_with(keys)
        self.checkpoints: CheckpointLog | None = None
        self._task: WriterTask | None = None
        self._other_tasks: Final[list[asyncio.Task[None]]] = []  # checkpoints, the daily retention, verification
        self._closing = False
        self._was_closed = False  # by somebody, and not by the end of its loop
        self._ended = False  # without its loop
        self._drain_deadline: asyncio.TimerHandle | None = None

    # Opening.

    def _erasures_with(self, keys: OpenedKeys) -> Erasures:
        from audit_async._trail.log_files import Log  # noqa: PLC0415 - only logs that seal need these
        from audit_async._writer.erasures import Erasures  # noqa: PLC0415

        assert self._config.privacy is not None  # noqa: S101 - there are keys
        return Erasures(
            keys,
            self._config.privacy,
            store=self.store,
            log=Log(self.store.directory, self._config.service_id, self.store.directory.name, self.store.log_id),
            thread=self._thread,
            writer=self.writer,
            intake=self._intake,
            upkeep=self.upkeep,
            condition=self._condition,
            max_field_chars=self._config.max_field_chars,
        )

    @classmethod
    async def open(
        cls, config: AuditConfig, base_dir: Path, intake: Intake, condition: Condition, measurements: Measurements
    ) -> Session:
        """Open the store, put the opening records into the chain, and let the writer run."""
        running_loop()  # or it says what to do
        thread = DiskThread(f"audit-async {config.service_id}")
        try:
            store = await _open_store(thread, config, base_dir)
            condition.where = f"audit log {store.directory}"
            keys: OpenedKeys | None = None
            try:
                if config.privacy is not None:
                    keys = await _open_keys(thread, config, base_dir, store, intake)
                session = cls(
                    config,
                    intake=intake,
                    condition=condition,
                    measurements=measurements,
                    store=store,
                    thread=thread,
                    keys=keys,
                )
            except BaseException:
                await _wait_done(thread.call(_close_files, store, keys), 1.0)
                raise
            try:
                if config.transparency is not None:
                    session.checkpoints = await session._open_checkpoints()
                await session._begin()
            except BaseException:
                session.upkeep.stop()
                session.writer.discard()
                if session.checkpoints is not None:
                    thread.call(session.checkpoints.abandon)
                # Waited for, so that the next try finds the log unlocked, and takes no other slot for it.
                await _wait_done(thread.call(session.close_files), 1.0)
                raise
        except BaseException:
            thread.stop()
            raise
        try:
            await asyncio.sleep(0)  # so that the writer waits for its first message before there is one
        except BaseException:  # cancelled: nobody has a log that could be closed, and its tasks run already
            await session.close()
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
        open_tree = partial(
            CheckpointLog.open,
            config.transparency,
            Log(store.directory, config.service_id, store.directory.name, store.log_id),
            records=store.head.seq + 1,
            emit=self._intake.emit_on_record,
            durable_seq=lambda: self.acknowledgements.durable_seq,
            sealed=lambda: len(store.sealed_segments),
            set_trouble=self._condition.set_trouble,
        )
        return await _open_in(self._thread, open_tree, CheckpointLog.abandon)

    def _make_verification(self) -> VerificationTask | None:
        config = self._config
        if config.verification is None or not isinstance(config.mode, Local):
            return None
        from audit_async._writer.verification_task import VerificationTask  # noqa: PLC0415 - only such logs need it

        directory = self.store.directory
        return VerificationTask(
            config.verification,
            directory=directory,
            base_dir=Path(config.mode.base_dir),
            log=f"{config.service_id}/{directory.name}",
            durable_head=self._durable_head,
            condition=self._condition,
        )

    def _durable_head(self) -> Position | None:
        """Return the newest record if it is durable; None while it is not."""
        head = self.writer.head
        return Position(head.seq, head.hash.decode()) if head.seq <= self.acknowledgements.durable_seq else None

    async def _cover(self, seq: int) -> None:
        """Return when no signed tree needs the segment of a record any more; raises if one would, for ever."""
        if self.checkpoints is not None:
            await self.checkpoints.cover(seq)
        else:
            await self._thread.call(refuse_uncovered, self.store.directory, seq)

    async def _begin(self) -> None:
        try:
            erased = await self._complete_erasures()
            await self.writer.begin([self._intake.stamp(event) for event in self._opening_events(erased)])
            if self.erasures is not None:
                ended = await self.erasures.complete_recovered()
                if ended:
                    await self.writer.begin(list(map(self._intake.stamp, ended)))
                await self.erasures.end_recovered()
        except OSError as error:
            raise WriteFailed(
                f"the first record of this session could not be written to {self.store.directory}: {error}. Nothing "
                "was lost; fix the cause and start again"
            ) from error
        if self._condition.status is HealthStatus.NOT_STARTED:  # else the first commit has found the disk nearly full
            self._condition.set_status(HealthStatus.OK)
        forks.give_up_in_child(self)  # not later: no child may take an event
        self._intake.open(self.acknowledgements, self.writer.outlet, critical_at_once=self.writer.critical_at_once)
        process_exit.drain_at_exit(self)
        create_task = self.home.loop.create_task
        self._task = WriterTask(
            self.writer.run(self._let_go), loop=self.home.loop, name="audit-async writer", drain=self.begin_close
        )
        if self.checkpoints is not None:
            self._other_tasks.append(create_task(self.checkpoints.run(), name="audit-async checkpoints"))
        if self.erasures is not None:
            self._other_tasks.append(create_task(self.erasures.run(), name="audit-async erasures"))
            executing = self.erasures.requested.run()
            self._other_tasks.append(create_task(executing, name="audit-async erasure requests"))
        if self._config.retention.automatic:
            self._other_tasks.append(create_task(self.upkeep.run_daily(), name="audit-async retention"))
        if self.upkeep.indexing is not None:
            self._other_tasks.append(create_task(self.upkeep.indexing.run(), name="audit-async index"))
        if self._config.verification is not None:
            verification = self.upkeep.verify_repeatedly()
            self._other_tasks.append(create_task(verification, name="audit-async verification"))

    async def _complete_erasures(self) -> list[AuditEvent]:
        """Do what an erasure that was interrupted has left undone; return what is to be recorded of it."""
        if self.erasures is None:
            return []
        hold_ids = [hold.id for hold in (*self.store.opening.holds, *self.store.opening.unrecorded_holds)]
        return await self.erasures.recover(hold_ids)

    def _opening_events(self, erased: list[AuditEvent]) -> list[AuditEvent]:
        config, store = self._config, self.store
        keys = None if self.erasures is None else self.erasures.keys
        opening = store.opening
        return [
            *(
                AuditLogRecovered(
                    torn_bytes=torn.bytes, torn_sha256=torn.sha256, torn_file=torn.file, reason=torn.reason
                )
                for torn in store.recovered
            ),
            AuditLogOpened(
                library_version=__version__,
                format_version=FORMAT_VERSION,
                host=socket.gethostname(),
                pid=os.getpid(),
                flush_mode=str(config.flush_mode),
                holds=self._holds.stated(),
                privacy=None if keys is None else SEALING_VERSION,
                key_store=None if keys is None else keys.store.store_id,
                min_retention_days=config.retention.min_retention_days if config.retention.automatic else None,
                delete_after_days=config.retention.delete_after_days if config.retention.automatic else None,
                **(NOTHING_STATED if keys is None else keys.commits.stated.stated()),
            ),
            *(self._holds.set_by(hold, reason=hold.reason, set_by=hold.set_by) for hold in opening.unrecorded_holds),
            *erased,
            *events_of(
                Committed(store.head, store.head, opening.sealed, opening.damaged),
                self._holds,
                None if keys is None else keys.commits.stated,
            ),
        ]

    def close_files(self) -> None:
        """Unlock the log and leave its key store; in the disk thread."""
        _close_files(self.store, None if self.erasures is None else self.erasures.keys)

    # The life of it, and its end.

    def _segments_sealed(self) -> None:
        self.upkeep.segments_sealed()

    async def _let_go(self) -> None:
        """Let go of everything, after the writer has drained or failed: the other tasks, the tree, the store."""
        if self._drain_deadline is not None:
            self._drain_deadline.cancel()
        for task in self._other_tasks:
            task.cancel()  # they are already, unless the writer has failed
            await _wait_done(task, 1.0)
        if self.checkpoints is not None:
            finishing = self.home.loop.create_task(self.checkpoints.finish())
            await _wait_done(finishing, self._config.drain_timeout)
            if not finishing.done():  # a key or a disk that does not answer; nothing is signed after the unlocking
                finishing.cancel()
                await _wait_done(finishing, 1.0)
        # A disk thread that hangs in a system call can't be waited for; the store is closed when it returns.
        await _wait_done(self._thread.call(self.close_files), 1.0)
        self._thread.stop()
        process_exit.forget(self)
        forks.forget(self)  # not before: a child that is forked during the drain must not keep the lock
        if self.acknowledgements.failure is None:
            self._condition.set_status(HealthStatus.CLOSED)

    def begin_close(self, spent_s: float = 0.0) -> None:
        """Take no more events, and have the rest made durable within `drain_timeout`, of which some is spent already.

        In the loop's thread.
        """
        if self._closing:
            return
        self._closing = True
        signals.forget(self)
        self.upkeep.stop()
        for task in self._other_tasks:
            task.cancel()
        self._intake.close(AuditLogClosed())
        self.writer.retry_now()
        timeout_s = max(self._config.drain_timeout - spent_s, self._config.drain_timeout / 2)
        self._drain_deadline = self.home.loop.call_later(
            timeout_s, self.writer.fail, TimeoutError(f"the disk did not take everything within {timeout_s} s")
        )

    async def close(self) -> None:
        """Drain and close, whatever happens to the task that asked for it; see `AuditLogger.aclose`."""
        assert self._task is not None  # noqa: S101 - _begin has made it, or there is no session
        if self._was_closed:
            await asyncio.wait({self._task})
            return
        self._was_closed = True
        with anyio.CancelScope(shield=True):
            cancelled = await self._encrypt_sealed()
            cancelled |= await _wait_done(self._task, None)
        if (failure := self.acknowledgements.failure) is not None:
            raise failure
        if cancelled:
            raise asyncio.CancelledError

    async def _encrypt_sealed(self) -> bool:
        """Encrypt what must not stay readable, in half of the time for draining; then begin to close.

        Return whether the caller was cancelled meanwhile.
        """
        began, cancelled = self.home.loop.time(), False
        if self.upkeep.encrypts_at_once and not self._closing and self.acknowledgements.failure is None:
            encrypting = self.home.loop.create_task(self.upkeep.encrypt_before_close(self._config.drain_timeout / 2))
            cancelled = await _wait_done(encrypting, None)
        self.begin_close(self.home.loop.time() - began)
        return cancelled

    # What signals and forks ask for.

    async def flush_for_signal(self) -> None:
        """Make durable what there is, within `drain_timeout`; doesn't raise."""
        with anyio.move_on_after(self._config.drain_timeout):
            try:
                await self.writer.flush()
            except AuditError as error:
                _log.error(
                    "%s: a signal came, but not everything could be made durable: %s", self._condition.where, error
                )

    async def close_for_signal(self) -> None:
        """Drain, and close the log in order; doesn't raise."""
        try:
            await self.close()
        except AuditError as error:
            _log.error("%s: closing at a signal: %s", self._condition.where, error)

    # What is left to do if the loop runs no more, or the interpreter ends.

    @property
    def has_ended(self) -> bool:
        """True once the log is closed, or has failed, and everything is let go of."""
        return self._ended or (self._task is not None and self._task.done())

    def close_without_loop(self) -> None:
        """Drain and close from the calling thread, which this blocks: the log's loop is closed, or will never run.

        Raises `WriteFailed` if not everything could be made durable within `drain_timeout`.
        """
        was_closed, self._was_closed = self._was_closed, True
        if self.has_ended:
            if self.acknowledgements.failure is not None and not was_closed:
                raise self.acknowledgements.failure
            return
        self._closing = True
        signals.forget(self)
        self.upkeep.stop()
        self.writer.drain_here(self._thread, AuditLogClosed(), self._config.drain_timeout)
        if self.checkpoints is not None:
            self._thread.wait(self.checkpoints.abandon, 1.0)
        self._thread.wait(self.close_files, 1.0)
        self._thread.stop()
        self.writer.discard()
        for task in self._other_tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as in WriterTask
        self._ended = True
        process_exit.forget(self)
        forks.forget(self)
        self._condition.set_status(HealthStatus.CLOSED)

    def drain_at_exit(self) -> None:
        """Drain as the interpreter ends; report that the log was not closed, and how much is lost. Doesn't raise."""
        if self._intake.state is State.FORKED or self.has_ended:
            return
        waiting = self._intake.buffer.held_events
        self.warn_unless_closed()
        why = f"the disk did not take everything within {self._config.drain_timeout} s"
        try:
            if self.home.loop.is_running():  # in a daemon thread
                ended = asyncio.run_coroutine_threadsafe(self._close_at_exit(), self.home.loop)
                ended.result(2 * self._config.drain_timeout + 5.0)
            else:
                self.close_without_loop()
        except BaseException as error:  # noqa: BLE001 - the interpreter ends: it is reported below
            why = describe_error(error)
        lost = min(waiting, self.writer.head_seq - self.acknowledgements.durable_seq)
        if lost and sys.stderr is not None:
            sys.stderr.write(
                f"{self._condition.where}: {lost} events are lost, since the log was not closed, and {why}\n"
            )

    async def _close_at_exit(self) -> None:
        assert self._task is not None  # noqa: S101 - as in close
        self.begin_close()
        await asyncio.wait({self._task})

    def warn_unless_closed(self) -> None:
        """Give a `ResourceWarning`, once, if the log was never closed."""
        if self._was_closed or self._intake.state is State.FORKED:
            return
        self._was_closed = True
        waiting = self._intake.buffer.held_events
        warnings.warn(
            f"{self._condition.where} was never closed, and {waiting} events were waiting for the disk: use "
            "`async with AuditLogger(config)`, or await aclose()",
            ResourceWarning,
            stacklevel=2,
        )

    def forked(self) -> None:
        """Give up the log in a forked child: it belongs to the parent."""
        self._intake.buffer.forked()
        self._intake.drops.forked()
        self.store.abandon()
        if self.checkpoints is not None:
            self.checkpoints.forked()
        self.upkeep.forked()


async def _open_in(thread: DiskThread, open_it: Callable[[], _T], close: Callable[[_T], object]) -> _T:
    """Open something in the disk thread, which goes on if the caller is cancelled: then it is closed again there."""
    opened: list[_T] = []

    def close_again() -> None:
        for it in opened:
            close(it)

    try:
        await thread.call(lambda: opened.append(open_it()))
    except asyncio.CancelledError:
        thread.call(close_again)  # or a lock would be held for as long as the process lives
        raise
    return opened[0]


#: What to do if a log's directory can't be opened.
_ADVICE: Final = {
    errno.EACCES: "; give the directory to the user that the process runs as, or choose another base_dir",
    errno.EROFS: "; the file system is read-only: make it writable, or choose another base_dir",
    errno.ENOSPC: "; the disk is full: make room, and start again",
    errno.ENOTDIR: "; a part of the path is a file: choose another base_dir",
}


async def _open_store(thread: DiskThread, config: AuditConfig, base_dir: Path) -> LogStore:
    """Open and lock the log's directory."""
    open_store = partial(
        LogStore.open,
        base_dir,
        config.service_id,
        config.instance,
        rotation=config.rotation,
        access=Access.of(config.mode) if isinstance(config.mode, Local) else PRIVATE,
        allow_insecure_dir=config.allow_insecure_dir,
    )
    try:
        return await _open_in(thread, open_store, LogStore.close)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "")
        raise WriteFailed(f"the audit log under {base_dir} could not be opened: {error}{advice}") from error


async def _open_keys(
    thread: DiskThread, config: AuditConfig, base_dir: Path, store: LogStore, intake: Intake
) -> OpenedKeys:
    """Open the key store of a log that seals."""
    try:
        from audit_async._writer.opened_keys import open_keys  # noqa: PLC0415 - only logs that seal need it
    except ImportError as error:
        raise ConfigError("privacy", "needs the extra: pip install 'audit-async[privacy]'") from error
    assert config.privacy is not None  # noqa: S101 - open has asked
    name = f"{config.service_id}/{store.directory.name}"
    open_them = partial(open_keys, config.privacy, base_dir, name, store.log_id, intake.encoder)
    try:
        return await _open_in(thread, open_them, lambda keys: keys.commits.close())
    except OSError as error:
        raise WriteFailed(f"the key store of {store.directory} could not be opened: {error}") from error


def _close_files(store: LogStore, keys: OpenedKeys | None) -> None:
    """Leave the key store, if there is one, and unlock the log."""
    try:
        if keys is not None:
            keys.commits.close()
    finally:
        store.close()


async def _wait_done(future: asyncio.Future[_T], timeout_s: float | None) -> bool:
    """Wait until `future` is done or the time is over, through any cancellation; return whether there was one."""
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    cancelled = False
    while not future.done() and (left_s := deadline - time.monotonic()) > 0:
        try:
            await asyncio.wait({future}, timeout=None if timeout_s is None else left_s)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled
