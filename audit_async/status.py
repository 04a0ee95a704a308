"""What a logger reports about itself: health, counters, measurements, and the position of a record in its chain."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

import msgspec

__all__ = ["Commit", "Health", "HealthStatus", "Histogram", "LoggerStats", "Position", "VerificationStats"]

_log = logging.getLogger("audit_async")


class Position(NamedTuple):
    """The place of a record in its chain; enough to recognise the chain's state later."""

    seq: int  #: sequence number, from 0; -1 from a disabled logger, which records nothing
    hash: str  #: the record's hash, 64 lower-case hex digits


class HealthStatus(Enum):
    """The state of a logger."""

    NOT_STARTED = "not_started"
    OK = "ok"
    #: everything works, but the log's own verification has found that something is not as it was written
    INVALID = "invalid"
    LOW_DISK = "low_disk"  #: everything works, but less than `low_disk_bytes` is left on the file system
    STALLED = "stalled"  #: the disk doesn't answer: no error, and no end; events are kept in memory
    DEGRADED = "degraded"  #: the disk takes nothing; events are kept in memory and writing is tried again
    FAILED = "failed"  #: the writer has stopped; `emit` raises `WriteFailed`
    CLOSED = "closed"
    DISABLED = "disabled"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of how a logger is doing, for health endpoints."""

    status: HealthStatus
    #: why it is not OK: the error's class and text; while it is OK, trouble that puts no record at risk, such as a
    #: checkpoint that could not be signed
    reason: str | None = None
    since: float = 0.0  #: when this status began, seconds since 1970
    durable_seq: int = -1  #: everything up to this sequence number is on stable storage
    waiting_events: int = 0  #: emitted and not yet durable
    buffer_fill: float = 0.0  #: 0.0 empty to 1.0 full, by whichever bound is closer
    dropped: int = 0  #: events that were lost since the start, for whatever reason
    verified_seq: int | None = None  #: everything up to this one was verified; None before the first time
    findings: int = 0  #: of the last verification of the log by itself

    @property
    def ok(self) -> bool:
        """True if what is emitted becomes durable: the answer of a readiness probe."""
        return self.status in _READY


_READY: Final = frozenset({HealthStatus.OK, HealthStatus.INVALID, HealthStatus.LOW_DISK, HealthStatus.DISABLED})

#: Upper bounds of the buckets that batch sizes are counted in, in events.
BATCH_BOUNDS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)
#: Upper bounds of the buckets that sync durations are counted in, in seconds: an NVMe drive with a power-loss
#: protected cache is in the first three, a consumer's SSD in the next three, a rotating or network disk in the rest.
SYNC_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """How observations are distributed over fixed buckets, since the start."""

    bounds: tuple[float, ...]  #: the buckets' upper bounds, inclusive, ascending
    counts: tuple[int, ...]  #: observations in each bucket alone; one more than bounds, for what is above the last
    sum: float  #: of all observations
    count: int  #: of all observations


class VerificationStats(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the verifications of a log by itself since the start."""

    verified_seq: int | None = None  #: up to which nothing was found; None before the first time
    since_verified_s: float | None = None  #: how long ago the last one ended that found nothing
    findings: int = 0  #: of the last one
    errors: int = 0  #: verifications that could not be done


class LoggerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since `start()`. The library's own events (`audit.*`) count like any other."""

    records: int = 0  #: events that were given their place in the chain
    durable: int = 0  #: records of this session that are on stable storage for certain
    waiting: int = 0  #: taken by `emit` and not yet durable
    waiting_bytes: int = 0  #: the memory that they are counted with
    dropped: int = 0  #: lost: refused by a full buffer, or reported by `count_lost`
    dropped_by_type: dict[str, int] = {}  #: the same by event type
    commits: int = 0  #: calls to the disk thread that succeeded
    syncs: int = 0  #: how many of them synced
    write_errors: int = 0  #: calls to the disk thread that failed and were tried again
    bytes_written: int = 0  #: bytes of all records written
    head_seq: int = -1  #: the last sequence number given out; it may not be durable yet
    batch_events: Histogram = Histogram(bounds=BATCH_BOUNDS, counts=(0,) * (len(BATCH_BOUNDS) + 1), sum=0.0, count=0)
    #: events handed to the disk at a time
    sync_seconds: Histogram = Histogram(bounds=SYNC_BOUNDS, counts=(0,) * (len(SYNC_BOUNDS) + 1), sum=0.0, count=0)
    #: time of each write and sync that succeeded, including the sealing of a segment if one was due
    last_sync_at: float | None = None  #: when the last sync ended, seconds since 1970
    since_sync_s: float | None = None  #: how long ago that is, by the monotonic clock
    verification: VerificationStats | None = None  #: of the log by itself; None if it does not verify itself
    free_bytes: int | None = None  #: left on the file system, as of the last commit, tried or done, at most 1 s before


class Commit(NamedTuple):
    """One call to the disk that succeeded."""

    events: int  #: handed over; 0 for a sync alone
    sync_s: float | None  #: how long the write and sync took; None if nothing was synced


CommitObserver = Callable[[Commit], None]


class Measurements:
    """What is measured of a logger's commits. Owned by the loop's thread, `free_bytes` by the disk's; read anywhere."""

    def __init__(self) -> None:
        self.batch_events = Distribution(BATCH_BOUNDS)
        self.sync_seconds = Distribution(SYNC_BOUNDS)
        self.last_sync_at: float | None = None
        self.free_bytes: int | None = None
        self._synced_monotonic_s: float | None = None
        self._observers: tuple[CommitObserver, ...] = ()

    @property
    def since_sync_s(self) -> float | None:
        """How long ago the last sync ended; None before the first."""
        return None if self._synced_monotonic_s is None else time.monotonic() - self._synced_monotonic_s

    def observe(self, observer: CommitObserver) -> None:
        """Call `observer` after each commit, in the loop's thread; it should take microseconds."""
        self._observers = (*self._observers, observer)

    def forget(self, observer: CommitObserver) -> None:
        """Stop calling `observer`."""
        self._observers = tuple(each for each in self._observers if each != observer)

    def committed(self, commit: Commit) -> None:
        """Count a commit: 2 us, once a commit."""
        if commit.events:
            self.batch_events.add(commit.events)
        if commit.sync_s is not None:
            self.sync_seconds.add(commit.sync_s)
            self.last_sync_at, self._synced_monotonic_s = time.time(), time.monotonic()
        for observer in self._observers:
            try:
                observer(commit)
            except Exception:  # noqa: BLE001 - it is logged, with its traceback
                # An observer must not be able to stop the log.
                self.forget(observer)
                _log.exception("a commit observer raised and is called no more: %r", observer)


class Distribution:
    """A histogram that grows. One thread adds; a snapshot from another may lack the newest observation's sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count `value` into its bucket."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def snapshot(self) -> Histogram:
        """Return what was counted so far."""
        counts = tuple(self._counts)
        return Histogram(bounds=self._bounds, counts=counts, sum=self._sum, count=sum(counts))


class Condition:
    """A logger's status and its changes, each logged once. Owned by the loop's thread; read from anywhere."""

    def __init__(self, status: HealthStatus) -> None:
        self.status = status
        self.since = time.time()
        self.where = "audit log"  #: the log's directory, for messages
        self._reason: str | None = None
        self._finding: str | None = None  # what the log's own verification has found
        # Trouble that puts no record at risk, by its subject. Replaced, never changed: other threads read it.
        self._troubles: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Condition {self.status.value} of {self.where}, reason={self.reason!r}>"

    @property
    def reason(self) -> str | None:
        """Why the status is not OK; while it is, the troubles that were reported and are not over."""
        if self._reason is not None:
            return self._reason
        return "; ".join(f"{subject}: {text}" for subject, text in self._troubles.items()) or None

    def set_status(self, status: HealthStatus, reason: str | None = None) -> None:
        """Change the status; logs a warning if it became worse, and when it is OK again.

        As long as there is a finding, OK means invalid.
        """
        if status is HealthStatus.OK and self._finding is not None:
            status, reason = HealthStatus.INVALID, self._finding
        self._reason = reason
        if status is self.status:
            return
        before, self.status, self.since = self.status, status, time.time()
        if status in {HealthStatus.STALLED, HealthStatus.DEGRADED, HealthStatus.LOW_DISK}:
            _log.warning("%s is %s: %s", self.where, status.value, reason)
        elif status is HealthStatus.FAILED:
            _log.error("%s has failed: %s", self.where, reason)
        elif status is HealthStatus.INVALID:
            _log.error("%s is not as it was written: %s", self.where, reason)
        elif status is HealthStatus.OK and before is not HealthStatus.NOT_STARTED:
            _log.warning("%s is ok again, it was %s", self.where, before.value)

    def set_finding(self, text: str | None) -> None:
        """Report what the log's own verification has found, or, with None, that it finds nothing any more.

        It puts no record at risk, so a worse status outranks it.
        """
        if text == self._finding:
            return
        self._finding = text
        if self.status in {HealthStatus.OK, HealthStatus.INVALID}:
            self.set_status(HealthStatus.OK)
        elif text is not None:
            _log.error("%s: %s", self.where, text)

    def set_trouble(self, subject: str, text: str | None) -> None:
        """Report trouble with `subject` that puts no record at risk, or, with None, that it is over.

        It is logged when it begins, changes or ends, and is in `reason` as long as it lasts.
        """
        before = self._troubles.get(subject)
        if text == before:
            return
        others = {name: known for name, known in self._troubles.items() if name != subject}
        if text is None:
            self._troubles = others
            _log.warning("%s: %s: that trouble is over", self.where, subject)
        else:
            self._troubles = {**others, subject: text}
            _log.warning("%s: %s: %s", self.where, subject, text)


def describe_error(error: BaseException) -> str:
    """Return an error's class and text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
