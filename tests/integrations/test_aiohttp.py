"""aiohttp's server itself: every request, however it ends, is one event, and the log's life is the application's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from audit_async import BufferFull, ConfigError
from audit_async.integrations.aiohttp import Policy, get_audit, setup_audit
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run on asyncio's loop: aiohttp's test server warns about others."""
    return ("asyncio", {"use_uvloop": False})


async def ok(request: web.Request) -> web.Response:
    """Read the body, emit, and answer."""
    data = await request.read()
    get_audit(request).emit(Counted(producer="handler", n=len(data)))
    return web.json_response({"password": "hunter2-hunter2", "got": len(data)})


async def forbidden(_request: web.Request) -> web.Response:
    """Refuse as aiohttp's own handlers do."""
    raise web.HTTPForbidden(text="no")


async def boom(_request: web.Request) -> web.Response:
    """Raise."""
    raise ZeroDivisionError


async def stream(request: web.Request) -> web.StreamResponse:
    """Answer in parts."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(10):
        await response.write(b"x" * 100)
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    """Answer until the client is gone."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 1000)
            await asyncio.sleep(0.001)
    finally:
        request.app[GONE].set()


async def chat(request: web.Request) -> web.WebSocketResponse:
    """Echo one message, then wait for the client's close."""
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


GONE = web.AppKey("gone", asyncio.Event)


class Run:
    """A server with its client, and the events that it left behind once it ended."""

    def __init__(self, client: TestClient[web.Request, web.Application], events: Callable[[], list[Any]]) -> None:
        self.client = client
        self.events = events


@asynccontextmanager
async def running(config_for: ConfigFor, **settings: Any) -> AsyncIterator[Run]:
    """Run a real server on a free port."""
    app = web.Application()
    app[GONE] = asyncio.Event()
    setup_audit(app, config_for(), **settings)
    app.add_routes(
        [
            web.route("*", "/ok/{n}", ok),
            web.get("/forbidden", forbidden),
            web.get("/boom", boom),
            web.get("/stream", stream),
            web.get("/endless", endless),
            web.get("/ws", chat),
        ]
    )

    def events() -> list[Any]:
        check_trail(log_directory(config_for()))
        records = [record["event"] for record in read_events(log_directory(config_for()))]
        assert records[-1]["event_type"] == "audit.log_closed"
        return [each for each in records if each["event_type"] not in {"audit.log_opened", "audit.log_closed"}]

    async with TestClient(TestServer(app)) as client:
        yield Run(client, events)


async def test_every_request_is_recorded(config_for: ConfigFor) -> None:
    """Answers, refusals, failures and paths without a route, each with its template, status and sizes."""
    async with running(config_for, actor=lambda request: "robot") as run:
        answer = await run.client.post("/ok/7", data=b"12345", headers={"X-Request-ID": "r-1", "User-Agent": "t/1"})
        assert answer.headers["X-Request-ID"] == "r-1"
        sent = len(await answer.read())
        for path, status in (("/forbidden", 403), ("/boom", 500), ("/nowhere", 404), ("/stream", 200)):
            answer = await run.client.get(path)
            assert answer.status == status
            assert path == "/boom" or len(answer.headers["X-Request-ID"]) == 32
            await answer.read()
        assert (await run.client.head("/ok/8")).status == 200
    emitted, first, denied, failed, unknown, streamed, _, head = run.events()
    assert (emitted["producer"], emitted["n"]) == ("handler", 5)
    assert isinstance(first.pop("duration_ms"), int)
    assert first == {
        "event_type": "http.request",
        "actor": {"user_id": "robot", "ip": "127.0.0.1"},
        "method": "POST",
        "path": "/ok/7",
        "route": "/ok/{n}",
        "status": 200,
        "bytes_in": 5,
        "bytes_out": sent,
        "ip": "127.0.0.1",
        "user_agent": "t/1",
    }
    assert (denied["event_type"], denied["action"], denied["actor"]["user_id"]) == ("authz.denied", "GET", "robot")
    assert (failed["status"], failed["outcome"], failed["error"]) == (500, "failed", "ZeroDivisionError")
    assert (unknown["status"], unknown.get("route")) == (404, None)
    assert (streamed["bytes_out"], streamed["status"]) == (1000, 200)
    assert (head["method"], head["bytes_out"]) == ("HEAD", 0)


async def test_bodies_are_kept_without_their_secrets(config_for: ConfigFor) -> None:
    """At the level `request_response` both bodies are recorded, redacted."""
    async with running(config_for, policy=Policy(default="request_response")) as run:
        await (await run.client.post("/ok/1?token=hunter2-hunter2", json={"secret": "hunter2-hunter2"})).read()
        await (await run.client.get("/stream")).read()
    _, event, streamed = run.events()
    assert streamed["response_body"] == {
        "content_type": "application/octet-stream",
        "bytes": 1000,
        "left_out": "its content type is not listed in the policy",
    }
    assert event["request_body"]["text"] == ['{"secret":"[redacted:secret]"}']
    assert event["response_body"]["text"] == ['{"password":"[redacted:password]","got":29}']
    assert "hunter2" not in str(event)


async def test_a_client_that_goes_away_is_recorded(config_for: ConfigFor) -> None:
    """A client that closes its connection in the middle of an answer gives one event that says so."""
    async with running(config_for) as run:
        answer = await run.client.get("/endless")
        await answer.content.readexactly(5000)
        answer.close()
        assert run.client.app is not None
        async with asyncio.timeout(60):
            await run.client.app[GONE].wait()
    (event,) = run.events()
    assert (event["outcome"], event["status"]) == ("client_disconnected", 200)


async def test_a_web_socket_is_one_event(config_for: ConfigFor) -> None:
    """At its end, with the client's code; its messages are not counted, and the record does not claim it."""
    async with running(config_for) as run, run.client.ws_connect("/ws") as ws:
        await ws.send_str("hello")
        assert (await ws.receive()).data == "hello"
        await ws.close(code=aiohttp.WSCloseCode.GOING_AWAY)
    (event,) = run.events()
    assert (event["event_type"], event["status"], event["close_code"]) == ("http.websocket_closed", 101, 1001)
    assert "messages_in" not in event


async def test_a_climbing_path_is_an_attack(config_for: ConfigFor) -> None:
    """The path is judged as it came over the wire, before anybody made it harmless."""
    async with running(config_for) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.client.port)
        writer.write(b"GET /ok/%2e%2e%2fetc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
    assert run.events()[-1]["event_type"] == "security.path_traversal_attempt"


async def test_fail_closed_answers_503(config_for: ConfigFor) -> None:
    """While the trail takes nothing, requests are refused before the handler is asked."""

    async def fill(request: web.Request) -> web.Response:
        with pytest.raises(BufferFull):
            while True:
                get_audit(request).emit(Counted(producer="p", n=0))
        answer = await request.app.middlewares[0](request, boom)
        assert isinstance(answer, web.Response)
        return web.json_response({"status": answer.status, "retry": answer.headers["Retry-After"]})

    app = web.Application()
    setup_audit(app, config_for(buffer_events=20), fail_closed=True)
    app.add_routes([web.get("/", fill)])
    async with TestClient(TestServer(app)) as client:
        assert await (await client.get("/")).json() == {"status": 503, "retry": "5"}


async def test_without_the_context_the_error_says_what_to_do() -> None:
    """A middleware without a logger fails with an error that names the remedy."""
    request = aiohttp.test_utils.make_mocked_request("GET", "/", app=web.Application())
    with pytest.raises(ConfigError, match=r"setup_audit\(app, config\)"):
        get_audit(request)
