"""Archiving: a sealed segment is compressed into `archive/`, and its compressed copy takes its place.

With recipients the copy is encrypted with age as well, in the same pass: nothing that is compressed and readable is
written. This host can't read it any more, so an encrypted copy that an interrupted run has left is made again.

Each step is prepared so that the chain can say so before it is taken: the caller records it, durably, then takes it. A
step may be repeated after a crash at any point: doing it again finishes what was begun, and so does opening.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from audit_async._durable import disk
from audit_async._layout.access_modes import PRIVATE, Access
from audit_async._layout.age_files import encrypt
from audit_async._layout.archive_reading import DAMAGED_ARCHIVE, open_segment_for_reading
from audit_async._layout.manifest import EncryptedArchive, SealedSegment
from audit_async._layout.names import ARCHIVE, COMPRESSED, ENCRYPTED, UNFINISHED
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
#: How a line begins, up to its timestamp. Only a line's beginning comes after a line end.
_TIMESTAMP: Final = re.compile(
    rb'^\{"seq":[0-9]{1,18},"audit_id":"[0-9a-f-]{1,33}","timestamp":"([0-9TZ:.-]{27})"', re.MULTILINE
)
#: No such beginning is longer.
_LINE_OPENING_BYTES: Final = 128


class Archive(NamedTuple):
    """A compressed copy of a segment that was checked, and is durable."""

    segment: str
    file: str  #: relative to the log directory
    sha256: str  #: of the segment, uncompressed
    archive_sha256: str  #: of the compressed file, encrypted or not
    archive_bytes: int
    identity: tuple[int, int, int]  #: inode, size and time of change of the file that was checked
    encrypted: EncryptedArchive | None = None  #: what the manifest will say of it; None if it is not encrypted


class Stopped(AuditError):
    """Compressing was stopped, because the log is being closed; nothing was changed."""


def _never() -> bool:
    return False


def compress_segment(
    directory: Path,
    segment: SealedSegment,
    stopped: Callable[[], bool] = _never,
    *,
    access: Access = PRIVATE,
    recipients: tuple[str, ...] = (),
) -> Archive:
    """Make the compressed copy of a sealed segment in `archive/`; the segment stays as it is.

    On return the copy holds what has the SHA-256 of the manifest, and it is on stable storage with its name. This
    touches nothing else, so it may run in any thread besides the writer's, one call a log at a time; the call for
    100 MiB takes a second or two.

    The happy path, in order: read the segment; write `archive/NAME.zst` under another name; fdatasync; read it back
    and decompress; fchmod 0400; rename; fsync of `archive/`, and of the log directory, which has its name. A copy that
    is there already is checked and not made again.

    With recipients the name is `NAME.zst.age`, and it is always made. What was compressed is decompressed and compared
    before it is encrypted, and what is read back is the encrypted file, for which this host has no key.

    Args:
        directory: The log's directory.
        segment: The manifest's entry: a live segment, or, with recipients, one whose archive is not encrypted.
        stopped: Asked between any two MiB; if it says True, the call ends with `Stopped`.
        access: Who may read the archive.
        recipients: Whom the archive is encrypted to; it is not encrypted if there are none.

    Raises:
        LogCorrupted: The segment is not what was sealed.
        RetentionRefused: It is not live, or is encrypted already.
        Stopped: `stopped` said so.
        EncryptionFailed: age refused.
        OSError: The disk refuses. What was begun is removed then, so a full disk gets its room back.
    """
    if segment.state != "live" and not (recipients and segment.state == "archived" and not segment.is_encrypted):
        raise RetentionRefused(f"{segment.segment} is {segment.state}; only a live segment can be compressed")
    name = segment.segment + COMPRESSED
    log_fd = disk.open_directory(str(directory))
    try:
        archive_fd = open_subdirectory(ARCHIVE, dir_fd=log_fd, at=directory / ARCHIVE, access=access)
        try:
            disk.sync_directory(log_fd)
            if recipients:
                return _write_encrypted(directory, archive_fd, segment, stopped, access=access, recipients=recipients)
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
    files removed, and of what is encrypted now the archive that is not and the index, which says whether a name is in
    it. Does nothing for a segment that is archived in the same way already. The copies are not read again, so that the
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
    if entry.state == "archived" and (entry.is_encrypted or archive.encrypted is None):
        return entry
    if entry.state not in {"live", "archived"}:
        raise RetentionRefused(f"{archive.segment} is {entry.state}, so it can't be archived")
    try:
        status = os.stat(archive.file, dir_fd=directory.fd, follow_symlinks=False)
    except FileNotFoundError as error:
        raise LogCorrupted(archive.file, None, entry.first_seq, "somebody removed it just now") from error
    if _identity(status) != archive.identity:
        raise LogCorrupted(archive.file, None, entry.first_seq, "somebody changed it just now")
    return msgspec.structs.replace(entry, state="archived", encrypted=archive.encrypted or msgspec.UNSET)


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
    with (
        _unfinished(archive_fd, name, access) as (unfinished, write),
        open(open_regular(segment.segment, dir_fd=log_fd), "rb") as file,
    ):
        for piece in _compressed(_pieces(file, stopped), segment):
            write(piece)
    with _removed_on_error(archive_fd, unfinished):
        _checked(archive_fd, unfinished, segment, stopped)
        disk.rename(unfinished, name, dir_fd=archive_fd)


def _write_encrypted(
    directory: Path,
    archive_fd: int,
    segment: SealedSegment,
    stopped: Callable[[], bool],
    *,
    access: Access,
    recipients: tuple[str, ...],
) -> Archive:
    """Compress and encrypt a segment, live or archived, in one pass; the file is durable under its name on return."""
    name = segment.segment + ENCRYPTED
    times, digest = Times(), hashlib.sha256()
    with _unfinished(archive_fd, name, access) as (unfinished, write):

        def write_and_add(piece: bytes) -> None:
            digest.update(piece)
            write(piece)

        with open_segment_for_reading(directory, segment) as file:
            content = times.watch(_pieces(file, stopped))
            encrypt(_decompressible(_compressed(content, segment), segment), write_and_add, recipients)
    sha256 = digest.hexdigest()
    with _removed_on_error(archive_fd, unfinished):
        identity = _read_back(archive_fd, unfinished, sha256)
        disk.rename(unfinished, name, dir_fd=archive_fd)
    disk.sync_directory(archive_fd)
    encrypted = EncryptedArchive(sha256=sha256, bytes=identity[1], earliest=times.earliest, latest=times.latest)
    return Archive(segment.segment, f"{ARCHIVE}/{name}", segment.sha256, sha256, encrypted.bytes, identity, encrypted)


@contextmanager
def _unfinished(archive_fd: int, name: str, access: Access) -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """Make a file under another name, which is yielded with what writes to it; it is on stable storage at the end."""
    unfinished = name + UNFINISHED
    with suppress(FileNotFoundError):
        disk.unlink(unfinished, dir_fd=archive_fd)
    fd = disk.create_file(unfinished, dir_fd=archive_fd)
    at = 0

    def write(piece: bytes) -> None:
        nonlocal at
        disk.write_at(fd, piece, at)
        at += len(piece)

    with _removed_on_error(archive_fd, unfinished):
        try:
            yield unfinished, write
            disk.sync_data(fd)
            access.apply_to_file(fd, sealed=True)
        finally:
            disk.close(fd)


@contextmanager
def _removed_on_error(archive_fd: int, unfinished: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            disk.unlink(unfinished, dir_fd=archive_fd)
        raise


def _continue_unless(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped("the log is being closed; retention continues with its next run")


def _pieces(file: BinaryIO, stopped: Callable[[], bool]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        _continue_unless(stopped)
        yield chunk


def _compressed(pieces: Iterable[bytes], segment: SealedSegment) -> Iterator[bytes]:
    """Compress a segment's content; raises `LogCorrupted` at the end if it is not what was sealed."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
    digest = hashlib.sha256()
    try:
        for piece in pieces:
            digest.update(piece)
            yield compressor.compress(piece)
    except DAMAGED_ARCHIVE as error:
        file = f"{ARCHIVE}/{segment.archive_file}"
        raise LogCorrupted(file, None, segment.first_seq, "it can't be decompressed") from error
    yield compressor.flush()
    if digest.hexdigest() != segment.sha256:
        raise LogCorrupted(segment.segment, None, None, "the segment is not what was sealed: its SHA-256 differs")


def _decompressible(pieces: Iterable[bytes], segment: SealedSegment) -> Iterator[bytes]:
    """Yield what is compressed, having decompressed it as well; raises `LogCorrupted` at the end if that differs."""
    decompressor, digest = zstd.ZstdDecompressor(), hashlib.sha256()
    for piece in pieces:
        data = decompressor.decompress(piece, _CHUNK_BYTES)
        while data:
            digest.update(data)
            data = b"" if decompressor.needs_input or decompressor.eof else decompressor.decompress(b"", _CHUNK_BYTES)
        yield piece
    if not decompressor.eof or digest.hexdigest() != segment.sha256:
        raise LogCorrupted(segment.segment, None, None, "what was compressed of it is not what was sealed")


class Times:
    """The earliest and the latest timestamp among the lines that pass."""

    def __init__(self) -> None:
        self.earliest = "~"
        self.latest = ""

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces as they are."""
        # The end of what passed, from the last line's beginning on, as far as a timestamp may still be incomplete.
        cut = b""
        for piece in pieces:
            data = cut + piece
            if found := _TIMESTAMP.findall(data):
                self.earliest = min(self.earliest, min(found).decode())
                self.latest = max(self.latest, max(found).decode())
            last_line = data.rfind(b"\n") + 1
            # The beginning of a long line is enough: what comes later in it matches nothing.
            cut = data[last_line : last_line + _LINE_OPENING_BYTES]
            yield piece


def _read_back(archive_fd: int, name: str, sha256: str) -> tuple[int, int, int]:
    """Read an encrypted archive and return its identity; raises `LogCorrupted` if it is not what was written."""
    with open(open_regular(name, dir_fd=archive_fd), "rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise LogCorrupted(f"{ARCHIVE}/{name}", None, None, "what is read back is not what was written")
    return identity


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
