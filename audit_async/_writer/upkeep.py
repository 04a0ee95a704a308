"""Upkeep of a log that is open: retention, once a day or when asked for, legal holds, and its verification of itself.

What is due, and how a segment is archived or deleted, the store knows. Here each step is put into the chain first,
and taken only when that record is durable: a trail never loses a segment without saying so.

The way of a segment: compressed and checked in a thread of its own, while the log goes on; `audit.segment_archived`
durable; then a few system calls between two commits, in the disk thread. After a crash between the record and
the step the next run records and takes it again: there may be two records of a step, and never none.

A log that is signed deletes nothing that its published tree does not cover.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar

import anyio
import msgspec

from audit_async._layout.hold_file import Hold
from audit_async._layout.manifest import SealedSegment
from audit_async._store.archiving import Archive, compress_segment
from audit_async._store.backup_lock import BackupRunning
from audit_async._store.log_store import LogStore
from audit_async._store.retention_plan import RetentionStep
from audit_async._writer.disk_thread import DiskThread
from audit_async._writer.intake import Intake
from audit_async._writer.stated_holds import StatedHolds
from audit_async._writer.write_loop import Writer
from audit_async.config import RetentionPolicy
from audit_async.errors import AuditError, LogCorrupted, RetentionRefused
from audit_async.events import (
    AuditEvent,
    AuditSegmentArchived,
    AuditSegmentDamaged,
    AuditSegmentDeleted,
    AuditSegmentKept,
)
from audit_async.privacy.key_store import KeyStore
from audit_async.status import Condition, VerificationStats, describe_error

if TYPE_CHECKING:
    from audit_async._writer.index_task import SegmentIndexing
    from audit_async._writer.verification_task import VerificationTask

#: Seconds from the opening to the first daily run, so that a service's start is not slowed, and between two.
_FIRST_RUN_S: Final = 60.0
_DAY_S: Final = 86_400.0
#: While a backup is being taken, seconds to the next try.
_AFTER_BACKUP_S: Final = 60.0
#: If nothing has to wait, seconds from a seal to the run. Without it the records of tiny segments that are archived,
#: which fill others, would keep retention running.
_AFTER_SEAL_S: Final = 5.0
#: What archiving records may fill and seal tiny segments in their turn; so often they are archived as well.
_MOST_PASSES: Final = 8
#: Segments of so many bytes are compressed before the first of them is taken out of the log directory.
_MOST_BYTES_AT_ONCE: Final = 128 << 20
#: A clock that was set forward by more than this since the opening is not trusted with deleting evidence.
_LARGEST_JUMP_S: Final = 86_400.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class RetentionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What retention did to one segment, or would do."""

    action: Literal["archive", "delete"]
    segment: str  #: file name
    first_seq: int
    last_seq: int
    age_days: int  #: whole days since its last record
    bytes: int  #: uncompressed
    done: bool = False  #: False in a dry run, and if it failed
    error: str | None = None  #: why it failed; the segment is as it was, and the next run tries again

    @classmethod
    def of(cls, step: RetentionStep, *, done: bool = False, error: str | None = None) -> RetentionOutcome:
        """Return the outcome of a step that was planned; of one that was not taken if nothing else is given."""
        return cls(
            action=step.action,
            segment=step.segment.segment,
            first_seq=step.segment.first_seq,
            last_seq=step.segment.last_seq,
            age_days=step.age_days,
            bytes=step.segment.bytes,
            done=done,
            error=error,
        )


class RetentionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run of retention, oldest segment first."""

    steps: tuple[RetentionOutcome, ...]
    hold: Hold | None  #: the legal hold that was in force, and kept everything as it was
    dry_run: bool

    @property
    def ok(self) -> bool:
        """True if nothing has failed."""
        return all(step.error is None for step in self.steps)


#: The tasks of `_to_the_end`, since a loop has only weak references to its tasks.
_under_way: Final[set[asyncio.Task[Any]]] = set()


async def _to_the_end(steps: Coroutine[Any, Any, _T]) -> _T:
    """Run steps that belong together; whoever waits for them may be cancelled, as by a timeout, and they go on.

    Between its file and its record a hold would be in force for this session, and unknown to the chain.
    """
    task = asyncio.get_running_loop().create_task(steps)
    _under_way.add(task)  # it may be over by now: an eager task runs at once
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


def _ended(task: asyncio.Task[Any]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # asked for, or asyncio would report an error of which nobody waits to hear


class Upkeep:
    """Retention and holds of one open log. Owned by the loop's thread."""

    def __init__(
        self,
        *,
        store: LogStore,
        thread: DiskThread,
        writer: Writer,
        intake: Intake,
        condition: Condition,
        policy: RetentionPolicy,
        holds: StatedHolds,
        cover: Callable[[int], Awaitable[None]],
        verification: VerificationTask | None = None,
        key_store: KeyStore | None = None,
        index_sealed: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._thread = thread
        self._writer = writer
        self._intake = intake
        self._condition = condition
        self._policy = policy
        self._holds = holds
        self._cover = cover  # returns when a signed tree no longer needs the segment of a record, or raises
        self._key_store = key_store
        self._verification = verification
        self._now = now
        self.indexing: Final = self._indexing_of(store) if index_sealed else None
        self._sealed = asyncio.Event()  # since the last run began
        self._stopped = Event()  # asked by the thread that compresses
        self._one_at_a_time = anyio.Lock()
        # The host's worker threads may all be taken by the host; one more is always there for this.
        self._compressing = anyio.CapacityLimiter(1)
        self._recorded_damage: set[str] = set()
        self._jumped_s = _clock_jump(now)

    # Retention.

    async def apply(self, *, dry_run: bool, at: datetime | None) -> RetentionReport:
        """Do, or only list, what the policy asks for; see `AuditLogger.apply_retention`."""
        async with self._one_at_a_time:
            if not dry_run:
                self._refuse_a_clock_that_jumped()
                await self._in_disk_thread(self._store.refuse_during_backup)
                await self.record_holds()
                await self._in_disk_thread(self._store.finish_retention)
            hold = await self._in_disk_thread(lambda: self._store.hold)
            now = at or self._now()
            due = await self._in_disk_thread(self._store.plan_retention, self._policy, now)
            self._report_unshipped(await self._in_disk_thread(self._store.overdue_unshipped, self._policy, now))
            if dry_run:
                outcomes = [RetentionOutcome.of(step) for step in due]
            else:
                outcomes = [done for steps in self._groups(due) for done in await self._take(steps)]
        return RetentionReport(steps=tuple(outcomes), hold=hold, dry_run=dry_run)

    async def run_daily(self) -> None:
        """Apply the policy once a day until cancelled, and after each seal if nothing has to wait.

        What fails is logged when it changes, and tried with the next run.
        """
        await self._wait_for_first_run()
        while True:
            pause_s = _DAY_S
            self._sealed.clear()
            try:
                report = await self.apply(dry_run=False, at=None)
                failed = [f"{step.segment}: {step.error}" for step in report.steps if step.error is not None]
                self._report("; ".join(failed) or None)
            except BackupRunning:
                pause_s = _AFTER_BACKUP_S
            except Exception as error:  # noqa: BLE001 - nobody awaits this task: it reports the error, and goes on
                self._report(describe_error(error))
            await self._pause(pause_s)

    async def _wait_for_first_run(self) -> None:
        """Wait until the daily runs begin; meanwhile encrypt what must not stay readable, and delete nothing."""
        with anyio.move_on_after(_FIRST_RUN_S):
            while self.encrypts_at_once:
                self._sealed.clear()
                await self._encrypt_sealed()
                await self._sealed.wait()
                await anyio.sleep(_AFTER_SEAL_S)
            await anyio.sleep_forever()

    async def encrypt_before_close(self, timeout_s: float) -> None:
        """Encrypt what is sealed, as far as that can be done in time.

        What is left over is encrypted by the next opening. Doesn't raise.
        """
        with anyio.move_on_after(timeout_s):
            await self._encrypt_sealed()

    @property
    def encrypts_at_once(self) -> bool:
        """True if what is sealed must not stay readable on this host."""
        policy = self._policy
        return policy.automatic and bool(policy.archive_recipients) and not policy.archive_after_days

    async def _encrypt_sealed(self) -> None:
        """Archive all that is sealed, also what the records of doing so have sealed; doesn't raise."""
        try:
            async with self._one_at_a_time:
                for _ in range(_MOST_PASSES):
                    steps = await self._in_disk_thread(self._store.plan_retention, self._policy, self._now())
                    due = [step for step in steps if step.action == "archive"]
                    outcomes = [done for group in self._groups(due) for done in await self._take(group)]
                    if not any(step.done for step in outcomes):
                        break
                self._report("; ".join(f"{step.segment}: {step.error}" for step in outcomes if step.error) or None)
        except Exception as error:  # noqa: BLE001 - the log goes on, or is closed, all the same
            self._report(describe_error(error))

    def segments_sealed(self) -> None:
        """Take note that segments were sealed, and that the chain records it: with no days to wait they are due."""
        self._sealed.set()

    async def _pause(self, pause_s: float) -> None:
        """Wait for the next run: a day, or, if what is sealed is archived at once, until something is sealed."""
        if self._policy.archive_after_days or pause_s < _DAY_S:
            await anyio.sleep(pause_s)
            return
        with anyio.move_on_after(pause_s):
            await self._sealed.wait()
            await anyio.sleep(_AFTER_SEAL_S)

    def stop(self) -> None:
        """Have the step that is under way end soon, and no other begin: the log is being closed."""
        self._stopped.set()
        if self.indexing is not None:
            self.indexing.stop()
        if self._verification is not None:
            self._verification.stop()

    def _indexing_of(self, store: LogStore) -> SegmentIndexing:
        from audit_async._writer.index_task import SegmentIndexing  # noqa: PLC0415 - only logs that index need it

        return SegmentIndexing(
            store.directory,
            newest=lambda: store.sealed_segments[-1].segment if store.sealed_segments else "",
            set_trouble=self._condition.set_trouble,
        )

    def _groups(self, due: list[RetentionStep]) -> Iterator[list[RetentionStep]]:
        """Yield the steps in their order, together those that are taken together: of one action, and not too many."""
        most, group, group_bytes = self._store.steps_at_once, list[RetentionStep](), 0
        for step in due:
            is_full = len(group) >= most or group_bytes >= _MOST_BYTES_AT_ONCE
            if group and (is_full or step.action != group[0].action):
                yield group
                group, group_bytes = [], 0
            group.append(step)
            group_bytes += step.segment.bytes
        if group:
            yield group

    async def _take(self, steps: list[RetentionStep]) -> list[RetentionOutcome]:
        """Record steps, then take them; a failure is part of the outcome, so that others get their turn."""
        try:
            await (self._archive(steps) if steps[0].action == "archive" else self._delete(steps))
        except (AuditError, OSError) as error:
            if len(steps) > 1:  # one of them may be the reason, and the others can still be taken
                return [outcome for step in steps for outcome in await self._take([step])]
            if isinstance(error, LogCorrupted):
                await self._record_damage(steps[0].segment, error)
            return [RetentionOutcome.of(steps[0], error=describe_error(error))]
        return [RetentionOutcome.of(step, done=True) for step in steps]

    async def _archive(self, steps: list[RetentionStep]) -> None:
        if self._policy.archive_recipients:  # the signed tree is made of records that this host can read
            for step in steps:
                await self._wait_covered(step.segment)
        archives = [await self._compress(step.segment) for step in steps]
        if self._policy.archive_recipients:
            await self._refuse_unshipped(steps)
        await self._in_disk_thread(self._store.refuse_during_backup)
        await self.record(
            AuditSegmentArchived(
                segment=archive.segment,
                archive=archive.file,
                sha256=archive.sha256,
                archive_sha256=archive.archive_sha256,
                recipients=list(self._policy.archive_recipients) if archive.encrypted is not None else None,
            )
            for archive in archives
        )
        await self._finish(steps, self._store.archive_segments, archives)

    async def _compress(self, segment: SealedSegment) -> Archive:
        """Compress a segment in a thread; a cancelled call has stopped before this raises, so no other runs with it."""
        cancelled = Event()

        def stopped() -> bool:
            return self._stopped.is_set() or cancelled.is_set()

        compress = partial(compress_segment, access=self._store.access, recipients=self._policy.archive_recipients)
        call = asyncio.ensure_future(
            anyio.to_thread.run_sync(compress, self._store.directory, segment, stopped, limiter=self._compressing)
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            cancelled.set()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({call})
            if not call.cancelled():
                call.exception()  # asked for, or asyncio would report an error that nobody saw
            raise

    async def _delete(self, steps: list[RetentionStep]) -> None:
        for step in steps:
            await self._wait_covered(step.segment)
        # Asked again for each group: the hold may have come while the one before was being archived.
        if (hold := await self._in_disk_thread(lambda: self._store.hold)) is not None:
            raise RetentionRefused(f"a legal hold is in force since {hold.since}")
        await self._refuse_unshipped(steps)
        await self._in_disk_thread(self._store.refuse_during_backup)
        await self.record(
            AuditSegmentDeleted(
                segment=step.segment.segment,
                first_seq=step.segment.first_seq,
                last_seq=step.segment.last_seq,
                sha256=step.segment.sha256,
                hash=step.segment.hash,
                reason=f"{step.age_days} days old, to be kept for {self._policy.delete_after_days}",
            )
            for step in steps
        )
        await self._finish(steps, self._store.delete_segments, [step.segment.segment for step in steps])

    async def _refuse_unshipped(self, steps: list[RetentionStep]) -> None:
        """Raise `RetentionRefused` if collectors have withdrawn a confirmation since the steps were planned."""
        await self._in_disk_thread(self._store.refuse_unshipped, self._policy, [step.segment for step in steps])

    async def _finish(self, steps: list[RetentionStep], take: Callable[[_T], None], what: _T) -> None:
        """Take steps that the chain has recorded; if they were not taken after all, it records that as well."""
        try:
            await self._in_disk_thread(take, what)
        except (AuditError, OSError) as error:
            if kept := await self._in_disk_thread(self._not_taken, steps):
                reason = describe_error(error)
                await self.record(
                    AuditSegmentKept(segment=step.segment.segment, step=step.action, reason=reason) for step in kept
                )
            raise

    def _not_taken(self, steps: list[RetentionStep]) -> list[RetentionStep]:
        """Return those of these steps, all of one action, after which the manifest would say something else."""
        entries = {entry.segment: entry for entry in self._store.sealed_segments}

        def is_taken(step: RetentionStep) -> bool:
            entry = entries[step.segment.segment]
            if step.action == "delete":
                return entry.state == "deleted"
            return entry.state == "archived" and (entry.is_encrypted or not self._policy.archive_recipients)

        return [step for step in steps if not is_taken(step)]

    async def _wait_covered(self, segment: SealedSegment) -> None:
        """Return when the signed tree no longer needs a segment, or raise."""
        try:
            await self._cover(segment.last_seq)
        except (AuditError, OSError) as error:
            raise RetentionRefused(
                f"the signed tree does not cover it yet, and must before it goes: {describe_error(error)}"
            ) from error

    async def _record_damage(self, segment: SealedSegment, damage: LogCorrupted) -> None:
        """Put into the chain, once a session, that a sealed segment or its archive is not what was sealed."""
        if segment.segment in self._recorded_damage:
            return
        self._recorded_damage.add(segment.segment)
        try:
            await self.record([AuditSegmentDamaged(segment=damage.segment, reason=damage.reason)])
        except AuditError:
            return  # the log is closing: the next session's first run will find it again

    def _refuse_a_clock_that_jumped(self) -> None:
        jumped_s = _clock_jump(self._now) - self._jumped_s
        if jumped_s > _LARGEST_JUMP_S:
            raise RetentionRefused(
                f"the system clock was set forward by {jumped_s / _DAY_S:.1f} days since this log was opened, so "
                "nothing is deleted by it; if it is right now, open the log again"
            )

    def _report(self, text: str | None) -> None:
        why = None if text is None else f"not all that is due could be done; it is tried again in a day: {text}"
        self._condition.set_trouble("retention", why)

    def _report_unshipped(self, overdue: list[RetentionStep]) -> None:
        why = None
        if overdue:
            first = overdue[0]
            why = (
                f"{len(overdue)} segments are due and stay, since collectors have not confirmed them in "
                f"{self._policy.min_copies} places, the first one {first.segment.segment}, {first.age_days} days old"
            )
        self._condition.set_trouble("shipping", why)

    # Verification.

    @property
    def verified(self) -> VerificationStats | None:
        """What is known of the log's verifications of itself, None if it has none; from any thread."""
        return None if self._verification is None else self._verification.stats

    async def verify_repeatedly(self) -> None:
        """Verify the log again and again, until cancelled, if it is configured so."""
        if self._verification is not None:
            await self._verification.run(self.record)

    def forked(self) -> None:
        """Let go, in a forked child, of the parent's process that verifies."""
        if self._verification is not None:
            self._verification.forked()

    # Legal holds.

    async def set_hold(self, *, reason: str, set_by: str) -> Hold:
        """Put a hold in force; see `AuditLogger.set_hold`."""
        return await _to_the_end(self._set_hold(reason, set_by))

    async def _set_hold(self, reason: str, set_by: str) -> Hold:
        # The hold comes first: between it and its record nothing is deleted, the other way round something might be.
        hold = await self._in_disk_thread(self._store.set_hold, reason=reason, set_by=set_by, now=self._now())
        await self._keep_keys(hold)
        await self.record([self._holds.set_by(hold, reason=reason, set_by=set_by)])
        return hold

    async def lift_hold(self, *, reason: str, lifted_by: str) -> None:
        """End a hold; see `AuditLogger.lift_hold`."""
        await _to_the_end(self._lift_hold(reason, lifted_by))

    async def _lift_hold(self, reason: str, lifted_by: str) -> None:
        await self.record_holds()
        holds = await self._in_disk_thread(lambda: self._store.holds)
        for hold in holds:
            await self.record([self._holds.lifted_by(hold, reason=reason, lifted_by=lifted_by)])
            if self._key_store is not None:
                await self._in_disk_thread(self._key_store.lift_hold, self._store.log_id, hold.id)
        if holds:
            await self._in_disk_thread(self._store.lift_holds, holds, self._now())

    async def hold(self) -> Hold | None:
        """Return the hold that is in force, the oldest if there are several."""
        return await self._in_disk_thread(lambda: self._store.hold)

    async def _keep_keys(self, hold: Hold) -> None:
        """Copy a hold into the key store: while it is in force nobody is erased or forgotten."""
        if self._key_store is not None:
            await self._in_disk_thread(self._key_store.set_hold, self._store.log_id, hold.id)

    async def record_holds(self) -> None:
        """Put those holds into the chain that another process has placed since the opening, next to this writer."""
        for hold in await self._in_disk_thread(self._store.check_holds, self._now()):
            await self._keep_keys(hold)
            await self.record([self._holds.set_by(hold, reason=hold.reason, set_by=hold.set_by)])

    # Both.

    async def record(self, events: Iterable[AuditEvent]) -> None:
        """Return when these events, one or more, are durable."""
        receipts = [self._intake.emit_on_record(event) for event in events]
        await self._writer.flush()
        await receipts[-1].durable()

    async def _in_disk_thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._thread.call(call, *args, **kwargs)


def _clock_jump(now: Callable[[], datetime]) -> float:
    """Return by how much the wall clock is ahead of the time since boot, suspended time included, in seconds."""
    boottime = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux; macOS's monotonic clock stops asleep
    return now().timestamp() - time.clock_gettime(boottime)
