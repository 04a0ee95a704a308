"""Making events harmless: whatever is in them, what is recorded is one line, safe to look at, and bounded in size."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from enum import Enum
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async import AuditLogger
from audit_async._sanitize.slow_path import OnUnsafe, make_harmless
from audit_async._sanitize.unsafe_text import cut, escape
from audit_async._writer.encoder import Encoder
from audit_async.context import audit_context
from audit_async.errors import InvalidEvent
from audit_async.events import (
    ActorInfo,
    AuditEvent,
    AuthFailure,
    AuthMethod,
    Change,
    PoolModified,
    Reduced,
    ResourceInfo,
    ResourceUpdated,
    decode_event,
    describe,
)
from audit_async.events.base import encode
from tests.events.test_events import BUILT_IN, LIFECYCLE, any_event, defevent
from tests.logs import ConfigFor, log_directory
from tests.trails import read_events

UNSAFE = {
    *(set(range(0x20)) - {0x0A, 0x09}),
    *range(0x7F, 0xA0),
    *range(0xD800, 0xE000),
    *(0x2028, 0x2029, 0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0),
    *range(0xE0000, 0xE0080),  # tags, those that are not assigned among them
    *(code_point for code_point in range(0x110000) if unicodedata.category(chr(code_point)) == "Cf"),
}
ACTOR = ActorInfo(user_id="u", auth_method=AuthMethod.INTERNAL)
ANY_TEXT = st.text(
    st.characters(codec=None) | st.sampled_from([chr(code_point) for code_point in sorted(UNSAFE)]) | st.just("\\"),
    max_size=90,
)
ANY_DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**64, -(2**63) - 1])
    | st.integers(4000, 5000).map(lambda digits: 10**digits)
    | st.floats()
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def modified(changes: Mapping[str, object]) -> PoolModified:
    """Return an event with free-form data."""
    return PoolModified(actor=ACTOR, pool_id="p", changes=changes)


def harmless(
    event: AuditEvent, *, on_unsafe: OnUnsafe = "escape", max_field_chars: int = 64, max_event_bytes: int = 65536
) -> bytes:
    """Take the way of `emit`: encode, then make harmless."""
    try:
        encoded = encode(event)
    except Exception:  # noqa: BLE001 - as emit does
        encoded = None
    return make_harmless(
        event, encoded, on_unsafe=on_unsafe, max_field_chars=max_field_chars, max_event_bytes=max_event_bytes
    )


def texts_in(data: object) -> list[str]:
    """Return all texts in JSON data, keys included."""
    if isinstance(data, str):
        return [data]
    if isinstance(data, dict):
        return [*data, *(text for value in data.values() for text in texts_in(value))]
    return [text for value in data for text in texts_in(value)] if isinstance(data, list) else []


def check(recorded: bytes, tag: str, max_field_chars: int = 64) -> Any:
    """Check what holds of every recorded event, and return its data."""
    text = recorded.decode("utf-8")
    assert "\n" not in text
    assert text.startswith(f'{{"event_type":"{tag}"')

    def no_constant(name: str) -> None:
        raise AssertionError(name)

    data = json.loads(text, parse_constant=no_constant)
    paths = data.get("reduced", {})
    for found in texts_in(data):
        assert not UNSAFE & set(map(ord, found))
        assert len(found) <= max_field_chars or found in paths
    decode_event(recorded)
    return data


def test_each_unsafe_code_point_becomes_its_escape() -> None:
    r"""Each of the documented code points is escaped, as \xNN below 256, \uNNNN and \UNNNNNNNN above."""
    for code_point in sorted(UNSAFE):
        expected = f"\\x{code_point:02x}" if code_point < 256 else f"\\u{code_point:04x}"
        if code_point > 0xFFFF:
            expected = f"\\U{code_point:08x}"
        assert escape(f"a{chr(code_point)}b") == f"a{expected}b"
        event = AuthFailure(attempted_user=f"a{chr(code_point)}b", reason="", ip="", path="")
        assert check(harmless(event), "auth.failure")["attempted_user"] == f"a{expected}b"


def test_no_other_code_point_is_changed() -> None:
    """Every other code point of Unicode stays as it is."""
    others = "".join(chr(code_point) for code_point in range(0x110000) if code_point not in UNSAFE)
    assert escape(others) == others


@given(text=ANY_TEXT, max_chars=st.integers(1, 200))
def test_a_cut_leaves_no_half_escape(text: str, max_chars: int) -> None:
    """A cut text is a prefix within the limit, and shorter than the limit only by less than one escape."""
    escaped = escape(text)
    shown = cut(escaped, max_chars)
    assert escaped.startswith(shown)
    assert min(len(escaped), max_chars) - 9 <= len(shown) <= max_chars
    if len(shown) < len(escaped):
        assert not re.search(r"\\(x[0-9a-f]?|u[0-9a-f]{0,3}|U[0-9a-f]{0,7})?\Z", shown)


@pytest.mark.parametrize(
    "invisible", ["\u00ad", "\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\U000e0041", "\u200d"]
)
@pytest.mark.anyio
async def test_what_is_invisible_is_shown(invisible: str, config_for: ConfigFor) -> None:
    """In values, keys of mappings and the context; the line on the disk holds none of it."""
    config = config_for()
    async with AuditLogger(config) as audit:
        with audit_context(tenant=f"a{invisible}b"):
            audit.emit(modified({f"k{invisible}": [f"v{invisible}"], "plain": "v"}))
    (record,) = (r for r in read_events(log_directory(config)) if r["event"]["event_type"] == "pool.modified")
    shown = escape(invisible)
    assert shown.isascii()
    assert record["event"]["changes"] == {f"k{shown}": [f"v{shown}"], "plain": "v"}
    assert record["context"] == {"tenant": f"a{shown}b"}
    assert invisible.encode() not in b"".join(path.read_bytes() for path in log_directory(config).glob("*.audit"))


@pytest.mark.parametrize("cls", BUILT_IN + LIFECYCLE)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_text_in_any_field_is_recorded_harmlessly(cls: type[AuditEvent], data: st.DataObject) -> None:
    """Whatever stands in an event, it is recorded on one safe line, and recording that again changes nothing."""
    event = data.draw(any_event(cls, ANY_TEXT, ANY_DATA))
    recorded = harmless(event)
    check(recorded, describe(cls).tag)
    again = decode_event(recorded)
    if type(again) is cls:
        assert msgspec.json.decode(harmless(again)) == msgspec.json.decode(recorded)


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(ANY_TEXT, ANY_DATA), max_event_bytes=st.integers(1024, 3000))
def test_an_event_always_fits(changes: dict[str, Any], max_event_bytes: int) -> None:
    """No event is longer than max_event_bytes, whatever is in it."""
    recorded = harmless(modified(changes), max_event_bytes=max_event_bytes)
    check(recorded, "pool.modified")
    assert len(recorded) <= max_event_bytes


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(ANY_TEXT, ANY_DATA))
def test_reject_refuses_exactly_what_escape_would_change(changes: dict[str, Any]) -> None:
    """With on_unsafe="reject" an event is recorded as it was emitted, or refused with a field below `changes`."""
    event = modified(changes)
    try:
        recorded = harmless(event, on_unsafe="reject")
    except InvalidEvent as error:
        assert error.field.startswith("changes")  # noqa: PT017 - either way is right
        assert json.loads(harmless(event))["changes"] != changes
    else:
        assert json.loads(recorded)["changes"] == changes


def test_naughty_strings_are_recorded(naughty_strings: list[str]) -> None:
    """Each of the naughty strings is recorded harmlessly as a value and as a key."""
    for text in naughty_strings:
        data = check(harmless(modified({text: text}), max_field_chars=2048), "pool.modified", 2048)
        assert data["changes"] == {escape(text): escape(text)}


@pytest.mark.parametrize(
    "text", ["müller", "漢字" * 20, "two\nlines\t", 'a "quote"', r"C:\users\x1b", "\N{PILE OF POO}"]
)
def test_harmless_text_is_not_touched(text: str) -> None:
    """Accents, other scripts, line breaks, quotes and backslashes are given back as the very bytes they came as."""
    event = AuthFailure(attempted_user=text, reason="r", ip="192.0.2.1", path="/" * 60)
    encoded = encode(event)
    recorded = make_harmless(event, encoded, on_unsafe="reject", max_field_chars=64, max_event_bytes=65536)
    assert recorded is encoded


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"limits": [0, {"x": "SECRET\x1b"}]}, "changes.limits[1].x"),
        ({"SECRET \u202e": 1}, "changes{0}@key"),
        ({"a": 1, "b": "SECRET" * 100}, "changes.b"),
        ({"a": ["\ud800SECRET"]}, "changes.a[0]"),
        ({"a": math.nan}, "changes.a"),
        ({"a": -math.inf}, "changes.a"),
        ({"a": 2**64}, "changes.a"),
        ({1: "\n", "1": math.nan}, "changes{1}"),
    ],
)
def test_reject_names_the_field_and_not_the_text(changes: dict[str, Any], field: str) -> None:
    """A refusal names the path to the member; neither the message nor a chained error holds the text."""
    with pytest.raises(InvalidEvent) as caught:
        harmless(modified(changes), on_unsafe="reject")
    assert caught.value.field == field
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (Change(before=1.5, after=math.nan), {"before": 1.5, "after": "NaN"}),
        (Change(after=2**64), {"after": str(2**64)}),
        (Change(before=[{1: "a", "1": "b"}]), {"before": [{"1": "a", "1~2": "b"}]}),
        (Change(after=msgspec.Raw(b'{ "a": 1 }')), {"after": {"a": 1}}),
        (Change(after=[{"deep": [-(2**63)]}]), {"after": [{"deep": [-(2**63)]}]}),
    ],
)
def test_the_values_of_a_change_are_looked_at(config_for: ConfigFor, change: Change, shown: object) -> None:
    """The quick look at an event's values goes into what it changed."""
    event = ResourceUpdated(
        actor=ActorInfo(user_id="a"),
        resource=ResourceInfo(resource_type="t", resource_id="1"),
        changes={"m": Change(before="x", after="y"), "n": change},
    )
    _, encoded = Encoder(config_for()).encode(event)
    assert json.loads(encoded)["changes"] == {"m": {"before": "x", "after": "y"}, "n": shown}


class Hostile:
    """A value whose class can't even be asked for."""

    @property  # type: ignore[misc]  # it is the point
    def __class__(self) -> Any:
        raise ValueError("SECRET")


class HostileMapping(Mapping[str, object]):
    """A mapping that raises when it is read."""

    def __getitem__(self, key: str) -> object:
        raise KeyError("SECRET")

    def __iter__(self) -> Any:
        raise LookupError("SECRET")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("on_unsafe", ["escape", "reject"])
@pytest.mark.parametrize(
    "make",
    [object, Hostile, HostileMapping, lambda: range(3), lambda: 1j, lambda: len, lambda: {None: 1}, lambda: {(1,): 1}],
)
def test_what_json_has_no_place_for_is_refused(make: Callable[[], object], on_unsafe: OnUnsafe) -> None:
    """In both modes it is an InvalidEvent with the path, also where the value's own code raises."""
    with pytest.raises(InvalidEvent) as caught:
        harmless(modified({"a": [make()]}), on_unsafe=on_unsafe)
    assert caught.value.field.startswith("changes.a[0]")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


def test_data_that_contains_itself_is_refused() -> None:
    """A cycle is an InvalidEvent that names where it closes; the same value twice side by side is none."""
    cycle: dict[str, object] = {}
    cycle["again"] = [cycle]
    with pytest.raises(InvalidEvent) as caught:
        harmless(modified({"a": cycle}))
    assert caught.value.field == "changes.a.again[0]"
    twice = ["\x1b"]
    assert check(harmless(modified({"a": twice, "b": twice})), "pool.modified")["changes"] == {
        "a": ["\\x1b"],
        "b": ["\\x1b"],
    }


@pytest.mark.parametrize("depth", [100, 900, 20_000])
def test_deep_nesting_is_no_way_to_hide(depth: int) -> None:
    """Data nested to any depth is recorded, what lies too deep by its size and hash; in reject mode it is refused."""
    data: object = "\x1b"
    for _ in range(depth):
        data = [data]
    recorded = check(harmless(modified({"a": data})), "pool.modified")
    assert ("reduced" in recorded) == (depth > 200)
    with pytest.raises(InvalidEvent):
        harmless(modified({"a": data}), on_unsafe="reject")


class Colour(Enum):
    """An enumeration with an unsafe value."""

    RED = "r\x1bd"


@dataclasses.dataclass
class Point:
    """A dataclass in free-form data."""

    x: float
    label: str


class Loud(str):
    """A str that would lie about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError

    def __len__(self) -> int:
        return 0


def test_values_of_many_types_become_plain_data() -> None:
    """What msgspec has a form for keeps it, and is made harmless inside; numbers that JSON lacks become text."""
    changes: dict[Any, object] = {
        "nan": [math.nan, math.inf, -math.inf],
        "int": [2**64, -(2**63), 10**30],
        "enum": Colour.RED,
        "point": Point(math.nan, "\x7f"),
        "set": {"\x00"},
        "tuple": (b"ab", None, True),
        "loud": Loud("l\x1bd"),
        "proxy": MappingProxyType({"k": "\u2066"}),
        "raw": msgspec.Raw(b'\n["\\u001b"]'),
        5: 1.5,
    }
    assert check(harmless(modified(changes)), "pool.modified")["changes"] == {
        "nan": ["NaN", "Infinity", "-Infinity"],
        "int": ["18446744073709551616", -(2**63), str(10**30)],
        "enum": r"r\x1bd",
        "point": {"x": "NaN", "label": r"\x7f"},
        "set": [r"\x00"],
        "tuple": ["YWI=", None, True],
        "loud": r"l\x1bd",
        "proxy": {"k": r"\u2066"},
        "raw": [r"\x1b"],
        "5": 1.5,
    }


def test_an_integer_too_long_for_text_is_recorded_by_size_and_hash() -> None:
    """Its bits and the SHA-256 of its big-endian two's complement are recorded; nothing is raised."""
    number = 10**5000
    digest = sha256(number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)).hexdigest()
    data = check(harmless(modified({"n": number}), max_field_chars=1024), "pool.modified", 1024)
    assert data["changes"]["n"] == f"integer of {number.bit_length()} bits, SHA-256 {digest}"


def test_keys_that_become_equal_both_survive() -> None:
    """Every member of a mapping is recorded, also where escaping or cutting makes keys equal."""
    keys = ["\x1b", "\\x1b", "\\x1b~2", "k" * 100, "k" * 101, "k" * 102]
    data = check(harmless(modified({key: number for number, key in enumerate(keys)})), "pool.modified")
    assert sorted(data["changes"].values()) == [0, 1, 2, 3, 4, 5]


def test_a_long_text_is_cut_and_known_again_by_its_hash() -> None:
    """A cut text's full length and hash stand in `reduced`, and the event still decodes to its own class."""
    path = "/\ud800" + "é" * 100
    event = decode_event(harmless(AuthFailure(reason="r", ip="192.0.2.1", path=path)))
    assert isinstance(event, AuthFailure)
    assert event.path == "/\\ud800" + "é" * 57
    digest = sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
    assert event.reduced == {"path": Reduced(chars=102, sha256=digest)}


def test_the_member_that_is_large_enough_gives_way() -> None:
    """A large list in a mapping costs the list, not the mapping; its JSON's size and hash are kept."""
    rows = ["row"] * 1000
    event = decode_event(harmless(modified({"small": 1, "rows": rows}), max_event_bytes=1024))
    assert isinstance(event, PoolModified)
    assert event.changes == {"small": 1, "rows": []}
    encoded = msgspec.json.encode(rows)
    assert event.reduced == {"changes.rows": Reduced(bytes=len(encoded), sha256=sha256(encoded).hexdigest())}
    with pytest.raises(InvalidEvent) as caught:
        harmless(modified({"small": 1, "rows": rows}), max_event_bytes=1024, on_unsafe="reject")
    assert caught.value.field == "changes.rows"


@pytest.mark.parametrize(
    "changes",
    [
        {f"k{number}": number for number in range(20_000)},
        {f"{number}" * 80: "x" * 80 for number in range(300)},
        {f"k{number}": "x" * 60 for number in range(300)},
        {f"k{number}": {"l": [1] * 400} for number in range(100)},
    ],
    ids=["many small keys", "all cut", "many texts", "many lists"],
)
def test_extreme_events_fit(changes: dict[str, Any]) -> None:
    """Many small members, and many that are cut, fit as well; the list of what was reduced stays short."""
    for max_event_bytes in (1024, 5000):
        recorded = harmless(modified(changes), max_event_bytes=max_event_bytes)
        assert len(recorded) <= max_event_bytes
        assert check(recorded, "pool.modified")["reduced"]


def test_a_class_with_more_fields_than_fit_still_leaves_a_record() -> None:
    """Where not even the emptied members fit, type, size and hash are recorded."""
    names = [f"field_{number}" for number in range(500)]
    cls = defevent("Wide", [(name, str) for name in names], tag="my.wide")
    data = check(harmless(cls(**dict.fromkeys(names, "x" * 50)), max_event_bytes=1024), "my.wide")
    assert set(data) == {"event_type", "reduced"}
    assert data["reduced"]["*"]["bytes"] > 500 * 50


def test_what_was_reduced_before_is_kept_when_it_is_recorded_again() -> None:
    """The list of a decoded event goes into the new record; anything else under `reduced` is refused."""
    first = decode_event(harmless(AuthFailure(attempted_user="\x1b", reason="r", ip="i", path="/" * 100)))
    assert decode_event(harmless(first)) == first
    forged = AuthFailure(reason="\x1b", ip="i", path="/", reduced={"path\x1b": Reduced(chars=1, sha256="0" * 64)})
    with pytest.raises(InvalidEvent, match="reduced"):
        harmless(forged)
