"""Readiness: does the audit log take events, and do they become durable? For load balancers and orchestrators.

    ready, answer = readiness(audit)                                      # in an endpoint of your own
    app.mount("/ready", ReadinessEndpoint(lambda: app.state.audit))       # or as an ASGI application

A service that must not act unrecorded takes no traffic while this says no. Use it for readiness, not for liveness: a
full disk is not mended by killing the process, which still holds what the disk did not take.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from audit_async.integrations._logger_source import LoggerSource, check_source, logger_from
from audit_async.status import HealthStatus

__all__ = ["ReadinessEndpoint", "readiness"]

#: From here on the buffer takes critical events only.
_FULL: Final = 0.9


def readiness(audit: LoggerSource, *, details: bool = False) -> tuple[bool, dict[str, object]]:
    """Return whether the log is ready, and what to answer: cheap, from any thread.

    Ready means that what is emitted now is taken and becomes durable. The answer is `{"status": ...}`, a word that
    tells strangers nothing else: a `HealthStatus`, or `buffer_full` where only critical events are still taken. With
    `details` it has numbers, and the reason, too, which may name directories: for those who run the service.
    """
    logger = logger_from(audit)
    if logger is None:
        return False, {"status": HealthStatus.NOT_STARTED.value}
    health = logger.health()
    full = health.ok and health.buffer_fill >= _FULL
    answer: dict[str, object] = {"status": "buffer_full" if full else health.status.value}
    if details:
        stats = logger.stats()
        answer |= {
            "reason": health.reason,
            "since": health.since,
            "durable_seq": health.durable_seq,
            "waiting_events": health.waiting_events,
            "buffer_fill": round(health.buffer_fill, 4),
            "dropped": stats.dropped,
            "since_sync_s": stats.since_sync_s,
            "free_bytes": stats.free_bytes,
        }
    return health.ok and not full, answer


# What an ASGI server gives and takes; the standard's own types are these.
_Message = MutableMapping[str, Any]
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class ReadinessEndpoint:
    """An ASGI application that answers GET and HEAD with `readiness`: 200 where the log is ready, otherwise 503.

    `details` belongs behind an authentication, or on a port that only operators reach.
    """

    def __init__(self, audit: LoggerSource, *, details: bool = False) -> None:
        self._source = check_source(audit)
        self._details = details

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request; as an application of its own, also the server's life span."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] in {"GET", "HEAD"}:
            ready, answer = readiness(self._source, details=self._details)
            await _answer(scope, send, 200 if ready else 503, answer)
        else:
            await _answer(scope, send, 405, {"status": "method_not_allowed"})


async def _answer(scope: _Scope, send: _Send, status: int, answer: dict[str, object]) -> None:
    body = msgspec.json.encode(answer)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _live(receive: _Receive, send: _Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
