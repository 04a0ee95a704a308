"""What other programs do to the files of an open log: noticed before each commit, repaired if possible, reported.

What has the segment's name and its inode number is the segment: no other file gets that number while it is open.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum, auto
from typing import Final

import msgspec

from audit_async._durable import disk
from audit_async._layout.log_identity import Identity
from audit_async._layout.names import UNFINISHED
from audit_async._store.active_segment import Segment
from audit_async._store.damage import DamagedSegment, DamageRegister
from audit_async._store.legal_hold import LegalHolds
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async._store.set_aside import set_file_aside
from audit_async._store.writer_lock import WriterLock


class Repaired(Enum):
    """What became of the active segment; the store acts on it."""

    AS_IT_WAS = auto()
    SAVED = auto()  #: all that was written is in a new file, durably
    TO_BE_LEFT = auto()  #: somebody changed its content: it stays as it is, as evidence, and is written no more


class FileWatch:
    """Watches the directory, the lock file and the active segment. Owned by the disk thread."""

    def __init__(
        self,
        directory: LogDirectory,
        lock: WriterLock,
        *,
        identity: Identity,
        manifest: Manifest,
        holds: LegalHolds,
        damage: DamageRegister,
    ) -> None:
        self._directory: Final = directory
        self._lock: Final = lock
        self._identity: Final = identity
        self._manifest: Final = manifest
        self._holds: Final = holds
        self._damage: Final = damage
        self._rebuilding = False  # the directory was removed, and not all of it could be made again yet

    @property
    def is_rebuilding(self) -> bool:
        """True if the directory was removed and could not be made again yet."""
        return self._rebuilding

    def check(self, segment: Segment | None) -> Repaired:
        """See that the files are as they were left, and repair what is not: two system calls, about 3 us.

        Raises `OSError` if a repair fails, and `LogLocked` if another writer has the log now; the next call tries
        again.
        """
        if segment is None:
            if self._rebuilding or not self._lock.is_held() or not self._directory.is_in_place():
                self._repair_directory()
            return Repaired.AS_IT_WAS
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
            return Repaired.AS_IT_WAS
        self._repair_directory()
        return self._repair_segment(segment, there.st_size if there is not None else 0)

    # -- the directory ---------------------------------------------------------------------------------------------

    def _repair_directory(self) -> None:
        """Make the directory again if it is gone, with log.json, lock, hold and manifest; lock the log again.

        Sealed segments that are gone with it are marked `lost`.
        """
        if self._rebuilding or not self._directory.is_in_place():
            self._rebuild_directory()
        elif not self._lock.is_held():
            self._lock.take_again(self._directory)

    def _rebuild_directory(self) -> None:
        self._rebuilding = True
        directory = self._directory
        if not directory.is_in_place():
            directory.make_again()
        self._lock.take_again(directory)
        directory.write_identity(self._identity)
        self._holds.restore()
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
        for entry in gone:
            self._damage.found(DamagedSegment(entry.segment, "removed with its directory", entry.bytes, 0))
        self._rebuilding = False

    # -- the active segment ----------------------------------------------------------------------------------------

    def _repair_segment(self, segment: Segment, path_bytes: int) -> Repaired:
        """Judge what was done to the active segment, and save it if all that was written is still there."""
        open_bytes = os.fstat(segment.fd).st_size
        if open_bytes != segment.written.bytes:
            reason = "truncated" if open_bytes < segment.written.bytes else "grown"
            return self._leave(segment, reason, open_bytes)
        if self._name_is_lost(segment):
            return self._save_from_descriptor(segment, path_bytes)
        return Repaired.AS_IT_WAS

    def _leave(self, segment: Segment, reason: str, actual_bytes: int) -> Repaired:
        self._damage.found(DamagedSegment(str(segment.name), reason, segment.written.bytes, actual_bytes))
        return Repaired.TO_BE_LEFT

    def _name_is_lost(self, segment: Segment) -> bool:
        try:
            there = os.stat(str(segment.name), dir_fd=self._directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != segment.identity()

    def _save_from_descriptor(self, segment: Segment, path_bytes: int) -> Repaired:
        """Copy a segment that has lost its name to a new file of that name, durably, to be written from now on."""
        directory, name = self._directory, str(segment.name)
        unfinished = name + UNFINISHED
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=directory.fd)
        fd = directory.create(unfinished)
        try:
            if not segment.copy_to(fd):
                disk.close(fd)
                fd = -1
                with suppress(OSError):  # the next opening removes it
                    disk.unlink(unfinished, dir_fd=directory.fd)
                return self._leave(segment, "removed, and its content changed", path_bytes)
            disk.sync_data(fd)
            reason = "removed"
            if name in directory.names():
                set_file_aside(directory, name)
                reason = "replaced"
            disk.rename(unfinished, name, dir_fd=directory.fd)
            directory.sync()
        except BaseException:
            if fd >= 0:
                disk.close(fd)
            raise
        segment.continue_in(fd)
        self._damage.found(DamagedSegment(name, reason, segment.written.bytes, path_bytes))
        return Repaired.SAVED
