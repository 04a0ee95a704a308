"""A client for ASGI applications that talks to them message by message, so that tests can end a request anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from audit_async import AuditConfig, AuditLogger
from audit_async.integrations.asgi import ASGIApp, Scope
from tests.logs import ConfigFor, log_directory
from tests.trails import check_trail, read_events

Headers = Iterable[tuple[str, str]]
JSON_ANSWER = [(b"content-type", b"application/json"), (b"content-length", b"2")]


def http_scope(path: str = "/", *, method: str = "GET", headers: Headers = (), **members: object) -> Scope:
    """Return the scope of an HTTP request as a server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("198.51.100.7", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
        **members,
    }


class Exchanged:
    """What came back from an application."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    @property
    def status(self) -> int | None:
        """The status, None where no answer was begun."""
        return next((m["status"] for m in self.messages if m["type"] == "http.response.start"), None)

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers."""
        (start,) = [m for m in self.messages if m["type"] == "http.response.start"]
        return {name.decode(): value.decode() for name, value in start["headers"]}

    @property
    def body(self) -> bytes:
        """The answer's body."""
        return b"".join(m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")


async def ask(app: ASGIApp, scope: Scope, incoming: Iterable[dict[str, Any]] = ()) -> Exchanged:
    """Send one request, its messages one by one, then wait as a server does; return what came back."""
    exchanged, waiting = Exchanged(), list(incoming)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        exchanged.messages.append(message)

    await app(scope, receive, send)
    return exchanged


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    """Return the message that brings a part of the request's body."""
    return {"type": "http.request", "body": data, "more_body": more}


async def hello(scope: Scope, receive: Any, send: Any) -> None:
    """Answer `{}`."""
    await send({"type": "http.response.start", "status": 200, "headers": JSON_ANSWER})
    await send({"type": "http.response.body", "body": b"{}"})


def answering(status: int, headers: Headers = ()) -> ASGIApp:
    """Return an application that answers every request with this status, and no body."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": b""})

    return app


class Trail:
    """A log that a test writes through a middleware, and reads back."""

    def __init__(self, config: AuditConfig, audit: AuditLogger) -> None:
        self.audit = audit
        self._directory = log_directory(config)

    async def records(self) -> list[dict[str, Any]]:
        """Return all records but those of the log's own life, after a check of the whole chain."""
        await self.audit.flush()
        check_trail(self._directory)
        return [record for record in read_events(self._directory) if self._is_ours(record)]

    async def events(self) -> list[dict[str, Any]]:
        """Return the events of those records."""
        return [record["event"] for record in await self.records()]

    async def only(self) -> dict[str, Any]:
        """Return the only event."""
        (event,) = await self.events()
        return event

    @staticmethod
    def _is_ours(record: dict[str, Any]) -> bool:
        return not record["event"]["event_type"].startswith("audit.")

    def text(self) -> bytes:
        """Return every byte of the log."""
        return b"".join(path.read_bytes() for path in Path(self._directory).glob("*.audit"))


@asynccontextmanager
async def open_trail(config_for: ConfigFor, **settings: object) -> AsyncIterator[Trail]:
    """Open a log for a test."""
    config = config_for(**settings)
    async with AuditLogger(config) as audit:
        yield Trail(config, audit)
