"""Every member of a record is found again in each format, and each event is valid with every member that it can have.

The events have each optional member set, each text and number once, so that a value that is found is the one that was
recorded, and not another one that looks alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest

from audit_async.delivery.siem_formats import CefFormat, EcsFormat
from audit_async.events import AuditEvent
from audit_async.events.base import Reduced, encode
from tests.delivery.formats.recorded_lines import built_in_types, deliverable, line_of
from tests.delivery.formats.test_cef import parse
from tests.delivery.formats.test_ecs import ecs
from tests.delivery.formats.test_ocsf import ocsf

Path = tuple[str | int, ...]
TYPES = built_in_types()


class Filler:
    """Makes values that differ from each other, of every type that a member can have.

    Args:
        text: Makes a text of a number.
    """

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text = text
        self._numbers = count(1)

    def event(self, cls: type[AuditEvent]) -> AuditEvent:
        """Return an event with each member set."""
        event: AuditEvent = self._value(msgspec.inspect.type_info(cls), "")
        return event

    def _value(self, info: msgspec.inspect.Type, name: str) -> Any:
        number = next(self._numbers)
        match info:
            case msgspec.inspect.StrType():
                return f"203.0.113.{number % 256}" if name == "ip" else self._text(number)
            case msgspec.inspect.IntType(ge=low, le=high):
                return 10_000 + number if high is None else max(low or 0, number % (high + 1))
            case msgspec.inspect.FloatType():
                return number + 0.5
            case msgspec.inspect.BoolType():
                return True
            case msgspec.inspect.AnyType():
                return {self._text(number): [{"a.b": f"deep {number}"}, number + 0.25, True, [], {}]}
            case msgspec.inspect.DateTimeType():
                return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
            case msgspec.inspect.EnumType():
                return list(info.cls)[-1]  # the first may be a default, which is left out
            case msgspec.inspect.LiteralType():
                return info.values[0]
            case msgspec.inspect.ListType():
                return [self._value(info.item_type, name), self._value(info.item_type, name)]
            case msgspec.inspect.DictType():
                return {f"key {number}": self._value(info.value_type, name)}
            case msgspec.inspect.UnionType():
                chosen = [one for one in info.types if not isinstance(one, msgspec.inspect.NoneType)]
                structs = [one for one in chosen if isinstance(one, msgspec.inspect.StructType)]
                return self._value((structs or chosen)[0], name)
            case msgspec.inspect.StructType():
                members = {one.name: self._value(one.type, one.name) for one in info.fields if one.name != "reduced"}
                if any(one.name == "reduced" for one in info.fields):
                    members["reduced"] = {"reason": Reduced(chars=number + 5000, sha256=f"{number:064x}")}
                return info.cls(**members)
        raise NotImplementedError(info)


def leaves(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield each value that holds no other, with its path; an empty object or list as well."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, place))
    else:
        yield path, value


PLAIN: Callable[[int], str] = "text {}".format
SEALED: Callable[[int], str] = "sealed:1:AAAAAAAAAAAAAAAAAAAA{0:02d}:{0:x}".format
HOSTILE: Callable[[int], str] = '{}\r\n|=\\\u202e\u2028"}}],\x1b[31m CEF:0|a= sealed:'.format


def test_every_member_of_an_event_can_be_set() -> None:
    """The filler leaves nothing out: no member is at its default."""
    for cls in TYPES.values():
        recorded = msgspec.json.decode(encode(Filler(PLAIN).event(cls)))
        assert recorded.keys() == {"event_type", *cls.__struct_fields__}, cls


@pytest.mark.parametrize("text", [PLAIN, SEALED, HOSTILE], ids=["plain", "sealed", "hostile"])
@pytest.mark.parametrize("event_type", TYPES)
def test_every_member_is_found_again(event_type: str, text: Callable[[int], str]) -> None:
    """In OCSF at its own path below `unmapped`, or once elsewhere; in ECS and CEF the whole event, and the context."""
    line = line_of(Filler(text).event(TYPES[event_type]), request_id=text(1), tenant={"of": [text(2), 1.5, None]})
    recorded = msgspec.json.decode(line)
    event, context = recorded["event"], recorded["context"]
    made = ocsf(line)
    assert made["unmapped"]["context"] == context
    kept = dict(leaves(made["unmapped"].pop("event", {})))
    placed = [value for _, value in leaves(made)]
    for path, value in leaves({name: value for name, value in event.items() if name != "event_type"}):
        is_kept = path in kept and kept[path] == value and type(kept[path]) is type(value)
        assert is_kept or any(one == value and type(one) is type(value) for one in placed), (path, value)
    assert made["metadata"]["event_code"] == event_type
    assert ecs(line)["audit_async"]["event"] == {name: value for name, value in event.items() if name != "event_type"}
    assert ecs(line)["audit_async"]["context"] == context
    pairs = parse(CefFormat().encode(deliverable(line)))[1]
    assert {"event_type": pairs["act"], **msgspec.json.decode(pairs["cs3"])} == event
    assert msgspec.json.decode(pairs["cs4"]) == context


@pytest.mark.parametrize("event_type", TYPES)
def test_every_member_may_be_redacted(event_type: str) -> None:
    """Whatever a sink takes out, a member or all of one, what is left is valid."""
    event = msgspec.json.decode(encode(Filler(PLAIN).event(TYPES[event_type])))
    for redacted in (dict.fromkeys(event, "[redacted]"), with_leaves(event, "[redacted]")):
        line = msgspec.json.encode(
            {**msgspec.json.decode(line_of({**redacted, "event_type": event_type})), "altered": True}
        )
        made = ocsf(line)
        assert made["unmapped"]["audit"]["altered"] is True
        assert made["time"] == made["metadata"]["logged_time"]
        document = ecs(line)
        assert document["@timestamp"] == document["event"]["created"]
        assert parse(CefFormat().encode(deliverable(line)))[1]["cs6"] == "true"


def with_leaves(value: object, text: str) -> Any:
    """Return the same with this text for each value that holds no other."""
    if isinstance(value, dict) and value:
        return {name: with_leaves(inner, text) for name, inner in value.items()}
    return [with_leaves(inner, text) for inner in value] if isinstance(value, list) and value else text


def nested(depth: int) -> object:
    """Return an object in a list in an object, and so on."""
    value: object = "innermost"
    for level in range(depth):
        value = [value] if level % 2 else {f"l{level}": value}
    return value


@pytest.mark.parametrize(
    "member",
    [
        nested(400),
        "x" * 1_000_000,
        {f"m{n}": n for n in range(5000)},
        list(range(10_000)),
        {"a.b": {"": [{}]}, "\n": 1},
    ],
    ids=["deep", "long", "many members", "many elements", "names"],
)
def test_an_event_of_one_s_own_may_be_deep_and_huge(member: object) -> None:
    """It is valid, and whole, in each format."""
    line = line_of({"event_type": "shop.own", "actor": {"user_id": "u", "more": member}, "member": member})
    made = ocsf(line)
    assert made["unmapped"]["event"] == {"actor": {"more": member}, "member": member}
    assert made["actor"]["user"]["uid"] == "u"
    assert ecs(line)["audit_async"]["event"]["member"] == member
    assert msgspec.json.decode(parse(CefFormat().encode(deliverable(line)))[1]["cs3"])["member"] == member


@pytest.mark.parametrize(
    ("text", "milliseconds", "stamp"),
    [
        ("2026-01-02T03:04:05.999999+02:00", 1767315845999, "2026-01-02T01:04:05.999999Z"),
        ("2026-01-02T03:04:05-12:00", 1767366245000, "2026-01-02T15:04:05.000000Z"),
        ("2026-12-31T23:59:59.000001+14:00", 1798711199000, "2026-12-31T09:59:59.000001Z"),
        ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00.000000Z"),
        # What Elasticsearch's nanoseconds can't hold is when it was recorded there, and is in the event as it was.
        ("1969-12-31T23:59:59.999Z", -1, None),
        ("0001-01-01T00:00:00+14:00", -62135647200000, None),
        ("9999-12-31T23:59:59-12:00", 253402343999000, None),
        ("2026-01-02T03:04:05", None, None),
        ("yesterday", None, None),
        ("[redacted]", None, None),
        ("", None, None),
    ],
)
def test_a_time_of_any_zone_is_one_that_receivers_take(text: str, milliseconds: int | None, stamp: str | None) -> None:
    """In OCSF milliseconds, in ECS UTC; if it is none, or none that they can store, it is when it was recorded."""
    line = line_of({"event_type": "shop.own", "occurred_at": text})
    made, document = ocsf(line), ecs(line)
    assert made["time"] == (made["metadata"]["logged_time"] if milliseconds is None else milliseconds)
    assert made["unmapped"]["event"] == document["audit_async"]["event"] == {"occurred_at": text}
    assert document["@timestamp"] == (document["event"]["created"] if stamp is None else stamp)
    assert EcsFormat().encode(deliverable(line))
    start = parse(CefFormat().encode(deliverable(line)))[1].get("start")
    assert start == (None if milliseconds is None else str(milliseconds))
