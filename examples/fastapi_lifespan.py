"""FastAPI: one logger for the life of the application. `uvicorn examples.fastapi_lifespan:app`.

The trail goes to the directory that the environment variable `AUDIT_DIR` names, `./audit` where it is not set.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuthMethod, Local
from audit_async.events import AuthorizationGranted, AuthSuccess, ResourceInfo

CONFIG = AuditConfig(mode=Local(os.environ.get("AUDIT_DIR", "./audit")), service_id="orders")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, AuditLogger]]:
    """Open the log before the first request, and drain and close it after the last."""
    async with AuditLogger(CONFIG) as audit:
        yield {"audit": audit}


app = FastAPI(lifespan=lifespan)


@app.post("/login/{user}")
async def log_in(user: str, request: Request) -> dict[str, str]:
    """Answer only when the record is on stable storage."""
    actor = ActorInfo(user_id=user, ip=request.client.host if request.client else None, auth_method=AuthMethod.API_KEY)
    await request.state.audit.emit_durable(AuthSuccess(actor=actor, method=AuthMethod.API_KEY, path="/login"))
    return {"user": user}


@app.get("/orders/{order_id}")
def read_order(order_id: str, request: Request) -> dict[str, str]:
    """Emit from a `def` handler, which FastAPI runs in its thread pool: `emit` may be called from any thread."""
    actor = ActorInfo(user_id="guest")
    order = ResourceInfo(resource_type="order", resource_id=order_id)
    request.state.audit.emit(AuthorizationGranted(actor=actor, resource=order, action="read"))
    return {"order": order_id}
