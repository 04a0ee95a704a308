"""Requests that are recorded without an event: the record is the one that the event makes, byte for byte."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import pytest

from audit_async import AuditEvent, AuditLogger, Disabled, Receipt, Redaction
from audit_async.context import audit_context
from audit_async.events import HttpRequest
from audit_async.integrations._http import prepared_requests
from audit_async.integrations._http.http_redactor import HttpRedactor
from audit_async.integrations._http.prepared_requests import PreparedRequests
from audit_async.integrations.asgi import AuditMiddleware, Scope
from tests.integrations.asgi_client import answering, ask, body, http_scope, open_trail
from tests.logs import ConfigFor, log_directory
from tests.trails import read_events

pytestmark = pytest.mark.anyio

made: list[AuditEvent] = []


class ByEvents(AuditLogger):
    """A log whose `emit` is its own, so that every request comes to it as an event."""

    def emit(self, event: AuditEvent) -> Receipt:
        """Take note of an event, and record it."""
        made.append(event)
        return super().emit(event)


AGENTS = ["curl/8.5", "", "Mozilla/5.0 (X11)", 'say "hi"', "back\\slash", "\x7f", "\x85", "caf\u00e9", "x" * 3000, None]
VALUES: dict[str, list[Any]] = {
    "path": ["/", "/orders/7", "", "/a/b/c", "/%", "/caf\u00e9", '/"', "/" + "x" * 70],
    "method": ["GET", "POST", "HEAD", "%d", 'G"T', "PATCH" * 200, "\\"],
    "route": ["/orders/{id}", "/100%", None, '/"', "/\\", "/\u2028"],
    "status": [200, 204, 302, 404, 500],
    "client": ["203.0.113.9", "2001:db8::7", "unix", 'made"up', "caf\u00e9", "", None],
    "user_agent": AGENTS,
    "request_id": [None, "7f3a" * 8, "ORDER-17", "1" * 16, "not sane"],
}


def some_requests() -> list[dict[str, Any]]:
    """Return requests: each value with the usual ones of the others, then all mixed."""
    usual = {name: values[0] for name, values in VALUES.items()}
    draw = random.Random(17)  # noqa: S311 - samples, not secrets
    return [
        *(usual | {name: value} for name, values in VALUES.items() for value in values for _ in range(2)),
        *({name: draw.choice(values) for name, values in VALUES.items()} for _ in range(200)),
    ]


def scope_of(request: dict[str, Any]) -> Scope:
    """Return the scope of a request."""
    given = {"user-agent": request["user_agent"], "x-request-id": request["request_id"]}
    headers = [(name, value) for name, value in given.items() if value is not None]
    client = None if request["client"] is None else (request["client"], 50000)
    return http_scope(request["path"], method=request["method"], headers=headers, client=client)


def essence(record: dict[str, Any]) -> list[object]:
    """Return what two records of the same request have in common, members in their order."""
    event = {name: value for name, value in record["event"].items() if name != "duration_ms"}
    context = dict(record["context"])
    if len(context["request_id"]) == 32:
        context["request_id"] = "fresh or given"
    return [list(event.items()), list(context.items())]


async def test_a_prepared_record_is_what_the_event_makes(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a client sends: method, path, address, user agent and id; and whatever the route and the status are."""
    requests, answers = some_requests(), count_prepared(monkeypatch)
    made.clear()
    config = config_for(instance="prepared")
    by_events = config_for(instance="events")

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["path_template"] = request["route"]
        await answering(request["status"])(scope, receive, send)

    async with AuditLogger(config) as one, ByEvents(by_events) as other:
        for middleware in (AuditMiddleware(app, one), AuditMiddleware(app, other)):
            for request in requests:
                await ask(middleware, scope_of(request))
    assert len([event for event in made if isinstance(event, HttpRequest)]) == len(requests)
    recorded = [
        [essence(record) for record in read_events(log_directory(config, instance)) if "context" in record]
        for instance in ("prepared", "events")
    ]
    assert len(recorded[0]) >= len(requests)
    assert recorded[0] == recorded[1]
    assert answers[: len(requests)].count(True) > 50


def count_prepared(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Have what `PreparedRequests.emit` answers noted in the list that is returned."""
    answers: list[bool] = []
    emit = PreparedRequests.emit

    def noting(self: PreparedRequests, *arguments: Any) -> bool:
        answers.append(emit(self, *arguments))
        return answers[-1]

    monkeypatch.setattr(PreparedRequests, "emit", noting)
    return answers


async def test_what_is_bound_inside_is_in_a_prepared_record(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the answer is recorded where it is sent, so with what is bound there."""
    answers = count_prepared(monkeypatch)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        with audit_context(tenant="acme"):
            await answering(200)(scope, receive, send)

    async with open_trail(config_for) as trail:
        for _ in range(2):  # the first is the event's, which teaches the log its class
            await ask(AuditMiddleware(app, trail.audit), http_scope("/orders/7"), [body(b"")])
        assert [record["context"]["tenant"] for record in await trail.records()] == ["acme", "acme"]
    assert answers == [False, True]


@pytest.mark.parametrize("mode", ["redact", "patched", "class", "full"])
async def test_what_is_not_as_usual_goes_the_usual_way(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A log that redacts the id, one that is full, and one whose `emit` was replaced."""
    settings: dict[str, object] = {}
    if mode == "redact":
        settings["redaction"] = Redaction(extra_keys=("request_id",))
    if mode == "full":
        settings["buffer_events"] = 100
    seen: list[AuditEvent] = []
    async with open_trail(config_for, **settings) as trail:
        middleware = AuditMiddleware(answering(200), trail.audit)
        await ask(middleware, http_scope("/orders/7"))
        if mode in {"patched", "class"}:
            target = trail.audit if mode == "patched" else AuditLogger
            monkeypatch.setattr(target, "emit", lambda *given: seen.append(given[-1]))
        if mode == "full":
            for _ in range(200):
                await ask(middleware, http_scope("/orders/7"))
            assert middleware.unrecorded == trail.audit.stats().dropped > 0
            return
        await ask(middleware, http_scope("/orders/7"))
        if mode in {"patched", "class"}:
            assert [event.event_type for event in seen] == ["http.request"]
        elif mode == "redact":
            contexts = [record["context"]["request_id"] for record in await trail.records()]
            assert len(contexts) == 2
            assert all(each.startswith("[redacted:") for each in contexts)


class Wrapper:
    """Stands for a method as wrapt's wrappers do: whatever it is asked, but for its call, the method answers."""

    def __init__(self, method: Any, seen: list[AuditEvent]) -> None:
        self._method = method
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        """Return what the method has."""
        return getattr(self._method, name)

    def __call__(self, event: AuditEvent) -> Receipt:
        """Take note of an event, and record it."""
        self._seen.append(event)
        receipt: Receipt = self._method(event)
        return receipt


async def test_a_wrapper_around_emit_sees_each_request(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that has the attributes of what it wraps, as those of tracers have."""
    seen: list[AuditEvent] = []
    async with open_trail(config_for) as trail:
        middleware = AuditMiddleware(answering(200), trail.audit)
        await ask(middleware, http_scope("/orders/7"))
        monkeypatch.setattr(trail.audit, "emit", Wrapper(trail.audit.emit, seen))
        await ask(middleware, http_scope("/orders/7"))
        assert [event.event_type for event in seen] == ["http.request"]
        assert len(await trail.events()) == 2


async def test_the_emit_of_another_log_records_there(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same function, of another object."""
    other = config_for(instance="other")
    async with AuditLogger(config_for(instance="one")) as one, AuditLogger(other) as another:
        middleware = AuditMiddleware(answering(200), one)
        await ask(middleware, http_scope("/orders/7"))
        monkeypatch.setattr(one, "emit", another.emit)
        await ask(middleware, http_scope("/orders/8"))
    recorded = [record["event"] for record in read_events(log_directory(other, "other"))]
    assert [event["path"] for event in recorded if event["event_type"] == "http.request"] == ["/orders/8"]


async def test_an_emit_that_was_patched_before_the_import(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an application has put there is not taken for the library's own, whichever is first."""
    async with AuditLogger(config_for()) as audit:
        assert PreparedRequests(audit, HttpRedactor(audit.config)).is_passed_by
        monkeypatch.setattr(AuditLogger, "emit", lambda *_: None)
        specification = importlib.util.find_spec(prepared_requests.__name__)
        assert specification is not None
        assert specification.loader is not None
        imported_later = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(imported_later)
        assert not imported_later.PreparedRequests(audit, HttpRedactor(audit.config)).is_passed_by


@pytest.mark.parametrize("count", [12.0, float("nan")])
async def test_a_size_that_is_no_number_of_bytes_is_in_no_record(config_for: ConfigFor, count: float) -> None:
    """NaN has no place in JSON; what the event refuses is counted as lost."""

    async def app(_scope: Scope, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.zerocopysend", "count": count})

    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(answering(200), trail.audit), http_scope("/orders/7"))
        middleware = AuditMiddleware(app, trail.audit)
        for _ in range(2):  # the first is the one from which the log may learn
            await ask(middleware, http_scope("/orders/7"))
        assert middleware.unrecorded == 2


@pytest.mark.parametrize("patched", [False, True])
async def test_a_disabled_log_takes_nothing(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, patched: bool
) -> None:
    """Nothing is asked and nothing is made for it, unless its `emit` was replaced."""
    asked: list[str] = []
    seen: list[AuditEvent] = []
    async with AuditLogger(config_for(mode=Disabled())) as audit:
        if patched:
            monkeypatch.setattr(audit, "emit", seen.append)
        middleware = AuditMiddleware(answering(200), audit, actor=lambda _scope: asked.append("actor"))
        await ask(middleware, http_scope("/orders/7"))
    assert (len(asked), len(seen)) == ((1, 1) if patched else (0, 0))


async def test_a_client_that_makes_things_up_takes_no_memory(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of methods, addresses and user agents is bounded, in number and in length."""
    monkeypatch.setattr(prepared_requests, "_MAX_KEPT", 8)
    async with open_trail(config_for) as trail:
        middleware = AuditMiddleware(answering(200), trail.audit)
        for n in range(40):
            scope = http_scope("/", method=f"M{n}", headers=[("user-agent", f"agent {n}")], client=(f"10.0.0.{n}", 1))
            await ask(middleware, scope)
        scope = http_scope("/", method="M" * 600, headers=[("user-agent", "a" * 600)], client=("c" * 600, 1))
        await ask(middleware, scope)
        known = middleware._recorder._known
        assert known is not None
        prepared = known.prepared
        for kept in (prepared._frames, prepared._addresses, prepared._user_agents):
            assert 0 < len(kept) <= 8
            assert max(len(str(key)) for key in kept) < 600
        assert len(await trail.events()) == 41
