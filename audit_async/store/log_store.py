"""The store's front door: one log, open for writing, from the lock to the last sync."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from audit_async.chain import Batch, Head
from audit_async.config import RotationPolicy
from audit_async.store import disk
from audit_async.store.directory import LogDirectory, SegmentName
from audit_async.store.lock import WriterLock, take_directory
from audit_async.store.manifest import Manifest, SealedSegment
from audit_async.store.recovery import Recovered, TornTail, recover
from audit_async.store.sealing import seal
from audit_async.store.segment import Segment

#: How often the segment's path is looked at, in seconds, for a directory that was moved away; fstat sees the rest.
_PATH_INTERVAL_S: Final = 1.0


class DamagedSegment(NamedTuple):
    """A segment that somebody changed while it was being written."""

    segment: str
    reason: str
    expected_bytes: int
    actual_bytes: int


class Committed(NamedTuple):
    """How far the log reaches after a commit, and what else was done."""

    written: Head
    synced: Head  #: everything up to here is on stable storage, directory entries included
    sealed: tuple[SealedSegment, ...] = ()
    damaged: tuple[DamagedSegment, ...] = ()


class _Run(NamedTuple):
    """Consecutive lines of one UTC date that are not written yet."""

    lines: list[bytes]
    first_seq: int
    date: str


class LogStore:
    """One log, open for writing. Owned by the disk thread: nothing here is called from anywhere else.

    `commit` is the whole of its work. Its happy path, in system calls:

    1. fstat of the segment                 nobody has cut, lengthened or removed it
    2. pwrite of all lines at its end       the records are in the kernel: a killed process loses nothing of them
    3. fdatasync of the segment             the records are on stable storage; where nothing else waits for it, one
                                            call does 2 and 3 (see `disk.write_and_sync_at`)
    4. fsync of the directory               only after a segment was made: its name is on stable storage, too

    Where the records don't belong into the active segment any more (rotation), that is synced, a new one is made, and
    the old one is sealed once the new one's first record is durable: see `sealing`.

    What it can't survive: a disk that acknowledges a sync and forgets the data.
    """

    def __init__(self, directory: LogDirectory, lock: WriterLock, rotation: RotationPolicy, found: Recovered) -> None:
        self.directory: Path = directory.path
        self.instance = directory.instance
        self.log_id = found.identity.log_id
        self.created = found.identity.created
        self.head: Head = found.head
        self.recovered: tuple[TornTail, ...] = found.torn
        self.sealed_at_opening: tuple[SealedSegment, ...] = found.unrecorded
        self._directory = directory
        self._lock = lock
        self._rotation = rotation
        self._manifest: Manifest = found.manifest
        self._segment: Segment | None = found.active
        self._written = self._synced = found.head
        self._accepted: deque[Batch] = deque()  # not known to be durable, oldest first
        self._path_looked_at = 0.0
        self._finished: list[SealedSegment] = []  # synced and left behind, not sealed yet

    @classmethod
    def open(
        cls,
        base_dir: Path,
        service_id: str,
        instance: str | None,
        *,
        rotation: RotationPolicy,
        allow_insecure_dir: bool = False,
    ) -> LogStore:
        """Lock and open a log, and bring in order what a crash left behind.

        Raises `LogLocked`, `LogCorrupted`, `ConfigError` for an insecure directory, or `OSError`; on any of them
        everything is released again.
        """
        directory, lock = take_directory(base_dir, service_id, instance, allow_insecure_dir=allow_insecure_dir)
        try:
            return cls(directory, lock, rotation, recover(directory))
        except BaseException:
            lock.close()
            directory.close()
            raise

    def commit(self, batch: Batch | None, *, sync: bool) -> Committed:
        """Accept `batch` and keep it until it is durable; write what is accepted, in order; then sync, if asked.

        On `OSError` nothing that was accepted is lost: call again with None to try again. The caller paces the tries.
        """
        if batch is not None and batch.lines:
            self._accepted.append(batch)
        damaged = self._look_for_damage()
        runs = list(self._unwritten())
        for run in runs:
            self._write(run, sync=sync and run is runs[-1])
        sealed: tuple[SealedSegment, ...] = ()
        if sync:
            self._sync()
            sealed = self._seal_finished()
        return Committed(self._written, self._synced, sealed, damaged)

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of the records that are kept in memory because they are not known to be durable."""
        return sum(batch.size for batch in self._accepted)

    def free_bytes(self) -> int:
        """Return the space that is left for us on the log's file system."""
        status = os.fstatvfs(self._directory.fd)
        return status.f_bavail * status.f_frsize

    def close(self) -> None:
        """Let go of the log; what was not synced before stays as it is. Never raises for a failing disk."""
        if self._segment is not None:
            disk.close(self._segment.fd)
            self._segment = None
        self._lock.close()
        self._directory.close()

    def abandon(self) -> None:
        """Close the inherited descriptors in a forked child; the parent's keep the lock."""
        self.close()

    def _look_for_damage(self) -> tuple[DamagedSegment, ...]:
        """Find out whether somebody has changed the active segment since the last commit."""
        segment = self._segment
        if segment is None:
            return ()
        if segment.torn:
            segment.cut_off_torn()
        status = os.fstat(segment.fd)
        now = time.monotonic()
        look_at_path = now - self._path_looked_at >= _PATH_INTERVAL_S
        self._path_looked_at = now if look_at_path else self._path_looked_at
        in_place = status.st_nlink > 0 and (not look_at_path or self._is_in_place(segment))
        if in_place and status.st_size == segment.written.bytes:
            return ()
        if not in_place and status.st_size >= segment.synced.bytes:
            self._rescue(segment)
            return ()
        reason = "cut" if status.st_size < segment.written.bytes else "lengthened"
        expected = segment.written.bytes
        self._leave(segment)
        name = str(segment.name)
        return (DamagedSegment(name, f"{reason} by somebody while it was written", expected, status.st_size),)

    def _is_in_place(self, segment: Segment) -> bool:
        try:
            status = os.stat(segment.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == segment.identity()

    def _rescue(self, segment: Segment) -> None:
        """Write the active segment again from its open descriptor, since its name was removed."""
        if not self._directory.is_in_place():
            self._directory.make_anew()
            self._lock.take_anew(self._directory)
        fd = disk.create_file(str(segment.name), dir_fd=self._directory.fd)
        try:
            segment.copy_to(fd)
            disk.sync_data(fd)
            self._directory.sync()
        except BaseException:
            disk.close(fd)
            raise
        disk.close(segment.fd)
        segment.fd = fd

    def _unwritten(self) -> Iterator[_Run]:
        """Return the accepted lines behind what is written, split where the date changes."""
        for batch in list(self._accepted):
            if batch.head.seq <= self._written.seq:
                continue
            ends = [index for index, _ in batch.dates[1:]] + [len(batch.lines)]
            for (index, date), end in zip(batch.dates, ends, strict=True):
                start = max(index, self._written.seq + 1 - batch.first_seq)
                if start < end:
                    yield _Run(batch.lines[start:end], batch.first_seq + start, date)

    def _write(self, run: _Run, *, sync: bool) -> None:
        """Write a run, in as many segments as it takes; with `sync`, its last lines will be synced next."""
        lines, first_seq, date = run
        while lines:
            segment = self._segment
            if segment is None or (self._rotation.daily and date > segment.name.date and segment.written.bytes):
                segment = self._begin_segment(first_seq, date)
            count = self._fitting(segment, lines)
            if not count:
                segment = self._begin_segment(first_seq, date)
                count = self._fitting(segment, lines)
            if sync and count == len(lines) and segment.durable_bytes == segment.written.bytes:
                try:
                    segment.append(lines, first_seq + count - 1, sync=True)
                except OSError:
                    self._distrust(segment)
                    raise
            else:
                segment.append(lines[:count], first_seq + count - 1)
            self._written = segment.written.head
            lines, first_seq = lines[count:], first_seq + count

    def _fitting(self, segment: Segment, lines: list[bytes]) -> int:
        """Return how many of the lines fit into the segment; an empty one takes at least one."""
        room = self._rotation.max_bytes - segment.written.bytes
        if room >= sum(map(len, lines)):
            return len(lines)
        count = 0
        for line in lines:
            room -= len(line)
            if room < 0:
                break
            count += 1
        return count or int(not segment.written.bytes)

    def _begin_segment(self, first_seq: int, date: str) -> Segment:
        """Leave the active segment behind, durable, and make the next one."""
        if self._segment is not None:
            self._sync()
            self._leave(self._segment)
        name = SegmentName(first_seq, date)
        fd = disk.create_file(str(name), dir_fd=self._directory.fd)
        self._segment = Segment.begun(fd, name, str(self._directory.path / str(name)), self._written)
        return self._segment

    def _leave(self, segment: Segment) -> None:
        """Write no more to a segment: what of it is synced will be sealed, what is not is written anew."""
        self._segment = None
        self._written = self._synced
        if segment.synced.bytes:
            self._finished.append(segment.as_sealed())
        disk.close(segment.fd)

    def _sync(self) -> None:
        """Make everything written durable; after a failed sync the file is never believed again."""
        segment = self._segment
        if segment is None:
            return
        if segment.durable_bytes < segment.written.bytes:
            try:
                disk.sync_data(segment.fd)
            except OSError:
                self._distrust(segment)
                raise
            segment.durable_bytes = segment.written.bytes
        if not segment.name_durable:
            self._directory.sync()
            segment.name_durable = True
        segment.mark_synced()
        self._synced = self._written
        while self._accepted and self._accepted[0].head.seq <= self._synced.seq:
            self._accepted.popleft()

    def _distrust(self, segment: Segment) -> None:
        """Leave a segment whose sync failed for good: what of it is not durable is written anew, to another one."""
        with suppress(OSError):
            if segment.synced.bytes:
                disk.truncate(segment.fd, segment.synced.bytes)
            else:
                disk.unlink(str(segment.name), dir_fd=self._directory.fd)
        self._leave(segment)

    def _seal_finished(self) -> tuple[SealedSegment, ...]:
        """Seal what was left behind, once the segment after it has a durable record."""
        if not self._finished or self._segment is None or not self._segment.synced.bytes:
            return ()
        sealed = seal(self._directory, self._manifest, self._finished, recorded=frozenset())
        self._finished = []
        return sealed
