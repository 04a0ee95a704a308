"""What services pass along in free-form members: objects of their own, and of the libraries that they use."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from ipaddress import ip_network
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import attrs
import pydantic
import pytest

from audit_async import AuditLogger, InvalidEvent
from audit_async.config import Redaction
from audit_async.events import ActorInfo, PoolModified
from tests.logs import ConfigFor, log_directory
from tests.trails import read_events


class Size(Enum):
    """An enumeration."""

    LARGE = "large"


@dataclasses.dataclass
class Limits:
    """A dataclass."""

    cpu: int
    token: str = "abc"


@attrs.define
class Label:
    """An attrs class."""

    name: str


class Address(pydantic.BaseModel):
    """A model in a model."""

    city: str
    zip_code: str = pydantic.Field(default="", exclude=True)


class Account(pydantic.BaseModel):
    """A model with secrets: one by its type, one by its name."""

    name: str
    pin: str
    key: pydantic.SecretStr
    addresses: list[Address] = pydantic.Field(default_factory=list)
    opened: datetime = datetime(2026, 11, 28, tzinfo=UTC)


class Names(pydantic.RootModel[list[str]]):
    """A model that is a list."""


ACCOUNT = Account(
    name="ada\u202e",
    pin="4711",
    key=pydantic.SecretStr("hunter2"),
    addresses=[Address(city="Berlin", zip_code="10117")],
)


def own(value: Any) -> Any:
    """Return a value as one of a class of its own, as pendulum, loguru and freezegun have them."""
    cls: Any = type(value)
    return type("Own", (cls,), {})(*cls.__reduce__(value)[1])


MOMENT = datetime(2026, 11, 28, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=2)))

SHOWN: list[tuple[Any, Any]] = [
    (own(MOMENT), "2026-11-28T01:02:03.456789+02:00"),
    (own(MOMENT.replace(tzinfo=None)), "2026-11-28T01:02:03.456789"),
    (own(date(2026, 11, 28)), "2026-11-28"),
    (own(time(1, 2, 3, 456789)), "01:02:03.456789"),
    (own(timedelta(days=1, seconds=2)), "P1DT2S"),
    (own(Decimal("1.50")), "1.50"),
    (Size.LARGE, "large"),
    (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (Decimal("1.50"), "1.50"),
    (Path("/srv/a"), "/srv/a"),
    (PurePosixPath("b"), "b"),
    (b"\x00\x01", "AAE="),
    ({1}, [1]),
    (frozenset({"a"}), ["a"]),
    (date(2026, 11, 28), "2026-11-28"),
    (ip_network("192.0.2.0/24"), "192.0.2.0/24"),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(int, a=1), {"a": 1}),
    (Limits(2), {"cpu": 2, "token": "[redacted:token]"}),
    (Label("x"), {"name": "x"}),
    (Names(["a", "b"]), ["a", "b"]),
    (
        ACCOUNT,
        {
            "name": "ada\\u202e",
            "pin": "[redacted:pin]",
            "key": "[redacted:secret]",
            "addresses": [{"city": "Berlin"}],
            "opened": "2026-11-28T00:00:00Z",
        },
    ),
]


@pytest.mark.anyio
async def test_objects_of_other_libraries_are_recorded(config_for: ConfigFor) -> None:
    """Dataclasses, attrs, pydantic models and what the standard library has; secrets in them are not."""
    config = config_for()
    async with AuditLogger(config) as audit:
        for value, _ in SHOWN:
            audit.emit(
                PoolModified(actor=ActorInfo(user_id="u"), pool_id="p", changes={"value": value, "more": [value]})
            )
    events = [r["event"] for r in read_events(log_directory(config)) if r["event"]["event_type"] == "pool.modified"]
    for (value, shown), event in zip(SHOWN, events, strict=True):
        assert event["changes"] == {"value": shown, "more": [shown]}, type(value)
    assert not any(secret in str(events) for secret in ("hunter2", "4711", "10117"))


@pytest.mark.anyio
async def test_a_moment_of_another_library_is_a_moment(config_for: ConfigFor) -> None:
    """In a member of a fixed type, too: the record is that of a plain datetime."""
    config = config_for()
    async with AuditLogger(config) as audit:
        for moment in (MOMENT, own(MOMENT)):
            audit.emit(PoolModified(occurred_at=moment, actor=ActorInfo(user_id="u"), pool_id="p", changes={}))
    events = [r["event"] for r in read_events(log_directory(config)) if r["event"]["event_type"] == "pool.modified"]
    assert events[0] == events[1]
    assert events[0]["occurred_at"] == "2026-11-28T01:02:03.456789+02:00"


@pytest.mark.anyio
async def test_a_secret_of_pydantic_is_never_shown(config_for: ConfigFor) -> None:
    """Also if nothing is redacted: its own text is asterisks."""
    config = config_for(redaction=Redaction(enabled=False))
    async with AuditLogger(config) as audit:
        audit.emit(PoolModified(actor=ActorInfo(user_id="u"), pool_id="p", changes={"account": ACCOUNT}))
    (event,) = [r["event"] for r in read_events(log_directory(config)) if r["event"]["event_type"] == "pool.modified"]
    assert event["changes"]["account"]["key"] == "**********"


@pytest.mark.parametrize(
    "value", [deque([1]), range(3), 1j, object(), iter([1]), Address], ids=lambda v: type(v).__name__
)
@pytest.mark.anyio
async def test_what_has_no_form_in_json_is_refused(value: object, config_for: ConfigFor) -> None:
    """The error names the place and the type, and says what to emit."""
    async with AuditLogger(config_for()) as audit:
        with pytest.raises(
            InvalidEvent, match="which JSON has no place for; emit its text, number, list or dict"
        ) as caught:
            audit.emit(PoolModified(actor=ActorInfo(user_id="u"), pool_id="p", changes={"a": [value]}))
    assert caught.value.field == "changes.a[0]"
