"""The loop that is not there: no wait without an end, no event taken for nobody, nothing lost as a process ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest
import uvloop

from audit_async import AuditLogger, HealthStatus, LogClosed, Receipt
from audit_async._store.log_store import LogStore
from tests.logs import ConfigFor, Counted, failure, log_directory
from tests.trails import check_trail, read_events
from tests.writer.hanging_disk import hanging_disk

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
TIMEOUT_S = 20.0


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """Give an event loop that runs only when it is told to, as a fixture's or a framework's does."""
    new: Callable[[], asyncio.AbstractEventLoop] = request.param
    made = new()
    yield made
    made.close()


def opened(loop: asyncio.AbstractEventLoop, config_for: ConfigFor, **settings: object) -> AuditLogger:
    """Return a logger that was started on this loop, which has stopped since."""
    audit = AuditLogger(config_for(**settings))
    loop.run_until_complete(audit.start())
    return audit


def here(call: Callable[[], Coroutine[Any, Any, object]]) -> object:
    """Await on a loop of one's own, within a time: what waits for ever fails."""

    async def main() -> object:
        with anyio.fail_after(TIMEOUT_S):
            return await call()

    return asyncio.run(main())


def recorded(config_for: ConfigFor) -> list[int]:
    """Return the numbers of the `Counted` events in the log, in their order."""
    check_trail(log_directory(config_for()))
    return [r["event"]["n"] for r in read_events(log_directory(config_for())) if "n" in r["event"]]


AWAITED = ["durable", "emit_durable", "flush", "hold", "set_hold", "lift_hold", "apply_retention"]


def awaited(name: str, audit: AuditLogger, receipt: Receipt) -> Callable[[], Coroutine[Any, Any, object]]:
    """Return what awaits on the log by this name."""
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "durable": receipt.durable,
        "emit_durable": lambda: audit.emit_durable(failure()),
        "flush": audit.flush,
        "hold": audit.hold,
        "set_hold": lambda: audit.set_hold(reason="r", set_by="s"),
        "lift_hold": lambda: audit.lift_hold(reason="r", lifted_by="s"),
        "apply_retention": audit.apply_retention,
    }
    return calls[name]


@pytest.mark.parametrize("name", AWAITED)
@pytest.mark.parametrize("closed", [False, True], ids=["stopped", "closed"])
def test_nothing_waits_for_a_loop_that_does_not_run(
    loop: asyncio.AbstractEventLoop, config_for: ConfigFor, name: str, *, closed: bool
) -> None:
    """A session's fixture, `async_to_sync`, a second `asyncio.run`: an error at once that says what to do."""
    audit = opened(loop, config_for)
    receipt = audit.emit(failure())
    if closed:
        loop.close()
    with pytest.raises(LogClosed, match="is closed, so" if closed else "has stopped, so"):
        here(awaited(name, audit, receipt))
    if not closed:
        loop.run_until_complete(audit.aclose())
    else:
        asyncio.run(audit.aclose())


def test_a_wait_ends_with_the_loop_that_it_waits_for(config_for: ConfigFor) -> None:
    """A loop that stops while another one waits for it is noticed."""
    loop = asyncio.new_event_loop()
    audit = opened(loop, config_for)
    thread = Thread(target=loop.run_forever)
    thread.start()

    async def never() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        assert audit._session is not None
        waiting = asyncio.create_task(audit._session.home.call(never))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        loop.call_soon_threadsafe(loop.stop)
        with pytest.raises(LogClosed, match="has stopped"):
            await waiting

    asyncio.run(main())
    thread.join(TIMEOUT_S)
    loop.run_until_complete(audit.aclose())

    async def end_the_others() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    loop.run_until_complete(end_the_others())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("chunk_is_open", [False, True])
def test_a_closed_loop_takes_no_events(
    loop: asyncio.AbstractEventLoop, config_for: ConfigFor, *, chunk_is_open: bool
) -> None:
    """`emit` after `loop.close()` raises, each time; what it took before is not lost."""
    audit = opened(loop, config_for)
    if chunk_is_open:
        audit.emit(Counted(producer="p", n=0))
    loop.close()
    for _ in range(3):
        with pytest.raises(LogClosed, match="is closed"):
            audit.emit(Counted(producer="p", n=1))
    asyncio.run(audit.aclose())
    assert recorded(config_for) == ([0] if chunk_is_open else [])
    assert audit.health().status is HealthStatus.CLOSED


def test_aclose_drains_what_a_closed_loop_left(loop: asyncio.AbstractEventLoop, config_for: ConfigFor) -> None:
    """All that was taken is durable afterwards, `audit.log_closed` the last; the log can be opened again at once."""
    audit = opened(loop, config_for)

    async def emit() -> None:
        for n in range(1000):
            audit.emit(Counted(producer="p", n=n))

    loop.run_until_complete(emit())
    for n in range(1000, 3000):
        audit.emit(Counted(producer="p", n=n))
    loop.close()
    asyncio.run(audit.aclose())
    asyncio.run(audit.aclose())
    assert recorded(config_for) == list(range(3000))
    assert read_events(log_directory(config_for()))[-1]["event"]["event_type"] == "audit.log_closed"
    assert audit.stats().waiting == 0
    second = asyncio.new_event_loop()
    other = opened(second, config_for, instance="00")
    second.run_until_complete(other.aclose())
    second.close()


def test_a_log_that_its_loop_has_drained_is_unlocked(config_for: ConfigFor) -> None:
    """`asyncio.run` that ends without `aclose` leaves no lock, and `aclose` has nothing left to do afterwards."""
    left: list[AuditLogger] = []

    async def main() -> None:
        audit = AuditLogger(config_for(instance="00"))
        await audit.start()
        audit.emit(Counted(producer="p", n=len(left)))
        left.append(audit)

    for _ in range(3):
        asyncio.run(main())
    for audit in left:
        asyncio.run(audit.aclose())
        assert audit.health().status is HealthStatus.CLOSED
    assert recorded(config_for) == [0, 1, 2]


# The end of the interpreter, in real processes.

COMMON = """
import asyncio, sys, threading, time
import uvloop
from audit_async import AuditConfig, AuditLogger, Batched, Local
from audit_async.events import ModelAccessed

config = AuditConfig(
    mode=Local(sys.argv[1]), service_id="orders", flush_mode=Batched(size=9_000, interval=3600), drain_timeout=2.0
)
new_loop = {"asyncio": asyncio, "uvloop": uvloop}[sys.argv[2]].new_event_loop

def emit_many(audit, first=0):
    for n in range(first, first + 2000):
        audit.emit(ModelAccessed(customer_id="c", model_ref=str(n), access_type="read"))
"""

ENDS = {
    "the loop has stopped": """
        loop = new_loop()
        audit = AuditLogger(config)
        loop.run_until_complete(audit.start())
        emit_many(audit)
    """,
    "the loop is closed": """
        loop = new_loop()
        audit = AuditLogger(config)
        async def main():
            await audit.start()
            emit_many(audit)
        loop.run_until_complete(main())
        loop.close()
    """,
    "half of it is framed": """
        loop = new_loop()
        audit = AuditLogger(config)
        async def main():
            await audit.start()
            emit_many(audit)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        loop.run_until_complete(main())
    """,
    "nobody refers to it any more": """
        def function():
            loop = new_loop()
            audit = AuditLogger(config)
            loop.run_until_complete(audit.start())
            emit_many(audit)
            loop.close()
        function()
        import gc; gc.collect()
    """,
    "the loop runs in a daemon thread": """
        audit = AuditLogger(config)
        opened = threading.Event()
        async def main():
            await audit.start()
            opened.set()
            await asyncio.sleep(3600)
        def run():
            loop = new_loop()
            loop.run_until_complete(main())
        threading.Thread(target=run, daemon=True).start()
        opened.wait()
        emit_many(audit)
    """,
    "an error ends the script": """
        loop = new_loop()
        audit = AuditLogger(config)
        loop.run_until_complete(audit.start())
        emit_many(audit)
        sys.exit(3)
    """,
    "an atexit handler emits as well": """
        import atexit
        loop = new_loop()
        audit = AuditLogger(config)
        loop.run_until_complete(audit.start())
        atexit.register(emit_many, audit, 1000)
        for n in range(1000):
            audit.emit(ModelAccessed(customer_id="c", model_ref=str(n), access_type="read"))
        atexit.register(lambda: None)
    """,
    "a child of multiprocessing ends": """
        import multiprocessing
        def child():
            loop = new_loop()
            audit = AuditLogger(config)
            loop.run_until_complete(audit.start())
            emit_many(audit)
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
    """,
}


def run_to_its_end(tmp_path: Path, loop_name: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with every warning shown."""
    path = tmp_path / "program.py"
    path.write_text(COMMON + textwrap.dedent(program))
    command = [sys.executable, "-W", "always::ResourceWarning", str(path), str(tmp_path / "audit"), loop_name]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
@pytest.mark.parametrize("end", ENDS)
def test_a_script_that_ends_without_closing_loses_nothing(tmp_path: Path, loop_name: str, end: str) -> None:
    """What `emit` took is drained as the interpreter ends, and a `ResourceWarning` says that nobody closed the log."""
    process = run_to_its_end(tmp_path, loop_name, ENDS[end])
    assert process.returncode == (3 if end == "an error ends the script" else 0), process.stderr
    directory = tmp_path / "audit" / "orders" / "00"
    check_trail(directory)
    events = [record["event"] for record in read_events(directory)]
    numbers = [int(event["model_ref"]) for event in events if "model_ref" in event]
    assert numbers == list(range(3000 if "atexit" in end else 2000)), process.stderr
    assert events[-1]["event_type"] == "audit.log_closed"
    assert "was never closed" in process.stderr
    assert "are lost" not in process.stderr
    assert "Traceback" not in process.stderr
    assert "pending" not in process.stderr


@pytest.mark.parametrize("fault", ["hangs", "refuses"])
def test_what_the_disk_does_not_take_at_the_end_is_said(tmp_path: Path, fault: str) -> None:
    """A disk that hangs or refuses ends no process later than `drain_timeout`: one line says how much is lost."""
    process = run_to_its_end(
        tmp_path,
        "asyncio",
        f"""
        from audit_async._store.log_store import LogStore
        loop = new_loop()
        audit = AuditLogger(config)
        loop.run_until_complete(audit.start())
        def commit(self, batch, *, sync):
            if {fault!r} == "hangs":
                time.sleep(3600)
            raise OSError(28, "No space left on device")
        LogStore.commit = commit
        emit_many(audit)
        """,
    )
    assert process.returncode == 0
    lost = [line for line in process.stderr.splitlines() if "are lost" in line]
    assert len(lost) == 1
    assert "orders/00: 2000 events are lost" in lost[0]
    assert ("No space left" in lost[0]) is (fault == "refuses")


def test_a_forked_child_does_not_drain_its_parents_log(tmp_path: Path) -> None:
    """A child that ends by the interpreter's orderly end leaves the log to its parent."""
    process = run_to_its_end(
        tmp_path,
        "asyncio",
        """
        import os
        loop = new_loop()
        audit = AuditLogger(config)
        loop.run_until_complete(audit.start())
        emit_many(audit)
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        loop.run_until_complete(audit.aclose())
        """,
    )
    assert process.returncode == 0
    assert "audit log" not in process.stderr
    directory = tmp_path / "audit" / "orders" / "00"
    check_trail(directory)
    assert len(read_events(directory)) == 2002


# Clocks.


@pytest.mark.parametrize("new", LOOPS)
@pytest.mark.parametrize("how", ["freezegun", "freezegun, asyncio's left alone", "time-machine"])
@pytest.mark.parametrize("mode", ["Batched(size=100, interval=0.05)", "Hybrid(batch_size=100, batch_interval=0.05)"])
def test_a_frozen_clock_keeps_nobody_waiting(tmp_path: Path, new: Callable[[], object], how: str, mode: str) -> None:
    """Under a test's frozen clock a batch's interval ends all the same, on either loop."""
    pytest.importorskip("time_machine" if how == "time-machine" else "freezegun")
    frozen = {
        "freezegun": "__import__('freezegun').freeze_time('2030-01-01')",
        "freezegun, asyncio's left alone": "__import__('freezegun').freeze_time('2030-01-01', real_asyncio=True)",
        "time-machine": "__import__('time_machine').travel('2030-01-01', tick=False)",
    }[how]
    process = run_to_its_end(
        tmp_path,
        "asyncio" if new is asyncio.new_event_loop else "uvloop",
        f"""
        import dataclasses, msgspec
        from audit_async import Hybrid
        async def main():
            async with AuditLogger(msgspec.structs.replace(config, flush_mode={mode})) as audit:
                for n in range(3):
                    await audit.emit(ModelAccessed(customer_id="c", model_ref=str(n), access_type="r")).durable()
        with {frozen}:
            loop = new_loop()
            loop.run_until_complete(main())
        """,
    )
    assert process.returncode == 0, process.stderr
    assert len(read_events(tmp_path / "audit" / "orders" / "00")) == 5


# A disk that hangs.


@pytest.mark.anyio
async def test_a_disk_that_hangs_is_a_status(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No error and no end: `stalled` by age, logged once, not ready; ok again when the disk answers."""
    monkeypatch.setattr("audit_async._writer.write_loop._WATCH_S", 0.01)
    commit = LogStore.commit
    # For this commit alone: that of the opening or the end may take as long on a busy machine.
    async with AuditLogger(config_for()) as audit:
        with monkeypatch.context() as patch, hanging_disk(monkeypatch) as release:
            patch.setattr("audit_async._writer.writer_health._STALLED_AFTER_S", 0.05)
            receipt = audit.emit(failure())
            with anyio.fail_after(TIMEOUT_S):
                while audit.health().status is not HealthStatus.STALLED:
                    await anyio.sleep(0.005)
            health = audit.health()
            assert not health.ok
            assert "has not answered" in str(health.reason)
            await anyio.sleep(0.1)
            release()
            await receipt.durable()
        assert LogStore.commit is commit
        assert audit.health().status is HealthStatus.OK
    warned = [record for record in caplog.records if record.name == "audit_async"]
    assert [("stalled" in record.getMessage()) for record in warned] == [True, True], "its begin and its end"


@pytest.mark.anyio
async def test_refusals_show_a_hanging_disk_sooner(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once events are refused while a commit does not end, the log is stalled, and says how many."""
    monkeypatch.setattr("audit_async._writer.writer_health._STALLED_AFTER_S", 3600.0)
    monkeypatch.setattr("audit_async._writer.writer_health._STALLED_FULL_AFTER_S", 0.05)
    monkeypatch.setattr("audit_async._writer.write_loop._WATCH_S", 0.01)
    async with AuditLogger(config_for(buffer_events=20)) as audit:
        with hanging_disk(monkeypatch) as release:
            audit.emit(failure())
            await anyio.sleep(0.2)
            assert audit.health().status is HealthStatus.OK, "a slow disk alone is none for some seconds"
            refused = 0
            for n in range(100):
                try:
                    audit.emit(Counted(producer="p", n=n))
                except Exception:  # noqa: BLE001 - BufferFull
                    refused += 1
            with anyio.fail_after(TIMEOUT_S):
                while audit.health().status is not HealthStatus.STALLED:
                    await anyio.sleep(0.005)
            assert f"{refused} events were refused" in str(audit.health().reason)
            release()
            await audit.flush()
        assert audit.health().status is HealthStatus.OK
