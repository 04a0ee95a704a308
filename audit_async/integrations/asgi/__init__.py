"""Every request of an ASGI application in the trail: Starlette, FastAPI, Litestar, Quart, Django, or any other.

    app = AuditMiddleware(app, audit, policy=Policy([Rule("/health", level="none")]))

It belongs outermost, sees messages pass and delays none: nothing is held back, and of bodies no more is copied than the
policy asks for. An exchange gives one event, at the last byte of its answer, or when it ends without one: by an
exception, a client that went away, a cancellation. The life span passes untouched, and so does every extension.

`AuditedApp(app, config)` is the same with a log of its own, for Django and what else has no life span.

    audit.emit(InvoicePaid(actor=actor_of(request), invoice_id="17"))  # the same actor as in the record of the request

No framework is imported here.
"""

from audit_async.integrations._http.client_address import ForwardedHeader
from audit_async.integrations._http.request_policy import Level, Policy, Rule
from audit_async.integrations._http.settings import ActorHook, MiddlewareSettings
from audit_async.integrations.asgi.audited_app import AuditedApp
from audit_async.integrations.asgi.connection import (
    actor_of,
    actor_of_scope,
    bind_request,
    logger_of_scope,
    route_of_scope,
    session_actor,
)
from audit_async.integrations.asgi.messages import ASGIApp, Scope
from audit_async.integrations.asgi.middleware import AuditMiddleware

__all__ = [
    "ASGIApp",
    "ActorHook",
    "AuditMiddleware",
    "AuditedApp",
    "ForwardedHeader",
    "Level",
    "MiddlewareSettings",
    "Policy",
    "Rule",
    "Scope",
    "actor_of",
    "actor_of_scope",
    "bind_request",
    "logger_of_scope",
    "route_of_scope",
    "session_actor",
]
