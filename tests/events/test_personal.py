"""What a class may declare as personal, and what that means."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from audit_async.errors import InvalidEvent
from audit_async.events import ActorInfo, AuditEvent, Personal, describe
from audit_async.events.personal import EACH_ITEM, EACH_VALUE, Shape, SubjectMember, Variant, personal_members
from tests.events.test_events import defevent


class Guest(msgspec.Struct):
    """A part of an event."""

    name: Annotated[str, Personal("booker.user_id")]
    plate: str = ""


class Company(msgspec.Struct, tag="company"):
    """One of a union."""

    name: str


class Person(msgspec.Struct, tag="person"):
    """The other."""

    name: Annotated[str, Personal("name", kind="contact")]


class Booked(AuditEvent, tag="personal.booked"):
    """An event with everything that may be personal."""

    booker: ActorInfo
    guests: list[Guest]
    rooms: dict[str, Guest] | None = None
    payer: Company | Person | None = None
    notes: Annotated[list[str] | None, Personal()] = None
    extra: Annotated[Mapping[str, Any] | None, Personal("booker.user_id")] = None
    renamed: Annotated[str | None, Personal("renamed")] = msgspec.field(default=None, name="Renamed")


def test_personal_members_are_found_at_any_depth() -> None:
    """In structs, lists, mappings and unions, by the names that are recorded."""
    found = {member.path: (member.shape, member.subject) for member in personal_members(Booked)}
    booker = SubjectMember(0, ("booker", "user_id"), "user", None, "kind")
    assert found[("guests", EACH_ITEM, "name")] == (Shape.TEXT, booker)
    assert found[("rooms", EACH_VALUE, "name")] == (Shape.TEXT, booker)
    assert found[("payer", Variant("type", "person"), "name")] == (
        Shape.TEXT,
        SubjectMember(2, ("name",), "contact", None, None),
    )
    assert found[("notes",)] == (Shape.TEXTS, None)
    assert found[("extra",)] == (Shape.FREE_FORM, booker)
    assert found[("Renamed",)] == (Shape.TEXT, SubjectMember(0, ("Renamed",), "user", None, None))
    assert found[("booker", "user_id")] == (Shape.TEXT, SubjectMember(1, ("user_id",), "user", None, "kind"))
    assert describe(Booked).personal == personal_members(Booked)
    assert {member.name for member in personal_members(Booked)} >= {"guests[].name", "booker.user_id", "rooms{}.name"}


def test_an_event_with_personal_members_is_an_ordinary_event() -> None:
    """It is checked, encoded and decoded as without the declarations."""
    event = Booked(booker=ActorInfo(user_id="u"), guests=[Guest("Alice")], payer=Person("Bob"), notes=["x"])
    assert msgspec.json.decode(msgspec.json.encode(event), type=Booked) == event
    with pytest.raises(InvalidEvent, match="notes"):
        Booked(booker=ActorInfo(user_id="u"), guests=[], notes=[5])  # type: ignore[list-item]


class Node(msgspec.Struct):
    """Contains itself."""

    name: Annotated[str, Personal()]
    inner: list[Node] = []


class Listed(msgspec.Struct, array_like=True):
    """Recorded as a list."""

    name: Annotated[str, Personal()]


@dataclasses.dataclass
class Data:
    """No struct."""

    name: Annotated[str, Personal()]


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        (Annotated[int, Personal()], "no text"),
        (Annotated[bytes, Personal()], "no text"),
        (Annotated[str | int, Personal()], "no text"),
        (Annotated[ActorInfo, Personal()], "its own members"),
        (Annotated[Any, Personal()], "no text"),
        (Annotated[dict[str, int], Personal()], "no text"),
        (Annotated[dict[int, str], Personal()], "no text"),
        (Annotated[list[int], Personal()], "no text"),
        (Annotated[str, Meta(max_length=5), Personal()], "pattern or a length"),
        (Annotated[Annotated[str, Meta(pattern="a")] | None, Personal()], "pattern or a length"),
        (Annotated[list[Annotated[str, Meta(pattern="a")]], Personal()], "no text"),
        (Annotated[str, Personal("nobody")], "'nobody', which is no member"),
        (Annotated[str, Personal("actor.nobody")], "'actor.nobody', which is no member"),
        (Annotated[str, Personal("number")], "no text"),
        (Annotated[str, Personal("mine", confirmed_by="missing")], "'missing', which"),
        (Annotated[str, Personal(joined=True)], "no list of texts"),
        (Annotated[list[str], Personal(when="path")], "no text"),
        (dict[Annotated[str, Personal()], str], "keys stay legible"),
        (tuple[Annotated[str, Personal()], int], "fixed length"),
        (list[Node], "contains itself"),
        (Listed, "recorded as a list"),
        (Data, r"only msgspec\.Struct"),
    ],
    ids=str,
)
def test_what_cannot_be_sealed_may_not_be_declared(type_: Any, reason: str) -> None:
    """The class does not come to exist, and the error says why and names the member."""
    fields: list[Any] = [("mine", type_), ("actor", ActorInfo | None, None), ("number", int, 0)]
    with pytest.raises(InvalidEvent, match=reason) as caught:
        defevent("Wrong", fields, tag="personal.wrong")
    assert caught.value.field.startswith("mine")


def test_an_unresolvable_annotation_is_not_called_free_of_persons() -> None:
    """What can't be known is None, which a log that seals refuses."""
    cls = defevent("Unresolved", [("mine", "NotDefinedAnywhere")], tag="personal.unresolved")
    assert describe(cls).personal is None
