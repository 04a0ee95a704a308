"""Retention: sealed segments are compressed with age, and deleted at the end of their time, unless there is a hold.

A segment's way is live, archived, deleted; a step back does not exist. Each step is prepared so that the chain can
tell of it before it is taken: the caller records it, durably, then takes it. What is gone stays provable, because
the manifest keeps the entry with the hashes at the segment's boundaries.

Each step may be repeated after a crash at any point: doing it again finishes what was begun, and so does opening.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from audit_async._durable import disk
from audit_async._layout.hold_file import Hold, read_hold
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, CHECKSUM, COMPRESSED, HOLD_FILE, INDEX_FILE, UNFINISHED
from audit_async._layout.regular_files import open_regular
from audit_async._store.log_directory import LogDirectory
from audit_async._store.log_directory import open_subdirectory as _open_subdirectory
from audit_async._store.manifest_file import Manifest
from audit_async.config import RetentionPolicy
from audit_async.errors import AuditError, LogCorrupted, RetentionRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK: Final = 1 << 20


class RetentionStep(NamedTuple):
    """One thing that retention does to one segment."""

    action: Literal["archive", "delete"]
    segment: SealedSegment
    age_days: int  #: whole days since its last record


class Archive(NamedTuple):
    """A compressed copy of a segment that was checked, and is durable."""

    segment: str
    file: str  #: relative to the log directory
    sha256: str  #: of the segment, uncompressed
    archive_sha256: str  #: of the compressed file
    archive_bytes: int
    identity: tuple[int, int, int]  #: inode, size and time of change of the file that was checked


# -- what is due --------------------------------------------------------------------------------------------------


def plan_retention(
    segments: Iterable[SealedSegment], policy: RetentionPolicy, now: datetime, hold: Hold | None
) -> list[RetentionStep]:
    """Return what `policy` asks for at `now` (aware), oldest segment first; nothing while there is a hold.

    Nothing is read and nothing done: this is the dry run, too. A segment is as old as its last record, counted in
    whole days. Deletion proceeds from the chain's beginning and stops at the first segment that has to stay, so
    what remains is one unbroken piece. A `damaged` segment is evidence: it is never compressed.

    The chain's order is believed before a clock that was set back: a segment is no older than its first record, nor,
    for deletion, than anything before it. (A host without a clock of its own starts in 1970, and its first records go
    to yesterday's segment.)
    """
    if hold is not None:
        return []
    delete_after = max(policy.delete_after_days, policy.min_retention_days)
    steps: list[RetentionStep] = []
    deleting = True
    latest = datetime.min.replace(tzinfo=UTC)  # of all up to here
    for segment in segments:
        if segment.state == "lost":
            continue
        last = datetime.fromisoformat(max(segment.first_timestamp, segment.last_timestamp))
        latest = max(latest, last)
        if segment.state == "deleted":
            continue
        age_days = (now - last).days
        deleting = deleting and (now - latest).days >= delete_after
        if deleting:
            steps.append(RetentionStep("delete", segment, (now - latest).days))
        elif segment.state == "live" and age_days >= policy.archive_after_days:
            steps.append(RetentionStep("archive", segment, age_days))
    return steps


# -- archiving ----------------------------------------------------------------------------------------------------


class Stopped(AuditError):
    """Compressing was stopped, because the log is being closed; nothing was changed."""


def _never() -> bool:
    return False


def compress_segment(directory: Path, segment: SealedSegment, stopped: Callable[[], bool] = _never) -> Archive:
    """Make, or find, the compressed copy of a live sealed segment in `archive/`; the segment stays where it is.

    On return the copy was decompressed and has the SHA-256 of the manifest, and it is on stable storage with its
    name. This touches nothing else, so it may run in any thread beside the writer, one call a log at a time; the
    call for 100 MiB takes a second or two. `stopped` is asked between any two MiB.

    The happy path, in order: read the segment; write `archive/NAME.zst` under another name; fdatasync; read it back
    and decompress; fchmod 0400; rename; fsync of `archive/`, and of the log directory when `archive/` was made.

    Raises `LogCorrupted` where the segment is not what was sealed, `RetentionRefused` where it is not live,
    `Stopped`, `OSError`. What was begun is removed then, so a full disk gets its room back.
    """
    if segment.state != "live":
        raise RetentionRefused(f"{segment.segment} is {segment.state}; only a live segment can be compressed")
    name = segment.segment + COMPRESSED
    log_fd = disk.open_directory(str(directory))
    try:
        archive_fd = _open_subdirectory(ARCHIVE, dir_fd=log_fd, at=directory / ARCHIVE)
        try:
            disk.sync_directory(log_fd)
            if name not in os.listdir(archive_fd):
                _write_compressed(log_fd, archive_fd, segment, stopped)
            return _checked(archive_fd, name, segment, stopped)
        finally:
            disk.close(archive_fd)
    finally:
        disk.close(log_fd)


def _write_compressed(log_fd: int, archive_fd: int, segment: SealedSegment, stopped: Callable[[], bool]) -> None:
    name = segment.segment + COMPRESSED
    unfinished = name + UNFINISHED
    with suppress(FileNotFoundError):
        disk.unlink(unfinished, dir_fd=archive_fd)
    fd = disk.create_file(unfinished, dir_fd=archive_fd)
    try:
        try:
            _compress(log_fd, fd, segment, stopped)
            disk.sync_data(fd)
            disk.change_mode(fd, disk.SEALED_FILE)
        finally:
            disk.close(fd)
        _checked(archive_fd, unfinished, segment, stopped)
        disk.rename(unfinished, name, dir_fd=archive_fd)
    except BaseException:
        with suppress(OSError):
            disk.unlink(unfinished, dir_fd=archive_fd)
        raise


def _go_on_unless(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped("the log is being closed; retention goes on at its next run")


def _compress(log_fd: int, target: int, segment: SealedSegment, stopped: Callable[[], bool]) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
    digest = hashlib.sha256()
    at = 0
    with open(open_regular(segment.segment, dir_fd=log_fd), "rb") as file:
        while chunk := file.read(_CHUNK):
            _go_on_unless(stopped)
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
    size = 0
    with open(open_regular(name, dir_fd=archive_fd), "rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        while chunk := file.read(_CHUNK):
            compressed.update(chunk)
            size += len(chunk)
        file.seek(0)
        try:
            with zstd.ZstdFile(file, "rb") as stream:
                while chunk := stream.read(_CHUNK):
                    _go_on_unless(stopped)
                    content.update(chunk)
        except (zstd.ZstdError, EOFError) as error:
            raise LogCorrupted(f"{ARCHIVE}/{name}", None, segment.first_seq, "it can't be decompressed") from error
    if content.hexdigest() != segment.sha256:
        raise LogCorrupted(f"{ARCHIVE}/{name}", None, segment.first_seq, "it is not the segment that was sealed")
    disk.sync_directory(archive_fd)
    return Archive(segment.segment, f"{ARCHIVE}/{name}", segment.sha256, compressed.hexdigest(), size, identity)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes whenever somebody touches the file, its mode apart."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def archive_segment(directory: LogDirectory, manifest: Manifest, archive: Archive) -> None:
    """Take a live segment out of the log directory, now that its compressed copy stands for it.

    The chain has told of it, durably: that is the caller's duty. In order: the copy is the file that
    `compress_segment` has checked, untouched since; the manifest says `archived`, durably; only then is the live
    file removed. Does nothing for a segment that is archived already. The copy is not read again, so that the
    writer, whose thread this is, has to wait for a few system calls only.

    Raises `RetentionRefused` while a hold is in force or where the segment can't be archived, `LogCorrupted` where
    the copy is missing or was touched, `OSError`; until the manifest is written the segment is live.
    """
    segment = archive.segment
    entry = _entry(manifest, segment)
    if entry.state != "archived":
        _refuse_while_held(directory, segment)
        if entry.state != "live":
            raise RetentionRefused(f"{segment} is {entry.state}, so it can't be archived")
        try:
            status = os.stat(archive.file, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise LogCorrupted(archive.file, None, entry.first_seq, "somebody removed it just now") from error
        if _identity(status) != archive.identity:
            raise LogCorrupted(archive.file, None, entry.first_seq, "somebody changed it just now")
        entry = msgspec.structs.replace(entry, state="archived")
        manifest.write(directory, manifest.with_changed(entry))
    remove_leftovers(directory, [entry])


def delete_segment(directory: LogDirectory, manifest: Manifest, segment: str) -> None:
    """Delete a segment whose time is over, live or archived; the manifest keeps its entry and its hashes.

    The chain has told of it, durably, and the policy was asked (`plan_retention`): both are the caller's duty. In
    order: the manifest says `deleted`, durably; then the files are removed. Does nothing more for one that is
    deleted already. Raises `RetentionRefused` while a hold is in force, `OSError`.
    """
    entry = _entry(manifest, segment)
    if entry.state != "deleted":
        _refuse_while_held(directory, segment)
        entry = msgspec.structs.replace(entry, state="deleted")
        manifest.write(directory, manifest.with_changed(entry))
    remove_leftovers(directory, [entry])


def leftovers(directory: LogDirectory, names: set[str], segments: Iterable[SealedSegment]) -> list[SealedSegment]:
    """Return the segments of which files are left that their state says are gone: a crash came before the removal.

    Raises `LogCorrupted` where the archive that a segment's state promises is missing. `names` are those in the log
    directory.
    """
    archives: set[str] = set()
    if ARCHIVE in names:
        fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
        try:
            archives = set(os.listdir(fd))
        finally:
            disk.close(fd)
    left = []
    for entry in segments:
        archive = entry.segment + COMPRESSED
        if entry.state == "archived" and archive not in archives:
            raise LogCorrupted(f"{ARCHIVE}/{archive}", None, entry.first_seq, "the archived segment is missing")
        live = entry.segment in names or entry.segment + CHECKSUM in names
        if (entry.state in {"archived", "deleted"} and live) or (entry.state == "deleted" and archive in archives):
            left.append(entry)
    return left


def finish(directory: LogDirectory, left: Sequence[SealedSegment]) -> None:
    """Remove the `leftovers` of steps that a crash cut short; not while a hold is in force, or nobody can tell."""
    if not left:
        return
    try:
        held = read_hold(directory.path) is not None
    except (LogCorrupted, OSError):
        held = True
    if not held:
        remove_leftovers(directory, left)


def remove_leftovers(directory: LogDirectory, segments: Iterable[SealedSegment]) -> None:
    """Remove the files that these segments' states, `archived` or `deleted`, say are gone; durably."""
    for entry in segments:
        for name in (entry.segment, entry.segment + CHECKSUM):
            with suppress(FileNotFoundError):
                disk.unlink(name, dir_fd=directory.fd)
        if entry.state == "deleted":
            with suppress(FileNotFoundError):
                disk.unlink(INDEX_FILE, dir_fd=directory.fd)
            with suppress(FileNotFoundError):
                archive_fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
                try:
                    with suppress(FileNotFoundError):
                        disk.unlink(entry.segment + COMPRESSED, dir_fd=archive_fd)
                    disk.sync_directory(archive_fd)
                finally:
                    disk.close(archive_fd)
        directory.sync()


def _entry(manifest: Manifest, segment: str) -> SealedSegment:
    try:
        return manifest.find(segment)
    except KeyError:
        raise RetentionRefused(f"{segment} is no sealed segment of this log") from None


# -- a legal hold -------------------------------------------------------------------------------------------------


def set_hold(directory: LogDirectory, *, reason: str, set_by: str, now: datetime) -> Hold:
    """Put a hold in force, durably; one that is in force stays as it is, and is returned."""
    hold = read_hold(directory.path)
    if hold is None:
        since = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        hold = Hold(reason=reason, set_by=set_by, since=since)
        directory.replace(HOLD_FILE, msgspec.json.encode(hold) + b"\n")
    directory.sync()
    return hold


def place_hold(directory: Path, *, reason: str, set_by: str, now: datetime) -> Hold:
    """Put a hold in force for the log in `directory` without its lock, durably: a running writer heeds it at once.

    One that is in force stays as it is, and is returned. Nothing is recorded: that is the caller's duty. The file is
    written under a name of this process's own, synced, renamed, and the directory synced, so a reader sees the whole
    hold or none. Two that come at the same instant both succeed, and one of them is in force.
    """
    if (hold := read_hold(directory)) is not None:
        return hold
    since = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    hold = Hold(reason=reason, set_by=set_by, since=since)
    log_fd = disk.open_directory(str(directory))
    try:
        unfinished = f"{HOLD_FILE}.{os.getpid()}{UNFINISHED}"
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=log_fd)
        fd = disk.create_file(unfinished, dir_fd=log_fd)
        try:
            disk.write_at(fd, msgspec.json.encode(hold) + b"\n", 0)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, HOLD_FILE, dir_fd=log_fd)
        disk.sync_directory(log_fd)
    finally:
        disk.close(log_fd)
    return hold


def restore_hold(directory: LogDirectory, hold: Hold) -> None:
    """Put a hold back into a directory that was made anew, unless one is there; durable with the next `sync`."""
    if HOLD_FILE not in directory.names():
        directory.replace(HOLD_FILE, msgspec.json.encode(hold) + b"\n")


def lift_hold(directory: LogDirectory) -> None:
    """End the hold, durably; does nothing where there is none."""
    with suppress(FileNotFoundError):
        disk.unlink(HOLD_FILE, dir_fd=directory.fd)
    directory.sync()


def _refuse_while_held(directory: LogDirectory, segment: str) -> None:
    hold = read_hold(directory.path)
    if hold is not None:
        raise RetentionRefused(f"{segment} stays as it is: a legal hold is in force since {hold.since}; lift it first")


# -- reading ------------------------------------------------------------------------------------------------------
