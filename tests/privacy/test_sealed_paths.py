"""Paths that `Privacy.paths` lists are sealed wherever an event names them, under the key of whom they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async import ActorInfo, AuditEvent, AuditLogger
from audit_async.events import AuthFailure, AuthorizationDenied, AuthorizationGranted, HttpRequest, ResourceInfo
from audit_async.events.base import ActorKind
from audit_async.privacy import Subject
from tests.logs import ConfigFor
from tests.privacy.key_stores import open_store
from tests.privacy.sealed_logs import opened, recorded, sealing

pytestmark = pytest.mark.anyio

PATHS = ("/users/{user}", "/staff/*")
BOB = ActorInfo(user_id="bob")
BATCH = ActorInfo(user_id="nightly", kind=ActorKind.SERVICE)


def request(path: str, actor: ActorInfo = BOB) -> HttpRequest:
    """Return the record of a request."""
    return HttpRequest(actor=actor, method="GET", path=path, duration_ms=1, bytes_in=0, bytes_out=0)


def refused(path: str, actor: ActorInfo = BOB, kind: str = "path") -> AuthorizationDenied:
    """Return what a middleware records of a 403."""
    resource = ResourceInfo(resource_type=kind, resource_id=path)
    return AuthorizationDenied(actor=actor, resource=resource, action="GET", reason="http_403")


@pytest.mark.parametrize(
    "event",
    [
        request("/users/alice"),
        request("/users/alice/"),
        request("/users/alice", BATCH),
        AuthFailure(reason="http_401", ip="203.0.113.9", path="/users/alice"),
        refused("/users/alice"),
        refused("/users/alice", BATCH),
    ],
    ids=lambda event: event.event_type,
)
async def test_a_path_is_sealed_as_the_person_s_whom_it_names(
    config_for: ConfigFor, tmp_path: Path, event: AuditEvent
) -> None:
    """Also if a service asks for it, whose own name is in the clear; and the path is erased with the person."""
    config = sealing(config_for, tmp_path, privacy={"paths": PATHS})
    async with AuditLogger(config) as audit:
        await audit.emit_durable(event)
        [record] = recorded(config)
        assert "alice" not in str(record)
        store = open_store(tmp_path / "keys")
        assert len(store.find(Subject("", "user", "alice"))) == 1
        store.close()
        assert "/users/alice" in str(opened(config, tmp_path)[0].event)
        await audit.erase_subject("alice", reason="asked", requested_by="carol")
    assert "alice" not in str(opened(config, tmp_path)[0].event)


async def test_a_path_without_a_name_belongs_to_who_asked(config_for: ConfigFor, tmp_path: Path) -> None:
    """A service's stays legible, as everything of a service; a refused one is nobody's."""
    config = sealing(config_for, tmp_path, privacy={"paths": PATHS})
    async with AuditLogger(config) as audit:
        for event in (request("/staff/7"), request("/staff/7", BATCH), refused("/staff/7")):
            audit.emit(event)
    bobs, batchs, denied = (record["event"] for record in recorded(config))
    assert bobs["path"].startswith("sealed:1:")
    assert bobs["path"][9:31] == bobs["actor"]["user_id"][9:31]
    assert batchs["path"] == "/staff/7"
    assert denied["resource"]["resource_id"].startswith("sealed:1:")


async def test_what_is_not_listed_stays_legible(config_for: ConfigFor, tmp_path: Path) -> None:
    """Another path, and another resource whose id looks like a path that is."""
    config = sealing(config_for, tmp_path, privacy={"paths": PATHS})
    granted = AuthorizationGranted(
        actor=BOB, resource=ResourceInfo(resource_type="file", resource_id="/users/alice"), action="read"
    )
    async with AuditLogger(config) as audit:
        for event in (request("/orders/7"), refused("/orders/7"), granted):
            audit.emit(event)
    plain, denied, file = (record["event"] for record in recorded(config))
    assert plain["path"] == denied["resource"]["resource_id"] == "/orders/7"
    assert file["resource"]["resource_id"] == "/users/alice"
