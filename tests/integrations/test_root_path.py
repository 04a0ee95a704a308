"""Rules match the path as the application sees it, below a `--root-path` and in mounts; the record keeps both."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from litestar import Litestar, get
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from audit_async import AuditConfig, AuditLogger
from audit_async.integrations._http.exchange import path_in_application
from audit_async.integrations.aiohttp import setup_audit
from audit_async.integrations.asgi import AuditMiddleware, Policy, Rule
from audit_async.integrations.litestar import AuditPlugin
from audit_async.integrations.starlette import audit_lifespan
from tests.integrations.asgi_client import ask, hello, http_scope, open_trail
from tests.integrations.servers import serving
from tests.logs import ConfigFor, log_directory
from tests.trails import check_trail, read_events

#: Nothing of `/health`, the bodies of `/orders`.
POLICY = Policy([Rule("/health", level="none"), Rule("/orders/**", level="request")])


def records(config: AuditConfig) -> list[dict[str, Any]]:
    """Return the records of requests, after a check of the chain."""
    check_trail(log_directory(config))
    return [each for each in read_events(log_directory(config)) if each["event"]["event_type"] == "http.request"]


def seen(config: AuditConfig) -> list[tuple[str, str | None, bool]]:
    """Return of each recorded request its path, its root path, and whether headers are recorded."""
    return [
        (each["event"]["path"], each["context"].get("http_root_path"), "request_headers" in each["event"])
        for each in records(config)
    ]


async def answer(request: Request) -> JSONResponse:
    """Answer with the path."""
    return JSONResponse({"path": request.url.path})


ROUTES = [Route("/health", answer), Route("/orders/{n}", answer), Route("/other", answer)]


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/health", "", "/health"),
        ("/api/health", "/api", "/health"),
        ("/api/health", "/api/", "/health"),
        ("/api", "/api", "/"),
        ("/api/", "/api", "/"),
        ("/health", "/api", "/health"),  # a proxy has cut it off, and the server has not put it back
        ("/apix/health", "/api", "/apix/health"),
        ("/api/v1/health", "/api/v1", "/health"),
        ("/a/b/c", "/a/b/c/d", "/a/b/c"),
    ],
)
def test_the_path_that_an_application_sees(path: str, root_path: str, expected: str) -> None:
    """A prefix counts as a whole number of segments, and only if the path has it."""
    assert path_in_application(path, root_path) == expected


SERVICE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from audit_async import AuditConfig, Local
from audit_async.integrations.starlette import AuditMiddleware, Policy, Rule, audit_lifespan

async def answer(request):
    return PlainTextResponse("ok")

config = AuditConfig(mode=Local("audit"), service_id="orders")
routes = [Route("/health", answer), Route("/orders/{n}", answer), Route("/other", answer)]
app = Starlette(routes=routes, lifespan=audit_lifespan(config))
policy = Policy([Rule("/health", level="none"), Rule("/orders/**", level="request")])
app.add_middleware(AuditMiddleware, policy=policy)
"""


def test_uvicorn_behind_a_proxy_that_cuts_the_prefix_off(tmp_path: Path) -> None:
    """With `uvicorn --root-path /api` the rules hold as without it, and the record keeps both paths."""
    (tmp_path / "service.py").write_text(SERVICE)
    command = ["uvicorn", "service:app", "--port", "0", "--root-path", "/api"]
    with serving(tmp_path, command) as server, server.asking() as client:
        assert [client.get(path).status_code for path in ("/health", "/orders/7", "/other")] == [200, 200, 200]
        server.stop(15)
    requests = [r for r in read_events(tmp_path / "audit/orders/00") if r["event"]["event_type"] == "http.request"]
    assert [(r["event"]["path"], r["context"]["http_root_path"]) for r in requests] == [
        ("/api/orders/7", "/api"),
        ("/api/other", "/api"),
    ]
    assert ["request_headers" in r["event"] for r in requests] == [True, False]
    assert [r["event"]["route"] for r in requests] == ["/api/orders/{n}", "/api/other"]


@pytest.fixture(params=["starlette", "fastapi"])
def app_class(request: pytest.FixtureRequest) -> type[Starlette]:
    """Both frameworks."""
    return {"starlette": Starlette, "fastapi": FastAPI}[request.param]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
def test_fastapi_with_a_root_path_of_its_own(config_for: ConfigFor) -> None:
    """`FastAPI(root_path=...)` sets the prefix inside; the path comes without it, and rules match all the same."""
    app = FastAPI(root_path="/api", lifespan=audit_lifespan(config_for()))
    app.add_middleware(AuditMiddleware, policy=POLICY)
    app.routes.extend(ROUTES)
    with TestClient(app) as client:
        for path in ("/health", "/orders/7", "/other"):
            assert client.get(path).status_code == 200
    assert seen(config_for()) == [("/orders/7", "/api", True), ("/other", "/api", False)]


def test_a_middleware_inside_of_nested_mounts(config_for: ConfigFor, app_class: type[Starlette]) -> None:
    """A middleware of a mounted application matches the paths of that application, however deep it is mounted."""

    def finder(scope: Any) -> AuditLogger:
        return outer.state.audit  # type: ignore[no-any-return]

    shop = Starlette(routes=ROUTES, middleware=[Middleware(AuditMiddleware, audit=finder, policy=POLICY)])
    region = Starlette(routes=[Mount("/shop", app=shop)])
    outer = app_class(lifespan=audit_lifespan(config_for()))
    outer.mount("/{region}", region)
    with TestClient(outer) as client:
        for path in ("/eu/shop/health", "/eu/shop/orders/7", "/eu/shop/other"):
            assert client.get(path).status_code == 200, path
    assert seen(config_for()) == [
        ("/eu/shop/orders/7", "/eu/shop", True),
        ("/eu/shop/other", "/eu/shop", False),
    ]


def test_a_middleware_outside_of_mounts(config_for: ConfigFor, app_class: type[Starlette]) -> None:
    """A middleware of the outer application matches the whole path, as the outer application sees it."""
    policy = Policy([Rule("/shop/health", level="none"), Rule("/orders/**", level="request")])
    outer = app_class(lifespan=audit_lifespan(config_for()))
    outer.add_middleware(AuditMiddleware, policy=policy)
    outer.mount("/shop", Starlette(routes=ROUTES))
    with TestClient(outer) as client:
        for path in ("/shop/health", "/shop/orders/7"):
            assert client.get(path).status_code == 200
    assert seen(config_for()) == [("/shop/orders/7", None, False)]


def test_litestar_below_a_root_path(config_for: ConfigFor) -> None:
    """The plugin's rules hold below a root path as without it."""

    @get("/health")
    async def health() -> str:
        return "ok"

    @get("/orders/7")
    async def order() -> str:
        return "ok"

    app = Litestar([health, order], plugins=[AuditPlugin(config_for(), policy=POLICY)])
    with LitestarClient(app, root_path="/api") as client:
        for path in ("/health", "/orders/7"):
            assert client.get(path).status_code == 200
    assert [(path.removeprefix("/api"), root, kept) for path, root, kept in seen(config_for())] == [
        ("/orders/7", "/api", True)
    ]


@pytest.mark.anyio
async def test_aiohttp_sub_applications(config_for: ConfigFor) -> None:
    """The rules of a sub-application match its own paths, and those of nested ones theirs."""

    async def ok(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    shop, region, outer = web.Application(), web.Application(), web.Application()
    setup_audit(shop, config_for(), policy=POLICY)
    shop.add_routes([web.get("/health", ok), web.get("/orders/{n}", ok)])
    region.add_subapp("/shop", shop)
    outer.add_subapp("/eu", region)
    outer.add_routes([web.get("/health", ok)])
    async with AiohttpClient(TestServer(outer)) as client:
        for path in ("/health", "/eu/shop/health", "/eu/shop/orders/7"):
            assert (await client.get(path)).status == 200
    assert seen(config_for()) == [("/eu/shop/orders/7", "/eu/shop", True)]


@pytest.mark.anyio
async def test_a_rule_that_names_the_prefix_is_reported(
    config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    """A rule written for the public path can never match; that is logged once, with the rule and the reason."""
    policy = Policy([Rule("/api/health", level="none")])
    async with open_trail(config_for) as trail:
        app = AuditMiddleware(hello, trail.audit, policy=policy)
        for _ in range(3):
            await ask(app, http_scope("/api/health", root_path="/api"))
        assert len(await trail.events()) == 3
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "Rule('/api/health', level='none') does not match" in warning.getMessage()
        assert "below '/api'" in warning.getMessage()
