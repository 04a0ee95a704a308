"""A small trail of two services and two tenants, and browsers that look at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

from audit_async import AuditConfig, AuditLogger, Local, audit_context
from audit_async.events import AuthMethod, AuthSuccess
from audit_async.events.base import ActorInfo
from audit_async.viewer import Person, TokenSignIn, Viewer, viewer
from tests.trails import read_events

HOST = "http://127.0.0.1:8000"

AUDITOR = Person(name="olga", role="auditor")
OPERATOR = Person(name="omar", role="operator")
OF_ORDERS = Person(name="rita", role="reader", services=frozenset({"orders"}))
OF_ACME = Person(name="ada", role="reader", tenant="acme")
PEOPLE = {person.name: person for person in (AUDITOR, OPERATOR, OF_ORDERS, OF_ACME)}


async def make_trail(base_dir: Path) -> None:
    """Record one sign-in each: of acme, of its competitor, of no tenant, in each of two services."""
    for service in ("orders", "billing"):
        async with AuditLogger(AuditConfig(mode=Local(base_dir), service_id=service, handle_signals=False)) as audit:
            for tenant in ("acme", "umbra", None):
                event = AuthSuccess(
                    actor=ActorInfo(user_id=f"{service}-{tenant}"), method=AuthMethod.PASSWORD, path="/sign-in"
                )
                if tenant is None:
                    audit.emit(event)
                else:
                    with audit_context(tenant=tenant):
                        audit.emit(event)


def by_header(request: Any) -> Person | None:
    """Return the person that the tests' application knows by a header."""
    return PEOPLE.get(request.headers.get("x-test-user", ""))


@asynccontextmanager
async def browser_of(
    app: Viewer, person: Person | None = None, *, user: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that asks as a person whom the application knows, or under another name."""
    name = person.name if person is not None else user
    sent = {"x-test-user": name} if name is not None else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HOST, headers=sent) as client:
        yield client


def viewed_by_token(base_dir: Path, tokens: list[str], **settings: Any) -> Viewer:
    """Return a viewer that an auditor signs in to with a token."""
    return viewer(base_dir, sign_in=TokenSignIn(AUDITOR, tokens.append), **settings)


def viewed(base_dir: Path, **settings: Any) -> Viewer:
    """Return a viewer of an application that knows its people itself."""
    return viewer(base_dir, sign_in=by_header, **settings)


def accesses(base_dir: Path) -> list[dict[str, Any]]:
    """Return the events of who has looked."""
    return [
        record["event"]
        for record in read_events(base_dir / "audit-view")
        if record["event"]["event_type"] == "audit.log_accessed"
    ]
