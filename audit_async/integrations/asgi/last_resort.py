"""The 500 that a framework makes of an exception, outside all middleware: it carries the request's id as well.

Starlette and FastAPI answer an exception in their outermost layer, after it has passed every middleware of the
application's own. So this adds one layer around theirs, which gives such an answer to the relay that saw the request:
the answer has the request's id, and the record has the status that was sent to the client.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from audit_async.integrations._endpoint import Endpoint
from audit_async.integrations.asgi.messages import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from audit_async.integrations.asgi.http_relay import HttpRelay

__all__ = ["LAST_RESORT_KEY", "LastResort", "prepare_starlette"]

#: Where the layer leaves in the scope what a relay gives its unanswered request to.
LAST_RESORT_KEY: Final = "audit_async.last_resort"


class LastResort(msgspec.Struct, eq=False):
    """Takes over a request that ended by an exception before its answer. Owned by the task of the request."""

    server_send: Send
    relay: HttpRelay | None = None  #: the request that was taken over

    def take_over(self, relay: HttpRelay) -> Send:
        """Give what is sent from now on to this relay; return where it is to send it."""
        self.relay = relay
        return self.server_send

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on, through the relay if it waits for an answer.

        Not a coroutine of its own, which each message of each request would pay for.
        """
        return self.server_send(message) if self.relay is None else self.relay.send(message)


class _OutermostLayer:
    """An ASGI application around a framework's whole stack."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        outer = scope.get(LAST_RESORT_KEY)
        last_resort = scope[LAST_RESORT_KEY] = LastResort(send)
        try:
            await self.app(scope, receive, last_resort.send)
        finally:
            if last_resort.relay is not None:
                last_resort.relay.ended()  # records it if nobody has answered
            scope[LAST_RESORT_KEY] = outer


class _ExactPath:
    """An ASGI application as the endpoint of a route: Starlette takes objects, but no functions, for applications."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def prepare_starlette(app: Any) -> None:  # noqa: ANN401 - a Starlette application, which is not imported here
    """Make an application of Starlette or FastAPI ready, once: its 500 answers, and mounts of a single endpoint.

    `app.mount("/ready", ReadinessEndpoint(audit))` matches `/ready/` alone, and Starlette answers `/ready` with a
    redirect, which a load balancer takes for an answer. So such a mount gets a route for its exact path.
    """
    stack = app.middleware_stack
    if stack is None or isinstance(stack, _OutermostLayer):
        return
    app.middleware_stack = _OutermostLayer(stack)
    from starlette.routing import Mount, Route  # noqa: PLC0415 - the application is one of Starlette's

    routes = app.router.routes
    for route in list(routes):
        if isinstance(route, Mount) and route.path and _is_endpoint(route.app):
            exact = Route(route.path, _ExactPath(route.app), include_in_schema=False)
            routes.insert(routes.index(route), exact)


def _is_endpoint(app: object) -> bool:
    """Return whether an application answers at one path only: ours, or what `prometheus_client` makes."""
    return isinstance(app, Endpoint) or getattr(app, "__module__", "") == "prometheus_client.asgi"
