r"""Byte strings that every wanted line holds, so that all others are left out unread, at the speed of a byte search.

Every text that is looked for is in a line as msgspec encodes it. JSON has other spellings of the same text, with `\u`
or `\/`, which the library never writes but another program may: a line with such an escape is always read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

#: Other spellings of a text than the library's own begin with one of these.
_OTHER_SPELLINGS: Final = (b"\\u", b"\\/")
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]+", re.ASCII)
#: At most so many needles are looked for one by one; more of them by one regular expression.
_FEW: Final = 4
#: What JSON allows between a member's name and its value.
BETWEEN: Final = rb"[ \t\r]*:[ \t\r]*"


class Needles(NamedTuple):
    """Byte strings of which at least one is in every line that is wanted; or a pattern that each of them has."""

    any_of: tuple[bytes, ...]
    spelled: bool = True  #: they are texts, which JSON can spell in other ways
    pattern: bytes = b""  #: a regular expression, instead of `any_of`

    def may_be_in(self, line: bytes) -> bool:
        """False if `line` is certainly not wanted."""
        return (
            any(needle in line for needle in self.any_of)
            or bool(self.pattern and _compiled(self.pattern).search(line))
            or (self.spelled and any(spelling in line for spelling in _OTHER_SPELLINGS))
        )

    def hits(self, data: bytes) -> Iterator[int]:
        """Yield places in `data` such that every line that may be wanted has one; in order."""
        needles = self.any_of
        if self.spelled and b"\\" in data:
            needles += tuple(spelling for spelling in _OTHER_SPELLINGS if spelling in data)
        if self.pattern:
            pattern = b"|".join((self.pattern, *map(re.escape, needles)))
            return (match.start() for match in _compiled(pattern).finditer(data))
        if len(needles) == 1:
            return _places(data, needles[0])
        if len(needles) <= _FEW:
            return iter(sorted(place for needle in needles for place in _places(data, needle)))
        return (match.start() for match in _compiled(b"|".join(map(re.escape, needles))).finditer(data))


def _places(data: bytes, needle: bytes) -> Iterator[int]:
    find = data.find
    place = find(needle)
    while place >= 0:
        yield place
        # The next one is looked for in the next line: one hit a line is enough.
        line_end = find(b"\n", place)
        place = find(needle, line_end) if line_end >= 0 else -1


@lru_cache(maxsize=64)
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern)


def encoded(value: str) -> bytes:
    """Return the bytes that are in a line whose member is this text, or the integer with these digits."""
    return value.encode() if _WHOLE_NUMBER.fullmatch(value) else msgspec.json.encode(value)


def inside(text: str) -> bytes:
    """Return the bytes of a part of a text."""
    return msgspec.json.encode(text)[1:-1]


def for_values(values: Iterable[str]) -> Needles:
    """Return the needles for lines with one of these texts, or the integer with these digits."""
    return Needles(tuple(map(encoded, sorted(values))))


def for_json_values(values: Iterable[str]) -> Needles | None:
    """Return the same for what may also be a fraction, true, false or null; None if JSON has many spellings of it."""
    found = []
    for value in sorted(values):
        if value in {"true", "false", "null"}:
            found.append(value.encode())
        elif value[:1] in set("-0123456789") and not _WHOLE_NUMBER.fullmatch(value) and _is_number(value):
            return None
        else:
            found.append(encoded(value))
    return Needles(tuple(found))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def for_numbers(member: str, numbers: Iterable[str]) -> bytes:
    """Return a pattern of lines whose member of this name is one of these numbers, perhaps as a text."""
    return rb'"%s"%s"?(?:%s)' % (member.encode(), BETWEEN, b"|".join(sorted(number.encode() for number in numbers)))
