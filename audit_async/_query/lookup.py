"""Finding one record by its sequence number or audit_id, with the records before and after it."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Final

from audit_async._chain.record_format import GENESIS_HASH, HASH_AT, PREV_AT
from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async._query.counted_ids import find_counted
from audit_async._query.matching import Filter
from audit_async._query.opened_records import Decode, as_recorded
from audit_async._query.segment_scan import Damage, Found, scan
from audit_async._trail.log_files import Log, list_segments
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async.errors import AuditError
from audit_async.events import Record, decode_record
from audit_async.events.plain_data import PlainData
from audit_async.status import Position

_AUDIT_ID: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{1,16}", re.ASCII)


class RecordNotFound(AuditError, LookupError):
    """No record that is still there has this sequence number, or this audit_id."""


class PlacedRecord(PlainData, frozen=True, kw_only=True):
    """One record, genuine by its hash, and the records before and after it."""

    record: Record
    line: bytes  #: as it was recorded, with its line end
    segment: str  #: file name
    byte_offset: int  #: of the line in the segment, uncompressed
    previous: Position | None  #: the record before; None for the first one, and if it can't be read any more
    next: Position | None  #: the record after; None for the last one so far
    #: `prev_hash` is the hash of `previous`, or what a chain begins with; that of `next` is this hash, as far as known
    is_linked: bool
    previous_is_kept: bool = False  #: `previous` is what the manifest keeps of the record before, which was not read

    def to_dict(self) -> dict[str, object]:
        """Return the record and its place as plain data, without the line."""
        return {
            "record": self.record.to_dict(),
            "segment": self.segment,
            "byte_offset": self.byte_offset,
            "previous": self.previous._asdict() if self.previous is not None else None,
            "next": self.next._asdict() if self.next is not None else None,
            "is_linked": self.is_linked,
        }


def look_up(
    logs: Sequence[Log], *, seq: int | None, audit_id: str | None, decode: Decode = as_recorded
) -> Generator[PlacedRecord | None, None, None]:
    """Yield the one record, and None while it is looked for; raises `RecordNotFound` at the end if there is none.

    Damage in the record that was asked for is an error; a damaged record before or after it is shown as unknown.
    """
    for found in find_record(logs, seq=seq, audit_id=audit_id):
        if found is None:
            yield None
        else:
            yield _placed(decode(found), found, parts_of(found.log))


def find_record(logs: Sequence[Log], *, seq: int | None, audit_id: str | None) -> Generator[Found | None, None, None]:
    """Yield the line of the one record, as `look_up` does, without the records before and after it."""
    if (seq is None) == (audit_id is None):
        raise InvalidQuery("seq", "give either seq or audit_id")
    if audit_id is not None and not _AUDIT_ID.fullmatch(audit_id):
        raise InvalidQuery("audit_id", "is not 16 hex digits, a hyphen, and hex digits")
    if seq is not None and len(logs) > 1:
        names = ", ".join(log.name for log in logs)
        raise InvalidQuery("log", f"is missing; each log counts for itself, so name one of {names}")
    for log in logs:
        parts = parts_of(log)
        if audit_id is not None and (counted := find_counted(parts, audit_id)) is not None:
            yield counted
            return
        wanted, damage = Filter(AuditQuery(), audit_id=audit_id), Damage(skip=False)
        seqs = Range(seq - 1, seq + 1) if seq is not None else Range()
        for part in parts:
            if not part.overlaps(seqs):
                continue
            for found in scan(part, wanted, seqs, damage):
                if found is not None and audit_id in (None, decode_record(found.line).audit_id):
                    yield found
                    return
                yield None
        damage.require_searched()
    what = f"seq {seq}" if seq is not None else f"audit_id {audit_id}"
    raise RecordNotFound(
        f"no record with {what} in {', '.join(log.name for log in logs)}: it was never recorded, or was deleted"
    )


def _placed(record: Record, found: Found, parts: Sequence[Part]) -> PlacedRecord:
    previous, following = _line_of(found.seq - 1, parts), _line_of(found.seq + 1, parts)
    before: Position | None = None
    if previous is not None:
        before = position_in_chain(previous)
    elif found.seq > 0:
        for segment in list_segments(found.log):
            if segment.sealed is not None and segment.sealed.last_seq == found.seq - 1:
                before = Position(found.seq - 1, segment.sealed.hash)  # deleted; the manifest keeps the boundary
    due = before.hash if before is not None else GENESIS_HASH.decode() if found.seq == 0 else record.prev_hash
    return PlacedRecord(
        record=record,
        line=found.line,
        segment=found.segment,
        byte_offset=found.offset,
        previous=before,
        next=position_in_chain(following) if following is not None else None,
        is_linked=record.prev_hash == due
        and (following is None or following.line[PREV_AT : PREV_AT + 64].decode() == record.hash),
        previous_is_kept=before is not None and previous is None,
    )


def _line_of(seq: int, parts: Sequence[Part]) -> Found | None:
    seqs, everything, damage = Range(seq - 1, seq + 1), Filter(AuditQuery()), Damage(skip=True)
    for part in parts:
        if part.overlaps(seqs):
            for found in scan(part, everything, seqs, damage):
                if found is not None:
                    return found
    return None


def position_in_chain(found: Found) -> Position:
    """Return a record's place in its chain."""
    return Position(found.seq, found.line[HASH_AT : HASH_AT + 64].decode())
