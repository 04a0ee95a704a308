r"""Deciding whether a record is wanted: first by the bytes of its line, then by what the line says.

The bytes only decide whether a line can be wanted: every text that is looked for is in it as msgspec encodes
it, so a line without those bytes is left out unread, at the speed of a byte search. JSON has other spellings of the
same text, with `\u` or `\/`, which the library never writes but another program may: a line with such an escape is
always read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import MAXYEAR, UTC, datetime, timedelta
from fnmatch import translate
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._sanitize.unsafe_text import escape
from audit_async.events.recorded import recorded_time
from audit_async.events.registry import known_types

#: Members of an event whose text says who did it, or tried to.
_ACTING: Final = frozenset({"attempted_user", "requester", "set_by", "lifted_by"})
#: The same in an event that has no `actor`.
_ACTING_WITHOUT_ACTOR: Final = frozenset({"user_id", "actor_id"})
#: Members of an event, besides those that end in `_id`, that say what it was done to.
_ACTED_ON: Final = frozenset({"subject", "model_ref", "segment"})
#: The same of its `resource`.
_RESOURCE: Final = frozenset({"resource_id", "parent_id"})

#: More spellings of a text than the library's own begin with one of these.
_OTHER_SPELLINGS: Final = (b"\\u", b"\\/")
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]+", re.ASCII)
#: At most so many needles are looked for one by one; more of them by one regular expression.
_FEW: Final = 4


class Said(msgspec.Struct):
    """What a line says, as far as a query may ask for it."""

    event: dict[str, object]
    context: dict[str, object] = {}
    timestamp: str = ""


#: Decode what a line says; raises as msgspec does.
read_said: Final[Callable[[bytes], Said]] = msgspec.json.Decoder(Said).decode


def actors_of(event: dict[str, object]) -> Iterator[str]:
    """Yield the names of those who act in an event, as `AuditQuery` defines it."""
    # Asked of every record that is indexed: most name an actor in one way or in none.
    if "actor" in event:
        actor = event["actor"]
        if (named := as_text(actor.get("user_id") if isinstance(actor, dict) else actor)) is not None:
            yield named
    elif not _ACTING_WITHOUT_ACTOR.isdisjoint(event):
        yield from _texts_of(event, _ACTING_WITHOUT_ACTOR)
    if not _ACTING.isdisjoint(event):
        yield from _texts_of(event, _ACTING)


def resources_of(event: dict[str, object]) -> Iterator[str]:
    """Yield what an event was done to or with, as `AuditQuery` defines it."""
    resource = event.get("resource")
    if isinstance(resource, dict):
        yield from _texts_of(resource, _RESOURCE)
    for member, value in event.items():
        if is_resource(member) and (named := as_text(value)) is not None:
            yield named


def is_resource(member: str) -> bool:
    """Return whether a member of an event says, by its name, what it was done to or with."""
    return member.endswith("_id") or member in _ACTED_ON


def _texts_of(members: dict[str, object], wanted: frozenset[str]) -> Iterator[str]:
    for member, value in members.items():
        if member in wanted and (named := as_text(value)) is not None:
            yield named


def type_of(event: dict[str, object]) -> str:
    """Return an event's type; empty if it has none."""
    event_type = event.get("event_type")
    return event_type if isinstance(event_type, str) else ""


class Needles(NamedTuple):
    """Byte strings of which at least one is in every line that is wanted."""

    any_of: tuple[bytes, ...]
    spelled: bool = True  #: they are texts, which JSON can spell in other ways

    def may_be_in(self, line: bytes) -> bool:
        """False if `line` is certainly not wanted."""
        return any(needle in line for needle in self.any_of) or (
            self.spelled and any(spelling in line for spelling in _OTHER_SPELLINGS)
        )

    def hits(self, data: bytes) -> Iterator[int]:
        """Yield places in `data` such that every line that may be wanted has one; in order."""
        needles = self.any_of
        if self.spelled and b"\\" in data:
            needles += tuple(spelling for spelling in _OTHER_SPELLINGS if spelling in data)
        if len(needles) == 1:
            return _places(data, needles[0])
        if len(needles) <= _FEW:
            return iter(sorted(place for needle in needles for place in _places(data, needle)))
        return (match.start() for match in _pattern(needles).finditer(data))


def _places(data: bytes, needle: bytes) -> Iterator[int]:
    find = data.find
    place = find(needle)
    while place >= 0:
        yield place
        # The next one is looked for in the next line: one hit a line is enough.
        line_end = find(b"\n", place)
        place = find(needle, line_end) if line_end >= 0 else -1


@lru_cache(maxsize=16)
def _pattern(needles: tuple[bytes, ...]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, needles)))


class Filter:
    """A query, made ready to be put to many lines. Not changed after it is made; from any thread."""

    def __init__(self, query: AuditQuery, *, audit_id: str | None = None) -> None:
        """`audit_id` leaves out lines without it; a line may have it elsewhere than in its place, too."""
        self._actor = _spellings(query.actor)
        self._resource = _spellings(query.resource_id)
        self._text = _spellings(query.text)
        self._context = {name: _spellings(value) for name, value in query.context.items()}
        self.start: Final = recorded_time(query.start) if query.start is not None else None
        self.end: Final = recorded_time(query.end) if query.end is not None else None
        self._types = re.compile("|".join(map(translate, query.event_types))) if query.event_types else None
        self._critical = query.critical
        # Asked for once, so that a class that is defined meanwhile changes nothing half-way.
        self._critical_types = frozenset(tag for tag, cls in known_types().items() if cls.critical)
        self.is_open: Final = not (
            self._actor or self._resource or self._text or self._context or self._types or self._critical is not None
        )
        #: Sets of needles, each of which a wanted line must pass, the most selective first.
        self.needles: Final = tuple(self._all_needles(query, audit_id))
        #: What an index can look up: for each, the kind of term and its values, any of which will do.
        self.terms: Final = tuple(
            (kind, values)
            for kind, values in (
                ("actor", self._actor),
                ("resource", self._resource),
                *((f"context.{name}", values) for name, values in self._context.items()),
            )
            if values
        )

    @property
    def asks_for_times(self) -> bool:
        """True if not every time is wanted."""
        return self.start is not None or self.end is not None

    @property
    def asks_for_types(self) -> bool:
        """True if not every type is wanted."""
        return self._types is not None or self._critical is not None

    def wants_type(self, event_type: str) -> bool:
        """Whether records of this type are wanted, as far as the type decides."""
        if self._types is not None and not self._types.match(event_type):
            return False
        return self._critical is None or (event_type in self._critical_types) is self._critical

    def wants_time(self, timestamp: str) -> bool:
        """Whether records of this time are wanted, as far as the time decides."""
        return (self.start is None or timestamp >= self.start) and (self.end is None or timestamp < self.end)

    def may_overlap(self, earliest: str, latest: str) -> bool:
        """False if no record from `earliest` to `latest`, both included, is wanted."""
        return (self.start is None or latest >= self.start) and (self.end is None or earliest < self.end)

    def wants(self, line: bytes) -> bool:
        """Whether a line, a genuine record, is wanted for what it says; time and place are the caller's to look at."""
        if self.is_open:
            return True
        said = read_said(line)
        event = said.event
        return (
            self.wants_type(type_of(event))
            and (not self._actor or not self._actor.isdisjoint(actors_of(event)))
            and (not self._resource or not self._resource.isdisjoint(resources_of(event)))
            and all(as_text(said.context.get(name)) in values for name, values in self._context.items())
            and (not self._text or any(self._holds_text(text) for text in _texts((event, said.context))))
        )

    def _holds_text(self, text: str) -> bool:
        return any(wanted in text for wanted in self._text)

    def _all_needles(self, query: AuditQuery, audit_id: str | None) -> Iterator[Needles]:
        if audit_id is not None:
            yield Needles((b'"audit_id":"%s"' % audit_id.encode(),), spelled=False)
        for values in (self._resource, self._actor, *self._context.values()):
            if values:
                yield Needles(tuple(_encoded(value) for value in sorted(values)))
        if self._text:
            yield Needles(tuple(msgspec.json.encode(value)[1:-1] for value in sorted(self._text)))
        if query.event_types and all(beginnings := [re.split(r"[*?\[]", t)[0] for t in query.event_types]):
            yield Needles(tuple(sorted({_beginning(t, b) for t, b in zip(query.event_types, beginnings, strict=True)})))
        elif self._critical and self._critical_types:
            yield Needles(tuple(sorted(b'"%s"' % tag.encode() for tag in self._critical_types)))
        if query.start is not None and query.end is not None and (times := _common_times(query.start, query.end)):
            yield Needles(tuple(b'"timestamp":"' + time.encode() for time in times), spelled=False)


def _spellings(value: str | None) -> frozenset[str]:
    """Return a text and its harmless form, in which the library would have recorded it; nothing for None."""
    if value is None:
        return frozenset()
    # A lone surrogate has no UTF-8, so it can't be in any record.
    return frozenset(text for text in (value, escape(value)) if text.isascii() or not _holds_surrogate(text))


def _holds_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _encoded(value: str) -> bytes:
    """Return the bytes that are in a line whose member is this text, or the integer with these digits."""
    return value.encode() if _WHOLE_NUMBER.fullmatch(value) else msgspec.json.encode(value)


def _beginning(pattern: str, beginning: str) -> bytes:
    encoded = msgspec.json.encode(beginning)
    return encoded if beginning == pattern else encoded[:-1]


def as_text(value: object) -> str | None:
    """Return a text, or an integer's digits; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64:
        return str(value)
    return None


def _texts(values: Iterable[object]) -> Iterator[str]:
    """Yield every text at any depth, without recursion: a line may nest deeper than the stack is."""
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _common_times(start: datetime, end: datetime) -> list[str]:
    """Return up to `_FEW` beginnings of a timestamp, one of which every time from `start` to `end` has; or none."""
    first, last = start.astimezone(UTC), end.astimezone(UTC) - timedelta(microseconds=1)
    if last.year == MAXYEAR:
        return []
    for step, length in (
        (timedelta(milliseconds=1), 23),
        (timedelta(seconds=1), 19),
        (timedelta(minutes=1), 16),
        (timedelta(hours=1), 13),
        (timedelta(days=1), 10),
    ):
        if last - first < step * (_FEW - 1):
            times = [recorded_time(first + step * n)[:length] for n in range(_FEW) if first + step * n <= last]
            return sorted({*times, recorded_time(last)[:length]})
    return []
