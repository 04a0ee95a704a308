"""The records that an export takes: those of a query, in its order, checked as a query checks them, many at a time.

A query that goes from the beginning to the end reads whole chunks of a segment and checks all lines that may be wanted
at once; only if one of them deviates in any way is each checked by itself, by the query's own check. So this can be
slow, but never says anything else than the query. What an index finds, and what is wanted from the end to the
beginning, is read as a query reads it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from heapq import heapify, heappop, heapreplace
from itertools import compress, islice, repeat
from typing import Final, NamedTuple

import msgspec

from audit_async._chain.bulk_check import are_readable, check_unlinked
from audit_async._chain.record_check import Members
from audit_async._query.audit_query import AuditQuery
from audit_async._query.index_file import IndexWrong
from audit_async._query.matching import Filter
from audit_async._query.open_files import OpenFiles, open_file_limit
from audit_async._query.recorded_members import read_all_said
from audit_async._query.search import Search, look_up_pages, may_hold, search_pages, still_wanted
from audit_async._query.segment_scan import (
    Damage,
    Found,
    candidate_lines,
    chunks_of,
    is_elsewhere,
    last_seq_of,
    wanted_in,
)
from audit_async._query.term_index import LogIndex, Place
from audit_async._trail.log_files import Lines, Log
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async.errors import LogCorrupted

__all__ = ["RecordBlock", "blocks_of", "last_seqs_of", "merged"]

#: A block of records from several logs, or from an index, has no more than these.
_BLOCK_LINES: Final = 500
_BLOCK_BYTES: Final = 1 << 20
#: If an index leaves more of a segment to be searched, reading all of it, checked in bulk, costs less.
_DENSE: Final = 0.5


class RecordBlock(NamedTuple):
    """Some records, one after the other in the order of the export."""

    lines: list[bytes]  #: as they were recorded, each with its line end
    sources: list[tuple[Log, int]]  #: the log that each of the next so many lines is from
    records: list[Members] | None = None  #: what the lines say, if it is at hand

    def head(self, count: int) -> RecordBlock:
        """Return its first records, `count` of them."""
        sources: list[tuple[Log, int]] = []
        left = count
        for log, lines in self.sources:
            sources.append((log, min(lines, left)))
            left -= lines
            if left <= 0:
                break
        return RecordBlock(self.lines[:count], sources, self.records and self.records[:count])


def last_seqs_of(logs: Sequence[Log]) -> dict[str, int]:
    """Return the last sequence number of each log by its name, -1 for one without records. Raises as a search does."""
    return {log.name: _last_seq(log) for log in logs}


def _last_seq(log: Log) -> int:
    for part in reversed(parts_of(log)):
        if (seq := last_seq_of(part, Damage(skip=True))) is not None:
            return seq
    return -1


def merged(blocks: Sequence[RecordBlock]) -> RecordBlock:
    """Return the records of several blocks, one after the other, as one."""
    if len(blocks) == 1:
        return blocks[0]
    known = [block.records for block in blocks if block.records is not None]
    return RecordBlock(
        [line for block in blocks for line in block.lines],
        [source for block in blocks for source in block.sources],
        [record for records in known for record in records] if len(known) == len(blocks) else None,
    )


class _Run(NamedTuple):
    """Records of one log, in the order of its chain."""

    lines: list[bytes]
    timestamps: list[str]
    records: list[Members] | None = None  #: what the lines say, if it is at hand


def blocks_of(
    logs: Sequence[Log],
    query: AuditQuery,
    damage: Damage,
    *,
    use_index: bool,
    ends: Mapping[str, int] | None = None,
    wanted: Filter | None = None,
) -> Generator[RecordBlock | None, None, None]:
    """Yield the records that `query` wants, no more than its limit, in its order; None says that time has passed.

    `wanted` is how the query is understood, if otherwise than `Filter` does.
    `ends` has the last sequence number of logs that are not to be read to their end, which excludes `newest_first`.
    Closing the generator closes all files. Raises as a search does.
    """
    wanted = wanted if wanted is not None else Filter(query)
    if query.newest_first:
        assert ends is None  # noqa: S101 - nobody asks for both
        blocks = _from_end(logs, query, wanted, damage, use_index=use_index)
    else:
        blocks = _from_beginning(logs, query, wanted, damage, use_index=use_index, ends=ends or {})
    left = query.limit
    with closing(blocks):
        for block in blocks:
            if block is not None and left is not None:
                if len(block.lines) >= left:
                    yield block.head(left)
                    break
                left -= len(block.lines)
            yield block
    damage.require_searched()


def _from_end(
    logs: Sequence[Log], query: AuditQuery, wanted: Filter, damage: Damage, *, use_index: bool
) -> Generator[RecordBlock | None, None, None]:
    most = min(_BLOCK_LINES, query.limit or _BLOCK_LINES)
    lines: list[bytes] = []
    sources: list[tuple[Log, int]] = []
    with closing(Search(logs, query, damage, use_index=use_index, wanted=wanted).run()) as search:
        for found in search:
            if found is not None:
                lines.append(found.line)
                sources.append((found.log, 1))
            if lines and (found is None or len(lines) >= most):
                yield RecordBlock(lines, sources)
                lines, sources = [], []
            if found is None:
                yield None
    if lines:
        yield RecordBlock(lines, sources)


def _from_beginning(
    logs: Sequence[Log],
    query: AuditQuery,
    wanted: Filter,
    damage: Damage,
    *,
    use_index: bool,
    ends: Mapping[str, int],
) -> Generator[RecordBlock | None, None, None]:
    def range_of(log: Log) -> Range:
        seqs = still_wanted(log, query, None)
        return Range(seqs.after, ends[log.name] + 1) if log.name in ends else seqs

    # All logs are read at once; fewer logs than files may be open need no watching of their files.
    files = OpenFiles(len(logs)) if len(logs) > open_file_limit() else None
    streams = [
        _Stream(log, _runs_of(log, wanted, range_of(log), damage, use_index=use_index, files=files)) for log in logs
    ]
    try:
        if len(streams) != 1:
            yield from _merged_by_time(streams)
            return
        for run in streams[0].runs:
            if run is not None and run.lines:
                yield RecordBlock(run.lines, [(logs[0], len(run.lines))], run.records)
            else:
                yield None
    finally:
        for stream in streams:
            stream.runs.close()
        if files is not None:
            files.close()


# -- one log ------------------------------------------------------------------------------------------------------


def _runs_of(
    log: Log, wanted: Filter, seqs: Range, damage: Damage, *, use_index: bool, files: OpenFiles | None
) -> Generator[_Run | None, None, None]:
    """Yield what is wanted of one log, in the order of its chain."""
    index = None
    if use_index and wanted.is_indexed:
        index = LogIndex(log)
    for part in parts_of(log):
        if not part.overlaps(seqs) or not may_hold(part, wanted):
            continue
        left = seqs
        if index is not None and part.sealed_bytes is not None:
            try:
                pages = yield from look_up_pages(index, part, wanted)
                if pages is not None and sum(end - begin for begin, end in pages) <= _DENSE * part.sealed_bytes:
                    for run, last_seq in _hits(part, pages, wanted, seqs, damage, files=files):
                        yield run
                        left = Range(last_seq, seqs.before) if last_seq is not None else left
                    continue
            except IndexWrong:
                index.drop(part)
        # By `map`, so that nothing here holds a chunk while another log is read.
        wanted_of = partial(_wanted_in, part=part, wanted=wanted, seqs=left, damage=damage)
        for run, error in map(wanted_of, chunks_of(part, left, damage, files=files)):
            yield run
            if error is not None:
                raise error


def _hits(
    part: Part, pages: Sequence[Place], wanted: Filter, seqs: Range, damage: Damage, *, files: OpenFiles | None
) -> Iterator[tuple[_Run | None, int | None]]:
    """Yield what is wanted on these pages, each time with its last sequence number."""
    hits = search_pages(part, pages, wanted, seqs, damage, newest_first=False, files=files)
    while batch := list(islice(hits, _BLOCK_LINES)):
        found = [one for one in batch if one is not None]
        if found:
            yield _run_of(found), found[-1].seq
        else:
            yield None, None


def _wanted_in(
    chunk: Lines | None, *, part: Part, wanted: Filter, seqs: Range, damage: Damage
) -> tuple[_Run | None, LogCorrupted | None]:
    """Return what is wanted among lines, up to damage; as `segment_scan.wanted_in`, which decides what is damage."""
    if chunk is None:
        return None, None
    data = chunk.data
    if wanted.needles:
        data = b"".join([data[begin:end] for begin, end in candidate_lines(data, wanted.needles)])
    is_whole = part.until_seq is not None and seqs.after < part.segment.first_seq and part.until_seq <= seqs.before
    if wanted.asks_for_times or not (is_whole or seqs == _EVERY_SEQ):
        lines = [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")]
        data = b"".join([line for line in lines if not is_elsewhere(line, wanted, seqs)])
    run = _checked(data, wanted, seqs, part.segment.log.log_id) if data else _Run([], [])
    if run is not None:
        return run, None
    found: list[Found] = []
    try:
        found.extend(wanted_in(chunk, part, wanted, seqs, damage))
    except LogCorrupted as error:
        return _run_of(found), error
    return _run_of(found), None


def _run_of(found: Sequence[Found]) -> _Run:
    return _Run([one.line for one in found], [one.timestamp for one in found])


_EVERY_SEQ: Final = Range()


def _checked(data: bytes, wanted: Filter, seqs: Range, log_id: str) -> _Run | None:
    """Return those of whole lines that are wanted for what they say; None if any of them is to be checked by itself."""
    records = check_unlinked(data)
    if records is None or not all(seqs.holds(record.seq) for record in records):
        return None
    lines = data.splitlines(keepends=True)  # none of them holds another line end than its own
    if wanted.is_open:
        return _Run(lines, [record.timestamp for record in records], records) if are_readable(records) else None
    try:
        are_wanted = list(map(wanted.wants_said, read_all_said(data), repeat(log_id)))
    except msgspec.MsgspecError:  # a number that is too large to be read
        return None
    records = list(compress(records, are_wanted))
    return _Run(list(compress(lines, are_wanted)), [record.timestamp for record in records], records)


# -- several logs -------------------------------------------------------------------------------------------------


class _Stream:
    """What is wanted of one log, and how far it was taken. Owned by one merge."""

    __slots__ = ("at", "lines", "log", "runs", "timestamps")

    def __init__(self, log: Log, runs: Generator[_Run | None, None, None]) -> None:
        self.log = log
        self.runs = runs
        self.lines: list[bytes] = []
        self.timestamps: list[str] = []
        self.at = 0  #: of the next line; the number of lines if nothing is left

    def fill(self) -> Generator[None, None, bool]:
        """Go on to the next lines, if all were taken; return whether there are any. None says that time has passed."""
        while self.at == len(self.lines):
            run = next(self.runs, _END)
            if run is _END:
                self.lines, self.timestamps, self.at = [], [], 0
                return False
            if run is None:
                yield None
            else:
                self.lines, self.timestamps, self.at = run.lines, run.timestamps, 0
                if run.records is not None:
                    run.records.clear()  # half of the memory, and a merge of many logs has no use for them
        return True

    def take_until(self, other: tuple[str, str] | None) -> list[bytes]:
        """Return the next line, and those after it that come before the time and the log name of `other`."""
        at, timestamps, name = self.at + 1, self.timestamps, self.log.name
        end = len(timestamps)
        while at < end and (other is None or (timestamps[at], name) < other):
            at += 1
        taken = self.lines[self.at : at]
        self.at = at
        return taken


_END: Final = _Run([], [])


def _merged_by_time(streams: Sequence[_Stream]) -> Generator[RecordBlock | None, None, None]:
    """Yield the records of several logs, of their next ones always the oldest; of equal times by the log's name.

    Each log's own order stays as it is, whatever its clock said.
    """
    due: list[tuple[str, str, int]] = []
    for number, stream in enumerate(streams):
        if (yield from stream.fill()):
            due.append((stream.timestamps[0], stream.log.name, number))
    heapify(due)
    lines: list[bytes] = []
    sources: list[tuple[Log, int]] = []
    size = 0
    try:
        while due:
            stream = streams[due[0][2]]
            taken = stream.take_until(min(due[1:3])[:2] if len(due) > 1 else None)
            lines += taken
            sources.append((stream.log, len(taken)))
            size += sum(map(len, taken))
            if len(lines) >= _BLOCK_LINES or size >= _BLOCK_BYTES:
                yield RecordBlock(lines, sources)
                lines, sources, size = [], [], 0
            if (yield from stream.fill()):
                heapreplace(due, (stream.timestamps[stream.at], stream.log.name, due[0][2]))
            else:
                heappop(due)
    except LogCorrupted:
        if lines:  # which may be all that is wanted
            yield RecordBlock(lines, sources)
        raise
    if lines:
        yield RecordBlock(lines, sources)
