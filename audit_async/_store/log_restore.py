"""Making a log of a copy that was not taken as a backup: the manifest is made again by reading every record.

A copy that `cp`, `tar` or `rsync` has taken next to the writer may have a manifest that is newer than its segments.
That can't be distinguished from truncation, so opening refuses it, and only this, which is asked for, drops the
manifest. What it makes is a valid trail of an earlier moment: the unbroken chain from the beginning. What comes after
a gap is set aside in `torn/`, never removed. The new manifest says that it was rebuilt, and so does `verify`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO, Final, NamedTuple

import msgspec

from audit_async._chain import START, Head
from audit_async._durable import disk
from audit_async._layout.age_files import ArchiveEncrypted, Identities
from audit_async._layout.archive_reading import DAMAGED_ARCHIVE, open_archive
from audit_async._layout.crash_traces import torn_by_crash
from audit_async._layout.manifest import EncryptedArchive, SealedSegment, read_manifest
from audit_async._layout.names import (
    ARCHIVE,
    CHECKSUM,
    COMPRESSED,
    ENCRYPTED,
    MANIFEST_FILE,
    UNFINISHED,
    SegmentName,
    archived_segment,
)
from audit_async._layout.regular_files import open_regular
from audit_async._store.archiving import Times
from audit_async._store.checked_segment import CheckedSegment, check_segment
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async._store.sealing import make_read_only, write_checksum
from audit_async._store.set_aside import set_file_aside
from audit_async._store.survey import segment_names
from audit_async.errors import LogCorrupted

_CHUNK_BYTES: Final = 1 << 20
_ASK_FOR_KEY: Final = "give the identity that opens it (restore --from-copy --identity FILE), or take another copy"
_NO_ENTRY: Final = f"it is encrypted, and the copy's manifest has no entry that says what is in it; {_ASK_FOR_KEY}"
_OTHER_FILE: Final = (
    "it is encrypted, and it is not the file that the copy's manifest has: it was damaged or replaced, or the copy's "
    f"manifest is older; {_ASK_FOR_KEY}"
)
_UNLINKED: Final = f"it is encrypted, and its entry in the copy's manifest does not join the chain; {_ASK_FOR_KEY}"
_NEWEST: Final = f"it is the newest segment of the copy, which a log has to read and go on from; {_ASK_FOR_KEY}"
_NO_BEGINNING: Final = (
    "the copy does not have the beginning of the chain, nor a manifest that says what was deleted; take another copy, "
    "with `audit-async backup`"
)


class Rebuilt(NamedTuple):
    """What was made of a copy."""

    head: Head  #: the chain's head
    segments: int
    unread: int  #: of these, encrypted ones that no identity opens, as the copy's manifest has them
    set_aside: tuple[str, ...]  #: what came after a gap, relative to the log directory


def rebuild(directory: LogDirectory, log_id: str, identities: Identities | None = None) -> Rebuilt:
    """Make the manifest of a copy again by reading every record; on return it is durable.

    Entries of the copy's own manifest are believed only for segments of which no record can be read, and only if they
    link up with what is read: those that retention deleted, of which no file is there, and encrypted archives that
    `identities` don't open.

    Raises `LogCorrupted` for what neither a crash nor copying explains, with nothing changed, and `OSError`.
    """
    archives = _archives_there(directory)
    names = segment_names(directory.names() | archives.keys())
    old: Sequence[SealedSegment] = ()
    with suppress(LogCorrupted):
        old = read_manifest(directory.path)
    chain = _Chain(directory, names, archives, old, identities)
    chain.follow()
    if not chain.checked:
        raise LogCorrupted(MANIFEST_FILE, None, chain.head.seq + 1, _NO_BEGINNING)
    last = chain.checked[-1]
    if last.name in chain.archived:  # it is written on, so it has to be in the log directory itself
        _extract(directory, last, chain.archived[last.name], identities)
    aside = tuple(_set_aside(directory, names[names.index(last.name) + 1 :]))
    entries = chain.entries_before_last()
    for entry in entries:
        if entry.state == "live":
            write_checksum(directory, entry)
            make_read_only(directory, entry.segment)
    with suppress(FileNotFoundError):
        disk.unlink(str(last.name) + CHECKSUM, dir_fd=directory.fd)
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    Manifest(log_id, rebuilt=now).write(directory, entries)
    return Rebuilt(last.head, len(entries) + 1, len(chain.unread), aside)


class _Chain:
    """The unbroken chain in a copy, followed from its beginning."""

    def __init__(
        self,
        directory: LogDirectory,
        names: Sequence[SegmentName],
        archives: dict[str, list[str]],
        old: Sequence[SealedSegment],
        identities: Identities | None,
    ) -> None:
        self._directory: Final = directory
        self._names: Final = names
        self._archives: Final = archives
        self._identities: Final = identities
        self._old: Final = {entry.segment: entry for entry in old}
        self._gone: Final = [entry for entry in old if SegmentName.parse(entry.segment) not in set(names)]
        self.entries: list[SealedSegment] = []  #: of the new manifest, and one for the last segment
        self.checked: list[CheckedSegment] = []  #: the segments that were read, oldest first
        self.archived: dict[SegmentName, str] = {}  #: those that were read in `archive/`, and the file there
        self.unread: list[SealedSegment] = []  #: encrypted ones that no identity opens
        self._closed: Final[set[SegmentName]] = set()
        self.head = START

    def follow(self) -> None:
        """Read segment by segment up to the first gap, or the end."""
        for name, following in zip(self._names, [*self._names[1:], None], strict=True):
            self._pass_what_is_gone(name)
            if name.first_seq != self.head.seq + 1:
                break
            segment = self._check(name, following.first_seq if following is not None else None)
            known = self._old.get(str(name))
            if known is not None and known.state == "damaged":  # as it was found while it was written, and recorded
                self._add(known)
                continue
            if name in self._closed and (segment is None or segment.stopped is not None):
                self._believe(name)
                continue
            if segment is None or not segment.records:
                break
            self._add(self._entry_of(segment))
            self.checked.append(segment)
            if segment.stopped is not None:
                break
        if self.unread and self.entries[-1] is self.unread[-1]:
            raise LogCorrupted(f"{ARCHIVE}/{self.unread[-1].archive_file}", None, self.unread[-1].first_seq, _NEWEST)

    def entries_before_last(self) -> list[SealedSegment]:
        """Return the entries of the new manifest: without the last segment that was read, and what is after it."""
        found = frozenset[str]().union(*(segment.sealings for segment in self.checked))
        last_seq = self.checked[-1].name.first_seq
        last_unread = self.unread[-1].first_seq if self.unread else -1
        entries = []
        for entry in self.entries:
            if entry.first_seq < last_seq:
                old = self._old.get(entry.segment)
                # The record of its seal may be among those that were not read, which are later ones.
                may_be_unread = old is not None and old.recorded and entry.first_seq < last_unread
                recorded = entry.segment in found or may_be_unread
                entries.append(msgspec.structs.replace(entry, recorded=recorded))
        return entries

    def _add(self, entry: SealedSegment) -> None:
        self.entries.append(entry)
        self.head = entry.head

    def _pass_what_is_gone(self, name: SegmentName) -> None:
        """Take over the entries of deleted or lost segments, if only they are missing before `name`.

        At the beginning of the chain, since nothing else can join the rest to it, also those of segments that were
        removed while the copy was taken: they are `lost` to the copy.
        """
        bridge: list[SealedSegment] = []
        head, is_beginning = self.head, not self.checked and not self.unread
        for entry in self._gone:
            is_next = entry.first_seq == head.seq + 1 and entry.prev_hash.encode() == head.hash
            is_known_gone = entry.state in {"deleted", "lost"}
            if is_next and (is_known_gone or is_beginning) and entry.first_seq < name.first_seq:
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
        for archive_file in self._archives.get(str(name), ()):
            try:
                with open_archive(self._directory.path, archive_file, identities=self._identities) as archive:
                    whole = check_segment(archive, name, self.head, until_seq, is_archive=True)
            except ArchiveEncrypted:
                self._closed.add(name)
                continue
            except (FileNotFoundError, *DAMAGED_ARCHIVE):
                continue
            if whole.stopped is None:
                self.archived[name] = archive_file
                return whole
        known = self._old.get(str(name))
        if segment is None or is_gap or (known is not None and known.state == "damaged"):
            return segment
        raise LogCorrupted(
            str(name), segment.records + 1, segment.head.seq + 1, segment.stopped or "not the record due"
        )

    def _entry_of(self, segment: CheckedSegment) -> SealedSegment:
        """Return the manifest's entry for a segment that was read."""
        entry, archive_file = segment.as_sealed(), self.archived.get(segment.name)
        if archive_file is None:
            return entry
        if not archive_file.endswith(ENCRYPTED):
            return msgspec.structs.replace(entry, state="archived")
        times = Times()
        with open_archive(self._directory.path, archive_file, identities=self._identities) as file:
            for _ in times.watch(iter(lambda: file.read(_CHUNK_BYTES), b"")):
                pass
        sha256, size = self._digest(archive_file)
        encrypted = EncryptedArchive(sha256=sha256, bytes=size, earliest=times.earliest, latest=times.latest)
        return msgspec.structs.replace(entry, state="archived", encrypted=encrypted)

    def _believe(self, name: SegmentName) -> None:
        """Take over the entry of an encrypted archive that no identity opens; raises `LogCorrupted` if it can't be."""
        archive_file = str(name) + ENCRYPTED
        at = f"{ARCHIVE}/{archive_file}"
        entry = self._old.get(str(name))
        if entry is None or entry.encrypted is msgspec.UNSET:
            raise LogCorrupted(at, None, name.first_seq, _NO_ENTRY)
        if (entry.encrypted.sha256, entry.encrypted.bytes) != self._digest(archive_file):
            raise LogCorrupted(at, None, name.first_seq, _OTHER_FILE)
        if entry.prev_hash.encode() != self.head.hash:
            raise LogCorrupted(at, None, name.first_seq, _UNLINKED)
        self.unread.append(entry)
        self._add(entry)

    def _digest(self, archive_file: str) -> tuple[str, int]:
        """Return SHA-256 and size of a file in `archive/`."""
        with open(open_regular(self._directory.path / ARCHIVE / archive_file), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


def _archives_there(directory: LogDirectory) -> dict[str, list[str]]:
    """Return the files in `archive/` by their segments; of one segment what is encrypted comes first."""
    if ARCHIVE not in directory.names():
        return {}
    fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
    try:
        files = os.listdir(fd)
    finally:
        disk.close(fd)
    archives: dict[str, list[str]] = {}
    for file in sorted(files, reverse=True):
        segment = archived_segment(file)
        if segment is not None and SegmentName.parse(segment) is not None:
            archives.setdefault(segment, []).append(file)
    return archives


def _extract(
    directory: LogDirectory, segment: CheckedSegment, archive_file: str, identities: Identities | None
) -> None:
    """Write an archived segment to the log directory, durably, and remove the archive."""
    name = str(segment.name)
    with suppress(FileNotFoundError):
        disk.unlink(name + UNFINISHED, dir_fd=directory.fd)
    with open_archive(directory.path, archive_file, identities=identities) as archive:
        _write(directory, name, archive, segment.bytes)
    archive_fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
    try:
        disk.unlink(archive_file, dir_fd=archive_fd)
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
        archives = [str(name) + ending for ending in (COMPRESSED, ENCRYPTED)] if ARCHIVE in there else []
        moved += [
            _set_archive_aside(directory, file) for file in archives if (directory.path / ARCHIVE / file).exists()
        ]
    return moved


def _set_archive_aside(directory: LogDirectory, name: str) -> str:
    archive_fd = disk.open_directory(ARCHIVE, dir_fd=directory.fd)
    try:
        disk.rename(name, name, dir_fd=archive_fd, target_dir_fd=directory.fd)
        disk.sync_directory(archive_fd)
    finally:
        disk.close(archive_fd)
    return set_file_aside(directory, name)
