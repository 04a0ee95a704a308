"""FastAPI: an orders service with log-in, roles, and the GDPR's access, export and erasure, all of it in the trail.

    ORDERS_PASSWORDS='{"alice": "…", "dora": "…"}' uvicorn examples.fastapi_orders:app

The middleware records every request, and refusals as what they are. What only the service knows it records itself: who
logged in, whose data was given out or erased. The trail is below `AUDIT_DIR`, `./audit` where that is not set.
"""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, NoReturn

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from audit_async import ActorInfo, AuditConfig, AuthMethod, Local
from audit_async.events import (
    AuthFailure,
    AuthSuccess,
    DataDeleted,
    GdprDataAccessRequest,
    GdprDataExport,
    GdprRightToErasure,
    TokenCreated,
    TokenRevoked,
)
from audit_async.integrations.fastapi import Audit, AuditMiddleware, Policy, Rule, actor_of, audit_lifespan

config = AuditConfig(mode=Local(os.environ.get("AUDIT_DIR", "./audit")), service_id="orders")
policy = Policy(
    [
        Rule("/health", level="none"),
        Rule("/login", level="metadata", security=False),  # its handler records failures itself, with the name tried
        Rule("/customers/**", level="request"),  # not the answers: they hold the very data that may have to be erased
    ]
)
app = FastAPI(lifespan=audit_lifespan(config))
app.add_middleware(AuditMiddleware, policy=policy, trusted_proxies=("127.0.0.1", "::1"))


@dataclass(frozen=True)
class User:
    """Somebody who may sign in. `user_id` is what the trail knows him by."""

    user_id: str
    role: str
    password_hash: bytes


@dataclass
class Order:
    """What somebody bought."""

    order_id: int
    customer_id: str
    items: list[str]


def hash_password(user_id: str, password: str) -> bytes:
    """Return what is kept of a password; the name salts it, which is good enough for an example."""
    return hashlib.scrypt(password.encode(), salt=user_id.encode(), n=2**12, r=8, p=1)


ROLES = {"alice": "customer", "bob": "customer", "dora": "data_protection_officer"}
passwords = json.loads(os.environ.get("ORDERS_PASSWORDS", "{}"))
users = {
    name: User(name, role, hash_password(name, passwords.get(name, secrets.token_hex())))
    for name, role in ROLES.items()
}
orders = {1: Order(1, "alice", ["tea"]), 2: Order(2, "bob", ["milk", "honey"])}
#: by the hash of the token, so that the process holds none that could be stolen
signed_in: dict[bytes, User] = {}


def token_key(token: str) -> bytes:
    """Return what a token is looked up by."""
    return hashlib.sha256(token.encode()).digest()


def fingerprint(token: str) -> str:
    """Return what the trail knows a token by."""
    return f"token:{token_key(token).hex()[:6]}"


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def current_user(request: Request, credentials: Credentials) -> User:
    """Return who asks; 401, which the middleware records as `auth.failure`, if nobody knows."""
    user = signed_in.get(token_key(credentials.credentials)) if credentials else None
    if user is None:
        raise HTTPException(401, "sign in first", {"WWW-Authenticate": "Bearer"})
    request.state.user = user  # where the middleware finds the actor
    return user


SignedIn = Annotated[User, Depends(current_user)]


def refuse() -> NoReturn:
    """Answer 403, which the middleware records as `authz.denied`, with actor, path and method."""
    raise HTTPException(403, "not yours")


class LogIn(BaseModel):
    """What the log-in form sends."""

    user: str
    password: str


@app.post("/login")
def log_in(form: LogIn, request: Request, audit: Audit) -> dict[str, str]:
    """Give a token for a name and a password. A `def` handler: it hashes, and emits, in the thread pool."""
    ip = request.client.host if request.client else "unknown"
    user = users.get(form.user)
    given = hash_password(form.user, form.password)
    if user is None or not hmac.compare_digest(given, user.password_hash):
        audit.emit(AuthFailure(attempted_user=form.user, reason="wrong_password", ip=ip, path="/login"))
        raise HTTPException(401, "wrong name or password")
    token = secrets.token_urlsafe(32)
    signed_in[token_key(token)] = user
    # The request came from nobody in particular; who it was is known from here on.
    actor = ActorInfo(user_id=user.user_id, ip=actor_of(request).ip, auth_method=AuthMethod.PASSWORD)
    audit.emit(AuthSuccess(actor=actor, method=AuthMethod.PASSWORD, path="/login"))
    audit.emit(TokenCreated(actor=actor, token_fingerprint=fingerprint(token), scope=[user.role]))
    return {"token": token}


@app.post("/logout", status_code=204)
async def log_out(_user: SignedIn, credentials: Credentials, request: Request, audit: Audit) -> None:
    """Make the token worthless, and say so only when that is on record."""
    assert credentials is not None
    del signed_in[token_key(credentials.credentials)]
    revoked = TokenRevoked(
        actor=actor_of(request), token_fingerprint=fingerprint(credentials.credentials), reason="signed_out"
    )
    await audit.emit_durable(revoked)


@app.get("/orders/{order_id}")
def read_order(order_id: int, user: SignedIn) -> Order:
    """Show an order to whom it belongs."""
    order = orders.get(order_id)
    if order is None:
        raise HTTPException(404, "no such order")
    if order.customer_id != user.user_id:
        refuse()
    return order


@app.get("/customers/{customer_id}/export")
async def export(customer_id: str, user: SignedIn, audit: Audit) -> Response:
    """GDPR, art. 15 and 20: all that is known of somebody, for himself or the data protection officer."""
    if user.user_id != customer_id and user.role != "data_protection_officer":
        refuse()
    audit.emit(GdprDataAccessRequest(customer_id=customer_id, requester=user.user_id, scope=["orders"]))
    own = [vars(order) for order in orders.values() if order.customer_id == customer_id]
    content = json.dumps(own, indent=1).encode()
    # Nobody gets the file before it is on stable storage that he did.
    await audit.emit_durable(
        GdprDataExport(
            customer_id=customer_id,
            data_types=["orders"],
            export_format="json",
            file_hash=hashlib.sha256(content).hexdigest(),
        )
    )
    return Response(content, media_type="application/json")


@app.delete("/customers/{customer_id}", status_code=204)
async def erase(customer_id: str, user: SignedIn, audit: Audit) -> None:
    """GDPR, art. 17: erase what is known of somebody; the data protection officer's task alone."""
    if user.role != "data_protection_officer":
        refuse()
    for order_id in [order.order_id for order in orders.values() if order.customer_id == customer_id]:
        del orders[order_id]
    audit.emit(DataDeleted(customer_id=customer_id, data_types=["orders"], reason="gdpr_art_17"))
    await audit.emit_durable(
        GdprRightToErasure(customer_id=customer_id, completed_at=datetime.now(UTC), data_types_deleted=["orders"])
    )


@app.get("/health")
async def health(response: Response, audit: Audit) -> dict[str, str]:
    """Tell a load balancer whether requests are welcome here."""
    condition = audit.health()
    response.status_code = 200 if condition.ok else 503
    return {"audit": condition.status.value}
