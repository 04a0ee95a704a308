"""aiohttp's server: the log's life is the application's, and a middleware of aiohttp's own kind records each request.

    app = web.Application()
    setup_audit(app, config)

    async def erase(request: web.Request) -> web.Response:
        get_audit(request).emit(InvoicePaid(actor=actor_of(request), invoice_id="17"))

What differs from the ASGI middleware, since aiohttp shows less: bytes in are those that arrived, read or not; the body
of a request is kept only if the handler reads it whole; the messages of a WebSocket are not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, NamedTuple, Unpack

from audit_async._first_use import installed_by

with installed_by("audit-async[aiohttp]", __name__):
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

from audit_async.ambient import bind_actor, unbind_actor
from audit_async.ambient.ambient_log import audit_here
from audit_async.config import AuditConfig
from audit_async.context import bind_checked, unbind_context
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo, HttpOutcome
from audit_async.integrations._http.actor import identity_of
from audit_async.integrations._http.admission import REFUSAL, RETRY_AFTER_S
from audit_async.integrations._http.client_address import ForwardedHeader
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.exchange import Arrival, Exchange
from audit_async.integrations._http.recorder import Recorder, SourceView
from audit_async.integrations._http.request_policy import Level, Plan, Policy, Rule
from audit_async.integrations._http.settings import ActorHook, MiddlewareSettings, Settings, check_config
from audit_async.integrations._http.web_socket import WebSocketExchange
from audit_async.logger import AuditLogger

__all__ = [
    "AUDIT",
    "ActorHook",
    "ForwardedHeader",
    "Level",
    "MiddlewareSettings",
    "Policy",
    "Rule",
    "actor_of",
    "actor_of_request",
    "get_audit",
    "setup_audit",
]

#: The key of the logger in the application: `app[AUDIT]`.
AUDIT: Final = web.AppKey("audit", AuditLogger)

_WEB_SOCKET_METHOD: Final = "WEBSOCKET"  # in rules and records, as in the ASGI middleware

_METADATA: Final = Level.METADATA


def setup_audit(app: web.Application, config: AuditConfig, **settings: Unpack[MiddlewareSettings[web.Request]]) -> None:
    """Open a log for the life of `app`, and record every request.

    The middleware is put before those that `app` has: it sees each answer sent before it records it, so what was
    further out could not change the answer any more. The log is opened before whatever else is in `cleanup_ctx`, and
    closed after it.

    Args:
        app: The application, or one that becomes a part of another by `add_subapp`: then only its own requests are
            recorded, and the rules match their paths without its prefix.
        config: The configuration of the log.
        settings: Those of `audit_async.integrations.asgi.AuditMiddleware`; the `actor` hook is called with the request.

    Raises:
        ConfigError: A setting has a wrong value, or a name that is none.
    """
    if not isinstance(app, web.Application):
        raise ConfigError("app", f"setup_audit takes an aiohttp.web.Application, not a {type(app).__name__}")
    check_config(config, "setup_audit")
    checked = Settings(settings, default_actor=actor_of_request)

    async def audited(app: web.Application) -> AsyncIterator[None]:
        async with AuditLogger(config) as audit:
            app[AUDIT] = audit
            yield

    app.middlewares.insert(0, _middleware(checked))
    app.cleanup_ctx.insert(0, audited)
    app.on_response_prepare.append(_begin_answer)


def get_audit(request: web.Request) -> AuditLogger:
    """Return the logger of the application, or of the one that it is a part of.

    Args:
        request: A request to the application.

    Raises:
        ConfigError: There is no logger.
    """
    audit = request.config_dict.get(AUDIT)
    if isinstance(audit, AuditLogger):
        return audit
    raise ConfigError(
        "audit",
        "there is no audit logger in this application: call setup_audit(app, config) before it starts",
    )


def actor_of(request: web.Request) -> ActorInfo:
    """Return who asks, exactly as the record of the request names the actor: for the application's own events.

    Args:
        request: A request to an application that `setup_audit` was called with.

    Returns:
        The actor; `anonymous`, with its address, if nobody is authenticated.

    Raises:
        ConfigError: The request is not served by such an application.
        Exception: Whatever the actor hook raises.
    """
    served = request.get(_SERVED)
    if not isinstance(served, _Served):
        raise ConfigError("audit", "the request is not recorded: call setup_audit(app, config) before the start")
    return served.recorder.actor_of(served.exchange.arrival, request)


def actor_of_request(request: web.Request) -> ActorInfo | str | None:
    """Return who asked, as the application's authentication left the user in `request["user"]`.

    A user that is an `ActorInfo` is taken as it is; of any other the first of `username`, `identity`, `user_id`, `sub`,
    `id`, `email` and `display_name` that it has is the `user_id`.

    Args:
        request: The request.

    Returns:
        The actor or its name; None if nobody is authenticated.
    """
    user = request.get("user")
    return user if isinstance(user, ActorInfo) else identity_of(user)


class _Served(NamedTuple):
    """What is known of a request that is being served; in the request, for the signal and for `actor_of`."""

    recorder: Recorder[web.Request]
    exchange: Exchange
    request_id: str | None  #: to be sent back with the answer


def _key(name: str) -> Any:  # noqa: ANN401 - aiohttp has typed keys of requests from 3.14 on, and asks for them
    return web.RequestKey(name, object) if hasattr(web, "RequestKey") else name


#: The keys of what this module keeps in a request.
_SERVED: Final = _key("audit_async.served")
_WEB_SOCKET: Final = _key("audit_async.web_socket")


def _middleware(settings: Settings[web.Request]) -> Middleware:
    recorder = Recorder(settings, SourceView(_matched_route, _shows_certificate))
    prefix: str | None = None

    async def serve(audit: AuditLogger, request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal prefix
        if prefix is None:
            prefix = _prefix_of(request)
        exchange = _exchange_for(request, recorder, prefix)
        bindings = correlation_of(exchange.arrival.header_map)
        request_id = bindings["request_id"] if settings.send_request_id else None
        served = _Served(recorder, exchange, request_id)
        outer, request[_SERVED] = request.get(_SERVED), served
        token = bind_checked(bindings)
        audit_token = audit_here.set(audit)
        actor_token = bind_actor(partial(recorder.actor_of, exchange.arrival, request))
        try:
            if _begins(served) and not await recorder.record_start(audit, exchange.arrival):
                return _refusal()
            try:
                return await _answer(handler, request, served)
            finally:
                _record(audit, served, request)
        finally:
            unbind_actor(actor_token)
            audit_here.reset(audit_token)
            unbind_context(token)
            if outer is not None:
                request[_SERVED] = outer

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        audit = get_audit(request)
        if recorder.admission is None:
            return await serve(audit, request, handler)
        with recorder.admission.admit(audit) as admitted:
            return await serve(audit, request, handler) if admitted else _refusal()

    return record


def _refusal() -> web.Response:
    return web.Response(status=503, text=REFUSAL.decode(), headers={"Retry-After": str(RETRY_AFTER_S)})


def _exchange_for(request: web.Request, recorder: Recorder[web.Request], prefix: str) -> Exchange:
    peername = None if request.transport is None else request.transport.get_extra_info("peername")
    headers = [(name.lower(), value) for name, value in request.raw_headers]
    arrival = Arrival(
        request.method,
        request.path,
        prefix,
        request.raw_path.encode("utf-8", "surrogateescape"),
        request.rel_url.raw_query_string.encode("utf-8", "surrogateescape"),
        headers,
        dict(headers),
        peername[0] if isinstance(peername, tuple) else None,  # a text on a UNIX socket
        perf_counter_ns(),
    )
    exchange = Exchange(arrival, recorder.plan(arrival.method, arrival.path, prefix))
    if exchange.plan.capture > _METADATA:
        exchange.request_capture = recorder.capture_for(arrival.header_map)
    return exchange


def _begins(served: _Served) -> bool:
    """Return whether the policy wants the request's start recorded, as what it is or as the WebSocket it may become."""
    arrival, plan = served.exchange.arrival, served.exchange.plan
    return plan.begin or (arrival.is_upgrade and _plan_as_web_socket(served).begin)


def _plan_as_web_socket(served: _Served) -> Plan:
    arrival = served.exchange.arrival
    return served.recorder.plan(_WEB_SOCKET_METHOD, arrival.path, arrival.root_path)


def _prefix_of(request: web.Request) -> str:
    """Return the prefix below which the application that serves a request was added to others; mostly empty."""
    served_by = request.app
    outermost = request.match_info.apps[0]
    if served_by is outermost:
        return ""
    for application in request.match_info.apps:
        for resource in application.router.resources():
            info = resource.get_info()
            if info.get("app") is served_by:
                return info.get("prefix", "")
    return ""


def _matched_route(request: web.Request) -> str | None:
    """Return the template that aiohttp's router matched."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def _shows_certificate(request: web.Request) -> bool:
    """Return whether the client proved itself by a TLS certificate."""
    transport = request.transport
    return transport is not None and bool(transport.get_extra_info("peercert"))


async def _begin_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Note an answer that is about to be sent, and give it the request's id; aiohttp calls this for every answer.

    Also for the 500 that aiohttp itself makes of an exception, after the middleware.
    """
    served = request.get(_SERVED)
    if not isinstance(served, _Served):
        return
    if served.request_id is not None:
        response.headers.setdefault("X-Request-ID", served.request_id)
    if isinstance(response, web.WebSocketResponse):
        request[_WEB_SOCKET] = response
    _note_answer(served, response)


def _note_answer(served: _Served, response: web.StreamResponse) -> None:
    exchange = served.exchange
    headers = [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
    exchange.status, exchange.response_headers = response.status, headers
    if exchange.plan.capture > _METADATA:
        exchange.response_capture = served.recorder.capture_for_answer(exchange, headers)
    if isinstance(response, web.Response):
        body = response.body if isinstance(response.body, bytes | bytearray) else b""
        exchange.bytes_out = len(body) if response.content_length is None else response.content_length
        if exchange.response_capture is not None:
            exchange.response_capture.add(body)
    elif response.content_length is not None:  # a file, mostly, which the kernel sends
        exchange.bytes_out = response.content_length
    elif not isinstance(response, web.WebSocketResponse):
        _count_writes(exchange, response)


def _count_writes(exchange: Exchange, response: web.StreamResponse) -> None:
    """See each part of a stream go out; aiohttp's own count has the headers in it."""
    write = response.write

    async def counted(data: bytes | bytearray | memoryview) -> None:
        await write(data)
        exchange.bytes_out += len(data)
        if exchange.response_capture is not None:
            exchange.response_capture.add(data)

    response.write = counted  # type: ignore[method-assign]  # of this one answer


async def _answer(handler: Handler, request: web.Request, served: _Served) -> web.StreamResponse:
    """Ask the handler and send its answer, so that its last byte is known; note how it ended."""
    try:
        response = await handler(request)
        if not isinstance(response, web.WebSocketResponse):
            if not response.prepared:
                response = _unless_withheld(request, served, response)
            await response.prepare(request)
            await response.write_eof()
    except web.HTTPException as answer:  # an answer like any other, which aiohttp itself will send
        withheld = _unless_withheld(request, served, answer)
        _note_answer(served, withheld)
        if withheld is not answer:
            return withheld
        if served.request_id is not None:
            answer.headers.setdefault("X-Request-ID", served.request_id)
        raise
    except BaseException as error:
        _note_failure(served.exchange, request, error)
        raise
    return response


def _unless_withheld(request: web.Request, served: _Served, response: web.StreamResponse) -> web.StreamResponse:
    """Return the answer; with `fail_closed` a 503 in its place if it could not be recorded."""
    if served.recorder.admission is None:
        return response
    exchange = served.exchange
    exchange.status = response.status
    obstacle = served.recorder.withhold(get_audit(request), exchange, request)
    if obstacle is None:
        return response
    exchange.note = f"the application's answer with status {response.status} was withheld: {obstacle}"
    return _refusal()


def _note_failure(exchange: Exchange, request: web.Request, error: BaseException) -> None:
    """Note that the handler, or the sending of its answer, raised."""
    exchange.error = type(error).__name__
    transport = request.transport
    # A handler hears of it by what its next write raises, or by a cancellation if the server is set up so.
    if transport is None or (isinstance(error, ConnectionError) and transport.is_closing()):
        exchange.outcome = HttpOutcome.CLIENT_DISCONNECTED
    elif isinstance(error, asyncio.CancelledError):
        exchange.outcome = HttpOutcome.CANCELLED
    else:
        exchange.outcome = HttpOutcome.FAILED
        if exchange.status is None and isinstance(error, Exception):
            exchange.status = 504 if isinstance(error, asyncio.TimeoutError) else 500  # what aiohttp answers then


def _record(audit: AuditLogger, served: _Served, request: web.Request) -> None:
    """Fill in what is known at the end, and record it."""
    recorder, exchange = served.recorder, served.exchange
    exchange.bytes_in = request.content.total_bytes
    web_socket = request.get(_WEB_SOCKET)
    if isinstance(web_socket, web.WebSocketResponse):
        recorder.record_web_socket(audit, _as_web_socket(served, web_socket), request)
        return
    read = request._read_bytes  # noqa: SLF001 - asking for it in public would read what the handler left
    if exchange.request_capture is not None and read is not None:
        exchange.request_capture.add(read)
    if exchange.arrival.method == "HEAD":
        exchange.bytes_out = 0
    recorder.record(audit, exchange, request)


def _as_web_socket(served: _Served, response: web.WebSocketResponse) -> WebSocketExchange:
    """Return what is known of a WebSocket, which began as a request; aiohttp does not show its messages."""
    request = served.exchange
    web_socket = WebSocketExchange(request.arrival.as_web_socket(), _plan_as_web_socket(served))
    web_socket.status, web_socket.outcome = request.status, request.outcome
    web_socket.error, web_socket.note = request.error, request.note
    web_socket.close_code = response.close_code
    web_socket.messages_in = web_socket.messages_out = None
    return web_socket
