"""Emitting in the middle of the log's own steps in the loop's thread, as signal handlers and finalizers do."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from threading import Thread
from types import FrameType
from typing import Any

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
    with anyio.fail_after(60):
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
        with anyio.fail_after(60):
            while len(receipts) < 2:
                await anyio.sleep(0.001)
        await assert_recorded(audit, receipts)


class _Stop(BaseException):
    """What a signal handler raises, as `sys.exit` in one does."""


@pytest.mark.filterwarnings("ignore:audit log:ResourceWarning")
@pytest.mark.parametrize(
    ("step", "moment"),
    [("append", "c_return"), ("popleft", "c_call"), ("popleft", "c_return")],  # CPython looks for signals after calls
)
def test_a_signal_handler_that_raises_loses_no_event_of_another_thread(
    config_for: ConfigFor, step: str, moment: str
) -> None:
    """`emit` has returned there, so the event is recorded, once, wherever the loop's thread was interrupted."""
    receipts: list[Receipt] = []
    raised: list[str] = []

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raised.append(step)
        raise _Stop

    def interrupt(frame: FrameType, event: str, called: object) -> None:
        is_in_the_move = frame.f_code is Buffer.empty_inbox.__code__
        if is_in_the_move and event == moment and getattr(called, "__name__", "") == step and not raised:
            signal.raise_signal(signal.SIGUSR1)

    async def main() -> None:
        audit = AuditLogger(config_for())
        await audit.start()

        def emit_three() -> None:
            receipts.extend(audit.emit(Counted(producer="thread", n=n)) for n in range(3))

        thread = Thread(target=emit_three)
        thread.start()
        thread.join()  # the loop stands still meanwhile, so all three wait in the inbox
        sys.setprofile(interrupt)
        await audit.flush()

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with asyncio.Runner() as runner:
            with pytest.raises(_Stop):
                runner.run(main())
            sys.setprofile(None)
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGUSR1, before)
    gc.collect()  # the warning belongs to this test
    directory = log_directory(config_for())
    records = [record for record in read_events(directory) if record["event"]["event_type"] == "test.counted"]
    assert [record["audit_id"] for record in records] == [receipt.audit_id for receipt in receipts]
    check_trail(directory)


@pytest.mark.parametrize("is_woken", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", ["emit", "count_lost"])
async def test_a_signal_handler_that_raises_leaves_no_loop_asleep(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, way: str, is_woken: bool
) -> None:
    """As a time limit of Celery ends a thread's call while it wakes the log's loop; the next event wakes it again."""
    loop = asyncio.get_running_loop()
    call_soon_threadsafe = loop.call_soon_threadsafe

    def interrupted(*called: Any, **given: Any) -> asyncio.Handle:
        monkeypatch.setattr(loop, "call_soon_threadsafe", call_soon_threadsafe)
        if is_woken:
            call_soon_threadsafe(*called, **given)
        raise _Stop

    receipts: list[Receipt] = []

    def emit_twice(audit: AuditLogger) -> None:
        monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
        with pytest.raises(_Stop):
            if way == "emit":
                audit.emit(Counted(producer="interrupted", n=0))
            else:
                audit.count_lost("test.counted", "invalid_event")
        receipts.append(audit.emit(Counted(producer="thread", n=1)))

    async with AuditLogger(config_for()) as audit:
        await anyio.to_thread.run_sync(emit_twice, audit)
        with anyio.fail_after(60):
            await receipts[0].durable()
        await audit.flush()  # the loss is recorded after it
        assert audit.stats().waiting == audit.stats().waiting_bytes == 0
        await assert_recorded(audit, receipts)
