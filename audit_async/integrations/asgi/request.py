"""One HTTP request on its way through: messages pass, and what they tell is noted."""

from __future__ import annotations

from typing import Final

import anyio

from audit_async.events.web import HttpOutcome
from audit_async.integrations._http.recorder import Exchange, Recorder
from audit_async.integrations._http.request_policy import Level
from audit_async.integrations.asgi.connection import route_of_scope, shows_certificate
from audit_async.integrations.asgi.messages import (
    REFUSAL,
    RETRY_AFTER_S,
    Message,
    Receive,
    Scope,
    Send,
    content_length,
    with_request_id,
)
from audit_async.logger import AuditLogger

__all__ = ["HttpExchange"]

_METADATA: Final = Level.METADATA  # as in `recorder`: an enum's member is dear to look up


class HttpExchange(Exchange):
    """One HTTP request: passes messages on and takes note of them."""

    request_id: bytes | None = None  #: to be sent back with the answer
    _recorded = False
    _has_trailers = False

    def __init__(
        self, recorder: Recorder[Scope], audit: AuditLogger, scope: Scope, receive: Receive, send: Send
    ) -> None:
        method, path, client = scope["method"], scope["path"], scope.get("client")
        plan = recorder.policy.plan(method, path)
        Exchange.__init__(
            self,
            method,
            path,
            scope["headers"],
            plan,
            scope.get("raw_path") or b"",
            scope.get("query_string", b""),
            client[0] if client else None,
        )
        self.audit = audit
        self.scope = scope
        self._recorder = recorder
        self._receive = receive
        self._send = send
        if plan.capture > _METADATA:
            recorder.begin_capture(self)

    async def receive(self) -> Message:
        """Pass on what comes from the client."""
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            body = message.get("body", b"")
            self.bytes_in += len(body)
            if self.request_capture is not None:
                self.request_capture.add(body)
        elif kind == "http.disconnect" and not self._recorded:
            self.disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Pass on what goes to the client; the answer's last byte is the moment to record."""
        kind = message["type"]
        if kind == "http.response.body":
            body = message.get("body", b"")
            self.bytes_out += len(body)
            if self.response_capture is not None:
                self.response_capture.add(body)
            last = not (message.get("more_body") or self._has_trailers)
        elif kind == "http.response.start":
            last = False
            headers = message.get("headers", ())
            if self.request_id is not None:
                headers = list(headers)
                message = {**message, "headers": with_request_id(headers, self.request_id)}
            self.status = message["status"]
            self.response_headers = headers
            if self.plan.capture > _METADATA:
                self._recorder.begin_response(self, message["status"], headers)
            if message.get("trailers"):
                self._has_trailers = True
        else:
            last = self._passed_otherwise(kind, message)
        try:
            await self._send(message)
        except OSError:  # what a server raises that says so when the client is gone, from ASGI 2.4 on
            self.disconnected = True
            raise
        if last:
            self._record()

    def _passed_otherwise(self, kind: str, message: Message) -> bool:
        """Take note of a message of one of the protocol's extensions; True where it is the answer's last."""
        if kind == "http.response.trailers":
            return not message.get("more_trailers")
        if kind == "http.response.zerocopysend":
            self.bytes_out += message.get("count") or 0
            return not (message.get("more_body") or self._has_trailers)
        if kind == "http.response.pathsend":
            self.bytes_out = content_length(self.response_headers)
            return not self._has_trailers
        return False

    def failed(self, error: BaseException) -> None:
        """Record that the application raised."""
        if self._recorded:
            return
        self.error = type(error).__name__
        if self.disconnected:
            self.outcome = HttpOutcome.CLIENT_DISCONNECTED
        elif isinstance(error, anyio.get_cancelled_exc_class()):
            self.outcome = HttpOutcome.CANCELLED
        else:
            self.outcome = HttpOutcome.FAILED
            if self.status is None and isinstance(error, Exception):
                self.status = 500  # what every server answers then
        self._record()

    def returned(self) -> None:
        """Record that the application returned, unless the end of its answer did."""
        if self._recorded:
            return
        if self.disconnected:
            self.outcome = HttpOutcome.CLIENT_DISCONNECTED
        else:
            self.outcome = HttpOutcome.NO_RESPONSE
            if self.status is None:
                self.status = 500  # as above
        self._record()

    def _record(self) -> None:
        self._recorded = True
        if self.disconnected:
            self.outcome = HttpOutcome.CLIENT_DISCONNECTED
        if self.method == "HEAD":
            self.bytes_out = 0  # the server sends none of it
        self._recorder.record(self.audit, self, self.scope)

    async def refuse(self) -> None:
        """Answer 503 without asking the application."""
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(REFUSAL)),
            (b"retry-after", RETRY_AFTER_S),
        ]
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else REFUSAL})

    def matched_route(self) -> str | None:
        """Return the template that the framework's router matched."""
        return route_of_scope(self.scope)

    @property
    def shows_certificate(self) -> bool:
        """True where the server says that the client proved itself by a TLS certificate."""
        return shows_certificate(self.scope)
