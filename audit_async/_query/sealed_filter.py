"""Looking for plain values among sealed ones: with the keys by opening them, without by counting what stays closed.

A sealed text differs each time, so nothing but its key says what it is. With a key store every line with a sealed text
is read, and opened if what it says otherwise is wanted. Without one such a line can't be decided, and an answer that
left it out silently would be wrong, so those lines are counted.

Who acts is sealed under his own key in every built-in event. So once one name was opened, its key says of all lines
with the same key that somebody else acts in them, and they are decided unopened. The index can't leave them out: it
has key ids, but neither the tenants, without which the store can't name a person's keys, nor which keys are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from typing import Final

from audit_async._query.audit_query import AuditQuery
from audit_async._query.index_file import ANY_SEALED
from audit_async._query.matching import Condition, Filter
from audit_async._query.needles import Needles, for_values
from audit_async._query.recorded_members import (
    ACTING,
    ACTING_WITHOUT_ACTOR,
    Said,
    actors_of,
    read_said,
    texts_in,
    type_of,
)
from audit_async.events import describe
from audit_async.events.class_rules import class_of
from audit_async.privacy.data_keys import key_id_text
from audit_async.privacy.opening_sealed import Opener, sealed_members
from audit_async.privacy.sealed_text import KEY_MISSING, SEALED
from audit_async.privacy.subjects import Subject

#: What each line with a sealed text holds.
_SEALED: Final = b'"sealed:1:'

#: Conditions on what is never sealed.
_NEVER_SEALED: Final = frozenset({"status", "outcome"})


#: The parts of a query that may name a person.
_NAMING: Final = ("actor", "resource_id", "ip", "path", "text", "context", "fields")
NOT_RECORDED: Final = "[not recorded]"


def may_ask_for_sealed(query: AuditQuery) -> bool:
    """Return whether a query asks for a value that may be sealed."""
    return any(getattr(query, name) for name in _NAMING)


# What is compared in place of a member that stays closed: no text of a record or a query holds a surrogate.
_CLOSED: Final = "\ud800"  # whose key may be elsewhere
_GONE: Final = "\udc00"  # erased, or forged

#: By why a member is closed.
_COMPARED: Final = {SEALED: _CLOSED, KEY_MISSING: _CLOSED}


def asked_without_names(query: AuditQuery) -> dict[str, object]:
    """Return what was asked, without the values that may name a person."""
    return {name: NOT_RECORDED if name in _NAMING else value for name, value in query.asked().items()}


#: Keys of others that are remembered: 10 MB.
_MOST_OTHERS: Final = 100_000
#: Where the key's id is in a sealed text.
_KEY_ID: Final = slice(len("sealed:1:"), len("sealed:1:") + 22)
#: Where an event says who acts.
_ACTING: Final = frozenset({("actor",), ("actor", "user_id"), *((name,) for name in ACTING | ACTING_WITHOUT_ACTOR)})


@cache
def own_actors(event_type: str) -> tuple[tuple[str, ...], ...]:
    """Return where events of a built-in type name who acts, sealed under his own key alone.

    Empty for a type of which that is not certain: it is the application's, or this process does not know it, or another
    of its members that say who acts may be sealed under somebody else's key.
    """
    cls = class_of(event_type)
    if cls is None or not cls.__module__.startswith("audit_async.events."):
        return ()
    places = []
    for member in describe(cls).personal or ():
        names = tuple(step for step in member.path if isinstance(step, str))
        if names not in _ACTING:
            continue
        subject = member.subject
        if (
            member.path != names
            or member.when != "always"
            or subject is None
            or (*names[: subject.depth], *subject.names) != names
        ):
            return ()
        if subject.confirmed_by is None:  # else it may be sealed under the key of nobody in particular
            places.append(names)
    return tuple(places)


class SealedFilter(Filter):
    """A filter that finds plain values also if they are sealed. Used by one thread at a time."""

    def __init__(self, query: AuditQuery, opener: Opener) -> None:
        """`opener` opens sealed members, as far as it has keys."""
        self._opener: Final = opener
        #: How many records may be wanted or not: what was asked for is in a member that can't be opened.
        self.undecided = 0
        super().__init__(query)
        asked = [condition for condition in self._conditions if condition.kind == "actor" and condition.values]
        self._actor: Final = asked[0] if asked and opener.has_keys else None  # not a pattern: one key may fit several
        self._others: Final[set[str]] = set()  # ids of the keys of those who were not asked for

    def _indexed(self, condition: Condition) -> frozenset[str]:
        return condition.values if condition.kind in _NEVER_SEALED else condition.values | {ANY_SEALED}

    def _value_needles(self) -> Iterator[Needles]:
        for wanted in super()._value_needles():
            yield wanted.or_also(_SEALED)

    def wants_said(self, said: Said, log_id: str = "") -> bool:
        """Whether what a line says is wanted, sealed or not. Raises `KeyStoreUnavailable`."""
        if not self.wants_type(type_of(said.event)) or self._is_of_others(said.event):
            return False
        opened = self._opener.open(
            log_id, said.event, said.context, closed_as=lambda shown: _COMPARED.get(shown, _GONE)
        )
        clear = Said(opened.event, opened.context, said.timestamp)
        self._learn(said.event, clear.event)
        if super().wants_said(clear, log_id) or (not opened.members and super().wants_said(said, log_id)):
            return True
        if any(member.shown in _COMPARED for member in opened.members):
            self.undecided += self._may_want(clear)
        return False

    def _is_of_others(self, event: dict[str, object]) -> bool:
        """Return whether the keys alone say that the one who was asked for does not act in an event."""
        if not self._others or self._actor is None or not own_actors(type_of(event)):
            return False
        return not any(
            self._actor.accepts(name) or (name.startswith(ANY_SEALED) and name[_KEY_ID] not in self._others)
            for name in actors_of(event)
        )

    def _learn(self, event: dict[str, object], clear: dict[str, object]) -> None:
        """Remember the keys of those who act in an event and were not asked for."""
        if self._actor is None:
            return
        for place in own_actors(type_of(event)):
            recorded, name = _member_at(event, place), _member_at(clear, place)
            if not isinstance(recorded, str) or not isinstance(name, str) or name in {_CLOSED, _GONE}:
                continue
            if recorded.startswith(ANY_SEALED) and not self._opener.may_share_key(name, self._actor.values):
                if len(self._others) >= _MOST_OTHERS:
                    self._others.clear()
                self._others.add(recorded[_KEY_ID])

    def _may_want(self, said: Said) -> bool:
        """Whether the line is wanted if each text that is closed is taken for what is looked for."""

        def holds(values: Iterable[object], accepts: Callable[[str], bool]) -> bool:
            return any(isinstance(value, str) and (value == _CLOSED or accepts(value)) for value in values)

        return (
            all(holds(one.values_of(said), one.accepts) for one in self._conditions)
            and all(field.holds(said) or holds(field.path.values(said), _nothing) for field in self._fields)
            and (not self._text or holds(texts_in((said.event, said.context)), self._holds_text))
        )


def _member_at(event: dict[str, object], place: tuple[str, ...]) -> object:
    value: object = event
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _nothing(_: str) -> bool:
    return False


class SubjectFilter(Filter):
    """A filter for the records about one person: with something sealed under his keys, or with his id in the clear.

    An id in the clear counts if the member's name says that it is of the person's kind: who acts and `user_id` and
    `subject` are users; a customer is in `customer_id`, or the resource of the type `customer`.
    """

    def __init__(self, query: AuditQuery, subject: Subject, key_ids: Collection[bytes]) -> None:
        """`key_ids` are the person's, as the key store has them."""
        self._subject: Final = subject
        self._key_ids: Final = frozenset(map(key_id_text, key_ids))
        super().__init__(query)

    def _either_of(self) -> Iterator[tuple[str, frozenset[str]]]:
        named = frozenset({self._subject.id})
        yield "key", self._key_ids
        yield "actor", named
        yield "resource", named

    def _value_needles(self) -> Iterator[Needles]:
        yield for_values([self._subject.id]).or_also(_SEALED)
        yield from super()._value_needles()

    def wants(self, line: bytes) -> bool:
        """Whether a line, a genuine record, is about the person, and wanted."""
        return self.wants_said(read_said(line))

    def wants_said(self, said: Said, log_id: str = "") -> bool:
        """Whether what a line says is about the person, and wanted."""
        return super().wants_said(said, log_id) and (self.is_sealed(said) or self._is_named(said))

    def is_sealed(self, said: Said) -> bool:
        """Whether something of what a line says is sealed under a key of the person."""
        return any(member.sealed.key_id in self._key_ids for member in sealed_members(said.event, said.context))

    def _is_named(self, said: Said) -> bool:
        event, kind, id_ = said.event, self._subject.kind, self._subject.id
        if kind == "user":
            return id_ in (*actors_of(event), event.get("user_id"), event.get("subject"))
        if event.get(f"{kind}_id") == id_:
            return True
        resource = event.get("resource")
        return isinstance(resource, dict) and (resource.get("resource_type"), resource.get("resource_id")) == (
            kind,
            id_,
        )
