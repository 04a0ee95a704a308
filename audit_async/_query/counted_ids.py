"""Finding a record by its `audit_id` without reading the whole log: within one opening of a log the ids count up.

A guess: what it finds is checked and is the record; what it does not find may be there all the same (ids of several
threads may be a little out of order, an opening may lie within a segment, an archive is not searched), and then
`lookup` reads the log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import BinaryIO, Final, NamedTuple

from audit_async._chain import BadRecord
from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage, Found, check, open_part
from audit_async._trail.line_search import bisect_lines, line_from, size_of
from audit_async._trail.log_files import DAMAGED_ARCHIVE, LONGEST_LINE
from audit_async._trail.segment_parts import Part, Range
from audit_async.errors import LogCorrupted

_ID: Final = re.compile(rb'\{"seq":[0-9]{1,18},"audit_id":"([0-9a-f]{16})-([0-9a-f]{1,16})"')
#: Longer than what `_ID` matches.
_OPENING_BYTES: Final = 80
#: Closer than this, reading on is cheaper than another step of a search; read on both sides of where it ends.
_NEAR: Final = 32 << 10


class _Id(NamedTuple):
    opening: bytes
    number: int


def find_counted(parts: Sequence[Part], audit_id: str) -> Found | None:
    """Return the record with this `audit_id` if it is about where it is due, None if it was not found."""
    wanted = _id_in(b'{"seq":0,"audit_id":"%s"' % audit_id.encode())
    if wanted is None:
        return None
    try:
        part = _part_of(parts, wanted)
        file = open_part(part, Damage(skip=True)) if part is not None else None
        if part is None or file is None:
            return None
        with file:
            return _search(file, part, wanted, audit_id.encode()) if file.seekable() else None
    except (LogCorrupted, OSError, *DAMAGED_ARCHIVE):
        return None  # reading the log says what is wrong


def _part_of(parts: Sequence[Part], wanted: _Id) -> Part | None:
    """Return the segment in which an id is due: the last one that begins with one before it, of the same opening."""
    begins_later = False
    for part in reversed(parts):
        file = open_part(part, Damage(skip=True))
        if file is None:
            return None
        with file:
            first = _id_in(file.read(_OPENING_BYTES))
        if first is not None and first.opening == wanted.opening:
            if first.number <= wanted.number:
                return part
            begins_later = True
        elif begins_later:
            return part  # the opening begins in it
    return None


def _search(file: BinaryIO, part: Part, wanted: _Id, audit_id: bytes) -> Found | None:
    first = _id_in(file.read(_OPENING_BYTES))
    # Of two openings in a segment the one that its first record is of comes first.
    others_are_later = first is not None and first.opening == wanted.opening
    end = part.sealed_bytes or size_of(file)

    def is_past(line: bytes) -> bool | None:
        found = _id_in(line)
        if found is None:
            return None
        return found.number > wanted.number if found.opening == wanted.opening else others_are_later

    places = bisect_lines(file, end, is_past, near=_NEAR, opening_bytes=_OPENING_BYTES)
    if places is None:
        return None
    low, high = places
    return _read(file, part, max(0, low - _NEAR), min(end, high + _NEAR), audit_id)


def _read(file: BinaryIO, part: Part, begin: int, end: int, audit_id: bytes) -> Found | None:
    """Look through the lines between two places."""
    begin = line_from(file, begin) if begin else file.seek(0)
    data = file.read(max(0, end - begin))
    if not data.endswith(b"\n"):
        data += file.readline(LONGEST_LINE)
    # At the beginning of a line: in an event somebody may have written anything, but no line end.
    match = re.search(rb'^\{"seq":[0-9]{1,18},"audit_id":"%s",.*\n' % re.escape(audit_id), data, re.MULTILINE)
    if match is None:
        return None
    try:
        return check(match[0], begin + match.start(), part, Filter(AuditQuery()), Range())
    except BadRecord:
        return None


def _id_in(line: bytes) -> _Id | None:
    match = _ID.match(line)
    return _Id(match[1], int(match[2], 16)) if match is not None else None
