"""What the ASGI middleware promises of HTTP requests: one event each, however they end, and nothing held back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider

from audit_async.context import audit_context
from audit_async.integrations.asgi import AuditMiddleware, Scope, session_actor
from tests.integrations.asgi_client import JSON_ANSWER, answering, ask, body, hello, http_scope, open_trail
from tests.logs import ConfigFor, Counted

pytestmark = pytest.mark.anyio


async def test_a_request_is_one_event_with_what_was_seen(config_for: ConfigFor) -> None:
    """Method, path, status, sizes, address and user agent of an ordinary request are in its one event."""

    async def echo(scope: Scope, receive: Any, send: Any) -> None:
        first, second = await receive(), await receive()
        await send({"type": "http.response.start", "status": 201, "headers": JSON_ANSWER})
        await send({"type": "http.response.body", "body": first["body"], "more_body": True})
        await send({"type": "http.response.body", "body": second["body"]})

    async with open_trail(config_for) as trail:
        scope = http_scope("/orders/7", method="POST", headers=[("User-Agent", "curl/8.5")])
        exchanged = await ask(AuditMiddleware(echo, trail.audit), scope, [body(b"abc", more=True), body(b"de")])
        assert (exchanged.status, exchanged.body) == (201, b"abcde")
        event = await trail.only()
        assert isinstance(event.pop("duration_ms"), int)
        assert event == {
            "event_type": "http.request",
            "method": "POST",
            "path": "/orders/7",
            "status": 201,
            "bytes_in": 5,
            "bytes_out": 5,
            "ip": "198.51.100.7",
            "user_agent": "curl/8.5",
        }


async def test_the_duration_lasts_to_the_last_byte(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A streamed answer takes as long as its last byte takes, and what runs behind it does not count."""
    clock = 0

    async def stream(scope: Scope, receive: Any, send: Any) -> None:
        nonlocal clock
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            clock += 20_000_000
            await send({"type": "http.response.body", "body": b"x" * 10, "more_body": True})
        await send({"type": "http.response.body"})
        clock += 5_000_000_000  # a background task

    for module in ("asgi.http_relay", "_http.recorder"):
        monkeypatch.setattr(f"audit_async.integrations.{module}.perf_counter_ns", lambda: clock)
    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(stream, trail.audit), http_scope())
        event = await trail.only()
        assert (event["duration_ms"], event["bytes_out"]) == (60, 30)


async def test_the_event_is_there_while_a_background_task_runs(config_for: ConfigFor) -> None:
    """A request is recorded at its answer's last byte, not when the application is through with what follows."""
    async with open_trail(config_for) as trail:
        seen: list[dict[str, Any]] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await hello(scope, receive, send)
            seen.extend(await trail.events())
            raise RuntimeError("the background task failed")

        with pytest.raises(RuntimeError):
            await ask(AuditMiddleware(app, trail.audit), http_scope())
        assert [event["status"] for event in seen] == [200]
        assert await trail.events() == seen


async def test_messages_pass_one_by_one_and_unchanged(config_for: ConfigFor) -> None:
    """Nothing is held back or changed: each message is with the server before the application makes the next."""
    sent: list[dict[str, Any]] = [
        {"type": "http.response.early_hint", "links": [b"</a.css>"]},
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")], "trailers": True},
        {"type": "http.response.body", "body": b"a" * 100_000, "more_body": True},
        {"type": "http.response.body", "body": b"b"},
        {"type": "http.response.trailers", "headers": [(b"digest", b"z")], "more_trailers": False},
    ]
    arrived: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)
            assert arrived[-1] is message

    async def send(message: Any) -> None:
        arrived.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody asked")

    async with open_trail(config_for) as trail:
        await AuditMiddleware(app, trail.audit, send_request_id=False)(http_scope(), receive, send)
        event = await trail.only()
        assert arrived == sent
        assert event["bytes_out"] == 100_001
        assert "outcome" not in event


async def test_a_file_that_the_server_sends_itself_is_counted(config_for: ConfigFor) -> None:
    """`http.response.pathsend` ends an answer; its size is what the headers say."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"4711")]})
        await send({"type": "http.response.pathsend", "path": "/srv/file"})

    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(app, trail.audit), http_scope())
        event = await trail.only()
        assert (event["bytes_out"], event.get("outcome")) == (4711, None)


async def test_an_exception_is_recorded_and_raised(config_for: ConfigFor) -> None:
    """A handler that raises gives one event, with the exception's class and never its text."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        raise LookupError("customer 4711 owes money")

    async with open_trail(config_for) as trail:
        with pytest.raises(LookupError):
            await ask(AuditMiddleware(app, trail.audit), http_scope())
        event = await trail.only()
        assert (event["outcome"], event["error"], event["status"]) == ("failed", "LookupError", 500)
        assert b"owes money" not in trail.text()


async def test_an_exception_in_the_middle_keeps_the_status_that_was_sent(config_for: ConfigFor) -> None:
    """Where an answer had begun, its status and bytes are recorded beside the failure."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise OSError("the database went away")

    async with open_trail(config_for) as trail:
        with pytest.raises(OSError, match="database"):
            await ask(AuditMiddleware(app, trail.audit), http_scope())
        event = await trail.only()
        assert (event["outcome"], event["status"], event["bytes_out"]) == ("failed", 200, 4)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_missing_answer_is_recorded(config_for: ConfigFor, begun: bool) -> None:
    """An application that returns without an answer, or in the middle of one, gives one event that says so."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 202, "headers": []})

    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(app, trail.audit), http_scope())
        event = await trail.only()
        assert (event["outcome"], event["status"]) == ("no_response", 202 if begun else 500)


async def test_a_client_that_goes_away_is_recorded(config_for: ConfigFor) -> None:
    """A client that leaves while the answer is sent gives one event that says so."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(app, trail.audit), http_scope(), [{"type": "http.disconnect"}])
        event = await trail.only()
        assert (event["outcome"], event["status"], event["bytes_out"]) == ("client_disconnected", 200, 4)


async def test_a_server_that_refuses_to_send_means_a_client_that_left(config_for: ConfigFor) -> None:
    """From ASGI 2.4 on a server says by an OSError from `send` that the client is gone."""

    async def receive() -> Any:
        raise AssertionError("nobody asked")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    async with open_trail(config_for) as trail:
        with pytest.raises(ConnectionResetError):
            await AuditMiddleware(hello, trail.audit)(http_scope(), receive, send)
        assert (await trail.only())["outcome"] == "client_disconnected"


async def test_a_cancelled_request_is_recorded(config_for: ConfigFor) -> None:
    """A request that its server cancels gives one event, and stays cancelled."""
    begun = anyio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with open_trail(config_for) as trail:
        task = asyncio.create_task(ask(AuditMiddleware(app, trail.audit), http_scope("/slow")))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        event = await trail.only()
        assert (event["outcome"], event.get("status"), event["path"]) == ("cancelled", None, "/slow")


async def test_an_answer_to_head_has_no_bytes(config_for: ConfigFor) -> None:
    """What a server does not send of an answer to HEAD is not counted."""
    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(hello, trail.audit), http_scope(method="HEAD"))
        assert (await trail.only())["bytes_out"] == 0


async def test_the_life_span_passes_untouched() -> None:
    """A scope that is no request reaches the application with the very same functions."""
    got: list[object] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        got.extend((scope, receive, send))

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    scope: Scope = {"type": "lifespan"}
    await AuditMiddleware(app)(scope, receive, send)
    assert [id(each) for each in got] == [id(scope), id(receive), id(send)]


async def test_what_the_handler_emits_carries_the_request(config_for: ConfigFor) -> None:
    """Events of a handler have the request's id and trace in their context, and so has the request's own."""
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    async with open_trail(config_for) as trail:

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            with audit_context(tenant="acme"):
                trail.audit.emit(Counted(producer="handler", n=1))
            await hello(scope, receive, send)

        headers = [("X-Request-ID", "r-1"), ("traceparent", f"00-{trace}-{span}-01")]
        exchanged = await ask(AuditMiddleware(app, trail.audit), http_scope(headers=headers))
        assert exchanged.headers["x-request-id"] == "r-1"
        emitted, request = await trail.records()
        of_request = {"request_id": "r-1", "trace_id": trace, "span_id": span}
        assert emitted["context"] == of_request | {"tenant": "acme"}
        assert request["context"] == of_request
        trail.audit.emit(Counted(producer="outside", n=2))
        assert "context" not in (await trail.records())[-1]


@pytest.mark.parametrize("told", [None, "", "two words", "x" * 129, "a\x1b[31m", "é", "'; DROP TABLE", "-leading"])
async def test_an_id_that_is_not_sane_is_replaced(config_for: ConfigFor, told: str | None) -> None:
    """Without an id that is short and plain the request gets a new one, which the client is told."""
    async with open_trail(config_for) as trail:
        headers = [] if told is None else [("X-Request-ID", told)]
        exchanged = await ask(AuditMiddleware(hello, trail.audit), http_scope(headers=headers))
        (record,) = await trail.records()
        given = record["context"]["request_id"]
        assert len(given) == 32
        assert int(given, 16) >= 0
        assert exchanged.headers["x-request-id"] == given


@pytest.mark.parametrize(
    "traceparent",
    ["00-0-0-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"ff-{'a' * 32}-00f067aa0ba902b7-01", "x" * 1000],
)
async def test_a_trace_that_is_none_is_left_out(config_for: ConfigFor, traceparent: str) -> None:
    """What does not follow W3C Trace Context binds no trace."""
    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(hello, trail.audit), http_scope(headers=[("traceparent", traceparent)]))
        (record,) = await trail.records()
        assert set(record["context"]) == {"request_id"}


async def test_opentelemetrys_span_goes_before_the_header(config_for: ConfigFor) -> None:
    """Where a tracer further out has made a span of its own, events belong to that one."""
    tracer = TracerProvider().get_tracer("test")
    async with open_trail(config_for) as trail:
        with tracer.start_as_current_span("request") as span:
            headers = [("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")]
            await ask(AuditMiddleware(hello, trail.audit), http_scope(headers=headers))
        (record,) = await trail.records()
        assert record["context"]["trace_id"] == f"{span.get_span_context().trace_id:032x}"
        assert record["context"]["span_id"] == f"{span.get_span_context().span_id:016x}"


async def test_an_id_that_the_application_gives_is_left_alone(config_for: ConfigFor) -> None:
    """An answer never has two X-Request-ID headers."""
    async with open_trail(config_for) as trail:
        app = AuditMiddleware(answering(204, [("X-Request-Id", "mine")]), trail.audit)
        exchanged = await ask(app, http_scope())
        assert exchanged.headers == {"X-Request-Id": "mine"}


class User:
    """A user as Starlette's authentication leaves him."""

    is_authenticated = True
    identity = "u-42"


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ([("Authorization", "Bearer abc")], "bearer_token"),
        ([("Authorization", "ApiKey abc")], "api_key"),
        ([("X-API-Key", "abc")], "api_key"),
        ([("Authorization", "Basic YTpi")], "basic"),
        ([("Authorization", "Negotiate YII")], None),
        ([("Cookie", "session=abc")], None),
        ([("Cookie", "theme=dark"), ("Authorization", "Bearer abc")], None),
        ([("X-API-Key", "abc"), ("Authorization", "Bearer abc")], None),
        ([], None),
    ],
)
async def test_the_actor_is_who_the_framework_let_in(config_for: ConfigFor, headers: Any, method: str | None) -> None:
    """The user that authentication inside leaves in the scope is the actor; the method only if it is certain."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["user"] = User()
        await hello(scope, receive, send)

    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(app, trail.audit), http_scope(headers=headers))
        actor = (await trail.only())["actor"]
        assert actor.pop("auth_method", None) == method
        assert actor == {"user_id": "u-42", "ip": "198.51.100.7"}


async def test_a_client_certificate_is_a_method(config_for: ConfigFor) -> None:
    """A client certificate that the server reports (ASGI's TLS extension) is how the actor's identity was proved."""
    tls = {"tls": {"client_cert_name": "CN=robot"}}
    async with open_trail(config_for) as trail:
        app = AuditMiddleware(hello, trail.audit, actor=lambda scope: "robot")
        await ask(app, http_scope(extensions=tls))
        assert (await trail.only())["actor"]["auth_method"] == "m_tls"


async def test_a_browser_session_names_the_actor(config_for: ConfigFor) -> None:
    """With `session_actor` the actor is whom the session names, under the key of the application's choice."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["session"] = {"uid": 42}
        await hello(scope, receive, send)

    async with open_trail(config_for) as trail:
        headers = [("Cookie", "session=abc")]
        await ask(AuditMiddleware(app, trail.audit, actor=session_actor("uid")), http_scope(headers=headers))
        assert (await trail.only())["actor"] == {"user_id": "42", "ip": "198.51.100.7", "auth_method": "session"}


async def test_a_user_who_is_not_authenticated_is_no_actor(config_for: ConfigFor) -> None:
    """Starlette's unauthenticated user is nobody."""

    class Nobody:
        is_authenticated = False
        display_name = "nobody"

    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(hello, trail.audit), http_scope(user=Nobody()))
        assert "actor" not in await trail.only()


async def test_a_hook_that_raises_breaks_no_request(config_for: ConfigFor, caplog: pytest.LogCaptureFixture) -> None:
    """The request is answered and recorded with an unknown actor and a note; the trouble is logged once."""

    def hook(scope: Scope) -> str:
        raise KeyError("session")

    async with open_trail(config_for) as trail:
        app = AuditMiddleware(hello, trail.audit, actor=hook)
        for _ in range(3):
            assert (await ask(app, http_scope())).status == 200
        events = await trail.events()
        assert [event["note"] for event in events] == ["actor unknown: the hook raised KeyError"] * 3
        assert not any("actor" in event for event in events)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
