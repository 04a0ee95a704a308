"""Making a log of a copy that was not taken as a backup: the manifest is made again by reading every record.

A copy that `cp`, `tar` or `rsync` has taken next to the writer may have a manifest that is newer than its segments.
That can't be told from truncation, so opening refuses it, and only this, which is asked for, drops the manifest. What
it makes is a valid trail of an earlier moment: the unbroken chain from the beginning. What comes after a gap is set
aside in `torn/`, never removed. The new manifest says that it was rebuilt, and so does `verify`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO, Final, NamedTuple

import msgspec

from audit_async._chain import START, Head
from audit_async._durable import disk
from audit_async._layout.archive_reading import DAMAGED_ARCHIVE, open_archive
from audit_async._layout.crash_traces import torn_by_crash
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._layout.names import ARCHIVE, CHECKSUM, COMPRESSED, ENCRYPTED, MANIFEST_FILE, UNFINISHED, SegmentName
from audit_async._layout.regular_files import open_regular
from audit_async._store.checked_segment import CheckedSegment, check_segment
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async._store.sealing import make_read_only, write_checksum
from audit_async._store.set_aside import set_file_aside
from audit_async._store.survey import segment_names
from audit_async.errors import LogCorrupted

_CHUNK_BYTES: Final = 1 << 20
_ENCRYPTED: Final = (
    "it is encrypted, so the manifest can't be made again from its records; take another copy, with `audit-async "
    "backup`, or decrypt each such archive in the copy first: age -d -i KEY NAME.zst.age > NAME.zst, and remove "
    "NAME.zst.age"
)
_NO_BEGINNING: Final = (
    "the copy does not have the beginning of the chain, nor a manifest that says what was deleted; take another copy, "
    "with `audit-async backup`"
)


class Rebuilt(NamedTuple):
    """What was made of a copy."""

    head: Head  #: the chain's head
    segments: int
    set_aside: tuple[str, ...]  #: what came after a gap, relative to the log directory


def rebuild(directory: LogDirectory, log_id: str) -> Rebuilt:
    """Make the manifest of a copy again by reading every record; on return it is durable.

    Entries of the copy's own manifest are believed only for segments of which no file is there: those that retention
    deleted, and only if they link up with what is read.

    Raises `LogCorrupted` for what neither a crash nor copying explains, with nothing changed, and `OSError`.
    """
    names = _segments_there(directory)
    old: Sequence[SealedSegment] = ()
    with suppress(LogCorrupted):
        old = read_manifest(directory.path)
    chain = _Chain(directory, names, old)
    chain.follow()
    if not chain.checked:
        raise LogCorrupted(MANIFEST_FILE, None, chain.head.seq + 1, _NO_BEGINNING)
    last = chain.checked[-1]
    if last.name in chain.archived:  # it is written on, so it has to be in the log directory itself
        _extract(directory, last)
    aside = tuple(_set_aside(directory, names[names.index(last.name) + 1 :]))
    recorded = frozenset().union(*(segment.sealings for segment in chain.checked))
    entries = [
        msgspec.structs.replace(entry, recorded=entry.segment in recorded)
        for entry in chain.entries
        if entry.segment != str(last.name)
    ]
    for entry in entries:
        if entry.state == "live":
            write_checksum(directory, entry)
            make_read_only(directory, entry.segment)
    with suppress(FileNotFoundError):
        disk.unlink(str(last.name) + CHECKSUM, dir_fd=directory.fd)
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    Manifest(log_id, rebuilt=now).write(directory, entries)
    return Rebuilt(chain.head, len(entries) + 1, aside)


class _Chain:
    """The unbroken chain in a copy, followed from its beginning."""

    def __init__(self, directory: LogDirectory, names: Sequence[SegmentName], old: Sequence[SealedSegment]) -> None:
        self._directory: Final = directory
        self._names: Final = names
        self._gone: Final = [entry for entry in old if SegmentName.parse(entry.segment) not in set(names)]
        self._damaged: Final = {entry.segment: entry for entry in old if entry.state == "damaged"}
        self.entries: list[SealedSegment] = []  #: of the new manifest, and one for the last segment
        self.checked: list[CheckedSegment] = []  #: the segments that were read, oldest first
        self.archived: set[SegmentName] = set()  #: those that were read in `archive/`
        self.head = START

    def follow(self) -> None:
        """Read segment by segment up to the first gap, or the end."""
        for name, following in zip(self._names, [*self._names[1:], None], strict=True):
            self._pass_what_is_gone(name)
            if name.first_seq != self.head.seq + 1:
                return
            segment = self._check(name, following.first_seq if following is not None else None)
            if str(name) in self._damaged:  # as it was found while it was written, and recorded
                self.entries.append(self._damaged[str(name)])
                self.head = self.entries[-1].head
                continue
            if segment is None or not segment.records:
                return
            entry = segment.as_sealed()
            state = "archived" if name in self.archived else "live"
            self.entries.append(msgspec.structs.replace(entry, state=state))
            self.checked.append(segment)
            self.head = segment.head
            if segment.stopped is not None:
                return

    def _pass_what_is_gone(self, name: SegmentName) -> None:
        """Take over the entries of deleted or lost segments, if only they are missing before `name`.

        At the beginning of the chain, since nothing else can join the rest to it, also those of segments that were
        removed while the copy was taken: they are `lost` to the copy.
        """
        bridge: list[SealedSegment] = []
        head = self.head
        for entry in self._gone:
            is_next = entry.first_seq == head.seq + 1 and entry.prev_hash.encode() == head.hash
            is_known_gone = entry.state in {"deleted", "lost"}
            if is_next and (is_known_gone or not self.checked) and entry.first_seq < name.first_seq:
                bridge.append(entry if is_known_gone else msgspec.structs.replace(entry, state="lost"))
                head = entry.head
        if bridge and head.seq + 1 == name.first_seq:
            self.entries += bridge
            self.head = head

    def _check(self, name: SegmentName, until_seq: int | None) -> CheckedSegment | None:
        """Read a segment, in `archive/` if what is in the log directory is missing or not whole."""
        segment: CheckedSegment | None = None
        with suppress(FileNotFoundError), open(open_regular(str(name), dir_fd=self._directory.fd), "rb") as file:
            segment = check_segment(file, name, self.head, until_seq)
            if segment.stopped is None:
                return segment
            is_gap = segment.size == segment.bytes or torn_by_crash(file, segment.bytes) is not None
        try:
            with open_archive(self._directory.path, str(name)) as archive:
                whole = check_segment(archive, name, self.head, until_seq, is_archive=True)
        except (FileNotFoundError, *DAMAGED_ARCHIVE):
            whole = None
        if whole is not None and whole.stopped is None:
            self.archived.add(name)
            return whole
        if segment is None or is_gap or str(name) in self._damaged:
            return segment
        raise LogCorrupted(
            str(name), segment.records + 1, segment.head.seq + 1, segment.stopped or "not the record due"
        )


def _segments_there(directory: LogDirectory) -> list[SegmentName]:
    """Return the segments of which a file is in the log directory or in `archive/`, oldest first.

    Raises `LogCorrupted` if some are encrypted: their records can't be read, and must not be taken for lost.
    """
    names = directory.names()
    if ARCHIVE in names:
        fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
        try:
            archives = os.listdir(fd)
        finally:
            disk.close(fd)
        if encrypted := sorted(name for name in archives if name.endswith(ENCRYPTED)):
            raise LogCorrupted(f"{ARCHIVE}/{encrypted[0]}", None, None, _ENCRYPTED)
        names |= {name.removesuffix(COMPRESSED) for name in archives if name.endswith(COMPRESSED)}
    return segment_names(names)


def _extract(directory: LogDirectory, segment: CheckedSegment) -> None:
    """Write an archived segment to the log directory, durably but for its name; the archive is set aside."""
    name = str(segment.name)
    with suppress(FileNotFoundError):
        disk.unlink(name + UNFINISHED, dir_fd=directory.fd)
    with open_archive(directory.path, name) as archive:
        _write(directory, name, archive, segment.bytes)
    archive_fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
    try:
        disk.unlink(name + COMPRESSED, dir_fd=archive_fd)
        disk.sync_directory(archive_fd)
    finally:
        disk.close(archive_fd)


def _write(directory: LogDirectory, name: str, source: BinaryIO, size: int) -> None:
    fd = directory.create(name + UNFINISHED)
    try:
        at = 0
        while at < size and (chunk := source.read(min(_CHUNK_BYTES, size - at))):
            disk.write_at(fd, chunk, at)
            at += len(chunk)
        disk.sync_data(fd)
    finally:
        disk.close(fd)
    disk.rename(name + UNFINISHED, name, dir_fd=directory.fd)
    directory.sync()


def _set_aside(directory: LogDirectory, names: Sequence[SegmentName]) -> list[str]:
    """Move the files of these segments to `torn/`; return their new paths."""
    there = directory.names()
    moved = [set_file_aside(directory, str(name)) for name in names if str(name) in there]
    for name in names:
        with suppress(FileNotFoundError):
            disk.unlink(str(name) + CHECKSUM, dir_fd=directory.fd)
        if ARCHIVE in there and (directory.path / ARCHIVE / (str(name) + COMPRESSED)).exists():
            moved.append(_set_archive_aside(directory, str(name) + COMPRESSED))
    return moved


def _set_archive_aside(directory: LogDirectory, name: str) -> str:
    archive_fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
    try:
        disk.rename(name, name, dir_fd=archive_fd, target_dir_fd=directory.fd)
        disk.sync_directory(archive_fd)
    finally:
        disk.close(archive_fd)
    return set_file_aside(directory, name)
