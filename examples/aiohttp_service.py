"""aiohttp: notes behind a browser's session cookie. `python -m examples.aiohttp_service --port 8080`.

The log's life is the application's, its middleware records every request. The trail is below `AUDIT_DIR`, `./audit`
where that is not set.
"""

import argparse
import os
import secrets

from aiohttp import web
from aiohttp.typedefs import Handler

from audit_async import ActorInfo, AuditConfig, AuthMethod, Local
from audit_async.events import AuthSuccess, DataDeleted
from audit_async.integrations.aiohttp import Policy, Rule, actor_of, get_audit, setup_audit

#: Who asks; empty where nobody signed in.
USER = web.RequestKey("user", str)
SESSIONS = web.AppKey("sessions", dict[str, str])
NOTES = web.AppKey("notes", dict[str, str])


@web.middleware
async def know_the_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find the session's user; what it leaves in the request is where the audit middleware finds the actor."""
    user = request.app[SESSIONS].get(request.cookies.get("session", ""))
    if user is None and request.path not in {"/login", "/health"}:
        raise web.HTTPUnauthorized(text="sign in first")  # recorded as `auth.failure`
    request[USER] = user or ""
    return await handler(request)


async def log_in(request: web.Request) -> web.Response:
    """Begin a session; a real service would ask for a password here."""
    user = (await request.post()).get("user")
    if not isinstance(user, str) or not user:
        raise web.HTTPBadRequest(text="expected the field user")
    session = secrets.token_urlsafe(32)
    request.app[SESSIONS][session] = user
    # The request came from nobody in particular; who it was is known from here on.
    actor = ActorInfo(user_id=user, ip=actor_of(request).ip)
    get_audit(request).emit(AuthSuccess(actor=actor, method=AuthMethod.SESSION, path="/login"))
    response = web.Response(text="welcome")
    response.set_cookie("session", session, httponly=True, samesite="Strict")
    return response


async def read_note(request: web.Request) -> web.Response:
    """Show a note to its owner."""
    owner = request.app[NOTES].get(request.match_info["note"])
    if owner is None:
        raise web.HTTPNotFound(text="no such note")
    if owner != request[USER]:
        raise web.HTTPForbidden(text="not yours")  # recorded as `authz.denied`
    return web.json_response({"owner": owner})


async def delete_note(request: web.Request) -> web.Response:
    """Delete a note, and answer only when that is on stable storage."""
    note = request.match_info["note"]
    if request.app[NOTES].get(note) != request[USER]:
        raise web.HTTPForbidden(text="not yours")
    del request.app[NOTES][note]
    deleted = DataDeleted(customer_id=request[USER], data_types=["note"], reason="user_request")
    await get_audit(request).emit_durable(deleted)
    return web.Response(status=204)


async def health(_request: web.Request) -> web.Response:
    """Answer a load balancer, unrecorded."""
    return web.Response(text="ok")


def make_application() -> web.Application:
    """Return the service."""
    config = AuditConfig(mode=Local(os.environ.get("AUDIT_DIR", "./audit")), service_id="notes")
    app = web.Application(middlewares=[know_the_user])
    setup_audit(app, config, policy=Policy([Rule("/health", level="none")]), actor=lambda request: request.get(USER))
    app[SESSIONS] = {}
    app[NOTES] = {"note-1": "alice", "note-2": "bob"}
    app.add_routes(
        [
            web.post("/login", log_in),
            web.get("/notes/{note}", read_note),
            web.delete("/notes/{note}", delete_note),
            web.get("/health", health),
        ]
    )
    return app


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0, the default, takes a free one")
    web.run_app(make_application(), host="127.0.0.1", port=parser.parse_args().port)


if __name__ == "__main__":
    main()
