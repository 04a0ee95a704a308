"""One HTTP request on its way through: messages pass one by one, and what they show is noted in its exchange."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

import anyio

from audit_async.ambient import AnyLogger
from audit_async.context import bind_checked, unbind_context
from audit_async.events import ActorInfo, HttpOutcome
from audit_async.integrations._http.admission import REFUSAL, REFUSAL_HEADERS
from audit_async.integrations._http.exchange import Arrival, Exchange
from audit_async.integrations._http.recorder import Recorder
from audit_async.integrations._http.request_policy import Level
from audit_async.integrations.asgi.connection import SERVED_KEY, Served
from audit_async.integrations.asgi.last_resort import LAST_RESORT_KEY, LastResort
from audit_async.integrations.asgi.messages import (
    Message,
    Receive,
    Scope,
    Send,
    content_length,
    with_request_id,
)

__all__ = ["HttpRelay"]

_METADATA: Final = Level.METADATA  # as in `recorder`: an enum's member costs 100 ns to look up


class HttpRelay:
    """Passes the messages of one HTTP request on, and writes into its exchange what they show.

    Owned by the task of the request. With an `admission`, an answer that could not be recorded is withheld: the client
    gets 503 instead.
    """

    request_id: bytes | None = None  #: to be sent back with the answer
    recorded = False
    _has_trailers = False
    _withheld = False
    _is_late = False  #: the request has left the middleware, and its answer is the framework's own

    def __init__(
        self,
        recorder: Recorder[Scope],
        audit: AnyLogger,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        method, path, headers, client = scope["method"], scope["path"], scope["headers"], scope.get("client")
        root_path = scope.get("root_path", "")
        arrival = Arrival(
            method,
            path,
            root_path,
            scope.get("raw_path") or b"",
            scope.get("query_string", b""),
            headers,
            dict(headers),
            client[0] if client else None,
            perf_counter_ns(),
        )
        plan = recorder.only_plan
        if plan is None or root_path:
            plan = recorder.plan(method, path, root_path)
        self.exchange: Final = Exchange(arrival, plan)
        self.audit: Final = audit
        self.scope: Final = scope
        self._recorder: Final = recorder
        self._receive: Final = receive
        self._send = send
        self.served: Final = Served(recorder, arrival)
        scope[SERVED_KEY] = self.served
        if plan.capture > _METADATA:
            self.exchange.request_capture = recorder.capture_for(arrival.header_map)

    def actor(self) -> ActorInfo:
        """Return who asks, as the record will name the actor; what `current_actor` calls."""
        return self._recorder.actor_of(self.exchange.arrival, self.scope)

    async def receive(self) -> Message:
        """Pass on what comes from the client."""
        message = await self._receive()
        kind = message["type"]
        exchange = self.exchange
        if kind == "http.request":
            body = message.get("body", b"")
            exchange.bytes_in += len(body)
            if exchange.request_capture is not None:
                exchange.request_capture.add(body)
        elif kind == "http.disconnect" and not self.recorded:
            exchange.disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Pass on what goes to the client; the answer's last byte is the moment to record."""
        # What nearly every request needs is here and in a row, as in `Recorder.record`.
        kind = message["type"]
        exchange = self.exchange
        if kind == "http.response.body":
            if self._withheld:
                return
            body = message.get("body", b"")
            exchange.bytes_out += len(body)
            if exchange.response_capture is not None:
                exchange.response_capture.add(body)
            last = not (message.get("more_body") or self._has_trailers)
        elif kind == "http.response.start":
            last = False
            headers = message.get("headers", ())
            if self.request_id is not None:
                headers = with_request_id(headers, self.request_id)
                message = {**message, "headers": headers}
            exchange.status = message["status"]
            exchange.response_headers = headers
            if exchange.plan.capture > _METADATA:
                exchange.response_capture = self._recorder.capture_for_answer(exchange, headers)
            if message.get("trailers"):
                self._has_trailers = True
            if self._recorder.admission is not None and await self._is_withheld():
                return
        elif self._withheld:
            return
        else:
            last = self._passed_otherwise(kind, message)
        try:
            await self._send(message)
        except OSError:  # what a server raises to say that the client is gone, from ASGI 2.4 on
            exchange.disconnected = True
            raise
        if last and not self.recorded:
            self._record()

    async def _is_withheld(self) -> bool:
        """Answer 503 in place of an answer that could not be recorded; return whether that was done."""
        obstacle = self._recorder.withhold(self.audit, self.exchange, self.scope)
        if obstacle is None:
            return False
        self._withheld = True
        exchange = self.exchange
        exchange.note = f"the application's answer with status {exchange.status} was withheld: {obstacle}"
        exchange.response_capture = None
        await self._answer_503()
        self._record()
        return True

    def _passed_otherwise(self, kind: str, message: Message) -> bool:
        """Note a message of one of the protocol's extensions; return whether it is the answer's last."""
        exchange = self.exchange
        if kind == "http.response.trailers":
            return not message.get("more_trailers")
        if kind == "http.response.zerocopysend":
            exchange.bytes_out += message.get("count") or 0
            return not (message.get("more_body") or self._has_trailers)
        if kind == "http.response.pathsend":
            exchange.bytes_out = content_length(exchange.response_headers)
            return not self._has_trailers
        return False

    def failed(self, error: BaseException) -> None:
        """Record that the application raised."""
        if self.recorded:
            return
        exchange = self.exchange
        exchange.error = type(error).__name__
        if exchange.disconnected:
            exchange.outcome = HttpOutcome.CLIENT_DISCONNECTED
        elif isinstance(error, anyio.get_cancelled_exc_class()):
            exchange.outcome = HttpOutcome.CANCELLED
        else:
            exchange.outcome = HttpOutcome.FAILED
            if exchange.status is None and isinstance(error, Exception):
                last_resort = self.scope.get(LAST_RESORT_KEY)
                if isinstance(last_resort, LastResort):
                    self._send = last_resort.take_over(self)
                    self._is_late = True
                    return
                exchange.status = 500  # what every server answers then
        self._record()

    def ended(self) -> None:
        """Record a request whose answer was left to the framework's outermost layer, unless that has answered."""
        if not self.recorded:
            if self.exchange.status is None:
                self.exchange.status = 500  # as above
            self._record()

    def returned(self) -> None:
        """Record that the application returned, unless the end of its answer did."""
        if self.recorded:
            return
        exchange = self.exchange
        if exchange.disconnected:
            exchange.outcome = HttpOutcome.CLIENT_DISCONNECTED
        else:
            exchange.outcome = HttpOutcome.NO_RESPONSE
            if exchange.status is None:
                exchange.status = 500  # as above
        self._record()

    def _record(self) -> None:
        if self.recorded:
            return
        self.recorded = True
        exchange = self.exchange
        if exchange.disconnected:
            exchange.outcome = HttpOutcome.CLIENT_DISCONNECTED
        if exchange.arrival.method == "HEAD":
            exchange.bytes_out = 0  # the server sends none of it
        if not self._is_late:
            self._recorder.record(self.audit, exchange, self.scope)
            return
        token = bind_checked({} if self.served.bound is None else self.served.bound.values)
        try:
            self._recorder.record(self.audit, exchange, self.scope)
        finally:
            unbind_context(token)

    async def refuse(self) -> None:
        """Answer 503 without asking the application; that is not recorded."""
        self.recorded = True
        await self._answer_503()

    async def _answer_503(self) -> None:
        exchange = self.exchange
        exchange.status, exchange.response_headers = 503, REFUSAL_HEADERS
        headers = list(REFUSAL_HEADERS)
        if self.request_id is not None:
            headers = with_request_id(headers, self.request_id)
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        body = b"" if exchange.arrival.method == "HEAD" else REFUSAL
        exchange.bytes_out = len(body)
        await self._send({"type": "http.response.body", "body": body})
