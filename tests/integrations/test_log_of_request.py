"""The log and the actor of the moment inside requests, and FastAPI's overrides, which the middleware heeds as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

import audit_async
from audit_async import AuditConfig, AuditLogger, ConfigError, Disabled, current_actor, set_audit
from audit_async.ambient import AnyLogger
from audit_async.events import HttpRequest
from audit_async.integrations import fastapi as integration
from audit_async.integrations.aiohttp import setup_audit
from audit_async.integrations.fastapi import Audit, AuditMiddleware, audit_lifespan
from audit_async.testing import AuditTrail
from tests.logs import ConfigFor, Counted
from tests.trails import read_events


def emit_by_domain_code() -> None:
    """Record something far below the framework."""
    actor = current_actor()
    assert actor is not None
    audit_async.get_audit().emit(Counted(producer=actor.user_id, n=0))


def application(config: AuditConfig) -> FastAPI:
    """Return an application whose configuration is made with it, as most are."""
    app = FastAPI(lifespan=audit_lifespan(config))
    app.add_middleware(AuditMiddleware)

    @app.middleware("http")
    async def log_in(request: Request, call_next: Any) -> Any:
        request.state.user = request.headers.get("x-user")
        return await call_next(request)

    @app.get("/async")
    async def handle_async() -> None:
        emit_by_domain_code()

    @app.get("/sync")
    def handle_sync() -> None:
        emit_by_domain_code()

    @app.get("/parameter")
    def handle_parameter(audit: Audit) -> None:
        audit.emit(Counted(producer="parameter", n=0))

    @app.get("/ambient")
    def handle_ambient(audit: AnyLogger = Depends(audit_async.get_audit)) -> None:  # noqa: B008 - FastAPI's way
        audit.emit(Counted(producer="ambient", n=0))

    return app


def test_code_below_a_handler_finds_the_log_and_the_actor(config_for: ConfigFor, tmp_path: Path) -> None:
    """In `async def` and `def` handlers; outside of requests nothing is set."""
    with TestClient(application(config_for())) as client:
        for path in ("/async", "/sync"):
            assert client.get(path, headers={"x-user": "dana"}).status_code == 200
        assert client.get("/sync").status_code == 200
        assert client.get("/ambient").status_code == 200
        assert current_actor() is None
        with pytest.raises(ConfigError):
            audit_async.get_audit()
    records = [r for r in read_events(tmp_path / "audit") if r["event"]["event_type"] == Counted.__struct_config__.tag]
    assert [record["event"]["producer"] for record in records] == ["dana", "dana", "anonymous", "ambient"]
    assert all(record["context"]["request_id"] for record in records)


Override = Callable[[AuditTrail], Callable[..., object]]


def returning(trail: AuditTrail) -> Callable[..., object]:
    """Return an override as most write it."""
    return lambda: trail.audit


def awaited(trail: AuditTrail) -> Callable[..., object]:
    """Return an asynchronous override."""

    async def override() -> AuditLogger:
        await anyio.lowlevel.checkpoint()
        return trail.audit

    return override


def of_request(trail: AuditTrail) -> Callable[..., object]:
    """Return an override that asks for the request."""

    def override(request: Request) -> AuditLogger:
        assert request.url.path
        return trail.audit

    return override


@pytest.mark.parametrize("override", [returning, awaited, of_request])
@pytest.mark.parametrize("dependency", [integration.get_audit, audit_async.get_audit], ids=["fastapi", "ambient"])
def test_an_override_reaches_the_middleware(
    config_for: ConfigFor, tmp_path: Path, override: Override, dependency: Callable[..., object]
) -> None:
    """The record of the request, and what domain code emits, go where the handler's events go."""
    app = application(config_for())
    with AuditTrail(tmp_path / "test") as trail:
        app.dependency_overrides[dependency] = override(trail)
        with TestClient(app) as client:
            assert client.get("/sync").status_code == 200
        trail.assert_recorded(HttpRequest, path="/sync")
        trail.assert_recorded(Counted, producer="anonymous")
    own = [record["event"]["event_type"] for record in read_events(tmp_path / "audit")]
    assert own == ["audit.log_opened", "audit.log_closed"]


def test_an_override_reaches_a_middleware_around_the_application(config_for: ConfigFor, tmp_path: Path) -> None:
    """Also if it is not one that the application knows of."""
    app = FastAPI(lifespan=audit_lifespan(config_for()))
    with AuditTrail(tmp_path / "test") as trail:
        app.dependency_overrides[integration.get_audit] = lambda: trail.audit
        TestClient(AuditMiddleware(app)).get("/nowhere")
        trail.assert_recorded(HttpRequest, path="/nowhere", status=404)


def yielding() -> Iterator[AuditLogger]:
    """Be an override that the middleware can't use."""
    yield AuditLogger(AuditConfig(mode=Disabled()))


async def yielding_later() -> AsyncIterator[AuditLogger]:
    """Be another one."""
    yield AuditLogger(AuditConfig(mode=Disabled()))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        (yielding, "the override of get_audit yields"),
        (yielding_later, "the override of get_audit yields"),
        (str, "must return an AuditLogger, which the middleware uses as well, not a str"),
        (lambda one, two: None, "takes at most the connection or request"),
    ],
)
def test_an_override_that_the_middleware_cannot_use_says_so(
    config_for: ConfigFor, override: Callable[..., object], why: str
) -> None:
    """A test that overrides learns it at its first request."""
    app = application(config_for())
    app.dependency_overrides[integration.get_audit] = override
    with TestClient(app) as client, pytest.raises(ConfigError, match=why):
        client.get("/sync")


def test_without_a_life_span_the_log_of_the_process_is_used(tmp_path: Path) -> None:
    """A middleware that is given none, and finds none, asks `get_audit()`."""
    app = FastAPI()
    app.add_middleware(AuditMiddleware)
    with pytest.raises(ConfigError, match="there is no audit logger in this application"):
        TestClient(app).get("/nowhere")
    with AuditTrail(tmp_path) as trail:
        set_audit(trail.audit)
        TestClient(app).get("/nowhere")
        trail.assert_recorded(HttpRequest, path="/nowhere")


@pytest.mark.anyio
async def test_code_below_a_handler_of_aiohttp_finds_them_as_well(config_for: ConfigFor, tmp_path: Path) -> None:
    """The same for aiohttp's own middleware."""
    app = web.Application()
    setup_audit(app, config_for(), actor=lambda request: "dana")

    async def handle(request: web.Request) -> web.Response:
        emit_by_domain_code()
        return web.Response()

    app.router.add_get("/", handle)
    async with AiohttpClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 200
    assert any(record["event"].get("producer") == "dana" for record in read_events(tmp_path / "audit"))
