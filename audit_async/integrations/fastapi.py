"""FastAPI: the log's life is the application's, and handlers, `async def` or `def`, get the logger as a dependency.

app = FastAPI(lifespan=audit_lifespan(config))
app.add_middleware(AuditMiddleware)

@app.delete("/customers/{customer_id}")
def erase(customer_id: str, audit: Audit) -> None:
    audit.emit(DataDeleted(customer_id=customer_id, data_types=["orders"], reason="gdpr_art_17"))
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from audit_async.integrations.asgi import AuditMiddleware, Level, Policy, Rule, logger_of_scope, session_actor
from audit_async.integrations.starlette import audit_lifespan
from audit_async.logger import AuditLogger

__all__ = ["Audit", "AuditMiddleware", "Level", "Policy", "Rule", "audit_lifespan", "get_audit", "session_actor"]


async def get_audit(connection: HTTPConnection) -> AuditLogger:
    """Return the application's logger: `audit: Annotated[AuditLogger, Depends(get_audit)]`, or `audit: Audit`.

    For HTTP and WebSocket handlers, and for dependencies; `emit` may be called from any thread, so it suits a `def`
    handler too. Raises `ConfigError` where the life span has not opened a log.
    """
    # `async`, though nothing is awaited: FastAPI would run a `def` in its thread pool.
    return logger_of_scope(connection.scope)


#: The logger as a parameter of a handler.
Audit = Annotated[AuditLogger, Depends(get_audit)]
