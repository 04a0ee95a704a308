"""`Immediate(max_delay=…)`: records wait in memory for company, and nothing waits that somebody waits for.

The delay is longer here than any test takes, so whatever becomes durable has ended it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import anyio
import anyio.lowlevel
import pytest

from audit_async import AuditConfig, AuditLogger, Immediate, Local, Receipt
from audit_async._writer.sync_schedule import SyncSchedule
from audit_async.events import ModelAccessed
from audit_async.sync import SyncAuditLogger
from tests.logs import ConfigFor, failure, log_directory, segment_lines
from tests.trails import check_trail, read_events
from tests.writer.hanging_disk import hanging_disk

pytestmark = pytest.mark.anyio

LONGEST_S = 60.0
PATIENCE_S = 30.0  # half of it


def ordinary(n: int = 0) -> ModelAccessed:
    """Return an event that is not critical."""
    return ModelAccessed(customer_id="c", model_ref=f"m{n}", access_type="read")


async def delayed(audit: AuditLogger, events: int = 1) -> list[Receipt]:
    """Emit events, and return their receipts once they are framed and wait for company."""
    receipts = [audit.emit(ordinary(n)) for n in range(events)]
    with anyio.fail_after(PATIENCE_S):
        while receipts[-1].seq < 0:
            await anyio.lowlevel.checkpoint()
    for _ in range(5):  # turns in which a commit would begin
        await anyio.lowlevel.checkpoint()
    return receipts


@pytest.fixture
async def audit(config_for: ConfigFor) -> AsyncIterator[AuditLogger]:
    """Give an open log with the longest delay."""
    async with AuditLogger(config_for(flush_mode=Immediate(max_delay=LONGEST_S))) as audit:
        yield audit


async def test_records_wait_in_memory_for_company(audit: AuditLogger, config_for: ConfigFor) -> None:
    """Neither written nor synced, as a commit for each would do; then one sync makes all of them durable."""
    commits = audit.stats().commits
    receipts = [receipt for n in range(20) for receipt in await delayed(audit)]
    assert audit.stats().commits == commits
    assert len(segment_lines(log_directory(config_for()))) == 1
    await audit.flush()
    assert audit.stats().commits == audit.stats().syncs == commits + 1
    assert all(receipt.is_durable for receipt in receipts)


async def test_the_delay_ends_by_itself(config_for: ConfigFor) -> None:
    """What nobody waits for is durable once the delay is over, though nothing more comes."""
    async with AuditLogger(config_for(flush_mode=Immediate(max_delay=0.02))) as audit:
        for _ in range(2):  # a second time as well
            (receipt,) = await delayed(audit)
            with anyio.fail_after(PATIENCE_S):
                while not receipt.is_durable:
                    await anyio.sleep(0.001)


Ender = Callable[[AuditLogger, Receipt], Awaitable[object]]


async def await_it(_: AuditLogger, waiting: Receipt) -> None:
    """Wait for the receipt, which is begun during the delay."""
    await waiting.durable()


async def await_a_new_one(audit: AuditLogger, _: Receipt) -> None:
    """Wait for a later event, from its first moment on."""
    await audit.emit(ordinary()).durable()


async def block_a_thread(_: AuditLogger, waiting: Receipt) -> None:
    """Wait for the receipt in a thread that has no loop."""
    await asyncio.to_thread(waiting.wait, PATIENCE_S)


async def await_it_elsewhere(_: AuditLogger, waiting: Receipt) -> None:
    """Wait for the receipt on another thread's loop."""
    await asyncio.to_thread(asyncio.run, waiting.durable())


async def await_one_from_elsewhere(audit: AuditLogger, _: Receipt) -> None:
    """Emit in another thread, and wait there."""
    await asyncio.to_thread(lambda: audit.emit(ordinary()).wait(PATIENCE_S))


async def flush(audit: AuditLogger, _: Receipt) -> None:
    """Flush what is framed already."""
    await audit.flush()


async def emit_and_flush(audit: AuditLogger, _: Receipt) -> None:
    """Flush what is not framed yet."""
    receipt = audit.emit(ordinary())
    await audit.flush()
    assert receipt.is_durable


async def emit_durable(audit: AuditLogger, _: Receipt) -> None:
    """Make another event durable."""
    await audit.emit_durable(ordinary())


async def be_critical(audit: AuditLogger, _: Receipt) -> None:
    """Emit a critical event, for which nobody waits."""
    audit.emit(failure())


async def be_critical_elsewhere(audit: AuditLogger, _: Receipt) -> None:
    """Emit a critical event in another thread."""
    await asyncio.to_thread(audit.emit, failure())


async def fill_a_chunk(audit: AuditLogger, _: Receipt) -> None:
    """Emit as much as is framed in one go."""
    for n in range(255):
        audit.emit(ordinary(n))


async def close(audit: AuditLogger, _: Receipt) -> None:
    """Close the log."""
    await audit.aclose()


@pytest.mark.parametrize(
    "end",
    [
        await_it,
        await_a_new_one,
        block_a_thread,
        await_it_elsewhere,
        await_one_from_elsewhere,
        flush,
        emit_and_flush,
        emit_durable,
        be_critical,
        be_critical_elsewhere,
        fill_a_chunk,
        close,
    ],
)
async def test_what_somebody_waits_for_waits_for_no_company(audit: AuditLogger, end: Ender) -> None:
    """Each of them ends the delay at once, for all that waits."""
    (waiting,) = await delayed(audit)
    assert not waiting.is_durable
    with anyio.fail_after(PATIENCE_S):
        await end(audit, waiting)
        while not waiting.is_durable:
            await anyio.sleep(0.001)


@pytest.mark.parametrize(
    "end", [flush, emit_and_flush, emit_durable, be_critical, be_critical_elsewhere, fill_a_chunk, close]
)
async def test_what_asks_for_a_sync_ends_the_delay_by_itself(audit: AuditLogger, end: Ender) -> None:
    """Most of them wait for a receipt as well, which would end it: here that ends nothing."""
    assert audit._session is not None
    audit._session.acknowledgements.awaited = None
    (waiting,) = await delayed(audit)
    with anyio.fail_after(PATIENCE_S):
        await end(audit, waiting)
        while not waiting.is_durable:
            await anyio.sleep(0.001)


async def test_a_thousand_records_share_four_syncs(audit: AuditLogger) -> None:
    """That is what the delay gains: a sync for each full chunk, where one a record was needed (test_regressions).

    Chunks that become full while a slow disk syncs share the next one.
    """
    syncs = audit.stats().syncs
    for _ in range(1000):
        await delayed(audit)
    await audit.flush()
    assert 1 <= audit.stats().syncs - syncs <= 4


@pytest.mark.parametrize("max_delay", [0.0, LONGEST_S])
async def test_a_kept_receipt_keeps_no_writer(config_for: ConfigFor, max_delay: float) -> None:
    """A receipt refers to the writer of an open log alone, which it may have to ask for a sync."""
    audit = AuditLogger(config_for(flush_mode=Immediate(max_delay=max_delay)))
    await audit.start()
    receipt = audit.emit(ordinary())
    assert audit._session is not None
    writer = weakref.ref(audit._session.writer)
    await audit.aclose()
    del audit
    with anyio.fail_after(PATIENCE_S):
        while writer() is not None:  # the thread and the loop let go of it in their next turns
            gc.collect()
            await anyio.sleep(0.001)
    assert (await receipt.durable()).seq == receipt.seq


@pytest.mark.parametrize("bound", [{"buffer_events": 112}, {"buffer_bytes": 300_000}], ids=["events", "bytes"])
async def test_a_small_buffer_is_not_filled_by_waiting(config_for: ConfigFor, bound: dict[str, int]) -> None:
    """Records that wait for company take no more than a part of the buffer, so nothing is refused for them."""
    async with AuditLogger(config_for(flush_mode=Immediate(max_delay=LONGEST_S), **bound)) as audit:
        with anyio.fail_after(PATIENCE_S):
            for _ in range(600):
                audit.emit(ModelAccessed(customer_id="c", model_ref="m" * 900, access_type="read"))
                while audit.health().buffer_fill > 0.6:
                    await anyio.sleep(0.001)
        assert audit.stats().dropped == 0


async def test_an_awaited_receipt_hastens_only_itself(audit: AuditLogger) -> None:
    """What is emitted after an awaited record was acknowledged waits for company again."""
    await audit.emit(ordinary()).durable()
    (waiting,) = await delayed(audit)
    assert not waiting.is_durable


async def test_the_delay_counts_from_the_oldest_that_waits() -> None:
    """What was framed during a sync has waited as long already; a trickle can't push the sync away."""
    schedule = SyncSchedule(Immediate(max_delay=2.0))
    schedule.framed(now=10.0)
    assert schedule.deadline == 12.0
    schedule.commit_begun()
    schedule.framed(now=12.5)
    schedule.framed(now=13.0)
    schedule.synced(synced_seq=1, framed_seq=3, now=14.0)
    assert schedule.deadline == 14.5
    schedule.commit_begun()
    schedule.synced(synced_seq=3, framed_seq=3, now=15.0)
    assert schedule.deadline is None
    schedule.framed(now=20.0)
    assert schedule.deadline == 22.0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvloop's clock can't be set forward
async def test_what_one_commit_does_not_take_waits_no_second_time(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If more than one batch waits for a slow disk, the last one has waited for company as long as the first."""
    loop, ahead_s = asyncio.get_running_loop(), 0.0
    real_time = loop.time
    monkeypatch.setattr(loop, "time", lambda: real_time() + ahead_s)
    config = config_for(flush_mode=Immediate(max_delay=LONGEST_S), buffer_bytes=64 << 20)
    async with AuditLogger(config) as audit:
        assert audit._session is not None
        batches = audit._session.writer._framing.batches
        with hanging_disk(monkeypatch) as release:
            first = asyncio.create_task(audit.emit_durable(ordinary()))
            receipts: list[Receipt] = []
            with anyio.fail_after(LONGEST_S):
                while len(batches) < 2:
                    event = ModelAccessed(customer_id="c", model_ref="m" * 4000, access_type="read")
                    receipts.append(audit.emit(event))
                    await anyio.lowlevel.checkpoint()
            assert not first.done()
            ahead_s = 2 * LONGEST_S
            release()
            with anyio.fail_after(PATIENCE_S):
                while not receipts[-1].is_durable:
                    await anyio.sleep(0.01)
            await first


def test_a_thread_without_a_loop_waits_for_no_company(tmp_path: Path) -> None:
    """A `SyncAuditLogger` answers as soon as it can, too: `wait`, `flush` and the end of its block."""
    mode = Immediate(max_delay=LONGEST_S)
    done: list[str] = []

    def use() -> None:
        with SyncAuditLogger(AuditConfig(mode=Local(tmp_path), service_id="orders", flush_mode=mode)) as audit:
            audit.emit(ordinary()).wait(PATIENCE_S)
            done.append("wait")
            audit.emit(ordinary())
            audit.flush()
            done.append("flush")
            audit.emit(ordinary())
        done.append("close")

    thread = Thread(target=use, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert done == ["wait", "flush", "close"]


PROGRAM = """
import asyncio, signal, sys
from audit_async import AuditConfig, AuditLogger, Immediate, Local
from audit_async.events import AuthFailure, ModelAccessed

directory, own_handler = sys.argv[1:]

async def main():
    if own_handler == "own":
        signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
    mode = Local(directory)
    async with AuditLogger(AuditConfig(mode=mode, service_id="o", flush_mode=Immediate(max_delay=60))) as audit:
        await audit.emit(ModelAccessed(customer_id="c", model_ref="awaited", access_type="read"))
        audit.emit(ModelAccessed(customer_id="c", model_ref="with it", access_type="read"))
        failure = audit.emit(AuthFailure(attempted_user="m", reason="bad_password", ip="203.0.113.9", path="/"))
        while not failure.is_durable:
            await asyncio.sleep(0.001)
        waiting = audit.emit(ModelAccessed(customer_id="c", model_ref="waiting", access_type="read"))
        while waiting.seq < 0:
            await asyncio.sleep(0.001)
        print("ready", flush=True)
        while True:
            await asyncio.sleep(0.001)
            if waiting.is_durable:
                print("durable", flush=True)
                return

asyncio.run(main())
"""


@contextmanager
def waiting_process(directory: Path, handler: str = "none") -> Iterator[subprocess.Popen[str]]:
    """Run a process that has one record waiting for company."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, directory, handler], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def models(directory: Path) -> list[str]:
    """Return the models that the trail of such a process names, in order."""
    events = [record["event"] for record in read_events(directory / "o" / "00")]
    return [event["model_ref"] for event in events if "model_ref" in event]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("handler", ["none", "own"])
def test_a_signal_waits_for_no_company(tmp_path: Path, handler: str) -> None:
    """SIGTERM makes what waits durable at once, whether it ends the process or the application handles it."""
    with waiting_process(tmp_path, handler) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)
    if handler == "own":  # the process lives on, and sees that its record is durable
        assert sorted(output.split()) == ["durable", "handled"]
    else:
        assert process.returncode == -signal.SIGTERM
    assert models(tmp_path) == ["awaited", "with it", "waiting"]
    check_trail(tmp_path / "o" / "00")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_kill_loses_what_waits_and_nothing_else(tmp_path: Path) -> None:
    """That is the price of the delay: what was emitted within it; no acknowledged record, no critical one before it."""
    with waiting_process(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)
    assert models(tmp_path) == ["awaited", "with it"]
    assert any(record["event"]["event_type"] == "auth.failure" for record in read_events(tmp_path / "o" / "00"))
