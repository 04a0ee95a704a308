"""A small ASGI application that answers GET and HEAD: what readiness and metrics are served by."""

# Annotations are evaluated here, since Litestar looks for their names in the modules of the subclasses.
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["Endpoint", "Scope"]

# What an ASGI server gives and takes; the standard's own types are these.
Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[Scope]]
_Send = Callable[[Scope], Awaitable[None]]


class Endpoint(ABC):
    """Answers each request with what `answer` returns: as an application of its own, a route, or a mount.

    The path makes no difference, and neither does a slash at its end. It also lives a server's life span. Starlette's
    `Mount` answers the path without a slash by itself, with a redirect that load balancers take for an answer;
    `prepare_starlette` puts a route in front of it.
    """

    @abstractmethod
    def answer(self, scope: Scope) -> tuple[int, str, bytes]:
        """Return status, content type and body."""

    async def __call__(self, scope: Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] in {"GET", "HEAD"}:
            await _send_answer(scope, send, *self.answer(scope))
        else:
            await _send_answer(scope, send, 405, "application/json", b'{"status":"method_not_allowed"}')


async def _send_answer(scope: Scope, send: _Send, status: int, content_type: str, body: bytes) -> None:
    headers = [
        (b"content-type", content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(body)),
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
