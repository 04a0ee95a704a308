"""What a scope tells once the application has answered: who asked, which route it was, whose logger is used.

Servers put the connection into the scope, frameworks what they found out; each framework in a place of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from audit_async.errors import ConfigError
from audit_async.events.base import ActorInfo
from audit_async.integrations._http.actor import identity_of
from audit_async.integrations._http.recorder import ActorHook
from audit_async.integrations.asgi.messages import Scope
from audit_async.logger import AuditLogger

__all__ = ["STATE_KEY", "actor_of_scope", "logger_of_scope", "route_of_scope", "session_actor", "shows_certificate"]

#: Where `audit_lifespan` puts the logger: on the application's state, and in the state of each scope.
STATE_KEY: Final = "audit"


def actor_of_scope(scope: Scope) -> ActorInfo | str | None:
    """Return who asked, as the framework's authentication left him in `scope["user"]`, or in the state's `user`."""
    user = scope.get("user")
    if user is None:
        state = scope.get("state")
        if type(state) is dict or isinstance(state, Mapping):  # the second alone takes 0.3 us for a dict
            user = state.get("user")
    return None if user is None else identity_of(user)


def session_actor(key: str = "user_id") -> ActorHook[Scope]:
    """Return an actor hook for browser sessions: who `scope["session"]` says under `key`, else `actor_of_scope`."""

    def actor(scope: Scope) -> ActorInfo | str | None:
        session = scope.get("session")
        user = session.get(key) if isinstance(session, Mapping) else None
        return identity_of(user) if user is not None else actor_of_scope(scope)

    return actor


def route_of_scope(scope: Scope) -> str | None:
    """Return the template that a router matched, such as `/orders/{order_id}`; None where no router says."""
    template = scope.get("path_template")  # Litestar
    if template:
        return str(template)
    route = scope.get("route")  # Starlette, FastAPI
    prefix = scope.get("root_path", "")
    if route is None:  # of a mount FastAPI tells only what Starlette's mounts do to a scope
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
    """Return the logger that `audit_lifespan` has opened; raises `ConfigError` where there is none."""
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
        "lifespan=audit_lifespan(config); a test client runs the life span only inside `with TestClient(app)`",
    )


def shows_certificate(scope: Scope) -> bool:
    """True where the server says that the client proved itself by a TLS certificate."""
    tls = (scope.get("extensions") or {}).get("tls")
    return bool(tls and tls.get("client_cert_name"))
