"""What a web integration can't record is recorded in parts, or counts as a loss: nothing goes missing unnoticed."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from audit_async import ActorInfo, AuditLogger, InvalidEvent
from audit_async.integrations._http.admission import Admission
from audit_async.integrations.asgi import AuditMiddleware, Policy, Scope
from tests.integrations.asgi_client import JSON_ANSWER, Trail, answering, ask, body, hello, http_scope, open_trail
from tests.logs import ConfigFor

pytestmark = pytest.mark.anyio


def broken_hook(scope: Scope) -> str:
    """Fail as an application's own code may."""
    raise LookupError("no session")


async def losses(trail: Trail) -> list[tuple[str, dict[str, int]]]:
    """Return reason and counts of each `audit.events_dropped` in the chain."""
    await trail.audit.flush()
    events = [msgspec.json.decode(line)["event"] for line in trail.text().splitlines()]
    return [(event["reason"], event["by_type"]) for event in events if event["event_type"] == "audit.events_dropped"]


def refuse(monkeypatch: pytest.MonkeyPatch, *event_types: str) -> None:
    """Let the log refuse events of these types, for whatever reason of its own."""
    emit = AuditLogger.emit

    def emit_some(self: AuditLogger, event: Any) -> Any:
        if event.event_type in event_types:
            raise InvalidEvent(event.event_type, "", "its tag is that of another class")
        return emit(self, event)

    monkeypatch.setattr(AuditLogger, "emit", emit_some)


async def test_a_failed_hook_and_a_refused_body_are_both_in_the_record(config_for: ConfigFor) -> None:
    """One note does not take the place of another: a reader learns of everything that is missing."""
    async with open_trail(config_for, on_unsafe="reject", max_event_bytes=4096) as trail:
        headers = [(f"X-{n}", "y" * 900) for n in range(50)]
        app = AuditMiddleware(hello, trail.audit, policy=Policy(default="request"), actor=broken_hook)
        await ask(app, http_scope("/a", headers=headers))
        note = (await trail.only())["note"]
        assert "the hook raised LookupError" in note
        assert "headers and bodies are left out" in note


async def test_a_request_without_its_actor_is_recorded_and_counted(
    config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    """If the hook fails the request is recorded with a note, and that it has no actor is counted as a loss."""
    async with open_trail(config_for) as trail:
        app = AuditMiddleware(hello, trail.audit, actor=broken_hook)
        assert (await ask(app, http_scope())).status == 200
        event = await trail.only()
        assert (event["note"], event.get("actor")) == ("actor unknown: the hook raised LookupError", None)
        assert await losses(trail) == [("recorded_without_actor", {"http.request": 1})]
        assert (trail.audit.stats().dropped, trail.audit.health().dropped, app.unrecorded) == (1, 1, 0)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("status", [200, 403])
async def test_an_actor_that_the_log_refuses_is_left_out(config_for: ConfigFor, status: int) -> None:
    """A hook that returns what can't be recorded costs the record its actor, and not the trail its record."""

    def hook(scope: Scope) -> ActorInfo:
        return ActorInfo(user_id=object())  # type: ignore[arg-type]  # on purpose

    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(answering(status), trail.audit, actor=hook), http_scope("/a"))
        (record,) = await trail.records()
        note = record["event"].get("note") or record["context"]["http_note"]
        assert note == "the actor is left out: with it the log refused the event"
        if status == 403:  # an event that must name somebody does not say that it was an anonymous request
            assert record["event"]["actor"]["user_id"] == "unknown"
        assert [reason for reason, _ in await losses(trail)] == ["recorded_without_actor"]


async def test_what_the_log_refuses_counts_as_lost(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that the log refuses is in the counters, in the health and in the chain, by the type that is missing."""
    async with open_trail(config_for) as trail:
        refuse(monkeypatch, "auth.failure")
        app = AuditMiddleware(answering(401), trail.audit)
        assert (await ask(app, http_scope())).status == 401
        assert app.unrecorded == 1
        assert await losses(trail) == [("invalid_event", {"auth.failure": 1})]
        assert trail.audit.stats().dropped_by_type == {"auth.failure": 1}
        assert trail.audit.health().dropped == 1


async def test_a_lost_incident_does_not_take_the_request_with_it(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a rule asks for both events, each is recorded or lost by itself."""
    async with open_trail(config_for) as trail:
        refuse(monkeypatch, "auth.failure")
        app = AuditMiddleware(answering(401), trail.audit, policy=Policy(default="request"))
        await ask(app, http_scope())
        assert [event["event_type"] for event in await trail.events()] == ["http.request"]
        assert await losses(trail) == [("invalid_event", {"auth.failure": 1})]


async def test_a_closed_log_counts_what_it_misses(config_for: ConfigFor) -> None:
    """A request that ends after the log's end is in its counters."""
    audit = AuditLogger(config_for())
    async with audit:
        pass
    app = AuditMiddleware(hello, audit)
    assert (await ask(app, http_scope())).status == 200
    assert (app.unrecorded, audit.stats().dropped_by_type) == (1, {"http.request": 1})


async def test_after_a_loss_fail_closed_serves_nothing_for_a_while(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `fail_closed` a request that was lost closes the door; after the pause requests are let in again."""
    clock = 1000.0
    monkeypatch.setattr("audit_async.integrations._http.admission.monotonic", lambda: clock)
    async with open_trail(config_for) as trail:
        with monkeypatch.context() as patch:
            refuse(patch, "http.request")
            app = AuditMiddleware(hello, trail.audit, fail_closed=True)
            assert (await ask(app, http_scope())).status == 200  # nobody knows yet
            assert (await ask(app, http_scope())).status == 503
        assert (await ask(app, http_scope())).status == 503
        clock += 5
        assert (await ask(app, http_scope())).status == 200
        assert (app.unrecorded, app.refused) == (1, 2)
        assert len(await trail.events()) == 1


@pytest.mark.parametrize("status", [200, 401, 403, 429])
async def test_an_answer_that_cannot_be_recorded_is_withheld(config_for: ConfigFor, status: int) -> None:
    """With `fail_closed` an answer whose actor nobody knows does not reach the client, and the record says so."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": JSON_ANSWER})
        await send({"type": "http.response.body", "body": b"se", "more_body": True})
        await send({"type": "http.response.body", "body": b"cret"})

    async with open_trail(config_for) as trail:
        middleware = AuditMiddleware(app, trail.audit, fail_closed=True, actor=broken_hook)
        exchanged = await ask(middleware, http_scope(headers=[("X-Request-ID", "r-1")]), [body(b"")])
        assert (exchanged.status, exchanged.headers["retry-after"]) == (503, "5")
        assert exchanged.headers["x-request-id"] == "r-1"
        assert b"cret" not in exchanged.body
        event = await trail.only()
        assert (event["event_type"], event["status"], event["bytes_out"]) == (
            "http.request",
            503,
            len(exchanged.body),
        )
        assert f"the application's answer with status {status} was withheld" in event["note"]
        assert middleware.refused == 1


async def test_an_answer_that_can_be_recorded_is_not_withheld(config_for: ConfigFor) -> None:
    """With `fail_closed` an ordinary answer, and an incident, pass as without it."""
    async with open_trail(config_for) as trail:
        for status in (200, 401, 403, 429, 500):
            middleware = AuditMiddleware(answering(status), trail.audit, fail_closed=True, actor=lambda scope: "dana")
            assert (await ask(middleware, http_scope("/%2e%2e/x"))).status == status
            assert (await ask(middleware, http_scope("/x"))).status == status
            assert middleware.refused == 0
        assert len(await trail.events()) == 10


async def test_admission_gives_the_place_back(config_for: ConfigFor) -> None:
    """However a request ends, its place in the buffer is free again."""
    async with open_trail(config_for, buffer_events=30) as trail:
        admission = Admission()
        for _ in range(100):
            with pytest.raises(RuntimeError), admission.admit(trail.audit) as admitted:
                assert admitted
                raise RuntimeError
        with admission.admit(trail.audit) as admitted:
            assert admitted
