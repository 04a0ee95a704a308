"""Copying a log while it is written, so that the copy is a valid trail of that moment.

Copying in any other order is not safe: a manifest that is newer than a copied segment says that the segment was longer,
which is what truncation looks like; the two can't be distinguished. Hence the order:

1. the small files of the signed tree into memory   a checkpoint needs only records that are copied after it
2. `backup.lock`, shared                             retention waits, so nothing vanishes
3. manifest.json into memory                         everything that it states is complete
4. the segments, oldest first                        whole, but for the last one, of which whole lines are taken
5. `archive/` last, as far as the manifest has it
6. the manifest, then what it says is gone            at every moment the copy is a valid trail of an earlier moment
7. the copy is judged as an opening would judge it    a copy that would be refused is taken again

Each file is written under another name, synced and renamed; a sealed segment has the SHA-256 of the manifest. What an
earlier backup has copied is not copied again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, Final, NamedTuple

from msgspec import UNSET

from audit_async._durable import disk
from audit_async._layout.archive_reading import DAMAGED_ARCHIVE, open_segment_for_reading
from audit_async._layout.hold_file import read_hold
from audit_async._layout.manifest import ManifestFile, SealedSegment, decode_manifest_file, read_manifest_file
from audit_async._layout.names import (
    ARCHIVE,
    CHECKSUM,
    COLLECTED_FILE,
    HOLD_FILE,
    LOG_FILE,
    MANIFEST_FILE,
    TORN,
    UNFINISHED,
)
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, NO_DESCRIPTORS, open_regular, read_bounded
from audit_async._store.backup_lock import holding_back_retention
from audit_async._store.log_directory import LogDirectory
from audit_async._store.removal import archives_that_are_gone, remove_leftovers
from audit_async._store.sealing import write_checksum
from audit_async._store.survey import segment_names, survey
from audit_async.errors import AuditError, LogCorrupted

_CHUNK_BYTES: Final = 1 << 20
_MOST_TRIES: Final = 5
#: The directory of the signed tree, as far as it is in the log's own directory, and the largest file at its top.
_TREE: Final = "tlog"
_MOST_TREE_BYTES: Final = 1 << 24


class Copied(NamedTuple):
    """What was copied of one log."""

    files: int
    bytes: int
    kept: int  #: files that an earlier backup had copied
    damaged: tuple[str, ...]  #: files that are not what the manifest says, in the source; copied as they are


class LogChanging(AuditError):
    """A file was removed while the log was being copied, several times in a row."""


class LogCopier:
    """Copies one log directory to another. Used by one thread."""

    def __init__(self, source: Path, target: LogDirectory) -> None:
        """Copy from `source` to `target`, which is open and locked."""
        self.source: Final = source
        self.target: Final = target
        self._files = self._bytes = self._kept = 0
        self._damaged: list[str] = []

    def copy(self) -> Copied:
        """Take the copy; returns once all of it is durable.

        Raises `LogCorrupted` if the source is damaged so that no copy of it would open, `RetentionTakesLong`, and
        `OSError`.
        """
        source_fd = disk.open_directory(str(self.source))
        try:
            for number in range(_MOST_TRIES):
                self._damaged.clear()
                tree = dict(self._tree_files())
                try:
                    with holding_back_retention(self.source, source_fd):
                        self._copy_log(source_fd, tree)
                    survey(self.target, self._log_id())
                except (LogChanging, LogCorrupted):
                    if number == _MOST_TRIES - 1:
                        raise
                else:
                    break
        finally:
            disk.close(source_fd)
        return Copied(self._files, self._bytes, self._kept, tuple(self._damaged))

    def copy_all(self) -> Copied:
        """Copy every file as it is, for a copy that was not taken as a backup; `log_restore.rebuild` comes next."""
        source_fd = disk.open_directory(str(self.source))
        try:
            names = set(os.listdir(source_fd))
            for name in (COLLECTED_FILE, LOG_FILE, HOLD_FILE):
                if name in names:
                    self._replace(name, read_bounded(name, dir_fd=source_fd))
            if MANIFEST_FILE in names:
                content = read_bounded(MANIFEST_FILE, dir_fd=source_fd, max_bytes=MOST_MANIFEST_BYTES)
                self._replace(MANIFEST_FILE, content)
            for segment in segment_names(names):
                self._copy_file(source_fd, str(segment), self.target.fd)
            for name in (ARCHIVE, TORN):
                if name in names:
                    self._copy_subdirectory(source_fd, name)
            self.target.sync()
            self._copy_tree(dict(self._tree_files()))
        finally:
            disk.close(source_fd)
        return Copied(self._files, self._bytes, self._kept, ())

    def _log_id(self) -> str:
        return self.target.identify(may_create=False).log_id

    def _copy_log(self, source_fd: int, tree: dict[str, bytes]) -> None:
        manifest: ManifestFile | None = None
        with suppress(FileNotFoundError):
            content = read_bounded(MANIFEST_FILE, dir_fd=source_fd, max_bytes=MOST_MANIFEST_BYTES)
            manifest = decode_manifest_file(content, None)
        names = set(os.listdir(source_fd))
        if COLLECTED_FILE in names and not (self.target.path / COLLECTED_FILE).exists():
            self._replace(COLLECTED_FILE, read_bounded(COLLECTED_FILE, dir_fd=source_fd))
        if not (self.target.path / LOG_FILE).exists():
            self._replace(LOG_FILE, read_bounded(LOG_FILE, dir_fd=source_fd))
        if HOLD_FILE in names:
            with suppress(FileNotFoundError):
                self._replace(HOLD_FILE, read_bounded(HOLD_FILE, dir_fd=source_fd))
        entries = manifest.segments if manifest is not None else ()
        self._copy_sealed(source_fd, entries)
        known = {entry.segment for entry in entries}
        unsealed = [name for name in segment_names(names) if str(name) not in known]
        for name in unsealed:
            self._copy_file(source_fd, str(name), self.target.fd, whole_lines=name == unsealed[-1])
        self.target.sync()
        self._copy_archives(source_fd, entries, names)
        if TORN in names:
            self._copy_subdirectory(source_fd, TORN)
        if manifest is not None:
            self._replace(MANIFEST_FILE, content)
            self.target.sync()
        self._copy_tree(tree)
        self._remove_what_is_gone(entries)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _copy_sealed(self, source_fd: int, entries: tuple[SealedSegment, ...]) -> None:
        """Copy the sealed segments that an earlier backup has not copied."""
        earlier = self._sealed_in_target()
        for entry in entries:
            if entry.state not in {"live", "damaged"}:
                continue
            if earlier.get(entry.segment) == entry.sha256 and self._has(entry.segment, entry.bytes):
                self._kept += 1
            else:
                sha256 = self._copy_file(source_fd, entry.segment, self.target.fd, sealed=True, max_bytes=entry.bytes)
                if entry.state == "live" and sha256 != entry.sha256:
                    self._damaged.append(entry.segment)
            if entry.state == "live" and not (self.target.path / (entry.segment + CHECKSUM)).exists():
                write_checksum(self.target, entry)

    def _sealed_in_target(self) -> dict[str, str]:
        with suppress(LogCorrupted):
            if (manifest := read_manifest_file(self.target.path)) is not None:
                return {entry.segment: entry.sha256 for entry in manifest.segments}
        return {}

    def _copy_archives(self, source_fd: int, entries: tuple[SealedSegment, ...], names: set[str]) -> None:
        wanted = [entry for entry in entries if entry.state == "archived"]
        if not wanted or ARCHIVE not in names:
            return
        target_fd = self.target.open_subdirectory(ARCHIVE)
        archive_fd = disk.open_directory(ARCHIVE, dir_fd=source_fd)
        try:
            there = set(os.listdir(target_fd))
            for entry in wanted:
                name = entry.archive_file
                size = _size_of(name, archive_fd)
                if name in there and _size_of(name, target_fd) == size and _is_same(self.target.path, entry):
                    self._kept += 1
                    continue
                self._copy_file(archive_fd, name, target_fd, sealed=True)
                if not _is_whole(self.target.path, entry):
                    self._damaged.append(f"{ARCHIVE}/{name}")
            disk.sync_directory(target_fd)
        finally:
            disk.close(archive_fd)
            disk.close(target_fd)

    def _copy_subdirectory(self, source_fd: int, name: str) -> None:
        """Copy the files of a directory that no earlier backup has copied; nothing in it ever changes."""
        target_fd = self.target.open_subdirectory(name)
        from_fd = disk.open_directory(name, dir_fd=source_fd)
        try:
            there = set(os.listdir(target_fd))
            for file in sorted(os.listdir(from_fd)):
                if file.endswith(UNFINISHED) or file in there:
                    continue
                if S_ISREG(os.stat(file, dir_fd=from_fd, follow_symlinks=False).st_mode):
                    self._copy_file(from_fd, file, target_fd)
            disk.sync_directory(target_fd)
        finally:
            disk.close(from_fd)
            disk.close(target_fd)

    def _remove_what_is_gone(self, entries: tuple[SealedSegment, ...]) -> None:
        """Remove from the copy what retention has removed from the log, unless a hold is in force."""
        if _may_be_held(self.target.path):
            return
        there = self.target.names()
        gone = [entry for entry in entries if entry.state in {"archived", "deleted"}]
        archives = set(os.listdir(self.target.path / ARCHIVE)) if ARCHIVE in there else set()
        remove_leftovers(
            self.target,
            [
                entry
                for entry in gone
                if entry.segment in there
                or entry.segment + CHECKSUM in there
                or not archives.isdisjoint(archives_that_are_gone(entry))
            ],
        )

    # -- the signed tree ---------------------------------------------------------------------------------------------

    def _tree_files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the files at the top of the tree's directory: they name how far it is signed, so they come first."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in sorted(os.scandir(self.source / _TREE), key=lambda entry: entry.name):
                if entry.is_file(follow_symlinks=False) and not entry.name.endswith(UNFINISHED):
                    with suppress(FileNotFoundError):
                        yield entry.name, read_bounded(entry.path, max_bytes=_MOST_TREE_BYTES)

    def _copy_tree(self, top: dict[str, bytes]) -> None:
        """Copy the tiles, then, once they are durable, the files that need them."""
        if not top:
            return
        disk.close(self.target.open_subdirectory(_TREE))
        for _ in range(_MOST_TRIES):
            if self._copy_tiles(self.source / _TREE, self.target.path / _TREE):
                break
        else:
            raise LogChanging(f"{self.source / _TREE} changes faster than it can be copied; try again later")
        target_fd = disk.open_directory(_TREE, dir_fd=self.target.fd)
        try:
            for name, content in top.items():
                self._write(target_fd, name, content)
            disk.sync_directory(target_fd)
        finally:
            disk.close(target_fd)

    def _copy_tiles(self, source: Path, target: Path) -> bool:
        """Copy what an earlier backup has not; False if something vanished, as partial tiles do once one is full.

        The full tile may then have been made after the listing, so the copy has to be looked through again.
        """
        try:
            entries = sorted(os.scandir(source), key=lambda entry: entry.name)
        except FileNotFoundError:
            return False
        is_whole = True
        for entry in entries:
            to = target / entry.name
            try:
                status = entry.stat(follow_symlinks=False)
                if S_ISDIR(status.st_mode):
                    with suppress(FileExistsError):
                        disk.make_directory(str(to))
                    is_whole &= self._copy_tiles(source / entry.name, to)
                elif source.name != _TREE and S_ISREG(status.st_mode) and not entry.name.endswith(UNFINISHED):
                    self._copy_tile(source, target, entry.name, status.st_size)
            except FileNotFoundError:
                is_whole = False
        fd = disk.open_directory(str(target))
        try:
            self.target.access.apply_to_directory(fd)
            disk.sync_directory(fd)
        finally:
            disk.close(fd)
        return is_whole

    def _copy_tile(self, source: Path, target: Path, name: str, size: int) -> None:
        """Copy a tile, unless it is there: a tile of one name and size never changes. Raises `FileNotFoundError`."""
        target_fd = disk.open_directory(str(target))
        try:
            if _size_of(name, target_fd) != size:
                self._write(target_fd, name, read_bounded(source / name, max_bytes=_MOST_TREE_BYTES))
            else:
                self._kept += 1
        finally:
            disk.close(target_fd)

    # -- files -------------------------------------------------------------------------------------------------------

    def _has(self, name: str, size: int) -> bool:
        return _size_of(name, self.target.fd) == size

    def _replace(self, name: str, content: bytes) -> None:
        self.target.replace(name, content)
        self._files += 1
        self._bytes += len(content)

    def _write(self, directory_fd: int, name: str, content: bytes) -> None:
        unfinished = name + UNFINISHED
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=directory_fd)
        fd = disk.create_file(unfinished, dir_fd=directory_fd)
        try:
            disk.write_at(fd, content, 0)
            self.target.access.apply_to_file(fd)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, name, dir_fd=directory_fd)
        self._files += 1
        self._bytes += len(content)

    def _copy_file(
        self,
        source_fd: int,
        name: str,
        target_fd: int,
        *,
        sealed: bool = False,
        whole_lines: bool = False,
        max_bytes: int | None = None,
    ) -> str:
        """Copy a file, durably but for its name; return its SHA-256 in hex. Raises `LogChanging`, `OSError`.

        `max_bytes` leaves out void copies after a sealed segment's records, `whole_lines` a line that is being written.
        """
        try:
            fd = open_regular(name, dir_fd=source_fd)
        except FileNotFoundError as error:
            path = self.source / name
            raise LogChanging(
                f"{path} was removed while it was copied; see what changes the log, and try again"
            ) from error
        with open(fd, "rb") as source:
            size = _whole_lines(source) if whole_lines else os.fstat(fd).st_size
            size = size if max_bytes is None else min(size, max_bytes)
            unfinished = name + UNFINISHED
            with suppress(FileNotFoundError):
                disk.unlink(unfinished, dir_fd=target_fd)
            fd = disk.create_file(unfinished, dir_fd=target_fd)
            try:
                digest, copied = hashlib.sha256(), 0
                while chunk := source.read(min(_CHUNK_BYTES, size - copied)):
                    disk.write_at(fd, chunk, copied)
                    digest.update(chunk)
                    copied += len(chunk)
                self.target.access.apply_to_file(fd, sealed=sealed)
                disk.sync_data(fd)
            finally:
                disk.close(fd)
            disk.rename(unfinished, name, dir_fd=target_fd)
        self._files += 1
        self._bytes += copied
        return digest.hexdigest()


def _whole_lines(file: BinaryIO) -> int:
    """Return how many bytes of a file are whole lines, and seek to its beginning."""
    end = file.seek(0, os.SEEK_END)
    at = end
    while at > 0:
        begin = max(0, at - _CHUNK_BYTES)
        file.seek(begin)
        found = file.read(at - begin).rfind(b"\n")
        if found >= 0:
            file.seek(0)
            return begin + found + 1
        at = begin
    file.seek(0)
    return 0


def _size_of(name: str, dir_fd: int) -> int | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def _is_same(directory: Path, entry: SealedSegment) -> bool:
    """Return whether a copied archive is the one of the manifest; only those that are encrypted are made again."""
    return not entry.is_encrypted or _is_whole(directory, entry)


def _is_whole(directory: Path, entry: SealedSegment) -> bool:
    """Return whether an archive holds what the manifest says; of one that is encrypted, whether it is that file.

    Raises `OSError` if there is no descriptor left.
    """
    digest = hashlib.sha256()
    try:
        if entry.encrypted is not UNSET:
            with open(open_regular(directory / ARCHIVE / entry.archive_file), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == entry.encrypted.sha256
        with open_segment_for_reading(directory, entry) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise
        return False
    except (LogCorrupted, *DAMAGED_ARCHIVE):
        return False
    return digest.hexdigest() == entry.sha256


def _may_be_held(directory: Path) -> bool:
    try:
        return read_hold(directory) is not None
    except (LogCorrupted, OSError):
        return True
