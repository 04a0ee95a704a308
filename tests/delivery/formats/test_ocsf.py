"""Records as OCSF events: valid against the published schema, complete, and unharmed by what they hold."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from hashlib import sha256
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from audit_async.delivery.record_formats import Format
from audit_async.delivery.siem_formats import CefFormat, EcsFormat
from audit_async.delivery.siem_formats.ocsf_classes import OCSF_VERSION, OcsfClass
from audit_async.delivery.siem_formats.ocsf_format import OcsfFormat, mapping_of
from audit_async.delivery.siem_formats.ocsf_mapping import BUILT_IN, OcsfMapping
from audit_async.delivery.siem_formats.ocsf_members import Actor, Text
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo, AuditEvent, AuthFailure
from audit_async.events.recorded import NotARecord
from tests.delivery.formats.recorded_lines import ANYTHING, LOG_ID, TEXTS, built_in_types, deliverable, line_of
from tests.events.test_events import any_event

FORMAT = OcsfFormat()


@cache
def published() -> dict[str, Any]:
    """Return the published schema."""
    schema: dict[str, Any] = get_ocsf_schema(version=OCSF_VERSION)
    return schema


@cache
def validator(name: str) -> Draft202012Validator:
    """Return what checks an event of a class, by the class's name in the schema."""
    schema = OcsfJsonSchemaEmbedded(published()).get_class_schema(class_name=name, profiles=["host"])
    return Draft202012Validator(schema)


def ocsf(line: bytes) -> dict[str, Any]:
    """Return the event that a line is delivered as, checked against the schema of its class."""
    event: dict[str, Any] = msgspec.json.decode(FORMAT.encode(deliverable(line)))
    names = {member.uid: member.schema_name for member in OcsfClass}
    errors = [
        f"{error.json_path}: {error.message[:200]}" for error in validator(names[event["class_uid"]]).iter_errors(event)
    ]
    assert errors == []
    return event


def test_every_built_in_type_has_its_place() -> None:
    """The table has each built-in type once, and no other; its rules name members that the type has."""
    types = built_in_types()
    assert BUILT_IN.keys() == types.keys()


@pytest.mark.parametrize("member", list(OcsfClass))
def test_the_classes_are_those_of_the_schema(member: OcsfClass) -> None:
    """Number, name and category of each class are the published ones."""
    schema = published()["classes"][member.schema_name]
    assert (schema["uid"], schema["caption"]) == (member.uid, member.caption)
    if member is not OcsfClass.BASE_EVENT:
        category = published()["categories"]["attributes"][schema["category"]]
        assert (category["uid"], category["caption"]) == (member.category_uid, member.category)


@pytest.mark.parametrize("event_type", sorted(BUILT_IN))
def test_the_activities_are_those_of_the_schema(event_type: str) -> None:
    """An activity has the published name, unless it is 99, which has a name of our own."""
    mapping = BUILT_IN[event_type]
    activities = published()["classes"][mapping.ocsf_class.schema_name]["attributes"]["activity_id"]["enum"]
    caption = activities[str(mapping.activity)]["caption"]
    assert mapping.activity == 99 or mapping.activity_name == caption


@pytest.mark.parametrize("event_type", sorted(BUILT_IN))
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_built_in_event_is_valid(event_type: str, data: st.DataObject) -> None:
    """Whatever its members hold, an event is valid, and nothing of the record is lost or changed."""
    event = data.draw(any_event(built_in_types()[event_type], TEXTS, ANYTHING))
    line = line_of(event, request_id="r-1", weight=1.5)
    made = ocsf(line)
    recorded = msgspec.json.decode(line)
    assert made["metadata"]["uid"] == recorded["audit_id"]
    assert made["metadata"]["sequence"] == recorded["seq"]
    assert made["metadata"]["event_code"] == event_type
    assert made["metadata"]["original_time"] == recorded["timestamp"]
    assert made["unmapped"]["audit"] == {
        "log_id": LOG_ID,
        "instance": "00",
        "delivered_by": "web-1",
        "prev_hash": recorded["prev_hash"],
        "hash": recorded["hash"],
    }
    assert made["unmapped"]["context"] == {"request_id": "r-1", "weight": 1.5}
    texts = set(leaves(made))
    assert set(leaves({**recorded["event"], "event_type": None})) <= texts


def leaves(value: object) -> list[Any]:
    """Return every text and number in plain data, names of members left out."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [] if value is None or isinstance(value, bool) else [value]


def test_an_event_of_one_s_own_is_delivered_as_its_class_says() -> None:
    """The annotation `ocsf` of a class decides; members that it does not name stay in `unmapped`."""
    event = InvoicePaid(actor=ActorInfo(user_id="u", kind="agent"), invoice_id="7", cents=100)  # type: ignore[arg-type]
    made = ocsf(line_of(event))
    assert (made["class_uid"], made["activity_id"], made["type_uid"]) == (6003, 3, 600303)
    assert made["resources"] == [{"uid": "7"}]
    assert made["actor"]["user"] == {"uid": "u", "type_id": 99, "type": "agent"}
    assert made["src_endpoint"] == {"name": "Unknown"}
    assert made["unmapped"]["event"] == {"cents": 100}


class InvoicePaid(AuditEvent, tag="test_ocsf.invoice_paid"):
    """A service's own event."""

    ocsf: ClassVar[OcsfMapping] = OcsfMapping(
        ocsf_class=OcsfClass.API_ACTIVITY,
        activity=3,
        activity_name="Update",
        members={"actor": Actor(), "invoice_id": Text("resources[].uid")},
    )
    actor: ActorInfo
    invoice_id: str
    cents: int


@pytest.mark.parametrize(
    "members", [{}, {"actor": {"user_id": "u"}}, {"actor": 5}, {"actor": {"user_id": 1}, "x": [1]}]
)
def test_a_type_that_nobody_knows_is_a_base_event_or_api_activity(members: dict[str, Any]) -> None:
    """An event of an unknown type is valid, with all its members."""
    made = ocsf(line_of({"event_type": "unknown.thing", **members}))
    assert made["class_uid"] == (6003 if "actor" in members else 0)
    assert made["metadata"]["event_code"] == "unknown.thing"


@pytest.mark.parametrize("event_type", sorted(BUILT_IN))
def test_members_of_another_form_break_nothing(event_type: str) -> None:
    """A record whose members have other types than the class declares, as an older one may have, is valid."""
    mapping = mapping_of(event_type, has_actor=True)
    for value in (None, 5, 2**64, "", "text", [], ["a"], [1], {}, {"status": 5}, {"user_id": None}, {"ip": "::1"}):
        ocsf(line_of({"event_type": event_type, **dict.fromkeys(mapping.members, value)}))


def test_a_sealed_member_stays_sealed_and_a_sealed_address_is_no_address() -> None:
    """A ciphertext is where the name would be; an address has to be one, so a sealed one stays in `unmapped`."""
    sealed = "sealed:1:0b9d:AAAA:BBBB"
    made = ocsf(line_of(AuthFailure(attempted_user=sealed, reason="bad", ip=sealed, path="/login")))
    assert made["user"] == {"name": sealed}
    assert "src_endpoint" not in made
    assert made["unmapped"]["event"] == {"ip": sealed}


def test_numbers_that_python_can_not_hold_are_delivered_as_they_were_recorded() -> None:
    """What has no place in the schema is copied as its bytes."""
    line = line_of({"event_type": "test.numbers"}).replace(b'"test.numbers"', b'"test.numbers","n":1e999,"m":1.10')
    assert b'{"n":1e999,"m":1.10}' in FORMAT.encode(deliverable(line))


@pytest.mark.parametrize("maker", [OcsfFormat, EcsFormat, CefFormat])
def test_a_record_that_nests_too_deeply_to_be_read_is_delivered_as_a_text(maker: type[Format]) -> None:
    """It has its keys and its hash, and the whole line as one member."""
    deep = b"[" * 50_000 + b"]" * 50_000
    line = line_of({"event_type": "config.changed", "changes": 1}).replace(b'"changes":1', b'"changes":' + deep)
    made = maker().encode(deliverable(line))
    assert deep in made
    assert b"ab" * 32 in made
    assert b"0" * 64 in made
    if maker is OcsfFormat:
        event = msgspec.json.decode(made)
        assert event["unmapped"]["event"]["line"].encode() == line.rstrip()
        assert [*validator("entity_management").iter_errors(event)] == []


def test_an_altered_record_says_so() -> None:
    """A copy that was redacted or opened for its receiver is not compared as if it were the record."""
    members = msgspec.json.decode(line_of(AuthFailure(reason="bad", ip="203.0.113.9", path="/")))
    line = msgspec.json.encode({**members, "altered": True, "sealed_under": ["k1"]})
    made = msgspec.json.decode(FORMAT.encode(deliverable(line)))
    assert made["unmapped"]["audit"]["altered"] is True
    assert made["unmapped"]["audit"]["sealed_under"] == ["k1"]


def test_the_recorded_line_can_travel_along() -> None:
    """With `raw_data` an event holds the line and its SHA-256, and is valid."""
    line = line_of(AuthFailure(reason="bad", ip="203.0.113.9", path="/"))
    made = msgspec.json.decode(OcsfFormat(raw_data=True).encode(deliverable(line)))
    assert made["raw_data"].encode() == line.rstrip(b"\n")
    assert made["raw_data_hash"]["value"] == sha256(line.rstrip(b"\n")).hexdigest()
    assert [*validator("authentication").iter_errors(made)] == []


def test_a_time_is_exact_to_the_millisecond() -> None:
    """`time` is when it happened, and `logged_time` when it was recorded."""
    happened = datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=timezone(timedelta(hours=2)))
    made = ocsf(line_of(AuthFailure(reason="bad", ip="203.0.113.9", path="/", occurred_at=happened)))
    assert made["time"] == 1767315845_999
    assert made["metadata"]["logged_time"] == 1795408512_123
    assert made["unmapped"]["event"]["occurred_at"] == "2026-01-02T03:04:05.999999+02:00"


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"seq":1', b"\xff", b"null"])
def test_what_is_no_record_is_refused(line: bytes) -> None:
    """A line that is none raises, and the error holds nothing of it."""
    with pytest.raises(NotARecord, match="not a record"):
        FORMAT.encode(deliverable(line))


@pytest.mark.parametrize("change", [{"severity": 7}, {"activity": -1}, {"activity": 100}, {"activity_name": ""}])
def test_a_mapping_that_ocsf_has_not_is_refused(change: dict[str, Any]) -> None:
    """The error comes when the class is defined."""
    with pytest.raises(ConfigError):
        msgspec.structs.replace(InvoicePaid.ocsf, **change)
