"""One actor for the middleware and the application: a search by name finds every record of a person."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer
from fastapi import FastAPI, Request
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.testing import TestClient as LitestarClient
from starlette.testclient import TestClient
from typer.testing import CliRunner

from audit_async import ActorInfo, AuditConfig, AuditEvent, ConfigError
from audit_async.cli.app import command_line
from audit_async.integrations import aiohttp as audit_aiohttp
from audit_async.integrations import litestar as audit_litestar
from audit_async.integrations._http.actor import identity_of
from audit_async.integrations.asgi import AuditMiddleware as AsgiMiddleware
from audit_async.integrations.asgi import Scope, actor_of, session_actor
from audit_async.integrations.fastapi import Actor, Audit, AuditMiddleware, audit_lifespan
from tests.integrations.asgi_client import JSON_ANSWER, ask, http_scope, open_trail
from tests.logs import ConfigFor, log_directory
from tests.trails import check_trail


class OrderShipped(AuditEvent, tag="test.order_shipped"):
    """An event of the application's own."""

    actor: ActorInfo


REQUESTS = 8
EVERY = 2 * REQUESTS


class User:
    """A user as an object-relational mapper has them: a number for the database, and a name for people."""

    is_authenticated = True
    id = 17
    username = "alice"


class Authentication:
    """An authentication that runs inside of the audit middleware, as one of the application's own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let everybody in as alice."""
        scope["user"] = User()
        await self.app(scope, receive, send)


def found_by_name(config: AuditConfig) -> int:
    """Return how many records the command line finds for `--actor alice`."""
    check_trail(log_directory(config))
    base = log_directory(config).parents[1]
    done = CliRunner().invoke(command_line("query"), ["query", str(base), "--actor", "alice", "--json"])
    return len([line for line in done.stdout.splitlines() if line.startswith("{")])


def test_fastapi_names_the_same_actor_everywhere(config_for: ConfigFor) -> None:
    """By the parameter, by the function, in `def` and in `async def`: 16 of 16 records are found by the name."""
    app = FastAPI(lifespan=audit_lifespan(config_for()))
    app.add_middleware(Authentication)
    app.add_middleware(AuditMiddleware)

    @app.get("/parameter")
    def by_parameter(audit: Audit, actor: Actor) -> None:
        audit.emit(OrderShipped(actor=actor))

    @app.get("/function")
    async def by_function(request: Request, audit: Audit) -> None:
        audit.emit(OrderShipped(actor=actor_of(request)))

    with TestClient(app) as client:
        for n in range(REQUESTS):
            assert client.get(("/parameter", "/function")[n % 2]).status_code == 200
    assert found_by_name(config_for()) == EVERY


def test_litestar_names_the_same_actor_everywhere(config_for: ConfigFor) -> None:
    """So do the plugin and its function."""

    @litestar_get("/")
    async def ship(request: LitestarRequest[Any, Any, Any]) -> None:
        audit_litestar.get_audit(request.app.state).emit(OrderShipped(actor=audit_litestar.actor_of(request)))

    def hook(scope: Scope) -> str:
        return User.username

    app = Litestar([ship], plugins=[audit_litestar.AuditPlugin(config_for(), actor=hook)])
    with LitestarClient(app) as client:
        for _ in range(REQUESTS):
            assert client.get("/").status_code == 200
    assert found_by_name(config_for()) == EVERY


@pytest.mark.anyio
async def test_aiohttp_names_the_same_actor_everywhere(config_for: ConfigFor) -> None:
    """So do aiohttp's middleware and its function."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        request[USER] = User()
        answer: web.StreamResponse = await handler(request)
        return answer

    async def ship(request: web.Request) -> web.Response:
        audit_aiohttp.get_audit(request).emit(OrderShipped(actor=audit_aiohttp.actor_of(request)))
        return web.Response()

    app = web.Application(middlewares=[authenticate])
    audit_aiohttp.setup_audit(app, config_for(), actor=lambda request: identity_of(request.get(USER)))
    app.add_routes([web.get("/", ship)])
    async with AiohttpClient(TestServer(app)) as client:
        for _ in range(REQUESTS):
            assert (await client.get("/")).status == 200
    assert await anyio.to_thread.run_sync(found_by_name, config_for()) == EVERY


USER = "user"
if hasattr(web, "RequestKey"):
    USER = web.RequestKey("user", object)  # type: ignore[assignment]  # what the newer releases ask for


@pytest.mark.anyio
@pytest.mark.parametrize("hook", [None, session_actor("uid"), lambda scope: ActorInfo(user_id="x", tenant="acme")])
async def test_it_is_the_actor_of_the_record(config_for: ConfigFor, hook: Any) -> None:
    """With each hook, behind a proxy, the application gets what the record of the request has."""
    given: list[ActorInfo] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["user"], scope["session"] = User(), {"uid": "u-1"}
        given.append(actor_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": JSON_ANSWER})
        await send({"type": "http.response.body", "body": b"{}"})

    async with open_trail(config_for) as trail:
        middleware = AsgiMiddleware(app, trail.audit, actor=hook, trusted_proxies=["198.51.100.7"])
        await ask(middleware, http_scope(headers=[("X-Forwarded-For", "203.0.113.9"), ("X-API-Key", "k")]))
        recorded = (await trail.only())["actor"]
        assert recorded["ip"] == "203.0.113.9"
        (actor,) = given
        assert recorded == {name: value for name, value in vars_of(actor).items() if value is not None}


def vars_of(actor: ActorInfo) -> dict[str, Any]:
    """Return the members of an actor."""
    return {name: getattr(actor, name) for name in actor.__struct_fields__}


@pytest.mark.anyio
async def test_who_is_not_authenticated_is_anonymous(config_for: ConfigFor) -> None:
    """The application's events need an actor; that nobody is authenticated is stated, and no method is invented."""
    given: list[ActorInfo] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        given.append(actor_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": JSON_ANSWER})
        await send({"type": "http.response.body", "body": b"{}"})

    async with open_trail(config_for) as trail:
        headers = [("Cookie", "theme=dark"), ("Authorization", "Bearer made-up")]
        await ask(AsgiMiddleware(app, trail.audit), http_scope(headers=headers))
        assert "actor" not in await trail.only()
    assert given == [ActorInfo(user_id="anonymous", ip="198.51.100.7")]
    assert actor_of(http_scope()) == ActorInfo(user_id="anonymous", ip="198.51.100.7")  # without a middleware


def test_aiohttp_without_the_middleware_says_what_to_do() -> None:
    """A request that no middleware has seen has no actor to give."""
    request = web.Request.__new__(web.Request)
    request._state = {}
    with pytest.raises(ConfigError, match=r"setup_audit\(app, config\)"):
        audit_aiohttp.actor_of(request)


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ({"sub": "auth0|7", "email": "a@example.org"}, "auth0|7"),
        ({"username": "alice", "id": 17, "sub": "x"}, "alice"),
        (User(), "alice"),
        ("alice", "alice"),
        (17, "17"),
        ("", None),
        (None, None),
        (object(), None),
        (True, None),
    ],
)
def test_the_order_of_names_is_the_documented_one(user: object, name: str | None) -> None:
    """The name comes before the key of a database."""
    assert identity_of(user) == name
