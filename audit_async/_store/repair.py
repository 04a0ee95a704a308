"""Doing what a survey decided: a log that a crash left, or that is a snapshot, is put in order before it is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from stat import S_IMODE, S_ISREG

from audit_async._durable import disk
from audit_async._layout.access_modes import PRIVATE, Access
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, TORN
from audit_async._layout.regular_files import open_regular
from audit_async._store import removal, sealing
from audit_async._store.active_segment import Extent, Segment
from audit_async._store.checked_segment import CheckedSegment
from audit_async._store.legal_hold import is_on_hold
from audit_async._store.log_directory import LogDirectory
from audit_async._store.set_aside import TornTail, copy_tail_aside
from audit_async._store.survey import Survey, Tail


def repair(directory: LogDirectory, found: Survey) -> tuple[TornTail, ...]:
    """Do what the survey decided; return what was set aside.

    In order:

    1. tails are copied to `torn/` and synced, then cut off         nothing is lost by a crash in between
    2. segments without a record and unfinished files are removed
    3. fdatasync of the unsealed segments, fsync of the directory   their bytes may be in the page cache only
    4. seals are completed                                          checksum files and modes, from the manifest
    5. what retention had begun to remove is removed
    6. finished segments are sealed

    After a crash anywhere in between, the next survey finds what is left to do (a tail may then be in `torn/` twice).
    Raises `OSError`; opening may be tried again.
    """
    torn = tuple(_set_aside(directory, tail, found.manifest.segments) for tail in found.tails)
    for name in found.empty:
        disk.unlink(name, dir_fd=directory.fd)
    for name in found.unfinished:
        with suppress(FileNotFoundError):  # another process was placing a hold, say, and has given it its name since
            disk.unlink(name, dir_fd=directory.fd)
    for segment in found.unsealed:
        fd = open_regular(str(segment.name), dir_fd=directory.fd, writable=segment is found.unsealed[-1])
        try:
            disk.sync_data(fd)
        finally:
            disk.close(fd)
    directory.sync()
    for entry in found.unchecked:
        sealing.write_checksum(directory, entry)
    for name in found.writable:
        sealing.make_read_only(directory, name)
    if found.leftovers and not found.holds.in_force and not is_on_hold(directory.path):
        removal.remove_leftovers(directory, found.leftovers)
    finished = [segment.as_sealed() for segment in found.unsealed[:-1]]
    if finished:
        sealing.seal(directory, found.manifest, finished, recorded=found.recorded)
    elif found.unchecked:
        directory.sync()
    return torn


def apply_access(directory: LogDirectory) -> None:
    """Give what is in the log's directory the modes and the group of the configuration, if that opens it to others.

    What was made before the configuration said so is opened as well. Nothing is done for a private log: if its
    directory was opened by hand, there may be a reason.
    """
    access = directory.access
    if access == PRIVATE:
        return
    _apply_access_below(directory.fd, access)
    for name in (ARCHIVE, TORN):
        with suppress(FileNotFoundError, NotADirectoryError):
            fd = disk.open_directory(name, dir_fd=directory.fd)
            try:
                _apply_access_below(fd, access)
            finally:
                disk.close(fd)


def _apply_access_below(directory_fd: int, access: Access) -> None:
    if _differs(os.fstat(directory_fd), access.directory_mode, access.gid):
        access.apply_to_directory(directory_fd)
    for name in os.listdir(directory_fd):
        with suppress(FileNotFoundError):  # of another process, such as one that stores segments in a bucket
            _apply_access_to(name, directory_fd, access)


def _apply_access_to(name: str, directory_fd: int, access: Access) -> None:
    status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    is_sealed = not status.st_mode & 0o200
    mode = access.sealed_mode if is_sealed else access.file_mode
    if S_ISREG(status.st_mode) and _differs(status, mode, access.gid):
        fd = open_regular(name, dir_fd=directory_fd)
        try:
            access.apply_to_file(fd, sealed=is_sealed)
        finally:
            disk.close(fd)


def _differs(status: os.stat_result, mode: int, gid: int | None) -> bool:
    return S_IMODE(status.st_mode) & 0o777 != mode & 0o777 or gid not in {None, status.st_gid}


def reopen(directory: LogDirectory, last: CheckedSegment) -> Segment:
    """Open the last segment to write on in it; it was read, repaired and synced."""
    fd = _open_writable(directory, str(last.name))
    assert last.first is not None  # noqa: S101 - the survey keeps only segments with a record
    assert last.last is not None  # noqa: S101
    segment = Segment(
        fd,
        last.name,
        str(directory.path / str(last.name)),
        prev_hash=last.first.prev_hash,
        extent=Extent(last.bytes, last.head, last.last.timestamp),
        digest=last.digest,
        timestamp=last.first.timestamp,
    )
    segment.name_durable = True
    return segment


def _set_aside(directory: LogDirectory, tail: Tail, sealed: Sequence[SealedSegment]) -> TornTail:
    """Copy the end of a segment to `torn/`, make that durable, then cut it off, durably."""
    torn = copy_tail_aside(directory, tail.segment, tail.at, tail.reason)
    fd = _open_writable(directory, tail.segment)
    try:
        disk.truncate(fd, tail.at)
        disk.sync_data(fd)
    finally:
        disk.close(fd)
    if any(entry.segment == tail.segment for entry in sealed):
        sealing.make_read_only(directory, tail.segment)
    return torn


def _open_writable(directory: LogDirectory, name: str) -> int:
    """Open a segment for writing, also one whose mode says that it is sealed."""
    fd = open_regular(name, dir_fd=directory.fd)
    try:
        if os.fstat(fd).st_mode & 0o777 != directory.access.file_mode:
            disk.change_mode(fd, directory.access.file_mode)
    finally:
        disk.close(fd)
    return open_regular(name, dir_fd=directory.fd, writable=True)
