"""A record says what was observed and no more: who closed a WebSocket, what was answered, what was bound."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Route
from starlette.testclient import TestClient

from audit_async import AuditConfig, AuditLogger, ConfigError, audit_context
from audit_async.integrations.aiohttp import setup_audit
from audit_async.integrations.asgi import AuditedApp, AuditMiddleware, Policy, Rule, Scope, bind_request
from audit_async.integrations.fastapi import Audit
from audit_async.integrations.litestar import AuditPlugin
from audit_async.integrations.starlette import audit_lifespan
from tests.integrations.asgi_client import answering, ask, hello, http_scope, open_trail
from tests.integrations.servers import serving
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

# Web sockets.


async def chat(scope: Scope, receive: Any, send: Any) -> None:
    """Accept, and wait for the end."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "closed_by"),
    [
        (1000, "client"),
        (1001, "client"),
        (3000, "client"),
        (4999, "client"),
        (1002, None),  # a message that breaks the protocol, which the server's own code answers
        (1005, None),  # no code came: a close without one, or a connection that broke
        (1006, None),
        (1009, None),
        (1011, None),  # also a ping without an answer
        (1012, None),  # uvicorn's own end
        (2999, None),
    ],
)
async def test_who_closed_a_web_socket(config_for: ConfigFor, code: int, closed_by: str | None) -> None:
    """A code that a server's own protocol code also reports does not say who closed, so the record does not either."""
    messages = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": code}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    scope = {**http_scope("/ws"), "type": "websocket"}
    async with open_trail(config_for) as trail:
        await AuditMiddleware(chat, trail.audit)(scope, receive, send)
        event = await trail.only()
        assert (event["close_code"], event.get("closed_by")) == (code, closed_by)


SERVICE = """
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from audit_async import AuditConfig, Local
from audit_async.integrations.starlette import AuditMiddleware, audit_lifespan

async def chat(ws):
    await ws.accept()
    async for _ in ws.iter_text():
        pass

config = AuditConfig(mode=Local("audit"), service_id="orders")
app = Starlette(routes=[WebSocketRoute("/ws", chat)], lifespan=audit_lifespan(config))
app.add_middleware(AuditMiddleware)
"""


async def shake_hands(address: str) -> asyncio.StreamWriter:
    """Open a WebSocket by hand."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
    )
    writer.write(f"{head}Sec-WebSocket-Version: 13\r\n\r\n".encode())
    assert b"101" in await reader.readline()
    return writer


@pytest.mark.anyio
async def test_the_end_of_a_server_is_not_the_clients_doing(tmp_path: Path) -> None:
    """A WebSocket that uvicorn ends at its own shutdown, with 1012, was not closed by the client."""
    (tmp_path / "service.py").write_text(SERVICE)
    with serving(tmp_path, ["uvicorn", "service:app", "--port", "0", "--ws", "wsproto"]) as server:
        writer = await shake_hands(server.address)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 60)
        writer.close()
    (event,) = [
        record["event"]
        for record in read_events(tmp_path / "audit/orders/00")
        if record["event"]["event_type"] == "http.websocket_closed"
    ]
    assert (event["status"], event["close_code"], event.get("closed_by")) == (101, 1012, None)
    assert event.get("outcome", "completed") == "completed"


@pytest.mark.anyio
async def test_an_upgrade_header_hides_no_method(config_for: ConfigFor) -> None:
    """A request that only claims to become a WebSocket is recorded, and ruled, by its own method."""

    async def ok(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    policy = Policy([Rule("/admin", methods="POST", level="request")], default="none")
    setup_audit(app, config_for(), policy=policy)
    app.add_routes([web.post("/admin", ok)])
    async with AiohttpClient(TestServer(app)) as client:
        assert (await client.post("/admin", headers={"Upgrade": "websocket"})).status == 200
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    assert [(e["event_type"], e["method"]) for e in events if e["event_type"].startswith("http.")] == [
        ("http.request", "POST")
    ]


# Rate limits.


@pytest.mark.anyio
async def test_a_rate_limit_without_headers_has_no_numbers(config_for: ConfigFor) -> None:
    """What the answer does not state is left out; a zero would be a statement."""
    async with open_trail(config_for) as trail:
        await ask(AuditMiddleware(answering(429), trail.audit), http_scope("/a"))
        event = await trail.only()
        assert event == {"event_type": "security.rate_limit_exceeded", "ip": "198.51.100.7", "endpoint": "/a"}


# The framework's own 500.


def requests(config: AuditConfig) -> list[dict[str, Any]]:
    """Return the records of requests, after a check of the chain."""
    check_trail(log_directory(config))
    return [each for each in read_events(log_directory(config)) if each["event"]["event_type"] == "http.request"]


@pytest.mark.parametrize("app_class", [Starlette, FastAPI])
def test_a_500_carries_the_requests_id(config_for: ConfigFor, app_class: type[Starlette]) -> None:
    """The answer that the framework makes outside all middleware has the id, and the record has it in its context."""

    async def boom(request: Request) -> PlainTextResponse:
        raise LookupError

    app = app_class(lifespan=audit_lifespan(config_for()))
    app.routes.append(Route("/boom", boom))
    app.add_middleware(AuditMiddleware)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/boom", headers={"X-Request-ID": "r-1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "r-1")
    (record,) = requests(config_for())
    event = record["event"]
    assert (event["status"], event["outcome"], event["error"]) == (500, "failed", "LookupError")
    assert (event["bytes_out"], record["context"]["request_id"]) == (len(answer.content), "r-1")


def test_the_status_of_an_error_handler_is_recorded(config_for: ConfigFor) -> None:
    """If the application's own handler answers an exception with another status, that is what the record says."""

    async def boom(request: Request) -> PlainTextResponse:
        raise LookupError

    async def unavailable(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("later", status_code=503)

    app = Starlette(
        routes=[Route("/boom", boom)],
        lifespan=audit_lifespan(config_for()),
        exception_handlers={Exception: unavailable},
    )
    app.add_middleware(AuditMiddleware)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/boom").status_code == 503
    (record,) = requests(config_for())
    assert (record["event"]["status"], record["event"]["outcome"]) == (503, "failed")


@pytest.mark.anyio
async def test_aiohttps_500_carries_the_requests_id(config_for: ConfigFor) -> None:
    """So does the one of aiohttp."""

    async def boom(request: web.Request) -> web.Response:
        raise LookupError

    app = web.Application()
    setup_audit(app, config_for())
    app.add_routes([web.get("/boom", boom)])
    async with AiohttpClient(TestServer(app)) as client:
        answer = await client.get("/boom", headers={"X-Request-ID": "r-1"})
        assert (answer.status, answer.headers["X-Request-ID"]) == (500, "r-1")


# What a dependency binds.


def test_a_def_dependency_binds_for_the_whole_request(config_for: ConfigFor) -> None:
    """What `bind_request` binds in a thread is in the application's events and in the record of the request."""
    app = FastAPI(lifespan=audit_lifespan(config_for()))
    app.add_middleware(AuditMiddleware)

    def tenant(request: HTTPConnection) -> None:
        bind_request(request, tenant=request.headers["x-tenant"])

    @app.get("/", dependencies=[Depends(tenant)])
    async def handler(audit: Audit) -> None:
        audit.emit(Counted(producer="p", n=1))

    with TestClient(app) as client:
        for name in ("acme", "globex"):
            assert client.get("/", headers={"x-tenant": name}).status_code == 200
    records = [each for each in read_events(log_directory(config_for())) if "context" in each]
    assert [each["context"]["tenant"] for each in records] == ["acme", "acme", "globex", "globex"]


def test_a_binding_that_is_lost_is_reported(config_for: ConfigFor, caplog: pytest.LogCaptureFixture) -> None:
    """A `def` dependency that yields inside `audit_context` binds for nobody, and a warning says so and what to do."""
    app = FastAPI(lifespan=audit_lifespan(config_for()))
    app.add_middleware(AuditMiddleware)

    def tenant() -> Iterator[None]:
        with audit_context(tenant="acme"):
            yield

    @app.get("/", dependencies=[Depends(tenant)])
    async def handler(audit: Audit) -> None:
        audit.emit(Counted(producer="p", n=1))

    with TestClient(app) as client:
        assert client.get("/").status_code == 200
    (warning,) = [record.getMessage() for record in caplog.records if "audit_context(tenant)" in record.getMessage()]
    assert "bind_request" in warning


# Mistakes at the front door.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fail_close": True}, "did you mean fail_closed"),
        ({"policy": [Rule(level="none")]}, "put the rules into one"),
        ({"policy": Policy}, "not the class Policy: give an instance"),
        ({"actor": "dana"}, "must be a function"),
        ({"trusted_proxies": "10.0.0.0/8"}, "several texts"),
        ({"trusted_proxies": [10]}, "no address"),
        ({"forwarded_header": "x-real-ip"}, "x-forwarded-for or forwarded"),
        ({"fail_closed": "yes"}, "True or False"),
    ],
)
def test_a_wrong_setting_is_named_where_it_is_made(config_for: ConfigFor, settings: Any, message: str) -> None:
    """Every entrance says which setting is wrong and what to write, before a request comes."""
    audit = AuditLogger(config_for())
    for make in (
        lambda: AuditMiddleware(hello, audit, **settings),
        lambda: AuditedApp(hello, config_for(), **settings),
        lambda: AuditPlugin(config_for(), **settings),
        lambda: setup_audit(web.Application(), config_for(), **settings),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_a_wrong_logger_or_configuration_is_named(config_for: ConfigFor) -> None:
    """A configuration in a logger's place, a logger in a configuration's, a class in an instance's."""
    audit: Any = AuditLogger(config_for())
    wrong: Any = config_for()
    a_class: Any = AuditLogger
    for make, message in (
        (lambda: AuditMiddleware(hello, wrong), "an AuditConfig: open a logger with it"),
        (lambda: AuditMiddleware(hello, a_class), "the class AuditLogger: give an instance"),
        (lambda: AuditMiddleware(audit, audit), "must be an ASGI application"),
        (lambda: audit_lifespan(audit), "audit_lifespan opens the logger itself"),
        (lambda: AuditPlugin(audit), "AuditPlugin opens the logger itself"),
        (lambda: AuditedApp(hello, audit), "AuditedApp opens the logger itself"),
        (lambda: setup_audit(web.Application(), audit), "setup_audit opens the logger itself"),
        (lambda: setup_audit(wrong, wrong), r"takes an aiohttp\.web\.Application"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_policies_show_themselves() -> None:
    """A rule and a policy are shown as they are written."""
    rule = Rule("/a/*", level="request", methods="post", status=range(500, 600), security=False)
    assert repr(rule) == "Rule('/a/*', level='request', methods=['POST'], status=range(500, 600), security=False)"
    assert repr(Policy([Rule("/b", level="none")])).startswith("Policy([Rule('/b', level='none')], default='metadata'")
