"""Opening and closing a log: nothing is lost at the end, and misuse is told clearly."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from uvloop import new_event_loop as new_uvloop

import audit_async
from audit_async import AuditLogger, BufferFull, HealthStatus, LogClosed, LogLocked, Receipt
from audit_async._durable import disk
from audit_async._writer.buffer import State
from tests.logs import ConfigFor, Counted, failure, log_directory
from tests.open_files import open_files_below
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


def recorded(config_for: ConfigFor) -> list[int]:
    """Return the numbers of the `Counted` events in the log, in their order."""
    return [r["event"]["n"] for r in read_events(log_directory(config_for())) if "n" in r["event"]]


def last_event_type(config_for: ConfigFor) -> str:
    """Return the type of the newest record."""
    event_type: str = read_events(log_directory(config_for()))[-1]["event"]["event_type"]
    return event_type


async def test_emit_before_the_start_is_an_error_that_says_what_to_do(config_for: ConfigFor) -> None:
    """Nothing is silently kept or dropped by a logger that was never started."""
    audit = AuditLogger(config_for())
    with pytest.raises(LogClosed, match=r"async with AuditLogger"):
        audit.emit(failure())
    with pytest.raises(LogClosed, match="not started"):
        await audit.emit_durable(failure())
    with pytest.raises(LogClosed, match="not started"):
        await audit.flush()
    await audit.aclose()  # nothing to close, and no error


async def test_emit_after_the_end_is_an_error(config_for: ConfigFor) -> None:
    """A closed log takes nothing and says so, in any thread; what was emitted before is durable."""
    async with AuditLogger(config_for()) as audit:
        receipt = audit.emit(failure())
    with pytest.raises(LogClosed, match="closed"):
        audit.emit(failure())
    with pytest.raises(LogClosed, match="closed"):
        await anyio.to_thread.run_sync(audit.emit, failure())
    with pytest.raises(LogClosed, match="closed"):
        await audit.emit_durable(failure())
    assert (await receipt.durable()).seq == 1
    await audit.flush()  # everything emitted is durable
    await audit.aclose()  # a second time: nothing happens
    assert audit.health().status is HealthStatus.CLOSED


async def test_a_logger_is_started_once(config_for: ConfigFor) -> None:
    """A second start is an error, while the log is open and after it was closed."""
    audit = AuditLogger(config_for())
    async with audit:
        with pytest.raises(LogClosed, match="started before"):
            await audit.start()
    with pytest.raises(LogClosed, match="started before"):
        await audit.start()


async def test_start_and_aclose_work_in_different_tasks(config_for: ConfigFor) -> None:
    """A framework may start the log in one task and close it in another."""
    audit = AuditLogger(config_for())
    async with anyio.create_task_group() as group:
        group.start_soon(audit.start)
    for n in range(100):
        audit.emit(Counted(producer="p", n=n))
    async with anyio.create_task_group() as group:
        group.start_soon(audit.aclose)
        group.start_soon(audit.aclose)
    assert recorded(config_for) == list(range(100))
    assert last_event_type(config_for) == "audit.log_closed"


async def test_the_end_of_a_cancelled_scope_drains(config_for: ConfigFor) -> None:
    """Cancelling the surrounding scope loses nothing: the drain is shielded from it."""
    with anyio.CancelScope() as scope:
        async with AuditLogger(config_for()) as audit:
            for n in range(2000):
                audit.emit(Counted(producer="p", n=n))
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert recorded(config_for) == list(range(2000))
    assert last_event_type(config_for) == "audit.log_closed"


async def test_a_task_cancelled_again_while_it_drains_drains_to_the_end(config_for: ConfigFor) -> None:
    """Plain asyncio cancellation, repeated, can't interrupt the drain either; it takes effect afterwards."""
    entered = asyncio.Event()

    async def serve() -> None:
        async with AuditLogger(config_for()) as audit:
            for n in range(2000):
                audit.emit(Counted(producer="p", n=n))
            entered.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(serve())
    await entered.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert recorded(config_for) == list(range(2000))
    assert last_event_type(config_for) == "audit.log_closed"


async def test_a_start_that_is_cancelled_as_the_log_is_open_closes_it(config_for: ConfigFor) -> None:
    """Nobody has a log that he could close: it is closed in order, none of its tasks is left, and it can be started."""
    audit = AuditLogger(config_for(instance="00"))
    before = asyncio.all_tasks()
    starting = asyncio.create_task(audit.start())
    with anyio.fail_after(60):
        while audit._intake.state is not State.OPEN:
            await asyncio.sleep(0)
        assert audit.directory is None  # it is the last turn of the start
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        with pytest.raises(LogClosed):
            audit.emit(failure())
        assert asyncio.all_tasks() == before
        assert last_event_type(config_for) == "audit.log_closed"
        async with audit:
            await audit.emit_durable(failure())
    check_trail(log_directory(config_for()))


async def test_an_error_of_the_application_passes_through(config_for: ConfigFor) -> None:
    """An exception in the body drains the log and reaches the caller unchanged."""
    with pytest.raises(ZeroDivisionError):
        async with AuditLogger(config_for()) as audit:
            audit.emit(Counted(producer="p", n=1))
            raise ZeroDivisionError
    assert recorded(config_for) == [1]


async def test_threads_that_emit_into_the_closing_log_lose_nothing(config_for: ConfigFor) -> None:
    """Each `emit` of a thread either raises or is recorded, also in the moment of closing."""
    taken: list[int] = []
    audit = AuditLogger(config_for(buffer_events=1_000_000, buffer_bytes=1 << 30))
    await audit.start()

    def produce() -> None:
        n = 0
        while True:
            try:
                audit.emit(Counted(producer="p", n=n))
            except LogClosed:
                return
            taken.append(n)
            n += 1

    thread = Thread(target=produce)
    thread.start()
    with anyio.fail_after(60):
        while len(taken) < 2000:
            await anyio.lowlevel.checkpoint()
    await audit.aclose()
    thread.join()
    assert recorded(config_for) == taken
    assert last_event_type(config_for) == "audit.log_closed"


def on_each_loop(main: Callable[[], Coroutine[Any, Any, None]], *, uvloop: bool) -> None:
    """Run `main` as an application does, on asyncio's loop or on uvloop."""
    with asyncio.Runner(loop_factory=new_uvloop if uvloop else None) as runner:
        runner.run(main())


@pytest.mark.filterwarnings("ignore:audit log:ResourceWarning")
@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_a_log_that_nobody_closed_is_drained_as_the_loop_ends(config_for: ConfigFor, uvloop: bool) -> None:
    """start() without aclose() loses nothing when the loop's runner cancels what is left."""

    async def main() -> None:
        audit = AuditLogger(config_for())
        await audit.start()
        for n in range(3000):
            audit.emit(Counted(producer="p", n=n))

    on_each_loop(main, uvloop=uvloop)
    gc.collect()  # the warning belongs to this test
    assert recorded(config_for) == list(range(3000))
    assert last_event_type(config_for) == "audit.log_closed"
    check_trail(log_directory(config_for()))


def test_a_thread_that_outlives_the_loop_is_told(config_for: ConfigFor) -> None:
    """After the loop has ended, `emit` in a thread raises instead of feeding a buffer that nobody reads."""
    loggers: list[AuditLogger] = []

    async def main() -> None:
        loggers.append(AuditLogger(config_for()))
        await loggers[0].start()

    asyncio.run(main())
    with pytest.raises(LogClosed):
        loggers[0].emit(failure())
    asyncio.run(loggers[0].aclose())


def test_run_runs_an_async_main(config_for: ConfigFor) -> None:
    """`audit_async.run(main, *args)` passes arguments, returns the result, and uses uvloop."""

    async def main(n: int) -> str:
        async with AuditLogger(config_for()) as audit:
            await audit.emit_durable(Counted(producer="p", n=n))
        return type(asyncio.get_running_loop()).__module__

    assert audit_async.run(main, 7).startswith("uvloop")
    assert recorded(config_for) == [7]


async def test_a_logger_leaves_nothing_behind(config_for: ConfigFor) -> None:
    """After closing there is no thread, no task and no open file of the log any more."""
    async with AuditLogger(config_for()) as audit:
        audit.emit(failure())
        assert open_files_below(log_directory(config_for()))
    assert not open_files_below(log_directory(config_for()))
    assert not [task for task in asyncio.all_tasks() if "audit-async" in task.get_name()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del audit
        gc.collect()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
async def test_a_forked_child_can_neither_emit_nor_harm_the_log(config_for: ConfigFor) -> None:
    """`emit` in a forked child raises, its ending writes nothing, and the parent's log goes on."""
    config = config_for()
    async with AuditLogger(config) as audit:
        audit.emit(Counted(producer="parent", n=0))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                audit.emit(Counted(producer="child", n=1))
            except LogClosed as error:
                code = 0 if "forked" in str(error) and not open_files_below(log_directory(config)) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        audit.emit(Counted(producer="parent", n=2))
    assert recorded(config_for) == [0, 2]
    check_trail(log_directory(config))


async def test_a_child_that_is_forked_during_the_drain_keeps_nothing(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's files, its lock among them, are closed in the child; the parent ends its drain."""
    config = config_for()
    draining, go_on = Event(), Event()
    write = disk.write_and_sync_at

    def write_slowly(fd: int, data: bytes, offset: int) -> None:
        draining.set()
        assert go_on.wait(120)
        write(fd, data, offset)

    audit = AuditLogger(config)
    await audit.start()
    monkeypatch.setattr(disk, "write_and_sync_at", write_slowly)
    closing = asyncio.create_task(audit.aclose())
    with anyio.fail_after(60):
        while not draining.is_set():
            await anyio.sleep(0.001)
    child = os.fork()
    if child == 0:
        os._exit(len(open_files_below(log_directory(config))))
    _, status = os.waitpid(child, 0)
    go_on.set()
    await closing
    assert os.waitstatus_to_exitcode(status) == 0
    check_trail(log_directory(config))


async def test_a_cancelled_start_gives_the_lock_back(config_for: ConfigFor) -> None:
    """A start that is cancelled half-way leaves nothing locked: the next one works."""
    for delay_s in (0.0, 0.0001, 0.001, 0.003):
        with anyio.move_on_after(delay_s), suppress(LogLocked):
            async with AuditLogger(config_for(instance="one")):
                pass
    with anyio.fail_after(60):
        while True:
            try:
                async with AuditLogger(config_for(instance="one")) as audit:
                    audit.emit(failure())
                break
            except LogLocked:  # the worker thread of the last try is still giving it back
                await anyio.sleep(0.001)
    check_trail(log_directory(config_for(), "one"))


async def test_receipts_hold_no_event(config_for: ConfigFor) -> None:
    """A receipt that is kept keeps its identity and not the event's bytes."""
    async with AuditLogger(config_for()) as audit:
        receipt: Receipt = audit.emit(failure())
        await receipt.durable()
        assert receipt.event == b""


async def test_events_that_were_refused_before_the_end_are_told(config_for: ConfigFor) -> None:
    """Refusals that had no record yet when the log is closed get it before `audit.log_closed`."""
    config = config_for(buffer_events=20)
    async with AuditLogger(config) as audit:
        with pytest.raises(BufferFull):
            for n in range(100):
                audit.emit(Counted(producer="p", n=n))
    *_, dropped, closed = read_events(log_directory(config))
    assert (dropped["event"]["event_type"], dropped["event"]["count"]) == ("audit.events_dropped", 1)
    assert closed["event"]["event_type"] == "audit.log_closed"
