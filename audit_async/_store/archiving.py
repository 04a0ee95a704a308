"""Archiving: a sealed segment is compressed into `archive/`, and its compressed copy takes its place.

Each step is prepared so that the chain can say so before it is taken: the caller records it, durably, then takes it. A
step may be repeated after a crash at any point: doing it again finishes what was begun, and so does opening.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audit_async._durable import disk
from audit_async._layout.access_modes import PRIVATE, Access
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, COMPRESSED, UNFINISHED
from audit_async._layout.regular_files import open_regular
from audit_async._store.log_directory import LogDirectory, open_subdirectory
from audit_async._store.manifest_file import Manifest
from audit_async._store.removal import remove_leftovers
from audit_async.errors import AuditError, LogCorrupted, RetentionRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES: Final = 1 << 20


class Archive(NamedTuple):
    """A compressed copy of a segment that was checked, and is durable."""

    segment: str
    file: str  #: relative to the log directory
    sha256: str  #: of the segment, uncompressed
    archive_sha256: str  #: of the compressed file
    archive_bytes: int
    identity: tuple[int, int, int]  #: inode, size and time of change of the file that was checked


class Stopped(AuditError):
    """Compressing was stopped, because the log is being closed; nothing was changed."""


def _never() -> bool:
    return False


def compress_segment(
    directory: Path, segment: SealedSegment, stopped: Callable[[], bool] = _never, *, access: Access = PRIVATE
) -> Archive:
    """Make, or find, the compressed copy of a live sealed segment in `archive/`; the segment stays as it is.

    On return the copy was decompressed and has the SHA-256 of the manifest, and it is on stable storage with its
    name. This touches nothing else, so it may run in any thread besides the writer's, one call a log at a time; the
    call for 100 MiB takes a second or two.

    The happy path, in order: read the segment; write `archive/NAME.zst` under another name; fdatasync; read it back
    and decompress; fchmod 0400; rename; fsync of `archive/`, and of the log directory, which has its name.

    Args:
        directory: The log's directory.
        segment: The manifest's entry.
        stopped: Asked between any two MiB; if it says True, the call ends with `Stopped`.
        access: Who may read the archive.

    Raises:
        LogCorrupted: The segment is not what was sealed.
        RetentionRefused: It is not live.
        Stopped: `stopped` said so.
        OSError: The disk refuses. What was begun is removed then, so a full disk gets its room back.
    """
    if segment.state != "live":
        raise RetentionRefused(f"{segment.segment} is {segment.state}; only a live segment can be compressed")
    name = segment.segment + COMPRESSED
    log_fd = disk.open_directory(str(directory))
    try:
        archive_fd = open_subdirectory(ARCHIVE, dir_fd=log_fd, at=directory / ARCHIVE, access=access)
        try:
            disk.sync_directory(log_fd)
            if not _is_there(name, archive_fd):
                _write_compressed(log_fd, archive_fd, segment, stopped, access)
            return _checked(archive_fd, name, segment, stopped)
        finally:
            disk.close(archive_fd)
    finally:
        disk.close(log_fd)


def archive_segments(directory: LogDirectory, manifest: Manifest, archives: Iterable[Archive]) -> None:
    """Take live segments out of the log directory, now that their compressed copies take their places.

    The chain says so, durably, and no hold is in force: these are the caller's duties. In order: each copy is the file
    that `compress_segment` has checked, untouched since; the manifest says `archived`, durably; only then are the live
    files removed. Does nothing for a segment that is archived already. The copies are not read again, so that the
    writer, whose thread this is, waits for a few system calls only.

    Raises `RetentionRefused` if a segment can't be archived, `LogCorrupted` if a copy is missing or was touched,
    `OSError`; until the manifest is written all of the segments are live.
    """
    entries = [_with_archive(directory, manifest.find_sealed(archive.segment), archive) for archive in archives]
    if any(entry != manifest.find_sealed(entry.segment) for entry in entries):
        manifest.write(directory, manifest.with_changed(entries))
    remove_leftovers(directory, entries)


def _with_archive(directory: LogDirectory, entry: SealedSegment, archive: Archive) -> SealedSegment:
    """Return the entry of a segment whose archive is in its place, and is what was checked; raises if it is not."""
    if entry.state == "archived":
        return entry
    if entry.state != "live":
        raise RetentionRefused(f"{archive.segment} is {entry.state}, so it can't be archived")
    try:
        status = os.stat(archive.file, dir_fd=directory.fd, follow_symlinks=False)
    except FileNotFoundError as error:
        raise LogCorrupted(archive.file, None, entry.first_seq, "somebody removed it just now") from error
    if _identity(status) != archive.identity:
        raise LogCorrupted(archive.file, None, entry.first_seq, "somebody changed it just now")
    return msgspec.structs.replace(entry, state="archived")


def _is_there(name: str, directory_fd: int) -> bool:
    """Return whether a name is taken; listing the directory for it would cost more with each archive in it."""
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_compressed(
    log_fd: int, archive_fd: int, segment: SealedSegment, stopped: Callable[[], bool], access: Access
) -> None:
    name = segment.segment + COMPRESSED
    unfinished = name + UNFINISHED
    with suppress(FileNotFoundError):
        disk.unlink(unfinished, dir_fd=archive_fd)
    fd = disk.create_file(unfinished, dir_fd=archive_fd)
    try:
        try:
            _compress(log_fd, fd, segment, stopped)
            disk.sync_data(fd)
            access.apply_to_file(fd, sealed=True)
        finally:
            disk.close(fd)
        _checked(archive_fd, unfinished, segment, stopped)
        disk.rename(unfinished, name, dir_fd=archive_fd)
    except BaseException:
        with suppress(OSError):
            disk.unlink(unfinished, dir_fd=archive_fd)
        raise


def _continue_unless(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped("the log is being closed; retention continues with its next run")


def _compress(log_fd: int, target: int, segment: SealedSegment, stopped: Callable[[], bool]) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
    digest = hashlib.sha256()
    at = 0
    with open(open_regular(segment.segment, dir_fd=log_fd), "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            _continue_unless(stopped)
            digest.update(chunk)
            compressed = compressor.compress(chunk)
            disk.write_at(target, compressed, at)
            at += len(compressed)
    disk.write_at(target, compressor.flush(), at)
    if digest.hexdigest() != segment.sha256:
        raise LogCorrupted(segment.segment, None, None, "the segment is not what was sealed: its SHA-256 differs")


def _checked(archive_fd: int, name: str, segment: SealedSegment, stopped: Callable[[], bool]) -> Archive:
    """Decompress an archive and compare; return what it is, its name made durable."""
    compressed, content = hashlib.sha256(), hashlib.sha256()
    size = inflated = 0
    with open(open_regular(name, dir_fd=archive_fd), "rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        while chunk := file.read(_CHUNK_BYTES):
            compressed.update(chunk)
            size += len(chunk)
        file.seek(0)
        try:
            with zstd.ZstdFile(file, "rb") as stream:
                # Stopped at the size that the segment has: what is there may inflate to terabytes.
                while inflated <= segment.bytes and (chunk := stream.read(_CHUNK_BYTES)):
                    _continue_unless(stopped)
                    content.update(chunk)
                    inflated += len(chunk)
        except (zstd.ZstdError, EOFError) as error:
            raise LogCorrupted(f"{ARCHIVE}/{name}", None, segment.first_seq, "it can't be decompressed") from error
    if inflated != segment.bytes or content.hexdigest() != segment.sha256:
        raise LogCorrupted(f"{ARCHIVE}/{name}", None, segment.first_seq, "it is not the segment that was sealed")
    disk.sync_directory(archive_fd)
    return Archive(segment.segment, f"{ARCHIVE}/{name}", segment.sha256, compressed.hexdigest(), size, identity)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes whenever somebody touches the file, its mode apart."""
    return status.st_ino, status.st_size, status.st_mtime_ns
