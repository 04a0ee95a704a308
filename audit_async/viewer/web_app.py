"""`viewer`: the application, put together so that no route is reached without its checks."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from audit_async._layout.age_files import Identities
from audit_async.config import AuditConfig, RetentionPolicy
from audit_async.events import ActorInfo, AuthorizationDenied, ResourceInfo
from audit_async.viewer.downloads import download_routes
from audit_async.viewer.embed_links import EmbedLinks, LinkRefused, require_public_url
from audit_async.viewer.entrance import Entrance, SignIn
from audit_async.viewer.error_pages import EXCEPTION_HANDLERS
from audit_async.viewer.pages import page_routes, static_app
from audit_async.viewer.people import NotPermitted, Person
from audit_async.viewer.permissions import ROUTE_PERMISSIONS
from audit_async.viewer.request_checks import LOOPBACK_HOSTS, RequestChecks, is_same_origin
from audit_async.viewer.request_limits import Bounds, RateLimit, ViewLimits
from audit_async.viewer.response_headers import ResponseHeaders
from audit_async.viewer.role_file import Roles
from audit_async.viewer.scoped_reader import ScopedReader, Trail
from audit_async.viewer.sign_in_routes import SignInRoutes
from audit_async.viewer.token_sign_in import TokenSignIn
from audit_async.viewer.view_log import ViewLog
from audit_async.viewer.viewing import Viewing, form_of, link_to, root_of

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore  # needs an extra
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = ["Viewer", "viewer"]

_Endpoint = Callable[[Request], Awaitable[Response]]


class Viewer:
    """The ASGI application. Run it by itself, or mount it; `async with` it, or `aclose` it, to close its log."""

    def __init__(self, checked: ASGIApp, app: Starlette, trail: Trail) -> None:
        self._checked: Final = checked
        self._app: Final = app
        self._trail: Final = trail
        self._view_log: Final = trail.view_log

    def __repr__(self) -> str:
        return f"<Viewer {self._view_log!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or take part in the life span of a server."""
        if scope["type"] == "http":
            await self._checked(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # it has none

    async def __aenter__(self) -> Self:
        await self._view_log.opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Drain and close the log of who has looked; it opens again if somebody looks again."""
        await self._view_log.close()


def viewer(
    base_dir: str | os.PathLike[str],
    *,
    sign_in: SignIn,
    roles: Roles | None = None,
    embed: EmbedLinks | None = None,
    access_log: AuditConfig | str | os.PathLike[str] | None = None,
    hosts: Sequence[str] | None = None,
    public_url: str | None = None,
    limits: ViewLimits = ViewLimits(),  # noqa: B008 - frozen
    tenant_label: str = "tenant",
    key_store: KeyStore | None = None,
    identities: Identities | None = None,
    policy: Policy | None = None,
    retention: RetentionPolicy | None = None,
) -> Viewer:
    """Return the viewer of a trail: an ASGI application to mount, or to run by itself.

    It only reads. Each search and each record that is shown is recorded, as `audit.log_accessed`, in a log of the
    service `audit-view`, and is durable before it is shown; if it can't be recorded, nothing is shown.

    Args:
        base_dir: The base directory that the services were configured with, or a directory below it.
        sign_in: How people are known: `TokenSignIn`, `ProxySignIn`, `OidcSignIn`, or a function of the request that
            returns a `Person`, None for nobody; it may be async.
        roles: Who has which role, unless `sign_in` says it itself.
        embed: Which links show the records of one tenant in a frame of another site; None for none.
        access_log: Where it is recorded who has looked: a base directory, or a whole configuration; by default the
            trail's own base directory.
        hosts: The names that are served, as in the header Host. By default, with a token, the names of the loopback
            device, else any: whoever mounts the viewer or proxies to it checks them.
        public_url: The URL under which browsers reach the viewer, if a proxy is between; its host is served.
        limits: What the web may cost.
        tenant_label: The name in a record's context that says which tenant it is of.
        key_store: Where the keys of sealed members are; they are shown in the clear then, and who looks at what is
            sealed with it, unless `access_log` is a whole configuration. It is closed after the viewer.
        identities: What encrypted archives are opened with.
        policy: Whose signatures count.
        retention: The policy of the services, of which the page of holds then shows what is due next.

    Raises:
        ConfigError: The arguments contradict each other.
    """
    public = require_public_url("public_url", public_url) if public_url is not None else None
    https = public is not None and public.scheme == "https"
    entrance = Entrance(sign_in, roles, https=https)
    place = access_log if access_log is None or isinstance(access_log, AuditConfig) else Path(access_log)
    view_log = ViewLog(Path(base_dir), place, key_store)
    trail = Trail(
        base_dir=Path(base_dir),
        view_log=view_log,
        bounds=Bounds(limits),
        tenant_label=tenant_label,
        key_store=key_store,
        identities=identities,
    )
    attempts = RateLimit(limits.sign_ins_per_min / 60, max(1, int(limits.sign_ins_per_min)))
    guard = _Guard(trail, entrance, policy, retention)
    routes = [*SignInRoutes(entrance, view_log, attempts).routes(), *_routes(guard, embed)]
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS, lifespan=_closing(view_log))
    # Around all of it, so that also the answer to a failure of the application carries the headers.
    checked = RequestChecks(
        app,
        hosts=_served(hosts, public.hostname if public is not None else None, sign_in),
        rate=RateLimit(limits.requests_per_s, max(1, int(2 * limits.requests_per_s))),
        rate_key=entrance.rate_key,
    )
    origins = embed.origins if embed is not None else ()
    return Viewer(ResponseHeaders(checked, embed_origins=origins, https=https), app, trail)


def _routes(guard: _Guard, embed: EmbedLinks | None) -> list[BaseRoute]:
    """Return the pages with the guard in front of each, and, if there are links to embed, once more for those."""
    pages = [*download_routes(), *page_routes()]
    routes: list[BaseRoute] = [Mount("/static", static_app(), name="static"), *guard.guarded(pages)]
    if embed is not None:
        framed = [Mount("/static", static_app()), *guard.guarded(pages, embed)]
        routes.append(Mount("/embed/{ticket}", routes=framed, name="embed"))
    return routes


def _closing(view_log: ViewLog) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Return the life span of an application that opens the log at its start, and closes it at its end."""

    @asynccontextmanager
    async def life_span(_: Starlette) -> AsyncGenerator[None, None]:
        await view_log.opened()
        try:
            yield
        finally:
            await view_log.close()

    return life_span


def _served(hosts: Sequence[str] | None, public: str | None, sign_in: SignIn) -> Sequence[str] | None:
    """Return the names of hosts that are served; None for any."""
    if hosts is None and public is None:
        return LOOPBACK_HOSTS if isinstance(sign_in, TokenSignIn) else None
    return (*(hosts or ()), *((public,) if public is not None else ()))


#: Routes whose answers have no end, or cost as much without their content.
_WITHOUT_HEAD: Final = frozenset({"download", "stream"})


class _Guard:
    """Lets a person with the permission to a page, and gives it a reader that is narrowed to what they may see."""

    def __init__(
        self, trail: Trail, entrance: Entrance, policy: Policy | None, retention: RetentionPolicy | None
    ) -> None:
        self._trail: Final = trail
        self._entrance: Final = entrance
        self._policy: Final = policy
        self._retention: Final = retention

    def guarded(self, routes: Sequence[Route], embed: EmbedLinks | None = None) -> list[Route]:
        """Return the routes with the guard in front of each; with `embed` for whoever has such a link, and reads."""
        guarded = []
        for route in routes:
            if embed is None or "POST" not in (route.methods or ()):
                own = Route(route.path, self._in_front_of(route, embed), methods=["GET"], name=route.name)
                own.methods = (route.methods or set()) - ({"HEAD"} if route.name in _WITHOUT_HEAD else set())
                guarded.append(own)
        return guarded

    def _in_front_of(self, route: Route, embed: EmbedLinks | None) -> _Endpoint:
        endpoint: _Endpoint = route.endpoint

        async def view(request: Request) -> Response:
            ticket = request.path_params.pop("ticket") if embed is not None else ""

            async def who(*, is_use: bool) -> Person | None:
                if embed is not None:  # a cookie does not count there: the frame is another site's
                    return embed.person_of(ticket)
                return await self._entrance.person_of(request, is_use=is_use)

            async def is_still_let_in() -> bool:
                with suppress(LinkRefused):  # it has expired meanwhile
                    return await who(is_use=False) == person
                return False

            person = await who(is_use=True)
            if person is None:
                return self._to_sign_in(request)
            await self._require(request, person, route.name)
            request.state.viewing = self._viewing(request, person, is_still_let_in)
            return await endpoint(request)

        return view

    def _to_sign_in(self, request: Request) -> Response:
        if request.method == "POST" or not self._entrance.methods:
            raise HTTPException(401, "You are not signed in.")
        here = quote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(link_to(root_of(request), "/sign-in", {"next": here}), 303)

    async def _require(self, request: Request, person: Person, name: str) -> None:
        """Raise unless a person may use a route, and a form is the person's own."""
        try:
            if name not in ROUTE_PERMISSIONS:
                raise NotPermitted("this page has no permission that allows it")
            permission = ROUTE_PERMISSIONS[name]
            if permission is not None:
                person.require(permission)
        except NotPermitted as refusal:
            await self._record_refusal(person, name, str(refusal))
            raise
        if request.method == "POST":
            form = await form_of(request)
            is_own = self._entrance.is_csrf_token(request, person, form.get("csrf_token", ""))
            if not is_own or not is_same_origin(request, https=self._entrance.https):
                raise HTTPException(403, "The form is out of date, or of another site. Load the page again.")

    async def _record_refusal(self, person: Person, name: str, reason: str) -> None:
        await self._trail.view_log.record(
            AuthorizationDenied(
                actor=ActorInfo(user_id=person.name, role=person.role),
                resource=ResourceInfo(resource_type="viewer_page", resource_id=name),
                action="view",
                reason=reason,
            )
        )

    def _viewing(self, request: Request, person: Person, is_still_let_in: Callable[[], Awaitable[bool]]) -> Viewing:
        remarks: list[str] = []
        return Viewing(
            person=person,
            reader=ScopedReader(self._trail, person, remarks),
            csrf_token=self._entrance.csrf_token(request, person),
            root=root_of(request),
            can_sign_out=bool(self._entrance.methods) and not person.is_embed,
            base_dir=self._trail.base_dir,
            is_still_let_in=is_still_let_in,
            policy=self._policy,
            retention=self._retention,
            remarks=remarks,
        )
