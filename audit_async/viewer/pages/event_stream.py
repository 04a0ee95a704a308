"""Records as they come, as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from audit_async.errors import AuditError
from audit_async.events import Record

__all__ = ["EventStream"]

#: After so long without a record a comment is sent, so that no proxy takes the connection for dead.
_HEARTBEAT_S: Final = 15.0


class EventStream(Response):
    """A response that ends when the browser has gone, or may see nothing any more; the generator is closed then."""

    media_type = "text/event-stream"

    def __init__(
        self,
        records: AsyncGenerator[Record, None],
        row_of: Callable[[Record], Awaitable[str]],
        is_still_let_in: Callable[[], Awaitable[bool]],
    ) -> None:
        """Read nothing yet; `row_of` makes what is sent of a record, `is_still_let_in` is asked before each."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._records = records
        self._row_of = row_of
        self._is_still_let_in = is_still_let_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the protocol's
        """Send records until the browser has gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _send(send, "retry: 3000\n\n")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_disconnected, receive, tasks.cancel_scope)
            tasks.start_soon(self._keep_alive, send, tasks.cancel_scope)
            try:
                await self._send_records(send)
            except AuditError as error:
                await _send(send, f"event: failed\ndata: {type(error).__name__}\n\n")
            tasks.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_records(self, send: Send) -> None:
        async with aclosing(self._records) as records:
            async for record in records:
                if not await self._is_still_let_in():
                    return
                row = await self._row_of(record)
                lines = "".join(f"data: {line}\n" for line in row.splitlines() if line.strip())
                await _send(send, f"event: record\n{lines}\n")

    async def _keep_alive(self, send: Send, scope: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(_HEARTBEAT_S)
            if not await self._is_still_let_in():
                scope.cancel()
            await _send(send, ": nothing new\n\n")


async def _until_disconnected(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
