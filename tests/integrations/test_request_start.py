"""A rule can have the start of a request recorded: one that kills its worker is in the trail, too."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer

from audit_async import AuditLogger, ConfigError
from audit_async._store.log_store import LogStore
from audit_async.integrations.aiohttp import setup_audit
from audit_async.integrations.asgi import AuditMiddleware, Policy, Rule, Scope
from tests.integrations.asgi_client import ask, hello, http_scope, open_trail
from tests.integrations.servers import serving
from tests.logs import ConfigFor, log_directory
from tests.trails import check_trail, read_events

SERVICE = """
import os, signal
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from audit_async import AuditConfig, Batched, Local
from audit_async.integrations.starlette import AuditMiddleware, Policy, Rule, audit_lifespan

async def kill(request):
    os.kill(os.getpid(), signal.SIGKILL)

async def ok(request):
    return PlainTextResponse("ok")

config = AuditConfig(mode=Local("audit"), service_id="orders", flush_mode=Batched(size=1000, interval=60))
app = Starlette(routes=[Route("/kill", kill), Route("/ok", ok)], lifespan=audit_lifespan(config))
app.add_middleware(AuditMiddleware, policy=Policy([Rule("/kill", level="metadata", begin=True)]))
"""


def test_a_request_that_kills_its_worker_is_in_the_trail(tmp_path: Path) -> None:
    """Its start is durable before the handler is asked, whatever the flush mode, with the id that the client sent."""
    (tmp_path / "service.py").write_text(SERVICE)
    with serving(tmp_path, ["uvicorn", "service:app", "--port", "0"]) as server:
        with server.asking(headers={"X-Request-ID": "r-1"}) as client:
            assert client.get("/ok").status_code == 200
            with pytest.raises(httpx.TransportError):
                client.get("/kill")
        assert server.process.wait(timeout=60) == -signal.SIGKILL
    records = read_events(tmp_path / "audit/orders/00")
    last = records[-1]
    assert last["event"]["event_type"] == "http.request_started"
    assert (last["event"]["method"], last["event"]["path"], last["context"]["request_id"]) == ("GET", "/kill", "r-1")
    assert [r["event"]["event_type"] for r in records] == ["audit.log_opened", "http.request", "http.request_started"]


@pytest.mark.anyio
async def test_start_and_end_have_the_same_request_id(config_for: ConfigFor) -> None:
    """Both records are there and joined; nobody is named at the start, since nobody has been authenticated yet."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["user"] = "dana"
        await hello(scope, receive, send)

    async with open_trail(config_for) as trail:
        middleware = AuditMiddleware(app, trail.audit, policy=Policy([Rule("/a", level="metadata", begin=True)]))
        await ask(middleware, http_scope("/a"))
        await ask(middleware, http_scope("/b"))
        started, ended, _ = await trail.records()
        assert [r["event"]["event_type"] for r in (started, ended)] == ["http.request_started", "http.request"]
        assert started["context"]["request_id"] == ended["context"]["request_id"]
        assert "actor" not in started["event"]
        assert ended["event"]["actor"]["user_id"] == "dana"


@pytest.mark.anyio
async def test_a_start_that_cannot_be_recorded(config_for: ConfigFor) -> None:
    """On a closed log the request is served and both losses are counted; with `fail_closed` it never comes so far."""
    audit = AuditLogger(config_for())
    policy = Policy([Rule(level="metadata", begin=True)])
    app = AuditMiddleware(hello, audit, policy=policy)
    assert (await ask(app, http_scope())).status == 200
    assert audit.stats().dropped_by_type == {"http.request_started": 1, "http.request": 1}
    assert (await ask(AuditMiddleware(hello, audit, policy=policy, fail_closed=True), http_scope())).status == 503


@pytest.mark.anyio
@pytest.mark.parametrize(("fail_closed", "status"), [(False, 200), (True, 503)])
async def test_a_disk_that_hangs_keeps_no_request_waiting(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, fail_closed: bool, status: int
) -> None:
    """A request waits for its start for a bounded time, then it is served, or with `fail_closed` refused."""
    monkeypatch.setattr("audit_async.integrations._http.recorder._START_TIMEOUT_S", 0.05)
    hanging, ready = True, Event()
    commit = LogStore.commit

    def slow(self: LogStore, batch: Any, *, sync: bool) -> Any:
        while hanging:
            ready.wait(0.01)
        return commit(self, batch, sync=sync)

    async with open_trail(config_for) as trail:
        await trail.audit.flush()
        monkeypatch.setattr(LogStore, "commit", slow)
        policy = Policy([Rule(level="metadata", begin=True)])
        app = AuditMiddleware(hello, trail.audit, policy=policy, fail_closed=fail_closed)
        try:
            assert (await ask(app, http_scope())).status == status
        finally:
            hanging = False
        expected = ["http.request_started"] if fail_closed else ["http.request_started", "http.request"]
        assert [event["event_type"] for event in await trail.events()] == expected


@pytest.mark.anyio
async def test_aiohttp_records_the_start_as_well(config_for: ConfigFor) -> None:
    """The same rule, the same two records."""

    async def ok(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    setup_audit(app, config_for(), policy=Policy([Rule(level="metadata", begin=True)]))
    app.add_routes([web.get("/", ok)])
    async with AiohttpClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 200
    check_trail(log_directory(config_for()))
    kinds = [record["event"]["event_type"] for record in read_events(log_directory(config_for()))]
    assert kinds == ["audit.log_opened", "http.request_started", "http.request", "audit.log_closed"]


def test_a_start_knows_no_status() -> None:
    """A rule that can't be decided at the start, or that drops the end, is refused with the reason."""
    with pytest.raises(ConfigError, match=r"rule\.begin: can't be combined with status"):
        Rule(level="metadata", begin=True, status=500)
    with pytest.raises(ConfigError, match=r"rule\.begin: needs a level"):
        Rule(level="none", begin=True)
