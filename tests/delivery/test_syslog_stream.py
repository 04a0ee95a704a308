"""Syslog over a stream to a receiver that never says a word, as the protocol has it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from audit_async.delivery import DeliverableRecord, DeliveredLog, EncodedRecord, Outcome, SyslogSettings
from audit_async.delivery.syslog_sink import StreamSyslogSink
from tests.delivery.certificates import Certificates
from tests.delivery.delivering import until

pytestmark = pytest.mark.anyio


def a_batch(size: int) -> list[EncodedRecord]:
    """Return a batch of one record with so many x."""
    line = b'{"seq":1,"audit_id":"a-1","timestamp":"2026-11-23T04:35:12.123456Z","service_id":"orders","event":{}}'
    record = DeliverableRecord(line, DeliveredLog("0f" * 8, "orders", "00", "web-1"))
    return [EncodedRecord(record, b"x" * size)]


@pytest.mark.parametrize("scheme", ["tls", "tcp"])
async def test_each_of_several_batches_is_sent_at_once(tmp_path: Path, scheme: str) -> None:
    """The second batch of a connection as well as the first, though nothing comes from the receiver."""
    certificates = Certificates(tmp_path)
    server = certificates.issue("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    context.num_tickets = 0  # TLS 1.3's session tickets would be a word of the receiver
    received = bytearray()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            received.extend(data)
        writer.close()

    listening = await asyncio.start_server(read, "localhost", 0, ssl=context if scheme == "tls" else None)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        url = f"{scheme}://localhost:{port}"
        sink = StreamSyslogSink(SyslogSettings(name="s", url=url, ca_file=str(certificates.ca_file), timeout_s=30.0))
        for _ in range(5):
            result = await sink.send(a_batch(200_000))
            assert (result.outcome, sink.breaks) == (Outcome.ACCEPTED, 0), result.reason
        await until(lambda: received.count(b"x") == 5 * 200_000)
        assert await sink.finish()


async def test_a_receiver_that_reads_nothing_is_tried_on_another_connection() -> None:
    """The time for a batch ends, and what was written to the connection counts as lost: each break is counted."""
    connections: list[asyncio.StreamWriter] = []

    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    listening = await asyncio.start_server(read_nothing, "127.0.0.1", 0)
    async with listening:
        url = f"tcp://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        sink = StreamSyslogSink(SyslogSettings(name="s", url=url, timeout_s=2.0))
        for breaks in (1, 2):
            result = await sink.send(a_batch(30_000_000))
            assert (result.outcome, sink.breaks) == (Outcome.RETRY, breaks), result.reason
        await until(lambda: len(connections) == 2)
        assert not await sink.finish()
        for writer in connections:
            writer.transport.abort()
