"""Sealing: a segment that gets no more records is given its checksum, its place in the manifest, and mode 0400."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from audit_async._durable import disk
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import CHECKSUM
from audit_async._layout.regular_files import open_regular
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async.errors import LogCorrupted


def seal(
    directory: LogDirectory, manifest: Manifest, finished: Iterable[SealedSegment], *, recorded: frozenset[str]
) -> tuple[SealedSegment, ...]:
    """Seal segments that are finished; on return all of it is durable.

    What must be so before, and is the caller's duty: the segments' bytes and names are on stable storage, and so is
    the first record of the segment that follows the last of them. Hence a sealed segment without a successor is no
    crash but a removed file.

    The happy path, in order:

    1. for each: open, fchmod 0400                                             protects from our own mistakes only
    2. for each: `NAME.sha256` written under another name, fdatasync, rename   a checksum file is whole or absent
    3. manifest.json written under another name, fdatasync, rename             the step that counts
    4. fsync of the directory                                                  all of these names are durable

    A crash before 3 leaves segments that the next opening finds outside the manifest: it reads them, checks them and
    seals them again. A crash after 3 may leave any of 1 and 2 undone (a file system may persist modes and names in
    any order); the next opening adds them from the manifest. On `OSError` nothing counts as sealed, and calling
    again does all of it again, so nothing depends on a directory block that a failed fsync has dropped.

    Args:
        directory: The log's directory.
        manifest: Its manifest, which is replaced.
        finished: The segments, oldest first.
        recorded: Segments sealed earlier whose `audit.segment_sealed` is durable in the chain.

    Returns:
        What was sealed: a segment that somebody has removed, or replaced by a link, before it could be sealed is
        marked `lost`.
    """
    sealed = []
    for segment in finished:
        try:
            make_read_only(directory, segment.segment)
            write_checksum(directory, segment)
        except (FileNotFoundError, LogCorrupted):
            sealed.append(msgspec.structs.replace(segment, state="lost"))
        else:
            sealed.append(segment)
    known = [
        msgspec.structs.replace(entry, recorded=True) if entry.segment in recorded else entry
        for entry in (*manifest.segments, *sealed)
    ]
    manifest.write(directory, known)
    return tuple(sealed)


def write_checksum(directory: LogDirectory, segment: SealedSegment) -> None:
    """Write the file that `sha256sum -c` reads; durable with the directory's next sync."""
    content = f"{segment.sha256}  {segment.segment}\n".encode()
    directory.replace(segment.segment + CHECKSUM, content, sealed=True)


def make_read_only(directory: LogDirectory, name: str) -> None:
    """Give a sealed segment its mode, 0400 unless the configuration lets others read."""
    fd = open_regular(name, dir_fd=directory.fd)
    try:
        disk.change_mode(fd, directory.access.sealed_mode)
    finally:
        disk.close(fd)
