"""The viewer in an application: auditors see the whole trail under /audit, and customers theirs in a frame of a page.

    APP_PASSWORD=... uvicorn examples.viewer_in_app:app

The trail goes to the directory that the environment variable `AUDIT_DIR` names, `./audit` if it is not set; browsers
reach the application at `APP_URL`. Besides FastAPI it needs `itsdangerous`, for the sessions, and the extra `viewer`.
"""

import hmac
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from typing import NamedTuple

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.middleware.sessions import SessionMiddleware

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuthMethod, Local, audit_context
from audit_async.events import AuthFailure, AuthSuccess, ResourceCreated, ResourceInfo
from audit_async.viewer import EmbedLinks, Person, embed_link, viewer

URL = os.environ.get("APP_URL", "http://127.0.0.1:8000")
TRAIL = os.environ.get("AUDIT_DIR", "./audit")
CONFIG = AuditConfig(mode=Local(TRAIL), service_id="shop")
PASSWORD = os.environ["APP_PASSWORD"].encode()
EMBED_KEY = secrets.token_bytes(32)  # with several processes, one for all of them: `read_embed_key`


class User(NamedTuple):
    """Whom the application knows: somebody of its own house, or of a customer."""

    name: str
    tenant: str | None  #: the customer


USERS = {user.name: user for user in (User("olga", None), User("ada", "acme"), User("uma", "umbra"))}


def user_of(request: Request) -> User | None:
    """Return who is signed in to the application."""
    return USERS.get(request.session.get("user", ""))


def context_of(user: User) -> dict[str, str]:
    """Return the label that makes a record a customer's to see; a record without one is nobody's."""
    return {"tenant": user.tenant} if user.tenant is not None else {}


def person_of(request: Request) -> Person | None:
    """Return who looks at the whole trail; None lets nobody in, so no customer gets to it."""
    user = user_of(request)
    return Person(name=user.name, role="auditor") if user is not None and user.tenant is None else None


audit_pages = viewer(TRAIL, sign_in=person_of, embed=EmbedLinks(EMBED_KEY, origins=[URL]))


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, AuditLogger]]:
    """Open the application's log, and after it the one of who looks, which is in the same directory."""
    async with AuditLogger(CONFIG) as audit, audit_pages:
        yield {"audit": audit}


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    SessionMiddleware,
    secret_key=secrets.token_urlsafe(32),
    same_site="strict",  # or another site could use the viewer with the cookie of somebody who is signed in
    https_only=URL.startswith("https:"),
)
app.mount("/audit", audit_pages)


class SignIn(BaseModel):
    """What somebody signs in with."""

    name: str
    password: str


@app.post("/sign-in")
async def sign_in(form: SignIn, request: Request) -> dict[str, str]:
    """Sign in; what is recorded of a failure is not what was typed, which may be a password."""
    audit: AuditLogger = request.state.audit
    ip = request.client.host if request.client else "unknown"
    if form.name not in USERS or not hmac.compare_digest(form.password.encode(), PASSWORD):
        await audit.emit_durable(AuthFailure(attempted_user=None, reason="bad_password", ip=ip, path="/sign-in"))
        raise HTTPException(401, "The name or the password is wrong.")
    actor = ActorInfo(user_id=form.name, ip=ip, auth_method=AuthMethod.PASSWORD)
    with audit_context(**context_of(USERS[form.name])):
        await audit.emit_durable(AuthSuccess(actor=actor, method=AuthMethod.PASSWORD, path="/sign-in"))
    request.session["user"] = form.name
    return {"user": form.name}


@app.post("/sign-out")
async def sign_out(request: Request) -> None:
    """End the session; the viewer asks `person_of` again with each request, so it ends there as well."""
    request.session.clear()


@app.post("/orders/{order_id}")
async def create_order(order_id: str, request: Request) -> dict[str, str]:
    """Record the order, with the label of the customer."""
    user = user_of(request)
    if user is None:
        raise HTTPException(401, "You are not signed in.")
    with audit_context(**context_of(user)):
        order = ResourceInfo(resource_type="order", resource_id=order_id)
        await request.state.audit.emit_durable(ResourceCreated(actor=ActorInfo(user_id=user.name), resource=order))
    return {"order": order_id}


@app.get("/your-trail")
async def your_trail(request: Request) -> HTMLResponse:
    """Show a customer what is recorded of them, in a frame; each look gets a link of its own, which expires."""
    user = user_of(request)
    if user is None or user.tenant is None:
        raise HTTPException(401, "You are not signed in as a customer.")
    source = embed_link(f"{URL}/audit", key=EMBED_KEY, tenant=user.tenant, name=user.name, valid_s=900)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><title>Your trail</title><h1>What was done in your account</h1>'
        f'<iframe src="{escape(source)}" title="Audit trail" width="100%" height="800"></iframe></html>',
        headers={"Cache-Control": "no-store"},  # the address in it is itself the right to see the records
    )
