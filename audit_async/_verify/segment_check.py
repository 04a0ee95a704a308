"""Checking one segment, or a part of one: its lines by the chain, its bytes by their SHA-256, and what it records.

A check depends on nothing but its task, so that segments may be checked in any order and in any process; what it
found comes back as a verdict, from which `judgement` makes the report. Memory does not grow with the segment.
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
from audit_async._chain.bulk_check import Bad, ChainChecker, Good
from audit_async._chain.record_check import Members
from audit_async._layout.age_files import ArchiveEncrypted
from audit_async._layout.crash_traces import torn_by_crash
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE
from audit_async._trail.log_files import (
    DAMAGED_ARCHIVE,
    LONGEST_LINE,
    Lines,
    SegmentFile,
    open_regular,
    open_segment,
    read_lines,
    why_unreadable,
)
from audit_async._verify.findings import Observation, Observations
from audit_async._verify.repeated_ids import AuditIds
from audit_async._verify.segment_verdict import LifecycleRecord, RecordPlace, SegmentTask, SegmentVerdict
from audit_async.errors import LogCorrupted

#: Clocks of several threads differ by microseconds; what is reported is a clock that was set back.
CLOCK_TOLERANCE_S: Final = 1.0
#: What is made of so many bytes of lines stays in the processor's cache: a tenth faster than 1 MiB (bench verify).
_CHUNK_BYTES: Final = 64 << 10
#: What a line says that is no record at all; many of them one after another are one finding.
_NO_RECORD: Final = frozenset({"not a whole record", "does not begin like a record of format version 1"})
#: Records of the log's own life that are kept of one segment.
_MOST_LIFECYCLE: Final = 10_000

_CR_LF: Final = b"\r\n"
_OWN_EVENT: Final = b'{"event_type":"audit.'
_OWN_MEMBER: Final = b'"event":' + _OWN_EVENT
_decode_event: Final = msgspec.json.Decoder(dict[str, object]).decode
#: Members that nothing is made of; `by_type` may be long.
_UNUSED: Final = frozenset({"event_type", "by_type"})


def check_segment(task: SegmentTask, progress: Callable[[int, int], None] | None = None) -> SegmentVerdict:
    """Check what the task names; `progress` is called with bytes and records, as they come.

    Of an encrypted archive that the task's identities don't open the file is checked, and its records are not.

    Never raises for anything that files hold or for files that can't be read: that is in the verdict.
    """
    verdict = SegmentVerdict(observed=Observations(log=task.log))
    observed, name, segment = verdict.observed, task.segment, task.file
    try:
        if task.sealed is not None and task.sealed.state == "archived":
            verdict.extent.archive_sha256 = _archive_sha256(task.directory, task.sealed, observed)
        with open_segment(segment) as file:
            _Check(task, verdict, file).run(progress)
    except ArchiveEncrypted:
        verdict.is_closed = True
    except (FileNotFoundError, NotADirectoryError):
        verdict.is_missing = True
    except LogCorrupted as error:
        observed.add(Observation.SEGMENT_NOT_A_FILE, segment=name, reason=error.reason)
    except OSError as error:
        is_archived = task.sealed is not None and task.sealed.state == "archived"
        file_name = f"{ARCHIVE}/{task.sealed.archive_file}" if task.sealed is not None and is_archived else name
        observed.add(Observation.UNREADABLE, segment=file_name, reason=why_unreadable(error))
    except DAMAGED_ARCHIVE:
        observed.add(Observation.ARCHIVE_DAMAGED, segment=name, seq=_due(verdict, task))
    if verdict.is_sound and not task.is_part:
        _compare_with_name(segment, verdict)
        if task.sealed is not None:
            _compare_with_manifest(task.sealed, verdict)
    elif verdict.is_sound and task.sealed is not None and task.end is None:
        _compare_end_with_manifest(task.sealed, task.begin, verdict)
    return verdict


class _Check:
    """One run over one file."""

    def __init__(self, task: SegmentTask, verdict: SegmentVerdict, file: BinaryIO) -> None:
        self._task = task
        self._verdict = verdict
        self._file = file
        after = Head(task.after[0], task.after[1].encode()) if task.after is not None else None
        self._checker = ChainChecker(after, offset=task.begin)
        self._ids = AuditIds()
        self._watched = frozenset(task.watched)
        self._digest = hashlib.sha256()
        # The first of several lines that are no records, and how many came after it.
        self._bad: Bad | None = None
        self._more_bad = 0
        self._resumes = task.resumes

    def run(self, progress: Callable[[int, int], None] | None) -> None:
        extent, stop = self._verdict.extent, self._verdict.end
        begin: int | None = self._task.begin
        end = self._task.end
        if end is not None:
            if self._file.readline(LONGEST_LINE).endswith(_CR_LF):
                end = None  # the file is longer because its lines are
            self._file.seek(0)
        if self._task.is_last:
            # A writer may go on writing faster than this reads; what it adds from now on is for the next reader.
            size = self._size()
            end = size if end is None else min(size, end)
        while begin is not None:
            for chunk in _lines_between(self._file, begin, end):
                records = extent.records
                begin = self._check_chunk(chunk)
                if progress is not None:
                    progress(len(chunk.data), extent.records - records)
                if begin is not None or stop.void_at is not None or stop.torn_at is not None:
                    break
            else:
                begin = None
        self._add_bad_run()
        extent.sha256 = self._digest.hexdigest()
        extent.is_cut_short = stop.void_at is not None or stop.torn_at is not None
        self._verdict.facts.id_runs = self._ids.runs

    def _check_chunk(self, chunk: Lines) -> int | None:
        """Check a chunk; return where to read again, because a line that was torn is whole by now."""
        data = chunk.data
        # No record has one: in JSON text a carriage return is escaped. To look for it alone first takes 1 us instead of
        # 140 us a chunk, half of what checking the chunk takes.
        if b"\r" in data and _CR_LF in data:
            data = data.replace(_CR_LF, b"\n")
            self._verdict.extent.converted = True
        if chunk.continues:
            end = data.find(b"\n") + 1 or len(data)
            self._digest.update(data[:end])
            self._checker.skip(end)
            data = data[end:]
        end = data.rfind(b"\n") + 1
        begin, before = self._checker.offset, self._digest.copy()
        self._digest.update(data[:end])
        self._verdict.extent.bytes += end
        for outcome in self._checker.check_lines(data[:end]):
            if not self._take(outcome):
                self._digest = before
                self._count_only(data, end, begin)
                return None
        torn = data[end:]
        if torn:
            offset = self._checker.offset
            is_growing = self._task.is_last and not chunk.is_cut and not self._verdict.extent.converted
            if is_growing and self._size() > offset + len(torn):
                return offset
            if self._take(self._checker.check_torn(torn)):
                self._digest.update(torn)
        return None

    def _count_only(self, data: bytes, counted: int, begin: int) -> None:
        """Count and hash of a chunk that begins at byte `begin` only what is part of the chain."""
        stop = self._verdict.end
        at = stop.void_at if stop.void_at is not None else stop.torn_at
        part = data[: (at or 0) - begin]
        self._digest.update(part)
        self._verdict.extent.bytes += len(part) - counted

    def _take(self, outcome: Good | Bad) -> bool:
        """Take an outcome over into the verdict; False if what follows is no part of the chain."""
        task, end = self._task, self._verdict.end
        if isinstance(outcome, Bad):
            if task.until_seq is not None and outcome.seq == task.until_seq:
                end.void_at = outcome.offset
                return False
            if self._may_be_torn and self._is_torn(outcome.offset):
                return False
            self._verdict.extent.lines += 1
            if self._bad is not None and outcome.reason == self._bad.reason:
                self._more_bad += 1
                return True
            self._add_bad_run()
            if outcome.reason in _NO_RECORD:
                self._bad = outcome
            else:
                self._add_bad(outcome)
            return True
        self._add_bad_run()
        first_seq, last_seq = outcome.records[0].seq, outcome.records[-1].seq
        if task.until_seq is not None and last_seq >= task.until_seq:
            count = max(0, task.until_seq - first_seq)
            end.void_at = outcome.offset + _size_of_lines(outcome.data, count)
            if count:
                self._take_good(_first_lines(outcome, count))
            return False
        self._take_good(outcome)
        return True

    @property
    def _may_be_torn(self) -> bool:
        """True if a crash may explain what is no record: nothing was found before it."""
        verdict = self._verdict
        return self._task.is_last and not (verdict.observed.found or self._bad or verdict.extent.converted)

    def _add_bad_run(self) -> None:
        """Add the lines before this one that are no records."""
        if self._bad is not None:
            self._add_bad(self._bad, self._more_bad)
        self._bad, self._more_bad = None, 0

    def _add_bad(self, bad: Bad, more: int = 0) -> None:
        what = Observation.BAD_RECORDS if more else Observation.BAD_RECORD
        if bad.record is not None:
            what = Observation.BAD_LINK if bad.reason.startswith("prev_hash") else Observation.BAD_SEQUENCE
        self._verdict.observed.add(
            what,
            segment=self._task.segment,
            line=bad.line,
            seq=bad.seq,
            byte_offset=bad.offset,
            reason=bad.reason,
            count=more,
        )

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _is_torn(self, offset: int) -> bool:
        """Return whether a crash explains what begins at `offset`."""
        at = self._file.tell()
        torn = torn_by_crash(self._file, offset)
        self._file.seek(at)
        if torn is not None:
            self._verdict.end.torn_at, self._verdict.end.torn_reason = offset, torn
        return torn is not None

    def _take_good(self, good: Good) -> None:
        """Take from good lines what the report needs of them."""
        extent, facts, records, timestamps = self._verdict.extent, self._verdict.facts, good.records, good.timestamps
        before = extent.last.timestamp if extent.last is not None else ""
        extent.lines += len(records)
        if extent.first is None:
            extent.first = _place_of(records[0])
        extent.last = _place_of(records[-1])
        extent.last_offset = good.offset + good.data.rfind(b"\n", 0, -1) + 1
        if self._watched:
            seqs = self._watched.intersection(range(records[0].seq, records[-1].seq + 1))
            facts.hashes.update((seq, records[seq - records[0].seq].hash) for seq in seqs)
        if self._resumes:
            self._resumes = False
            good = _without_first(good)
            records, timestamps = good.records, good.timestamps
            if not records:
                return
        extent.records += len(records)
        if timestamps[0] < before or timestamps != sorted(timestamps):
            self._note_clock(before or timestamps[0], records)
        again = self._ids.add(good.audit_ids, len(records))
        if again is not None:
            self._add_in(good, again, Observation.AUDIT_ID_REPEATED)
        services = {record.service_id for record in records}
        if self._task.service_id and services != {self._task.service_id}:
            index = [record.service_id != self._task.service_id for record in records].index(True)
            self._add_in(good, index, Observation.OTHER_SERVICE)
        if _OWN_MEMBER in good.data:
            for record in records:
                event = bytes(record.event)
                if event.startswith(_OWN_EVENT):
                    self._keep_lifecycle(record, event)

    def _add_in(self, good: Good, index: int, what: Observation) -> None:
        offset = good.offset + _size_of_lines(good.data, index)
        seq = good.records[index].seq
        self._verdict.observed.add(
            what, segment=self._task.segment, line=good.line + index, seq=seq, byte_offset=offset
        )

    def _keep_lifecycle(self, record: Members, event: bytes) -> None:
        facts = self._verdict.facts
        try:
            decoded = _decode_event(event)
        except msgspec.MsgspecError:  # none of the library's: it writes no number that can't be read
            return
        if len(facts.lifecycle) < _MOST_LIFECYCLE:
            members = {name: value for name, value in decoded.items() if name not in _UNUSED}
            type_ = str(decoded["event_type"])
            facts.lifecycle.append(LifecycleRecord(record.seq, record.timestamp, type_, members))
        else:
            facts.more_lifecycle += 1

    def _note_clock(self, before: str, records: list[Members]) -> None:
        for record in records:
            if note_clock(self._verdict.observed, before, record.timestamp, record.seq):
                self._verdict.facts.clock_went_back = True
            before = record.timestamp


def note_clock(observed: Observations, before: str, timestamp: str, seq: int) -> bool:
    """Note a clock that was set back before a record; return whether it was."""
    seconds = _seconds_back(before, timestamp)
    if seconds > CLOCK_TOLERANCE_S:
        observed.add(Observation.CLOCK_SET_BACK, seq=seq, seconds=seconds)
    return seconds > CLOCK_TOLERANCE_S


def _seconds_back(before: str, timestamp: str) -> float:
    """Return by how much a timestamp is before another; 0 if it is not, or if either is no moment in time."""
    if timestamp >= before:
        return 0.0
    try:
        return (datetime.fromisoformat(before) - datetime.fromisoformat(timestamp)).total_seconds()
    except ValueError:
        return 0.0


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


def _without_first(good: Good) -> Good:
    """Return all of the lines but the first."""
    size = _size_of_lines(good.data, 1)
    return good._replace(
        line=good.line + 1,
        offset=good.offset + size,
        data=good.data[size:],
        records=good.records[1:],
        audit_ids=good.audit_ids.partition("\n")[2],
        timestamps=good.timestamps[1:],
    )


def _compare_with_name(file: SegmentFile, verdict: SegmentVerdict) -> None:
    """Compare the first record with what the file is named for."""
    first = verdict.extent.first
    if first is None:
        return
    if first.seq != file.first_seq:
        what = Observation.SEGMENT_OTHER_SEQ
    elif first.timestamp[:10] != file.date:
        what = Observation.SEGMENT_OTHER_DATE
    else:
        return
    verdict.observed.add(what, segment=file.name, line=1, seq=file.first_seq, byte_offset=0, first_seq=first.seq)


def _compare_with_manifest(sealed: SealedSegment, verdict: SegmentVerdict) -> None:
    """Compare a segment whose lines all hold with what was sealed."""
    extent, observed, name = verdict.extent, verdict.observed, sealed.segment
    first = extent.first
    if _differs_at_end(sealed, 0, verdict) or first is None or extent.last is None:
        return
    if extent.sha256 != sealed.sha256 or extent.bytes != sealed.bytes:
        observed.add(Observation.MANIFEST_DIGEST_WRONG, segment=name, seq=sealed.first_seq)
    elif (first.timestamp, extent.last.timestamp) != (sealed.first_timestamp, sealed.last_timestamp):
        observed.add(Observation.MANIFEST_TIMES_WRONG, segment=name, seq=sealed.first_seq)


def _compare_end_with_manifest(sealed: SealedSegment, begin: int, verdict: SegmentVerdict) -> None:
    """Compare the end of a segment, of which only what begins at byte `begin` was read, with what was sealed."""
    extent, observed, name = verdict.extent, verdict.observed, sealed.segment
    if _differs_at_end(sealed, begin, verdict) or extent.last is None:
        return
    if begin + extent.bytes != sealed.bytes:
        observed.add(Observation.MANIFEST_DIGEST_WRONG, segment=name, seq=sealed.first_seq)
    elif extent.last.timestamp != sealed.last_timestamp:
        observed.add(Observation.MANIFEST_TIMES_WRONG, segment=name, seq=sealed.first_seq)


def _differs_at_end(sealed: SealedSegment, begin: int, verdict: SegmentVerdict) -> bool:
    """Return whether a segment does not end with the record that was sealed as its last one, which is found then."""
    extent, observed, name = verdict.extent, verdict.observed, sealed.segment
    last = extent.last
    if last is None:
        observed.add(Observation.SEGMENT_EMPTY, segment=name, seq=sealed.first_seq)
    elif last.seq < sealed.last_seq:
        observed.add(
            Observation.SEGMENT_CUT,
            segment=name,
            line=extent.lines + 1,
            seq=last.seq + 1,
            byte_offset=begin + extent.bytes,
            last_seq=last.seq,
            sealed_seq=sealed.last_seq,
        )
    elif last.seq > sealed.last_seq:
        observed.add(
            Observation.SEGMENT_EXTENDED,
            segment=name,
            seq=sealed.last_seq + 1,
            last_seq=last.seq,
            sealed_seq=sealed.last_seq,
        )
    elif last.hash != sealed.hash:
        observed.add(Observation.MANIFEST_HASH_WRONG, segment=name, line=extent.lines, seq=last.seq)
    else:
        return False
    return True


def _lines_between(file: BinaryIO, begin: int, end: int | None) -> Iterator[Lines]:
    """Read the lines that begin at or after `begin` and before `end`."""
    if begin and file.seekable():
        file.seek(begin)
    else:  # an archive
        left = begin
        while left and (skipped := len(file.read(min(left, _CHUNK_BYTES)))):
            left -= skipped
    for chunk in read_lines(file, offset=begin, chunk_bytes=_CHUNK_BYTES):
        size = None if end is None else end - chunk.offset
        if size is not None and len(chunk.data) >= size:
            cut = chunk.data.find(b"\n", max(0, size - 1)) + 1
            if cut:
                yield chunk._replace(data=chunk.data[:cut])
                return
        yield chunk


def _archive_sha256(directory: str, sealed: SealedSegment, observed: Observations) -> str:
    """Return the SHA-256 of an archive's file; one that is encrypted has to be what the manifest says."""
    with open_regular(Path(directory) / ARCHIVE / sealed.archive_file) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sealed.encrypted is not msgspec.UNSET and sha256 != sealed.encrypted.sha256:
        observed.add(Observation.ARCHIVE_REPLACED, segment=sealed.segment, seq=sealed.first_seq)
    return sha256


def _place_of(record: Members) -> RecordPlace:
    return RecordPlace(record.seq, record.prev_hash, record.hash, record.timestamp)


def _due(verdict: SegmentVerdict, task: SegmentTask) -> int | None:
    if verdict.extent.last is not None:
        return verdict.extent.last.seq + 1
    return task.sealed.first_seq if task.sealed is not None else None
