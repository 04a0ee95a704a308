"""Reading recorded events back: typed where nothing is lost by it, generic with every member otherwise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.events import AuditEvent, AuthFailure, GenericEvent, NotARecord, decode_event, decode_record
from audit_async.events.base import encode
from tests.events.test_events import BUILT_IN, LIFECYCLE, any_event, defevent

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
LINE = (
    b'{"seq":41,"audit_id":"5f0c1e9b7a3d2c48-29","timestamp":"2026-11-23T04:35:12.123456Z","service_id":"orders",'
    b'"event":{"event_type":"auth.failure","reason":"r","ip":"192.0.2.1","path":"/"},"prev_hash":"p","hash":"h"}\n'
)


@pytest.mark.parametrize("cls", BUILT_IN + LIFECYCLE)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_event_comes_back_as_it_was(cls: type[AuditEvent], data: st.DataObject) -> None:
    """Each of the built-in and lifecycle events decodes to an equal event of its own class."""
    event: AuditEvent = data.draw(any_event(cls, TEXTS, JSON))
    decoded = decode_event(encode(event))
    assert type(decoded) is cls
    assert decoded == event


@given(fields=st.dictionaries(TEXTS.filter(lambda name: name != "event_type"), JSON, max_size=4), tag=TEXTS)
def test_an_unknown_type_keeps_every_member(fields: dict[str, Any], tag: str) -> None:
    """An event of a type that nobody defines decodes to its type and all its members."""
    decoded = decode_event(msgspec.json.encode({"event_type": "zz." + tag, **fields}))
    assert decoded == GenericEvent(event_type="zz." + tag, fields=fields)


@pytest.mark.parametrize(
    "more",
    [
        {"invented_later": 1},
        {"ip": 7},
        {"reason": None},
        {"occurred_at": "2026-01-01T00:00:00"},
        {"reduced": {"path": {"chars": 9, "sha256": "0", "invented_later": 1}}},
    ],
)
def test_a_known_type_in_an_unknown_form_keeps_every_member(more: dict[str, Any]) -> None:
    """Members that this version does not know, at any depth, and values that don't fit, lose nothing."""
    members: dict[str, Any] = {"reason": "r", "ip": "192.0.2.1", "path": "/", **more}
    decoded = decode_event(msgspec.json.encode({"event_type": "auth.failure", **members}))
    assert decoded == GenericEvent(event_type="auth.failure", fields=members)


def test_an_optional_member_recorded_as_null_is_still_typed() -> None:
    """Null in place of a member that may be missing changes nothing."""
    decoded = decode_event(b'{"event_type":"auth.failure","reason":"r","ip":"i","path":"/","attempted_user":null}')
    assert decoded == AuthFailure(reason="r", ip="i", path="/")


def test_members_of_an_event_without_a_type_are_kept() -> None:
    """An object without a usable event_type decodes to a generic event of an empty type with all members."""
    assert decode_event(b'{"event_type":5,"x":1}') == GenericEvent(event_type="", fields={"event_type": 5, "x": 1})


def test_a_class_defined_later_is_found() -> None:
    """A type decodes to its class from the moment on when the class is defined."""
    recorded = b'{"event_type":"late.comer","tags":["b","a"],"n":1}'
    assert type(decode_event(recorded)) is GenericEvent
    cls = defevent("LateComer", [("tags", set[str]), ("n", int)], tag="late.comer")
    decoded: Any = decode_event(recorded)
    assert type(decoded) is cls
    assert decoded.tags == {"a", "b"}


def test_a_class_whose_own_code_raises_does_not_stop_a_reader() -> None:
    """Where a user's class refuses recorded values with any exception, the members are there as a generic event."""

    def refuse(self: object) -> None:
        raise ZeroDivisionError

    defevent("Refuser", [("n", int)], tag="my.refuser", namespace={"__post_init__": refuse})
    decoded = decode_event(b'{"event_type":"my.refuser","n":1}')
    assert decoded == GenericEvent(event_type="my.refuser", fields={"n": 1})


def test_a_record_is_read_back() -> None:
    """A line of the format gives its members, with an aware timestamp and a typed event."""
    record = decode_record(LINE)
    assert record.timestamp == datetime(2026, 11, 23, 4, 35, 12, 123456, tzinfo=UTC)
    assert (record.seq, record.service_id, record.context, record.hash) == (41, "orders", {}, "h")
    assert record.event == AuthFailure(reason="r", ip="192.0.2.1", path="/")
    with_context = decode_record(LINE.replace(b'},"prev_hash"', b'},"context":{"tenant":"t"},"prev_hash"'))
    assert with_context.context == {"tenant": "t"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 10**5,
        LINE[:-3],
        LINE.replace(b'"seq":41', b'"seq":"x"'),
        LINE.replace(b'"hash"', b'"hush":1,"hash"'),
        LINE.replace(b"456Z", b"456"),
        LINE.replace(b'{"event_type":"auth.failure","reason":"r","ip":"192.0.2.1","path":"/"}', b'"secret"'),
    ],
)
def test_what_is_no_record_is_refused(line: bytes) -> None:
    """Anything else raises NotARecord, whose message holds nothing of the line."""
    with pytest.raises(NotARecord) as caught:
        decode_record(line)
    assert "secret" not in str(caught.value)
