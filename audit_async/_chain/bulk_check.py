r"""Checking many lines at once: the same verdict as `check_record` on each, at a fraction of its cost.

Whole chunks of lines are decoded, encoded again and compared: what comes back byte for byte is spelled as the format
says, every member in its place and no other, so that the rest is comparing columns. What deviates in any way is
checked line by line with `check_record` itself, which alone decides. So a mistake in this module can make checking
slow, but never wrong: an accepted chunk is one that `check_record` accepts line by line.

After a bad line the check goes on: each of the next lines is checked by itself and for following one of the places
that the bad line may have had, so one changed byte makes one finding and not one for every line after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from audit_async._chain.record_check import BadRecord, CheckedRecord, Members, check_record, is_object
from audit_async._chain.record_format import BODY_END, GENESIS_HASH, HASH_AT, HASH_MEMBER, LINE_END, PREV_AT, Head

#: Lines that are checked one by one if a longer run deviates.
_FEW: Final = 8
#: Places that the next record may have; with more, after many bad lines, any is taken.
_MOST_PLACES: Final = 8

_LONGEST_SEQ: Final = 10**18
_HEX64: Final = re.compile(rb"[0-9a-f]{64}")
_HEX_DIGITS: Final = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_BRACE: Final = {ord("{")}
# What `check_record` asks of an audit_id and a timestamp, for a column of them. Possessive, so without backtracking;
# and a timestamp with each digit made 0, a quarter of what a regular expression takes.
_AUDIT_IDS: Final = re.compile(r"(?:[0-9a-f]{16}-[0-9a-f]{1,16}+\n)*+")
_TIMESTAMP: Final = b"0000-00-00T00:00:00.000000Z\n"
_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
# Digits as zeros and `E` as `e`: to leave the range a number needs an exponent of three digits, or so many digits.
_NUMBERS: Final = bytes.maketrans(b"123456789E", b"000000000e")
_EXPONENT: Final = b"0e000"
_LONG_NUMBER: Final = b"0" * 200
# What precedes a record's event, besides the digits of its seq, its audit_id and its service_id.
_BEFORE_EVENT: Final = len('{"seq":,"audit_id":"","timestamp":"","service_id":,"event":') + len(_TIMESTAMP) - 1

_decode_lines: Final = msgspec.json.Decoder(Members).decode_lines
_encode_lines: Final = msgspec.json.Encoder().encode_lines
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Members).decode


class Good(NamedTuple):
    """Consecutive lines that hold, each the record that is due."""

    line: int  #: number of the first, from 1
    offset: int  #: of the first byte
    data: bytes  #: the lines
    records: list[Members]
    audit_ids: str  #: of the records, in order, each followed by a line feed
    timestamps: list[str]


class Bad(NamedTuple):
    """A line that is not the record that is due in its place."""

    line: int  #: its number, from 1
    offset: int  #: of its first byte
    data: bytes
    seq: int | None  #: what was due there; None if that is not known
    reason: str  #: free of the line's text
    record: CheckedRecord | None  #: what it says of itself, if it is a whole record in a wrong place


class _Place(NamedTuple):
    """A place in the chain that the next record may have."""

    seq: int | None  #: None for any
    prev_hash: bytes | None  #: None for any


_ANYWHERE: Final = _Place(None, None)


class ChainChecker:
    """Checks the lines of a chain, in chunks, from a known place or from that of the first line."""

    def __init__(self, after: Head | None, *, offset: int = 0) -> None:
        """Begin after `after`, or, with None, at whatever record the first line is; it begins at byte `offset`."""
        self._places: tuple[_Place, ...] = (_Place(after.seq + 1, after.hash),) if after else (_ANYWHERE,)
        self.line = 1  #: number of the next line
        self.offset = offset  #: of the next line

    @property
    def due(self) -> int | None:
        """The sequence number that is due next; None if that is not known."""
        return self._places[-1].seq

    def check_lines(self, data: bytes) -> Iterator[Good | Bad]:
        r"""Check whole lines, each with its `\n`; all of them are in what is yielded, in order."""
        while self._uncertain and data:
            end = data.index(b"\n") + 1
            yield self._check_line(data[:end])
            data = data[end:]
        if data:
            good = self._accept(data)
            if good is not None:
                yield good
            else:
                yield from self._check_parts([line + b"\n" for line in data[:-1].split(b"\n")])

    def check_torn(self, line: bytes) -> Bad:
        """Check a line that has no end, and so is no record: torn, or the beginning of an overlong one."""
        bad = self._check_line(line)
        assert isinstance(bad, Bad)  # noqa: S101 - no record is without its end
        return bad

    def skip(self, size: int) -> None:
        """Count bytes that belong to the line before: the rest of one that is too long."""
        self.offset += size

    def _check_parts(self, lines: list[bytes]) -> Iterator[Good | Bad]:
        """Check the halves of a run that deviates, and single lines once few are left."""
        if len(lines) <= _FEW:
            for line in lines:
                yield self._check_line(line)
            return
        middle = len(lines) // 2
        for half in (lines[:middle], lines[middle:]):
            good = self._accept(b"".join(half))
            if good is not None:
                yield good
            else:
                yield from self._check_parts(half)

    # -- many lines ----------------------------------------------------------------------------------------------

    @property
    def _uncertain(self) -> bool:
        return len(self._places) != 1 or None in self._places[0]

    def _accept(self, data: bytes) -> Good | None:
        """Return the lines if every one of them is the record that is due, None if any may not be."""
        # The hot path of verifying: about 1.6 us a record of 390 bytes, a third of it SHA-256 (bench verify).
        if self._uncertain or not data.endswith(LINE_END):
            return None
        first_seq, prev_hash = self._places[0]
        assert first_seq is not None  # noqa: S101 - it is certain
        assert prev_hash is not None  # noqa: S101 - as well
        columns = _columns_of(data)
        if columns is None:
            return None
        records, hashes = columns.records, columns.hashes
        end_seq = first_seq + len(records)
        if (
            first_seq < 0
            or end_seq > _LONGEST_SEQ
            or not _HEX64.fullmatch(prev_hash)
            or [record.prev_hash for record in records] != [prev_hash.decode(), *hashes[:-1]]
            or [record.seq for record in records] != list(range(first_seq, end_seq))
        ):
            return None
        good = Good(self.line, self.offset, data, records, columns.audit_ids, columns.timestamps)
        self.line += len(records)
        self.offset += len(data)
        self._places = (_Place(end_seq, hashes[-1].encode()),)
        return good

    # -- one line ------------------------------------------------------------------------------------------------

    def _check_line(self, line: bytes) -> Good | Bad:
        number, offset, due = self.line, self.offset, self.due
        self.line += 1
        self.offset += len(line)
        record, reason = self._judge(line)
        if record is None:
            self._places = self._places_after_bad(line)
        else:
            self._places = (_Place(record.seq + 1, record.hash),)
            if reason is None:
                return Good(number, offset, line, [_decode(line)], f"{record.audit_id}\n", [record.timestamp])
        return Bad(number, offset, line, due, reason or "", record)

    def _judge(self, line: bytes) -> tuple[CheckedRecord | None, str | None]:
        """Return what a line says of itself, None if it is no record; and why it is not the one that is due."""
        record: CheckedRecord | None = None
        reason = ""
        try:
            record = check_record(line, None)
        except BadRecord as error:
            reason = str(error)
        for place in self._places:
            seq, prev_hash = place
            if record is not None:
                seq = record.seq if seq is None else seq
                prev_hash = record.prev_hash if prev_hash is None else prev_hash
            if seq is None or prev_hash is None:
                continue
            try:
                return check_record(line, Head(seq - 1, prev_hash)), None
            except BadRecord as error:
                reason = str(error)
        return record, reason

    def _places_after_bad(self, line: bytes) -> tuple[_Place, ...]:
        """Return the places of the next record: a bad line is a record that was changed, or one too many."""
        places = set(self._places)
        for seq, _ in self._places:
            following = None if seq is None else seq + 1
            places.update(_Place(following, link) for link in _hashes_of(line))
        if len(places) > _MOST_PLACES:
            return (_ANYWHERE,)
        return tuple(sorted(places, key=lambda place: (place.seq is None, place.seq or 0, place.prev_hash or b"")))


class _Columns(NamedTuple):
    """Lines that are records of this format, each with a hash that is its own; their links and seqs are not checked."""

    records: list[Members]
    hashes: list[str]
    audit_ids: str  #: in order, each followed by a line feed
    timestamps: list[str]


def _columns_of(data: bytes) -> _Columns | None:
    """Return whole lines as columns if they are spelled as the format says; None if any may not be."""
    try:
        records = _decode_lines(data)
        if _encode_lines(records) != data:
            return None
        if not data.isascii():
            data.decode()  # of what is raw only the grammar was checked
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    lines = data.split(b"\n")
    lines.pop()
    # Of a line without its "\n" the body ends one byte nearer to the end; a brace takes the place of a comma.
    hashes = [sha256(line[: BODY_END + 1] + b"}").hexdigest() for line in lines]
    audit_ids = "\n".join([*[record.audit_id for record in records], ""])
    timestamps = [record.timestamp for record in records]
    in_lines = "\n".join([*timestamps, ""]).encode()
    if (
        [record.hash for record in records] != hashes
        or audit_ids.count("\n") != len(records)
        or not _AUDIT_IDS.fullmatch(audit_ids)
        or in_lines.translate(_ZEROS) != _TIMESTAMP * len(records)
        or not _have_objects(records, lines)
    ):
        return None
    return _Columns(records, hashes, audit_ids, timestamps)


def check_unlinked(data: bytes) -> list[Members] | None:
    r"""Return the records of whole lines, each with its `\n`, if `check_record` accepts each of them by itself.

    None if any line deviates, which may still be a record in another spelling: then each is to be checked by itself.
    Links and sequence numbers are not compared, so the lines need not follow each other in the chain.
    """
    # The hot path of exporting.
    if not data.endswith(LINE_END):
        return None
    columns = _columns_of(data)
    if columns is None:
        return None
    records = columns.records
    links = "\n".join([*[record.prev_hash for record in records], ""]).encode()
    if links.translate(_HEX_DIGITS) != (GENESIS_HASH + b"\n") * len(records):
        return None
    return records if all(0 <= record.seq < _LONGEST_SEQ for record in records) else None


def are_readable(records: list[Members]) -> bool:
    """Return whether the values of records that were checked can certainly be read; False if decoding them decides.

    That fails for a float beyond the largest and for an integer of thousands of digits.
    """
    raw = b"\n".join([record.event for record in records])
    contexts = [record.context for record in records if record.context is not msgspec.UNSET]
    if contexts:
        raw = b"\n".join([raw, *contexts])
    shape = raw.translate(_NUMBERS, b"+")
    return _EXPONENT not in shape and _LONG_NUMBER not in shape


def _have_objects(records: list[Members], lines: list[bytes]) -> bool:
    """Return whether each event and context is an object; of several services' records nothing is said.

    The lines are spelled as the format says, and their audit_ids and timestamps are what they have to be.
    """
    service_id = records[0].service_id
    if {record.service_id for record in records} != {service_id}:
        return False
    fixed = _BEFORE_EVENT + len(_encode(service_id))
    seqs = [record.seq for record in records]
    digits = len(str(min(seqs)))
    if len(str(max(seqs))) == digits:
        begins = {line[fixed + digits + len(record.audit_id)] for line, record in zip(lines, records, strict=True)}
    else:
        begins = {
            line[fixed + len(str(record.seq)) + len(record.audit_id)]
            for line, record in zip(lines, records, strict=True)
        }
    contexts = [record.context for record in records if record.context is not msgspec.UNSET]
    return begins == _BRACE and all(map(is_object, contexts))


def _hashes_of(line: bytes) -> tuple[bytes | None, ...]:
    """Return the hashes that the record after a bad line may be linked to: the one that it has, and that it claims."""
    if line[PREV_AT + 64 : HASH_AT] != HASH_MEMBER:
        return (None,)
    return sha256(line[:BODY_END] + b"}").hexdigest().encode(), line[HASH_AT : HASH_AT + 64]
