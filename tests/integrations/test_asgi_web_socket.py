"""What the middleware promises of WebSockets: one event at the end, messages counted and never kept or delayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio
import pytest

from audit_async import BufferFull
from audit_async.integrations.asgi import AuditMiddleware, Policy, Rule, Scope
from tests.integrations.asgi_client import http_scope, open_trail
from tests.integrations.test_web_losses import broken_hook
from tests.logs import ConfigFor, Counted

pytestmark = pytest.mark.anyio


async def connect(
    app: Any, incoming: Iterable[dict[str, Any]], *, send: Any = None, **members: object
) -> list[dict[str, Any]]:
    """Open a WebSocket, let these messages come, and return those that went out, unless `send` takes them."""
    scope = http_scope("/chat", headers=[("User-Agent", "browser/1.0")])
    scope.update(members)
    scope["type"] = "websocket"
    del scope["method"]
    waiting = [{"type": "websocket.connect"}, *incoming]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return waiting.pop(0)

    async def keep(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send or keep)
    return sent


async def chat(scope: Scope, receive: Any, send: Any) -> None:
    """Accept, echo every message, and end when the client does, or says so."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "raise":
            raise ValueError("no such room")
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001})
            return
        await send({**message, "type": "websocket.send"})


def text(said: str) -> dict[str, Any]:
    """Return a text message of the client."""
    return {"type": "websocket.receive", "text": said}


LEAVE = {"type": "websocket.disconnect", "code": 1001}


async def test_a_web_socket_is_one_event_at_its_end(config_for: ConfigFor) -> None:
    """Messages and bytes both ways, who closed it and how, and no word of what was said."""
    async with open_trail(config_for) as trail:
        incoming = [text("höre"), {"type": "websocket.receive", "bytes": b"\x00\x01"}, LEAVE]
        sent = await connect(AuditMiddleware(chat, trail.audit), incoming)
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.send"]
        assert sent[0]["headers"][0][0] == b"x-request-id"
        event = await trail.only()
        del event["duration_ms"]
        assert event == {
            "event_type": "http.websocket_closed",
            "path": "/chat",
            "status": 101,
            "close_code": 1001,
            "closed_by": "client",
            "messages_in": 2,
            "messages_out": 2,
            "bytes_in": 7,
            "bytes_out": 7,
            "ip": "198.51.100.7",
            "user_agent": "browser/1.0",
        }
        assert "höre".encode() not in trail.text()


async def test_the_servers_close_is_told_from_the_clients(config_for: ConfigFor) -> None:
    """Where the application closes, its code is recorded."""
    async with open_trail(config_for) as trail:
        await connect(AuditMiddleware(chat, trail.audit), [text("close")])
        event = await trail.only()
        assert (event["close_code"], event["closed_by"]) == (4001, "server")


async def test_what_runs_behind_the_close_does_not_count(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The duration lasts to the close, whoever closes, and not to the end of what the application does afterwards."""
    clock = 0

    async def slow(scope: Scope, receive: Any, send: Any) -> None:
        nonlocal clock
        clock += 60_000_000
        await chat(scope, receive, send)
        clock += 5_000_000_000

    for module in ("asgi.web_socket_relay", "_http.exchange"):
        monkeypatch.setattr(f"audit_async.integrations.{module}.perf_counter_ns", lambda: clock)
    async with open_trail(config_for) as trail:
        for last in (LEAVE, text("close")):
            await connect(AuditMiddleware(slow, trail.audit), [last])
        assert [event["duration_ms"] for event in await trail.events()] == [60, 60]


async def test_an_exception_in_a_web_socket_is_recorded(config_for: ConfigFor) -> None:
    """An application that raises in the middle gives one event with the exception's class."""
    async with open_trail(config_for) as trail:
        with pytest.raises(ValueError, match="room"):
            await connect(AuditMiddleware(chat, trail.audit), [text("raise")])
        event = await trail.only()
        assert (event["outcome"], event["error"], event["messages_in"]) == ("failed", "ValueError", 1)
        assert "close_code" not in event


async def test_a_handshake_that_is_turned_down_is_a_denial(config_for: ConfigFor) -> None:
    """Closing before accepting is what servers answer 403 to, so it is recorded as `authz.denied`."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    async with open_trail(config_for) as trail:
        await connect(AuditMiddleware(app, trail.audit), [])
        event = await trail.only()
        assert (event["event_type"], event["action"]) == ("authz.denied", "WEBSOCKET")


async def test_a_denial_with_a_response_keeps_its_status(config_for: ConfigFor) -> None:
    """A handshake that is answered 401 by the extension for that is an `auth.failure`."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"who are you?"})

    async with open_trail(config_for) as trail:
        await connect(AuditMiddleware(app, trail.audit), [], extensions={"websocket.http.response": {}})
        assert (await trail.only())["event_type"] == "auth.failure"


async def test_the_policy_knows_web_sockets(config_for: ConfigFor) -> None:
    """A rule for the method `WEBSOCKET` is one for WebSockets."""
    async with open_trail(config_for) as trail:
        policy = Policy([Rule("/chat", methods="WEBSOCKET", level="none")])
        await connect(AuditMiddleware(chat, trail.audit, policy=policy), [LEAVE])
        assert await trail.events() == []


@pytest.mark.parametrize("extension", [False, True])
async def test_fail_closed_turns_handshakes_down(config_for: ConfigFor, extension: bool) -> None:
    """While the trail takes nothing no WebSocket is opened: 503 where the server can say so, otherwise a refusal."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        raise AssertionError("the application was asked")

    async with open_trail(config_for, buffer_events=20) as trail:
        with pytest.raises(BufferFull):
            while True:
                trail.audit.emit(Counted(producer="p", n=0))
        members: dict[str, object] = {"extensions": {"websocket.http.response": {}}} if extension else {}
        middleware = AuditMiddleware(app, trail.audit, fail_closed=True)
        sent = await connect(middleware, [], **members)
        assert sent[0].get("status") == (503 if extension else None)
        assert sent[-1]["type"] == ("websocket.http.response.body" if extension else "websocket.close")
        assert middleware.refused == 1


@pytest.mark.parametrize("extension", [False, True])
async def test_an_acceptance_that_cannot_be_recorded_is_withheld(config_for: ConfigFor, extension: bool) -> None:
    """With `fail_closed` a handshake whose actor nobody knows is turned down, whatever the application says then."""
    async with open_trail(config_for) as trail:
        middleware = AuditMiddleware(chat, trail.audit, fail_closed=True, actor=broken_hook)
        more: dict[str, object] = {"extensions": {"websocket.http.response": {}}} if extension else {}
        sent = await connect(middleware, [text("höre"), LEAVE], **more)
        kinds = ["websocket.http.response.start", "websocket.http.response.body"] if extension else ["websocket.close"]
        assert [message["type"] for message in sent] == kinds
        event = await trail.only()
        assert event.get("status") == (503 if extension else None)
        assert event["note"].startswith("the application accepted the handshake, which was turned down")
        assert middleware.refused == 1


async def test_a_client_that_is_gone_when_something_is_sent_has_disconnected(config_for: ConfigFor) -> None:
    """Which servers raise OSError for: it is the client's end, and no failure of the application."""

    async def send_after_the_end(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "still there?"})

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise BrokenPipeError

    async with open_trail(config_for) as trail:
        with pytest.raises(BrokenPipeError):
            await connect(AuditMiddleware(send_after_the_end, trail.audit), [], send=send)
        event = await trail.only()
        assert (event["status"], event["outcome"], event["error"]) == (101, "client_disconnected", "BrokenPipeError")


async def test_a_web_socket_that_is_cancelled_says_so(config_for: ConfigFor) -> None:
    """As a server does with those that are open when it stops."""

    async def wait(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        waiting.cancel()
        await anyio.sleep_forever()

    async with open_trail(config_for) as trail:
        with anyio.CancelScope() as waiting:
            await connect(AuditMiddleware(wait, trail.audit), [])
        event = await trail.only()
        assert (event["status"], event["outcome"]) == (101, "cancelled")


@pytest.mark.parametrize(("incoming", "outcome"), [([LEAVE], "client_disconnected"), ([], "no_response")])
async def test_a_handshake_without_an_answer_says_whose_end_it_was(
    config_for: ConfigFor, incoming: list[dict[str, Any]], outcome: str
) -> None:
    """The client may leave before it is answered, and an application may forget to."""

    async def silent(scope: Scope, receive: Any, send: Any) -> None:
        for _ in range(1 + len(incoming)):
            await receive()

    async with open_trail(config_for) as trail:
        await connect(AuditMiddleware(silent, trail.audit), incoming)
        event = await trail.only()
        assert (event["outcome"], "status" in event) == (outcome, False)
