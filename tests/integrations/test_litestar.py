"""Litestar itself: the plugin opens the log, injects the logger, and sees every request, also those no route takes."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar, WebSocket, get, post, websocket
from litestar.exceptions import PermissionDeniedException
from litestar.testing import TestClient

from audit_async import AuditLogger
from audit_async.integrations.litestar import AuditPlugin, Policy
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

# Litestar's own test client warns about the one of httpx.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def events(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the events of the log but those of its own life; its chain is checked."""
    directory = log_directory(config_for())
    check_trail(directory)
    records = [record["event"] for record in read_events(directory)]
    assert records[-1]["event_type"] == "audit.log_closed"
    return [event for event in records if not event["event_type"].startswith("audit.")]


@get("/orders/{order_id:int}", sync_to_thread=True)
def in_a_thread(order_id: int, audit: AuditLogger) -> str:
    """Emit from a thread."""
    audit.emit(Counted(producer="thread", n=order_id))
    return "ok"


@get("/async/{n:int}")
async def on_the_loop(n: int, audit: AuditLogger) -> str:
    """Emit on the loop."""
    audit.emit(Counted(producer="loop", n=n))
    return "ok"


@post("/echo")
async def echo(data: dict[str, str]) -> dict[str, str]:
    """Give back what was sent."""
    return data


@get("/forbidden")
async def forbidden() -> str:
    """Let nobody in."""
    raise PermissionDeniedException("no")


@get("/boom")
async def boom() -> str:
    """Raise."""
    raise ZeroDivisionError


@websocket("/ws")
async def chat(socket: WebSocket[Any, Any, Any]) -> None:
    """Say one word."""
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


def test_every_request_is_recorded(config_for: ConfigFor) -> None:
    """Handlers of both kinds, refusals, failures, WebSockets, and paths without a route: one event each."""
    handlers = [in_a_thread, on_the_loop, forbidden, boom, chat]
    with TestClient(Litestar(handlers, plugins=[AuditPlugin(config_for())])) as client:
        assert client.get("/orders/7").status_code == 200
        assert client.get("/async/8").status_code == 200
        assert client.get("/nowhere").status_code == 404
        assert client.get("/forbidden").status_code == 403
        assert client.get("/boom").status_code == 500
        assert client.post("/boom").status_code == 405
        with client.websocket_connect("/ws") as ws:
            assert ws.receive_text() == "hello"
    seen = [(event["event_type"], event.get("route"), event.get("status")) for event in events(config_for)]
    assert seen == [
        ("test.counted", None, None),
        ("http.request", "/orders/{order_id}", 200),
        ("test.counted", None, None),
        ("http.request", "/async/{n}", 200),
        ("http.request", None, 404),
        ("authz.denied", None, None),
        ("http.request", "/boom", 500),
        ("http.request", None, 405),
        ("http.websocket_closed", "/ws", 101),
    ]


def test_the_settings_are_the_middlewares(config_for: ConfigFor) -> None:
    """Policy, actor and the rest reach the middleware; the application is left as it was found."""
    plugin = AuditPlugin(config_for(), policy=Policy(default="request"), actor=lambda scope: "robot")
    app = Litestar([echo], plugins=[plugin])
    handler = app.asgi_handler
    with TestClient(app) as client:
        assert client.post("/echo", json={"password": "hunter2-hunter2", "a": "b"}).status_code == 201
    assert app.asgi_handler is handler
    (event,) = events(config_for)
    assert event["actor"]["user_id"] == "robot"
    assert event["request_body"]["text"] == ['{"password":"[redacted:password]","a":"b"}']
