"""The log on disk: whole batches in, how far they are durable out; segments begun, finished and sealed on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from audit_async._chain import Batch, Head
from audit_async._durable import disk
from audit_async._layout.hold_file import Hold, read_hold
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import TORN, UNFINISHED, SegmentName
from audit_async._layout.regular_files import open_regular
from audit_async._store import recovery, sealing
from audit_async._store import retention_steps as retention
from audit_async._store.active_segment import Segment
from audit_async._store.log_directory import LogDirectory
from audit_async._store.recovery import TornTail
from audit_async._store.retention_steps import Archive, RetentionStep
from audit_async._store.writer_lock import WriterLock, take_directory
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.errors import ConfigError, LogCorrupted

#: After a failed sealing, commits that pass before the next try: doubled from 1 up to this.
_MOST_COMMITS_BETWEEN_SEALINGS: Final = 1024


class DamagedSegment(NamedTuple):
    """A file that somebody changed, replaced or removed while the log was open, for a record in the chain."""

    segment: str
    reason: str
    expected_bytes: int  #: what was written to it
    actual_bytes: int  #: what was found; 0 where there was nothing


class Committed(NamedTuple):
    """What a commit has done."""

    written: Head  #: handed to the operating system: survives a killed process
    synced: Head  #: on stable storage, directory entries included: survives a power cut
    sealed: tuple[SealedSegment, ...] = ()  #: sealed since the last commit that returned
    damaged: tuple[DamagedSegment, ...] = ()  #: found since the last commit that returned
    #: Why finished segments could not be sealed. No record is at risk: the next tries, and the next opening, do it.
    sealing_error: OSError | None = None


class LogStore:
    """One log, open for writing.

    Made by `open` and called from ONE thread, the worker thread, which owns every field; the loop's thread may read
    `directory`, `instance`, `log_id`, `created`, `head`, `recovered` and `sealed_at_opening`, which never change.
    """

    def __init__(self, directory: LogDirectory, lock: WriterLock, rotation: RotationPolicy) -> None:
        """Take over an open and locked directory; for `open`, which every other caller uses."""
        self._log_directory: Final = directory
        self._lock: Final = lock
        survey = recovery.survey(directory, self._identify(directory))
        #: What was put aside, for `audit.log_recovered`.
        self.recovered: Final[tuple[TornTail, ...]] = recovery.put_right(directory, survey)
        self._manifest: Final = survey.manifest
        self.directory: Final = directory.path
        self.instance: Final = directory.instance
        self.log_id: Final = self._identity.log_id
        self.created: Final = self._identity.created
        #: The chain's head on disk, durable.
        self.head: Final = survey.head
        #: Sealed segments whose `audit.segment_sealed` is not in the chain: the process died before.
        self.sealed_at_opening: Final = tuple(
            entry for entry in self._manifest.segments if not entry.recorded and entry.segment not in survey.recorded
        )
        self._daily: Final = rotation.daily
        self._max_bytes: Final = rotation.max_bytes
        # Accepted and not yet known to be durable, in order; `_next` is the first that is not wholly written.
        self._batches: list[Batch] = []
        self._next = 0
        self._unsynced_bytes = 0
        # How far the chain is accepted >= written >= synced.
        self._accepted = self._written = self._synced = survey.head
        # Sealed, but `audit.segment_sealed` may not be in the chain; and those whose record is in it.
        self._unrecorded = {entry.segment for entry in self.sealed_at_opening}
        self._recorded = set(survey.recorded)
        # Waiting to be sealed, oldest first, and how the last try went.
        self._finished: list[SealedSegment] = []
        # Names of those that could not be cut back to what was acknowledged.
        self._uncut: set[str] = set()
        self._sealing_error: OSError | None = None
        self._sealing_pause = self._commits_to_pause = 0
        # Found or done by a commit that raised: the next one that returns tells.
        self._sealed_untold: list[SealedSegment] = []
        self._damaged_untold: list[DamagedSegment] = []
        # Files of ours whose sync failed before anything in them was acknowledged: their names are needed again.
        self._void: set[tuple[int, int]] = set()
        self._rebuilding = False
        # The hold as it was last seen: it goes with a directory that somebody removes, and is not lifted by that.
        self._last_hold: Hold | None = None
        with suppress(LogCorrupted, OSError):
            self._last_hold = read_hold(directory.path)
        # None: the next record begins a segment.
        self._active: Segment | None = recovery.reopen(directory, survey.unsealed[-1]) if survey.unsealed else None

    def _identify(self, directory: LogDirectory) -> str:
        names = directory.names()
        self._identity: Identity = directory.identify(may_create=not any(map(SegmentName.parse, names)))
        return self._identity.log_id

    @classmethod
    def open(
        cls,
        base_dir: Path,
        service_id: str,
        instance: str | None,
        *,
        rotation: RotationPolicy,
        allow_insecure_dir: bool = False,
    ) -> Self:
        """Open the log `<base_dir>/<service_id>/<instance>` for writing, and make it where there is none.

        `instance` None takes the first slot, `00`, `01`, ..., that no other writer has.

        The happy path, in order:

        1. mkdir, open, fsync of the directory above, for each level   the log's own path survives a power cut
        2. open and flock `lock`, write the pid                        one writer; the kernel unlocks for the dead
        3. read log.json, or write it under another name,              whose log this is; no segment is ever made
           fdatasync, rename, fsync of the directory                   before it is durable
        4. read manifest.json, fstat the sealed segments, read the     nothing is changed before all is judged
           unsealed ones record by record
        5. put right what a crash left (see `recovery.put_right`),     so `head` is durable, also where the last
           fdatasync of the last segment, fsync of the directory       process was killed before its sync

        It can't survive a file system that answers a sync before the disk does, nor what `recovery` names.

        Raises `LogLocked` (with the pid), `LogCorrupted`, `ConfigError` for an insecure directory, a symbolic link
        or a platform without `flock`, and `OSError`. After an error nothing is held, and trying again is safe.
        """
        if sys.platform == "win32":
            raise ConfigError("mode", "writing a log is not supported on Windows yet; reading one is")
        directory, lock = take_directory(base_dir, service_id, instance, allow_insecure_dir=allow_insecure_dir)
        try:
            return cls(directory, lock, rotation)
        except BaseException:
            lock.close()
            directory.close()
            raise

    # -- a commit ----------------------------------------------------------------------------------------------

    def commit(self, batch: Batch | None, *, sync: bool) -> Committed:
        """Accept `batch`, write everything accepted and not yet written, in order, and sync if asked.

        The happy path, in order:

        1. stat of the paths of lock and segment         nobody removed, replaced or changed what we write to
        2. pwrite of all lines, at the end we know       the records survive the end of this process
        3. fdatasync (only if `sync`)                    the records survive a power cut; one call does 2 and 3 where
                                                         the kernel has it (see `disk.write_and_sync_at`)
        4. fsync of the directory, after a file is made  and so does the file's name
        5. only now are they counted as synced           whoever waits for an acknowledgement may be told

        Where a segment ends within the batch: 2 to 5 for what belongs into it, `sync` or not, and only then is the
        next file made. So whatever a power cut leaves, a segment that has a successor is whole. Sealing comes last,
        after the successor's records are durable (`sealing.seal`).

        What is accepted is kept in memory until it is synced. That makes these survivable, each by raising
        `OSError` and going on at the next call:

        - a failed write: what it left behind the last whole record is cut off before the next write, and where that
          fails, too, the segment is left as after a failed sync;
        - a failed fdatasync or fsync: what that file got since the last good sync is believed no more. The file is
          cut back, never synced again, and everything not acknowledged goes to a new segment, byte for byte;
        - a file or directory that somebody removed, truncated or replaced: see `_mend`.

        It can't survive a disk that confirms a sync and forgets, and what was acknowledged is not kept in memory:
        once it is truncated away by somebody, it is gone, which `damaged` says.

        The batch counts as accepted also when this raises: call `commit(None, sync=...)` to try again. The caller
        paces the tries. Raises `LogLocked` where the lock file was removed and another writer has the log now.
        """
        if batch is not None and batch.lines:
            self._accept(batch)
        self._check_files()
        if self._written.seq < self._accepted.seq:
            self._write_accepted(sync=sync)
        if sync:
            self._make_durable()
            if self._finished:
                self._seal_finished()
        if not (self._sealed_untold or self._damaged_untold or self._sealing_error):
            return Committed(self._written, self._synced)
        committed = Committed(
            self._written, self._synced, tuple(self._sealed_untold), tuple(self._damaged_untold), self._sealing_error
        )
        self._sealed_untold.clear()
        self._damaged_untold.clear()
        return committed

    def _accept(self, batch: Batch) -> None:
        if batch.first_seq != self._accepted.seq + 1:
            raise ValueError(f"the batch begins at seq {batch.first_seq}, but {self._accepted.seq + 1} is due")
        self._batches.append(batch)
        self._unsynced_bytes += batch.size
        self._accepted = batch.head
        if self._unrecorded:
            told = {recovery.sealed_by(line) for line in batch.lines}
            self._recorded.update(self._unrecorded & told)
            self._unrecorded -= self._recorded

    def _write_accepted(self, *, sync: bool) -> None:
        """Write what is accepted and not written, and begin a new segment where one is due.

        With `sync`, a sync comes next: the last lines are then synced by the call that writes them, if they can be.
        """
        while self._written.seq < self._accepted.seq:
            batch = self._batches[self._next]
            start = self._written.seq + 1 - batch.first_seq
            segment = self._active or self._begin_segment(batch, start)
            end = self._fitting(batch, start, segment)
            if end > start:
                lines = batch.lines if end - start == len(batch.lines) else batch.lines[start:end]
                last_seq = batch.first_seq + end - 1
                if sync and last_seq == self._accepted.seq and segment.durable_bytes == segment.written.bytes:
                    try:
                        segment.append(lines, last_seq, sync=True)
                    except OSError:
                        self._give_up(segment)
                        raise
                else:
                    segment.append(lines, last_seq)
                self._written = segment.written.head
                if end == len(batch.lines):
                    self._next += 1
            else:
                self._finish_segment(segment)

    def _fitting(self, batch: Batch, start: int, segment: Segment) -> int:
        """Return the index behind the last line from `start` that belongs into `segment`."""
        end = len(batch.lines)
        if self._daily and batch.dates[-1][1] != segment.name.date:
            begins = [*(index for index, _ in batch.dates[1:]), end]
            for (index, date), until in zip(batch.dates, begins, strict=True):
                # A clock that was set back begins no segment: only a later date does.
                if until > start and date > segment.name.date:
                    end = max(index, start)
                    break
        bytes_ = segment.written.bytes
        if start == 0 and end == len(batch.lines) and bytes_ + batch.size <= self._max_bytes:
            return end
        for index in range(start, end):
            bytes_ += len(batch.lines[index])
            if bytes_ > self._max_bytes and (index > start or segment.written.bytes):
                return index
        return end

    def _begin_segment(self, batch: Batch, start: int) -> Segment:
        """Make the file for the record at `start`; everything before that record is durable."""
        date = next(date for index, date in reversed(batch.dates) if index <= start)
        name = SegmentName(batch.first_seq + start, date)
        directory = self._log_directory
        try:
            fd = disk.create_file(str(name), dir_fd=directory.fd)
        except FileExistsError:
            self._clear_the_way(str(name))
            fd = disk.create_file(str(name), dir_fd=directory.fd)
        self._active = Segment.begun(fd, name, str(directory.path / str(name)), self._written)
        return self._active

    def _finish_segment(self, segment: Segment) -> None:
        """Let a segment end here: all of it is made durable before the next file is made."""
        self._make_durable()
        self._active = None
        self._finished.append(segment.as_sealed())
        disk.close(segment.fd)

    def _make_durable(self) -> None:
        """Sync what is written; on `OSError` the segment is given up, and its part is to be written anew."""
        segment = self._active
        if segment is None or (segment.synced is segment.written and segment.name_durable):
            return
        try:
            if segment.durable_bytes < segment.written.bytes:
                disk.sync_data(segment.fd)
                segment.durable_bytes = segment.written.bytes
            if not segment.name_durable:
                self._log_directory.sync()
        except OSError:
            self._give_up(segment)
            raise
        segment.name_durable = True
        segment.mark_synced()
        self._mark_synced()

    def _mark_synced(self) -> None:
        """Note that everything written is durable, and let go of it."""
        self._synced = self._written
        if self._synced.seq == self._accepted.seq:
            self._batches.clear()
            self._unsynced_bytes = 0
        else:
            del self._batches[: self._next]
            self._unsynced_bytes = sum(batch.size for batch in self._batches)
        self._next = 0

    def _give_up(self, segment: Segment) -> None:
        """Go on without this file after a failed sync: the kernel may have dropped any page since the last good one.

        Cut back to what was acknowledged, it counts as finished. Where the cut fails it is tried again before the
        segment is sealed; until then, and where a power cut undoes it, the lines behind are void: they are copies of
        what the next segment begins with, and recovery puts them aside. With nothing acknowledged in it, the next
        segment needs its name.
        """
        self._active = None
        self._written = self._synced
        self._next = 0
        try:
            try:
                disk.truncate(segment.fd, segment.synced.bytes)
            except OSError:
                self._uncut.add(str(segment.name))
            if segment.synced.bytes:
                self._finished.append(segment.as_sealed())
            else:
                self._void.add(segment.identity())
        finally:
            disk.close(segment.fd)

    def _clear_the_way(self, name: str) -> None:
        """Free the name of the next segment: our own file without an acknowledged record is removed.

        Anything else was put there by somebody; it goes to `torn/` and is reported.
        """
        directory = self._log_directory
        status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        identity = (status.st_dev, status.st_ino)
        if identity in self._void:
            disk.unlink(name, dir_fd=directory.fd)
            self._void.discard(identity)
        else:
            self._put_aside(name)
            self._damaged_untold.append(DamagedSegment(name, "a foreign file had its name", 0, status.st_size))

    def _put_aside(self, name: str) -> None:
        directory = self._log_directory
        torn_fd = directory.open_subdirectory(TORN)
        try:
            disk.rename(name, recovery.free_name(name, dir_fd=torn_fd), dir_fd=directory.fd, target_dir_fd=torn_fd)
            disk.sync_directory(torn_fd)
        finally:
            disk.close(torn_fd)

    def _seal_finished(self) -> None:
        """Seal what is finished. A failure is reported, not raised: the records are durable, and acknowledged."""
        if self._commits_to_pause:
            self._commits_to_pause -= 1
            return
        try:
            self._cut_back_void_lines()
            sealed = sealing.seal(
                self._log_directory, self._manifest, self._finished, recorded=frozenset(self._recorded)
            )
        except OSError as error:
            self._sealing_error = error
            self._sealing_pause = min(2 * self._sealing_pause or 1, _MOST_COMMITS_BETWEEN_SEALINGS)
            self._commits_to_pause = self._sealing_pause
            return
        for segment in sealed:
            if segment.state == "lost":
                self._damaged_untold.append(DamagedSegment(segment.segment, "removed", segment.bytes, 0))
        self._finished.clear()
        self._sealing_error = None
        self._sealing_pause = 0
        self._recorded.clear()
        self._unrecorded.update(segment.segment for segment in sealed)
        self._sealed_untold.extend(sealed)

    def _cut_back_void_lines(self) -> None:
        """Cut finished segments that could not be cut when their sync failed."""
        for segment in self._finished:
            if segment.segment in self._uncut and segment.state == "live":
                with suppress(FileNotFoundError, LogCorrupted):  # sealing marks it as lost
                    fd = open_regular(segment.segment, dir_fd=self._log_directory.fd, writable=True)
                    try:
                        disk.truncate(fd, segment.bytes)
                    finally:
                        disk.close(fd)
        self._uncut.clear()

    # -- files that somebody touched -----------------------------------------------------------------------------

    def _check_files(self) -> None:
        """See that the files are where they were and as long as they were: two system calls, about 3 us.

        What has the segment's name and its inode number is the segment: no other file gets that while it is open.
        """
        segment = self._active
        if segment is not None:
            if segment.torn:
                try:
                    segment.cut_off_torn()
                except OSError:
                    self._give_up(segment)
                    raise
            try:
                there = os.stat(segment.path, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                there = None
            if (
                there is not None
                and (there.st_dev, there.st_ino) == segment.inode
                and there.st_size == segment.written.bytes
                and self._lock.is_held()
                and not self._rebuilding
            ):
                return
            self._mend(segment, os.fstat(segment.fd).st_size, there.st_size if there is not None else 0)
        elif self._rebuilding or not self._lock.is_held() or not self._log_directory.is_in_place():
            self._mend(None, 0, 0)

    def _mend(self, segment: Segment | None, open_bytes: int, path_bytes: int) -> None:
        """Go on although somebody removed, replaced or changed files of the log; what was found is reported.

        - the directory is gone: made again, with log.json, a lock and the manifest; sealed segments are `lost`
        - the lock file is gone, or has another name: made and locked again
        - the segment is shorter or longer than what was written: its acknowledged part is finished as `damaged`, and
          everything else goes on in a new segment
        - the segment's name is gone, or leads elsewhere: what was written is saved from the open descriptor, which
          still has it, to a new file of that name
        """
        if self._rebuilding or not self._log_directory.is_in_place():
            self._rebuild_directory()
        elif not self._lock.is_held():
            self._lock.take_anew(self._log_directory)
        if segment is None:
            return
        if open_bytes != segment.written.bytes:
            self._leave_damaged(segment, "truncated" if open_bytes < segment.written.bytes else "grown", open_bytes)
        elif self._name_is_lost(segment):
            self._save_from_descriptor(segment, path_bytes)

    def _name_is_lost(self, segment: Segment) -> bool:
        try:
            there = os.stat(str(segment.name), dir_fd=self._log_directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != segment.identity()

    def _rebuild_directory(self) -> None:
        self._rebuilding = True
        directory = self._log_directory
        if not directory.is_in_place():
            directory.make_anew()
        self._lock.take_anew(directory)
        directory.write_identity(self._identity)
        if self._last_hold is not None:
            retention.restore_hold(directory, self._last_hold)
        names = directory.names()
        gone = [
            entry
            for entry in self._manifest.segments
            if entry.state in {"live", "archived", "damaged"} and entry.segment not in names
        ]
        lost = {entry.segment for entry in gone}
        self._manifest.write(
            directory,
            [
                msgspec.structs.replace(entry, state="lost") if entry.segment in lost else entry
                for entry in self._manifest.segments
            ],
        )
        self._damaged_untold.extend(DamagedSegment(e.segment, "removed with its directory", e.bytes, 0) for e in gone)
        self._rebuilding = False

    def _leave_damaged(self, segment: Segment, reason: str, actual_bytes: int) -> None:
        """Finish a segment whose content somebody changed: it stays as it is, as evidence, and is written no more."""
        self._damaged_untold.append(DamagedSegment(str(segment.name), reason, segment.written.bytes, actual_bytes))
        self._active = None
        self._written = self._synced
        self._next = 0
        if segment.synced.bytes:
            self._finished.append(segment.as_sealed("damaged"))
        disk.close(segment.fd)

    def _save_from_descriptor(self, segment: Segment, path_bytes: int) -> None:
        """Copy a segment that has lost its name to a new file of that name, durably, and go on writing that one."""
        directory, name = self._log_directory, str(segment.name)
        unfinished = name + UNFINISHED
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=directory.fd)
        fd = disk.create_file(unfinished, dir_fd=directory.fd)
        try:
            if not segment.copy_to(fd):
                self._leave_damaged(segment, "removed, and its content changed", path_bytes)
                disk.unlink(unfinished, dir_fd=directory.fd)
                disk.close(fd)
                return
            disk.sync_data(fd)
            reason = "removed"
            if name in directory.names():
                self._put_aside(name)
                reason = "replaced"
            disk.rename(unfinished, name, dir_fd=directory.fd)
            directory.sync()
        except BaseException:
            disk.close(fd)
            raise
        segment.go_on_in(fd)
        self._mark_synced()
        self._damaged_untold.append(DamagedSegment(name, reason, segment.written.bytes, path_bytes))

    # -- retention -------------------------------------------------------------------------------------------------

    def plan_retention(self, policy: RetentionPolicy, now: datetime) -> list[RetentionStep]:
        """Return what is due at `now` (aware); nothing is done. Raises `LogCorrupted` for a hold nobody can read."""
        return retention.plan_retention(self._manifest.segments, policy, now, self.hold)

    def finish_retention(self) -> None:
        """Remove files that a failed step has left of segments that are archived or deleted; `OSError`."""
        directory = self._log_directory
        left = retention.leftovers(directory, directory.names(), self._manifest.segments)
        retention.finish(directory, left)

    def archive_segment(self, archive: Archive) -> None:
        """Let the copy that `compress_segment` made stand for a segment; see `retention.archive_segment`."""
        retention.archive_segment(self._log_directory, self._manifest, archive)

    def delete_segment(self, segment: str) -> None:
        """Delete a segment whose time is over; see `retention.delete_segment`."""
        retention.delete_segment(self._log_directory, self._manifest, segment)

    @property
    def hold(self) -> Hold | None:
        """The legal hold that is in force, None for none."""
        self._last_hold = read_hold(self.directory)
        return self._last_hold

    def set_hold(self, *, reason: str, set_by: str, now: datetime) -> Hold:
        """Put a legal hold in force, durably; one that is in force already stays, and is returned."""
        self._last_hold = retention.set_hold(self._log_directory, reason=reason, set_by=set_by, now=now)
        return self._last_hold

    def lift_hold(self) -> None:
        """End the legal hold, durably."""
        retention.lift_hold(self._log_directory)
        self._last_hold = None

    # -- what it says of itself, and its end ---------------------------------------------------------------------

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of records held in memory because they are not known to be durable."""
        return self._unsynced_bytes

    @property
    def sealed_segments(self) -> Sequence[SealedSegment]:
        """Every sealed segment, oldest first, as the manifest has them."""
        return self._manifest.segments

    def free_bytes(self) -> int:
        """Return the bytes left for this process on the log's file system; raises `OSError`."""
        status = os.fstatvfs(self._log_directory.fd)
        return status.f_bavail * status.f_frsize

    def close(self) -> None:
        """Close the files and unlock the log; after a last `commit(None, sync=True)`. Never raises."""
        self._commits_to_pause = 0
        if self._finished and self._synced.seq == self._accepted.seq and not self._rebuilding:
            with suppress(OSError):
                self._seal_finished()
        self._let_go()

    def abandon(self) -> None:
        """Close the descriptors that a forked child has inherited; writes nothing, and the parent keeps its lock."""
        self._let_go()

    def _let_go(self) -> None:
        segment, self._active = self._active, None
        if segment is not None:
            disk.close(segment.fd)
        self._lock.close()
        self._log_directory.close()
