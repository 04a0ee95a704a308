"""The catalogue of event classes as plain data, and whether a newer one still reads the records of an older one.

A record does not state the version of its event's class, and needs none: under one tag a class only ever changes so
that records of every earlier version are events of the newest one. `find_changes` checks that, for the CI of a service
that keeps its catalogue in a file. What can't be changed so gets a tag of its own.

The schemas are JSON Schema 2020-12 (https://json-schema.org/draft/2020-12), as msgspec makes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from audit_async.events.base import AuditEvent
from audit_async.events.registry import describe, known_types
from audit_async.events.schema_change import accepts_all

__all__ = ["CatalogueChange", "EventEntry", "catalogue", "event_schema", "find_changes"]

_TEMPLATE: Final = "#/$defs/{name}"
#: What the library fills in, and every event has.
_COMMON: Final = frozenset({"event_type", "occurred_at", "reduced"})


class EventEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue has of one type of event."""

    event_type: str
    version: int  #: the class's `event_version`
    critical: bool  #: durable at once in hybrid mode
    name: str  #: of the class
    module: str
    summary: str  #: the first sentences of its documentation
    required: list[str]
    optional: list[str]
    personal: list[str]  #: the members that a log with `Privacy` seals, by path
    json_schema: dict[str, Any]


class CatalogueChange(msgspec.Struct, frozen=True, kw_only=True):
    """A difference between two catalogues."""

    event_type: str
    member: str  #: empty if it is about the type itself
    what: str
    is_compatible: bool  #: False if records that were written before are no longer read as events of this type


def event_schema(cls: type[AuditEvent]) -> dict[str, Any]:
    """Return the JSON Schema of an event as it is recorded, with the schemas of its parts in `$defs`.

    Raises:
        InvalidEvent: Events of this class can't be recorded.
        TypeError: It has a member that JSON Schema can't describe.
    """
    tag = describe(cls).tag
    (reference,), parts = msgspec.json.schema_components([cls], ref_template=_TEMPLATE)
    own = reference["$ref"].removeprefix(_TEMPLATE.format(name=""))
    for part in parts.values():
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **parts.pop(own), "title": tag}
    return {**schema, "$defs": parts} if parts else schema


def catalogue(classes: Iterable[type[AuditEvent]] | None = None) -> list[EventEntry]:
    """Return the entries of event classes, sorted by type; of all that are defined in this process if none is given.

    Raises:
        InvalidEvent: Events of one of the classes can't be recorded.
        TypeError: A class has a member that JSON Schema can't describe.
    """
    entries = [_entry(cls) for cls in (known_types().values() if classes is None else classes)]
    return sorted(entries, key=lambda entry: entry.event_type)


def find_changes(old: Iterable[EventEntry], new: Iterable[EventEntry]) -> list[CatalogueChange]:
    """Return what differs, sorted by type. Entries of types that are in `new` alone are no change.

    A member may be added if it is optional, a required one may become optional, and a type may take more than before:
    with a greater `event_version`. Everything else is incompatible: records of the old form would be read as
    `GenericEvent`, or a member of them not at all.
    """
    newer = {entry.event_type: entry for entry in new}
    changes: list[CatalogueChange] = []
    for entry in sorted(old, key=lambda entry: entry.event_type):
        now = newer.get(entry.event_type)
        if now is None:
            changes.append(_change(entry, "", "is gone; its records are read as GenericEvent", ok=False))
        else:
            changes += _changes_of(entry, now)
    return changes


def _entry(cls: type[AuditEvent]) -> EventEntry:
    kind = describe(cls)
    fields = [field for field in msgspec.structs.fields(cls) if field.encode_name not in _COMMON]
    return EventEntry(
        event_type=kind.tag,
        version=cls.event_version,
        critical=kind.critical,
        name=cls.__name__,
        module=cls.__module__,
        summary=_summary(cls),
        required=[field.encode_name for field in fields if field.required],
        optional=[field.encode_name for field in fields if not field.required],
        personal=[member.name for member in kind.personal or ()],
        json_schema=event_schema(cls),
    )


def _summary(cls: type[AuditEvent]) -> str:
    text = cls.__doc__
    if not text or text == AuditEvent.__doc__:
        return ""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def _change(entry: EventEntry, member: str, what: str, *, ok: bool) -> CatalogueChange:
    return CatalogueChange(event_type=entry.event_type, member=member, what=what, is_compatible=ok)


def _changes_of(old: EventEntry, new: EventEntry) -> Iterator[CatalogueChange]:
    found = list(_member_changes(old, new))
    if old.critical != new.critical:
        found.append(_change(old, "", "is critical now" if new.critical else "is critical no more", ok=True))
    yield from found
    if new.version < old.version:
        yield _change(old, "", f"event_version went back from {old.version} to {new.version}", ok=False)
    elif found and new.version == old.version:
        yield _change(old, "", f"has changed, and event_version is still {new.version}; raise it", ok=False)


def _member_changes(old: EventEntry, new: EventEntry) -> Iterator[CatalogueChange]:
    before, after = _properties(old), _properties(new)
    for name, schema in before.items():
        if name not in after:
            yield _change(old, name, "was removed; what was recorded of it is read no more", ok=False)
        elif (name in new.required) and (name not in old.required):
            yield _change(old, name, "is required now, and records may be without it", ok=False)
        else:
            is_wider = accepts_all(after[name], schema, _definitions(new), _definitions(old))
            if not is_wider:
                yield _change(old, name, "no longer takes every value that was recorded", ok=False)
            elif not accepts_all(schema, after[name], _definitions(old), _definitions(new)):
                yield _change(old, name, "takes more values than before", ok=True)
            if name in old.required and name in new.optional:
                yield _change(old, name, "is optional now", ok=True)
    for name in after:
        if name not in before and name in new.required:
            yield _change(old, name, "is new and required, and older records are without it", ok=False)
        elif name not in before:
            yield _change(old, name, "is new and optional", ok=True)
    for name in sorted(set(old.personal) ^ set(new.personal)):
        text = "is personal now" if name in new.personal else "is personal no more, so it is recorded as it is"
        yield _change(old, name, text, ok=True)


def _properties(entry: EventEntry) -> Mapping[str, Any]:
    return {name: schema for name, schema in entry.json_schema["properties"].items() if name not in _COMMON}


def _definitions(entry: EventEntry) -> Mapping[str, Any]:
    definitions: Mapping[str, Any] = entry.json_schema.get("$defs", {})
    return definitions
