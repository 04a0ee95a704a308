"""The index file of one sealed segment: on which of its pages a term is. Made whole, read by `mmap`.

A page is about 128 KiB of whole lines. A term is a salted 32-bit checksum of a kind and a value.

Layout, all numbers little-endian:

    0   8 bytes   MAGIC
    8   u64       length of the header
    16  2 * u64   size and time of change of the segment's file when its content was last compared with its SHA-256
    32  blocks, one after another, each of some thousand lines:
        f64 * n   entries, ascending: a term times 65,536, plus the number of a page, from 0 in the block
    u64 * p   where the pages begin
    header    JSON, `IndexHeader`, up to the end of the file

It is a cache and never evidence: the pages it points to are searched, and what is found there is checked. Anyone who
can write to it can hide a record from a query that uses it. It holds no text of the trail but event types.

All of it is chosen for the time that building takes, which verifying a segment is the measure of (`bench query`):
pages instead of lines, since a value that is in many lines is entered once a page, and searching a page takes 50 us;
blocks, which are sorted while the cache has them and never merged, since looking into one takes 1 us; and fractions,
which Python sorts in half the time of integers of this size. They hold 53 bits exactly.
"""

from __future__ import annotations

import mmap
import os
import sys
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final
from zlib import crc32

import msgspec

from audit_async._durable import disk
from audit_async._layout.names import UNFINISHED

MAGIC: Final = b"AAINDEX2"

#: Kinds of terms in the files that this release makes; of `context` there is one for each member, `context.tenant`. A
#: `key` is the id of a key that something in the page is sealed under. What is sealed is no value of other kinds, but
#: each of them has the term `ANY_SEALED` if a value of it is sealed.
KINDS: Final = ("actor", "context", "ip", "key", "outcome", "path", "resource", "status", "type")

ANY_SEALED: Final = "sealed:1:"

#: A block ends at so many entries, 1 MB of them: few enough to be sorted in the cache, many enough for few look-ups.
_BLOCK_ENTRIES: Final = 1 << 15
#: What a term is multiplied by in an entry, so that the number of a page fits below it.
_PAGES_IN_BLOCK: Final = 1 << 16
_TERM: Final = float(_PAGES_IN_BLOCK)
_PREFIX: Final = Struct("<8sQQQ")
_STAMP: Final = Struct("<QQ")
_STAMP_AT: Final = 16


class IndexWrong(Exception):
    """An index file is not what this release writes for this segment; it has to be removed."""


class IndexHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What an index file says of itself and of its segment."""

    log_id: str
    segment: str  #: file name
    sha256: str  #: of the segment, as the manifest has it
    salt: str  #: 32 hex digits
    kinds: list[str]  #: of terms; of any other kind the file knows nothing
    earliest: str  #: the earliest timestamp in the segment, RFC 3339
    latest: str  #: the latest; the clock may have been set back, so not that of the last record
    records: int
    bytes: int  #: of the segment
    types: list[str]  #: the event types in the segment, sorted
    pages: int
    blocks: list[tuple[int, int]]  #: of each block, how many entries it has, and the number of its first page


class SegmentIndex:
    """The open index of one segment. From one thread at a time; `close` gives the file back."""

    def __init__(self, path: Path, header: IndexHeader, mapped: mmap.mmap) -> None:
        self.path: Final = path
        self.header: Final = header
        self._mapped = mapped
        self._salt = bytes.fromhex(header.salt)
        self._whole = memoryview(mapped)
        entries_end = _PREFIX.size + 8 * sum(entries for entries, _ in header.blocks)
        self._entries = self._whole[_PREFIX.size : entries_end].cast("d")
        self._pages = self._whole[entries_end : entries_end + 8 * header.pages].cast("Q")

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
            header = _read_header(mapped)
            if (header.log_id, header.segment, header.sha256) != (log_id, segment, sha256):
                raise IndexWrong
            return cls(path, header, mapped)
        except BaseException:
            mapped.close()
            raise

    def knows(self, kind: str) -> bool:
        """Whether the file has the terms of this kind; one that an older release made may have fewer kinds."""
        return kind.partition(".")[0] in self.header.kinds

    def pages(self, kind: str, values: Iterable[str]) -> set[int]:
        """Return the numbers of the pages with a line that may have one of these values."""
        seed = seed_of(self._salt, kind)
        terms = {term_of(seed, value) for value in values}
        found: set[int] = set()
        entries, begin = self._entries, 0
        for count, first_page in self.header.blocks:
            end = begin + count
            for term in terms:
                at, after = bisect_left(entries, term * _TERM, begin, end), (term + 1) * _TERM
                while at < end and (entry := entries[at]) < after:
                    found.add(first_page + int(entry) % _PAGES_IN_BLOCK)
                    at += 1
            begin = end
        return found

    def range_of(self, page: int) -> tuple[int, int]:
        """Return where a page begins, and where it ends: the segment's length is for the caller to look at.

        Raises `IndexWrong`.
        """
        try:
            begin, end = self._pages[page], self._pages[page + 1] if page + 1 < len(self._pages) else self.header.bytes
        except IndexError:
            raise IndexWrong from None
        if not begin < end <= self.header.bytes:
            raise IndexWrong
        return begin, end

    def terms_by_page(self) -> Iterator[tuple[int, int, set[int]]]:
        """Yield of each page where it begins and ends, and its terms, in order; raises `IndexWrong`."""
        begin = 0
        next_pages = [*(first_page for _, first_page in self.header.blocks[1:]), self.header.pages]
        for (count, first_page), next_page in zip(self.header.blocks, next_pages, strict=True):
            entries = self._entries[begin : begin + count].tolist()
            begin += count
            found: defaultdict[int, set[int]] = defaultdict(set)
            for entry in entries:
                term, number = divmod(entry, _TERM)
                found[first_page + int(number)].add(int(term))
            if entries != sorted(entries) or not found.keys() <= set(range(first_page, next_page)):
                raise IndexWrong  # a search would not find them
            for page in range(first_page, next_page):
                yield (*self.range_of(page), found[page])

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
        self._entries.release()
        self._pages.release()
        self._whole.release()
        self._mapped.close()


def _read_header(mapped: mmap.mmap) -> IndexHeader:
    magic, length, _, _ = _PREFIX.unpack_from(mapped)
    if magic != MAGIC or not 0 < length <= len(mapped) - _PREFIX.size:
        raise IndexWrong
    try:
        header = msgspec.json.decode(mapped[-length:], type=IndexHeader)
        salt = bytes.fromhex(header.salt)
    except (msgspec.MsgspecError, ValueError) as error:
        raise IndexWrong from error
    entries = [count for count, _ in header.blocks]
    expected = _PREFIX.size + 8 * sum(entries) + 8 * header.pages + length
    if len(salt) != 16 or min(entries, default=0) < 0 or header.pages < 0 or len(mapped) != expected:
        raise IndexWrong
    return header


def seed_of(salt: bytes, kind: str) -> int:
    """Return what the terms of one kind begin with."""
    return crc32(kind.encode("utf-8", "surrogatepass"), crc32(salt))


def term_of(seed: int, value: str) -> int:
    """Return the number under which a value is indexed, 32 bits; `seed` is that of its kind."""
    return crc32(value.encode("utf-8", "surrogatepass"), seed)


def terms_of(seed: int, values: Iterable[str]) -> Iterable[int]:
    """Return the term of each of many recorded values, which hold no lone surrogates: half the time of `term_of`."""
    return map(crc32, map(str.encode, values), repeat(seed))


# -- making one ---------------------------------------------------------------------------------------------------


class IndexWriter:
    """Writes an index file from its beginning to its end: page by page, then the header. From one thread."""

    def __init__(self, file: BinaryIO) -> None:
        """`file` is empty and open for writing; it is neither synced nor closed here."""
        self._file = file
        self._begins = array("Q")
        self._entries: list[float] = []
        self._first_page = 0
        self.blocks: Final[list[tuple[int, int]]] = []
        file.write(bytes(_PREFIX.size))

    @property
    def pages(self) -> int:
        """How many pages were added."""
        return len(self._begins)

    def add(self, begin: int, terms: Iterable[int]) -> None:
        """Add a page that begins at this byte of the segment."""
        number = self.pages - self._first_page
        self._begins.append(begin)
        self._entries.extend([term * _TERM + number for term in terms])
        if len(self._entries) >= _BLOCK_ENTRIES or number + 1 == _PAGES_IN_BLOCK:
            self.end_block()

    def end_block(self) -> None:
        """Write what was added; to be called after the last page."""
        if self._entries:
            self._entries.sort()
            self._file.write(array("d", self._entries).tobytes())
        if self.pages > self._first_page:
            self.blocks.append((len(self._entries), self._first_page))
        self._first_page = self.pages
        self._entries = []

    def finish(self, header: IndexHeader, stamp: tuple[int, int]) -> None:
        """Write the header, which names `pages` and `blocks`; `stamp` is as in `SegmentIndex.stamp`."""
        encoded = msgspec.json.encode(header)
        self._file.write(self._begins.tobytes() + encoded)
        self._file.seek(0)
        self._file.write(_PREFIX.pack(MAGIC, len(encoded), *stamp))
        self._file.flush()


@contextmanager
def new_index_file(path: Path, mode: int) -> Iterator[BinaryIO]:
    """Make an index file under its name, whole or not at all: not if the block raises.

    It is synced before it gets its name: after a power cut a file of zeros would hide records. While it is being
    written it is locked, so that another builder, also one that sees other process ids, leaves it alone.

    Args:
        path: its name; one that is there is replaced.
        mode: its permissions.
    """
    directory = disk.open_directory(str(path.parent))
    try:
        unfinished, fd = _create_locked(path.name, directory)
        try:
            with os.fdopen(os.dup(fd), "r+b") as file:
                yield file
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


def _create_locked(name: str, directory: int) -> tuple[str, int]:
    """Create a file of a name that no other takes, and lock it; return its name and its descriptor.

    Between the two it looks left over, so it is made again if somebody has removed it then.
    """
    while True:
        unfinished = f"{name}.{os.getpid()}.{os.urandom(4).hex()}{UNFINISHED}"
        fd = disk.create_file(unfinished, dir_fd=directory)
        try:
            disk.lock(fd)
            if os.fstat(fd).st_nlink:
                return unfinished, fd
        except BlockingIOError:
            pass  # whoever has the lock removes it
        except OSError:  # a file system without locks
            return unfinished, fd
        disk.close(fd)


def remove_left_over(path: Path) -> None:
    """Remove an index file that was left by a builder which was killed; nothing else, nor what is being written.

    The lock says it. A process id would not: in a container that of a builder before may be that of a living process.
    """
    if not path.name.endswith(UNFINISHED):
        return
    with suppress(OSError):
        fd = disk.open_file(str(path), writable=True)
        try:
            if _is_abandoned(path, fd):
                disk.unlink(str(path), dir_fd=None)
        finally:
            disk.close(fd)


def _is_abandoned(path: Path, fd: int) -> bool:
    """Lock a builder's file, and return whether nobody else has; without locks, whether its process is gone."""
    try:
        disk.lock(fd)
    except BlockingIOError:
        return False
    except OSError:
        return not _is_alive(path.name)
    return True


def _is_alive(name: str) -> bool:
    """Return whether there is a process with the id in the name of a builder's file."""
    try:
        os.kill(int(name.removesuffix(UNFINISHED).split(".")[-2]), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError, IndexError, OverflowError):
        return False
    return True
