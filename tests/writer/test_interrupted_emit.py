"""Emitting in the middle of the log's own steps in the loop's thread, as signal handlers and finalizers do."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from audit_async import AuditLogger, Receipt
from audit_async._writer.buffer import Buffer
from audit_async._writer.write_loop import WriterTask
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


async def assert_recorded(audit: AuditLogger, receipts: list[Receipt]) -> None:
    """Check that each of these events becomes durable, and once."""
    with anyio.fail_after(30):
        for receipt in receipts:
            await receipt.durable()
    assert audit.health().buffer_fill == 0
    directory = log_directory(audit.config)
    records = [record for record in read_events(directory) if record["event"]["event_type"] == "test.counted"]
    assert sorted(record["audit_id"] for record in records) == sorted(receipt.audit_id for receipt in receipts)
    check_trail(directory)


async def test_an_emit_while_another_opens_a_chunk(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that no chunk is open, and neither's event may go under."""
    open_chunk = Buffer.open_chunk
    receipts: list[Receipt] = []
    async with AuditLogger(config_for()) as audit:

        def interrupted(buffer: Buffer) -> list[Receipt]:
            monkeypatch.setattr(Buffer, "open_chunk", open_chunk)
            receipts.append(audit.emit(Counted(producer="handler", n=0)))
            return open_chunk(buffer)

        monkeypatch.setattr(Buffer, "open_chunk", interrupted)
        receipts.append(audit.emit(Counted(producer="loop", n=1)))
        await assert_recorded(audit, receipts)


async def test_an_emit_while_the_writer_goes_to_sleep(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer has seen that nothing is due, and its sleep has not begun, so there is nobody to be woken."""
    loop = asyncio.get_running_loop()
    create_future = loop.create_future
    receipts: list[Receipt] = []
    async with AuditLogger(config_for()) as audit:

        def interrupted() -> asyncio.Future[None]:
            if len(receipts) == 1 and isinstance(asyncio.current_task(), WriterTask):
                receipts.append(audit.emit(Counted(producer="handler", n=1)))
            return create_future()

        monkeypatch.setattr(loop, "create_future", interrupted)
        receipts.append(audit.emit(Counted(producer="loop", n=0)))
        with anyio.fail_after(30):
            while len(receipts) < 2:
                await anyio.sleep(0.001)
        await assert_recorded(audit, receipts)
