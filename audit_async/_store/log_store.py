"""The log on disk: whole batches in, how far they are durable out; segments begun, finished and sealed on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Self

from audit_async._chain import Batch, Head
from audit_async._durable import disk
from audit_async._layout.access_modes import PRIVATE, Access
from audit_async._layout.confirmed_file import confirmed_seq
from audit_async._layout.hold_file import Hold
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import COLLECTED_FILE, SegmentName
from audit_async._store import archiving, removal
from audit_async._store.active_segment import Segment
from audit_async._store.archiving import Archive
from audit_async._store.backlog import Backlog
from audit_async._store.backup_lock import make_backup_lock, without_backup
from audit_async._store.damage import DamagedSegment, DamageRegister, damaged_at_opening
from audit_async._store.legal_hold import LegalHolds
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async._store.repair import apply_access, reopen, repair
from audit_async._store.retention_plan import RetentionStep, overdue_unshipped, plan_retention
from audit_async._store.sealing_queue import SealingQueue
from audit_async._store.set_aside import TornTail, set_file_aside
from audit_async._store.survey import survey
from audit_async._store.touched_files import FileWatch, Repaired
from audit_async._store.writer_lock import WriterLock, take_directory
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.errors import ConfigError, RetentionRefused


class Committed(NamedTuple):
    """What a commit has done."""

    written: Head  #: handed to the operating system: survives a killed process
    synced: Head  #: on stable storage, directory entries included: survives a power cut
    sealed: tuple[SealedSegment, ...] = ()  #: sealed since the last commit that returned
    damaged: tuple[DamagedSegment, ...] = ()  #: found since the last commit that returned; each is to be recorded
    #: Why finished segments could not be sealed. No record is at risk: the next tries, and the next opening, do it.
    sealing_error: OSError | None = None


class Opening(NamedTuple):
    """What the opening of a log has found; it never changes, so every thread may read it."""

    head: Head  #: the chain's head on disk, durable
    recovered: tuple[TornTail, ...]  #: what was set aside, for `audit.log_recovered`
    sealed: tuple[SealedSegment, ...]  #: sealed segments of whose `audit.segment_sealed` the chain has no record
    damaged: tuple[DamagedSegment, ...]  #: damage that the session before this one could not record
    holds: tuple[Hold, ...]  #: the legal holds that are in force and in the chain
    unrecorded_holds: tuple[Hold, ...]  #: those that are in force and not in the chain, to be recorded
    sealed_holds: frozenset[str]  #: the ids of those whose reason and name the chain has sealed


class LogStore:
    """One log, open for writing.

    Made by `open` and called from ONE thread, the disk thread, which owns every field. The loop's thread may read
    `opening` and the properties that give its parts, `directory`, `instance`, `log_id` and `created`, none of which
    ever changes.
    """

    def __init__(
        self,
        directory: LogDirectory,
        lock: WriterLock,
        opening: Opening,
        *,
        identity: Identity,
        manifest: Manifest,
        holds: LegalHolds,
        rotation: RotationPolicy,
        queue: SealingQueue,
        active: Segment | None,
    ) -> None:
        """Take over what `open` has made; every other caller uses that."""
        self.opening: Final = opening
        self._log_directory: Final = directory
        self._lock: Final = lock
        self._identity: Final = identity
        self._manifest: Final = manifest
        self._holds: Final = holds
        self._daily: Final = rotation.daily
        self._max_bytes: Final = rotation.max_bytes
        self._backlog: Final = Backlog(opening.head)
        self._queue: Final = queue
        self._damage: Final = DamageRegister()
        self._files: Final = FileWatch(
            directory, lock, identity=identity, manifest=manifest, holds=holds, damage=self._damage
        )
        # None: the next record begins a segment.
        self._active: Segment | None = active
        # Files of ours whose sync failed before anything in them was acknowledged: their names are needed again.
        self._void: Final[set[tuple[int, int]]] = set()

    @classmethod
    def open(
        cls,
        base_dir: Path,
        service_id: str,
        instance: str | None,
        *,
        rotation: RotationPolicy,
        access: Access = PRIVATE,
        allow_insecure_dir: bool = False,
    ) -> Self:
        """Open the log `<base_dir>/<service_id>/<instance>` for writing, and make it if there is none.

        The happy path, in order:

        1. mkdir, open, fsync of the directory above, for each level   the log's own path survives a power cut
        2. open and flock `lock`, write the pid                        one writer; the kernel unlocks for the dead
        3. read log.json, or write it under another name,              whose log this is; no segment is ever made
           fdatasync, rename, fsync of the directory                   before it is durable
        4. read manifest.json, fstat the sealed segments, read the     nothing is changed before all is judged
           unsealed ones record by record (`survey`)
        5. repair what a crash left (`repair`), fdatasync of the       so `head` is durable, also if the last
           last segment, fsync of the directory                        process was killed before its sync

        It can't survive a file system that answers a sync before the disk does, nor what `survey` names.

        Args:
            base_dir: The base directory of the configuration.
            service_id: The service, which names a directory in it.
            instance: The chain's name; None takes the first slot, `00`, `01`, ..., that no other writer has.
            rotation: When a segment ends.
            access: The modes and the group of what is made.
            allow_insecure_dir: Open a log in which other users can replace files, too.

        Raises:
            LogLocked: Another writer has it; the error has its pid.
            LogCorrupted: There is damage that no crash explains.
            ConfigError: The directory is insecure, a symbolic link, or on a platform without `flock`.
            OSError: The system refuses. After any error nothing is held, and trying again is safe.
        """
        if sys.platform == "win32":
            raise ConfigError("mode", "writing a log is not supported on Windows yet; reading one is")
        directory, lock = take_directory(
            base_dir, service_id, instance, access=access, allow_insecure_dir=allow_insecure_dir
        )
        try:
            if COLLECTED_FILE in directory.names():
                raise ConfigError(
                    "mode.base_dir",
                    f"{directory.path} is a collector's copy of another host's log, and a record that were written "
                    "here would not be in that log; a service needs a base directory of its own",
                )
            identity = directory.identify(may_create=not any(map(SegmentName.parse, directory.names())))
            found = survey(directory, identity.log_id)
            torn = repair(directory, found)
            make_backup_lock(directory)
            apply_access(directory)
            in_chain = tuple(found.holds.in_force)
            sealed_holds = found.holds.sealed()
            holds = LegalHolds(directory, found.holds)
            new_holds: tuple[Hold, ...] = ()
            with suppress(OSError):  # a file that can't be read is a hold: retention asks again, and refuses
                new_holds = holds.check(datetime.now(UTC))
            stated = tuple(hold for hold_id, hold in found.holds.in_force.items() if hold_id in in_chain)
            unrecorded = tuple(
                entry for entry in found.manifest.segments if not entry.recorded and entry.segment not in found.recorded
            )
            lock.publish(found.head)
            return cls(
                directory,
                lock,
                Opening(found.head, torn, unrecorded, damaged_at_opening(unrecorded), stated, new_holds, sealed_holds),
                identity=identity,
                manifest=found.manifest,
                holds=holds,
                rotation=rotation,
                queue=SealingQueue((entry.segment for entry in unrecorded), found.recorded),
                active=reopen(directory, found.unsealed[-1]) if found.unsealed else None,
            )
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
        3. fdatasync (only if `sync`)                    the records survive a power cut; one call does 2 and 3 if
                                                         the kernel has it (see `disk.write_and_sync_at`)
        4. fsync of the directory, after a file is made  and so does the file's name
        5. only now are they counted as synced           and acknowledged

        If a segment ends within the batch: 2 to 5 for what belongs into it, `sync` or not, and only then is the
        next file made. So whatever a power cut leaves, a segment that has a successor is whole. Sealing comes last,
        after the successor's records are durable (`sealing.seal`).

        What is accepted is kept in memory until it is synced. That makes these survivable, each by raising
        `OSError` and continuing at the next call:

        - a failed write: what it left after the last whole record is cut off before the next write, and if that
          fails, too, the segment is left as after a failed sync;
        - a failed fdatasync or fsync: what that file got since the last good sync is believed no more. The file is
          cut back, never synced again, and everything not acknowledged goes to a new segment, byte for byte;
        - a file or directory that somebody removed, truncated or replaced: see `touched_files`.

        It can't survive a disk that confirms a sync and forgets, and what was acknowledged is not kept in memory:
        once it is truncated away by somebody, it is gone, which `damaged` says.

        The batch counts as accepted also if this raises: call `commit(None, sync=...)` to try again. The caller
        paces the tries. Raises `LogLocked` if the lock file was removed and another writer has the log now.
        """
        backlog = self._backlog
        if batch is not None and batch.lines:
            backlog.accept(batch)
            if self._queue.is_recording:
                self._queue.records_accepted(batch.lines)
        self._check_files()
        if backlog.written.seq < backlog.accepted.seq:
            self._write_accepted(sync=sync)
        if sync:
            self._make_durable()
            if self._queue.finished:
                self._damage.sealed(self._queue.seal(self._log_directory, self._manifest))
        if not (self._queue.unreported or self._queue.error or self._damage.pending):
            return Committed(backlog.written, backlog.synced)
        return Committed(
            backlog.written, backlog.synced, self._queue.take_sealed(), self._damage.take(), self._queue.error
        )

    def _check_files(self) -> None:
        """Cut off what a failed write left, and see whether the files were touched; raises `OSError`, `LogLocked`."""
        segment = self._active
        if segment is not None and segment.torn:
            try:
                segment.cut_off_torn()
            except OSError:
                self._give_up(segment)
                raise
        repaired = self._files.check(segment)
        if repaired is Repaired.SAVED:
            self._backlog.mark_synced()
        elif repaired is Repaired.TO_BE_LEFT:
            assert segment is not None  # noqa: S101 - only a segment is left
            self._active = None
            self._backlog.rewind()
            if segment.synced.bytes:
                self._queue.add(segment.as_sealed("damaged"))
            disk.close(segment.fd)

    def _write_accepted(self, *, sync: bool) -> None:
        """Write what is accepted and not written, and begin a new segment if one is due.

        With `sync`, a sync comes next: the last lines are then synced by the call that writes them, if they can be.
        """
        backlog = self._backlog
        while backlog.written.seq < backlog.accepted.seq:
            batch = backlog.batches[backlog.next]
            start = backlog.written.seq + 1 - batch.first_seq
            segment = self._active or self._begin_segment(batch, start)
            end = self._fitting(batch, start, segment)
            if end == start:
                self._finish_segment(segment)
                continue
            lines = batch.lines if end - start == len(batch.lines) else batch.lines[start:end]
            last_seq = batch.first_seq + end - 1
            if sync and last_seq == backlog.accepted.seq and segment.durable_bytes == segment.written.bytes:
                try:
                    segment.append(lines, last_seq, sync=True)
                except OSError:
                    self._give_up(segment)
                    raise
            else:
                segment.append(lines, last_seq)
            backlog.written = segment.written.head
            if end == len(batch.lines):
                backlog.next += 1

    def _fitting(self, batch: Batch, start: int, segment: Segment) -> int:
        """Return the index after the last line from `start` that belongs into `segment`."""
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

    # -- a segment's beginning and its end ---------------------------------------------------------------------------

    def _begin_segment(self, batch: Batch, start: int) -> Segment:
        """Make the file for the record at `start`; everything before that record is durable."""
        date = next(date for index, date in reversed(batch.dates) if index <= start)
        name = SegmentName(batch.first_seq + start, date)
        directory = self._log_directory
        try:
            fd = directory.create(str(name))
        except FileExistsError:
            self._free_the_name(str(name))
            fd = directory.create(str(name))
        self._active = Segment.begun(fd, name, str(directory.path / str(name)), self._backlog.written)
        return self._active

    def _free_the_name(self, name: str) -> None:
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
            set_file_aside(directory, name)
            self._damage.found(DamagedSegment(name, "a foreign file had its name", 0, status.st_size))

    def _finish_segment(self, segment: Segment) -> None:
        """Let a segment end here: all of it is made durable before the next file is made."""
        self._make_durable()
        self._active = None
        self._queue.add(segment.as_sealed())
        disk.close(segment.fd)

    def _make_durable(self) -> None:
        """Sync what is written; on `OSError` the segment is given up, and its part is to be written again."""
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
        self._backlog.mark_synced()

    def _give_up(self, segment: Segment) -> None:
        """Continue without this file after a failed sync: the kernel may have dropped any page since the last good one.

        Cut back to what was acknowledged, it counts as finished. If the cut fails it is tried again before the
        segment is sealed; until then, and if a power cut undoes it, the lines after that are void: they are copies of
        what the next segment begins with, and recovery sets them aside. With nothing acknowledged in it, the next
        segment needs its name.
        """
        self._active = None
        self._backlog.rewind()
        try:
            try:
                disk.truncate(segment.fd, segment.synced.bytes)
            except OSError:
                is_cut = False
            else:
                is_cut = True
            if segment.synced.bytes:
                self._queue.add(segment.as_sealed(), uncut=not is_cut)
            else:
                self._void.add(segment.identity())
        finally:
            disk.close(segment.fd)

    # -- retention and holds -----------------------------------------------------------------------------------------

    def plan_retention(self, policy: RetentionPolicy, now: datetime) -> list[RetentionStep]:
        """Return what is due at `now` (aware); nothing is done. Raises `LogCorrupted` for a hold that can't be read."""
        confirmed = self._confirmed_seq(policy)
        return plan_retention(self._manifest.segments, policy, now, self.hold, confirmed_seq=confirmed)

    def overdue_unshipped(self, policy: RetentionPolicy, now: datetime) -> list[RetentionStep]:
        """Return what is due and waits only for collectors to confirm it; raises as `plan_retention` does."""
        confirmed = self._confirmed_seq(policy)
        return overdue_unshipped(self._manifest.segments, policy, now, self.hold, confirmed_seq=confirmed)

    def refuse_unshipped(self, policy: RetentionPolicy, segments: Iterable[SealedSegment]) -> None:
        """Raise `RetentionRefused` if the policy holds what is not shipped, and one of these segments is not."""
        if not policy.hold_unshipped:
            return
        confirmed = self._confirmed_seq(policy)
        for segment in segments:
            if segment.last_seq > confirmed:
                raise RetentionRefused(
                    f"{segment.segment} is not confirmed in {policy.min_copies} places: "
                    f"{'nothing is' if confirmed < 0 else f'only up to record {confirmed}'}"
                )

    def _confirmed_seq(self, policy: RetentionPolicy) -> int:
        """Return up to which record collectors have confirmed the log; by the clock, since confirmations expire."""
        if not policy.hold_unshipped:
            return -1
        return confirmed_seq(self.directory, self.log_id, copies=policy.min_copies, now=datetime.now(UTC))

    def check_holds(self, now: datetime) -> tuple[Hold, ...]:
        """Make `hold.json` and the chain agree; return the holds that the caller has to record: see `LegalHolds`."""
        return self._holds.check(now)

    def finish_retention(self) -> None:
        """Remove files that a failed step has left of segments that are archived or deleted; not while on hold."""
        directory = self._log_directory
        left = removal.leftovers(directory, directory.names(), self._manifest.segments)
        if left and not self._holds.is_any_in_force():
            with without_backup(directory):
                removal.remove_leftovers(directory, left)

    @property
    def steps_at_once(self) -> int:
        """How many steps of retention to take together: 1, but more for a long manifest, which each call replaces.

        So a step writes at most some 64 KiB of manifest, and the time for all steps grows with their number only.
        """
        return max(1, len(self._manifest.segments) // 128)

    def archive_segments(self, archives: Sequence[Archive]) -> None:
        """Let the copies that `compress_segment` made take the segments' places; see `archiving.archive_segments`."""
        self._holds.refuse(archives[0].segment)
        with without_backup(self._log_directory):
            archiving.archive_segments(self._log_directory, self._manifest, archives)

    def delete_segments(self, segments: Sequence[str]) -> None:
        """Delete segments whose time is over; see `removal.delete_segments`."""
        self._holds.refuse(segments[0])
        with without_backup(self._log_directory):
            removal.delete_segments(self._log_directory, self._manifest, segments)

    def refuse_during_backup(self) -> None:
        """Raise `BackupRunning` if a backup of the log is being taken: no step of retention is recorded then."""
        with without_backup(self._log_directory):
            pass

    @property
    def hold(self) -> Hold | None:
        """The legal hold that is in force, the oldest if there are several, None if there is none."""
        return next(iter(self.holds), None)

    @property
    def holds(self) -> tuple[Hold, ...]:
        """All legal holds that are in force, the oldest first."""
        return self._holds.in_force()

    def set_hold(self, *, reason: str, set_by: str, now: datetime) -> Hold:
        """Put a legal hold in force, durably; one that is in force already stays, and is returned."""
        return self._holds.set(reason=reason, set_by=set_by, now=now)

    def lift_holds(self, holds: Iterable[Hold], now: datetime) -> None:
        """End these legal holds, durably; the chain has recorded it, durably, which is the caller's duty."""
        self._holds.lift(holds, now)

    # -- what it says of itself, and its end ---------------------------------------------------------------------

    def __repr__(self) -> str:
        """Show the log, its heads and its active segment."""
        backlog, active = self._backlog, self._active
        return (
            f"<LogStore {self.directory.parent.name}/{self.instance} accepted={backlog.accepted.seq} "
            f"written={backlog.written.seq} synced={backlog.synced.seq} active={active.name if active else None}>"
        )

    @property
    def directory(self) -> Path:
        """The log's path."""
        return self._log_directory.path

    @property
    def instance(self) -> str:
        """The name of this chain, the last part of its path."""
        return self._log_directory.instance

    @property
    def log_id(self) -> str:
        """What log.json says: 32 hex digits."""
        return self._identity.log_id

    @property
    def created(self) -> str:
        """When the log was made, RFC 3339, UTC."""
        return self._identity.created

    @property
    def access(self) -> Access:
        """The modes and the group of what is made in the directory."""
        return self._log_directory.access

    @property
    def head(self) -> Head:
        """The chain's head when the log was opened."""
        return self.opening.head

    @property
    def recovered(self) -> tuple[TornTail, ...]:
        """What opening set aside, for `audit.log_recovered`."""
        return self.opening.recovered

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of records held in memory because they are not known to be durable."""
        return self._backlog.unsynced_bytes

    @property
    def sealed_segments(self) -> Sequence[SealedSegment]:
        """Every sealed segment, oldest first, as the manifest has them."""
        return self._manifest.segments

    def free_bytes(self) -> int:
        """Return the bytes left for this process on the log's file system; raises `OSError`."""
        status = os.fstatvfs(self._log_directory.fd)
        return status.f_bavail * status.f_frsize

    def publish_acknowledged(self) -> None:
        """Let other processes see up to which record everything is on stable storage; never raises.

        Not a part of `commit`: that is to be paid for some commits only, and soon after the last one.
        """
        self._lock.publish(self._backlog.synced)

    def close(self) -> None:
        """Close the files and unlock the log; after a last `commit(None, sync=True)`. Never raises."""
        self._queue.retry_now()
        backlog = self._backlog
        if self._queue.finished and backlog.synced.seq == backlog.accepted.seq and not self._files.is_rebuilding:
            with suppress(OSError):
                self._queue.seal(self._log_directory, self._manifest)
        self.publish_acknowledged()
        self._release()

    def abandon(self) -> None:
        """Close the descriptors that a forked child has inherited; writes nothing, and the parent keeps its lock."""
        self._release()

    def _release(self) -> None:
        segment, self._active = self._active, None
        if segment is not None:
            disk.close(segment.fd)
        self._lock.close()
        self._log_directory.close()
