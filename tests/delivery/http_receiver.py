"""A receiver of HTTP requests that keeps what it accepted in a file, and fails in all the ways that receivers do.

It runs in the test's own loop, or as a process of its own that can be killed:

    python -m tests.delivery.http_receiver PORT FILE SEED
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from audit_async._chain import check_record

#: A receiver that is killed has to be there again on the same port.
_TRIES = 200


class Request(NamedTuple):
    """One request that came."""

    headers: Mapping[str, str]
    body: bytes  #: as it was sent
    text: bytes  #: decompressed
    path: str = ""


class Receiver:
    """Accepts records and stores them, unless `answer` says otherwise.

    Args:
        file: Where accepted lines are kept, durable before the answer; None keeps them in memory.
        answer: Called with each request; what it returns is answered instead, None accepts.
    """

    def __init__(
        self,
        file: Path | None = None,
        answer: Callable[[Request], web.StreamResponse | None] | None = None,
        read: Callable[[Request], list[bytes]] | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.accepted: list[bytes] = []
        self.answer = answer
        self.read = read or lines_of
        self.accepted_answer: Callable[[Request], web.Response] = lambda _: web.json_response({})
        self._file = file

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body = await request.read()
        text = gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
        one = Request(request.headers, body, text, request.path)
        self.requests.append(one)
        answer = self.answer(one) if self.answer is not None else None
        if answer is not None:
            return answer
        lines = self.read(one)
        if self._file is not None:
            with self._file.open("ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
        else:
            self.accepted += lines
        return self.accepted_answer(one)

    @asynccontextmanager
    async def listening(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Listen on loopback; yield the URL."""
        application = web.Application(client_max_size=1 << 28)
        application.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(application, auto_decompress=False, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True, ssl_context=tls)
        await site.start()
        address = runner.addresses[0]
        try:
            yield f"http://127.0.0.1:{address[1]}/records" if tls is None else f"https://localhost:{address[1]}/"
        finally:
            await runner.cleanup()


def lines_of(request: Request) -> list[bytes]:
    """Return the records of a body of the payload ndjson."""
    return request.text.splitlines()


def lines_of_otlp(request: Request) -> list[bytes]:
    """Return the records of an OTLP request."""
    decoded = ExportLogsServiceRequest.FromString(request.text)
    return [
        record.body.string_value.encode()
        for resource in decoded.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def otlp_answer(_: Request) -> web.Response:
    """Return what an OTLP receiver answers if it has taken everything."""
    return web.Response(body=ExportLogsServiceResponse().SerializeToString(), content_type="application/x-protobuf")


def check_received(lines: list[bytes], expected: list[bytes]) -> Counter[bytes]:
    """Check that all that was expected came, byte by byte; return how often each line came."""
    expected = [line.rstrip(b"\n") for line in expected]
    counts = Counter(lines)
    missing = [line for line in expected if not counts[line]]
    assert not missing, f"{len(missing)} of {len(expected)} records are missing, the first is {missing[0][:120]!r}"
    by_key: dict[str, bytes] = {}
    for line in counts:
        record = check_record(line + b"\n", None)
        key = json.loads(line)["audit_id"]
        assert by_key.setdefault(key, line) == line, record
    return counts


def chaotic(seed: int) -> Callable[[Request], web.StreamResponse | None]:
    """Return what fails in every way by chance: before and after storing is for the caller to know."""
    chance = random.Random(seed)  # noqa: S311 - which request fails

    def answer(_: Request) -> web.StreamResponse | None:
        kind = chance.randrange(12)
        if kind < 4:
            status = (429, 500, 503, 401)[kind]
            return web.Response(status=status, headers={"Retry-After": "0"})
        return None

    return answer


async def serve(port: int, file: Path, otlp: bool) -> None:
    """Listen for ever."""
    receiver = Receiver(file, read=lines_of_otlp if otlp else None)
    if otlp:
        receiver.accepted_answer = otlp_answer
    for _ in range(_TRIES):
        try:
            async with receiver.listening(port):
                await asyncio.Event().wait()
        except OSError:
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), len(sys.argv) > 3))
