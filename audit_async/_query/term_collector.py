"""What an index knows of a page of lines: collected from all of them at a time, column by column.

It finds the same as the functions in `recorded_members` do for one record after another, at a third of their time: what
most members hold is looked at by functions of C, and a value that many lines have becomes a term once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, repeat
from types import NoneType
from typing import Final, cast

from audit_async._query.index_file import ANY_SEALED, KINDS, seed_of, terms_of
from audit_async._query.recorded_members import (
    ACTING,
    ACTING_WITHOUT_ACTOR,
    OUTCOME_OF_TYPE,
    PATHS,
    RESOURCE,
    TYPES_WITH_DEFAULT_OUTCOME,
    Said,
    actors_of,
    as_text,
    ips_of,
    is_resource,
    outcomes_of,
    paths_of,
    read_said_lines,
    resources_of,
    statuses_of,
    type_of,
)
from audit_async.privacy.opening_sealed import sealed_members

#: What can be in a set and equals nothing that says something else. Of others, 1, 1.0 and True are equal.
_PLAIN: Final = frozenset({str, int, NoneType})
#: Types whose name says how it ended, or whose status does.
_TYPES_WITH_OUTCOME: Final = frozenset(OUTCOME_OF_TYPE) | TYPES_WITH_DEFAULT_OUTCOME

#: Members that say how it ended, in events of any type.
_STATING_OUTCOME: Final = frozenset({"outcome", "result"})
_SEALED: Final = f'"{ANY_SEALED}'.encode()
#: Finds the id of each key that something is sealed under.
_KEY_IDS: Final[Callable[[bytes], list[bytes]]] = re.compile(
    rb"(?<!\\)" + _SEALED + rb'([A-Za-z0-9_-]{22}):[A-Za-z0-9_-]{80,}:[A-Za-z0-9_-]{43}"(?!:)'
).findall

#: How many names of context members are remembered; they are the application's choice.
_MOST_SEEDS: Final = 1000

_Event = dict[str, object]


class TermCollector:
    """Collects the terms, types and times of a segment. From one thread."""

    def __init__(self, salt: bytes) -> None:
        self.earliest = "~"
        self.latest = ""
        self.records = 0
        self.types: Final[set[str]] = set()
        self._salt = salt
        self._seeds: dict[str, int] = {}

    def terms_in(self, page: bytes) -> Iterator[int]:
        """Return the terms in whole lines, hardly one twice; raises as msgspec does for one that is no record."""
        records = read_said_lines(page)
        if not records:
            return iter(())
        self.records += len(records)
        times = [record.timestamp for record in records]
        self.earliest = min(self.earliest, *times)
        self.latest = max(self.latest, *times)
        found: dict[str, set[str]] = {}
        self._look_at_events([record.event for record in records], found)
        contexts = [context for record in records if (context := record.context)]
        for name in set().union(*contexts):
            found["context." + name] = _values_of((name,), contexts)
        if _SEALED in page:
            found = {kind: _without_sealed(values) for kind, values in found.items()}
            found["key"] = {key_id.decode() for key_id in _KEY_IDS(page)}
        return chain.from_iterable([terms_of(self._seed(kind), values) for kind, values in found.items()])

    def _seed(self, kind: str) -> int:
        seed = self._seeds.get(kind)
        if seed is None:
            if len(self._seeds) >= _MOST_SEEDS:
                self._seeds.clear()
            seed = self._seeds[kind] = seed_of(self._salt, kind)
        return seed

    def _look_at_events(self, events: Sequence[_Event], found: dict[str, set[str]]) -> None:
        """Add by kind the values in some events."""
        members: set[str] = set().union(*events)
        types = _types_of(events)
        found["type"] = set(types)
        self.types.update(found["type"])
        found["actor"] = _values_of(members & ACTING, events)
        found["resource"] = _values_of(filter(is_resource, members), events)
        found["path"] = _values_of(members & PATHS, events)
        found["ip"] = _values_of(members & {"ip"}, events)
        found["status"] = _values_of(members & {"status"}, events)
        if without := members & ACTING_WITHOUT_ACTOR:
            found["actor"] |= _values_of(without, [event for event in events if "actor" not in event])
        if "actor" in members:
            objects, others = _objects_in("actor", events)
            found["actor"] |= _values_of(("user_id",), objects) | _texts(others)
            found["ip"] |= _values_of(("ip",), objects)
        if "resource" in members:
            objects, _ = _objects_in("resource", events)
            found["resource"] |= _values_of(RESOURCE, objects)
        if not members.isdisjoint(_STATING_OUTCOME) or not _TYPES_WITH_OUTCOME.isdisjoint(found["type"]):
            found["outcome"] = _outcomes_in(events, types, members)


def terms_of_record(salt: bytes, said: Said, kinds: Collection[str] = KINDS) -> set[int]:
    """Return the terms of one record: what `TermCollector` has to find, straight from the definitions."""
    event = said.event
    by_kind = {
        "type": (type_of(event),),
        "actor": actors_of(event),
        "resource": resources_of(event),
        "ip": ips_of(event),
        "path": paths_of(event),
        "status": statuses_of(event),
        "outcome": outcomes_of(event),
        **{f"context.{name}": (text,) for name, value in said.context.items() if (text := as_text(value)) is not None},
    }
    found = {kind: _without_sealed(set(values)) for kind, values in by_kind.items()}
    found["key"] = {member.sealed.key_id for member in sealed_members(event, said.context)}
    return {
        term
        for kind, values in found.items()
        if kind.partition(".")[0] in kinds
        for term in terms_of(seed_of(salt, kind), values)
    }


def _without_sealed(values: set[str]) -> set[str]:
    """Return what is indexed of values: a sealed text differs each time, so of all of them there is one term."""
    plain = {value for value in values if not value.startswith(ANY_SEALED)}
    return plain if len(plain) == len(values) else plain | {ANY_SEALED}


def _types_of(events: Sequence[_Event]) -> Sequence[str]:
    types = list(map(dict.get, events, repeat("event_type")))
    return cast("list[str]", types) if set(map(type, types)) == {str} else list(map(type_of, events))


def _values_of(members: Iterable[str], objects: Sequence[_Event]) -> set[str]:
    """Return what these members hold, as far as it is text or an integer, as texts."""
    found: set[str] = set()
    for member in members:
        try:
            different = set(map(dict.get, objects, repeat(member)))
        except TypeError:  # an object or a list
            different = set()
        different.discard(None)
        types = set(map(type, different))
        if types == {str}:
            found |= cast("set[str]", different)
        elif different and types <= _PLAIN:
            found |= _texts(different)
        else:  # also None alone, which costs nothing much
            found |= _texts(map(dict.get, objects, repeat(member)))
    return found


def _texts(values: Iterable[object]) -> set[str]:
    return {text for value in values if (text := as_text(value)) is not None}


def _objects_in(member: str, events: Sequence[_Event]) -> tuple[Sequence[_Event], Sequence[object]]:
    """Return the objects that this member holds, and its other values."""
    values = list(map(dict.get, events, repeat(member)))
    if set(map(type, values)) <= {dict, NoneType}:
        return cast("list[_Event]", list(filter(None, values))), ()
    objects = [value for value in values if isinstance(value, dict)]
    return objects, [value for value in values if not isinstance(value, dict)]


def _outcomes_in(events: Sequence[_Event], types: Sequence[str], members: set[str]) -> set[str]:
    """Return all outcomes of some events, whose types and members are given."""
    outcomes, results, statuses = (
        list(map(dict.get, events, repeat(member))) if member in members else repeat(None)
        for member in ("outcome", "result", "status")
    )
    if "result" in members:
        results = [result.get("status") if isinstance(result, dict) else result for result in results]
    try:
        different = set(zip(types, outcomes, results, statuses, strict=False))  # some are endless
    except TypeError:  # a value that is none
        different = set()
    if different and {value.__class__ for one in different for value in one} <= _PLAIN:
        # Nothing else of an event decides.
        names = ("event_type", "outcome", "result", "status")
        events = [dict(zip(names, one, strict=True)) for one in different]
    return {outcome for event in events for outcome in outcomes_of(event)}
