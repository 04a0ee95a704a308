"""Flask: the log's life is the process's, and each request is in the trail.

    app = Flask(__name__)
    setup_audit(app, config)

    @app.post("/invoices/<invoice_id>/payment")
    def pay(invoice_id: str) -> str:
        get_audit().emit(InvoicePaid(actor=actor_of_request(), invoice_id=invoice_id))
        return "paid"

The middleware is that of `audit_async.integrations.wsgi`; what is Flask's own is the route's template, and the user
whom the application's authentication, or Flask-Login, has left in `flask.g`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Unpack, cast

from audit_async._first_use import installed_by

with installed_by("audit-async[flask]", __name__):
    from flask import Flask, Request, g, has_request_context, request

from audit_async.ambient import AnyLogger, get_audit, set_audit
from audit_async.ambient.ambient_log import stand_in
from audit_async.config import AuditConfig
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo
from audit_async.integrations._http.actor import identity_of
from audit_async.integrations._http.client_address import ForwardedHeader
from audit_async.integrations._http.request_policy import Level, Policy, Rule
from audit_async.integrations._http.settings import ActorHook, MiddlewareSettings, Settings, check_config
from audit_async.integrations._logger_source import shown
from audit_async.integrations.wsgi import AuditMiddleware, actor_of
from audit_async.sync import SyncAuditLogger

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = [
    "ActorHook",
    "ForwardedHeader",
    "Level",
    "MiddlewareSettings",
    "Policy",
    "Rule",
    "actor_of_request",
    "get_audit",
    "setup_audit",
    "user_of_request",
]

_KEPT: Final = "audit_async.flask"


def setup_audit(
    app: Flask, audit: AuditConfig | SyncAuditLogger | None = None, **settings: Unpack[MiddlewareSettings[Request]]
) -> SyncAuditLogger | None:
    """Record every request of `app`, and give its code a log: `get_audit()` returns it.

    Given a configuration, this opens a log at once, for the life of the process; under servers that fork, each worker
    has one of its own, also with `--preload`. It is drained and closed as the process ends. The first log of a process
    becomes that of `set_audit` as well, so that commands and threads find it outside of requests.

    Args:
        app: The application. Call this after other extensions have wrapped `app.wsgi_app`, so that it is outermost.
        audit: The configuration of the log, without `instance` if the server forks; or a log, which somebody else
            starts and closes. Left out, it is the one of `set_audit`.
        settings: Those of `audit_async.integrations.asgi.AuditMiddleware`. The `actor` hook is called with Flask's
            request, inside its context; left out, it is `user_of_request`.

    Returns:
        The log; None if `audit` was left out. It is also `app.extensions["audit"]`.

    Raises:
        ConfigError: A setting has a wrong value, or a name that is none.
        LogLocked, LogCorrupted, WriteFailed: The log can't be opened.
    """
    given: object = app  # which is not what its annotation promises, if the caller made a mistake
    if not isinstance(given, Flask):
        raise ConfigError("app", f"setup_audit takes a flask.Flask, not {shown(given)}")
    if "audit" in app.extensions:
        raise ConfigError("app", "setup_audit was called for this application before; its requests are recorded once")
    log = audit if audit is None or isinstance(audit, SyncAuditLogger) else SyncAuditLogger(_checked(audit))
    users = _Users(Settings(settings, default_actor=user_of_request).actor)
    of_environ = cast("MiddlewareSettings[WSGIEnvironment]", {**settings, "actor": users.of_environ})
    middleware = AuditMiddleware(app.wsgi_app, log, route_of=_route_of, **of_environ)
    if log is not None and log is not audit and stand_in() is None:
        log.start(blocks_event_loop=True)
    app.wsgi_app = middleware  # type: ignore[method-assign]  # Flask's own way of adding a middleware
    app.teardown_request(users.keep)
    app.extensions["audit"] = log
    if log is not None:
        before = set_audit(log)
        if before is not None:
            set_audit(before)
    return log


def actor_of_request() -> ActorInfo:
    """Return who asks, exactly as the record of the current request names the actor: for the application's own events.

    Returns:
        The actor; `anonymous`, with its address, if nobody is authenticated.

    Raises:
        ConfigError: The request is not served by an application that `setup_audit` was called for.
        RuntimeError: There is no current request.
        Exception: Whatever the actor hook raises.
    """
    return actor_of(request.environ)


def user_of_request(request: Request) -> ActorInfo | str | None:
    """Return who asked, as the application's authentication left the user in `flask.g.user`, or Flask-Login its own.

    A user that is an `ActorInfo` is taken as it is; of any other the first of `username`, `identity`, `user_id`, `sub`,
    `id`, `email` and `display_name` that it has is the `user_id`. Without either it is the server's `REMOTE_USER`. No
    user is looked up for it: with Flask-Login, one whom the view has not asked for is not known.

    Args:
        request: The request.

    Returns:
        The actor or its name; None if nobody is authenticated.
    """
    user = g.get("user")
    if user is None:
        user = g.get("_login_user")  # Flask-Login's, once `current_user` was looked at
    if isinstance(user, ActorInfo):
        return user
    return identity_of(user) if user is not None else request.remote_user


class _Kept(NamedTuple):
    """What is kept of a request in its environment, since the record is made after Flask's context has ended."""

    user: ActorInfo | str | None
    error: Exception | None  #: what the hook raised
    route: str | None


class _Users:
    """Asks who the user of a request is while Flask's context lives."""

    def __init__(self, hook: Callable[[Request], ActorInfo | str | None]) -> None:
        self._hook: Final = hook

    def of_environ(self, environ: WSGIEnvironment) -> ActorInfo | str | None:
        """Return who asked; raises what the hook raises, also if it did so earlier."""
        kept = environ.get(_KEPT)
        if isinstance(kept, _Kept):
            if kept.error is not None:
                raise kept.error
            return kept.user
        return self._hook(request) if has_request_context() else None

    def keep(self, _error: BaseException | None) -> None:
        """Keep who asked, and which route it was; called as Flask's context ends."""
        user, failure = None, None
        try:
            user = self._hook(request)
        except Exception as error:  # noqa: BLE001 - the recorder handles it, and counts a loss
            failure = error
        request.environ[_KEPT] = _Kept(user, failure, _rule_of(request))


def _checked(audit: object) -> AuditConfig:
    if isinstance(audit, AnyLogger):
        raise ConfigError("audit", "Flask's code is synchronous: give a SyncAuditLogger or the AuditConfig of one")
    return check_config(audit, "setup_audit")


def _route_of(environ: WSGIEnvironment) -> str | None:
    """Return the rule that Flask's router matched, such as `/orders/<int:order_id>`."""
    kept = environ.get(_KEPT)
    if isinstance(kept, _Kept):
        return kept.route
    return _rule_of(request) if has_request_context() else None


def _rule_of(request: Request) -> str | None:
    return None if request.url_rule is None else str(request.url_rule.rule)
