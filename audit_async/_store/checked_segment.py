"""Reading a segment that has no seal yet, record by record, and what was found in it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from audit_async._chain import BadRecord, CheckedRecord, Head, check_record
from audit_async._layout.chain_holds import ChainHolds, own_event
from audit_async._layout.crash_traces import LONGEST_LINE
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import SegmentName

if TYPE_CHECKING:
    from hashlib import _Hash

_SEALED: Final = re.compile(rb'\{"event_type":"audit\.segment_sealed","segment":"([0-9-]+\.audit)"')


class CheckedSegment(NamedTuple):
    """A segment that was read: its records that hold, from the first, and what ended the reading."""

    name: SegmentName
    before: Head  #: the chain's head before its first record
    first: CheckedRecord | None
    last: CheckedRecord | None
    records: int
    bytes: int  #: of the records that hold
    size: int  #: of the file; 0 for an archive
    digest: _Hash  #: over the records that hold
    sealings: frozenset[str]  #: segments whose `audit.segment_sealed` is among the records
    holds: ChainHolds  #: what the records say of legal holds
    stopped: str | None  #: why the line after them is not the record that is due; None at the end of what was asked

    @property
    def head(self) -> Head:
        """The chain's head after the records that hold."""
        return self.last.head if self.last else self.before

    def as_sealed(self) -> SealedSegment:
        """Return the manifest's entry for the records that hold."""
        assert self.first is not None  # noqa: S101 - a segment without a record is never sealed
        assert self.last is not None  # noqa: S101
        return SealedSegment(
            segment=str(self.name),
            first_seq=self.first.seq,
            last_seq=self.last.seq,
            first_timestamp=self.first.timestamp,
            last_timestamp=self.last.timestamp,
            records=self.records,
            bytes=self.bytes,
            sha256=self.digest.hexdigest(),
            prev_hash=self.first.prev_hash.decode(),
            hash=self.last.hash.decode(),
        )


def check_segment(
    file: BinaryIO, name: SegmentName, before: Head, until_seq: int | None, *, is_archive: bool = False
) -> CheckedSegment:
    """Check record by record from the position of `file`, up to `until_seq` (exclusive) or its end."""
    head = before
    first = last = None
    records = size = 0
    digest = hashlib.sha256()
    sealings: set[str] = set()
    holds = ChainHolds()
    stopped: str | None = None
    while until_seq is None or head.seq + 1 < until_seq:
        line = file.readline(LONGEST_LINE)
        if not line:
            if until_seq is not None:
                stopped = f"the file ends, but the next begins at seq {until_seq}"
            break
        try:
            last = check_record(line, head)
        except BadRecord as error:
            stopped = str(error)
            break
        first = first or last
        head = last.head
        records += 1
        size += len(line)
        digest.update(line)
        if own_event(line) is not None:
            holds.read(line)
            if (sealing_of := segment_sealed_by(line)) is not None:
                sealings.add(sealing_of)
    return CheckedSegment(
        name,
        before,
        first,
        last,
        records,
        size,
        0 if is_archive else os.fstat(file.fileno()).st_size,
        digest,
        frozenset(sealings),
        holds,
        stopped,
    )


def segment_sealed_by(line: bytes) -> str | None:
    """Return the segment of which this record is the `audit.segment_sealed`; None for any other record."""
    if own_event(line) != b"segment_sealed":
        return None
    match = _SEALED.search(line)
    return match[1].decode() if match else None
