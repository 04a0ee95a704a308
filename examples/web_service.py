"""A small document service with an audit trail: Starlette on uvicorn, the logger in the application's lifespan.

    python -m examples.web_service --dir ./demo-trail --port 0

It makes up accounts with random passwords, prints them, and then the address it listens on. Each request that is
answered is in the trail, under the `audit_id`s that the answer's `X-Audit-Id` header names:

* What is refused, and what changes something, is answered only once its record is on stable storage.
* What was merely read is answered at once, and its record becomes durable a moment later.

Tokens and passwords are in no event: a token is recorded by its fingerprint.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import uvicorn
from anyio import CapacityLimiter, from_thread, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuthMethod, Local
from audit_async.events import (
    AuditEvent,
    AuthFailure,
    AuthorizationDenied,
    AuthorizationGranted,
    AuthSuccess,
    DataDeleted,
    InvalidTokenUsed,
    PathTraversalAttempt,
    ResourceInfo,
    TokenCreated,
    TokenRevoked,
)

MAX_LOGIN_BYTES: Final = 4096
#: log2 of scrypt's cost: about 40 ms and 16 MiB a try. A service that faces the world takes 17 (and gives `maxmem`).
PASSWORD_COST: Final = 14

ROLES: Final = {"alice": "reader", "bob": "reader", "carol": "archivist"}
PUBLIC_FILES: Final = Path(__file__).resolve().parent  # these examples: there for everybody to read


def fingerprint(token: str) -> str:
    """Return what may be recorded of a token: enough to find it again, useless for signing in."""
    return f"token:{hashlib.sha256(token.encode()).hexdigest()[:6]}"


class Account(NamedTuple):
    """What the service keeps of a user: nothing that a thief of it could sign in with."""

    user: str
    role: str
    salt: bytes
    password_hash: bytes

    @classmethod
    def create(cls, user: str, role: str, password: str, *, cost: int) -> Account:
        """Make an account with a salt of its own."""
        salt = secrets.token_bytes(16)
        return cls(user, role, salt, hash_password(password, salt, cost))


def hash_password(password: str, salt: bytes, cost: int) -> bytes:
    """Hash a password; slow on purpose, so not for the event loop's thread."""
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=2**cost, r=8, p=1)


class Session(NamedTuple):
    """Who stands behind a token."""

    account: Account
    token_fingerprint: str

    def actor(self, request: Request) -> ActorInfo:
        """Return the user as the trail names them."""
        return ActorInfo(
            user_id=self.account.user,
            ip=address_of(request),
            auth_method=AuthMethod.BEARER_TOKEN,
            session_id=self.token_fingerprint,
        )


@dataclass
class DocumentService:
    """The service's state. Owned by the event loop's thread, except where a method says otherwise."""

    accounts: dict[str, Account]
    password_cost: int
    audit: AuditLogger
    documents: dict[str, str] = field(default_factory=lambda: {f"doc-{n}": f"Document {n}\n" for n in range(1000)})
    #: by the SHA-256 of the token, so that looking one up tells nothing about the others by its timing
    sessions: dict[bytes, Session] = field(default_factory=dict)
    #: so that a flood of log-ins takes neither all the memory nor all the threads
    hashing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))

    def check_password(self, user: str, password: str) -> Account | None:
        """Return the user's account where the password is theirs; as slow where there is no such user.

        Blocks for as long as hashing takes, so it is for a worker thread.
        """
        account = self.accounts.get(user, NOBODY)
        right = hmac.compare_digest(hash_password(password, account.salt, self.password_cost), account.password_hash)
        return account if right and account is not NOBODY else None

    def session_of(self, request: Request) -> Session | None:
        """Return the session of the request's token, or None."""
        return self.sessions.get(hashlib.sha256(token_of(request).encode()).digest())

    async def refuse(self, event: AuditEvent, status: int, reason: str) -> Response:
        """Answer with an error, once the event that says why is on stable storage."""
        return await self.confirm([event], JSONResponse({"error": reason}, status))

    async def confirm(self, events: Sequence[AuditEvent], response: Response) -> Response:
        """Answer once all events are on stable storage."""
        receipts = [self.audit.emit(event) for event in events]
        await receipts[-1].durable()  # and so are those before it
        response.headers["X-Audit-Id"] = ",".join(receipt.audit_id for receipt in receipts)
        return response

    def note(self, event: AuditEvent, response: Response) -> Response:
        """Answer at once; the event is recorded meanwhile. From any thread."""
        response.headers["X-Audit-Id"] = self.audit.emit(event).audit_id
        return response

    async def refuse_token(self, request: Request) -> Response:
        """Answer a request whose token is missing, revoked or made up."""
        ip, endpoint = address_of(request), request.url.path
        if token := token_of(request):
            event: AuditEvent = InvalidTokenUsed(ip=ip, token_prefix=fingerprint(token), endpoint=endpoint)
        else:
            event = AuthFailure(reason="no_token", ip=ip, path=endpoint)
        return await self.refuse(event, 401, "sign in first")


NOBODY: Final = Account("", "", b"\0" * 16, b"\0" * 64)


def service_of(request: Request) -> DocumentService:
    """Return the service that the lifespan has made."""
    service: DocumentService = request.state.service
    return service


def address_of(request: Request) -> str:
    """Return the peer's address (behind a proxy of your own, uvicorn can take it from the proxy's header)."""
    return request.client.host if request.client else "unknown"


def token_of(request: Request) -> str:
    """Return the bearer token that the request carries, or nothing."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def log_in(request: Request) -> Response:
    """POST /login: a user name and a password for a token."""
    service, ip = service_of(request), address_of(request)
    credentials = await read_credentials(request)
    if credentials is None:
        failure = AuthFailure(reason="malformed_request", ip=ip, path="/login")
        return await service.refuse(failure, 400, "expected a small JSON object with the texts user and password")
    user, password = credentials
    account = await to_thread.run_sync(service.check_password, user, password, limiter=service.hashing)
    if account is None:
        failure = AuthFailure(attempted_user=user, reason="wrong_password", ip=ip, path="/login")
        return await service.refuse(failure, 401, "wrong user name or password")
    token = secrets.token_urlsafe(32)
    session = Session(account, fingerprint(token))
    service.sessions[hashlib.sha256(token.encode()).digest()] = session
    actor = session.actor(request)
    events = [
        AuthSuccess(actor=actor, method=AuthMethod.BEARER_TOKEN, path="/login"),
        TokenCreated(actor=actor, token_fingerprint=session.token_fingerprint, scope=[account.role]),
    ]
    return await service.confirm(events, JSONResponse({"token": token}))


async def read_credentials(request: Request) -> tuple[str, str] | None:
    """Return user and password from the request's body, or None where they are not there."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_LOGIN_BYTES:
            return None
    try:
        match json.loads(body):
            case {"user": str(user), "password": str(password)}:
                return user, password
    except (ValueError, RecursionError):
        pass
    return None


async def log_out(request: Request) -> Response:
    """POST /logout: the token is worth nothing from here on."""
    service = service_of(request)
    session = service.session_of(request)
    if session is None:
        return await service.refuse_token(request)
    del service.sessions[hashlib.sha256(token_of(request).encode()).digest()]
    revoked = TokenRevoked(
        actor=session.actor(request), token_fingerprint=session.token_fingerprint, reason="signed_out"
    )
    return await service.confirm([revoked], Response(status_code=204))


async def read_document(request: Request) -> Response:
    """GET /documents/{id}: for everybody who is signed in."""
    service = service_of(request)
    session = service.session_of(request)
    if session is None:
        return await service.refuse_token(request)
    document_id = request.path_params["document_id"]
    actor = session.actor(request)
    resource = ResourceInfo(resource_type="document", resource_id=document_id)
    text = service.documents.get(document_id)
    if text is None:
        denied = AuthorizationDenied(actor=actor, resource=resource, action="read", reason="no_such_document")
        return await service.refuse(denied, 404, "no such document")
    granted = AuthorizationGranted(actor=actor, resource=resource, action="read")
    return service.note(granted, PlainTextResponse(text))


async def delete_document(request: Request) -> Response:
    """DELETE /documents/{id}: for archivists only."""
    service = service_of(request)
    session = service.session_of(request)
    if session is None:
        return await service.refuse_token(request)
    document_id = request.path_params["document_id"]
    actor = session.actor(request)
    resource = ResourceInfo(resource_type="document", resource_id=document_id)
    if session.account.role != "archivist":
        denied = AuthorizationDenied(actor=actor, resource=resource, action="delete", reason="not_an_archivist")
        return await service.refuse(denied, 403, "only archivists delete documents")
    if service.documents.pop(document_id, None) is None:
        denied = AuthorizationDenied(actor=actor, resource=resource, action="delete", reason="no_such_document")
        return await service.refuse(denied, 404, "no such document")
    events = [
        AuthorizationGranted(actor=actor, resource=resource, action="delete"),
        DataDeleted(customer_id=session.account.user, data_types=[f"document/{document_id}"], reason="user_request"),
    ]
    return await service.confirm(events, Response(status_code=204))


def read_file(request: Request) -> Response:
    """GET /files/{path}: public files. A plain `def`, so it runs, and emits, in the thread pool."""
    service = service_of(request)
    path = request.path_params["path"]
    actor = ActorInfo(user_id="anonymous", ip=address_of(request))
    resource = ResourceInfo(resource_type="file", resource_id=path)
    try:
        target = (PUBLIC_FILES / path).resolve()
        inside = target.is_relative_to(PUBLIC_FILES)
    except (ValueError, OSError, RuntimeError):  # a NUL in it, or a loop of symbolic links
        inside = False
    if not inside:
        attempt = PathTraversalAttempt(actor=actor, attempted_path=path, endpoint="/files")
        return from_thread.run(service.refuse, attempt, 404, "no such file")
    try:
        content = target.read_bytes()
    except OSError:
        denied = AuthorizationDenied(actor=actor, resource=resource, action="read", reason="no_such_file")
        return from_thread.run(service.refuse, denied, 404, "no such file")
    granted = AuthorizationGranted(actor=actor, resource=resource, action="read")
    return service.note(granted, Response(content, media_type="text/plain"))


async def show_trail(request: Request) -> Response:
    """GET /trail: how the trail is doing, once all that was recorded so far is on stable storage."""
    audit = service_of(request).audit
    await audit.flush()
    stats, health = audit.stats(), audit.health()
    return JSONResponse({"status": health.status.value, "durable": stats.durable, "syncs": stats.syncs})


async def unknown_path(request: Request, _error: Exception) -> Response:
    """Record what was asked for where nothing is: somebody may be looking around."""
    service = service_of(request)
    actor = ActorInfo(user_id="anonymous", ip=address_of(request))
    resource = ResourceInfo(resource_type="path", resource_id=request.url.path)
    denied = AuthorizationDenied(actor=actor, resource=resource, action=request.method, reason="no_such_path")
    return await service.refuse(denied, 404, "no such path")


def make_application(trail: Path, passwords: dict[str, str], *, password_cost: int = PASSWORD_COST) -> Starlette:
    """Return the service; it writes its trail below `trail` while it runs."""
    accounts = {
        user: Account.create(user, ROLES[user], password, cost=password_cost) for user, password in passwords.items()
    }

    @contextlib.asynccontextmanager
    async def lifespan(_application: Starlette) -> AsyncIterator[dict[str, DocumentService]]:
        config = AuditConfig(mode=Local(trail), service_id="documents")
        async with AuditLogger(config) as audit:
            yield {"service": DocumentService(accounts, password_cost, audit)}

    return Starlette(
        lifespan=lifespan,
        exception_handlers={404: unknown_path, 405: unknown_path},
        routes=[
            Route("/login", log_in, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
            Route("/documents/{document_id}", read_document, methods=["GET"]),
            Route("/documents/{document_id}", delete_document, methods=["DELETE"]),
            Route("/files/{path:path}", read_file, methods=["GET"]),
            Route("/trail", show_trail, methods=["GET"]),
        ],
    )


class AnnouncingServer(uvicorn.Server):
    """Prints the address once the service answers there: with port 0 nobody knows it before."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then say where."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(f"listening on http://{host}:{port}", flush=True)


def main() -> None:
    """Run the service until it is told to stop (SIGTERM, or Ctrl-C)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=Path("demo-trail"), help="where the trail is kept (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0, the default, takes a free one")
    parser.add_argument(
        "--password-cost", type=int, default=PASSWORD_COST, help="log2 of scrypt's cost (default: %(default)s)"
    )
    arguments = parser.parse_args()
    passwords = {user: secrets.token_urlsafe(9) for user in ROLES}
    for user, password in passwords.items():
        print(f"account {user} {password} {ROLES[user]}")
    config = uvicorn.Config(
        make_application(arguments.dir, passwords, password_cost=arguments.password_cost),
        host="127.0.0.1",
        port=arguments.port,
        log_level="warning",
        access_log=False,  # the trail says who asked for what
        timeout_graceful_shutdown=10,
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn, once all is closed in good order
        AnnouncingServer(config).run()


if __name__ == "__main__":
    main()
