"""Answering a query: which segments are read and how, and the merging of several logs by time.

Everything here blocks and is plain iteration; `audit_async.reader` runs it in a worker thread, a piece at a time.
Whenever None is yielded, nothing was found, but time has passed.

A segment is left out by the sequence numbers in the manifest, which are exact. By time it is left out only if the
index knows the earliest and the latest time in it: the manifest has those of its first and last record, and if the
clock was set back, or was wrong for a while, others lie outside them. Without the index, the lines of a segment that
seems to lie outside are searched as bytes for the time that is wanted, at some gigabytes a second.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import BinaryIO

from msgspec import UNSET

from audit_async._chain import BadRecord
from audit_async._query.audit_query import AuditQuery
from audit_async._query.index_file import IndexWrong
from audit_async._query.matching import Filter
from audit_async._query.open_files import OpenFiles, open_file_limit
from audit_async._query.segment_scan import (
    Damage,
    Found,
    candidate_lines,
    check,
    open_part,
    part_unreadable,
    scan,
    unpacked,
)
from audit_async._query.term_index import LogIndex, Place, pages_to_search
from audit_async._query.time_merge import Stream, merge
from audit_async._trail.log_files import CHUNK_BYTES, DAMAGED_ARCHIVE, Lines, Log, SegmentDeleted
from audit_async._trail.segment_parts import Part, Range, parts_of


class Search:
    """One query put to several logs: an iterator of what is found, and of None. From one thread at a time."""

    def __init__(
        self,
        logs: Sequence[Log],
        query: AuditQuery,
        damage: Damage,
        *,
        reached: Mapping[str, int] | None = None,
        use_index: bool = True,
        wanted: Filter | None = None,
        likely: Mapping[tuple[str, str], Sequence[Place]] | None = None,
    ) -> None:
        """Put `query` to these logs, as `wanted` understands it.

        `likely` has, by log id and segment, where lines are that may be wanted, of segments that were searched already.
        `reached` is how far a page before this one came, as its search said; None for the first.
        """
        self._newest_first = query.newest_first
        self._damage = damage
        self._ranges = [still_wanted(log, query, reached) for log in logs]
        wanted = wanted if wanted is not None else Filter(query)
        # A merge reads from all logs at once; fewer logs than files may be open need no watching of their files.
        self._files = OpenFiles(len(logs)) if len(logs) > open_file_limit() else None
        self._streams = [
            Stream(
                log.name,
                _search_log(
                    log,
                    wanted,
                    seqs,
                    damage,
                    newest_first=query.newest_first,
                    use_index=use_index,
                    likely=likely or {},
                    files=self._files,
                ),
            )
            for log, seqs in zip(logs, self._ranges, strict=True)
        ]

    def __iter__(self) -> Iterator[Found | None]:
        return self.run()

    def run(self) -> Generator[Found | None, None, None]:
        """Yield what is found, merged by time; closing it closes all files. Once.

        Raises `TrailUnreadable` at the end if something encrypted was not searched; whoever ends it earlier asks
        `damage.require_searched` itself.
        """
        try:
            yield from merge(self._streams, newest_first=self._newest_first)
            self._damage.require_searched()
        finally:
            if self._files is not None:
                self._files.close()

    @property
    def reached(self) -> dict[str, int]:
        """How far each log was read, for a cursor: the last seq that was yielded, or with `newest_first` the first."""
        return {
            stream.log_name: self._reached(stream, seqs)
            for stream, seqs in zip(self._streams, self._ranges, strict=True)
        }

    def _reached(self, stream: Stream, seqs: Range) -> int:
        if stream.taken is not None:
            return stream.taken.seq
        if not self._newest_first:
            return seqs.after
        if stream.next is not None:
            return stream.next.seq + 1  # what is written from now on is newer than what was yielded
        return 0 if stream.is_exhausted else seqs.before


def count_wanted(
    logs: Sequence[Log],
    query: AuditQuery,
    wanted: Filter,
    damage: Damage,
    *,
    use_index: bool = True,
    likely: Mapping[tuple[str, str], Sequence[Place]] | None = None,
) -> Generator[tuple[str, int] | None, None, None]:
    """Yield the name of each log, and how many records `query` wants of it as `wanted` understands it; and None.

    One log after the other, so no more than one file is open. A limit holds for all of them together.
    """
    left = query.limit
    for log in logs:
        counted = 0
        if left is None or left > 0:
            search = Search([log], query, damage, use_index=use_index, wanted=wanted, likely=likely)
            with closing(search.run()) as found:
                for one in found:
                    if one is None:
                        yield None
                        continue
                    counted += 1
                    if counted == left:
                        break
            left = left - counted if left is not None else None
        yield log.name, counted


def still_wanted(log: Log, query: AuditQuery, reached: Mapping[str, int] | None) -> Range:
    """Return what a query wants of a log, by sequence number; `reached` is how far pages before this one came."""
    after = query.after_seq if query.after_seq is not None else -1
    if reached is None:
        return Range(after)
    if query.newest_first:
        # A log that was not there when the first page was read has nothing that is older than that.
        return Range(after, reached.get(log.name, 0))
    return Range(max(after, reached.get(log.name, -1)))


def _search_log(
    log: Log,
    wanted: Filter,
    seqs: Range,
    damage: Damage,
    *,
    newest_first: bool,
    use_index: bool,
    likely: Mapping[tuple[str, str], Sequence[Place]],
    files: OpenFiles | None,
) -> Generator[Found | None, None, None]:
    """Yield what is wanted of one log, in the order of its chain or against it."""
    parts = parts_of(log)
    index = None
    if use_index and wanted.is_indexed:
        index = LogIndex(log)
    for part in reversed(parts) if newest_first else parts:
        if not part.overlaps(seqs) or not may_hold(part, wanted):
            continue
        left = seqs
        pages = likely.get((log.log_id, part.segment.name))
        if pages is not None or (index is not None and part.segment.sealed is not None):
            try:
                if pages is None and index is not None:
                    pages = yield from look_up_pages(index, part, wanted)
                if pages is not None:
                    for found in search_pages(
                        part, pages, wanted, seqs, damage, newest_first=newest_first, files=files
                    ):
                        yield found
                        if found is not None:
                            left = _beyond(left, found.seq, newest_first=newest_first)
                    continue
            except IndexWrong:
                if index is not None:
                    index.drop(part)
        yield from scan(part, wanted, left, damage, newest_first=newest_first, files=files)


def may_hold(part: Part, wanted: Filter) -> bool:
    """Return whether an encrypted segment may hold what is wanted: its times are known to the manifest exactly."""
    entry = part.segment.sealed
    if entry is None or entry.encrypted is UNSET:
        return True
    return wanted.may_overlap(entry.encrypted.earliest, entry.encrypted.latest)


def _beyond(seqs: Range, seq: int, *, newest_first: bool) -> Range:
    return Range(seqs.after, seq) if newest_first else Range(seq, seqs.before)


def look_up_pages(index: LogIndex, part: Part, wanted: Filter) -> Generator[None, None, Sequence[Place] | None]:
    """Return the pages of a sealed segment with lines that may be wanted; None if it has to be scanned."""
    with index.opened(part) as opened:
        if opened is None or not (yield from index.is_current(part, opened)):
            return None
        if not wanted.may_overlap(opened.header.earliest, opened.header.latest):
            return ()
        return pages_to_search(opened, wanted)


def search_pages(
    part: Part,
    pages: Sequence[Place],
    wanted: Filter,
    seqs: Range,
    damage: Damage,
    *,
    newest_first: bool,
    files: OpenFiles | None,
) -> Iterator[Found | None]:
    """Yield those records that are wanted on pages of a segment; raises `IndexWrong` if a line there is none."""
    if not pages:
        return
    file = open_part(part, damage, files)
    if file is None:
        return
    try:
        if newest_first and not file.seekable():
            file = yield from unpacked(file, files)
        for page in _pages_of(file, reversed(pages) if newest_first else pages):
            yield from _wanted_on(page, part, wanted, seqs, newest_first=newest_first)
            yield None
    except (BadRecord, *DAMAGED_ARCHIVE) as error:
        raise IndexWrong from error
    except SegmentDeleted:
        return  # by retention, between two pages of it
    except OSError as error:
        raise part_unreadable(part, error) from error
    finally:
        file.close()


def _wanted_on(page: Lines, part: Part, wanted: Filter, seqs: Range, *, newest_first: bool) -> Iterator[Found]:
    """Yield the records that are wanted among lines; raises `BadRecord`."""
    places = candidate_lines(page.data, wanted.needles)
    for begin, end in reversed(list(places)) if newest_first else places:
        found = check(page.data[begin:end], page.offset + begin, part, wanted, seqs)
        if found is not None:
            yield found


def _pages_of(file: BinaryIO, pages: Iterable[Place]) -> Iterator[Lines]:
    """Yield the lines on each page; of an archive the pages must ascend. Raises `IndexWrong`."""
    at = 0
    for begin, end in pages:
        if file.seekable():
            file.seek(begin)
        else:
            _skip(file, begin - at)
        data = file.read(end - begin)
        at = begin + len(data)
        if at < end:
            raise IndexWrong
        yield Lines(begin, data)


def _skip(file: BinaryIO, size: int) -> None:
    """Read over `size` bytes of an archive."""
    while size > 0:
        passed = len(file.read(min(size, CHUNK_BYTES)))
        if not passed:
            raise IndexWrong
        size -= passed
