"""The middleware itself: an exchange for each connection, its context bound, its end recorded whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from audit_async.context import bind_checked, unbind_context
from audit_async.errors import ConfigError
from audit_async.integrations._http.client_address import ForwardedHeader, TrustedProxies
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.recorder import ActorHook, Recorder
from audit_async.integrations._http.request_policy import Policy
from audit_async.integrations.asgi.connection import actor_of_scope, logger_of_scope
from audit_async.integrations.asgi.messages import ASGIApp, Receive, Scope, Send
from audit_async.integrations.asgi.request import HttpExchange
from audit_async.integrations.asgi.web_socket import WebSocketExchange
from audit_async.logger import AuditLogger

__all__ = ["AuditMiddleware"]


class AuditMiddleware:
    """Records every HTTP request and every WebSocket of `app`, by the rules of `policy`.

    - `audit`: the logger, or a function that returns it for a scope; left out, it is what `audit_lifespan` has opened.
    - `policy`: which requests are recorded, and how much of each; left out, the metadata of all.
    - `actor`: called once the application has answered, with the scope in which its own middleware left the user or the
      session; returns an `ActorInfo`, a user's name or id, or None. What it raises never reaches the request.
    - `trusted_proxies`: addresses and networks whose `forwarded_header` is believed; `unix` for UNIX sockets.
    - `fail_closed`: answer 503 instead of asking the application while the trail can't take a record more: the buffer
      is full to its last tenth, the disk fails, the log is closed. Otherwise requests are served, and what is lost is
      counted (`unrecorded`), and recorded by the log itself as soon as it has room.
    - `send_request_id`: send the request's id back as `X-Request-ID`, unless the application does.

    What the application emits meanwhile has the same `request_id`, `trace_id` and `span_id` in its context.
    """

    def __init__(
        self,
        app: ASGIApp,
        audit: AuditLogger | Callable[[Scope], AuditLogger] | None = None,
        *,
        policy: Policy | None = None,
        actor: ActorHook[Scope] | None = None,
        trusted_proxies: Iterable[str] = (),
        forwarded_header: ForwardedHeader = "x-forwarded-for",
        fail_closed: bool = False,
        send_request_id: bool = True,
    ) -> None:
        self.app: Final = app
        self._find_audit: Final = _finder(audit)
        self._recorder: Final = Recorder(
            policy=policy,
            actor=actor or actor_of_scope,
            proxies=TrustedProxies(trusted_proxies, header=forwarded_header),
        )
        self._fail_closed: Final = fail_closed
        self._send_request_id: Final = send_request_id

    @property
    def unrecorded(self) -> int:
        """Requests that were served and could not be recorded, since the start."""
        return self._recorder.unrecorded

    @property
    def refused(self) -> int:
        """Requests that were answered 503 because they could not have been recorded, since the start."""
        return self._recorder.refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind == "http":
            exchange: HttpExchange | WebSocketExchange = HttpExchange(
                self._recorder, self._find_audit(scope), scope, receive, send
            )
        elif kind == "websocket":
            exchange = WebSocketExchange(self._recorder, self._find_audit(scope), scope, receive, send)
        else:
            await self.app(scope, receive, send)
            return
        if self._fail_closed and not self._recorder.admits(exchange.audit):
            await exchange.refuse()
            return
        bindings = correlation_of(exchange.header_map)
        if self._send_request_id:
            exchange.request_id = bindings["request_id"].encode("ascii")
        token = bind_checked(bindings)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.failed(error)
            raise
        else:
            exchange.returned()
        finally:
            unbind_context(token)
            if self._fail_closed:
                self._recorder.in_flight -= 1


def _finder(audit: AuditLogger | Callable[[Scope], AuditLogger] | None) -> Callable[[Scope], AuditLogger]:
    if audit is None:
        return logger_of_scope
    if isinstance(audit, AuditLogger):
        return lambda _scope: audit
    if callable(audit):
        return audit
    raise ConfigError("audit", "must be an AuditLogger or a function that returns it for a scope")
