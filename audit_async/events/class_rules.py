"""What the definition of an event's class must keep to, checked by the metaclass when the class is defined.

A tag is the identity of a type in every record, and msgspec gives a class without one its parent's tag or its own name,
silently. A class that takes another's tag would make every event of the other impossible to record, long after the
mistake. So a class whose tag is missing, malformed, reserved or taken does not come to exist.
"""

from __future__ import annotations

import gc
import re
import sys
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary

import msgspec

from audit_async._fork_lock import ForkLock
from audit_async.errors import InvalidEvent
from audit_async.events.personal import personal_members

__all__ = ["LIFECYCLE_MODULE", "check_definition", "check_fields", "class_of", "is_abstract", "is_recordable"]

#: The module whose classes may have a tag that begins with `audit.`.
LIFECYCLE_MODULE: Final = "audit_async.events.lifecycle"

_TAG: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+")
_MAX_TAG: Final = 128
_OWN_TAG: Final = 'give the class a tag of its own: class {name}(AuditEvent, tag="billing.invoice_paid")'
_BASE: Final = "or, if it is a base for other events and never emitted itself, declare it with abstract=True"
_RESERVED: Final = ("event_type", "reduced")

# Classes are defined in any thread, by imports.
_lock: Final = ForkLock()
_classes: Final[WeakValueDictionary[str, type]] = WeakValueDictionary()
_abstract: Final[WeakSet[type]] = WeakSet()
_recordable: Final[WeakSet[type]] = WeakSet()


def check_definition(cls: type[Any], *, abstract: bool) -> None:
    """Raise `InvalidEvent`, which says what to do, unless `cls` may be defined; if it may, its tag is taken from here.

    A class that is defined again, by a reload or because its file is imported under a second name, replaces the one
    before it.
    """
    name = cls.__name__
    config = cls.__struct_config__
    if config.tag_field != "event_type" or config.array_like:
        raise InvalidEvent(name, "", "leave tag_field and array_like as AuditEvent has them")
    if "critical" in cls.__struct_fields__ or not isinstance(cls.critical, bool):
        reason = "belongs to the class, not to each event: write `critical: ClassVar[bool] = True`"
        raise InvalidEvent(name, "critical", reason)
    version = cls.event_version
    if "event_version" in cls.__struct_fields__ or type(version) is not int or version < 1:
        reason = "belongs to the class and is 1 or more: write `event_version: ClassVar[int] = 2`"
        raise InvalidEvent(name, "event_version", reason)
    try:
        personal_members(cls)
    except InvalidEvent:
        raise
    except Exception:  # noqa: BLE001, S110 - an annotation that can't be resolved yet; `describe` looks again
        pass
    with _lock.current:
        if abstract:
            _abstract.add(cls)
        else:
            _classes[_checked_tag(cls, config.tag)] = cls
            _recordable.add(cls)


def check_fields(name: str, namespace: dict[str, Any]) -> None:
    """Raise `InvalidEvent` if a class's body declares a field that the library fills in."""
    for member in _RESERVED:
        if member in namespace.get("__annotations__", {}):
            raise InvalidEvent(name, member, "is filled in by the library; choose another name for the field")


def class_of(tag: str) -> type[Any] | None:
    """Return the newest class with this tag, None if there is none."""
    return _classes.get(tag)


def is_recordable(cls: type[Any]) -> bool:
    """Return whether the class was defined with a tag, and its definition accepted."""
    return cls in _recordable


def is_abstract(cls: type[Any]) -> bool:
    """Return whether the class was declared as a base for others."""
    return cls in _abstract


def _checked_tag(cls: type[Any], tag: object) -> str:
    name = cls.__name__
    own_tag = _OWN_TAG.format(name=name)
    # msgspec's value for a class that gives none: its own name, or what it inherits.
    bases: tuple[type[Any], ...] = cls.__mro__[1:]
    if tag == name or tag in {base.__struct_config__.tag for base in bases if _is_struct(base)}:
        raise InvalidEvent(name, "", f"has no tag of its own; {own_tag}, {_BASE}")
    if not isinstance(tag, str) or len(tag) > _MAX_TAG or not _TAG.fullmatch(tag):
        raise InvalidEvent(
            name,
            "",
            "its tag is not a category and what happened, in lower-case ASCII letters, digits and _, joined by dots, "
            f"{_MAX_TAG} characters at most; {own_tag}",
        )
    if tag.startswith("audit.") and cls.__module__ != LIFECYCLE_MODULE:
        raise InvalidEvent(name, "", "tags that begin with audit. belong to the log itself; choose another category")
    if _is_taken(tag, cls):
        gc.collect()  # a class is part of a cycle: one that can't be used any more may only wait for its end
        other = _classes.get(tag)
        if other is not None:
            place = f"{other.__module__}.{other.__qualname__}"
            raise InvalidEvent(name, "", f"its tag {tag} is that of {place}; {own_tag}")
    return tag


def _is_struct(cls: type[Any]) -> bool:
    return issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct


def _is_taken(tag: str, cls: type[Any]) -> bool:
    """Return whether another class has this tag, and not an earlier definition of the same class."""
    other = _classes.get(tag)
    return other is not None and (other.__qualname__ != cls.__qualname__ or not _same_module(other, cls))


def _same_module(one: type[Any], other: type[Any]) -> bool:
    """Return whether both classes come from one source file.

    A script that a server imports again is `__main__` and `main`, and in a process that multiprocessing started it is
    `__mp_main__` as well.
    """
    if one.__module__ == other.__module__:
        return True
    file = _file_of(one)
    return file is not None and file == _file_of(other)


def _file_of(cls: type[Any]) -> str | None:
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else None
