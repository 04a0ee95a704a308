"""The buffer's bounds: what happens when more is emitted than the disk takes."""

from __future__ import annotations

from threading import Thread

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from audit_async import AuditLogger, BufferFull, LogClosed, Position
from audit_async._writer.buffer import RECORD_OVERHEAD
from tests.logs import ConfigFor, Counted, failure, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


def counted(n: int, padding: int = 0) -> Counted:
    """Return an ordinary event, larger by `padding` bytes."""
    return Counted(producer="p" + "x" * padding, n=n)


def fill(audit: AuditLogger) -> int:
    """Emit ordinary events until one is refused; return how many were taken. The writer has no turn meanwhile."""
    taken = 0
    while True:
        try:
            audit.emit(counted(taken))
        except BufferFull:
            return taken
        taken += 1


@pytest.mark.parametrize("from_thread", [False, True], ids=["loop", "thread"])
async def test_a_full_buffer_refuses_and_the_refusal_is_recorded(config_for: ConfigFor, from_thread: bool) -> None:
    """`BufferFull` is raised at nine tenths; what was refused is counted by type and told in the chain."""
    config = config_for(buffer_events=100)
    async with AuditLogger(config) as audit:
        assert fill(audit) == 90
        if from_thread:
            refused_in_thread: list[BufferFull] = []

            def emit() -> None:
                try:
                    audit.emit(counted(-1))
                except BufferFull as error:
                    refused_in_thread.append(error)

            thread = Thread(target=emit)
            thread.start()
            thread.join()
            assert refused_in_thread
        else:
            with pytest.raises(BufferFull, match=r"90 of 100 events"):
                audit.emit(counted(-1))
        assert audit.stats().dropped_by_type == {"test.counted": 2}
        await audit.flush()  # which makes room,
        await audit.flush()  # so the refusals are on record before the next event, and before the end
        assert read_events(log_directory(config))[-1]["event"]["event_type"] == "audit.events_dropped"
        await audit.emit_durable(counted(90))
    records = read_events(log_directory(config))
    (dropped,) = (r["event"] for r in records if r["event"]["event_type"] == "audit.events_dropped")
    assert (dropped["count"], dropped["by_type"], dropped["reason"]) == (2, {"test.counted": 2}, "buffer_full")
    assert dropped["first_at"] <= dropped["last_at"]
    assert [r["event"]["n"] for r in records if "n" in r["event"]] == list(range(91))
    check_trail(log_directory(config))


async def test_the_last_tenth_is_kept_for_critical_events(config_for: ConfigFor) -> None:
    """Where ordinary events are refused, critical ones still find room, up to the whole bound."""
    async with AuditLogger(config_for(buffer_events=100)) as audit:
        fill(audit)
        for n in range(10):
            audit.emit(failure(n))
        with pytest.raises(BufferFull):
            audit.emit(failure(10))
        assert audit.health().buffer_fill == 1.0


async def test_bytes_are_bounded_as_well(config_for: ConfigFor) -> None:
    """Few large events fill the buffer as many small ones do: memory is what is bounded."""
    budget = 128 * 1024
    async with AuditLogger(config_for(buffer_events=100_000, buffer_bytes=budget)) as audit:
        taken = 0
        with pytest.raises(BufferFull):
            while True:
                audit.emit(counted(taken, padding=900))
                taken += 1
        assert taken == pytest.approx(0.9 * budget / (950 + RECORD_OVERHEAD), rel=0.05)
        assert audit.stats().waiting_bytes <= budget


async def test_room_comes_back_when_records_are_durable(config_for: ConfigFor) -> None:
    """What was acknowledged takes no room any more, to the byte: the buffer can be filled again and again."""
    async with AuditLogger(config_for(buffer_events=100)) as audit:
        for _ in range(5):
            assert fill(audit) == 90
            await audit.flush()
            await audit.flush()  # the record of the refusals, too
            assert (audit.stats().waiting, audit.stats().waiting_bytes) == (0, 0)


async def test_emit_durable_waits_for_room(config_for: ConfigFor) -> None:
    """`emit_durable` is never refused because of a full buffer; 200 of them at once all get their place."""
    config = config_for(buffer_events=20)
    positions: list[Position] = []

    async with AuditLogger(config) as audit:

        async def record(n: int) -> None:
            positions.append(await audit.emit_durable(counted(n)))

        fill(audit)
        async with anyio.create_task_group() as group:
            for n in range(200):
                group.start_soon(record, n)
        assert audit.stats().dropped == 1  # the one that `fill` was refused
    assert len({position.seq for position in positions}) == 200
    check_trail(log_directory(config))


async def test_waiting_for_room_ends_with_the_log(config_for: ConfigFor) -> None:
    """Who waits for room when the log is closed is told so, and does not wait for ever."""
    async with AuditLogger(config_for(buffer_events=20)) as audit:
        fill(audit)
        async with anyio.create_task_group() as group:

            async def record() -> None:
                with pytest.raises(LogClosed):
                    await audit.emit_durable(counted(1))

            group.start_soon(record)
            await anyio.lowlevel.checkpoint()
            await audit.aclose()
