"""Which records a sink gets, and in which form: selected, redacted, sealed or opened."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.config import Privacy
from audit_async.delivery import DeliveryState
from audit_async.events import ActorInfo, AuthFailure, AuthSuccess, DataDeleted
from audit_async.events.base import AuthMethod
from audit_async.privacy import opening_sealed
from tests.delivery.delivering import (
    deliver_once,
    delivering,
    http,
    lines_of_log,
    position_of,
    settings,
    until,
    write_events,
)
from tests.delivery.http_receiver import Receiver
from tests.forwarding.stored_logs import sealing
from tests.trails import read_events

pytestmark = pytest.mark.anyio

EVENTS = (
    AuthFailure(reason="bad_password", ip="203.0.113.9", path="/login"),
    AuthSuccess(actor=ActorInfo(user_id="alice", ip="203.0.113.7"), method=AuthMethod.PASSWORD, path="/login"),
    DataDeleted(customer_id="42", data_types=["orders"], reason="gdpr"),
)


def types_of(lines: list[bytes]) -> list[str]:
    """Return the types of records."""
    return [json.loads(line)["event"]["event_type"] for line in lines]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"select": ({"event_types": ["auth.*"]},)}, ["auth.failure", "auth.success"]),
        ({"select": ({"event_types": ["auth.*"]},), "exclude": ({"outcome": "failure"},)}, ["auth.success"]),
        ({"select": ({"actor": "ali*"},)}, ["auth.success"]),
        ({"select": ({"actor": "nobody"}, {"resource_id": "42"})}, ["data.deleted"]),
        ({"select": ({"critical": True},)}, ["auth.failure"]),
        ({"select": ({"ip": "203.0.113.0/29"},)}, ["auth.success"]),
        ({"exclude": ({"event_types": ["audit.*"]},)}, ["auth.failure", "auth.success", "data.deleted"]),
        ({"select": ({"actor": "nobody"},)}, []),
    ],
)
async def test_a_sink_gets_what_a_query_would_find(
    tmp_path: Path, changes: dict[str, object], wanted: list[str]
) -> None:
    """In the query's own terms; the position moves over the rest, and the next run does not look at it again."""
    directory = await write_events(tmp_path / "audit", *EVENTS)
    receiver = Receiver()
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, http(url, **changes)))
    assert types_of(receiver.accepted) == wanted
    assert status.lag_records == 0
    assert position_of(tmp_path).seq == len(lines_of_log(directory)) - 1


async def test_what_is_redacted_does_not_leave(tmp_path: Path) -> None:
    """The members are replaced, the record says that it was altered, and it keeps the hash of what was recorded."""
    directory = await write_events(tmp_path / "audit", *EVENTS)
    receiver = Receiver()
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, http(url, redact=("event.actor.ip", "event.ip", "event.data_types"))))
    assert b"203.0.113" not in b"".join(receiver.accepted)
    for got, line in zip(map(json.loads, receiver.accepted), lines_of_log(directory), strict=True):
        recorded = json.loads(line)
        assert (got["seq"], got["hash"], got["audit_id"]) == (recorded["seq"], recorded["hash"], recorded["audit_id"])
        if got != recorded:
            assert got.pop("altered") is True
            assert "[redacted]" in json.dumps(got)
    own = read_events(tmp_path / "audit" / "audit-deliver" / "00")
    [event] = [one["event"] for one in own if one["event"]["event_type"] == "audit.delivered"]
    assert event["redacted"] == ["event.actor.ip", "event.ip", "event.data_types"]
    assert "unsealed" not in event


async def sealed_trail(tmp_path: Path, *events: AuthSuccess, erase: str | None = None) -> Privacy:
    """Write a session of a log that seals."""
    privacy = (
        Privacy(key_store=str(tmp_path / "keys"), master_key=f"file:{tmp_path / 'master.key'}")
        if (tmp_path / "keys").exists()
        else sealing(tmp_path)
    )
    config = AuditConfig(mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, privacy=privacy)
    async with AuditLogger(config) as audit:
        for event in events:
            audit.emit(event)
        if erase is not None:
            await audit.erase_subject(erase, reason="request", requested_by="dpo")
    return privacy


def success(user: str) -> AuthSuccess:
    """Return a log-in of somebody."""
    return AuthSuccess(actor=ActorInfo(user_id=user, ip="203.0.113.7"), method=AuthMethod.PASSWORD, path="/login")


async def test_sealed_members_stay_sealed_unless_a_sink_opens_them(tmp_path: Path) -> None:
    """By default nobody is named. Opened, a record says under which keys, which an erasure's notice names."""
    privacy = await sealed_trail(tmp_path, success("alice"), success("bob"))
    sealed, opened = Receiver(), Receiver()
    async with sealed.listening() as url, opened.listening() as other:
        sinks = http(url), http(other, name="open", unseal=True)
        keys = {"key_store": str(privacy.key_store), "master_key": str(privacy.master_key)}
        statuses = await deliver_once(settings(tmp_path, *sinks, **keys))
        assert {one.state for one in statuses} == {DeliveryState.CAUGHT_UP}, statuses
        assert not any(b'"alice"' in line for line in sealed.accepted)
        by_user = {
            got["event"]["actor"]["user_id"]: got
            for got in map(json.loads, opened.accepted)
            if got["event"]["event_type"] == "auth.success"
        }
        assert set(by_user) == {"alice", "bob"}
        under = set(by_user["alice"]["sealed_under"])
        assert under
        assert not under & set(by_user["bob"]["sealed_under"])
        await sealed_trail(tmp_path, success("carol"), erase="alice")
        for receiver in (sealed, opened):
            receiver.accepted.clear()
        only = {"select": ({"event_types": ["nothing.*"]},)}
        sinks = http(url, **only), http(other, name="open", unseal=True, **only)
        await deliver_once(settings(tmp_path, *sinks, **keys))
    for receiver in (sealed, opened):
        assert types_of(receiver.accepted) == ["audit.erasure_started", "audit.subject_erased"]
        assert set(json.loads(receiver.accepted[0])["event"]["key_ids"]) >= under


async def test_a_new_session_that_seals_is_opened_as_well(tmp_path: Path) -> None:
    """A deliverer that runs for weeks sees sessions begin that its key store did not know of."""
    privacy = await sealed_trail(tmp_path, success("alice"))
    receiver = Receiver()
    keys = {"key_store": str(privacy.key_store), "master_key": str(privacy.master_key)}
    async with receiver.listening() as url:
        given = settings(tmp_path, http(url, unseal=True), **keys)
        async with delivering(given):
            await until(lambda: any(b'"alice"' in line for line in receiver.accepted))
            await sealed_trail(tmp_path, success("bob"))
            await until(lambda: any(b'"bob"' in line for line in receiver.accepted))


async def test_what_was_erased_before_it_was_delivered_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the deliverer has opened others with the same key, before the receiver failed."""
    monkeypatch.setattr(opening_sealed, "_LOOK_EVERY_S", 0.0)
    privacy = sealing(tmp_path)
    config = AuditConfig(mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, privacy=privacy)
    receiver = Receiver()
    keys = {"key_store": str(privacy.key_store), "master_key": str(privacy.master_key)}
    async with (
        receiver.listening() as url,
        AuditLogger(config) as audit,
        delivering(settings(tmp_path, http(url, unseal=True), **keys)),
    ):
        audit.emit(success("alice"))
        await until(lambda: any(b'"alice"' in line for line in receiver.accepted))
        receiver.answer = lambda _: web.Response(status=503)
        refused = len(receiver.requests)
        await audit.emit_durable(success("alice"))
        await until(lambda: len(receiver.requests) > refused)
        await audit.erase_subject("alice", reason="request", requested_by="dpo")
        receiver.answer = None
        await until(lambda: "audit.subject_erased" in types_of(receiver.accepted))
    users = [json.loads(line)["event"].get("actor", {}).get("user_id") for line in receiver.accepted]
    assert users.count("alice") == 1
    assert sum(str(user).startswith("[erased 2") for user in users) == 1


def test_the_key_store_is_closed_with_the_deliverer(tmp_path: Path) -> None:
    """Opening it a second time finds nothing left open."""

    async def run() -> None:
        privacy = await sealed_trail(tmp_path, success("alice"))
        keys = {"key_store": str(privacy.key_store), "master_key": str(privacy.master_key)}
        receiver = Receiver()
        async with receiver.listening() as url:
            for _ in range(2):
                await deliver_once(settings(tmp_path, http(url, unseal=True), **keys))

    anyio.run(run)
