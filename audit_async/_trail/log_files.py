r"""Finding logs and their segments below a directory, and reading their lines; it judges nothing.

Everything here only reads, needs no lock, and works next to a running writer: the manifest is replaced as a whole, a
segment that is archived meanwhile is found in its archive, and the last line of the active segment may be half
written at this very instant. Memory stays bounded whatever the files hold.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from audit_async._chain import FORMAT_VERSION
from audit_async._layout import crash_traces, regular_files
from audit_async._layout.age_files import ArchiveEncrypted, Identities
from audit_async._layout.archive_reading import open_segment_for_reading
from audit_async._layout.collected_file import Collected, read_collected
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._layout.names import (
    COLLECTED_NAME,
    COLLECTOR_FILE,
    CONFIGURABLE_NAME,
    LOG_FILE,
    MANIFEST_FILE,
    SegmentName,
)
from audit_async._layout.regular_files import NO_DESCRIPTORS, read_bounded
from audit_async.errors import AuditError, LogCorrupted

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Bytes read at a time: what is made of them stays in the processor's cache.
CHUNK_BYTES: Final = 256 << 10
#: A line that is longer is no record: it is handed out in pieces, so that a file without line ends costs no memory.
LONGEST_LINE: Final = crash_traces.LONGEST_LINE

#: What reading a damaged archive raises besides `OSError`.
DAMAGED_ARCHIVE: Final = (zstd.ZstdError, EOFError)


class TrailUnreadable(AuditError):
    """There is no log at a path, or this process can't read it; the message names the path and what to do."""


class SegmentDeleted(FileNotFoundError):
    """Retention deleted the segment, or it was lost: the manifest has its hashes, not its records."""


@dataclass(frozen=True, slots=True)
class Log:
    """One log: one directory, one chain."""

    directory: Path
    service_id: str  #: of its path, `<service_id>/<instance>`; of log.json if the base directory is not known
    instance: str  #: the directory's name
    log_id: str  #: of log.json; empty if that file is missing or not what the library writes
    format_version: int | None = None  #: of log.json; None if that file does not say it
    #: At a collector: whose log it is. None for a host's own log.
    collected: Collected | None = None
    #: At a collector: what of tenant and host has to be said for the log's name to be its own alone.
    place: str = ""
    #: What its encrypted archives are opened with; None if nothing was given.
    identities: Identities | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What the log is called in reports and queries: `orders/00`, at a collector `web-1/orders/00.<log_id>`."""
        return f"{self.place}{self.service_id}/{self.instance}"

    def is_instance(self, instance: str) -> bool:
        """Return whether the log is of this slot of its service."""
        return instance in {self.instance, self.collected.instance if self.collected is not None else ""}


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One segment of a log, live or not."""

    log: Log
    name: str  #: file name in the log's directory
    first_seq: int
    date: str  #: UTC date of its first record, YYYY-MM-DD
    sealed: SealedSegment | None  #: the manifest's entry; None for a segment that has none, such as the active one

    @property
    def path(self) -> Path:
        """The path of its uncompressed file, which may be archived."""
        return self.log.directory / self.name

    @property
    def is_archived(self) -> bool:
        """True if the manifest says that it is in the archive."""
        return self.sealed is not None and self.sealed.state == "archived"

    @property
    def needs_identity(self) -> bool:
        """True if its records are in an encrypted archive, as far as was known when it was listed."""
        return self.sealed is not None and self.sealed.is_encrypted

    @property
    def is_readable(self) -> bool:
        """False for a segment of which the manifest says that it is deleted or lost: only its hashes are left."""
        return self.sealed is None or self.sealed.state not in {"deleted", "lost"}


class Lines(NamedTuple):
    r"""Consecutive whole lines of a file, each with its `\n`.

    At the end of a file `data` may be a line without one: torn, or being written now. A line longer than
    `LONGEST_LINE` comes in pieces without one, each but the first with `continues`.
    """

    offset: int  #: of the first byte, in the uncompressed file
    data: bytes
    continues: bool = False  #: `data` begins inside the line that the chunk before has cut
    is_cut: bool = False  #: `data` ends inside a line that is too long


def find_logs(
    base_dir: Path, *, service: str | None = None, instance: str | None = None, host: str | None = None
) -> list[Log]:
    """Return the logs at `base_dir`, sorted by name; only those of `service` and `instance` if these are given.

    Args:
        base_dir: A base directory, the directory of a service, or that of one log; or the root of a collector, the
            directory of a tenant in it, or that of a host. It may be a symbolic link; none below it is followed. A
            directory is a log's if log.json, manifest.json or a segment is in it, so that removing one of these hides
            no log.
        service: Leaves out the logs of other services.
        instance: Leaves out other instances.
        host: At a collector: leaves out the logs of other hosts.

    Raises:
        TrailUnreadable: There is no such log, or a directory can't be read.
    """
    base_dir = Path(os.path.abspath(base_dir))
    found = [
        log
        for log in _logs_at(base_dir, service)
        if (service is None or log.service_id == service)
        and (instance is None or log.is_instance(instance))
        and (host is None or (log.collected is not None and log.collected.host == host))
    ]
    if not found:
        wanted = "".join(
            f" of {what} {value!a}"
            for what, value in (("service", service), ("instance", instance), ("host", host))
            if value is not None
        )
        raise TrailUnreadable(
            f"{base_dir} holds no log{wanted}: give the base directory that the service was configured with, or a "
            "log's own directory, the one with log.json in it"
        )
    return sorted(found, key=lambda log: (log.place, log.service_id, log.instance))


def base_directory_of(directory: Path) -> Path:
    """Return the base directory that a base, a service's or a log's directory is of; itself if it has no log yet."""
    try:
        log = find_logs(directory)[0]
    except (AuditError, OSError):
        return directory
    return log.directory.parent.parent


def require_known_format(log: Log) -> None:
    """Raise `TrailUnreadable` for a log of another format version: what its records say is for another release."""
    if log.format_version not in {None, FORMAT_VERSION}:
        raise TrailUnreadable(f"{log.directory / LOG_FILE}: {other_format(log.format_version)}")


def other_format(version: int | None) -> str:
    """Say that a log is of another format version, and what to do."""
    return (
        f"the log has format version {version}, and this release of audit-async reads version {FORMAT_VERSION}; read "
        "and verify it with the release that fits"
    )


def list_segments(log: Log) -> list[SegmentFile]:
    """Return the segments of a log, oldest first: those of the manifest, then the files that it does not have.

    There can be several of the latter: after a failed fsync an old file's lines at or past the first seq of the next
    are void copies. What was sealed or archived while this runs appears once, as the one or the other.

    Raises `LogCorrupted` for a manifest that is damaged, `TrailUnreadable` if the directory can't be read.
    """
    while True:
        try:
            before = manifest_stamp(log)
            sealed = _read_manifest(log)
            names = os.listdir(log.directory)
            if manifest_stamp(log) == before:
                break
        except OSError as error:
            raise unreadable(log.directory, error) from error
    known = {entry.segment for entry in sealed}
    unsealed = sorted(parsed for name in names if name not in known and (parsed := SegmentName.parse(name)))
    return [
        *(SegmentFile(log, entry.segment, entry.first_seq, entry.first_timestamp[:10], entry) for entry in sealed),
        *(SegmentFile(log, str(name), name.first_seq, name.date, None) for name in unsealed),
    ]


def _read_manifest(log: Log) -> tuple[SealedSegment, ...]:
    try:
        return read_manifest(log.directory)
    except OSError as error:
        raise unreadable(log.directory / MANIFEST_FILE, error) from error
    except LogCorrupted as error:  # which names the file alone, and there is one in every log
        raise LogCorrupted(f"{log.name}/{error.segment}", error.line, error.seq, error.reason) from error


def open_segment(segment: SegmentFile) -> BinaryIO:
    """Open a segment's uncompressed content, wherever it is by now; the caller closes it.

    This is the one way to a segment's bytes for every reader. A segment that was sealed, archived or deleted since it
    was listed is looked up in the manifest again. While an archive is read, `DAMAGED_ARCHIVE` may be raised.

    Raises:
        SegmentDeleted: Retention deleted it, or it is lost.
        ArchiveEncrypted: It is encrypted, and the log's `identities` don't open it; an `OSError`.
        FileNotFoundError: It is missing.
        LogCorrupted: Something other than a regular file has its name.
        OSError: It can't be read.
    """
    entry = segment.sealed
    try:
        return _open_as_listed(segment, entry)
    except SegmentDeleted:
        raise
    except FileNotFoundError:
        now = {sealed.segment: sealed for sealed in read_manifest(segment.log.directory)}.get(segment.name)
        if now is None or now == entry:
            raise
    return _open_as_listed(segment, now)


def _open_as_listed(segment: SegmentFile, entry: SealedSegment | None) -> BinaryIO:
    """Open a segment in the place that the manifest's entry gives."""
    if entry is None:
        return open_regular(segment.path)
    if entry.state in {"deleted", "lost"}:
        raise SegmentDeleted(errno.ENOENT, f"the segment is {entry.state}", str(segment.path))
    if entry.state == "live":
        # Nearly always there; looking no further saves half of the 40 us.
        with suppress(FileNotFoundError):
            return open_regular(segment.path)
    return open_segment_for_reading(segment.log.directory, entry, segment.log.identities)


def read_lines(file: BinaryIO, *, offset: int = 0, chunk_bytes: int | None = None) -> Iterator[Lines]:
    """Read whole lines from the position of `file`, which is byte `offset` of it.

    They come in chunks of about `chunk_bytes` (None: `CHUNK_BYTES`).
    """
    chunk_bytes = chunk_bytes or CHUNK_BYTES
    carried: list[bytes] = []
    carried_bytes = 0
    continues = False
    while block := file.read(chunk_bytes):
        end = block.rfind(b"\n") + 1
        if end:
            data = b"".join((*carried, memoryview(block)[:end])) if carried else block[:end]
            carried = [block[end:]] if end < len(block) else []
            carried_bytes = len(block) - end
            # With thousands of logs that wait for each other, in small pieces, what is held twice adds up. Large pieces
            # are kept, since the allocator would give their memory back to the system for each of them.
            if chunk_bytes < CHUNK_BYTES:
                block = b""
            yield Lines(offset, data, continues)
            offset += len(data)
            continues = False
            continue
        carried.append(block)
        carried_bytes += len(block)
        if carried_bytes > LONGEST_LINE:
            yield Lines(offset, b"".join(carried), continues, is_cut=True)
            offset += carried_bytes
            continues = True
            carried, carried_bytes = [], 0
    if carried:
        yield Lines(offset, b"".join(carried), continues)


def read_identity(directory: Path) -> Identity:
    """Return what log.json says; of a later format the version alone, if the rest can't be understood.

    Raises `LogCorrupted` if it is damaged, `OSError` if it can't be read.
    """
    content = read_bounded(directory / LOG_FILE)
    try:
        return msgspec.json.decode(content, type=Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            version = msgspec.json.decode(content, type=_Versioned).format_version
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            version = FORMAT_VERSION
        if version > FORMAT_VERSION:
            return Identity(version, "", "", "")
        raise LogCorrupted(LOG_FILE, None, None, "the file is not what the library writes") from error


class _Versioned(msgspec.Struct):
    """The one member of log.json that every format version has."""

    format_version: int


def open_regular(path: Path) -> BufferedReader:
    """Open a file without ever waiting for a writer at its other end.

    Raises `LogCorrupted` if a symbolic link, a directory or a device is in its place, `OSError` if it can't be opened.
    """
    return open(regular_files.open_regular(path), "rb")


def _logs_at(base_dir: Path, service: str | None) -> Iterator[Log]:
    """Yield the logs in `base_dir`, or one or two levels below it.

    If only one service is asked for, directories that can't be its own need not be readable.
    """
    depth = _depth_at_collector(base_dir)
    if depth:
        for tenants_or_hosts in _directories_below(base_dir, depth - 2):
            yield from _collected_logs(tenants_or_hosts, base_dir)
        return
    directories = _directories_in(base_dir)
    if directories is None:
        yield _log(base_dir)
        return
    for child in directories:
        try:
            grandchildren = _directories_in(child)
        except TrailUnreadable:
            if service is None or service in {child.name, base_dir.name}:
                raise
            continue
        if grandchildren is None:
            yield _log(child)
            continue
        for grandchild in grandchildren:
            if _directories_in(grandchild) is None:
                yield _log(grandchild, service_id=child.name)


def _depth_at_collector(base_dir: Path) -> int:
    """Return how many levels below a directory the logs of a collector are: 4 for its root, 0 if it is of none."""
    for depth, path in zip((4, 3, 2), (base_dir, *base_dir.parents), strict=False):
        try:
            if (path / COLLECTOR_FILE).is_file():
                return depth
        except OSError as error:  # no right to look into it
            raise unreadable(path, error) from error
    return 0


def _directories_below(directory: Path, levels: int) -> Iterator[Path]:
    """Yield the directories so many levels below one, at a collector."""
    if not levels:
        yield directory
        return
    for child in _directories_in(directory, COLLECTED_NAME) or ():
        yield from _directories_below(child, levels - 1)


def _collected_logs(host: Path, base_dir: Path) -> Iterator[Log]:
    """Yield the logs of one host at a collector; what distinguishes them from others at `base_dir` is in the name."""
    place = "".join(f"{unquote(part)}/" for part in host.relative_to(base_dir).parts)
    for service in _directories_in(host, COLLECTED_NAME) or ():
        for directory in _directories_in(service, COLLECTED_NAME) or ():
            if _directories_in(directory, COLLECTED_NAME) is None:
                yield replace(_log(directory, service_id=unquote(service.name)), place=place)


def _directories_in(directory: Path, names: re.Pattern[str] = CONFIGURABLE_NAME) -> list[Path] | None:
    """Return the directories in one, links left out; None if it is itself the directory of a log."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except OSError as error:
        raise unreadable(directory, error) from error
    if any(entry.name in {LOG_FILE, MANIFEST_FILE} or SegmentName.parse(entry.name) for entry in found):
        return None
    # What can be no service and no instance, such as lost+found, need not be readable either.
    return [Path(entry.path) for entry in found if names.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]


def _log(directory: Path, *, service_id: str = "") -> Log:
    collected = None
    try:
        collected = read_collected(directory)
        identity = read_identity(directory)
    except (OSError, LogCorrupted) as error:
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTORS:
            raise unreadable(directory / LOG_FILE, error) from error
        return Log(directory, service_id or directory.parent.name, directory.name, "", collected=collected)
    return Log(
        directory,
        service_id or identity.service_id or directory.parent.name,
        directory.name if collected is None else f"{collected.instance}.{collected.log_id}",
        identity.log_id,
        identity.format_version,
        collected=collected,
    )


def manifest_stamp(log: Log) -> tuple[int, int, int] | None:
    """Return what changes when the manifest is replaced; None if there is none. Raises `OSError`."""
    try:
        status = os.stat(log.directory / MANIFEST_FILE, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def unreadable(path: Path, error: OSError) -> TrailUnreadable:
    """Return the error for a path that this process can't read."""
    if isinstance(error, NotADirectoryError):
        return TrailUnreadable(
            f"{path} is no directory: give the base directory that the service was configured with, or a log's own "
            "directory, the one with log.json in it"
        )
    return TrailUnreadable(f"{path} can't be read: {why_unreadable(error)}")


def why_unreadable(error: OSError) -> str:
    """Say why something can't be read, and what to do; lack of rights and lack of descriptors are different things."""
    reason = error.strerror or type(error).__name__
    if isinstance(error, ArchiveEncrypted):
        return reason
    if error.errno in NO_DESCRIPTORS:
        return f"{reason}; close files or raise the limit (ulimit -n): nothing was found out about the file"
    if isinstance(error, PermissionError):
        return f"{reason}; read the trail as the user who owns it, or as a member of the group that may read it"
    if isinstance(error, FileNotFoundError):
        return f"{reason}; check the path"
    return f"{reason}; look for what the system's log says about this disk"
