"""Deciding whether a record is wanted: first by the bytes of its line, then by what the line says.

The bytes only decide whether a line can be wanted (`needles`); what it says is read of those lines alone
(`recorded_members`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import MAXYEAR, UTC, datetime, timedelta
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from audit_async._query import needles
from audit_async._query.audit_query import AuditQuery, Glob, statuses_asked
from audit_async._query.needles import Needles
from audit_async._query.recorded_members import (
    COMPLETED,
    FAILURE,
    HTTP_FAILED,
    OUTCOME_OF_TYPE,
    SUCCESS,
    TYPES_WITH_DEFAULT_OUTCOME,
    MemberPath,
    Said,
    actors_of,
    as_json_text,
    as_text,
    ips_of,
    outcomes_of,
    paths_of,
    read_said,
    resources_of,
    statuses_of,
    texts_in,
    type_of,
)
from audit_async._sanitize.unsafe_text import escape
from audit_async.events.recorded import recorded_time
from audit_async.events.registry import known_types

#: A range of time is looked for by at most so many beginnings of a timestamp.
_FEW_TIMES: Final = 4


class Condition(NamedTuple):
    """One part of a query that an event, or the context, has to fulfil. An index knows some by their kind."""

    kind: str  #: what an index calls it
    values_of: Callable[[Said], Iterable[str]]  #: what a record says of it
    accepts: Callable[[str], bool]  #: whether one such value is wanted
    values: frozenset[str] = frozenset()  #: the values that are wanted; empty if they can't be listed
    needles: Needles | None = None  #: None if no bytes are in every such line

    def holds(self, said: Said) -> bool:
        """Whether the record says a value that is wanted."""
        return any(map(self.accepts, self.values_of(said)))


class Filter:
    """A query, made ready to be put to many lines. Not changed after it is made; from any thread."""

    def __init__(self, query: AuditQuery, *, audit_id: str | None = None) -> None:
        """`audit_id` leaves out lines without it; a line may have it elsewhere than in its place, too."""
        self._conditions = tuple(_conditions(query))
        self._fields = tuple(_FieldCondition.all_of(query))
        self._text = _spellings(query.text) if query.text is not None else frozenset()
        self.start: Final = recorded_time(query.start) if query.start is not None else None
        self.end: Final = recorded_time(query.end) if query.end is not None else None
        self._types = re.compile("|".join(map(translate, query.event_types))) if query.event_types else None
        self._critical = query.critical
        # Asked for once, so that a class that is defined meanwhile changes nothing half-way; and only if it matters,
        # since learning all classes takes a process 0.1 s.
        known = known_types() if query.critical is not None else {}
        self._critical_types = frozenset(tag for tag, cls in known.items() if cls.critical)
        self.is_open: Final = not (
            self._conditions or self._fields or self._text or self._types or self._critical is not None
        )
        #: Sets of needles, each of which a wanted line must pass, the most selective first.
        self.needles: Final = tuple(self._all_needles(query, audit_id))
        #: What an index can look up: for each, the kind of term and its values, any of which will do. The kinds are
        #: `actor`, `resource`, `ip`, `path`, `status`, `outcome`, and `context.` with the name of the member.
        self.terms: Final = tuple((one.kind, self._indexed(one)) for one in self._conditions if one.values)
        #: The same of which one is enough: a wanted line has at least one term of one of these kinds. Empty if there
        #: is no such condition.
        self.either: Final = tuple(self._either_of())

    @property
    def is_indexed(self) -> bool:
        """Whether an index can narrow the question."""
        return bool(self.terms or self.either) or self.asks_for_types or self.asks_for_times

    def _indexed(self, condition: Condition) -> frozenset[str]:
        """Return the values that an index has of the lines that fulfil a condition."""
        return condition.values

    def _either_of(self) -> Iterable[tuple[str, frozenset[str]]]:
        return ()

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
        return self.is_open or self.wants_said(read_said(line))

    def wants_said(self, said: Said, log_id: str = "") -> bool:  # noqa: ARG002 - for filters that open what is sealed
        """The same of what the line says, already read, in the log with this id."""
        return self.is_open or (
            self.wants_type(type_of(said.event))
            and all(condition.holds(said) for condition in self._conditions)
            and all(field.holds(said) for field in self._fields)
            and (not self._text or any(self._holds_text(text) for text in texts_in((said.event, said.context))))
        )

    def _holds_text(self, text: str) -> bool:
        return any(wanted in text for wanted in self._text)

    def _all_needles(self, query: AuditQuery, audit_id: str | None) -> Iterator[Needles]:
        if audit_id is not None:
            yield Needles((b'"audit_id":"%s"' % audit_id.encode(),), spelled=False)
        yield from self._value_needles()
        if query.event_types and all(beginnings := [re.split(r"[*?\[]", t)[0] for t in query.event_types]):
            yield Needles(tuple(sorted({_beginning(t, b) for t, b in zip(query.event_types, beginnings, strict=True)})))
        elif self._critical and self._critical_types:
            yield Needles(tuple(sorted(b'"%s"' % tag.encode() for tag in self._critical_types)))
        if query.start is not None and query.end is not None and (times := _common_times(query.start, query.end)):
            yield Needles(tuple(b'"timestamp":"' + time.encode() for time in times), spelled=False)

    def _value_needles(self) -> Iterator[Needles]:
        """Yield those for what the event and the context have to say."""
        yield from (one.needles for one in self._conditions if one.needles is not None)
        for field in self._fields:
            yield from field.needles()
        if self._text:
            yield Needles(tuple(map(needles.inside, sorted(self._text))))


# -- the parts of a query -----------------------------------------------------------------------------------------


def _conditions(query: AuditQuery) -> Iterator[Condition]:
    """Yield what the event and the context have to fulfil, the most selective first."""
    if query.resource_id is not None:
        yield _named("resource", lambda said: resources_of(said.event), query.resource_id)
    if query.actor is not None:
        yield _named("actor", lambda said: actors_of(said.event), query.actor)
    if query.ip is not None:
        yield _from_address(query.ip)
    for name, value in query.context.items():
        yield _named(f"context.{name}", _context_member(name), value, member=name)
    if query.path is not None:
        yield _named("path", lambda said: paths_of(said.event), query.path)
    if query.status is not None:
        statuses = statuses_asked(query.status)
        yield Condition(
            "status",
            lambda said: statuses_of(said.event),
            statuses.__contains__,
            statuses,
            needles.for_numbers("status", statuses),
        )
    if query.outcome is not None:
        outcomes = _spellings(query.outcome)
        pattern = b"|".join(_outcome_patterns(outcomes))
        yield Condition(
            "outcome",
            lambda said: outcomes_of(said.event),
            outcomes.__contains__,
            outcomes,
            Needles((), pattern=pattern),
        )


def _context_member(name: str) -> Callable[[Said], Iterable[str]]:
    def values_of(said: Said) -> Iterable[str]:
        value = as_text(said.context.get(name))
        return () if value is None else (value,)

    return values_of


def _named(kind: str, values_of: Callable[[Said], Iterable[str]], asked: str | Glob, *, member: str = "") -> Condition:
    """Return the condition for a text that is asked for whole, or by a pattern; `member` is where it has to be."""
    if isinstance(asked, str) or not any(piece is None for piece in asked.pieces()):
        values = _spellings(asked if isinstance(asked, str) else "".join(piece or "" for piece in asked.pieces()))
        return Condition(kind, values_of, values.__contains__, values, needles.for_values(values, member))
    patterns = [Glob(spelling) for spelling in sorted(_spellings(asked.pattern))]
    matches = re.compile("|".join(pattern.regex() for pattern in patterns)).match
    found = [_needle_of(pattern) for pattern in patterns]
    any_of = tuple(needle for needle in found if needle)
    return Condition(
        kind,
        values_of,
        lambda text: matches(text) is not None,
        needles=Needles(any_of) if len(any_of) == len(found) else None,
    )


def _needle_of(pattern: Glob) -> bytes:
    """Return the bytes that are in every line with a text of this pattern: its longest literal; may be empty."""
    first, *others = list(pattern.pieces())
    longest = max((piece for piece in others if piece), key=len, default="")
    # A text begins after a quotation mark, an integer does not.
    if first and len(first) >= len(longest):
        return (b"" if first.strip("-0123456789") == "" else b'"') + needles.inside(first)
    return needles.inside(longest)


def _from_address(asked: str) -> Condition:
    """Return the condition for an address, or for all addresses of a network."""

    def values_of(said: Said) -> Iterable[str]:
        return ips_of(said.event)

    if "/" in asked:
        network = ip_network(asked, strict=False)
        return Condition("ip", values_of, _contains(network), needles=needles.for_network(network))
    values = set(_spellings(asked))
    with suppress(ValueError):
        address = ip_address(asked)
        mapped = address if address.version == 4 else address.ipv4_mapped
        values.update({str(address), address.exploded})
        if mapped is not None:
            values.update({str(mapped), f"{_MAPPED}{mapped}"})
    wanted = frozenset(values)
    # With an address also `::ffff:` and the address is wanted: one search finds both.
    ends = {value.removeprefix(_MAPPED) for value in wanted}
    found = Needles(tuple(needles.inside(end) + (b"" if end.isdecimal() else b'"') for end in sorted(ends)))
    return Condition("ip", values_of, wanted.__contains__, wanted, found)


#: How an IPv4 address is spelled that came over an IPv6 socket.
_MAPPED: Final = "::ffff:"


def _contains(network: IPv4Network | IPv6Network) -> Callable[[str], bool]:
    def contains(text: str) -> bool:
        if network.version == 4 and text.lower().startswith(_MAPPED):
            text = text[len(_MAPPED) :]
        try:
            return ip_address(text) in network
        except ValueError:
            return False

    return contains


def _outcome_patterns(outcomes: frozenset[str]) -> Iterator[bytes]:
    """Yield patterns, one of which is in every line with such an outcome."""
    for outcome in sorted(outcomes):
        yield b'"%s"' % re.escape(needles.inside(outcome))
        yield from (re.escape(b'"%s"' % tag.encode()) for tag, stated in OUTCOME_OF_TYPE.items() if stated == outcome)
    if COMPLETED in outcomes:
        yield from (re.escape(b'"%s"' % tag.encode()) for tag in sorted(TYPES_WITH_DEFAULT_OUTCOME))
    if FAILURE in outcomes:
        yield b'"%s"' % HTTP_FAILED.encode()
        yield rb'"status"%s[45]' % needles.BETWEEN
    if SUCCESS in outcomes:
        yield rb'"status"%s[1-3]' % needles.BETWEEN


class _FieldCondition(NamedTuple):
    """A value that has to be at a member's path."""

    path: MemberPath
    values: frozenset[str]  #: any of these

    @classmethod
    def all_of(cls, query: AuditQuery) -> Iterator[_FieldCondition]:
        """Yield those of a query: all of them have to hold."""
        for path, asked in query.fields.items():
            for value in (asked,) if isinstance(asked, str) else asked:
                yield cls(MemberPath.parse(path), _spellings(value))

    def holds(self, said: Said) -> bool:
        """Whether one of the values is there."""
        return any(as_json_text(value) in self.values for value in self.path.values(said))

    def needles(self) -> Iterator[Needles]:
        """Yield needles for the value, and for the end of the member's name."""
        last = self.path.names[-1]
        return needles.for_field(self.values, None if last.isdecimal() else last)


def _spellings(value: str) -> frozenset[str]:
    """Return a text and its harmless form, in which the library would have recorded it."""
    # A lone surrogate has no UTF-8, so it can't be in any record.
    return frozenset(text for text in (value, escape(value)) if text.isascii() or not _holds_surrogate(text))


def _holds_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _beginning(pattern: str, beginning: str) -> bytes:
    encoded = b'"' + needles.inside(beginning)
    return encoded + b'"' if beginning == pattern else encoded


def _common_times(start: datetime, end: datetime) -> list[str]:
    """Return a few beginnings of a timestamp, one of which every time from `start` to `end` has; or none."""
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
        if last - first < step * (_FEW_TIMES - 1):
            times = [recorded_time(first + step * n)[:length] for n in range(_FEW_TIMES) if first + step * n <= last]
            return sorted({*times, recorded_time(last)[:length]})
    return []
