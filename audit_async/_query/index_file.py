"""The index file of one sealed segment: which of its lines name a term. Made whole, read by `mmap`.

Layout, all integers little-endian:

    0   8 bytes   MAGIC
    8   u32       length of the header
    12  u32       length of the padding after it, so that what follows is aligned to 8 bytes
    16  2 * u64   size and time of change of the segment's file when its content was last compared with its SHA-256
    32  header    JSON, `IndexHeader`
        u32 * n   the terms, ascending: salted 32-bit checksums of kind and value
        u32 * n   for each term, how many postings there are up to its last one
        u32 or u64 * m   the postings: where lines begin, ascending within a term

It is a cache and never evidence: every line it points to is read from its segment and checked. Anyone who can write to
it can hide a record from a query that uses it.

It holds no text of the trail but event types. Two values may share a term; their lines are told apart when they are
read, so a term has just the bits that keep this rare.

A segment is indexed in bounded memory: what was collected is written to a sorted run, and the runs are merged.
"""

from __future__ import annotations

import heapq
import mmap
import os
import sys
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final, NamedTuple
from zlib import crc32

import msgspec

from audit_async._durable import disk
from audit_async._layout.names import UNFINISHED

MAGIC: Final = b"AAINDEX1"

#: What was collected is written to a run at so many terms, so that memory stays bounded: about 60 MB of them.
_MAX_TERMS: Final = 300_000
_PREFIX: Final = Struct("<8sIIQQ")
_STAMP: Final = Struct("<QQ")
_STAMP_AT: Final = 16
_RUN_ENTRY: Final = Struct("<II")  # a term and the number of its postings
_COPY_POSTINGS: Final = 1 << 16


class IndexWrong(Exception):
    """An index file is not what this release writes for this segment; it has to be removed."""


class IndexHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What an index file says of itself and of its segment."""

    log_id: str
    segment: str  #: file name
    sha256: str  #: of the segment, as the manifest has it
    salt: str  #: 32 hex digits
    earliest: str  #: the earliest timestamp in the segment, RFC 3339
    latest: str  #: the latest; the clock may have been set back, so not that of the last record
    records: int
    types: list[str]  #: the event types in the segment, sorted
    terms: int
    postings: int
    posting_bytes: int  #: 4 or 8


class SegmentIndex:
    """The open index of one segment. From one thread at a time; `close` gives the file back."""

    def __init__(self, path: Path, header: IndexHeader, mapped: mmap.mmap, terms_at: int) -> None:
        self.path: Final = path
        self.header: Final = header
        self._mapped = mapped
        self._salt = bytes.fromhex(header.salt)
        self._ends_at = terms_at + 4 * header.terms
        self._postings_at = self._ends_at + 4 * header.terms
        whole = memoryview(mapped)
        self._terms = whole[terms_at : self._ends_at].cast("I")
        self._ends = whole[self._ends_at : self._postings_at].cast("I")

    @classmethod
    def open(cls, path: Path, *, log_id: str, segment: str, sha256: str) -> SegmentIndex:
        """Open the index of a segment.

        Args:
            path: the index file.
            log_id: of the log that the segment belongs to.
            segment: the segment's file name.
            sha256: of the segment's content, from the manifest.

        Raises:
            FileNotFoundError: if there is no index.
            IndexWrong: if it is not whole, or is that of another content.
            OSError: if it can't be read.
        """
        if sys.byteorder != "little":
            raise FileNotFoundError(f"{path}: the index is used on little-endian machines only")
        fd = disk.open_file(str(path))
        try:
            size = os.fstat(fd).st_size
            if size < _PREFIX.size:
                raise IndexWrong
            mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        finally:
            disk.close(fd)
        try:
            header, terms_at = _read_header(mapped)
            expected = terms_at + 8 * header.terms + header.posting_bytes * header.postings
            if (header.log_id, header.segment, header.sha256) != (log_id, segment, sha256) or size != expected:
                raise IndexWrong
            return cls(path, header, mapped, terms_at)
        except BaseException:
            mapped.close()
            raise

    def offsets(self, kind: str, value: str) -> Sequence[int]:
        """Return where the lines begin that may have this value, ascending; raises `IndexWrong`."""
        term = term_of(seed_of(self._salt, kind), value)
        at = bisect_left(self._terms, term)
        if at == len(self._terms) or self._terms[at] != term:
            return ()
        begin, end = (self._ends[at - 1] if at else 0), self._ends[at]
        width = self.header.posting_bytes
        if not begin <= end <= self.header.postings:
            raise IndexWrong
        found = empty_postings(width)
        found.frombytes(self._mapped[self._postings_at + width * begin : self._postings_at + width * end])
        return found

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of change, in ns, of the segment's file when its content was last compared with its SHA-256."""
        size, changed_ns = _STAMP.unpack_from(self._mapped, _STAMP_AT)
        return size, changed_ns

    def set_stamp(self, stamp: tuple[int, int]) -> None:
        """Note that the segment's content was compared again; does nothing if the file can't be written."""
        with suppress(OSError):
            fd = disk.open_file(str(self.path), writable=True)
            try:
                disk.write_at(fd, _STAMP.pack(*stamp), _STAMP_AT)
            finally:
                disk.close(fd)

    def close(self) -> None:
        """Give the file back."""
        self._terms.release()
        self._ends.release()
        self._mapped.close()


def _read_header(mapped: mmap.mmap) -> tuple[IndexHeader, int]:
    magic, length, padding, _, _ = _PREFIX.unpack_from(mapped)
    begin, end = _PREFIX.size, _PREFIX.size + length
    if magic != MAGIC or padding >= 8 or end + padding > len(mapped):
        raise IndexWrong
    try:
        header = msgspec.json.decode(mapped[begin:end], type=IndexHeader)
        salt = bytes.fromhex(header.salt)
    except (msgspec.MsgspecError, ValueError) as error:
        raise IndexWrong from error
    if header.posting_bytes not in {4, 8} or min(header.terms, header.postings) < 0 or len(salt) != 16:
        raise IndexWrong
    return header, end + padding


def seed_of(salt: bytes, kind: str) -> int:
    """Return what the terms of one kind begin with."""
    return crc32(kind.encode("utf-8", "surrogatepass"), crc32(salt))


def term_of(seed: int, value: str) -> int:
    """Return the number under which a value is indexed, 32 bits; `seed` is that of its kind."""
    return crc32(value.encode("utf-8", "surrogatepass"), seed)


def empty_postings(width: int) -> array[int]:
    """Return an empty array for postings of 4 or 8 bytes."""
    return array("I" if width == 4 else "Q")


class _Run(NamedTuple):
    """Terms that were collected and written out: sorted, with their postings after them."""

    file: BinaryIO
    terms: int


class IndexBuilder:
    """Collects the terms of a segment, and writes its index. From one thread; `close` removes its temporary files."""

    def __init__(self, *, segment_bytes: int) -> None:
        #: By term, where the lines begin that have it: a number, or several in an array. Most have one.
        self._collected: dict[int, int | array[int]] = {}
        self._width = 4 if segment_bytes < 1 << 32 else 8
        self._runs: list[_Run] = []

    def add(self, terms: Iterable[int], offset: int) -> None:
        """Note that the line at `offset` has these terms; offsets come in ascending order."""
        collected = self._collected
        get = collected.get
        for term in terms:
            before = get(term)
            if before is None:
                collected[term] = offset
            elif before.__class__ is int:  # an `isinstance` costs twice as much
                if before != offset:
                    collected[term] = array("I" if self._width == 4 else "Q", (before, offset))
            elif before[-1] != offset:  # type: ignore[index]  # not narrowed by the comparison above
                before.append(offset)  # type: ignore[union-attr]

    def spill(self) -> None:
        """Write out what was collected if it is much, so that memory stays bounded; called now and then."""
        if len(self._collected) >= _MAX_TERMS:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            self._runs.append(_Run(file, len(self._collected)))
            for term, postings in self._sorted():
                file.write(_RUN_ENTRY.pack(term, len(postings)) + postings.tobytes())
            self._collected.clear()

    def write(self, file: BinaryIO, stamp: tuple[int, int], header: Callable[[int, int, int], IndexHeader]) -> None:
        """Write the index to an empty file.

        Args:
            file: open for writing; it is neither synced nor closed.
            stamp: see `SegmentIndex.stamp`.
            header: makes the header from the numbers of terms, of postings, and of bytes in a posting.
        """
        terms, ends, postings = array("I"), array("I"), empty_postings(self._width)
        with tempfile.TemporaryFile() as written:
            total = 0
            for term, found in self._merged():
                total += len(found)
                if terms and terms[-1] == term:
                    ends[-1] = total
                else:
                    terms.append(term)
                    ends.append(total)
                postings.extend(found)
                if len(postings) >= _COPY_POSTINGS:
                    postings.tofile(written)
                    postings = empty_postings(self._width)
            postings.tofile(written)
            encoded = msgspec.json.encode(header(len(terms), total, self._width))
            padding = -(_PREFIX.size + len(encoded)) % 8
            file.write(_PREFIX.pack(MAGIC, len(encoded), padding, *stamp) + encoded + bytes(padding))
            file.write(terms.tobytes())
            file.write(ends.tobytes())
            written.seek(0)
            while data := written.read(1 << 20):
                file.write(data)

    def close(self) -> None:
        """Remove what was written to temporary files."""
        for run in self._runs:
            run.file.close()
        self._runs.clear()

    def _sorted(self) -> Iterator[tuple[int, array[int]]]:
        kind, collected = "I" if self._width == 4 else "Q", self._collected
        for term in sorted(collected):
            postings = collected[term]
            yield term, array(kind, (postings,)) if isinstance(postings, int) else postings

    def _merged(self) -> Iterator[tuple[int, array[int]]]:
        """Yield all terms, ascending; the postings of a term in the order in which they were added."""
        if not self._runs:
            return self._sorted()
        return heapq.merge(*map(self._read_run, self._runs), self._sorted(), key=itemgetter(0))

    def _read_run(self, run: _Run) -> Iterator[tuple[int, array[int]]]:
        run.file.seek(0)
        for _ in range(run.terms):
            term, count = _RUN_ENTRY.unpack(run.file.read(_RUN_ENTRY.size))
            postings = empty_postings(self._width)
            postings.frombytes(run.file.read(count * self._width))
            yield term, postings


def is_left_over(name: str) -> bool:
    """Return whether a file was left by a builder that was killed; its name says which process made it."""
    if not name.endswith(UNFINISHED):
        return False
    pid = name.removesuffix(UNFINISHED).split(".")[-2]
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def write_index(path: Path, mode: int, write: Callable[[BinaryIO], None]) -> None:
    """Make an index file under its name, whole or not at all.

    It is synced before it gets its name: after a power cut a file of zeros would hide records.

    Args:
        path: its name; one that is there is replaced.
        mode: its permissions.
        write: writes the content.
    """
    directory = disk.open_directory(str(path.parent))
    unfinished = f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}{UNFINISHED}"
    try:
        fd = disk.create_file(unfinished, dir_fd=directory)
        try:
            with os.fdopen(os.dup(fd), "r+b") as file:
                write(file)
            disk.change_mode(fd, mode)
            disk.sync_data(fd)
            disk.rename(unfinished, path.name, dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                disk.unlink(unfinished, dir_fd=directory)
            raise
        finally:
            disk.close(fd)
    finally:
        disk.close(directory)
