r"""Byte strings that every wanted line holds, so that all others are left out unread, at the speed of a byte search.

Every text that is looked for is in a line as msgspec encodes it. JSON has other spellings of the same text, with `\u`
or `\/`, which the library never writes but another program may: a line with such an escape is always read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple

import msgspec

#: A text that is spelled otherwise than the library does it: an escape `\u` or `\/`, not the `\\u` of a text that has a
#: backslash. It begins with a literal, so that a chunk without a backslash costs a tenth of searching for both.
_OTHER_SPELLING: Final = re.compile(rb"\\(?<!\\\\)(?:\\\\)*[u/]")
_WHOLE_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
#: Shorter numbers are found in every second hash; they are looked for with what is around a member's value.
_SHORT_NUMBER: Final = 5
#: At most so many needles are looked for one by one; more of them by one regular expression.
_FEW: Final = 4
#: What JSON allows between a member's name and its value.
BETWEEN: Final = rb"[ \t\r]*:[ \t\r]*"
#: What may follow a number that is a member's value, or a text with these digits.
_AFTER_NUMBER: Final = rb'["\s,}]'


class Needles(NamedTuple):
    """Byte strings of which at least one is in every line that is wanted; or a pattern that each of them has."""

    any_of: tuple[bytes, ...]
    pattern: bytes = b""  #: a regular expression, instead of `any_of`
    spelled: bool = True  #: they are texts, which JSON can spell in other ways

    def or_also(self, needle: bytes) -> Needles:
        """Return the needles of more lines: those that hold this one, too."""
        if self.pattern:
            return self._replace(pattern=b"%s|%s" % (self.pattern, re.escape(needle)))
        return self._replace(any_of=(*self.any_of, needle))

    def may_be_in(self, line: bytes) -> bool:
        """False if `line` is certainly not wanted."""
        return (
            any(needle in line for needle in self.any_of)
            or bool(self.pattern and _compiled(self.pattern).search(line))
            or (self.spelled and _OTHER_SPELLING.search(line) is not None)
        )

    def hits(self, data: bytes) -> Iterator[int]:
        """Yield places in `data` such that every line that may be wanted has one; in order."""
        other = [match.start() for match in _OTHER_SPELLING.finditer(data)] if self.spelled and b"\\" in data else []
        if len(self.any_of) == 1 and not other:
            return _places(data, self.any_of[0])
        if not self.pattern and len(self.any_of) <= _FEW:
            return iter(sorted([*other, *(place for needle in self.any_of for place in _places(data, needle))]))
        pattern = self.pattern or b"|".join(map(re.escape, self.any_of))
        places = (match.start() for match in _compiled(pattern).finditer(data))
        return iter(sorted([*other, *places])) if other else places


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


def inside(text: str) -> bytes:
    """Return the bytes of a part of a text."""
    return msgspec.json.encode(text)[1:-1]


def for_values(values: Iterable[str], member: str = "") -> Needles:
    """Return the needles for lines with a member that is one of these texts, or the integer with these digits.

    Args:
        values: the texts.
        member: the name of the member, if there is but one.
    """
    found, patterns = list[bytes](), list[bytes]()
    name = re.escape(msgspec.json.encode(member)) if member else b""
    for value in sorted(values):
        if not _WHOLE_NUMBER.fullmatch(value):
            found.append(msgspec.json.encode(value))
        elif len(value) < _SHORT_NUMBER:
            minus = b"-?" if value == "0" else b""
            patterns.append(name + BETWEEN + b'"?' + minus + value.encode() + _AFTER_NUMBER)
        else:
            found.append(value.encode())
    if patterns:
        return Needles((), b"|".join([*patterns, *map(re.escape, found)]))
    return Needles(tuple(found))


def for_field(values: Iterable[str], member: str | None) -> Iterator[Needles]:
    """Yield the needles for lines that have one of these values, of any JSON type, at a member's path.

    Args:
        values: the texts of the values.
        member: the end of the member's name; None if it is not known.
    """
    # Of numbers, true, false and null there are several spellings, or they are everywhere.
    if not any(value in {"true", "false", "null"} or _is_number(value) for value in values):
        yield for_values(values)
    if member is not None:
        yield Needles((inside(member) + b'"',))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def for_numbers(member: str, numbers: Iterable[str]) -> Needles:
    """Return the needles for lines whose member of this name is one of these numbers, perhaps as a text."""
    digits = b"|".join(sorted(number.encode() for number in numbers))
    return Needles((), rb'%s%s"?(?:%s)%s' % (msgspec.json.encode(member), BETWEEN, digits, _AFTER_NUMBER))


def for_network(network: IPv4Network | IPv6Network) -> Needles | None:
    """Return needles for the octets that all addresses of a network share; None if there are none.

    An IPv6 address has many spellings, so there are none for it.
    """
    octets, bits = divmod(network.prefixlen, 8)
    if network.version == 6 or not (octets or bits):
        return None
    pattern = b"".join(b"%d\\." % octet for octet in network.network_address.packed[:octets])
    # It is the beginning of an address, not the end of an octet or of a time; checked after a literal, which is faster.
    first_dot = pattern.find(b"\\.")
    if octets:
        pattern = pattern[:first_dot] + b'(?<=[":]%s)' % pattern[:first_dot] + pattern[first_dot:]
    if bits:
        first = network.network_address.packed[octets]
        pattern += b"(?:%s)" % b"|".join(b"%d" % octet for octet in range(first, first + (1 << (8 - bits))))
        pattern += b"\\." if octets < 3 else b'"'
    return Needles((), pattern.removesuffix(b"\\."))
