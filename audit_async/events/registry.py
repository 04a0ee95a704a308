"""What is learned of an event's class, once, before its first event is taken.

What a class's definition must keep to is checked in `class_rules`; here is what its annotations say, which can't be
resolved before all classes of their module are defined.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from msgspec import inspect

from audit_async._fork_lock import ForkLock
from audit_async.errors import InvalidEvent
from audit_async.events.base import AuditEvent, Reduced
from audit_async.events.class_rules import LIFECYCLE_MODULE, class_of, is_abstract, is_recordable
from audit_async.events.personal import PersonalMember, personal_members

__all__ = ["EventKind", "GenericEvent", "describe", "known_types"]


class EventKind(NamedTuple):
    """What the log needs to know of an event's class."""

    tag: str  #: the `event_type` in the record
    critical: bool  #: made durable at once in hybrid mode, refused last
    free_form: bool  #: its annotations have room for a float, so NaN or infinity may hide in it
    internal: bool  #: one of the library's own `audit.*` events
    personal: tuple[PersonalMember, ...] | None  #: None if the annotations can't be resolved


class GenericEvent(AuditEvent, abstract=True, tag="generic", rename={"event_type": "type"}):
    """A recorded event whose type this process does not know, or does not know in this form. Never emitted.

    `fields` has every member of the recorded object but `event_type`, as plain JSON data, the members that every
    event may have (`occurred_at`, `reduced`) among them.
    """

    event_type: str
    fields: dict[str, object]


def describe(cls: type[AuditEvent]) -> EventKind:
    """Return what is to be known of an event's class; from a cache after the first time. From any thread.

    Raises:
        InvalidEvent: If events of this class can't be recorded: it is no subclass of `AuditEvent`, or an abstract one,
            or one with a member that can't be checked.
    """
    kind = _kinds.get(cls)
    if kind is None:
        kind = _learn(cls)
        with _lock.current:
            _kinds[cls] = kind
    return kind


def known_types() -> dict[str, type[AuditEvent]]:
    """Return the classes that can be recorded and are defined in this process, by tag; of a tag the newest class."""
    types: dict[str, type[AuditEvent]] = {}
    waiting = AuditEvent.__subclasses__()[::-1]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__()[::-1])
        try:
            tag = describe(cls).tag
        except InvalidEvent:
            continue  # emitting one raises the same error
        types[tag] = class_of(tag) or cls
    return types


_lock: Final = ForkLock()
_kinds: WeakKeyDictionary[type[AuditEvent], EventKind] = WeakKeyDictionary()


def _learn(cls: type[AuditEvent]) -> EventKind:
    name = cls.__name__
    if not issubclass(cls, AuditEvent):
        raise InvalidEvent(name, "", "is no event; subclass AuditEvent")
    if issubclass(cls, GenericEvent):
        raise InvalidEvent(name, "", "represents a recorded event of an unknown type; emit an event of a known type")
    if is_abstract(cls):
        raise InvalidEvent(name, "", "is abstract, a base for other events; emit an event of a subclass with a tag")
    if not is_recordable(cls):
        raise InvalidEvent(name, "", "was refused when it was defined; correct its definition")
    internal = cls.__module__ == LIFECYCLE_MODULE
    tag = cls.__struct_config__.tag
    assert isinstance(tag, str)  # noqa: S101 - its definition was checked
    return EventKind(tag, cls.critical, _free_form(cls, name), internal, _personal(cls))


def _personal(cls: type[AuditEvent]) -> tuple[PersonalMember, ...] | None:
    try:
        return personal_members(cls)
    except InvalidEvent:
        raise
    except Exception:  # noqa: BLE001 - annotations that can't be resolved may mean anything
        return None


def _free_form(cls: type[AuditEvent], name: str) -> bool:
    """Return whether the annotations can hold a float at any depth, or anything at all."""
    try:
        waiting = [inspect.type_info(cls)]
    except Exception:  # noqa: BLE001 - annotations that can't be resolved may mean anything
        return True
    free_form = False
    seen: set[type] = set()
    while waiting:
        info = waiting.pop()
        if isinstance(info, inspect.RawType):
            # Raw bytes go into the line unread: a line break or another event's end could be in them.
            raise InvalidEvent(name, "", "has a member of type msgspec.Raw, which can't be checked; use dict or list")
        if isinstance(info, inspect.AnyType | inspect.FloatType | inspect.CustomType | inspect.ExtType):
            free_form = True
        cls_in_it = getattr(info, "cls", None)
        if isinstance(cls_in_it, type) and hasattr(info, "fields"):
            if cls_in_it in seen:
                continue
            seen.add(cls_in_it)
            if cls_in_it is Reduced:
                continue
        waiting.extend(_parts(info))
    return free_form


def _parts(info: inspect.Type) -> list[inspect.Type]:
    """Return the types that a type is made of."""
    parts: list[inspect.Type] = []
    for attribute in ("type", "item_type", "key_type", "value_type"):
        part = getattr(info, attribute, None)
        if isinstance(part, inspect.Type):
            parts.append(part)
    for attribute in ("types", "item_types"):
        parts.extend(part for part in getattr(info, attribute, ()) if isinstance(part, inspect.Type))
    parts.extend(field.type for field in getattr(info, "fields", ()) if isinstance(field, inspect.Field))
    return parts
