"""The service that the recipes in this directory deploy: everything about its trail comes from the environment.

    AUDIT_BASE_DIR=./audit AUDIT_SERVICE_ID=orders uvicorn --app-dir examples/deploy orders_service:app

With `METRICS_PORT=9470` each worker process serves its own metrics: the log `00` on port 9470, `01` on 9471, and so on.
docs/operations.md says what `/ready` and `/live` are for.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, start_http_server
from starlette.routing import Route

from audit_async import AuditConfig, AuditLogger
from audit_async.events import ResourceInfo, ResourceRead
from audit_async.integrations.fastapi import Actor, Audit, AuditMiddleware, Policy, Rule, audit_lifespan
from audit_async.integrations.health import ReadinessEndpoint
from audit_async.integrations.prometheus import AuditCollector


@asynccontextmanager
async def metrics(app: FastAPI) -> AsyncIterator[None]:
    """Serve this worker's metrics for as long as it runs, on a port of its own: a scrape meets one process."""
    first_port = os.environ.get("METRICS_PORT")
    if first_port is None:
        yield
        return
    audit: AuditLogger = app.state.audit
    registry = CollectorRegistry()
    registry.register(AuditCollector(audit))
    slot = "0" if audit.directory is None else audit.directory.name  # None: the log is disabled
    port = int(first_port) + int(slot)
    server, thread = start_http_server(port, os.environ.get("METRICS_ADDRESS", "127.0.0.1"), registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


app = FastAPI(lifespan=audit_lifespan(AuditConfig.from_env(), lifespan=metrics))
app.add_middleware(AuditMiddleware, policy=Policy([Rule(path, level="none") for path in ("/ready", "/live")]))
app.router.routes.append(Route("/ready", ReadinessEndpoint(lambda: getattr(app.state, "audit", None))))


@app.get("/live")
async def live() -> dict[str, str]:
    """Say that the process answers. Not how the disk is: a full disk is not repaired by a restart."""
    return {"status": "ok"}


@app.get("/orders/{order_id}")
async def read_order(order_id: str, audit: Audit, actor: Actor) -> dict[str, str]:
    """Answer only after it is on stable storage who read which order."""
    order = ResourceInfo(resource_type="order", resource_id=order_id)
    await audit.emit_durable(ResourceRead(actor=actor, resource=order))
    return {"order_id": order_id}
