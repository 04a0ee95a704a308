"""The writer: one task that takes events from a stream, chains them, makes them durable, and says so.

It is read from top to bottom in `Writer.run`. Through the stream (anyio's memory object stream) come the chunks that
the intake opens, and its end. The task sleeps until one comes, or something else may be due: a timer has ended, or
somebody wants a sync. Each turn frames a bounded slice of a chunk (its events get their places in the chain), and
begins a commit if none is under way; the disk thread writes and syncs while the next slices are framed. When it is
back, `_commit_ended` acknowledges, and begins the next commit with all that was framed meanwhile. So one sync is shared
by all that arrived during the last one: group commit. A record is acknowledged when the store says that it is on stable
storage, never before.

The task is in no task group of the host: an error in it cannot cancel or crash a task of the host, and a host's
task that ends takes no record with it. Nor can it be cancelled: see `WriterTask`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import Enum
from functools import partial
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, Final

import anyio

from audit_async._chain import Entry, Framer, Head
from audit_async._store.log_store import Committed, LogStore
from audit_async._writer.buffer import Outlet, State
from audit_async._writer.commits import CommitCounters, CommitEnded, Commits, CommitState, Outcome
from audit_async._writer.disk_thread import DiskThread
from audit_async._writer.framing import Framing
from audit_async._writer.intake import Intake
from audit_async._writer.receipts import Acknowledgements, Receipt
from audit_async._writer.segment_events import events_of
from audit_async._writer.stated_holds import StatedHolds
from audit_async._writer.sync_schedule import SyncSchedule
from audit_async._writer.writer_health import WriterHealth
from audit_async.errors import WriteFailed
from audit_async.events import AuditErasedInFlight, AuditEvent
from audit_async.status import Condition, Measurements, describe_error

if TYPE_CHECKING:  # it needs the extra `privacy`
    from audit_async._writer.key_commits import KeyCommits

#: As short as it goes: the kernel makes about 60 us of it.
_NAP_S: Final = 1e-6
#: How often a commit that is under way is looked at, in seconds: does the disk answer?
_WATCH_S: Final = 0.5
#: The pause between two tries if the disk refuses and no loop runs any more.
_RETRY_HERE_S: Final = 0.1


class Phase(Enum):
    """RUNNING -> DRAINING, once no event comes any more -> ENDED; FAILED from either of the first two."""

    RUNNING = "running"
    DRAINING = "draining"
    ENDED = "ended"
    FAILED = "failed"


class Writer:
    """Owns the chain and, through the disk thread, the store. Owned itself by the loop's thread."""

    def __init__(
        self,
        *,
        store: LogStore,
        thread: DiskThread,
        framer: Framer,
        intake: Intake,
        acknowledgements: Acknowledgements,
        schedule: SyncSchedule,
        condition: Condition,
        measurements: Measurements,
        low_disk_bytes: int,
        holds: StatedHolds,
        keys: KeyCommits | None = None,
        on_sealed: Callable[[], None] = lambda: None,
    ) -> None:
        self.first_seq: Final = framer.head.seq + 1  #: of this session
        self.phase = Phase.RUNNING
        self._loop: Final = asyncio.get_running_loop()
        self._intake: Final = intake
        self._acknowledgements: Final = acknowledgements
        self._schedule: Final = schedule
        self._holds: Final = holds
        self._keys: Final = keys
        self._on_sealed: Final = on_sealed  # called when the records of seals are on their way
        self._health: Final = WriterHealth(condition, str(store.directory), low_disk_bytes)
        self._commits: Final = Commits(
            store=store,
            thread=thread,
            measurements=measurements,
            ended=self._commit_ended,
            retry_due=self._wake,
            keys=keys,
        )
        self._framing: Final = Framing(framer, intake.buffer, schedule, self._loop.time)
        # The intake bounds what waits, in events and bytes; the stream itself has no bound. None is its end.
        self._stream: Final = anyio.create_memory_object_stream[list[Receipt] | None](math.inf)
        self._in_stream = 0
        self._is_woken = False  # the task is to look what is due, before it waits again
        self._idle: asyncio.Future[None] | None = None  # what the task waits for while nothing is due
        self._sync_timer: asyncio.TimerHandle | None = None  # the flush mode's interval
        self._watch: asyncio.TimerHandle | None = None  # looks whether the disk answers
        if schedule.delays_writes:
            acknowledgements.awaited = self._end_delay

    @property
    def head(self) -> Head:
        """The chain's head: the last record that was given its place, which may not be on the disk yet."""
        return self._framing.head

    @property
    def head_seq(self) -> int:
        """The last sequence number given out."""
        return self._framing.head.seq

    @property
    def critical_at_once(self) -> bool:
        """Whether a critical event is made durable at once."""
        return self._schedule.critical_at_once

    @property
    def counters(self) -> CommitCounters:
        """What was committed so far."""
        return self._commits.counters

    @property
    def outlet(self) -> Outlet:
        """The receiver of what the intake takes."""
        return Outlet(self._send, self._send_end)

    async def begin(self, opening: Sequence[Entry]) -> None:
        """Make the session's first records durable, before it takes any event; raises `OSError` at the first try."""
        self._framing.frame(opening)
        self._acknowledge(await self._commits.commit_opening(self._framing.batches.popleft()))

    def discard(self) -> None:
        """Close the stream of a writer whose task will never run: the log could not be opened."""
        for end in self._stream:
            end.close()

    # The task.

    async def run(self, then: Callable[[], Awaitable[None]]) -> None:
        """Write until the intake is closed and everything in it is durable, or the writer has failed; then `then()`."""
        arriving, arrived = self._stream
        with arriving, arrived:
            try:
                while self.phase is Phase.RUNNING or self.phase is Phase.DRAINING:
                    if self._is_woken:
                        self._is_woken = False
                        self._receive()
                    elif self._framing.has_more:
                        await asyncio.sleep(0)  # the other tasks of the loop have their turn after each slice
                    else:
                        idle = self._idle = self._loop.create_future()
                        # Asked again: a signal handler or a finalizer may have emitted before `_idle` was set.
                        if not self._is_woken:
                            await idle
                        self._idle = None
                        continue
                    full_slice = self._framing.frame_slice()
                    self._begin_commit()
                    if full_slice and self._commits.state is CommitState.UNDER_WAY:
                        # Under load the loop never rests, and the disk thread, back from a system call, would wait for
                        # the GIL for the interpreter's switch interval, 5 ms, twice a commit. A nap of 60 us a full
                        # slice lets it in: 400 commits a second instead of 50 at the same load, 10 to 20 % more
                        # events/s (bench throughput).
                        time.sleep(_NAP_S)  # noqa: ASYNC251 - shorter than a turn of the loop
            except GeneratorExit:  # the loop was closed and collected: what is left is drained without it
                raise
            except BaseException as error:
                self.fail(error)
                if not isinstance(error, Exception):
                    raise
        self._acknowledgements.awaited = None
        await then()

    @property
    def _is_running(self) -> bool:
        return self.phase is Phase.RUNNING or self.phase is Phase.DRAINING

    def _send(self, chunk: list[Receipt] | None) -> None:
        """Send the task a chunk that the intake opens, None for its end. In the loop's thread."""
        self._in_stream += 1  # before: a signal handler that raises may come after any call
        self._stream[0].send_nowait(chunk)
        self._wake()

    def _send_end(self) -> None:
        if self._is_running:
            self._send(None)

    def _receive(self) -> None:
        # Counted, since an empty stream says so by an exception. And the task does not wait in the stream's own
        # `receive()`, which takes two turns of the loop and 10 us more of a lone commit's 270.
        while self._in_stream:
            self._in_stream -= 1
            try:
                chunk = self._stream[1].receive_nowait()
            except anyio.WouldBlock:  # one was counted and, as its sender was interrupted, not sent
                continue
            if chunk is not None:
                self._framing.add(chunk)
            elif self.phase is Phase.RUNNING:
                self.phase = Phase.DRAINING

    def _wake(self) -> None:
        """Have the task look what is due. In the loop's thread."""
        self._is_woken = True
        idle = self._idle
        if idle is None or idle.done():
            return
        resumes = idle._callbacks  # noqa: SLF001 - they are gone after the call
        try:
            idle.set_result(None)
        except asyncio.InvalidStateError:  # a signal handler has emitted since, and woken it
            return
        except BaseException:  # of a signal handler, maybe before the loop knows that the task is to go on
            if not idle.done():
                self._loop.call_soon(self._wake)
            else:
                for resume, context in resumes or ():
                    self._loop.call_soon(self._resume, idle, resume, context=context)
            raise

    def _resume(self, idle: asyncio.Future[None], resume: Callable[[asyncio.Future[None]], object]) -> None:
        """Let the task go on that waits for `idle`, unless it did."""
        if idle is self._idle:
            resume(idle)

    # Committing.

    def _begin_commit(self) -> None:
        """Begin the next commit, if none is under way and there is something to write or to sync; or end."""
        commits = self._commits
        if commits.state is CommitState.UNDER_WAY or commits.state is CommitState.PAUSED:
            return
        if (
            self._acknowledgements.durable_seq == self._framing.head.seq
            and self.phase is Phase.RUNNING
            and commits.state is CommitState.READY
        ):
            return  # a log at rest, as after most commits
        all_framed = self.phase is Phase.DRAINING and not self._framing.has_more
        durable_seq, framed_seq = self._acknowledgements.durable_seq, self._framing.head.seq
        batches = self._framing.batches
        retry = commits.state is CommitState.RETRY_DUE
        sync = (
            retry
            or (all_framed and durable_seq < framed_seq)
            or (self._schedule.delays_writes and self._framing.is_full)
            or self._schedule.is_due(durable_seq, framed_seq, self._loop.time())
        )
        if sync or (batches and not self._schedule.delays_writes):
            batch = batches.popleft() if batches and not retry else None
            if not batches:
                self._schedule.commit_begun()
            commits.begin(batch, sync=sync)
            if self._watch is None:
                self._watch = self._loop.call_later(_WATCH_S, self._look_at_commit, self._intake.drops.total)
        elif all_framed:
            self.phase = Phase.ENDED
            self._wake()  # so that the task looks at its phase, and ends
        elif self._schedule.deadline is not None and self._sync_timer is None:
            # Records wait for the flush mode's interval, which has to end by itself.
            deadline = self._schedule.deadline
            if _is_frozen(self._loop):
                self._loop.call_soon(self._interval_over, deadline)
            else:
                self._sync_timer = self._loop.call_at(deadline, self._interval_over, deadline)

    def _interval_over(self, deadline: float) -> None:
        self._sync_timer = None
        self._schedule.interval_over(deadline)
        self._wake()

    def _end_delay(self, receipt: Receipt) -> None:
        """Let a receipt that somebody waits for wait for no company: it may be framed, or still to be framed."""
        if receipt.seq < 0:
            self._framing.make_urgent()  # the task frames it in its next turn
        else:
            self._schedule.demand(receipt.seq)
            if self._is_running:
                self._begin_commit()

    def _look_at_commit(self, dropped_before: int) -> None:
        """Look, while there are commits, whether the disk answers; a timer's callback."""
        self._watch = None
        if self._is_running and self._commits.state is CommitState.UNDER_WAY:
            age_s = self._loop.time() - self._commits.began_at
            if age_s < _WATCH_S:
                dropped_before = self._intake.drops.total
            self._health.under_way(age_s, self._intake.drops.total - dropped_before)
            self._watch = self._loop.call_later(_WATCH_S, self._look_at_commit, dropped_before)

    def _commit_ended(self, ended: CommitEnded) -> None:
        """Acknowledge what a commit has made durable, or have it made again; then begin the next one.

        The loop calls it with what the disk thread hands over; a message to the task would come a turn of the loop
        later, which takes 0.7 ms under load, and the disk would rest that long after each commit: half the commits a
        second (bench throughput), and 10 us more of a lone one.
        """
        try:
            if ended.result is not None:
                self._acknowledge(ended.result)
            elif self._is_running:
                self._retry_later(ended.error)
            if self.phase is Phase.RUNNING or self.phase is Phase.DRAINING:
                self._begin_commit()
        except Exception as error:  # noqa: BLE001 - a callback's exception would only be logged by the loop
            self.fail(error)

    def _retry_later(self, error: BaseException | None) -> None:
        """Have a commit made again that the disk has refused; raises any other error."""
        if not isinstance(error, OSError):
            raise error or RuntimeError("a commit ended with neither a result nor an error")
        self._commits.refused()
        self._health.refused(error)

    # Acknowledging.

    def _acknowledge(self, outcome: Outcome) -> None:
        """Draw all conclusions from a commit that has succeeded; from the last ones only while the log is well."""
        self._commits.succeeded(outcome)
        durable_seq = outcome.committed.synced.seq
        self._schedule.synced(durable_seq, self._framing.head.seq, self._loop.time())
        self._acknowledgements.advance(durable_seq)
        self._give_room_back(durable_seq)
        if self.phase is not Phase.FAILED:
            self._health.committed(outcome)
            if outcome.committed.sealed or outcome.committed.damaged:
                self._record_segments(outcome.committed)
            if self._keys is not None and self._keys.erased:
                self.record_erased()

    def _give_room_back(self, durable_seq: int) -> None:
        """Let new events take the room of those that are durable, and record what was refused for lack of it."""
        self._intake.buffer.release(*self._commits.take_durable(durable_seq))
        if self._intake.drops.unrecorded and self._intake.state is State.OPEN:
            self._intake.record_drops()

    def _record_segments(self, committed: Committed) -> None:
        """Put into the chain what the store did besides writing; after the log is closed the next opening does."""
        if self._intake.state is State.OPEN:
            for event in events_of(committed, self._holds, None if self._keys is None else self._keys.stated):
                self._intake.emit_internal(event)
            self._on_sealed()

    def record_erased(self) -> None:
        """Put into the chain how many records were sealed under keys that were gone before they were durable."""
        while self._keys is not None and self._keys.erased and self._intake.state is State.OPEN:
            erased = self._keys.take_erased()
            self._intake.emit_internal(
                AuditErasedInFlight(epoch=erased.epoch, records=erased.records, key_ids=list(erased.key_ids) or None)
            )

    # What others ask for.

    async def flush(self) -> None:
        """Make everything emitted so far durable; raises `WriteFailed` if that can't be done any more."""
        last = self._framing.make_urgent()
        if last is None:
            head = self._framing.head
            self._schedule.demand(head.seq)
            if self._is_running:
                self._begin_commit()
            last = Receipt(0, 0, b"", head.seq, head.hash.decode(), self._acknowledgements)
        await last.durable()

    def retry_now(self) -> None:
        """Try again at once if the disk has refused: the process is about to end."""
        self._commits.retry_now()

    def drain_here(self, thread: DiskThread, last_event: AuditEvent, timeout_s: float) -> None:
        """Do all that is left to do from the calling thread, which this blocks; for a loop that runs no more.

        What the task was about to do is framed here; the disk thread, which outlives the loop, makes it durable after
        what it is doing. Raises `WriteFailed` if that takes too long.
        """
        deadline = time.monotonic() + timeout_s
        self._intake.buffer.redirect(Outlet(lambda _chunk: None, lambda: None))
        self._intake.close(last_event)
        self._framing.frame_rest()
        batches, last_error = self._framing.batches, ""
        while True:
            batch = batches.popleft() if batches else None
            commit = partial(self._commits.commit, batch, sync=not batches)
            ended = thread.wait(commit, max(0.0, deadline - time.monotonic()))
            if ended is not None and ended.result is not None:
                self._acknowledgements.drained(ended.result.committed.synced.seq)
                if not batches:
                    self.phase = Phase.ENDED
                    self._intake.buffer.clear()
                    return
            elif ended is not None:
                if not isinstance(ended.error, OSError):
                    raise ended.error or RuntimeError("a commit ended with neither a result nor an error")
                last_error = f"; last error: {describe_error(ended.error)}"
                time.sleep(_RETRY_HERE_S)
            if time.monotonic() >= deadline:
                raise WriteFailed(
                    f"the disk did not take everything within {timeout_s} s; "
                    f"{self.head_seq - self._acknowledgements.durable_seq} records are not durable{last_error}"
                )

    def fail(self, error: BaseException) -> None:
        """Stop for good, loudly: emit, flush and receipts raise from now on, and `health()` says why."""
        if not self._is_running:
            return
        self.phase = Phase.FAILED
        self._wake()  # so that the task looks at its phase, and ends
        self._intake.close(None, failed=True)
        failure = WriteFailed(
            f"the writer of the audit log in {self._health.directory} has stopped ({describe_error(error)}); "
            f"{self._intake.buffer.held_events} events are not known to be durable. Fix the cause and start a new "
            "logger"
        )
        failure.__cause__ = error
        self._acknowledgements.fail(failure)
        self._health.failed(error)
        self._commits.stop()
        for timer in (self._sync_timer, self._watch):
            if timer is not None:
                timer.cancel()


def _is_frozen(loop: asyncio.AbstractEventLoop) -> bool:
    """True if a test has stopped the clock of the loop, so that no timer of it ever ends: then no record waits for one.

    Only a clock that was replaced is looked at (freezegun does that), since this takes a millisecond.
    """
    if isinstance(time.monotonic, BuiltinFunctionType):
        return False
    before = loop.time()
    time.sleep(0.001)
    return loop.time() == before


class WriterTask(asyncio.Task[None]):
    """The task that a writer runs in. It can't be cancelled: that is a request to drain.

    Only the end of its loop cancels it (`asyncio.run` cancels every task that is left, and waits for it); no other code
    has a reference to it. A cancellation inside the coroutine could come between a message's arrival and its reading,
    and lose it.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        *,
        loop: asyncio.AbstractEventLoop,
        name: str,
        drain: Callable[[], object],
    ) -> None:
        self._drain: Final = drain
        super().__init__(coroutine, loop=loop, name=name)
        # asyncio's warning about a task that its loop has dropped; a log that was never closed has one of its own.
        self._log_destroy_pending = False

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ANN401, ARG002 - asyncio's signature
        """Have the writer drain, which ends the task; True unless it has ended."""
        if self.done():
            return False
        self._drain()
        return True
