"""Removing what retention has decided to remove, and what a crash has left of it.

What is gone stays provable: the manifest keeps the entry with the hashes at the segment's boundaries.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from audit_async._durable import disk
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, CHECKSUM, COMPRESSED, ENCRYPTED, INDEX, INDEX_ENDING, OLD_INDEX_FILE
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import OR_A_COPY, Manifest
from audit_async.errors import LogCorrupted


def delete_segments(directory: LogDirectory, manifest: Manifest, segments: Iterable[str]) -> None:
    """Delete segments whose time is over, live or archived; the manifest keeps their entries and hashes.

    The chain says so, durably, no hold is in force, and the policy was asked (`plan_retention`): these are the
    caller's duties. In order: the manifest says `deleted`, durably; then the files are removed. Does nothing more for
    those that are deleted already. Raises `RetentionRefused` if one is not sealed, and then deletes none; `OSError`.
    """
    entries = [manifest.find_sealed(segment) for segment in segments]
    gone = [msgspec.structs.replace(entry, state="deleted") for entry in entries]
    if gone != entries:
        manifest.write(directory, manifest.with_changed(gone))
    remove_leftovers(directory, gone)


def leftovers(directory: LogDirectory, names: set[str], segments: Iterable[SealedSegment]) -> list[SealedSegment]:
    """Return the segments of which files are left that their state says are gone: a crash came before the removal.

    Raises `LogCorrupted` if the archive that a segment's state promises is missing. `names` are those in the log
    directory.
    """
    archives = _names_in(directory, ARCHIVE) if ARCHIVE in names else set()
    indexes = _names_in(directory, INDEX) if INDEX in names else set()
    left = []
    for entry in segments:
        if entry.state == "archived" and entry.archive_file not in archives:
            reason = f"the archived segment is missing{OR_A_COPY}"
            raise LogCorrupted(f"{ARCHIVE}/{entry.archive_file}", None, entry.first_seq, reason)
        if entry.state not in {"archived", "deleted"}:
            continue
        is_live = entry.segment in names or entry.segment + CHECKSUM in names
        is_indexed = entry.is_encrypted and entry.segment + INDEX_ENDING in indexes
        if is_live or is_indexed or not archives.isdisjoint(archives_that_are_gone(entry)):
            left.append(entry)
    return left


def _names_in(directory: LogDirectory, name: str) -> set[str]:
    fd = disk.open_directory(name, dir_fd=directory.fd)
    try:
        return set(os.listdir(fd))
    finally:
        disk.close(fd)


def archives_that_are_gone(entry: SealedSegment) -> set[str]:
    """Return the names in `archive/` that nothing of an archived or deleted segment has any more."""
    both = {entry.segment + COMPRESSED, entry.segment + ENCRYPTED}
    return both if entry.state == "deleted" else both - {entry.archive_file}


def remove_leftovers(directory: LogDirectory, segments: Collection[SealedSegment]) -> None:
    """Remove the files that these segments' states, `archived` or `deleted`, say are gone; durably.

    What is encrypted loses its index, too: that holds no name, but whoever has it can try whether a name is in it.
    """
    deleted = [entry for entry in segments if entry.state == "deleted"]
    # The indexes first: as long as a segment or its archive is there, `leftovers` finds what a crash has left of it.
    for entry in segments:
        if entry.state == "deleted" or entry.is_encrypted:
            with suppress(FileNotFoundError):
                disk.unlink(f"{INDEX}/{entry.segment}{INDEX_ENDING}", dir_fd=directory.fd)
    if deleted:
        with suppress(FileNotFoundError):
            disk.unlink(OLD_INDEX_FILE, dir_fd=directory.fd)
    for entry in segments:
        for name in (entry.segment + CHECKSUM, entry.segment):
            with suppress(FileNotFoundError):
                disk.unlink(name, dir_fd=directory.fd)
    if segments:
        with suppress(FileNotFoundError):
            _remove_archives(directory, segments)
        directory.sync()


def _remove_archives(directory: LogDirectory, segments: Iterable[SealedSegment]) -> None:
    archive_fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
    try:
        is_changed = False
        for name in sorted(set[str]().union(*map(archives_that_are_gone, segments))):
            with suppress(FileNotFoundError):
                disk.unlink(name, dir_fd=archive_fd)
                is_changed = True
        if is_changed:
            disk.sync_directory(archive_fd)
    finally:
        disk.close(archive_fd)
