"""The middleware itself: a relay for each connection, its context bound, its end recorded whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Unpack

from audit_async.ambient import AnyLogger
from audit_async.ambient.ambient_actor import actor_here
from audit_async.ambient.ambient_log import audit_here
from audit_async.config import AuditConfig
from audit_async.context import Bound, bind_checked, bound_here, reset_bound, set_bound
from audit_async.errors import ConfigError
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.recorder import Recorder
from audit_async.integrations._http.settings import MiddlewareSettings, Settings
from audit_async.integrations.asgi.connection import SCOPE_VIEW, actor_of_scope
from audit_async.integrations.asgi.found_log import LogFinder
from audit_async.integrations.asgi.http_relay import HttpRelay
from audit_async.integrations.asgi.last_resort import prepare_starlette
from audit_async.integrations.asgi.messages import ASGIApp, Receive, Scope, Send
from audit_async.integrations.asgi.web_socket_relay import WebSocketRelay
from audit_async.logger import AuditLogger

__all__ = ["AuditMiddleware"]

#: The types of connections that are recorded.
_RECORDED: Final = frozenset({"http", "websocket"})


class AuditMiddleware:
    """Records every HTTP request and every WebSocket of `app`, by the rules of a policy.

    What the application emits meanwhile has the same `request_id`, `trace_id` and `span_id` in its context, and
    `get_audit()` and `current_actor()` return the log and the actor of the request. Nothing that goes wrong here
    reaches a request, except that `fail_closed` refuses it.

    Args:
        app: The ASGI application.
        audit: The logger, or a function that returns it for a scope. Left out, it is what `audit_lifespan` has opened,
            or what `set_audit` has set. An override of `get_audit` in FastAPI's `dependency_overrides` goes before.
        policy: Which requests are recorded, and how much of each. Left out, the metadata of all.
        actor: Says who asked. Called with the scope once the application has answered (with `fail_closed` also before
            the answer begins), when its own middleware has left the user or the session there; returns an `ActorInfo`,
            a user's name or id, or None. If it raises, the request is recorded without the actor, and counted as a
            loss.
        trusted_proxies: Addresses and networks whose `forwarded_header` is believed; `unix` for UNIX sockets.
        forwarded_header: `x-forwarded-for` or `forwarded`: what the proxies write.
        fail_closed: Answer 503 instead of asking the application while the trail can't take a record more: the buffer
            is full to its last tenth, the disk fails, the log is closed, or a request was lost less than five seconds
            ago. An answer whose record turns out to be impossible is withheld, and 503 sent instead. By default
            requests are served, and what is lost is counted.
        send_request_id: Send the request's id back as `X-Request-ID`, unless the application does.

    Raises:
        ConfigError: A setting has a wrong value, or a name that is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        audit: AnyLogger | Callable[[Scope], AnyLogger] | None = None,
        **settings: Unpack[MiddlewareSettings[Scope]],
    ) -> None:
        _check_app(app)
        checked = Settings(settings, default_actor=actor_of_scope)
        self.app: Final = app
        self._logs: Final = LogFinder(app, audit)
        self._recorder: Final = Recorder(checked, SCOPE_VIEW)
        self._send_request_id: Final = checked.send_request_id
        self._is_prepared = False

    def __repr__(self) -> str:
        closed = "" if self._recorder.admission is None else " fail_closed"
        return f"<AuditMiddleware{closed} unrecorded={self.unrecorded} refused={self.refused} {self._recorder.policy}>"

    @property
    def unrecorded(self) -> int:
        """Requests that were served and could not be recorded, since the start."""
        return self._recorder.unrecorded

    @property
    def refused(self) -> int:
        """Requests that were answered 503 because they could not have been recorded, since the start."""
        return 0 if self._recorder.admission is None else self._recorder.admission.refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind not in _RECORDED:
            self._prepare(scope)
            await self.app(scope, receive, send)
            return
        logs, recorder = self._logs, self._recorder
        audit = logs.find_at_once(scope)
        if audit is None:
            audit = await logs.find(scope)
        relay: HttpRelay | WebSocketRelay = (HttpRelay if kind == "http" else WebSocketRelay)(
            recorder, audit, scope, receive, send
        )
        if not self._is_prepared:
            self._prepare(scope)
        # What nearly every request needs is done here, without functions around it: see `Recorder.record`.
        bindings = correlation_of(relay.exchange.arrival.header_map)
        token = set_bound(Bound(bindings)) if bound_here() is None else bind_checked(bindings)
        relay.served.bound = bound_here()
        audit_token = audit_here.set(audit)
        actor_token = actor_here.set(relay.actor)
        admission, admitted = recorder.admission, False
        try:
            admitted = admission is None or admission.enter(audit)
            if admitted and self._send_request_id:
                relay.request_id = bindings["request_id"].encode("ascii")
            if not admitted or (
                relay.exchange.plan.begin and not await recorder.record_start(audit, relay.exchange.arrival)
            ):
                await relay.refuse()
                return
            await self.app(scope, relay.receive, relay.send)
        except BaseException as error:
            relay.failed(error)
            raise
        else:
            if not relay.recorded:
                relay.returned()
        finally:
            if admission is not None and admitted:
                admission.leave()
            actor_here.reset(actor_token)
            audit_here.reset(audit_token)
            reset_bound(token)

    def _prepare(self, scope: Scope) -> None:
        """Make the framework that this is inside of ready, at its life span or with the first request."""
        self._is_prepared = True
        app = scope.get("app")
        if getattr(app, "middleware_stack", None) is not None and hasattr(app, "router"):
            prepare_starlette(app)


def _check_app(app: object) -> None:
    if not callable(app) or isinstance(app, AuditLogger | AuditConfig):
        raise ConfigError("app", f"must be an ASGI application, not a {type(app).__name__}")
