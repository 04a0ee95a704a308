"""`WormArchive`: sealed segments of hosts and collectors in S3 Object Lock, and logs made of them again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final, Self, TypeVar

import anyio.to_thread
from msgspec import Struct

from audit_async._layout.age_files import Identities
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._trail.log_files import Log, find_logs
from audit_async.errors import ConfigError
from audit_async.forwarding.batches import Head
from audit_async.forwarding.engine_admin import CheckedSetting
from audit_async.forwarding.sink_errors import SinkRefused
from audit_async.forwarding.worm_bucket import Bucket, BucketPlace
from audit_async.forwarding.worm_holds import HeldLog, hold_log, release_log
from audit_async.forwarding.worm_lock import check_bucket, make_bucket, require_lock
from audit_async.forwarding.worm_objects import StoredLog, heads_of
from audit_async.forwarding.worm_push import LogPush, PushedLog
from audit_async.forwarding.worm_restore import RestoredLog, logs_in, restore_log
from audit_async.forwarding.worm_retention import LengthenedLog, lengthen_log

__all__ = ["LogInBucket", "LogStatus", "WormArchive"]

_MOST_DAYS: Final = 36_500

_T = TypeVar("_T")


class LogInBucket(Struct, frozen=True, kw_only=True):
    """What a bucket has of one log."""

    log_id: str
    place: str | None  #: the log's directory below a base directory; None if no head says it
    segments: int
    bytes: int
    head: Head | None  #: the newest that a push has stored
    findings: tuple[str, ...]


class LogStatus(Struct, frozen=True, kw_only=True):
    """What a bucket lacks of one log."""

    log: str
    log_id: str
    segments: int  #: sealed ones of which the records are on disk
    missing: tuple[str, ...]  #: those that are not in the bucket, oldest first
    lag_s: float  #: how long ago the last record of the oldest of them was made; 0 if none is missing
    findings: tuple[str, ...]


class WormArchive:
    """A bucket with S3 Object Lock, as an archive of sealed segments that nobody can change before their time.

    Safe to use from several tasks. What blocks runs in worker threads; a call that is cancelled ends after the object
    that is being stored. A push holds about three parts of an object, 50 MiB for segments of up to 140 GiB.

    Args:
        url: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&profile=NAME`, of which only the bucket has to be there.
            Credentials come from boto3's sources: the environment, a profile, the machine's role.

    Raises:
        ConfigError: The URL is wrong.
    """

    def __init__(self, url: str) -> None:
        self._bucket: Final = Bucket(BucketPlace.parse(url))
        self._tried = Lock()
        self._locks = False  # the lock was tried and holds

    def __repr__(self) -> str:
        return f"<WormArchive {self._bucket.place}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def name(self) -> str:
        """What the bucket is called in receipts and messages."""
        return str(self._bucket.place)

    async def init(self) -> list[str]:
        """Make the bucket, with Object Lock and versioning; return what was done. One that is there is only checked.

        Raises:
            SinkRefused: A bucket is there that does not lock, or the server refuses.
            SinkUnavailable: It can't be reached.
        """
        return await _in_thread(partial(make_bucket, self._bucket))

    async def check(self) -> list[CheckedSetting]:
        """Look at the bucket's settings and try its lock; leaves a tiny object that is locked for an hour.

        Raises:
            SinkRefused: It can't be looked at.
            SinkUnavailable: It can't be reached.
        """
        return await _in_thread(partial(check_bucket, self._bucket))

    async def push(
        self, directory: str | os.PathLike[str], *, retention_days: int, keep_plain_personal_data: bool = False
    ) -> PushedLog:
        """Store the sealed segments of one log that the bucket does not have, and the log's head.

        On return each of them is in the bucket, its first version has the SHA-256 that was sealed, and it is locked.
        Before the first is stored, the bucket's lock is tried once for this object.

        Args:
            directory: The log's own directory, of a host or of a collector.
            retention_days: How long an object stays locked, from now on: `RetentionPolicy.min_retention_days`. It can
                be lengthened later, and never shortened.
            keep_plain_personal_data: Store segments with personal data in the clear as well. Nobody can erase it
                before the time is over; without this such a segment stays out, and the result names it.

        Raises:
            ConfigError: `retention_days` is out of range.
            SinkRefused: The bucket refuses or does not lock.
            SinkUnavailable: It can't be reached; calling again goes on from what is stored.
            LogCorrupted: log.json or the manifest can't be understood.
            OSError: A file can't be read.
        """
        retention = _retention(retention_days)

        def run() -> PushedLog:
            return LogPush(
                self._bucket,
                Path(directory),
                retention=retention,
                keep_plain_personal_data=keep_plain_personal_data,
                before_storing=self._require_lock,
            ).run()

        return await _in_thread(run)

    async def status(self, directory: str | os.PathLike[str]) -> LogStatus:
        """Return what the bucket lacks of one log, by the names of what is there; nothing is stored or read.

        Args:
            directory: The log's own directory.

        Raises:
            SinkRefused: The bucket can't be listed.
            SinkUnavailable: It can't be reached.
            TrailUnreadable: There is no log.
            ConfigError: There are several.
            LogCorrupted: The manifest can't be understood.
            OSError: A file can't be read.
        """
        return await _in_thread(partial(_status, self._bucket, _one_log(directory)))

    async def logs(self) -> list[LogInBucket]:
        """Return what is in the bucket, by log.

        Raises:
            SinkRefused: The bucket can't be listed.
            SinkUnavailable: It can't be reached.
        """
        return await _in_thread(lambda: [_described(self._bucket, stored) for stored in logs_in(self._bucket)])

    async def hold(self, directory: str | os.PathLike[str], *, retention_days: int) -> HeldLog:
        """Put what is stored of one log on legal hold, if a hold is in force for the log; else do nothing.

        Args:
            directory: The log's own directory.
            retention_days: How long the note about it is kept that is stored next to the log.

        Raises:
            TrailUnreadable: There is no log.
            ConfigError: There are several, or `retention_days` is out of range.
            SinkRefused: The bucket has nothing of it, or the credentials may not.
            SinkUnavailable: It can't be reached.
            LogCorrupted: It can't be said whether a hold is in force.
        """
        retention, log = _retention(retention_days), _one_log(directory)
        return await _in_thread(partial(hold_log, self._bucket, log, retention=retention))

    async def release(self, directory: str | os.PathLike[str], *, by: str, reason: str, retention_days: int) -> HeldLog:
        """End the legal hold of what is stored of one log, after the log's own hold was lifted.

        Args:
            directory: The log's own directory.
            by: Who asks for it; stored, locked, next to the log.
            reason: Why; stored with it.
            retention_days: How long that is kept.

        Raises:
            TrailUnreadable: There is no log.
            ConfigError: There are several, `by` or `reason` is empty, or `retention_days` is out of range.
            SinkRefused: A hold is in force for the log, or the credentials may not.
            SinkUnavailable: The bucket can't be reached.
        """
        for field, text in (("by", by), ("reason", reason)):
            if not text.strip():
                raise ConfigError(field, "must not be empty: it is what an auditor will read")
        retention, log = _retention(retention_days), _one_log(directory)
        return await _in_thread(partial(release_log, self._bucket, log, by=by, reason=reason, retention=retention))

    async def lengthen(self, directory: str | os.PathLike[str], *, retention_days: int) -> LengthenedLog:
        """Lock what is stored of one log for longer, counted from when each object was stored.

        Args:
            directory: The log's own directory.
            retention_days: The new `RetentionPolicy.min_retention_days`. What is locked for longer stays so.

        Raises:
            TrailUnreadable: There is no log.
            ConfigError: There are several, or `retention_days` is out of range.
            SinkRefused: The bucket has nothing of the log, or the credentials may not.
            SinkUnavailable: The bucket can't be reached; calling again goes on.
        """
        retention, log = _retention(retention_days), _one_log(directory)
        return await _in_thread(partial(lengthen_log, self._bucket, log, retention=retention))

    async def restore(
        self,
        target: str | os.PathLike[str],
        *,
        log_ids: Iterable[str] | None = None,
        identities: Identities | None = None,
    ) -> list[RestoredLog]:
        """Make log directories of what is in the bucket, each verified record by record.

        Args:
            target: The base directory or the collector's root to restore to; a log that is there is never overwritten.
            log_ids: Which logs; None for all.
            identities: What opens encrypted segments. Without them they are restored as they were stored; the newest
                segment of a log has to be readable.

        Raises:
            FileExistsError: A log is there already.
            LogCorrupted: What the bucket has of a log can't be read as one.
            SinkRefused: There is no such log, or the server refuses.
            SinkUnavailable: The bucket can't be reached.
            OSError: The disk refuses.
        """
        wanted = None if log_ids is None else set(log_ids)

        def run() -> list[RestoredLog]:
            at, taken = Path(target).absolute(), set[Path]()
            done = [
                restore_log(self._bucket, stored, at, taken=taken, identities=identities)
                for stored in logs_in(self._bucket)
                if wanted is None or stored.log_id in wanted
            ]
            missing = sorted((wanted or set()) - {log.log_id for log in done})
            if missing or not done:
                raise SinkRefused(f"{self.name} has no log {missing[0]!a}" if missing else f"{self.name} has no log")
            return done

        return await _in_thread(run)

    async def aclose(self) -> None:
        """Close the connections."""
        await _in_thread(self._bucket.close)

    def _require_lock(self) -> None:
        with self._tried:
            if not self._locks:
                require_lock(self._bucket)
                self._locks = True


async def _in_thread(call: Callable[[], _T]) -> _T:
    return await anyio.to_thread.run_sync(call)


def _one_log(directory: str | os.PathLike[str]) -> Log:
    """Return the log of a directory: of several the first would be taken for all of them."""
    logs = find_logs(Path(directory))
    if len(logs) > 1:
        raise ConfigError("directory", f"{directory} holds {len(logs)} logs; give the directory of one")
    return logs[0]


def _retention(days: int) -> timedelta:
    if not 1 <= days <= _MOST_DAYS:
        raise ConfigError("retention_days", f"{days} is out of range; give 1 to {_MOST_DAYS}")
    return timedelta(days=days)


def _status(bucket: Bucket, log: Log) -> LogStatus:
    there = StoredLog(log.log_id, dict(bucket.listed(f"{log.log_id}/")))
    on_disk = [entry for entry in read_manifest(log.directory) if entry.state not in {"deleted", "lost"}]
    missing = [entry for entry in on_disk if entry.segment not in there.segments]
    return LogStatus(
        log=log.name,
        log_id=log.log_id,
        segments=len(on_disk),
        missing=tuple(entry.segment for entry in missing),
        lag_s=_age_s(missing[0]) if missing else 0.0,
        findings=tuple(there.findings),
    )


def _age_s(entry: SealedSegment) -> float:
    """Return how long ago the last record of a segment was made; 0 for one of a clock that is ahead."""
    made = datetime.fromisoformat(entry.last_timestamp)
    return max(0.0, (datetime.now(UTC) - made).total_seconds())


def _described(bucket: Bucket, stored: StoredLog) -> LogInBucket:
    newest = StoredLog(stored.log_id, {})
    newest.heads.extend(stored.heads[-1:])
    head = next(iter(heads_of(bucket, newest)), None)
    return LogInBucket(
        log_id=stored.log_id,
        place=head.place if head is not None else None,
        segments=len(stored.segments),
        bytes=sum(segment.version.size for segment in stored.segments.values()),
        head=Head(seq=head.seq, hash=head.hash) if head is not None else None,
        findings=(*stored.findings, *newest.findings),
    )
