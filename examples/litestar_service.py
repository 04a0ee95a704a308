"""Litestar: documents behind API keys.

    DOCUMENTS_KEYS='{"<key>": "alice"}' uvicorn examples.litestar_service:app

The plugin opens the log with the application, records every request and injects the logger. The trail is below
`AUDIT_DIR`, `./audit` where that is not set.
"""

import json
import os

from litestar import Litestar, Request, delete, get
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException, NotFoundException, PermissionDeniedException
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult, DefineMiddleware

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.events import DataDeleted, ModelAccessed
from audit_async.integrations.litestar import AuditPlugin, Policy, Rule

API_KEYS: dict[str, str] = json.loads(os.environ.get("DOCUMENTS_KEYS", "{}"))
DOCUMENTS = {"doc-1": "alice", "doc-2": "bob"}


class ApiKeys(AbstractAuthenticationMiddleware):
    """Knows who asks by the key; what it leaves in the connection is where the plugin finds the actor."""

    async def authenticate_request(
        self, connection: ASGIConnection[object, object, object, State]
    ) -> AuthenticationResult:
        """Return the key's owner; 401, which is recorded as `auth.failure`, where it has none."""
        user = API_KEYS.get(connection.headers.get("x-api-key", ""))
        if user is None:
            raise NotAuthorizedException("send a valid X-API-Key")
        return AuthenticationResult(user=user, auth="api_key")


@get("/documents/{document_id:str}", sync_to_thread=True)
def read_document(document_id: str, request: Request[str, str, State], audit: AuditLogger) -> dict[str, str]:
    """Show a document to its owner. A plain function, so it runs, and emits, in a thread."""
    owner = DOCUMENTS.get(document_id)
    if owner is None:
        raise NotFoundException("no such document")
    if owner != request.user:
        raise PermissionDeniedException("not yours")  # recorded as `authz.denied`
    audit.emit(ModelAccessed(customer_id=owner, model_ref=document_id, access_type="read"))
    return {"document_id": document_id, "owner": owner}


@delete("/documents/{document_id:str}")
async def delete_document(document_id: str, request: Request[str, str, State], audit: AuditLogger) -> None:
    """Delete a document, and answer only when that is on stable storage."""
    if DOCUMENTS.get(document_id) != request.user:
        raise PermissionDeniedException("not yours")
    del DOCUMENTS[document_id]
    await audit.emit_durable(DataDeleted(customer_id=request.user, data_types=["document"], reason="user_request"))


@get("/health", exclude_from_auth=True)
async def health() -> str:
    """Answer a load balancer, unrecorded."""
    return "ok"


app = Litestar(
    [read_document, delete_document, health],
    middleware=[DefineMiddleware(ApiKeys)],
    plugins=[
        AuditPlugin(
            AuditConfig(mode=Local(os.environ.get("AUDIT_DIR", "./audit")), service_id="documents"),
            policy=Policy([Rule("/health", level="none")]),
        )
    ],
)
