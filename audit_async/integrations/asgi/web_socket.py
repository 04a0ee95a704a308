"""One WebSocket on its way through, from the handshake to its close: messages pass and are counted, none is kept."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

import anyio

from audit_async.events.web import HttpOutcome
from audit_async.integrations._http.recorder import Exchange, Recorder
from audit_async.integrations.asgi.connection import route_of_scope, shows_certificate
from audit_async.integrations.asgi.messages import (
    REFUSAL,
    RETRY_AFTER_S,
    Message,
    Receive,
    Scope,
    Send,
    message_bytes,
    with_request_id,
)
from audit_async.logger import AuditLogger

__all__ = ["WebSocketExchange"]

#: RFC 6455's registry: "Try Again Later".
_TRY_AGAIN_LATER: Final = 1013


class WebSocketExchange(Exchange):
    """One WebSocket: passes messages on and counts them."""

    request_id: bytes | None = None  #: to be sent back with the handshake
    _accepted = False
    _close_code: int | None = None
    _closed_by: str | None = None
    _messages_in = 0
    _messages_out = 0

    def __init__(
        self, recorder: Recorder[Scope], audit: AuditLogger, scope: Scope, receive: Receive, send: Send
    ) -> None:
        path, client = scope["path"], scope.get("client")
        Exchange.__init__(
            self,
            "WEBSOCKET",
            path,
            scope["headers"],
            recorder.policy.plan("WEBSOCKET", path),
            scope.get("raw_path") or b"",
            b"",
            client[0] if client else None,
        )
        self.audit = audit
        self.scope = scope
        self._recorder = recorder
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """Pass on what comes from the client."""
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.receive":
            self._messages_in += 1
            self.bytes_in += message_bytes(message)
        elif kind == "websocket.disconnect" and self._closed_by is None:
            self._close_code, self._closed_by = message.get("code", 1005), "client"
            self.ended_ns = perf_counter_ns()
        return message

    async def send(self, message: Message) -> None:
        """Pass on what goes to the client."""
        kind = message["type"]
        if kind == "websocket.send":
            self._messages_out += 1
            self.bytes_out += message_bytes(message)
        elif kind == "websocket.accept":
            self._accepted = True
            self.status = 101
            if self.request_id is not None:
                headers = list(message.get("headers", ()))
                message = {**message, "headers": with_request_id(headers, self.request_id)}
        elif kind == "websocket.close":
            if not self._accepted:
                self.status = 403  # what a server answers to a handshake that is not accepted
            elif self._closed_by is None:
                self._close_code, self._closed_by = message.get("code", 1000), "server"
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
            self.response_headers = message.get("headers", ())
        elif kind == "websocket.http.response.body":
            self.bytes_out += len(message.get("body", b""))
        try:
            await self._send(message)
        except OSError:
            self.disconnected = True
            raise
        if kind == "websocket.close":
            self.ended_ns = perf_counter_ns()

    def failed(self, error: BaseException) -> None:
        """Record that the application raised; a client that left is a usual end, however the application learns it."""
        self.error = type(error).__name__
        if self.disconnected or self._closed_by == "client":
            self.outcome = HttpOutcome.CLIENT_DISCONNECTED
        elif isinstance(error, anyio.get_cancelled_exc_class()):
            self.outcome = HttpOutcome.CANCELLED
        else:
            self.outcome = HttpOutcome.FAILED
            if self.status is None and isinstance(error, Exception):
                self.status = 500
        self._record()

    def returned(self) -> None:
        """Record that the application is done with the WebSocket."""
        if self.status is None:
            self.outcome = HttpOutcome.CLIENT_DISCONNECTED if self._closed_by == "client" else HttpOutcome.NO_RESPONSE
        self._record()

    def _record(self) -> None:
        self._recorder.record_web_socket(
            self.audit,
            self,
            self.scope,
            close_code=self._close_code,
            closed_by=self._closed_by,
            messages=(self._messages_in, self._messages_out),
        )

    async def refuse(self) -> None:
        """Turn the handshake down without asking the application: 503 where the server can say so, otherwise 403."""
        await self._receive()
        if "websocket.http.response" in (self.scope.get("extensions") or {}):
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", RETRY_AFTER_S)]
            await self._send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
            await self._send({"type": "websocket.http.response.body", "body": REFUSAL})
        else:
            await self._send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "the audit log is full"})

    def matched_route(self) -> str | None:
        """Return the template that the framework's router matched."""
        return route_of_scope(self.scope)

    @property
    def shows_certificate(self) -> bool:
        """True where the server says that the client proved itself by a TLS certificate."""
        return shows_certificate(self.scope)
