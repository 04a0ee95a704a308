"""Checking one line against the format and its place in the chain.

`check_record` answers for one line: it is what the format says, it hashes to what it claims, it follows the record
before. Walking files, and deciding what a bad line means (a crash or an attack), is for the rooms above.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple

import msgspec

from audit_async._chain.record_format import (
    BODY_END,
    HASH_AT,
    HASH_MEMBER,
    LINE_END,
    PREV_AT,
    PREV_MEMBER,
    PREV_MEMBER_AT,
    Head,
)

# seq without leading zeros, so that a number has one spelling; no more digits than a file name has room for.
_OPENING = re.compile(
    rb'\{"seq":(0|[1-9][0-9]{0,17}),"audit_id":"([0-9a-f]{16}-[0-9a-f]{1,16})",'
    rb'"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)","service_id":"'
)
_HEX64 = re.compile(rb"[0-9a-f]{64}")
_SHORTEST = 2 * 64 + 100


class BadRecord(ValueError):
    """A line is not the record that is due in its place; the message is the reason, free of the line's text."""


class CheckedRecord(NamedTuple):
    """What a good line says of itself, apart from its event."""

    seq: int
    hash: bytes  #: 64 lower-case hex digits
    prev_hash: bytes  #: 64 lower-case hex digits
    audit_id: str
    timestamp: str  #: RFC 3339, UTC, microseconds, `Z`

    @property
    def head(self) -> Head:
        """The chain's head once this record is its last."""
        return Head(self.seq, self.hash)


class Members(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The members of a record, in the format's order; a member that the format does not have is refused.

    Not tracked by the garbage collector (it is no part of a cycle): a verifier makes millions of them. Event and
    context are JSON that was checked for its grammar; making objects of them takes a verifier a fifth of its time.
    """

    seq: int
    audit_id: str
    timestamp: str
    service_id: str
    event: msgspec.Raw
    context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prev_hash: str
    hash: str


_decode_members = msgspec.json.Decoder(Members).decode


def check_record(line: bytes, after: Head | None) -> CheckedRecord:
    r"""Check one line, its ending `\n` included, and return what it says of itself.

    `after` is the head of the chain before this line; None checks the line alone and lets any `seq` and
    `prev_hash` pass, as for the first line of a segment whose predecessor is not at hand.

    Raises `BadRecord` with the first reason found: not a record of this format, a hash that is not the line's own,
    or a link or sequence number that does not follow `after`. What the event says is not judged; JSON has no
    bound for numbers (RFC 8259, section 6), so a record with one that no reader can take passes, too.
    """
    if len(line) < _SHORTEST or not line.endswith(LINE_END):
        raise BadRecord("not a whole record")
    opening = _OPENING.match(line)
    if opening is None:
        raise BadRecord("does not begin like a record of format version 1")
    prev_hash, own_hash = line[PREV_AT : PREV_AT + 64], line[HASH_AT : HASH_AT + 64]
    if (
        line[PREV_MEMBER_AT:PREV_AT] != PREV_MEMBER
        or line[PREV_AT + 64 : HASH_AT] != HASH_MEMBER
        or not _HEX64.fullmatch(prev_hash)
        or not _HEX64.fullmatch(own_hash)
    ):
        raise BadRecord("does not end in prev_hash and hash")
    hasher = sha256(memoryview(line)[:BODY_END])
    hasher.update(b"}")
    if hasher.hexdigest().encode() != own_hash:
        raise BadRecord("the hash is not the hash of this record")
    seq = int(opening[1])
    if after is not None:
        if seq != after.seq + 1:
            raise BadRecord(f"seq is {seq}, but {after.seq + 1} is due")
        if prev_hash != after.hash:
            raise BadRecord("prev_hash is not the hash of the record before")
    try:
        members = _decode_members(line)
        if not line.isascii():
            line.decode()  # of what is raw only the grammar was checked
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord("the members are not those of a record") from error
    if not is_object(members.event) or not (members.context is msgspec.UNSET or is_object(members.context)):
        raise BadRecord("its event or context is no JSON object")
    return CheckedRecord(seq, own_hash, prev_hash, opening[2].decode(), opening[3].decode())


def is_object(json: msgspec.Raw) -> bool:
    """Return whether JSON, whose grammar was checked, is an object."""
    return bytes(json).startswith(b"{")
