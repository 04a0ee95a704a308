"""What a logger says of itself: its health, its counters, and where a record came to stand."""

from __future__ import annotations

import logging
import time
from enum import Enum
from typing import NamedTuple

import msgspec

_log = logging.getLogger("audit_async")


class Position(NamedTuple):
    """Where a record stands in its chain; enough to recognise the chain's state later."""

    seq: int  #: sequence number, from 0; -1 from a disabled logger, which records nothing
    hash: str  #: the record's hash, 64 lower-case hex digits


class HealthStatus(Enum):
    """The state of a logger."""

    NOT_STARTED = "not_started"
    OK = "ok"
    LOW_DISK = "low_disk"  #: everything works, but less than `low_disk_bytes` is left on the file system
    DEGRADED = "degraded"  #: the disk takes nothing; events are kept in memory and writing is tried again
    FAILED = "failed"  #: the writer has stopped; `emit` raises `WriteFailed`
    CLOSED = "closed"
    DISABLED = "disabled"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of how a logger is doing, for health endpoints."""

    status: HealthStatus
    reason: str | None = None  #: why it is not OK: the error's class and text
    since: float = 0.0  #: when this status began, seconds since 1970
    durable_seq: int = -1  #: everything up to this sequence number is on stable storage
    waiting_events: int = 0  #: emitted and not yet durable
    buffer_fill: float = 0.0  #: 0.0 empty to 1.0 full, by whichever bound is closer

    @property
    def ok(self) -> bool:
        """True while what is emitted becomes durable: the answer of a readiness probe."""
        return self.status in {HealthStatus.OK, HealthStatus.LOW_DISK, HealthStatus.DISABLED}


class LoggerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since `start()`. The library's own events (`audit.*`) count like any other."""

    records: int = 0  #: events that were given their place in the chain
    durable: int = 0  #: records of this session known to be on stable storage
    waiting: int = 0  #: taken by `emit` and not yet durable
    waiting_bytes: int = 0  #: the memory that they are counted with
    dropped: int = 0  #: refused because the buffer was full
    dropped_by_type: dict[str, int] = {}  #: the same by event type
    commits: int = 0  #: hops to the worker thread that succeeded
    syncs: int = 0  #: how many of them synced
    write_errors: int = 0  #: hops that failed and were tried again
    bytes_written: int = 0  #: bytes of all records written
    head_seq: int = -1  #: the last sequence number given out; it may not be durable yet


class Condition:
    """A logger's status and its changes, each logged once. Owned by the loop's thread; read from anywhere."""

    def __init__(self, status: HealthStatus) -> None:
        self.status = status
        self.reason: str | None = None
        self.since = time.time()
        self.where = "audit log"  #: the log's directory, for messages

    def becomes(self, status: HealthStatus, reason: str | None = None) -> None:
        """Take on `status`; a warning is logged when it got worse, a note when it got better."""
        if status is self.status:
            self.reason = reason
            return
        before, self.status, self.reason, self.since = self.status, status, reason, time.time()
        if status in {HealthStatus.DEGRADED, HealthStatus.LOW_DISK}:
            _log.warning("%s is %s: %s", self.where, status.value, reason)
        elif status is HealthStatus.FAILED:
            _log.error("%s has failed: %s", self.where, reason)
        elif status is HealthStatus.OK and before is not HealthStatus.NOT_STARTED:
            _log.warning("%s is ok again, it was %s", self.where, before.value)

    def remark(self, text: str | None) -> None:
        """Take note of trouble that puts no record at risk, logged once; None ends it."""
        if self.status is HealthStatus.OK and text != self.reason:
            self.reason = text
            _log.warning("%s: %s", self.where, text or "that trouble is over")


def describe_error(error: BaseException) -> str:
    """Return an error's class and text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
