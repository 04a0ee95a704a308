"""When a record is synced: each flush mode's promise, seen at the store's own system calls."""

from __future__ import annotations

import time

import anyio
import pytest

from audit_async import AuditLogger, Batched, Hybrid, Immediate
from audit_async._writer.sync_schedule import SyncSchedule
from audit_async.events import ModelAccessed
from tests.logs import ConfigFor, failure, log_directory, segment_lines

pytestmark = pytest.mark.anyio

NEVER_S = 3600.0  # an interval that no test waits for


def ordinary(n: int = 0) -> ModelAccessed:
    """Return an event that is not critical."""
    return ModelAccessed(customer_id="c", model_ref=f"m{n}", access_type="read")


async def until_written(config_lines: int, config_for: ConfigFor) -> None:
    """Wait until the segment holds that many whole lines."""
    with anyio.fail_after(60):
        while len(segment_lines(log_directory(config_for()))) < config_lines:
            await anyio.sleep(0.001)


async def test_immediate_waits_for_no_timer(config_for: ConfigFor) -> None:
    """In immediate mode one lone record becomes durable by itself, without a flush."""
    async with AuditLogger(config_for(flush_mode=Immediate())) as audit:
        with anyio.fail_after(60):
            await audit.emit(ordinary()).durable()


async def test_immediate_shares_a_sync_among_all_that_wait(config_for: ConfigFor) -> None:
    """Group commit: a burst of 5000 records takes a handful of syncs, not 5000."""
    async with AuditLogger(config_for(flush_mode=Immediate())) as audit:
        receipts = [audit.emit(ordinary(n)) for n in range(5000)]
        before = audit.stats().syncs
        await receipts[-1].durable()
        assert audit.stats().syncs - before <= 20


async def test_batched_writes_at_once_and_syncs_later(config_for: ConfigFor) -> None:
    """In batched mode a record reaches the operating system at once, and is not acknowledged before its sync."""
    async with AuditLogger(config_for(flush_mode=Batched(size=100, interval=NEVER_S))) as audit:
        before = audit.stats().syncs
        receipts = [audit.emit(ordinary(n)) for n in range(99)]
        await until_written(100, config_for)
        await anyio.sleep(0.05)  # long enough for a sync that should not come
        assert audit.stats().syncs == before
        assert not receipts[0].is_durable
        receipts.append(audit.emit(ordinary(99)))
        with anyio.fail_after(60):
            await receipts[-1].durable()
        assert all(receipt.is_durable for receipt in receipts)


async def test_batched_syncs_by_a_timer_when_nothing_more_comes(config_for: ConfigFor) -> None:
    """A lone record becomes durable after the interval, though no further event pushes it."""
    async with AuditLogger(config_for(flush_mode=Batched(size=100, interval=0.05))) as audit:
        began = time.monotonic()
        with anyio.fail_after(60):
            await audit.emit(ordinary()).durable()
        assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(
    "flush_mode", [Batched(size=1000, interval=NEVER_S), Hybrid(batch_size=1000, batch_interval=NEVER_S)]
)
async def test_flush_and_emit_durable_do_not_wait_for_the_interval(
    config_for: ConfigFor, flush_mode: Batched | Hybrid
) -> None:
    """Who asks for durability gets it now, with everything that was emitted before."""
    async with AuditLogger(config_for(flush_mode=flush_mode)) as audit:
        with anyio.fail_after(60):
            first = audit.emit(ordinary(0))
            await audit.flush()
            assert first.is_durable
            second = audit.emit(ordinary(1))
            await audit.emit_durable(ordinary(2))
            assert second.is_durable
            await audit.flush()  # nothing waits: returns at once
            third = audit.emit(ordinary(3))
            await until_written(5, config_for)  # framed and written, so that flush finds no event to wait for
            await audit.flush()
            assert third.is_durable


@pytest.mark.parametrize("from_thread", [False, True], ids=["loop", "thread"])
async def test_hybrid_makes_a_critical_event_and_all_before_it_durable_at_once(
    config_for: ConfigFor, from_thread: bool
) -> None:
    """A critical event does not wait for the batch, from whichever thread it comes; an ordinary one does."""
    mode = Hybrid(batch_size=1000, batch_interval=NEVER_S)
    async with AuditLogger(config_for(flush_mode=mode)) as audit:
        before = audit.emit(ordinary())
        await until_written(2, config_for)
        assert not before.is_durable
        receipt = await anyio.to_thread.run_sync(audit.emit, failure()) if from_thread else audit.emit(failure())
        with anyio.fail_after(60):
            await receipt.durable()
        assert before.is_durable


async def test_hybrid_can_leave_critical_events_to_the_batch(config_for: ConfigFor) -> None:
    """With critical_immediate=False a critical event waits like any other."""
    mode = Hybrid(batch_size=2, batch_interval=NEVER_S, critical_immediate=False)
    async with AuditLogger(config_for(flush_mode=mode)) as audit:
        receipt = audit.emit(failure())
        await until_written(2, config_for)
        assert not receipt.is_durable
        with anyio.fail_after(60):
            await audit.emit(ordinary()).durable()
        assert receipt.is_durable


async def test_the_interval_counts_from_the_oldest_record() -> None:
    """A steady trickle can't push the sync away: the interval begins with the first record that waits."""
    schedule = SyncSchedule(Batched(size=100, interval=1.0))
    schedule.framed(now=10.0)
    schedule.framed(now=10.9)
    assert schedule.deadline == 11.0
    assert not schedule.is_due(synced_seq=0, framed_seq=2, now=10.99)
    assert schedule.is_due(synced_seq=0, framed_seq=2, now=11.0)
    schedule.synced(synced_seq=2, framed_seq=3, now=11.1)
    assert schedule.deadline == 12.1
    schedule.synced(synced_seq=3, framed_seq=3, now=12.0)
    assert schedule.deadline is None
    assert not schedule.is_due(synced_seq=3, framed_seq=3, now=99.0)
