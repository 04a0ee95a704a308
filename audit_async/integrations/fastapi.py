"""FastAPI: the log's life is the application's, and handlers, `async def` or `def`, get logger and actor as parameters.

app = FastAPI(lifespan=audit_lifespan(config))
app.add_middleware(AuditMiddleware)

@app.post("/invoices/{invoice_id}/payment")
def pay(invoice_id: str, audit: Audit, actor: Actor) -> None:
    audit.emit(InvoicePaid(actor=actor, invoice_id=invoice_id))
"""

from __future__ import annotations

from typing import Annotated

from audit_async._first_use import installed_by

with installed_by("audit-async[fastapi]", __name__):
    from fastapi import Depends
    from fastapi.requests import HTTPConnection

from audit_async.events import ActorInfo
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
from audit_async.integrations.asgi.found_log import OVERRIDABLE
from audit_async.integrations.starlette import audit_lifespan
from audit_async.logger import AuditLogger

__all__ = [
    "Actor",
    "Audit",
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


async def get_audit(connection: HTTPConnection) -> AuditLogger:
    """Return the application's logger: `audit: Annotated[AuditLogger, Depends(get_audit)]`, or `audit: Audit`.

    For HTTP and WebSocket handlers, and for dependencies; `emit` may be called from any thread, so it suits a `def`
    handler too. An override in `app.dependency_overrides` reaches the middleware as well.

    Args:
        connection: The request or WebSocket; FastAPI gives it.

    Raises:
        ConfigError: The life span has not opened a logger.
    """
    # `async`, though nothing is awaited: FastAPI would run a `def` in its thread pool.
    return logger_of_scope(connection.scope)


OVERRIDABLE.add(get_audit)


async def _get_actor(connection: HTTPConnection) -> ActorInfo:
    """Return who asks, exactly as the record of the request names the actor."""
    return actor_of(connection)


#: The logger as a parameter of a handler.
Audit = Annotated[AuditLogger, Depends(get_audit)]

#: Who asks, as a parameter of a handler; dependencies that authenticate must come before it.
Actor = Annotated[ActorInfo, Depends(_get_actor)]
