"""The writer: takes events from the stream, chains them, makes them durable, and says so.

The way of a batch, from top to bottom: the intake sends a chunk over the stream and has the loop call `chunk_sent`;
its events are given their place in the chain in bounded slices (`_frame_slice`); a commit is begun where none is
under way (`_advance`). The disk thread writes and syncs (`_commit_in_thread`), the loop acknowledges (`_committed`),
and the next commit takes all that was framed meanwhile: one sync is shared by all that arrived during the last one.
That is group commit. A record is acknowledged when the store says that it is on stable storage, never before.

All of it runs outside the application's task groups: whatever happens here cannot cancel or crash a task of the host,
and a host's task that ends takes no record with it. The steps are callbacks of the loop, not awaits of a task, for
two reasons: nothing that is cancelled can interrupt one, and a lone event is on its way to the disk one turn of the
loop after `emit` (a task that awaits the stream needs three, 60 us of a lone commit's 300; bench throughput).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import anyio
from aiofiles.os import wrap

from audit_async._chain import Batch, Framer
from audit_async._store.log_store import Committed, LogStore
from audit_async._writer.disk_thread import DiskThread
from audit_async._writer.intake import Intake, State
from audit_async._writer.receipts import Acknowledgements, Receipt
from audit_async._writer.sync_schedule import SyncSchedule
from audit_async.errors import WriteFailed
from audit_async.events.base import AuditEvent
from audit_async.events.lifecycle import AuditLogClosed, AuditSegmentDamaged, AuditSegmentSealed
from audit_async.status import Commit, Condition, HealthStatus, Measurements, describe_error

#: Records, and about their bytes, framed before the loop gets a turn: 0.4 ms of work.
_SLICE: Final = 256
_SLICE_BYTES: Final = 1 << 19
#: As short as it goes: the kernel makes about 60 us of it.
_NAP_S: Final = 1e-6
#: A batch that has grown to this many bytes is closed. Joining its lines holds the GIL, for 0.3 ms at this size.
_BATCH_BYTES: Final = 2 << 20
#: Waits between tries while the disk fails, in seconds: doubled from the first to the last.
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0
#: How often the space left on the file system is looked at, in seconds.
_SPACE_INTERVAL_S: Final = 1.0


class _Outcome(NamedTuple):
    """What a commit brought about."""

    committed: Committed
    synced: bool
    took_s: float  #: how long the store took for it
    free_bytes: int | None  #: space left on the file system, where it was looked at


class _Undurable(NamedTuple):
    """A batch that was written and is not known to be durable."""

    last_seq: int
    events: int
    event_bytes: int


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
        low_disk_bytes: int,
        drain_timeout_s: float,
        measurements: Measurements,
    ) -> None:
        self.commits = self.syncs = self.write_errors = self.bytes_written = 0
        self.first_seq = framer.head.seq + 1  #: of this session
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._thread = thread
        self._framer = framer
        self._intake = intake
        self._acknowledgements = acknowledgements
        self._schedule = schedule
        self._condition = condition
        self._measurements = measurements
        self._low_disk_bytes = low_disk_bytes
        self._drain_timeout_s = drain_timeout_s
        # The chunk that was taken from the stream, and how much of it is framed.
        self._taken: Sequence[Receipt] = ()
        self._taken_framed = 0
        self._taken_demanded = False
        # What is framed and not handed to the store; what was handed over and is not durable.
        self._batches: deque[Batch] = deque()
        self._undurable: deque[_Undurable] = deque()
        # Where the commits stand.
        self._in_flight = False
        self._handed_over: Batch | None = None  # to the store, which has not said yet that it wrote it
        self._retrying = False
        self._sealing_failed = False
        self._retry_s = _FIRST_RETRY_S
        self._pause: asyncio.TimerHandle | None = None  # between two tries
        self._timer: asyncio.TimerHandle | None = None  # the flush mode's interval
        # How it ends.
        self._more_sent = False  # while the chunk was being framed, `chunk_sent` came for another one, or for the end
        self._all_framed = False
        self._all_durable = asyncio.Event()
        self._stopped = False
        # Owned by the disk thread.
        self._space_looked_at = 0.0

    @property
    def head_seq(self) -> int:
        """The last sequence number given out."""
        return self._framer.head.seq

    async def begin(self, opening: Sequence[Receipt]) -> None:
        """Make the session's first records durable, before it takes any event; raises `OSError` at the first try."""
        batch = Batch(after=self._framer.head)
        self._framer.frame(opening, batch)
        self._handed_over = batch
        outcome: _Outcome = await wrap(self._commit_in_thread)(batch, sync=True, loop=self._loop, executor=self._thread)
        self._acknowledge(outcome)

    async def run(self) -> None:
        """Return when the intake is closed and everything in it is durable, or the writer has failed.

        The one task of the writer. It does nothing but wait: framing and committing are callbacks, which nobody can
        cancel. Its own cancellation means that the loop is being torn down and nobody closed the log; then it drains.
        """
        try:
            await self._all_durable.wait()
        except asyncio.CancelledError:
            await self._drain_when_cancelled()
            raise

    # Framing.

    def chunk_sent(self) -> None:
        """Frame what the stream holds, a slice now and a slice each further turn of the loop; a callback."""
        if self._taken:
            self._more_sent = True
        else:
            self._frame_next()

    def _frame_next(self) -> None:
        try:
            if self._taken or self._take_next():
                self._frame_slice()
                if self._taken or self._more_sent:
                    self._loop.call_soon(self._frame_next)
            else:
                self._more_sent = False
        except Exception as error:  # noqa: BLE001 - a callback's exception would only be logged by the loop
            self.fail(error)

    def _take_next(self) -> bool:
        """Take the next chunk from the stream; False where there is none."""
        try:
            taken = self._intake.take()
        except anyio.EndOfStream:
            self._all_framed = True
            self._advance()
            return False
        if taken is None:
            return False
        (self._taken, self._taken_demanded), self._taken_framed = taken, 0
        return True

    def _frame_slice(self) -> None:
        """Frame the next slice of the chunk that was taken."""
        # By the average of what is held, so that 256 events of 64 KiB don't hold the loop for 10 ms.
        length = min(_SLICE, 1 + _SLICE_BYTES * self._intake.held_events // (self._intake.held_bytes + 1))
        entries = self._taken[self._taken_framed : self._taken_framed + length]
        if not self._batches or self._batches[-1].size >= _BATCH_BYTES:
            self._batches.append(Batch(after=self._framer.head))
        self._framer.frame(entries, self._batches[-1])
        self._taken_framed += len(entries)
        self._schedule.framed(time.monotonic())
        if self._taken_framed == len(self._taken):
            self._taken = ()
            if self._taken_demanded:
                self._schedule.demand(self._framer.head.seq)
        self._advance()
        if len(entries) == length and self._in_flight:
            # Under load the loop never rests, and the disk thread, back from a system call, would wait for the GIL
            # for the interpreter's switch interval, 5 ms, twice a commit. A nap of 60 us a full slice lets it in:
            # 400 commits a second instead of 50 at the same load, 10 to 20 % more events/s (bench throughput).
            time.sleep(_NAP_S)

    # Committing.

    def _advance(self) -> None:
        """Begin the next commit, where none is under way and there is something to commit or to sync."""
        if self._in_flight or self._pause is not None or self._stopped:
            return
        durable_seq, framed_seq = self._acknowledgements.durable_seq, self._framer.head.seq
        ending = self._all_framed and durable_seq < framed_seq
        sync = ending or self._retrying or self._schedule.is_due(durable_seq, framed_seq, time.monotonic())
        if not (self._batches or sync):
            if self._all_framed:
                self._all_durable.set()
            else:
                self._set_timer()
            return
        batch = self._batches.popleft() if self._batches and not self._retrying else None
        if batch is not None:
            self._handed_over = batch
            self._undurable.append(_Undurable(batch.head.seq, len(batch.lines), batch.event_bytes))
        self._in_flight = True
        self._thread.hop(partial(self._commit_in_thread, batch, sync=sync), self._loop, self._committed)

    def _commit_in_thread(self, batch: Batch | None, *, sync: bool) -> _Outcome:
        """Hand `batch` to the store, which keeps it until it is durable; once in a while, look at the space left."""
        began = time.monotonic()
        try:
            committed = self._store.commit(batch, sync=sync)
        except OSError:
            self._look_at_space()  # what is reported while the disk is full must not be what was left before
            raise
        now = time.monotonic()
        free_bytes = None
        if now - self._space_looked_at >= _SPACE_INTERVAL_S or self._condition.status is HealthStatus.DEGRADED:
            self._space_looked_at = now
            free_bytes = self._look_at_space()
        return _Outcome(committed, sync, now - began, free_bytes)

    def _look_at_space(self) -> int:
        """Measure the space left on the file system; in the disk thread."""
        try:
            free_bytes = self._store.free_bytes()
        except OSError:  # the next commit will meet the same trouble, and report it
            return self._low_disk_bytes
        self._measurements.free_bytes = free_bytes
        return free_bytes

    def _committed(self, outcome: _Outcome | None, error: BaseException | None) -> None:
        """Go on behind a commit: acknowledge and begin the next one, or pause and try again."""
        self._in_flight = False
        try:
            if outcome is not None:
                self._retrying, self._retry_s = False, _FIRST_RETRY_S
                self._acknowledge(outcome)
                self._advance()
            elif isinstance(error, OSError):
                if not self._stopped:
                    self._try_again_later(error)
            else:
                self.fail(error)
        except Exception as defect:  # noqa: BLE001 - a callback's exception would only be logged by the loop
            self.fail(defect)

    def _acknowledge(self, outcome: _Outcome) -> None:
        """Tell everyone what is durable now, give its room back, and record what the store did beside writing."""
        self.commits += 1
        self.syncs += outcome.synced
        batch, self._handed_over = self._handed_over, None
        self.bytes_written += batch.size if batch is not None else 0
        events = len(batch.lines) if batch is not None else 0
        self._measurements.committed(Commit(events, outcome.took_s if outcome.synced else None))
        durable_seq = outcome.committed.synced.seq
        self._schedule.synced(durable_seq, self._framer.head.seq, time.monotonic())
        self._acknowledgements.advance(durable_seq)
        events = event_bytes = 0
        while self._undurable and self._undurable[0].last_seq <= durable_seq:
            durable = self._undurable.popleft()
            events += durable.events
            event_bytes += durable.event_bytes
        self._intake.release(events, event_bytes)
        if self._stopped:
            return  # what became durable all the same is told, but the log has failed, and is not well again
        if outcome.free_bytes is not None:
            self._judge_space(outcome.free_bytes)
        sealing_error = outcome.committed.sealing_error
        if sealing_error is not None or self._sealing_failed:
            self._sealing_failed = sealing_error is not None
            why = None if sealing_error is None else f"not possible yet: {describe_error(sealing_error)}"
            self._condition.set_trouble("sealing a segment", why)
        if self._intake.state is State.OPEN:  # what happens after that is told by the next opening
            for event in events_of(outcome.committed):
                self._intake.emit_internal(event)

    def _judge_space(self, free_bytes: int) -> None:
        """Report that the space runs low before it has run out; a commit has just succeeded."""
        if free_bytes < self._low_disk_bytes:
            where = self._store.directory
            self._condition.set_status(
                HealthStatus.LOW_DISK, f"{free_bytes} bytes are left on the file system of {where}"
            )
        else:
            self._condition.set_status(HealthStatus.OK)

    def _try_again_later(self, error: OSError) -> None:
        """Keep what is in memory, say so, and try again after a pause that doubles each time."""
        self.write_errors += 1
        self._retrying = True
        self._condition.set_status(HealthStatus.DEGRADED, describe_error(error))
        self._pause = self._loop.call_later(self._retry_s, self._end_pause)
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._advance()

    def _set_timer(self) -> None:
        """Have the flush mode's interval end by itself, where records wait for it."""
        deadline = self._schedule.deadline
        if deadline is not None and self._timer is None:
            self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._interval_over)

    def _interval_over(self) -> None:
        self._timer = None
        self._advance()

    # What the logger asks for.

    async def flush(self) -> None:
        """Make everything emitted so far durable; raises `WriteFailed` where that can't be done any more."""
        last = self._intake.demand()
        if last is None and self._taken:
            last = self._taken[-1]
            self._taken_demanded = True
        if last is None:
            head = self._framer.head
            self._schedule.demand(head.seq)
            self._advance()
            last = Receipt(0, 0, b"", head.seq, head.hash.decode(), self._acknowledgements)
        await last.durable()

    def hurry(self) -> None:
        """Try again at once where the disk has failed: the process is about to end."""
        self._end_pause()

    def fail(self, error: BaseException | None) -> None:
        """Stop for good, loudly: emit, flush and receipts raise from now on, and `health()` says why."""
        if self._stopped:
            return
        self._stopped = True
        cause = error or RuntimeError("the writer ended without a reason")
        self._intake.close(None, failed=True)
        failure = WriteFailed(
            f"the writer of the audit log in {self._store.directory} has stopped ({describe_error(cause)}); "
            f"{self._intake.held_events} events are not known to be durable. Mend the cause and start a new logger"
        )
        failure.__cause__ = cause
        self._acknowledgements.fail(failure)
        self._condition.set_status(HealthStatus.FAILED, describe_error(cause))
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        self._all_durable.set()

    async def _drain_when_cancelled(self) -> None:
        self._intake.close(AuditLogClosed())
        while self._taken or self._take_next():
            self._frame_slice()
        self._end_pause()
        with anyio.move_on_after(self._drain_timeout_s, shield=True) as drain:
            await self._all_durable.wait()
        if drain.cancelled_caught:
            self.fail(TimeoutError(f"the disk did not take everything within {self._drain_timeout_s} s"))


def events_of(committed: Committed) -> list[AuditEvent]:
    """Return what the chain has to say of what the store did besides writing; the store decides what that is."""
    events: list[AuditEvent] = [
        AuditSegmentSealed(
            segment=sealed.segment,
            first_seq=sealed.first_seq,
            last_seq=sealed.last_seq,
            records=sealed.records,
            bytes=sealed.bytes,
            sha256=sealed.sha256,
        )
        for sealed in committed.sealed
    ]
    events.extend(
        AuditSegmentDamaged(
            segment=damaged.segment,
            reason=damaged.reason,
            expected_bytes=damaged.expected_bytes,
            actual_bytes=damaged.actual_bytes,
        )
        for damaged in committed.damaged
    )
    return events
