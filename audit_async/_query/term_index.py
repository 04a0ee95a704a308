"""The index of a log: a file for each sealed segment that says on which pages an actor, a resource, and so on are.

An index file is made whole (`build_index`) and never changed, so building can be killed at any point and goes on with
the next segment, and a query uses the files that are there and scans the segments that have none. Nothing waits for
an index. See `index_file` for what is in a file; it is a cache and never evidence. A segment whose archive is encrypted
has none: an index holds no name, but whoever has it can try whether a name is in it.

The files are in `index/` in the log's directory if that belongs to this user and can be written, else in
`$XDG_CACHE_HOME/audit-async/<log_id>/`. Both places are read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec.structs import replace

from audit_async._durable import disk
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._layout.names import ARCHIVE, COMPRESSED, INDEX, INDEX_ENDING, OLD_INDEX_FILE
from audit_async._query.index_file import (
    KINDS,
    IndexHeader,
    IndexWriter,
    IndexWrong,
    SegmentIndex,
    new_index_file,
    remove_left_over,
)
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage, open_part
from audit_async._query.term_collector import TermCollector
from audit_async._trail.log_files import DAMAGED_ARCHIVE, Lines, Log, SegmentFile, read_lines
from audit_async._trail.segment_parts import Part
from audit_async._trail.worker_process import Advance
from audit_async.errors import LogCorrupted

#: Searching so many bytes takes 50 us; with pages half as long the index takes a tenth more room and time.
_PAGE_BYTES: Final = 128 << 10
#: States of a segment of which only the hashes are left.
_GONE: Final = frozenset({"deleted", "lost"})
Place = tuple[int, int]  # where a page begins and ends, in bytes
_LOG_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class IndexedSegment(msgspec.Struct, frozen=True, kw_only=True):
    """What was done with one segment when a log was indexed."""

    log: str
    segment: str  #: file name
    records: int = 0
    segment_bytes: int = 0
    index_bytes: int = 0  #: of the file that was made; 0 if none was
    problem: str | None = None  #: why none was made; None if all is well


class LogIndex:
    """What is indexed of one log. Used by one query, from one thread at a time."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._directories = tuple(places(log))

    @contextmanager
    def opened(self, part: Part) -> Iterator[SegmentIndex | None]:
        """Open the index of a segment; None if it has none. One that is wrong is removed, and counts as none."""
        index = self._open(part)
        try:
            yield index
        finally:
            if index is not None:
                index.close()

    def _open(self, part: Part) -> SegmentIndex | None:
        sealed = part.segment.sealed
        if sealed is None or sealed.is_encrypted:
            return None
        for path in self.paths(part):
            try:
                return SegmentIndex.open(path, log_id=self._log.log_id, segment=sealed.segment, sha256=sealed.sha256)
            except IndexWrong:
                with suppress(OSError):
                    disk.unlink(str(path), dir_fd=None)
            except (OSError, ValueError):
                continue
        return None

    def has(self, part: Part) -> bool:
        """Return whether a segment has an index."""
        with self.opened(part) as index:
            return index is not None

    def is_complete(self, part: Part) -> bool:
        """Return whether a segment has an index, with all kinds of terms that this release knows."""
        with self.opened(part) as index:
            return index is not None and all(map(index.knows, KINDS))

    def is_current(self, part: Part, index: SegmentIndex) -> Generator[None, None, bool]:
        """Return whether a segment's content is still what was indexed; it is read if its file has changed since."""
        stamp = stamp_of(part)
        if stamp is None or stamp == index.stamp:
            return stamp is not None
        digest = sha256()
        for chunk in sealed_lines(part):
            digest.update(chunk.data)
            yield None
        if digest.hexdigest() != index.header.sha256:
            return False
        index.set_stamp(stamp)
        return True

    def drop(self, part: Part) -> None:
        """Remove a segment's index, because it points to what is no record."""
        for path in self.paths(part):
            with suppress(OSError):
                disk.unlink(str(path), dir_fd=None)

    def paths(self, part: Part) -> Iterator[Path]:
        """Yield where a segment's index may be."""
        return (directory / (part.segment.name + INDEX_ENDING) for directory in self._directories)


def pages_to_search(index: SegmentIndex, wanted: Filter) -> list[Place] | None:
    """Return the pages, in the order of the chain, that may have lines which are wanted.

    None if the index can't narrow the question, also because it has no terms of the kind that is asked for.
    Raises `IndexWrong`.
    """
    found: set[int] | None = None
    for kind, values in wanted.terms:
        if index.knows(kind):
            found = _both(found, index.pages(kind, values))
    if wanted.either and all(index.knows(kind) for kind, _ in wanted.either):
        found = _both(found, set().union(*(index.pages(kind, values) for kind, values in wanted.either)))
    if wanted.asks_for_types:
        types = [tag for tag in index.header.types if wanted.wants_type(tag)]
        if len(types) < len(index.header.types):
            found = _both(found, index.pages("type", types))
    return [index.range_of(page) for page in sorted(found)] if found is not None else None


def _both(found: set[int] | None, further: set[int]) -> set[int]:
    return further if found is None else found & further


def stamp_of(part: Part) -> tuple[int, int] | None:
    """Return what changes when a segment's file does: size and time of change in ns; None if there is no file."""
    directory, name = part.segment.log.directory, part.segment.name
    for path in (directory / name, directory / ARCHIVE / (name + COMPRESSED)):
        with suppress(OSError):
            status = os.stat(path, follow_symlinks=False)
            return status.st_size, status.st_ctime_ns
    return None


# -- building -----------------------------------------------------------------------------------------------------


class IndexTask(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that is to be indexed; it travels between processes as JSON."""

    directory: str  #: the log's
    service_id: str
    instance: str
    log_id: str
    place: str  #: of a log at a collector; its name begins with it
    sealed: SealedSegment

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Iterator[IndexTask]:
        """Yield the tasks for those segments that are sealed."""
        for part in parts:
            log, sealed = part.segment.log, part.segment.sealed
            if sealed is not None:
                yield cls(
                    directory=str(log.directory),
                    service_id=log.service_id,
                    instance=log.instance,
                    log_id=log.log_id,
                    place=log.place,
                    sealed=sealed,
                )

    @property
    def part(self) -> Part:
        """The segment as `_trail` knows it."""
        log = Log(Path(self.directory), self.service_id, self.instance, self.log_id, place=self.place)
        sealed = self.sealed
        segment = SegmentFile(log, sealed.segment, sealed.first_seq, sealed.first_timestamp[:10], sealed)
        return Part(segment, sealed.last_seq + 1)


def build_index(log: Log, parts: Sequence[Part], *, again: bool = False) -> Iterator[IndexedSegment]:
    """Index those segments of a log that are sealed and have no index, one after the other; see `tasks_of_index`."""
    for task in tasks_of_index(log, parts, again=again):
        yield index_segment(task)


def tasks_of_index(log: Log, parts: Sequence[Part], *, again: bool = False) -> list[IndexTask]:
    """Return what is to be done to index a log, oldest first, and remove what is left of segments that are gone.

    Needs no lock, and works next to a running writer and to other builders. The tasks can be stopped or killed at any
    point: the files that are there by then are whole, and the next call returns the others.

    Args:
        log: the log.
        parts: the segments to index.
        again: index those again that have an index.
    """
    index = LogIndex(log)
    if (directory := _make_directory(log)) is not None:
        _remove_others(log, directory)
    missing = (
        part
        for part in parts
        if part.segment.sealed is not None
        and not part.segment.needs_identity
        and (again or not index.is_complete(part))
    )
    tasks = list(IndexTask.of(missing))
    return tasks if directory is not None else tasks[:1]  # whose outcome says so for all of them


def index_segment(task: IndexTask, advance: Advance | None = None) -> IndexedSegment:
    """Index one segment; what fails is in the outcome. `advance` is called with bytes and records that were read."""
    part, sealed = task.part, task.sealed
    log = part.segment.log
    done = IndexedSegment(log=log.name, segment=sealed.segment, records=sealed.records, segment_bytes=sealed.bytes)
    directory = _make_directory(log)
    if directory is None:
        return replace(done, records=0, problem="there is no directory that can be written for it")
    path = directory / (sealed.segment + INDEX_ENDING)
    try:
        with new_index_file(path, _mode_for(part)) as file:
            _write(log, part, sealed, file, advance)
        if stamp_of(part) is None:  # retention deleted the segment meanwhile
            disk.unlink(str(path), dir_fd=None)
            return replace(done, problem="it was deleted meanwhile")
        return replace(done, index_bytes=path.stat().st_size)
    except _NotSealed:
        return replace(done, problem="its content is not what was sealed; verify the trail")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return replace(done, problem="it has a line that is no record; verify the trail")
    except OSError as error:
        return replace(done, problem=f"the index can't be made: {error.strerror or error}")


class _NotSealed(Exception):
    """A segment's content is not what was sealed."""


def _write(log: Log, part: Part, sealed: SealedSegment, file: BinaryIO, advance: Advance | None) -> None:
    """Write the index of a segment; raises `_NotSealed`, and as msgspec does for a line that is no record."""
    salt, stamp = os.urandom(16), stamp_of(part)
    digest, collector = sha256(), TermCollector(salt)
    writer = IndexWriter(file)
    for chunk in sealed_lines(part):
        digest.update(chunk.data)
        before = collector.records
        writer.add(chunk.offset, collector.terms_in(chunk.data))
        if advance is not None:
            advance(len(chunk.data), collector.records - before)
    if stamp is None or digest.hexdigest() != sealed.sha256:
        raise _NotSealed
    writer.end_block()
    header = IndexHeader(
        log_id=log.log_id,
        segment=sealed.segment,
        sha256=sealed.sha256,
        salt=salt.hex(),
        kinds=list(KINDS),
        earliest=collector.earliest,
        latest=collector.latest,
        records=sealed.records,
        bytes=sealed.bytes,
        types=sorted(collector.types),
        pages=writer.pages,
        blocks=writer.blocks,
    )
    writer.finish(header, stamp)


def sealed_lines(part: Part) -> Iterator[Lines]:
    """Give the lines of a sealed segment up to its sealed end; fewer if it can't be read, which its hash shows."""
    end = part.sealed_bytes
    assert end is not None  # noqa: S101
    try:
        file = open_part(part, Damage(skip=True))
        if file is None:
            return
        with file:
            for chunk in read_lines(file, chunk_bytes=_PAGE_BYTES):
                yield Lines(chunk.offset, chunk.data[: end - chunk.offset])
                if chunk.offset + len(chunk.data) >= end:
                    return
    except DAMAGED_ARCHIVE:
        return


def _mode_for(part: Part) -> int:
    """Return an index file's mode: whoever may read the segment may read its index."""
    with suppress(OSError):
        return stat.S_IMODE(os.stat(part.segment.path).st_mode) & 0o440 | 0o200
    return disk.PRIVATE_FILE


# -- where the files are ------------------------------------------------------------------------------------------


def places(log: Log) -> Iterator[Path]:
    """Yield the directories that may hold index files of a log; none if its identity is unknown."""
    if not _LOG_ID.fullmatch(log.log_id):
        return
    yield log.directory / INDEX
    if (cache := _cache_directory(log)) is not None:
        yield cache


def _cache_directory(log: Log) -> Path | None:
    with suppress(RuntimeError):  # no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audit-async" / log.log_id
    return None


def _make_directory(log: Log) -> Path | None:
    """Return the directory for new index files, and make it if it is missing; None if there can be none."""
    if not _LOG_ID.fullmatch(log.log_id):
        return None
    with suppress(OSError):
        # Not in a directory of another user, who could neither use nor remove the files if root made them.
        is_own = not hasattr(os, "geteuid") or os.stat(log.directory).st_uid == os.geteuid()
        if is_own and os.access(log.directory, os.W_OK):
            directory = log.directory / INDEX
            with suppress(FileExistsError):
                disk.make_directory(str(directory))
                disk.change_path_mode(str(directory), stat.S_IMODE(os.stat(log.directory).st_mode))
            with suppress(OSError):
                disk.unlink(str(log.directory / OLD_INDEX_FILE), dir_fd=None)
            if stat.S_ISDIR(os.stat(directory, follow_symlinks=False).st_mode):
                return directory
    with suppress(OSError):
        if (cache := _cache_directory(log)) is not None:
            disk.make_directories(str(cache))
            return cache
    return None


def _remove_others(log: Log, directory: Path) -> None:
    """Remove index files of segments that are gone, and what a killed builder left."""
    with suppress(OSError, LogCorrupted):
        names = os.listdir(directory)
        # The manifest is read after that: a segment was sealed before anybody could index it, so each of these files
        # that is not a left-over is of a segment that the manifest has by now, also if another builder just made it.
        kept = {
            entry.segment
            for entry in read_manifest(log.directory)
            if entry.state not in _GONE and not entry.is_encrypted
        }
        for name in names:
            if name.endswith(INDEX_ENDING) and name.removesuffix(INDEX_ENDING) not in kept:
                with suppress(OSError):
                    disk.unlink(str(directory / name), dir_fd=None)
            remove_left_over(directory / name)
