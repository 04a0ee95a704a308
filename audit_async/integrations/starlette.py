"""Starlette: the log's life is the application's, and its handlers get the logger from the request.

app = Starlette(routes=routes, lifespan=audit_lifespan(config))
app.add_middleware(AuditMiddleware)

async def erase(request: Request) -> Response:
    get_audit(request).emit(InvoicePaid(actor=actor_of(request), invoice_id="17"))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

from audit_async._first_use import installed_by

with installed_by("starlette>=0.40", __name__):
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection

from audit_async.config import AuditConfig
from audit_async.errors import ConfigError
from audit_async.integrations._http.settings import check_config
from audit_async.integrations.asgi import (
    AuditMiddleware,
    Level,
    Policy,
    Rule,
    actor_of,
    bind_request,
    logger_of_scope,
    session_actor,
)
from audit_async.integrations.asgi.connection import STATE_KEY
from audit_async.integrations.asgi.last_resort import prepare_starlette
from audit_async.logger import AuditLogger

__all__ = [
    "AuditMiddleware",
    "Level",
    "Policy",
    "Rule",
    "actor_of",
    "audit_lifespan",
    "bind_request",
    "get_audit",
    "session_actor",
]

AppT = TypeVar("AppT", bound=Starlette)

#: A life span of the application's own: yields nothing, or what each request is to find in its state.
Lifespan = Callable[[AppT], AbstractAsyncContextManager[Mapping[str, object] | None]]


def audit_lifespan(
    config: AuditConfig, lifespan: Lifespan[AppT] | None = None
) -> Callable[[AppT], AbstractAsyncContextManager[Mapping[str, object]]]:
    """Return a life span that opens the log before the first request, and drains and closes it after the last.

    The logger is at `app.state.audit` and `request.state.audit`, and where `AuditMiddleware` and `get_audit` look for
    it. Each worker process opens a log of its own; what opening raises stops the start, as it should.

    Args:
        config: The configuration of the log.
        lifespan: The application's own life span. It runs within this one, so what it does at start and end can be
            recorded.

    Raises:
        ConfigError: `config` or `lifespan` is something else.
    """
    check_config(config, "audit_lifespan")
    if lifespan is not None and not callable(lifespan):
        raise ConfigError("lifespan", f"must be a function of the application, not a {type(lifespan).__name__}")

    @asynccontextmanager
    async def audited(app: AppT) -> AsyncIterator[Mapping[str, object]]:
        async with AsyncExitStack() as stack:
            audit = await stack.enter_async_context(AuditLogger(config))
            setattr(app.state, STATE_KEY, audit)
            prepare_starlette(app)
            stack.callback(delattr, app.state, STATE_KEY)
            own = None if lifespan is None else await stack.enter_async_context(lifespan(app))
            yield {**(own or {}), STATE_KEY: audit}

    return audited


def get_audit(connection: HTTPConnection) -> AuditLogger:
    """Return the application's logger, in a handler.

    Args:
        connection: The request or WebSocket.

    Raises:
        ConfigError: The life span has not opened one.
    """
    return logger_of_scope(connection.scope)
