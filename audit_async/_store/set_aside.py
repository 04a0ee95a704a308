"""Setting files, and the ends of files, aside in `torn/`: what is no part of the chain stays there as evidence."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import Final, NamedTuple

from audit_async._durable import disk
from audit_async._layout.names import TORN
from audit_async._layout.regular_files import open_regular
from audit_async._store.log_directory import LogDirectory

_CHUNK_BYTES: Final = 1 << 20


class TornTail(NamedTuple):
    """What recovery set aside, for `audit.log_recovered`."""

    bytes: int
    sha256: str  #: of what was set aside, 64 hex digits
    file: str  #: its path now, relative to the log directory
    segment: str  #: its segment before
    reason: str


def set_file_aside(directory: LogDirectory, name: str) -> str:
    """Move a file of the log directory to `torn/`, durably there; return its new path, relative to the directory."""
    torn_fd = directory.open_subdirectory(TORN)
    try:
        free = _free_name(name, dir_fd=torn_fd)
        disk.rename(name, free, dir_fd=directory.fd, target_dir_fd=torn_fd)
        disk.sync_directory(torn_fd)
    finally:
        disk.close(torn_fd)
    return f"{TORN}/{free}"


def copy_tail_aside(directory: LogDirectory, segment: str, at: int, reason: str) -> TornTail:
    """Copy a segment's bytes from `at` to `torn/`, durably; the segment stays as it is."""
    torn_fd = directory.open_subdirectory(TORN)
    try:
        fd = open_regular(segment, dir_fd=directory.fd)
        try:
            size = os.fstat(fd).st_size
            name = _free_name(f"{segment}.{at}", dir_fd=torn_fd)
            copy = disk.create_file(name, dir_fd=torn_fd)
            try:
                directory.access.apply_to_file(copy)
                digest = _copy(fd, copy, at, size)
                disk.sync_data(copy)
            except BaseException:  # each opening on a full disk would leave another part of the copy there
                with suppress(OSError):
                    disk.unlink(name, dir_fd=torn_fd)
                raise
            finally:
                disk.close(copy)
            disk.sync_directory(torn_fd)
        finally:
            disk.close(fd)
    finally:
        disk.close(torn_fd)
    return TornTail(size - at, digest, f"{TORN}/{name}", segment, reason)


def _free_name(name: str, *, dir_fd: int) -> str:
    """Return `name`, or it with the first number that no file has: what was set aside is never replaced."""
    taken = set(os.listdir(dir_fd))
    number = 0
    free = name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    return free


def _copy(fd: int, target: int, begin: int, end: int) -> str:
    """Copy the bytes of a range to the beginning of another file; return their SHA-256 in hex."""
    digest = hashlib.sha256()
    at = begin
    while at < end:
        chunk = disk.read_at(fd, min(_CHUNK_BYTES, end - at), at)
        if not chunk:
            break
        disk.write_at(target, chunk, at - begin)
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()
