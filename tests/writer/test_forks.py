"""Children that are forked while a log is opened: none of them keeps its lock, whatever comes after."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

#: Forks children, as a pool that is warmed up next to the opening does, at the moment that the test names.
COMMON = """
import asyncio, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from audit_async import AuditConfig, AuditLogger, Local
from audit_async._durable import disk

directory, moment = sys.argv[1:]
config = AuditConfig(mode=Local(directory), service_id="orders", instance="00", handle_signals=False)
children = []

def fork():
    child = os.fork()
    if child == 0:
        for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
            path = f"/proc/self/fd/{fd}"
            if os.path.exists(path) and os.readlink(path).endswith("/orders/00/lock"):
                print("the child has the lock", flush=True)
        time.sleep(600)
        os._exit(0)
    children.append(child)

def forking(name):
    real = getattr(disk, name)
    def call(*args, **kwargs):
        if moment == "before " + name:
            fork()
        try:
            return real(*args, **kwargs)
        finally:
            if moment == "after " + name:
                fork()
    setattr(disk, name, call)

forking("lock")
forking("write_at")

def in_a_thread():
    for _ in range(100):
        if stop.is_set():
            break
        fork()
stop = threading.Event()

def end_children():
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
"""

MOMENTS = ["before lock", "after lock", "before write_at", "after write_at"]


def run(tmp_path: Path, program: str, moment: str) -> tuple[int, str]:
    """Run a program with children that are forked at this moment; return its exit status and what all have written."""
    path, output = tmp_path / "program.py", tmp_path / "output"
    path.write_text(COMMON + textwrap.dedent(program))
    command = [sys.executable, str(path), str(tmp_path / "audit"), moment]
    with output.open("wb") as file:  # no pipe, whose end would wait for the children
        done = subprocess.run(command, stdout=file, stderr=file, timeout=180, check=False)
    return done.returncode, output.read_text()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_log_that_was_closed_in_order_can_be_opened_again(tmp_path: Path, moment: str) -> None:
    """A child that was forked while the lock was taken neither has it nor keeps the next opening from it."""
    ended = run(
        tmp_path,
        """
        async def main():
            for _ in range(2):
                async with AuditLogger(config):
                    pass
        try:
            asyncio.run(main())
            assert children
        finally:
            end_children()
        """,
        moment,
    )
    assert ended == (0, "")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_log_whose_process_was_killed_can_be_opened_by_another(tmp_path: Path, moment: str) -> None:
    """Children that outlive a killed process don't hold its log."""
    status, children = run(
        tmp_path,
        """
        async def main():
            await AuditLogger(config).start()
            print(*children, flush=True)
            os.kill(os.getpid(), 9)
        asyncio.run(main())
        """,
        moment,
    )
    try:
        assert status == -signal.SIGKILL, children
        assert len(children.split()) >= 1
        program = """
        async def main():
            async with AuditLogger(config):
                pass
        asyncio.run(main())
        """
        assert run(tmp_path, program, "none") == (0, "")
    finally:
        for child in children.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


def test_children_that_a_thread_forks_all_the_time(tmp_path: Path) -> None:
    """A pool that is warmed up next to the opening: no interleaving leaves a child with the lock."""
    ended = run(
        tmp_path,
        """
        async def main():
            for _ in range(20):
                async with AuditLogger(config):
                    pass
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        try:
            asyncio.run(main())
        finally:
            stop.set()
            thread.join()
            end_children()
        assert children
        """,
        "none",
    )
    assert ended == (0, "")


def test_a_child_that_is_forked_in_the_last_turn_of_a_start_takes_no_event(tmp_path: Path) -> None:
    """The log takes events by then, which only the parent can write: the child has to refuse them."""
    ended = run(
        tmp_path,
        """
        from audit_async import LogClosed
        from audit_async._writer.buffer import State
        from audit_async.events import DataDeleted

        async def main():
            audit = AuditLogger(config)
            starting = asyncio.create_task(audit.start())
            while audit._intake.state is not State.OPEN:
                await asyncio.sleep(0)
            assert audit.directory is None and not starting.done()
            child = os.fork()
            if child == 0:
                try:
                    audit.emit(DataDeleted(customer_id="c", data_types=[], reason="r"))
                except LogClosed:
                    os._exit(0)
                os._exit(1)
            await starting
            await audit.aclose()
            assert os.waitpid(child, 0)[1] == 0, "the child took an event"

        asyncio.run(main())
        """,
        "none",
    )
    assert ended == (0, "")


def test_a_child_that_is_forked_while_a_thread_counts_a_loss_or_drains_is_not_blocked(tmp_path: Path) -> None:
    """A lock of a thread that the child does not have is held there for ever: a loss counts, and SIGTERM ends it."""
    ended = run(
        tmp_path,
        """
        import signal
        from audit_async._writer import signals
        from audit_async.config import AuditConfig

        config = AuditConfig(mode=Local(directory), service_id="orders", instance="00")
        held, forked = threading.Event(), threading.Event()

        def hold(*locks):
            for lock in locks:
                lock.acquire()
            held.set()
            forked.wait()
            for lock in reversed(locks):
                lock.release()

        async def main():
            async with AuditLogger(config) as audit:
                course = signals._courses[signal.SIGTERM]
                thread = threading.Thread(target=hold, args=(audit._intake.drops._lock, course._lock))
                thread.start()
                held.wait()
                course._asked, course._due = True, signal.SIG_IGN  # a drain of the parent is nearly over
                child = os.fork()
                if child == 0:
                    signal.alarm(120)
                    audit.count_lost("http.request", "log_closed")
                    os.kill(os.getpid(), signal.SIGTERM)
                    os._exit(1)
                course._asked, course._due = False, None
                forked.set()
                thread.join()
                assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM

        asyncio.run(main())
        """,
        "none",
    )
    assert ended == (0, "")
