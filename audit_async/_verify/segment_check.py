"""Checking one segment, or a part of one: its lines by the chain, its bytes by their SHA-256, and what it tells.

A check depends on nothing but its task, so that segments may be checked in any order and in any process; what it
found comes back as a verdict, from which `verify` makes the report. Memory does not grow with the segment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from audit_async._chain import Head
from audit_async._chain.bulk_check import Bad, ChainWalk, Good
from audit_async._chain.record_check import Members
from audit_async._layout.crash_traces import torn_by_crash
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, SegmentName
from audit_async._trail.log_files import (
    DAMAGED_ARCHIVE,
    Lines,
    Log,
    SegmentFile,
    open_regular,
    open_segment,
    read_lines,
)
from audit_async._verify.repeated_ids import AuditIds, IdRun
from audit_async._verify.verify_report import MOST_FINDINGS, FindingKind
from audit_async.errors import LogCorrupted

#: Clocks of several threads differ by microseconds; what is reported is a clock that was set back.
CLOCK_TOLERANCE_S: Final = 1.0
#: What is made of so many bytes of lines stays in the processor's cache: a tenth faster than 1 MiB (bench verify).
_CHUNK_BYTES: Final = 64 << 10
#: Notes of one kind, and records of the log's own life, that are kept of one segment.
_MOST_TOLD: Final = 10_000

_OWN_EVENT: Final = b'{"event_type":"audit.'
_OWN_MEMBER: Final = b'"event":' + _OWN_EVENT
_decode_event: Final = msgspec.json.Decoder(dict[str, object]).decode
#: Of `by_type` nothing is made, and it may be long.
_UNTOLD: Final = frozenset({"event_type", "by_type"})


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be checked."""

    directory: str
    service_id: str  #: of log.json, which every record must have; empty where that is not known
    segment: str
    sealed: SealedSegment | None
    after: tuple[int, str] | None  #: the chain's head before its first line; None where that is not known
    begin: int = 0  #: lines that begin at this byte or behind it
    end: int | None = None  #: and before this one
    until_seq: int | None = None  #: lines at or past the first seq of the next file are void copies
    is_last: bool = False  #: a crash may have torn its end
    watched: tuple[int, ...] = ()  #: sequence numbers whose hashes are asked for

    @property
    def is_part(self) -> bool:
        """True where this is not a whole segment, so that nothing can be said of its boundaries."""
        return self.begin > 0 or (self.end is not None and self.sealed is not None and self.end < self.sealed.bytes)

    @property
    def file(self) -> SegmentFile:
        """The segment as `trail` knows it."""
        directory = Path(self.directory)
        name = SegmentName.parse(self.segment)
        assert name is not None  # noqa: S101 - only such files are checked
        log = Log(directory, directory.parent.name, directory.name, "")
        return SegmentFile(log, self.segment, name.first_seq, name.date, self.sealed)


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A finding in one segment."""

    kind: FindingKind
    reason: str
    line: int | None = None
    seq: int | None = None
    offset: int | None = None


class Edge(msgspec.Struct, frozen=True):
    """The first or the last record that was read."""

    seq: int
    prev_hash: str
    hash: str
    timestamp: str


class Told(msgspec.Struct, frozen=True):
    """A record of the log's own life: an `audit.*` event."""

    seq: int
    type: str
    event: dict[str, object]


class ClockStep(msgspec.Struct, frozen=True):
    """A timestamp that is before that of the record before it."""

    seq: int
    seconds: float


class Verdict(msgspec.Struct, kw_only=True):
    """What became of a task."""

    spots: list[Spot] = []
    more_spots: int = 0  #: that were not kept
    gone: bool = False  #: the file is not there
    first: Edge | None = None
    last: Edge | None = None
    lines: int = 0
    records: int = 0  #: that hold
    bytes: int = 0
    sha256: str = ""  #: of these bytes
    archive_sha256: str = ""  #: of the compressed file, where there is one
    id_runs: list[IdRun] = []
    told: list[Told] = []
    more_told: int = 0
    clock: list[ClockStep] = []
    more_clock: int = 0
    watched: dict[int, str] = {}
    torn_at: int | None = None  #: where what a crash has torn begins
    torn: str = ""  #: and how
    void_at: int | None = None  #: where void copies begin

    def find(self, spot: Spot) -> None:
        """Keep a finding, or count it."""
        if len(self.spots) < MOST_FINDINGS:
            self.spots.append(spot)
        else:
            self.more_spots += 1


def check_segment(task: Task, progress: Callable[[int, int], None] | None = None) -> Verdict:
    """Check what the task names; `progress` is told of bytes and records, as they come.

    Never raises for anything that files hold or for files that can't be read: that is a finding.
    """
    verdict = Verdict()
    try:
        with open_segment(task.file) as file:
            _Check(task, verdict, file).run(progress)
        if task.sealed is not None and task.sealed.state == "archived":
            verdict.archive_sha256 = _archive_sha256(task)
    except FileNotFoundError:
        verdict.gone = True
    except LogCorrupted as error:
        verdict.find(Spot(kind="segment", reason=error.reason))
    except OSError as error:
        verdict.find(Spot(kind="segment", reason=f"it can't be read: {error.strerror or type(error).__name__}"))
    except DAMAGED_ARCHIVE:
        verdict.find(Spot(kind="segment", reason="its archive can't be decompressed", seq=_due(verdict, task)))
    if not (verdict.gone or verdict.spots or task.is_part):
        _compare_with_name(task.file, verdict)
        if task.sealed is not None:
            _compare_with_manifest(task.sealed, verdict)
    return verdict


class _Check:
    """One run over one file."""

    def __init__(self, task: Task, verdict: Verdict, file: BinaryIO) -> None:
        self._task = task
        self._verdict = verdict
        self._file = file
        after = Head(task.after[0], task.after[1].encode()) if task.after is not None else None
        self._walk = ChainWalk(after, offset=task.begin)
        self._ids = AuditIds()
        self._watched = frozenset(task.watched)
        self._digest = hashlib.sha256()

    def run(self, progress: Callable[[int, int], None] | None) -> None:
        verdict, end = self._verdict, self._task.end
        begin: int | None = self._task.begin
        if self._task.is_last:
            # A writer may go on writing faster than this reads; what it adds from now on is for the next reader.
            size = self._size()
            end = size if end is None else min(size, end)
        while begin is not None:
            for chunk in _lines_between(self._file, begin, end):
                records = verdict.records
                begin = self._check_chunk(chunk)
                if progress is not None:
                    progress(len(chunk.data), verdict.records - records)
                if begin is not None or verdict.void_at is not None or verdict.torn_at is not None:
                    break
            else:
                begin = None
        verdict.sha256 = self._digest.hexdigest()
        verdict.id_runs = self._ids.runs

    def _check_chunk(self, chunk: Lines) -> int | None:
        """Check a chunk; return where to read again, because a line that was torn is whole by now."""
        data = chunk.data
        if chunk.continues:
            end = data.find(b"\n") + 1 or len(data)
            self._digest.update(data[:end])
            self._walk.skip(end)
            data = data[end:]
        end = data.rfind(b"\n") + 1
        self._digest.update(data[:end])
        self._verdict.bytes += end
        for outcome in self._walk.walk(data[:end]):
            if not self._take(outcome):
                return None
        torn = data[end:]
        if torn:
            offset = self._walk.offset
            if self._task.is_last and not chunk.is_cut and self._size() > offset + len(torn):
                return offset
            self._digest.update(torn)
            self._take(self._walk.walk_torn(torn))
        return None

    def _take(self, outcome: Good | Bad) -> bool:
        verdict, task = self._verdict, self._task
        if isinstance(outcome, Bad):
            if task.until_seq is not None and outcome.seq == task.until_seq:
                verdict.void_at = outcome.offset
                return False
            if task.is_last and not verdict.spots and self._is_torn(outcome.offset):
                return False
            verdict.lines += 1
            kind: FindingKind = "record"
            if outcome.record is not None:
                kind = "link" if outcome.reason.startswith("prev_hash") else "sequence"
            verdict.find(
                Spot(kind=kind, reason=outcome.reason, line=outcome.line, seq=outcome.seq, offset=outcome.offset)
            )
            return True
        first_seq, last_seq = outcome.records[0].seq, outcome.records[-1].seq
        if task.until_seq is not None and last_seq >= task.until_seq:
            count = max(0, task.until_seq - first_seq)
            verdict.void_at = outcome.offset + _size_of_lines(outcome.data, count)
            if count:
                self._note(_first_lines(outcome, count))
            return False
        self._note(outcome)
        return True

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _is_torn(self, offset: int) -> bool:
        """Return whether a crash explains what begins at `offset`."""
        at = self._file.tell()
        torn = torn_by_crash(self._file, offset)
        self._file.seek(at)
        if torn is not None:
            self._verdict.torn_at, self._verdict.torn = offset, torn
        return torn is not None

    def _note(self, good: Good) -> None:
        """Take from good lines what the report needs of them."""
        verdict, records, timestamps = self._verdict, good.records, good.timestamps
        before = verdict.last.timestamp if verdict.last is not None else ""
        verdict.lines += len(records)
        verdict.records += len(records)
        if verdict.first is None:
            verdict.first = _edge(records[0])
        verdict.last = _edge(records[-1])
        if timestamps[0] < before or timestamps != sorted(timestamps):
            self._note_clock(before or timestamps[0], records)
        again = self._ids.add(good.audit_ids, len(records))
        if again is not None:
            self._find_in(good, again, "audit_id", "its audit_id was given to a record before")
        services = {record.service_id for record in records}
        if self._task.service_id and services != {self._task.service_id}:
            index = [record.service_id != self._task.service_id for record in records].index(True)
            self._find_in(good, index, "identity", "it is not of the service that log.json names")
        if self._watched:
            seqs = self._watched.intersection(range(records[0].seq, records[-1].seq + 1))
            verdict.watched.update((seq, records[seq - records[0].seq].hash) for seq in seqs)
        if _OWN_MEMBER in good.data:
            for record in records:
                event = bytes(record.event)
                if event.startswith(_OWN_EVENT):
                    self._note_told(record.seq, event)

    def _find_in(self, good: Good, index: int, kind: FindingKind, reason: str) -> None:
        offset = good.offset + _size_of_lines(good.data, index)
        seq = good.records[index].seq
        self._verdict.find(Spot(kind=kind, reason=reason, line=good.line + index, seq=seq, offset=offset))

    def _note_told(self, seq: int, event: bytes) -> None:
        try:
            told = _decode_event(event)
        except msgspec.MsgspecError:  # none of the library's: it writes no number that can't be read
            return
        if len(self._verdict.told) < _MOST_TOLD:
            self._verdict.told.append(Told(seq, str(told["event_type"]), _short(told)))
        else:
            self._verdict.more_told += 1

    def _note_clock(self, before: str, records: list[Members]) -> None:
        for record in records:
            seconds = seconds_back(before, record.timestamp)
            if seconds > CLOCK_TOLERANCE_S:
                if len(self._verdict.clock) < _MOST_TOLD:
                    self._verdict.clock.append(ClockStep(record.seq, seconds))
                else:
                    self._verdict.more_clock += 1
            before = record.timestamp


def _size_of_lines(data: bytes, count: int) -> int:
    return sum(len(line) + 1 for line in data.split(b"\n")[:count])


def _first_lines(good: Good, count: int) -> Good:
    """Return the first of the lines that hold."""
    return good._replace(
        data=good.data[: _size_of_lines(good.data, count)],
        records=good.records[:count],
        audit_ids="".join(good.audit_ids.splitlines(keepends=True)[:count]),
        timestamps=good.timestamps[:count],
    )


def seconds_back(before: str, timestamp: str) -> float:
    """Return by how much a timestamp is before another; 0 where it is not, or where either is no moment in time."""
    if timestamp >= before:
        return 0.0
    try:
        return (datetime.fromisoformat(before) - datetime.fromisoformat(timestamp)).total_seconds()
    except ValueError:
        return 0.0


def _compare_with_name(file: SegmentFile, verdict: Verdict) -> None:
    """Compare the first record with what the file is named for."""
    first = verdict.first
    if first is not None and first.seq != file.first_seq:
        reason = f"it is named for seq {file.first_seq}, but begins with {first.seq}"
        verdict.find(Spot(kind="segment", reason=reason, line=1, seq=file.first_seq, offset=0))
    elif first is not None and first.timestamp[:10] != file.date:
        reason = "it is named for another date than that of its first record"
        verdict.find(Spot(kind="segment", reason=reason, line=1, seq=file.first_seq, offset=0))


def _compare_with_manifest(sealed: SealedSegment, verdict: Verdict) -> None:
    """Compare a segment whose lines all hold with what was sealed."""
    first, last = verdict.first, verdict.last
    if first is None or last is None:
        verdict.find(Spot(kind="segment", reason="it is empty", seq=sealed.first_seq))
    elif last.seq < sealed.last_seq:
        reason = f"it ends with seq {last.seq}, but was sealed with {sealed.last_seq}: records were cut off"
        verdict.find(
            Spot(kind="segment", reason=reason, line=verdict.lines + 1, seq=last.seq + 1, offset=verdict.bytes)
        )
    elif last.seq > sealed.last_seq:
        reason = f"it ends with seq {last.seq}, but was sealed with {sealed.last_seq}: records were added"
        verdict.find(Spot(kind="segment", reason=reason, seq=sealed.last_seq + 1))
    elif last.hash != sealed.hash:
        reason = "the hash of its last record is not the one that was sealed"
        verdict.find(Spot(kind="manifest", reason=reason, line=verdict.lines, seq=last.seq))
    elif verdict.sha256 != sealed.sha256 or verdict.bytes != sealed.bytes:
        reason = "its size or SHA-256 is not the one in the manifest, though each of its records holds"
        verdict.find(Spot(kind="manifest", reason=reason, seq=sealed.first_seq))
    elif (first.timestamp, last.timestamp) != (sealed.first_timestamp, sealed.last_timestamp):
        verdict.find(Spot(kind="manifest", reason="its times are not those in the manifest", seq=sealed.first_seq))


def _lines_between(file: BinaryIO, begin: int, end: int | None) -> Iterator[Lines]:
    """Read the lines that begin at or behind `begin` and before `end`."""
    if begin:
        file.seek(begin)
    for chunk in read_lines(file, offset=begin, chunk_bytes=_CHUNK_BYTES):
        size = None if end is None else end - chunk.offset
        if size is not None and len(chunk.data) >= size:
            cut = chunk.data.find(b"\n", max(0, size - 1)) + 1
            if cut:
                yield chunk._replace(data=chunk.data[:cut])
                return
        yield chunk


def _archive_sha256(task: Task) -> str:
    with open_regular(Path(task.directory) / ARCHIVE / f"{task.segment}.zst") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(event: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in event.items() if name not in _UNTOLD}


def _edge(record: Members) -> Edge:
    return Edge(record.seq, record.prev_hash, record.hash, record.timestamp)


def _due(verdict: Verdict, task: Task) -> int | None:
    if verdict.last is not None:
        return verdict.last.seq + 1
    return task.sealed.first_seq if task.sealed is not None else None
