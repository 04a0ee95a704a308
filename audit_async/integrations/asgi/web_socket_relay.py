"""One WebSocket on its way through, from the handshake to its close: messages pass and are counted, none is kept."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

import anyio

from audit_async.ambient import AnyLogger
from audit_async.events import ActorInfo, HttpOutcome
from audit_async.integrations._http.admission import REFUSAL, REFUSAL_HEADERS
from audit_async.integrations._http.exchange import Arrival
from audit_async.integrations._http.recorder import Recorder
from audit_async.integrations._http.web_socket import WebSocketExchange, closes_by_client
from audit_async.integrations.asgi.connection import SERVED_KEY, Served
from audit_async.integrations.asgi.messages import (
    Message,
    Receive,
    Scope,
    Send,
    message_bytes,
    with_request_id,
)

__all__ = ["WebSocketRelay"]

#: RFC 6455's registry: "Try Again Later".
_TRY_AGAIN_LATER: Final = 1013
#: Codes that are never sent: none was received, or the connection broke (RFC 6455, 7.4.1).
_NO_CODE: Final = frozenset({1005, 1006})


class WebSocketRelay:
    """Passes the messages of one WebSocket on, and writes into its exchange what they show.

    Owned by the task of the WebSocket's handshake.
    """

    request_id: bytes | None = None  #: to be sent back with the handshake
    _accepted = False
    recorded = False
    _withheld = False
    _ended = False  #: the server said that the connection is at its end

    def __init__(
        self,
        recorder: Recorder[Scope],
        audit: AnyLogger,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        path, root_path, client = scope["path"], scope.get("root_path", ""), scope.get("client")
        headers = scope["headers"]
        arrival = Arrival(
            "WEBSOCKET",
            path,
            root_path,
            scope.get("raw_path") or b"",
            b"",
            headers,
            dict(headers),
            client[0] if client else None,
            perf_counter_ns(),
        )
        self.exchange: Final = WebSocketExchange(arrival, recorder.plan("WEBSOCKET", path, root_path))
        self.audit: Final = audit
        self.scope: Final = scope
        self._recorder: Final = recorder
        self._receive: Final = receive
        self._send: Final = send
        self._messages_in = self._messages_out = 0
        self.served: Final = Served(recorder, arrival)
        scope[SERVED_KEY] = self.served

    def actor(self) -> ActorInfo:
        """Return who asks, as the record will name the actor; what `current_actor` calls."""
        return self._recorder.actor_of(self.exchange.arrival, self.scope)

    async def receive(self) -> Message:
        """Pass on what comes from the client."""
        message = await self._receive()
        kind = message["type"]
        exchange = self.exchange
        if kind == "websocket.receive":
            self._messages_in += 1
            exchange.bytes_in += message_bytes(message)
        elif kind == "websocket.disconnect" and exchange.close_code is None and not self.recorded:
            code = message.get("code", 1005)
            exchange.close_code = code
            if closes_by_client(code):
                exchange.closed_by = "client"
            exchange.disconnected = code in _NO_CODE or exchange.closed_by == "client"
            exchange.ended_ns = perf_counter_ns()
            self._ended = True
        return message

    async def send(self, message: Message) -> None:
        """Pass on what goes to the client."""
        kind = message["type"]
        exchange = self.exchange
        if self._withheld:
            return
        if kind == "websocket.send":
            self._messages_out += 1
            exchange.bytes_out += message_bytes(message)
        elif kind == "websocket.accept":
            exchange.status = 101
            if self._recorder.admission is not None and await self._is_withheld():
                return
            self._accepted = True
            if self.request_id is not None:
                headers = list(message.get("headers", ()))
                message = {**message, "headers": with_request_id(headers, self.request_id)}
        else:
            self._note_end(kind, message)
        try:
            await self._send(message)
        except OSError:
            exchange.disconnected = True
            raise
        if kind == "websocket.close":
            exchange.ended_ns = perf_counter_ns()

    def _note_end(self, kind: str, message: Message) -> None:
        """Note what ends a WebSocket, or refuses its handshake."""
        exchange = self.exchange
        if kind == "websocket.close":
            if not self._accepted:
                exchange.status = 403  # what a server answers to a handshake that is not accepted
            elif exchange.close_code is None:
                exchange.close_code, exchange.closed_by = message.get("code", 1000), "server"
        elif kind == "websocket.http.response.start":
            exchange.status = message["status"]
            exchange.response_headers = message.get("headers", ())
        elif kind == "websocket.http.response.body":
            exchange.bytes_out += len(message.get("body", b""))

    async def _is_withheld(self) -> bool:
        """Turn a handshake down that the application accepts, if its record is impossible; return whether."""
        obstacle = self._recorder.withhold(self.audit, self.exchange, self.scope)
        if obstacle is None:
            return False
        self._withheld = True
        self.exchange.note = f"the application accepted the handshake, which was turned down: {obstacle}"
        await self._turn_down()
        return True

    def failed(self, error: BaseException) -> None:
        """Record that the application raised; a client that left is a usual end, however the application learns it."""
        exchange = self.exchange
        exchange.error = type(error).__name__
        if exchange.disconnected:
            exchange.outcome = HttpOutcome.CLIENT_DISCONNECTED
        elif isinstance(error, anyio.get_cancelled_exc_class()):
            exchange.outcome = HttpOutcome.CANCELLED
        elif self._ended:
            exchange.outcome = HttpOutcome.COMPLETED  # it was over, and that is what the application heard
        else:
            exchange.outcome = HttpOutcome.FAILED
            if exchange.status is None and isinstance(error, Exception):
                exchange.status = 500  # what every server answers then
        self._record()

    def returned(self) -> None:
        """Record that the application is done with the WebSocket."""
        exchange = self.exchange
        if exchange.status is None:
            gone = exchange.disconnected
            exchange.outcome = HttpOutcome.CLIENT_DISCONNECTED if gone else HttpOutcome.NO_RESPONSE
        self._record()

    def _record(self) -> None:
        if self.recorded:
            return
        self.recorded = True
        self.exchange.messages_in, self.exchange.messages_out = self._messages_in, self._messages_out
        self._recorder.record_web_socket(self.audit, self.exchange, self.scope)

    async def refuse(self) -> None:
        """Turn the handshake down without asking the application; that is not recorded."""
        self.recorded = True
        await self._receive()
        await self._turn_down()

    async def _turn_down(self) -> None:
        """Answer 503 if the server can say so, otherwise 403."""
        if "websocket.http.response" in (self.scope.get("extensions") or {}):
            self.exchange.status = 503
            await self._send({"type": "websocket.http.response.start", "status": 503, "headers": list(REFUSAL_HEADERS)})
            await self._send({"type": "websocket.http.response.body", "body": REFUSAL})
        else:
            self.exchange.status = None  # the server answers 403, which would read as a refusal of the application's
            await self._send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "not recordable now"})
