"""Records as ECS documents: fields and types are the published ones, and nothing of a record is lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_async.delivery.siem_formats.ecs_format import ECS_FIELDS, ECS_VERSION, EcsFormat
from audit_async.events import ActorInfo, ActorKind, AuthFailure, HttpRequest, PasswordReset
from tests.delivery.formats.recorded_lines import ANYTHING, LOG_ID, TEXTS, built_in_types, deliverable, line_of
from tests.events.test_events import any_event

FORMAT = EcsFormat()
#: https://www.elastic.co/docs/reference/ecs/ecs-allowed-values-event-category: the types that go with a category.
EXPECTED_TYPES = {
    "api": {"access", "admin", "allowed", "change", "creation", "deletion", "denied", "end", "info", "start", "user"},
    "authentication": {"start", "end", "info"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
    "database": {"access", "change", "info", "error"},
    "file": {"access", "change", "creation", "deletion", "info"},
    "iam": {"admin", "change", "creation", "deletion", "group", "info", "user"},
    "intrusion_detection": {"allowed", "denied", "info"},
    "process": {"access", "change", "end", "info", "start"},
    "session": {"start", "end", "info"},
    "web": {"access", "error", "info"},
}


@cache
def published() -> dict[str, tuple[str, bool]]:
    """Return the type of each published field, and whether it is a list."""
    text = Path(__file__).with_name("ecs_fields.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return {name: (kind, shape == "array") for name, kind, shape in rows}


def flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a document, our own left out."""
    for name, value in document.items():
        if prefix + name == "audit_async":
            continue
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def ecs(line: bytes) -> dict[str, Any]:
    """Return the document of a line, checked against the published fields."""
    document: dict[str, Any] = msgspec.json.decode(FORMAT.encode(deliverable(line)))
    for name, value in flat(document):
        kind, is_list = published()[name]
        assert isinstance(value, list) == is_list, name
        for item in value if is_list else [value]:
            assert isinstance(item, int if kind in {"long", "float"} else str), (name, kind)
    categories, types = document["event"].get("category", []), document["event"]["type"]
    assert categories == [] or set(types) <= set.union(*(EXPECTED_TYPES[category] for category in categories))
    return document


@pytest.mark.parametrize("event_type", sorted(built_in_types()))
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_built_in_event_has_published_fields_alone(event_type: str, data: st.DataObject) -> None:
    """Whatever its members hold, each field is published and of its type, and the whole event is there."""
    line = line_of(data.draw(any_event(built_in_types()[event_type], TEXTS, ANYTHING)), request_id="r-1")
    recorded = msgspec.json.decode(line)
    document = ecs(line)
    del recorded["event"]["event_type"]
    assert document["audit_async"]["event"] == recorded["event"]
    assert document["audit_async"]["context"] == recorded["context"]
    assert document["event"]["id"] == recorded["audit_id"]
    assert document["event"]["hash"] == recorded["hash"]
    assert document["event"]["sequence"] == recorded["seq"]
    assert document["audit_async"]["log_id"] == LOG_ID


def test_the_fields_are_named_once() -> None:
    """Two rules for one field would hide each other."""
    names = [rule.field for rule in ECS_FIELDS]
    assert len(set(names)) == len(names)
    assert ECS_VERSION == "9.4.0"


def test_a_request_is_found_by_its_fields() -> None:
    """What Kibana's dashboards for web logs ask for is there."""
    actor = ActorInfo(user_id="alice", ip="203.0.113.9", tenant="acme", role="admin", kind=ActorKind.USER)
    request = HttpRequest(
        actor=actor, method="GET", path="/a", status=503, duration_ms=12, bytes_in=1, bytes_out=2, user_agent="curl"
    )
    document = ecs(line_of(request, request_id="r-1", trace_id="t", span_id="s"))
    assert document["http"] == {
        "request": {"method": "GET", "body": {"bytes": 1}, "id": "r-1"},
        "response": {"status_code": 503, "body": {"bytes": 2}},
    }
    assert document["event"]["outcome"] == "failure"
    assert document["event"]["category"] == ["web"]
    assert document["event"]["duration"] == 12_000_000
    assert document["user"] == {"id": "alice", "roles": ["admin"]}
    assert document["organization"] == {"id": "acme"}
    assert document["related"] == {"user": ["alice"], "ip": ["203.0.113.9"]}
    assert (document["trace"], document["span"]) == ({"id": "t"}, {"id": "s"})


def test_a_failed_login_and_a_change_of_an_account() -> None:
    """Who tried, who did, and to whom are in fields of their own."""
    failed = ecs(line_of(AuthFailure(attempted_user="mallory", reason="bad_password", ip="::1", path="/login")))
    assert (failed["user"], failed["source"]) == ({"name": "mallory"}, {"ip": "::1"})
    assert (failed["event"]["outcome"], failed["event"]["reason"]) == ("failure", "bad_password")
    reset = ecs(line_of(PasswordReset(actor=ActorInfo(user_id="root"), subject="alice", method="email")))
    assert reset["user"] == {"id": "root", "target": {"id": "alice"}}
    assert "http" not in reset
