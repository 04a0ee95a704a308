"""Starlette and FastAPI themselves: the life span, the dependency, route templates, and their own middleware within."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from audit_async import ConfigError, LogLocked
from audit_async.integrations.fastapi import Audit, AuditMiddleware, audit_lifespan
from audit_async.integrations.starlette import get_audit
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events


def events(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the events of the log, whose chain is checked."""
    directory = log_directory(config_for())
    check_trail(directory)
    return [record["event"] for record in read_events(directory)]


def requests(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the events of requests."""
    return [event for event in events(config_for) if not event["event_type"].startswith("audit.")]


def test_the_logs_life_is_the_applications(config_for: ConfigFor) -> None:
    """The log is open before the application's own life span begins and closed after it ended; states add up."""

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        app.state.audit.emit(Counted(producer="begins", n=1))
        yield {"motto": "say so"}
        app.state.audit.emit(Counted(producer="ends", n=3))

    app = FastAPI(lifespan=audit_lifespan(config_for(), own))

    @app.get("/")
    async def root(request: Request) -> str:
        request.state.audit.emit(Counted(producer="serves", n=2))
        return str(request.state.motto)

    with TestClient(app) as client:
        assert client.get("/").json() == "say so"
    types = [event.get("producer") or event["event_type"] for event in events(config_for)]
    assert types == ["audit.log_opened", "begins", "serves", "ends", "audit.log_closed"]
    assert not hasattr(app.state, "audit")


def test_an_application_can_be_started_again(config_for: ConfigFor) -> None:
    """Each life of an application opens the log anew, as tests and reloaders do."""
    app = FastAPI(lifespan=audit_lifespan(config_for()))
    app.add_middleware(AuditMiddleware)
    for _ in range(2):
        with TestClient(app) as client:
            client.get("/")
    assert [event["event_type"] for event in events(config_for)] == [
        "audit.log_opened",
        "http.request",
        "audit.log_closed",
    ] * 2


def test_a_log_that_can_not_be_opened_stops_the_start(config_for: ConfigFor) -> None:
    """A service that can't keep its trail does not begin to serve."""
    app = FastAPI(lifespan=audit_lifespan(config_for(instance="only")))
    again = FastAPI(lifespan=audit_lifespan(config_for(instance="only")))
    with TestClient(app), pytest.raises(LogLocked), TestClient(again):
        pass


def test_the_dependency_suits_every_kind_of_handler(config_for: ConfigFor) -> None:
    """`async def`, `def`, WebSocket handlers and dependencies get the logger, also within a mounted application."""
    app, mounted = FastAPI(lifespan=audit_lifespan(config_for())), FastAPI()

    @app.get("/async")
    async def on_the_loop(audit: Audit) -> None:
        audit.emit(Counted(producer="async", n=1))

    @app.get("/sync")
    def in_the_thread_pool(audit: Audit) -> None:
        audit.emit(Counted(producer="sync", n=2))

    @app.websocket("/ws")
    async def web_socket(ws: WebSocket, audit: Audit) -> None:
        await ws.accept()
        audit.emit(Counted(producer="ws", n=3))
        await ws.close()

    @mounted.get("/x")
    def below(audit: Audit) -> None:
        audit.emit(Counted(producer="mounted", n=4))

    app.mount("/sub", mounted)
    with TestClient(app) as client:
        assert client.get("/async").status_code == client.get("/sync").status_code == 200
        with client.websocket_connect("/ws"):
            pass
        assert client.get("/sub/x").status_code == 200
    assert [event["producer"] for event in requests(config_for)] == ["async", "sync", "ws", "mounted"]


def test_without_the_life_span_the_dependency_says_what_to_do() -> None:
    """A handler that asks for a logger that nobody opened fails with an error that names the remedy."""
    app = FastAPI()

    @app.get("/")
    async def root(audit: Audit) -> None: ...

    with pytest.raises(ConfigError, match="audit_lifespan"):
        TestClient(app).get("/")


def test_routes_are_recorded_as_templates(config_for: ConfigFor, tmp_path: Path) -> None:
    """Direct routes, included routers at any depth, mounts and files: the template, and no value of a parameter."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    app = FastAPI(lifespan=audit_lifespan(config_for()))
    app.add_middleware(AuditMiddleware)
    inner, outer, mounted = APIRouter(prefix="/inner"), APIRouter(prefix="/outer"), FastAPI()
    for router in (app, inner, outer, mounted):

        @router.get("/{key}/x")
        def handler(key: str) -> str:
            return key

    outer.include_router(inner)
    app.include_router(outer, prefix="/v1")
    app.mount("/sub", mounted)
    app.mount("/files", StaticFiles(directory=tmp_path / "files"))
    expected = {
        "/1/x": "/{key}/x",
        "/v1/outer/2/x": "/v1/outer/{key}/x",
        "/v1/outer/inner/3/x": "/v1/outer/inner/{key}/x",
        "/sub/4/x": "/sub/{key}/x",
        "/files/a.txt": "/files/{path}",
        "/nowhere/at/all": None,
    }
    with TestClient(app) as client:
        for path, route in expected.items():
            assert client.get(path).status_code == (200 if route else 404)
    assert {event["path"]: event.get("route") for event in requests(config_for)} == expected


class Bearers(AuthenticationBackend):
    """Lets in whoever says his name."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Return whom the header names."""
        name = conn.headers.get("authorization", "").removeprefix("Bearer ")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


def test_starlettes_own_middleware_stands_within(config_for: ConfigFor) -> None:
    """Authentication, compression and `BaseHTTPMiddleware` further in work as ever, and what they do is seen."""

    async def page(request: Request) -> Response:
        get_audit(request).emit(Counted(producer=request.user.display_name, n=1))
        return PlainTextResponse("x" * 10_000)

    async def passing(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    app = Starlette(
        routes=[Mount("/m", routes=[Route("/{page}", page)])],
        lifespan=audit_lifespan(config_for()),
        middleware=[
            Middleware(AuditMiddleware),
            Middleware(BaseHTTPMiddleware, dispatch=passing),
            Middleware(GZipMiddleware),
            Middleware(AuthenticationMiddleware, backend=Bearers()),
        ],
    )
    with TestClient(app) as client:
        response = client.get("/m/1", headers={"Authorization": "Bearer alice"})
        assert response.text == "x" * 10_000
    emitted, request = requests(config_for)
    assert emitted["producer"] == "alice"
    assert request["actor"]["user_id"] == "alice"
    assert request["bytes_out"] == int(response.headers["content-length"]) < 1000
    assert request["route"] == "/m/{page}"


def test_a_handler_that_raises_is_answered_and_recorded(config_for: ConfigFor) -> None:
    """The 500 that Starlette answers for an exception is the status of the request's one event."""
    app = FastAPI(lifespan=audit_lifespan(config_for()))
    app.add_middleware(AuditMiddleware)

    @app.get("/boom")
    def boom() -> None:
        raise ZeroDivisionError

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/boom").status_code == 500
    (event,) = requests(config_for)
    assert (event["status"], event["outcome"], event["error"]) == (500, "failed", "ZeroDivisionError")
