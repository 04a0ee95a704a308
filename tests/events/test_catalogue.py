"""The catalogue of events: what it says of a class, and which changes of a class it finds to fit."""

from __future__ import annotations

import types
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async import events
from audit_async.errors import InvalidEvent
from audit_async.events import ActorInfo, AuditEvent, Change, UserUpdated
from audit_async.events.base import encode
from audit_async.events.catalogue import EventEntry, catalogue, event_schema, find_changes
from audit_async.events.registry import known_types


def entry(members: dict[str, Any], *, version: int = 1, critical: bool = False) -> EventEntry:
    """Return the entry of an event with these members: a type, or a type and a default."""

    def body(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = __name__
        namespace["__qualname__"] = "Ordered"
        namespace["__annotations__"] = {
            **{name: member[0] if isinstance(member, tuple) else member for name, member in members.items()},
            "event_version": ClassVar[int],
            "critical": ClassVar[bool],
        }
        namespace.update({name: member[1] for name, member in members.items() if isinstance(member, tuple)})
        namespace.update(event_version=version, critical=critical)

    return catalogue([types.new_class("Ordered", (AuditEvent,), {"tag": "test.ordered"}, body)])[0]


def found(old: EventEntry, new: EventEntry) -> list[tuple[str, bool]]:
    """Return the members that changed, and whether that fits."""
    return [(change.member, change.is_compatible) for change in find_changes([old], [new])]


def test_every_built_in_event_is_in_the_catalogue() -> None:
    """Each has a schema, a version and a text; nothing differs from itself."""
    entries = catalogue([cls for cls in known_types().values() if cls.__module__.startswith("audit_async.events")])
    assert len(entries) > 85
    assert all(entry.summary and entry.version == 1 for entry in entries)
    assert find_changes(entries, entries) == []


def test_an_entry_says_what_its_class_declares() -> None:
    """Required and optional members, the personal ones, and the schema of the whole record's event."""
    [entry] = catalogue([UserUpdated])
    assert (entry.event_type, entry.name, entry.critical) == ("user.updated", "UserUpdated", False)
    assert (entry.required, entry.optional) == (["actor", "subject", "changes"], [])
    assert {"subject", "changes{}.before", "actor.user_id"} <= set(entry.personal)
    schema = event_schema(UserUpdated)
    assert schema["properties"]["event_type"] == {"enum": ["user.updated"]}
    assert set(schema["$defs"]) >= {"ActorInfo", "Change", "AuthMethod"}
    change = UserUpdated(
        actor=ActorInfo(user_id="u"), subject="u", changes={"email": Change(before=None, after={"a": [1]})}
    )
    assert set(msgspec.json.decode(encode(change))) <= set(schema["properties"])


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"a": int}, {"a": int, "b": (str, "")}, [("b", True)]),
        ({"a": int}, {"a": int, "b": str}, [("b", False)]),
        ({"a": int, "b": (str, "")}, {"a": int}, [("b", False)]),
        ({"a": int}, {"a": (int, 0)}, [("a", True)]),
        ({"a": (int, 0)}, {"a": int}, [("a", False)]),
        ({"a": int}, {"a": float}, [("a", True)]),
        ({"a": float}, {"a": int}, [("a", False)]),
        ({"a": int}, {"a": int | None}, [("a", True)]),
        ({"a": int | None}, {"a": int}, [("a", False)]),
        ({"a": int}, {"a": int | str}, [("a", True)]),
        ({"a": str}, {"a": int}, [("a", False)]),
        ({"a": list[int]}, {"a": list[float]}, [("a", True)]),
        ({"a": dict[str, int]}, {"a": dict[str, Any]}, [("a", True)]),
        ({"a": dict[str, Any]}, {"a": dict[str, int]}, [("a", False)]),
        ({"a": ActorInfo}, {"a": ActorInfo}, []),
        ({"a": Change}, {"a": str}, [("a", False)]),
        ({"a": events.Severity}, {"a": str}, [("a", True)]),
        ({"a": str}, {"a": events.Severity}, [("a", False)]),
        ({"a": events.AuditResult}, {"a": events.AuditResult | None}, [("a", True)]),
    ],
)
def test_a_change_fits_if_old_records_are_events_of_the_new_class(
    old: dict[str, Any], new: dict[str, Any], changes: list[tuple[str, bool]]
) -> None:
    """With the version raised, what is left to judge is the member."""
    assert found(entry(old), entry(new, version=2)) == changes


def test_a_change_needs_a_greater_version() -> None:
    """Forgetting it is found, and so is a version that goes back."""
    assert found(entry({"a": int}), entry({"a": int, "b": (str, "")})) == [("b", True), ("", False)]
    assert found(entry({"a": int}, version=2), entry({"a": int})) == [("", False)]
    assert found(entry({"a": int}), entry({"a": int}, critical=True, version=2)) == [("", True)]
    assert find_changes([entry({"a": int})], [])[0].is_compatible is False
    assert find_changes([], [entry({"a": int})]) == []


MEMBERS = st.sampled_from(
    [int, float, str, bool, int | None, str | None, list[int], list[float], dict[str, int], dict[str, Any], Any,
     events.Severity, ActorInfo, ActorInfo | None, events.AuditResult, int | str, list[ActorInfo]]
)  # fmt: skip
VALUES = st.sampled_from(
    [0, 1.5, "x", "high", True, None, [1], [1.5], [], {}, {"k": 1}, {"k": "v"}, {"user_id": "u"}, {"status": "success"},
     [{"user_id": "u"}]]
)  # fmt: skip


@given(MEMBERS, MEMBERS, VALUES)
def test_what_is_said_to_fit_is_read(old: Any, new: Any, value: Any) -> None:
    """If a change of a member's type is found to fit, a value that the old type took is taken by the new one."""
    if found(entry({"a": old}), entry({"a": new}, version=2)) not in ([], [("a", True)], [("", True)]):
        return
    try:
        msgspec.convert(value, old, strict=True)
    except msgspec.ValidationError:
        return
    msgspec.convert(value, new, strict=True)


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.0])
def test_a_version_is_a_number_of_the_class(version: object) -> None:
    """Anything else is refused when the class is defined."""
    with pytest.raises(InvalidEvent, match="event_version"):
        types.new_class(
            "Versioned", (AuditEvent,), {"tag": "test.versioned"}, lambda body: body.update(event_version=version)
        )


def test_a_version_as_a_field_is_refused() -> None:
    """It would be a member of every record."""
    with pytest.raises(InvalidEvent, match="event_version"):
        types.new_class(
            "Versioned",
            (AuditEvent,),
            {"tag": "test.versioned"},
            lambda body: body.update(__annotations__={"event_version": int}, event_version=2),
        )
