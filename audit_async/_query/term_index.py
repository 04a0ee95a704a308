"""The index: which lines of a log's sealed segments name an actor or a resource, or are of a type; in SQLite.

It is a cache and never evidence. It can be deleted at any time, is removed if it does not fit, and every line that it
points to is read from its segment and checked before it is returned. What it leaves out can't be checked: anyone who
can write to it can hide a record, and so can a flipped bit. If in doubt, query without it.

It knows sealed segments only, each by the SHA-256 in the manifest, which its content had when it was read. A segment
whose file has changed since (size or ctime) is hashed again before the index is believed.

It holds no text of the trail but event types: a term is a salted 64-bit hash, and a line to which it leads by chance
is left out when it is read. What it holds of a deleted segment is taken out by the next query that uses it.

It is in the log's directory, as `index.sqlite3`, if that belongs to this user and can be written, otherwise in
`$XDG_CACHE_HOME/audit-async`. If neither works, queries read the segments.
"""

from __future__ import annotations

import os
import re
import sqlite3
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import msgspec

from audit_async._layout.names import ARCHIVE
from audit_async._query.index_file import INDEX_FAILED, IndexWrong, is_broken, open_database, places, remove
from audit_async._query.matching import Filter, actors_of, read_said, resources_of, type_of
from audit_async._query.segment_scan import Damage, open_part
from audit_async._trail.log_files import DAMAGED_ARCHIVE, Lines, Log, read_lines
from audit_async._trail.segment_parts import Part

_TIMESTAMP: Final = re.compile(rb'^\{"seq":[0-9]+,"audit_id":"[^"]+","timestamp":"([^"]{27})"', re.MULTILINE)
#: What was collected is written out at either, so that memory stays bounded.
_MAX_TERMS: Final = 50_000
_MAX_POSTINGS: Final = 1_000_000
#: Postings are read for all segments that begin in such a window at once; at 4 bytes each, 4 MB at the most.
_WINDOW_SEQS: Final = 1_000_000


if TYPE_CHECKING:
    _Offsets = array[int]


class Times(NamedTuple):
    """The earliest and the latest timestamp in a segment; the clock may go back, so not those at its ends."""

    earliest: str
    latest: str


class LogIndex:
    """The index of one log, open. Used by one query, from one thread at a time."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database
        ((salt,),) = database.execute("SELECT salt FROM log").fetchall()
        self._salt = cast("bytes", salt)
        self._segments: dict[int, _Known] = {}
        #: By term, the last window of segments that was read, and the postings in it.
        self._ahead: dict[int, tuple[int, dict[int, list[bytes]]]] = {}

    @classmethod
    def open(cls, log: Log, parts: Sequence[Part]) -> LogIndex | None:
        """Open a log's index, and make it if it is missing or can't be used; None if there can be none.

        What it holds of segments that are not among `parts`, all that are readable, is taken out.
        """
        for path in places(log):
            for is_last_try in (False, True):
                try:
                    database = open_database(path, log.log_id)
                    try:
                        index = cls(path, database)
                        index._load(parts)
                    except BaseException:
                        database.close()
                        raise
                except (OSError, ValueError, *INDEX_FAILED) as error:
                    if is_last_try or not is_broken(error):
                        break
                    remove(path)
                else:
                    return index
        return None

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def give_up(self, error: Exception) -> None:
        """Close the index, and remove it if `error` says that it is broken or wrong, so that it is made again."""
        self.close()
        if is_broken(error):
            remove(self._path)

    # Asking.

    def times(self, part: Part) -> Generator[None, None, Times | None]:
        """Return between which times a sealed segment's records lie, read from it the first time; None: not known.

        Yields now and then, so that the caller can stop; so does `offsets`.
        """
        known = yield from self._known(part)
        if known is None:
            known = yield from self._learn(part, with_terms=False)
        return known.times if known is not None else None

    def offsets(self, part: Part, wanted: Filter) -> Generator[None, None, Sequence[int] | None]:
        """Return the offsets of those lines of a sealed segment that may be wanted, ascending; None: not known.

        The segment is read into the index first, if that has not been done.
        """
        if not wanted.terms and not wanted.asks_for_types:
            return None
        known = yield from self._known(part)
        if known is None or not known.has_terms:
            known = yield from self._learn(part, with_terms=True)
        if known is None:
            return None
        found: set[int] | None = None
        for kind, values in wanted.terms:
            found = _both(found, self._postings(part, kind, values))
        if wanted.asks_for_types:
            rows = self._database.execute("SELECT tag FROM types WHERE first_seq = ?", (part.segment.first_seq,))
            tags = [tag for (tag,) in rows.fetchall()]
            of_types = [tag for tag in tags if wanted.wants_type(tag)]
            if len(of_types) < len(tags):
                found = _both(found, self._postings(part, "type", of_types))
        return sorted(found) if found is not None else None

    def _postings(self, part: Part, kind: str, values: Iterable[str]) -> Iterator[int]:
        for value in values:
            for blob in self._blobs(_term(self._salt, kind, value), part.segment.first_seq):
                offsets = _no_offsets(part)
                try:
                    offsets.frombytes(blob)
                except (TypeError, ValueError) as error:
                    raise IndexWrong from error
                yield from offsets

    def _blobs(self, term: int, first_seq: int) -> list[bytes]:
        """Return the postings of a term in a segment, and read those in the segments around it ahead.

        Each statement takes and gives back a lock on the file, 20 us: as much as to open the segment.
        """
        window = first_seq // _WINDOW_SEQS
        if (ahead := self._ahead.get(term)) is None or ahead[0] != window:
            begin = window * _WINDOW_SEQS
            rows = self._database.execute(
                "SELECT first_seq, offsets FROM postings WHERE term = ? AND first_seq BETWEEN ? AND ?",
                (term, begin, begin + _WINDOW_SEQS - 1),
            )
            blobs: dict[int, list[bytes]] = {}
            for of_segment, blob in rows.fetchall():
                blobs.setdefault(of_segment, []).append(blob)
            ahead = self._ahead[term] = (window, blobs)
        return ahead[1].get(first_seq, [])

    # Knowing segments.

    def _known(self, part: Part) -> Generator[None, None, _Known | None]:
        """Return what is known of a segment whose content is still what it was; None if nothing is."""
        sealed = part.segment.sealed
        assert sealed is not None  # noqa: S101 - the index is asked for sealed segments only
        known = self._segments.get(sealed.first_seq)
        if known is None:
            return None
        stamp = _stamp(part)
        if stamp is None or stamp != known.stamp:
            digest = sha256()
            for chunk in _content(part):
                digest.update(chunk.data)
                yield None
            if digest.hexdigest() != sealed.sha256:
                return None
            known = self._segments[sealed.first_seq] = known._replace(stamp=stamp)
            with suppress(sqlite3.OperationalError):  # then it is hashed again the next time
                self._database.execute(
                    "UPDATE segments SET file_bytes = ?, ctime_ns = ? WHERE first_seq = ?",
                    (*(stamp or (None, None)), sealed.first_seq),
                )
        return known

    def _learn(self, part: Part, *, with_terms: bool) -> Generator[None, None, _Known | None]:
        """Read a segment into the index, in one transaction; None if its content is not what was sealed."""
        sealed = part.segment.sealed
        assert sealed is not None  # noqa: S101
        stamp = _stamp(part)
        digest = sha256()
        earliest, latest = b"~", b""
        terms = _Terms(part, self._salt)
        database = self._database
        try:
            for chunk in _content(part):
                digest.update(chunk.data)
                if times := _TIMESTAMP.findall(chunk.data):
                    earliest, latest = min(earliest, *times), max(latest, *times)
                if with_terms:
                    try:
                        terms.add(chunk)
                    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                        return None
                if terms.is_full:
                    self._begin_replacing(sealed.first_seq)
                    terms.write_to(database)
                yield None
            if digest.hexdigest() != sealed.sha256:
                return None
            self._begin_replacing(sealed.first_seq)
            terms.write_to(database)
            database.executemany(
                "INSERT OR IGNORE INTO types VALUES (?, ?)", [(sealed.first_seq, tag) for tag in terms.types]
            )
            known = _Known(stamp, Times(earliest.decode(), latest.decode()), with_terms)
            database.execute(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)",
                (sealed.first_seq, sealed.sha256, *(stamp or (None, None)), *known.times, with_terms),
            )
            database.execute("COMMIT")
            self._segments[sealed.first_seq] = known
            self._ahead.clear()
            return known
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")

    def _begin_replacing(self, first_seq: int) -> None:
        """Begin a transaction, unless one is open, in which all that is held of a segment is replaced."""
        if not self._database.in_transaction:
            self._database.execute("BEGIN IMMEDIATE")
            self._forget(first_seq)

    def _forget(self, first_seq: int) -> None:
        rows = self._database.execute("SELECT has_terms FROM segments WHERE first_seq = ?", (first_seq,)).fetchall()
        # Postings are ordered by term, so this reads the whole table: only if there is something to find.
        tables = ("segments", "types", "postings") if (1,) in rows else ("segments", "types")
        for table in tables:
            self._database.execute(f"DELETE FROM {table} WHERE first_seq = ?", (first_seq,))  # noqa: S608 - our names

    def _load(self, parts: Sequence[Part]) -> None:
        """Take in what is known of the segments, and take out those that are gone: retention has deleted them."""
        sealed = {part.segment.first_seq: part.segment.sealed.sha256 for part in parts if part.segment.sealed}
        rows = self._database.execute(
            "SELECT first_seq, sha256, file_bytes, ctime_ns, earliest, latest, has_terms FROM segments"
        ).fetchall()
        self._segments = {
            first_seq: _Known((file_bytes, ctime_ns), Times(earliest, latest), bool(has_terms))
            for first_seq, sha256, file_bytes, ctime_ns, earliest, latest, has_terms in rows
            if sealed.get(first_seq) == sha256
        }
        if gone := [row[0] for row in rows if row[0] not in self._segments]:
            self._database.execute("BEGIN IMMEDIATE")
            for first_seq in gone:
                self._forget(first_seq)
            self._database.execute("COMMIT")


class _Known(NamedTuple):
    """What the index says of a segment as a whole."""

    stamp: tuple[int, int] | None  #: of the file, when its content was hashed last
    times: Times
    has_terms: bool  #: also its terms; otherwise only its times


class _Terms:
    """The terms of one segment, collected: for each, the offsets of the lines that have it."""

    def __init__(self, part: Part, salt: bytes) -> None:
        self.types: set[str] = set()
        self._part = part
        self._salt = salt
        self._offsets: dict[tuple[str, str], _Offsets] = {}
        self._postings = 0
        self._writes = 0

    @property
    def is_full(self) -> bool:
        """True when it is time to write out what was collected."""
        return len(self._offsets) >= _MAX_TERMS or self._postings >= _MAX_POSTINGS

    def add(self, chunk: Lines) -> None:
        """Add whole lines; raises as msgspec does for one that is no record."""
        begin = chunk.offset
        for line in chunk.data.split(b"\n")[:-1]:
            event = read_said(line).event
            event_type = type_of(event)
            self.types.add(event_type)
            self._add("type", event_type, begin)
            for actor in actors_of(event):
                self._add("actor", actor, begin)
            for resource in resources_of(event):
                self._add("resource", resource, begin)
            begin += len(line) + 1

    def _add(self, kind: str, value: str, offset: int) -> None:
        offsets = self._offsets.get((kind, value))
        if offsets is None:
            offsets = self._offsets[kind, value] = _no_offsets(self._part)
        offsets.append(offset)
        self._postings += 1

    def write_to(self, database: sqlite3.Connection) -> None:
        """Write out what was collected since the last time."""
        first_seq, written = self._part.segment.first_seq, self._writes
        # In the order of the table's key, which spares SQLite most of the searching.
        rows = sorted(
            (_term(self._salt, kind, value), first_seq, written, offsets.tobytes())
            for (kind, value), offsets in self._offsets.items()
        )
        # Two values may have one hash; their lines are distinguished when they are read.
        database.executemany(
            "INSERT INTO postings VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)",
            rows,
        )
        self._offsets.clear()
        self._postings = 0
        self._writes += 1


def _both(found: set[int] | None, further: Iterable[int]) -> set[int]:
    return set(further) if found is None else found.intersection(further)


def _term(salt: bytes, kind: str, value: str) -> int:
    digest = blake2b(f"{kind}:{value}".encode("utf-8", "surrogatepass"), digest_size=8, key=salt).digest()
    return int.from_bytes(digest, "big", signed=True)


def _no_offsets(part: Part) -> _Offsets:
    """Return an empty array that has room for every offset in a segment."""
    return array("I" if (part.sealed_bytes or 0) < 1 << 32 else "Q")


def _content(part: Part) -> Iterator[Lines]:
    """Yield the lines of a sealed segment up to its sealed end; nothing more from where it can't be read."""
    end = part.sealed_bytes
    assert end is not None  # noqa: S101
    try:
        # If it is missing or damaged, the query that reads it without the index says so.
        file = open_part(part, Damage(skip=True))
        if file is None:
            return
        with file:
            for chunk in read_lines(file):
                yield Lines(chunk.offset, chunk.data[: end - chunk.offset])
                if chunk.offset + len(chunk.data) >= end:
                    return
    except (OSError, *DAMAGED_ARCHIVE):
        return


def _stamp(part: Part) -> tuple[int, int] | None:
    """Return what changes when a segment's file does; None if there is no file."""
    directory, name = part.segment.log.directory, part.segment.name
    for path in (f"{directory}/{name}", f"{directory}/{ARCHIVE}/{name}.zst"):
        with suppress(OSError):
            status = os.stat(path, follow_symlinks=False)
            return status.st_size, status.st_ctime_ns
    return None
