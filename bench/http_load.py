"""`python -m bench.http_load host port requests_per_s seconds`: HTTP load at a fixed rate, from a process of its own.

Requests are sent when they are due, whether or not the last ones were answered, over as many connections as that takes
(at most 256): a slow server does not slow the load down. Timers have a resolution of a millisecond, so the latency is
taken from the moment of sending. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import cast

import uvloop

from bench.frame import percentile

_MAX_CONNECTIONS = 256


class _Connection(asyncio.Protocol):
    """One connection, kept alive; at most one request is under way on it."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def ask(self, request: bytes) -> None:
        """Send a request."""
        assert self._transport is not None
        self._sent_at = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._received = b""
            self._load.answered(self, head.startswith(b"HTTP/1.1 200"), perf_counter() - self._sent_at)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._load.lost(self)

    def close(self) -> None:
        """End the connection."""
        assert self._transport is not None
        self._transport.abort()


class _Load:
    """Sends what is due, on a free connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._free: list[_Connection] = []
        self._opened = 0
        self.sent = self.failed = 0
        self.latencies_s: list[float] = []

    async def run(self, requests_per_s: float, seconds: float) -> None:
        """Send for that long, then wait for the answers that are due."""
        for _ in range(8):
            self._free.append(await self._connect())
        began = perf_counter()
        while (elapsed := perf_counter() - began) < seconds:
            for _ in range(int(elapsed * requests_per_s) - self.sent):
                await self._send()
            await asyncio.sleep(0.001)
        for _ in range(2000):
            if len(self.latencies_s) + self.failed >= self.sent:
                break
            await asyncio.sleep(0.005)
        for connection in self._free:
            connection.close()

    async def _connect(self) -> _Connection:
        self._opened += 1
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), self._host, self._port
        )
        return connection

    async def _send(self) -> None:
        if not self._free:
            if self._opened >= _MAX_CONNECTIONS:
                await asyncio.sleep(0)
                return
            self._free.append(await self._connect())
        request = b"GET /orders/%d HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n" % self.sent
        self.sent += 1
        self._free.pop().ask(request)

    def answered(self, connection: _Connection, ok: bool, latency_s: float) -> None:
        """Take note of an answer."""
        self._free.append(connection)
        self.latencies_s.append(latency_s)
        if not ok:
            self.failed += 1

    def lost(self, connection: _Connection) -> None:
        """Take note that the server closed a connection."""
        if connection in self._free:
            self._free.remove(connection)
        self._opened -= 1


def main() -> None:
    """Load the server that the command line names."""
    host, port, requests_per_s, seconds = sys.argv[1:]
    load = _Load(host, int(port))
    uvloop.run(load.run(float(requests_per_s), float(seconds)))
    print(
        json.dumps(
            {
                "sent": load.sent,
                "answered": len(load.latencies_s) - load.failed,
                "requests_per_s": load.sent / float(seconds),
                "p50_ms": percentile(load.latencies_s, 50) * 1e3,
                "p99_ms": percentile(load.latencies_s, 99) * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
