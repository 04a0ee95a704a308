"""Commits: batches on their way through the disk thread, one commit at a time, and what is tried again.

The writer says when a commit begins and gets a message when it has ended. A commit that the disk refuses is made
again after a pause that doubles each time: the store keeps what it has accepted until it is durable, so nothing is
handed over twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from audit_async._chain import Batch
from audit_async._store.log_store import Committed, LogStore
from audit_async._writer.disk_thread import DiskThread, Done, in_loop
from audit_async.status import Commit, Measurements

if TYPE_CHECKING:  # it needs the extra `privacy`
    from audit_async._writer.key_commits import KeyCommits

#: Waits between tries while the disk fails, in seconds: doubled from the first to the last.
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0
#: How often the space left on the file system is looked at, in seconds.
_SPACE_INTERVAL_S: Final = 1.0
#: How often other processes get to know, at most, up to where the log is acknowledged, in seconds; at every commit it
#: would cost another wait for the GIL.
_PUBLISH_INTERVAL_S: Final = 0.01


class CommitState(Enum):
    """READY -> UNDER_WAY -> READY; if the disk refused, UNDER_WAY -> PAUSED -> RETRY_DUE -> UNDER_WAY."""

    READY = "ready"
    UNDER_WAY = "under way"
    PAUSED = "paused"
    RETRY_DUE = "retry due"


class Outcome(msgspec.Struct, frozen=True):
    """What a commit brought about."""

    committed: Committed
    synced: bool
    took_s: float  #: how long the store took for it
    free_bytes: int | None  #: space left on the file system, if it was looked at


#: How a commit ended, as a message to the writer: an outcome, or an error.
CommitEnded = Done[Outcome]


class _Undurable(msgspec.Struct, frozen=True):
    """A batch that was handed over and is not known to be durable."""

    last_seq: int
    events: int
    event_bytes: int


@dataclass(slots=True)
class CommitCounters:
    """What `stats()` says of commits. Written in the loop's thread, read from anywhere."""

    commits: int = 0
    syncs: int = 0
    write_errors: int = 0
    bytes_written: int = 0


class Commits:
    """The way to the store. Owned by the loop's thread, but for what is marked; the store is the disk thread's."""

    def __init__(
        self,
        *,
        store: LogStore,
        thread: DiskThread,
        measurements: Measurements,
        ended: Callable[[CommitEnded], object],
        retry_due: Callable[[], object],
        keys: KeyCommits | None = None,
    ) -> None:
        """`ended` and `retry_due` are called in the running loop: a commit has ended, a pause is over."""
        self.counters: Final = CommitCounters()
        self.state = CommitState.READY
        self.began_at = 0.0  #: when the last commit began, by the loop's clock
        self._loop: Final = asyncio.get_running_loop()
        self._store: Final = store
        self._thread: Final = thread
        self._measurements: Final = measurements
        self._ended: Final = in_loop(self._loop, ended)
        self._retry_due: Final = retry_due
        self._handed_over: Batch | None = None  # to the store, which has not said yet that it wrote it
        self._undurable: Final[deque[_Undurable]] = deque()
        self._retry_s = _FIRST_RETRY_S
        self._pause: asyncio.TimerHandle | None = None
        # Owned by the disk thread.
        self._keys: Final = keys
        self._space_looked_at = 0.0
        self._published_at = 0.0
        self._was_refused = False

    # In the loop's thread.

    async def commit_opening(self, batch: Batch) -> Outcome:
        """Make the session's first batch durable; raises `OSError` at the first try."""
        self._handed_over = batch
        return await self._thread.call(self.commit, batch, True)

    def begin(self, batch: Batch | None, *, sync: bool) -> None:
        """Begin a commit: of a batch, of nothing but a sync, or, if a retry is due, of what the store has accepted."""
        if batch is not None:
            self._handed_over = batch
            self._undurable.append(_Undurable(batch.head.seq, len(batch.lines), batch.event_bytes))
        self.state = CommitState.UNDER_WAY
        self.began_at = self._loop.time()
        self._thread.start(self.commit, self._ended, batch, sync)

    def succeeded(self, outcome: Outcome) -> None:
        """Note that the commit under way has ended well, and count it."""
        self.state = CommitState.READY
        self._retry_s = _FIRST_RETRY_S
        batch, self._handed_over = self._handed_over, None
        counters = self.counters
        counters.commits += 1
        counters.syncs += outcome.synced
        counters.bytes_written += batch.size if batch is not None else 0
        events = len(batch.lines) if batch is not None else 0
        self._measurements.committed(Commit(events, outcome.took_s if outcome.synced else None))

    def refused(self) -> None:
        """Note that the disk refused the commit under way, and have it made again after a pause."""
        self.counters.write_errors += 1
        self.state = CommitState.PAUSED
        self._pause = self._loop.call_later(self._retry_s, self.retry_now)
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

    def retry_now(self) -> None:
        """End the pause, if there is one: its time is over, or the process is about to end."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self.state is CommitState.PAUSED:
            self.state = CommitState.RETRY_DUE
            self._retry_due()

    def stop(self) -> None:
        """Begin no commit any more; one that is under way may still end."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def take_durable(self, durable_seq: int) -> tuple[int, int]:
        """Return how many of the events handed over are durable newly, and the bytes of them."""
        events = event_bytes = 0
        while self._undurable and self._undurable[0].last_seq <= durable_seq:
            durable = self._undurable.popleft()
            events += durable.events
            event_bytes += durable.event_bytes
        return events, event_bytes

    # In the disk thread.

    def commit(self, batch: Batch | None, sync: bool) -> Outcome:
        """Hand `batch` to the store, which keeps it until it is durable; once in a while, look at the space left."""
        began = time.monotonic()
        try:
            if self._keys is None:
                committed = self._store.commit(batch, sync=sync)
            else:
                committed = self._keys.commit(batch, sync=sync, write=self._store.commit)
        except OSError:
            self._was_refused = True
            self._look_at_space()  # what is reported while the disk is full must not be what was left before
            raise
        now = time.monotonic()
        if now - self._published_at >= _PUBLISH_INTERVAL_S:
            self._published_at = now
            self._store.publish_acknowledged()
        else:
            self._thread.once_idle = self._store.publish_acknowledged
        free_bytes = None
        if now - self._space_looked_at >= _SPACE_INTERVAL_S or self._was_refused:
            self._space_looked_at, self._was_refused = now, False
            free_bytes = self._look_at_space()
        return Outcome(committed, sync, now - began, free_bytes)

    def _look_at_space(self) -> int | None:
        """Measure the space left on the file system."""
        try:
            free_bytes = self._store.free_bytes()
        except OSError:  # the next commit will meet the same trouble, and report it
            return None
        self._measurements.free_bytes = free_bytes
        return free_bytes
