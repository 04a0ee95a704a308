"""aiohttp's server: the log's life is the application's, and a middleware of aiohttp's own kind records each request.

    app = web.Application()
    setup_audit(app, config)

    async def erase(request: web.Request) -> web.Response:
        get_audit(request).emit(...)

What differs from the ASGI middleware, since aiohttp tells less: bytes in are those that arrived, read or not; the body
of a request is kept only where the handler reads it whole; the messages of a WebSocket are not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from audit_async.config import AuditConfig
from audit_async.context import bind_checked, unbind_context
from audit_async.errors import ConfigError
from audit_async.events.base import ActorInfo
from audit_async.events.web import HttpOutcome
from audit_async.integrations._http.actor import identity_of
from audit_async.integrations._http.client_address import ForwardedHeader, TrustedProxies
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.recorder import ActorHook, Exchange, Recorder
from audit_async.integrations._http.request_policy import Level, Policy, Rule
from audit_async.logger import AuditLogger

__all__ = ["AUDIT", "Level", "Policy", "Rule", "actor_of_request", "get_audit", "setup_audit"]

#: Where the logger stands in the application: `app[AUDIT]`.
AUDIT: Final = web.AppKey("audit", AuditLogger)


def setup_audit(
    app: web.Application,
    config: AuditConfig,
    *,
    policy: Policy | None = None,
    actor: ActorHook[web.Request] | None = None,
    trusted_proxies: Iterable[str] = (),
    forwarded_header: ForwardedHeader = "x-forwarded-for",
    fail_closed: bool = False,
    send_request_id: bool = True,
) -> None:
    """Open a log for the life of `app`, and record every request; the settings are those of `AuditMiddleware`.

    The middleware is put before those that `app` has: it sees each answer sent before it records it, so what stood
    further out could not change the answer any more. The log is opened before whatever else is in `cleanup_ctx`, and
    closed after it.
    """
    recorder = Recorder(
        policy=policy,
        actor=actor or actor_of_request,
        proxies=TrustedProxies(trusted_proxies, header=forwarded_header),
    )

    async def audited(app: web.Application) -> AsyncIterator[None]:
        async with AuditLogger(config) as audit:
            app[AUDIT] = audit
            yield

    async def answered(_request: web.Request, response: web.StreamResponse) -> None:
        exchange = _exchange.get()
        if exchange is not None:
            exchange.answers(response)

    app.middlewares.insert(0, _middleware(recorder, fail_closed=fail_closed, send_request_id=send_request_id))
    app.cleanup_ctx.insert(0, audited)
    app.on_response_prepare.append(answered)


def get_audit(request: web.Request) -> AuditLogger:
    """Return the logger of the application, or of the one that it is a part of; `ConfigError` where there is none."""
    audit = request.config_dict.get(AUDIT)
    if isinstance(audit, AuditLogger):
        return audit
    raise ConfigError(
        "audit",
        "there is no audit logger in this application: call setup_audit(app, config) before it starts",
    )


def actor_of_request(request: web.Request) -> ActorInfo | str | None:
    """Return who asked, as the application's authentication left him in `request["user"]`."""
    return identity_of(request.get("user"))


def _middleware(recorder: Recorder[web.Request], *, fail_closed: bool, send_request_id: bool) -> Middleware:
    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        audit = get_audit(request)
        if fail_closed and not recorder.admits(audit):
            text = "The service can't record requests at the moment, and serves none unrecorded. Try again later.\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "5"})
        exchange = _RequestExchange(request, recorder)
        under_way = _exchange.set(exchange)
        recorder.begin_capture(exchange)
        bindings = correlation_of(exchange.header_map)
        if send_request_id:
            exchange.request_id = bindings["request_id"]
        token = bind_checked(bindings)
        try:
            return await _serve(handler, exchange)
        finally:
            _record(recorder, audit, exchange)
            unbind_context(token)
            _exchange.reset(under_way)
            if fail_closed:
                recorder.in_flight -= 1

    return record


class _RequestExchange(Exchange):
    """One request to an aiohttp application."""

    def __init__(self, request: web.Request, recorder: Recorder[web.Request]) -> None:
        is_web_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        method, path = "WEBSOCKET" if is_web_socket else request.method, request.path
        peername = None if request.transport is None else request.transport.get_extra_info("peername")
        Exchange.__init__(
            self,
            method,
            path,
            [(name.lower(), value) for name, value in request.raw_headers],
            recorder.policy.plan(method, path),
            request.raw_path.encode("utf-8", "surrogateescape"),
            request.rel_url.raw_query_string.encode("utf-8", "surrogateescape"),
            peername[0] if isinstance(peername, tuple) else None,  # a text on a UNIX socket
        )
        self.request: Final = request
        self._recorder: Final = recorder
        self.request_id: str | None = None
        self.response: web.StreamResponse | None = None  #: the answer, where there is one

    def matched_route(self) -> str | None:
        """Return the template that aiohttp's router matched."""
        resource = self.request.match_info.route.resource
        return None if resource is None else resource.canonical

    @property
    def shows_certificate(self) -> bool:
        """True where the client proved itself by a TLS certificate."""
        transport = self.request.transport
        return transport is not None and bool(transport.get_extra_info("peercert"))

    def answers(self, response: web.StreamResponse) -> None:
        """Take note of an answer that is about to be sent, and give it the request's id."""
        self.response = response
        if self.request_id is not None:
            response.headers.setdefault("X-Request-ID", self.request_id)
        headers = [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
        self._recorder.begin_response(self, response.status, headers)
        if isinstance(response, web.Response):
            body = response.body if isinstance(response.body, bytes | bytearray) else b""
            self.bytes_out = len(body) if response.content_length is None else response.content_length
            if self.response_capture is not None:
                self.response_capture.add(body)
        elif response.content_length is not None:  # a file, mostly, which the kernel sends
            self.bytes_out = response.content_length
        elif not isinstance(response, web.WebSocketResponse):
            self._count_writes(response)

    def _count_writes(self, response: web.StreamResponse) -> None:
        """See each part of a stream go out; aiohttp's own count has the headers in it."""
        write = response.write

        async def counted(data: bytes | bytearray | memoryview) -> None:
            await write(data)
            self.bytes_out += len(data)
            if self.response_capture is not None:
                self.response_capture.add(data)

        response.write = counted  # type: ignore[method-assign]  # of this one answer

    def failed(self, error: BaseException) -> None:
        """Take note that the handler, or the sending of its answer, raised."""
        self.error = type(error).__name__
        transport = self.request.transport
        cancelled = isinstance(error, asyncio.CancelledError)
        # A handler hears of it by what its next write raises, or by a cancellation, where the server is set up so.
        if transport is None or (isinstance(error, ConnectionError) and transport.is_closing()):
            self.outcome = HttpOutcome.CLIENT_DISCONNECTED
        elif cancelled:
            self.outcome = HttpOutcome.CANCELLED
        else:
            self.outcome = HttpOutcome.FAILED
            if self.status is None and isinstance(error, Exception):
                self.status = 504 if isinstance(error, asyncio.TimeoutError) else 500  # what aiohttp answers then


#: The request that this task serves, for the signal that its answer is about to be sent.
_exchange: Final[ContextVar[_RequestExchange | None]] = ContextVar("audit_async_exchange", default=None)


async def _serve(handler: Handler, exchange: _RequestExchange) -> web.StreamResponse:
    """Ask the handler and send its answer, so that its last byte is known; take note of how it ended."""
    try:
        response = await handler(exchange.request)
        if not isinstance(response, web.WebSocketResponse):
            await response.prepare(exchange.request)
            await response.write_eof()
    except web.HTTPException as answer:  # an answer like any other, which aiohttp itself will send
        exchange.answers(answer)
        raise
    except BaseException as error:
        exchange.failed(error)
        raise
    return response


def _record(recorder: Recorder[web.Request], audit: AuditLogger, exchange: _RequestExchange) -> None:
    """Fill in what is known at the end, and record it."""
    request, response = exchange.request, exchange.response
    exchange.bytes_in = request.content.total_bytes
    if isinstance(response, web.WebSocketResponse):
        recorder.record_web_socket(audit, exchange, request, close_code=response.close_code)
        return
    read = request._read_bytes  # noqa: SLF001 - asking for it in public would read what the handler left
    if exchange.request_capture is not None and read is not None:
        exchange.request_capture.add(read)
    if exchange.method == "HEAD":
        exchange.bytes_out = 0
    recorder.record(audit, exchange, request)
