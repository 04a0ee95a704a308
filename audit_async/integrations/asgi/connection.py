"""What a scope says once the application has answered: who asked, which route it was, whose logger is used.

Servers put the connection into the scope, frameworks what they found out; each framework in a place of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Protocol

import msgspec

from audit_async.context import Bound, ContextValue, extend_binding
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo, AuthMethod
from audit_async.integrations._http.actor import ANONYMOUS, actor_named, identity_of, nobody
from audit_async.integrations._http.exchange import Arrival
from audit_async.integrations._http.recorder import Recorder, SourceView
from audit_async.integrations._http.settings import ActorHook
from audit_async.integrations.asgi.messages import Scope
from audit_async.logger import AuditLogger

__all__ = [
    "SCOPE_VIEW",
    "SERVED_KEY",
    "STATE_KEY",
    "HasScope",
    "Served",
    "actor_of",
    "actor_of_scope",
    "bind_request",
    "logger_of_scope",
    "route_of_scope",
    "session_actor",
]

#: Where `audit_lifespan` puts the logger: on the application's state, and in the state of each scope.
STATE_KEY: Final = "audit"

#: Where the middleware leaves in the scope what `actor_of` needs.
SERVED_KEY: Final = "audit_async.served"


class HasScope(Protocol):
    """A request or WebSocket of a framework, as Starlette, FastAPI and Quart have them."""

    @property
    def scope(self) -> MutableMapping[str, Any]:
        """The ASGI scope of the connection."""


class Served(msgspec.Struct, eq=False):
    """Which middleware serves a request, and what came with it. It refers to no scope, which would be a cycle."""

    recorder: Recorder[Scope]
    arrival: Arrival
    bound: Bound | None = None  #: what is bound for the request, once it is


def actor_of(connection: HasScope | Scope) -> ActorInfo:
    """Return who asks, exactly as the record of the request names the actor: for the application's own events.

        audit.emit(InvoicePaid(actor=actor_of(request), invoice_id="17"))

    So one search (`audit-async query --actor alice`) finds both. The middleware's `actor` hook is asked, and without
    one the framework's user, as `actor_of_scope` describes; the address is the client's, by the trusted proxies. To be
    called after the authentication, so in a handler or a dependency; from any thread.

    Args:
        connection: The framework's request or WebSocket, or its scope.

    Returns:
        The actor; `anonymous`, with its address, if nobody is authenticated.

    Raises:
        Exception: Whatever the actor hook raises.
    """
    scope = connection if isinstance(connection, MutableMapping) else connection.scope
    served = scope.get(SERVED_KEY)
    if isinstance(served, Served):
        return served.recorder.actor_of(served.arrival, scope)
    client = scope.get("client")  # no middleware: nobody knows of proxies, so the peer's address
    ip = client[0] if client else None
    user = actor_of_scope(scope)
    if isinstance(user, ActorInfo):
        return user
    if user is None:
        return nobody(ANONYMOUS, ip)
    return actor_named(user, dict(scope["headers"]), ip, certificate=_shows_certificate(scope))


def bind_request(connection: HasScope | Scope, **bindings: ContextValue) -> None:
    """Bind names and values for everything that a request emits from now on, its own record included.

    As `audit_context` does for a block, but for the whole request: also from a dependency or handler that runs in a
    thread of its own, whose own bindings the rest of the request never sees:
    `bind_request(request, tenant=request.headers["x-tenant"])`.

    Args:
        connection: The framework's request or WebSocket, or its scope.
        bindings: What `audit_context` takes.

    Raises:
        ConfigError: The request is not served by an `AuditMiddleware`.
        InvalidEvent: A name or value can't be bound.
    """
    scope = connection if isinstance(connection, MutableMapping) else connection.scope
    served = scope.get(SERVED_KEY)
    if not isinstance(served, Served) or served.bound is None:
        raise ConfigError("audit", "the request is not served by an AuditMiddleware, so nothing can be bound for it")
    extend_binding(served.bound, bindings)


def actor_of_scope(scope: Scope) -> ActorInfo | str | None:
    """Return who asked, as the framework's authentication left the user in `scope["user"]`, or in the state's `user`.

    A user that is an `ActorInfo` is taken as it is. Of any other object the first of these that it has is the
    `user_id`: `username`, `identity`, `user_id`, `sub`, `id`, `email`, `display_name`; also of a mapping, such as a
    token's claims. The name comes first, so that searches by name find it; give an `actor` hook if your names can
    change hands.

    Args:
        scope: The scope of the connection.

    Returns:
        The actor or its name; None if nobody is authenticated.
    """
    user = scope.get("user")
    if user is None:
        state = scope.get("state")
        if type(state) is dict or isinstance(state, Mapping):  # the second alone takes 0.3 us for a dict
            user = state.get("user")
    if user is None:
        return None
    return user if isinstance(user, ActorInfo) else identity_of(user)


def session_actor(key: str = "user_id") -> ActorHook[Scope]:
    """Return an actor hook for browser sessions: who `scope["session"]` says under `key`, else `actor_of_scope`.

    Args:
        key: The session's member that holds the user's name or id.

    Returns:
        A hook whose actors have `auth_method` `session`.
    """

    def actor(scope: Scope) -> ActorInfo | str | None:
        session = scope.get("session")
        user = session.get(key) if isinstance(session, Mapping) else None
        name = identity_of(user)
        if name is None:
            return actor_of_scope(scope)
        return ActorInfo(user_id=name, auth_method=AuthMethod.SESSION)

    return actor


def route_of_scope(scope: Scope) -> str | None:
    """Return the template that a router matched, such as `/orders/{order_id}`; None if no router says.

    Args:
        scope: The scope of the connection, after the application has answered.
    """
    template = scope.get("path_template")  # Litestar
    if template:
        return str(template)
    route = scope.get("route")  # Starlette, FastAPI
    prefix = scope.get("root_path", "")
    if route is None:  # for a mount FastAPI gives only what Starlette's mounts do to a scope
        return f"{prefix}/{{path}}" if "app_root_path" in scope else None
    fastapi = scope.get("fastapi")
    if fastapi:
        # A route of an included router knows its own part of the path only; this knows the whole.
        context = fastapi.get("effective_route_context")
        if getattr(context, "original_route", None) is route:
            route = context
    path_format = getattr(route, "path_format", None)
    if not isinstance(path_format, str):
        return None
    if hasattr(route, "routes"):  # a mount, whose prefix is in `root_path` already
        return f"{prefix}/{{path}}"
    return prefix + path_format if prefix else path_format


def logger_of_scope(scope: Scope) -> AuditLogger:
    """Return the logger that the life span has opened.

    Args:
        scope: The scope of a request or a WebSocket.

    Raises:
        ConfigError: There is none.
    """
    state = scope.get("state")
    if state is not None:
        is_mapping = type(state) is dict or isinstance(state, Mapping)  # the second alone takes 0.3 us for a dict
        audit = state.get(STATE_KEY) if is_mapping else getattr(state, STATE_KEY, None)
        if isinstance(audit, AuditLogger):
            return audit
    app = scope.get("app")
    audit = getattr(getattr(app, "state", None), STATE_KEY, None)
    if isinstance(audit, AuditLogger):
        return audit
    raise ConfigError(
        "audit",
        "there is no audit logger in this application: give AuditMiddleware one, or open it with "
        "lifespan=audit_lifespan(config), or with AuditedApp(app, config) if the framework has no life span; a test "
        "client runs the life span only inside `with TestClient(app)`",
    )


def _shows_certificate(scope: Scope) -> bool:
    """Return whether the server says that the client proved itself by a TLS certificate."""
    tls = (scope.get("extensions") or {}).get("tls")
    return bool(tls and tls.get("client_cert_name"))


#: What a scope can be asked once its request was served.
SCOPE_VIEW: Final[SourceView[Scope]] = SourceView(route_of_scope, _shows_certificate)
