"""Which classes may be recorded: what is learned of an event's class, once, before its first event is taken.

msgspec gives a subclass without a tag its parent's tag or its own name, silently; a trail with such a type can't be
told from one with another. So a class is checked before it is used, and the error says how to mend it.
"""

from __future__ import annotations

import re
from threading import RLock
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from msgspec import inspect

from audit_async.errors import InvalidEvent
from audit_async.events import lifecycle
from audit_async.events.base import AuditEvent, Reduced

__all__ = ["EventKind", "GenericEvent", "describe", "known_types"]

_TAG: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+")
_MAX_TAG: Final = 128
_OWN_TAG: Final = 'give the class a tag of its own: class {name}(AuditEvent, tag="billing.invoice_paid")'


class EventKind(NamedTuple):
    """What the log needs to know of an event's class."""

    tag: str  #: the `event_type` in the record
    critical: bool  #: made durable at once in hybrid mode, refused last
    free_form: bool  #: its annotations have room for a float, so NaN or infinity may hide in it
    internal: bool  #: one of the library's own `audit.*` events


class GenericEvent(AuditEvent, tag="generic", rename={"event_type": "type"}):
    """A recorded event whose type this process does not know, or does not know in this form. Never emitted.

    `fields` has every member of the recorded object but `event_type`, as plain JSON data, the members that every
    event may have (`occurred_at`, `reduced`) among them.
    """

    event_type: str
    fields: dict[str, object]


def describe(cls: type[AuditEvent]) -> EventKind:
    """Return what is to be known of an event's class; from a cache after the first time. From any thread.

    Raises `InvalidEvent`, which says how to mend it, for a class that can't be recorded: no subclass of
    `AuditEvent`, no tag of its own, a tag of another form than `category.what_happened`, one that begins with
    `audit.` or that another class has, or a class that isn't encoded as a JSON object with its type first.
    """
    kind = _kinds.get(cls)
    if kind is None:
        with _lock:
            kind = _learn(cls)
            # A class that was defined anew under its old name, as a reload does, takes its tag over.
            _classes[kind.tag] = cls
            _kinds[cls] = kind
    return kind


def known_types() -> dict[str, type[AuditEvent]]:
    """Return the classes that can be recorded and are defined in this process, by tag; the first one of a tag wins."""
    types: dict[str, type[AuditEvent]] = {}
    waiting = AuditEvent.__subclasses__()[::-1]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__()[::-1])
        try:
            tag = describe(cls).tag
        except InvalidEvent:
            continue  # whoever emits it is told
        types[tag] = _classes.get(tag, cls)
    return types


_lock = RLock()
_kinds: WeakKeyDictionary[type[AuditEvent], EventKind] = WeakKeyDictionary()
_classes: WeakValueDictionary[str, type[AuditEvent]] = WeakValueDictionary()


def _learn(cls: type[AuditEvent]) -> EventKind:
    name = cls.__name__
    if not issubclass(cls, AuditEvent):
        raise InvalidEvent(name, "", "is no event; subclass AuditEvent")
    if issubclass(cls, GenericEvent):
        raise InvalidEvent(name, "", "stands for a recorded event of an unknown type; emit an event of a known type")
    tag = _own_tag(cls, name)
    internal = cls.__module__ == lifecycle.__name__
    if tag.startswith("audit.") and not internal:
        raise InvalidEvent(name, "", "tags that begin with audit. belong to the log itself; choose another category")
    other = _classes.get(tag)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        where = f"{other.__module__}.{other.__qualname__}"
        raise InvalidEvent(name, "", f"its tag {tag} is that of {where}; {_OWN_TAG.format(name=name)}")
    if cls.__struct_config__.tag_field != "event_type" or cls.__struct_config__.array_like:
        raise InvalidEvent(name, "", "leave tag_field and array_like as AuditEvent has them")
    if not isinstance(cls.critical, bool):
        raise InvalidEvent(name, "critical", "belongs to the class: write `critical: ClassVar[bool] = True`")
    return EventKind(tag, cls.critical, _free_form(cls, name), internal)


def _own_tag(cls: type[AuditEvent], name: str) -> str:
    tag = cls.__struct_config__.tag
    inherited = {base.__struct_config__.tag for base in cls.__mro__[1:] if issubclass(base, AuditEvent)}
    if tag in inherited or tag == name:
        raise InvalidEvent(name, "", f"has no tag of its own; {_OWN_TAG.format(name=name)}")
    if not isinstance(tag, str) or len(tag) > _MAX_TAG or not _TAG.fullmatch(tag):
        raise InvalidEvent(
            name,
            "",
            "its tag is not a category and what happened, in lower-case ASCII letters, digits and _, joined by dots, "
            f"{_MAX_TAG} characters at most; {_OWN_TAG.format(name=name)}",
        )
    return tag


def _free_form(cls: type[AuditEvent], name: str) -> bool:
    """True where the annotations can hold a float at any depth, or anything at all."""
    try:
        waiting = [inspect.type_info(cls)]
    except Exception:  # noqa: BLE001 - annotations that can't be resolved may mean anything
        return True
    free_form = False
    seen: set[type] = set()
    while waiting:
        info = waiting.pop()
        if isinstance(info, inspect.RawType):
            # Raw bytes go into the line unread: a line break or another event's end could stand in them.
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
