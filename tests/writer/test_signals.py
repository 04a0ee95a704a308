"""SIGTERM and SIGINT: drain, then the ordinary course. Each test is a real process that gets a real signal."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trails import check_trail, read_events

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

COMMON = """
import asyncio, signal, sys, threading
from audit_async import AuditConfig, AuditLogger, Batched, Local, run
from audit_async.events import ModelAccessed

directory, loop_name = sys.argv[1:]
config = AuditConfig(mode=Local(directory), service_id="orders", flush_mode=Batched(size=9_000, interval=3600))

def emit_many(audit):
    for n in range(2000):
        audit.emit(ModelAccessed(customer_id="c", model_ref=str(n), access_type="read"))

def run_here(main):
    if loop_name == "uvloop":
        run(main)
    else:
        asyncio.run(main())
"""

Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture(params=["asyncio", "uvloop"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Started:
    """Return a function that starts a program on this loop and waits until it says that it is ready."""

    def start_program(program: str) -> subprocess.Popen[str]:
        path = tmp_path / "program.py"
        path.write_text(COMMON + textwrap.dedent(program))
        process = subprocess.Popen(
            [sys.executable, path, tmp_path / "audit", request.param],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        request.addfinalizer(process.kill)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", line + process.communicate()[1]
        return process

    return start_program


def end(process: subprocess.Popen[str], signum: signal.Signals) -> tuple[int, str, str]:
    """Send the signal and return exit status, stdout and stderr."""
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def signal_until_ended(process: subprocess.Popen[str], signum: signal.Signals) -> tuple[int, str]:
    """Send the signal again and again, since of several that come before the process has a turn the kernel keeps one.

    Return exit status and stdout.
    """
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline, "no signal ends it"
        process.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
    stdout, _ = process.communicate(timeout=120)
    return process.returncode, stdout


def assert_all_there(tmp_path: Path, *, closed: bool = True, events: int = 2000) -> None:
    """Check that every event of the program is in its trail, once, and how the log ended."""
    directory = tmp_path / "audit" / "orders" / "00"
    records = read_events(directory)
    numbers = [int(r["event"]["model_ref"]) for r in records if "model_ref" in r["event"]]
    assert numbers == list(range(events))
    assert (records[-1]["event"]["event_type"] == "audit.log_closed") is closed
    check_trail(directory)


SERVE = """
async def main():
    async with AuditLogger(config) as audit:
        emit_many(audit)
        print("ready", flush=True)
        await asyncio.sleep(3600)
run_here(main)
"""


def test_sigterm_drains_and_kills(start: Started, tmp_path: Path) -> None:
    """After SIGTERM everything is durable, the log is closed, and the process died of the signal (143 in a shell)."""
    status, _, stderr = end(start(SERVE), signal.SIGTERM)
    assert (status, stderr) == (-signal.SIGTERM, "")
    assert_all_there(tmp_path)


def test_sigint_drains_and_is_a_keyboard_interrupt(start: Started, tmp_path: Path) -> None:
    """Ctrl-C drains, and ends the program by a KeyboardInterrupt as it does without us."""
    status, _, stderr = end(start(SERVE), signal.SIGINT)
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr
    assert_all_there(tmp_path)


def test_sigint_without_a_runner_is_a_keyboard_interrupt(start: Started, tmp_path: Path) -> None:
    """Where nobody handles SIGINT but Python itself, it drains and raises KeyboardInterrupt from the loop."""
    process = start(
        """
        async def main():
            audit = AuditLogger(config)
            await audit.start()
            emit_many(audit)
            print("ready", flush=True)
            await asyncio.sleep(3600)

        loop = __import__(loop_name).new_event_loop()
        try:
            loop.run_until_complete(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    status, stdout, _ = end(process, signal.SIGINT)
    assert (status, stdout) == (0, "interrupted\n")
    assert_all_there(tmp_path)


def test_a_handler_that_was_there_is_called_in_its_turn(start: Started, tmp_path: Path) -> None:
    """The application's own handler runs after everything emitted so far is durable, and decides how it ends."""
    process = start(
        """
        async def main():
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            def handler(signum, frame):
                print("handler", signum, audit.health().waiting_events, flush=True)
                loop.call_soon_threadsafe(stop.set)
            signal.signal(signal.SIGTERM, handler)
            async with AuditLogger(config) as audit:
                emit_many(audit)
                print("ready", flush=True)
                await stop.wait()
                audit.emit(ModelAccessed(customer_id="c", model_ref="2000", access_type="last request"))
            assert signal.getsignal(signal.SIGTERM) is handler, "given back"
        run_here(main)
        """
    )
    status, stdout, stderr = end(process, signal.SIGTERM)
    assert (status, stdout, stderr) == (0, f"handler {int(signal.SIGTERM)} 0\n", "")
    assert_all_there(tmp_path, events=2001)


def test_a_handler_of_the_loop_is_not_lost(start: Started, tmp_path: Path) -> None:
    """loop.add_signal_handler, before and after the log was opened, still works."""
    for when in ("before", "after"):
        process = start(
            f"""
            async def main():
                stop = asyncio.Event()
                loop = asyncio.get_running_loop()
                audit = AuditLogger(config)
                if {when!r} == "before":
                    loop.add_signal_handler(signal.SIGTERM, stop.set)
                await audit.start()
                if {when!r} == "after":
                    loop.add_signal_handler(signal.SIGTERM, stop.set)
                print("ready", flush=True)
                await stop.wait()
                await audit.aclose()
                print("stopped", when := {when!r})
            run_here(main)
            """
        )
        status, stdout, stderr = end(process, signal.SIGTERM)
        assert (status, stdout, stderr) == (0, f"stopped {when}\n", "")


def test_a_handler_that_exits_at_once_loses_nothing(start: Started, tmp_path: Path) -> None:
    """A handler that calls os._exit finds everything durable already; only the orderly end is missing."""
    process = start(
        """
        import os
        async def main():
            signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(7))
            async with AuditLogger(config) as audit:
                emit_many(audit)
                print("ready", flush=True)
                await asyncio.sleep(3600)
        run_here(main)
        """
    )
    status, _, _ = end(process, signal.SIGTERM)
    assert status == 7
    assert_all_there(tmp_path, closed=False)


def test_an_ignored_signal_stays_ignored(start: Started, tmp_path: Path) -> None:
    """Under nohup-like conditions the log does not make an ignored signal deadly."""
    process = start(
        """
        async def main():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            async with AuditLogger(config) as audit:
                emit_many(audit)
                print("ready", flush=True)
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        run_here(main)
        """.replace("sys.stdin.read", "signal.sigwait, {signal.SIGUSR1}").replace(
            "signal.signal(signal.SIGINT, signal.SIG_IGN)",
            "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})",
        )
    )
    process.send_signal(signal.SIGINT)
    status, _, stderr = end(process, signal.SIGUSR1)
    assert (status, stderr) == (0, "")
    assert_all_there(tmp_path)


def test_all_logs_of_a_process_are_drained(start: Started, tmp_path: Path) -> None:
    """Two logs in one process: one SIGTERM closes both in order."""
    process = start(
        """
        async def main():
            async with AuditLogger(config) as audit, AuditLogger(config) as other:
                emit_many(audit)
                emit_many(other)
                print("ready", flush=True)
                await asyncio.sleep(3600)
        run_here(main)
        """
    )
    status, _, _ = end(process, signal.SIGTERM)
    assert status == -signal.SIGTERM
    for instance in ("00", "01"):
        records = read_events(tmp_path / "audit" / "orders" / instance)
        assert len(records) == 2002
        assert records[-1]["event"]["event_type"] == "audit.log_closed"


def test_a_log_in_another_thread_installs_nothing(start: Started, tmp_path: Path) -> None:
    """Started outside the main thread, the log handles no signals, and says so."""
    process = start(
        """
        before = signal.getsignal(signal.SIGTERM)
        async def main():
            async with AuditLogger(config) as audit:
                emit_many(audit)
                assert signal.getsignal(signal.SIGTERM) is before
        thread = threading.Thread(target=run_here, args=(main,))
        thread.start()
        thread.join()
        print("ready", flush=True)
        """
    )
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (0, "")
    assert "handle_signals has no effect here" in stderr
    assert_all_there(tmp_path)


def test_a_second_signal_does_not_wait_for_the_disk(start: Started) -> None:
    """An impatient second SIGTERM ends a process whose drain is stuck."""
    process = start(
        """
        from audit_async._store.log_store import LogStore
        stuck = threading.Event()
        async def main():
            async with AuditLogger(config) as audit:
                def commit(self, batch, *, sync):
                    print("stuck", flush=True)
                    stuck.wait()
                LogStore.commit = commit
                emit_many(audit)
                print("ready", flush=True)
                await asyncio.sleep(3600)
        run_here(main)
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    status, _ = signal_until_ended(process, signal.SIGTERM)
    assert status == -signal.SIGTERM


@pytest.mark.parametrize("first_is_open", [True, False])
def test_a_handler_that_calls_the_one_before_it_does_not_go_in_circles(
    start: Started, tmp_path: Path, *, first_is_open: bool
) -> None:
    """A handler that passes the signal on to ours, and a log that is opened after it: each has its turn, once."""
    process = start(
        f"""
        async def main():
            first = AuditLogger(config)
            await first.start()
            before = signal.getsignal(signal.SIGTERM)
            def passing_on(signum, frame):
                print("handler", flush=True)
                before(signum, frame)
            signal.signal(signal.SIGTERM, passing_on)
            if not {first_is_open}:
                await first.aclose()
            async with AuditLogger(config) as audit:
                emit_many(audit)
                print("ready", flush=True)
                await asyncio.sleep(3600)
        run_here(main)
        """
    )
    status, stdout, stderr = end(process, signal.SIGTERM)
    assert (status, stdout, stderr) == (-signal.SIGTERM, "handler\n", "")
    records = read_events(tmp_path / "audit" / "orders" / ("01" if first_is_open else "00"))
    assert sum("model_ref" in record["event"] for record in records) == 2000


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_a_loop_that_is_busy(start: Started, signum: signal.Signals) -> None:
    """Code that never comes back to the loop can be interrupted: no drain can begin, and the signals strike."""
    process = start(
        """
        async def main():
            async with AuditLogger(config):
                print("ready", flush=True)
                deadline = __import__("time").monotonic() + 120
                while __import__("time").monotonic() < deadline:
                    pass
                print("nobody stopped it")
        run_here(main)
        """
    )
    assert signal_until_ended(process, signum) == (-signum, "")


def test_a_signal_strikes_at_once_where_no_loop_runs(start: Started) -> None:
    """Between two runs of its loop an open log can't be drained, and does not keep the process from ending."""
    process = start(
        """
        import time
        loop = __import__(loop_name).new_event_loop()
        loop.run_until_complete(AuditLogger(config).start())
        print("ready", flush=True)
        time.sleep(120)
        print("nobody stopped it")
        """
    )
    status, stdout, _ = end(process, signal.SIGTERM)
    assert (status, stdout) == (-signal.SIGTERM, "")


# -- a signal that does not end the process by itself ------------------------------------------------------------------

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")


def can_unshare() -> bool:
    """Return whether this user may start the first process of a pid namespace."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=120, check=False).returncode == 0


def run_until_signalled(tmp_path: Path, program: str, *, before: tuple[str, ...] = (), loop: str = "asyncio") -> int:
    """Run a program that signals itself, and return its exit status; 99 says that it has lived on."""
    path = tmp_path / "program.py"
    path.write_text(COMMON + textwrap.dedent(program) + "\nsys.exit(99)\n")
    command = [*before, sys.executable, str(path), str(tmp_path / "audit"), loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


SIGNALLED = """
import os, time
signum = signal.Signals({signum})
signal.signal(signum, signal.SIG_DFL)
async def main():
    async with AuditLogger(config) as audit:
        emit_many(audit)
        {then}
        for _ in range(2400):
            await asyncio.sleep(0.05)
run_here(main)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_process_of_a_container_ends(tmp_path: Path, signum: signal.Signals, loop: str) -> None:
    """The kernel drops the re-raised signal for process 1, which ends all the same: 143 or 130, its log closed."""
    if not can_unshare():
        pytest.skip("unshare --pid is not there or not permitted")
    program = SIGNALLED.format(signum=int(signum), then="assert os.getpid() == 1; os.kill(1, signum)")
    assert run_until_signalled(tmp_path, program, before=UNSHARE, loop=loop) == 128 + signum
    assert_all_there(tmp_path)


def test_the_first_process_of_a_container_ends_without_a_loop_that_could_drain(tmp_path: Path) -> None:
    """Between two runs of its loop too: the signal has its effect at once, in every process alike."""
    if not can_unshare():
        pytest.skip("unshare --pid is not there or not permitted")
    program = """
        import os, time
        loop = asyncio.new_event_loop()
        loop.run_until_complete(AuditLogger(config).start())
        os.kill(1, signal.SIGTERM)
        time.sleep(120)
        """
    assert run_until_signalled(tmp_path, program, before=UNSHARE) == 143


@pytest.mark.parametrize(
    "meanwhile",
    [
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signum})",
        "signal.signal(signum, signal.SIG_IGN)",
        "signal.signal(signum, lambda *_: None)",
        "asyncio.get_running_loop().add_signal_handler(signum, lambda: None)",
        # Of another service: the slot of the first would be free once that is closed.
        (
            "signal.signal(signum, lambda *_: None); "
            "await AuditLogger(AuditConfig(mode=Local(directory), service_id='other')).start()"
        ),
    ],
)
def test_what_is_done_to_the_signal_during_the_drain_does_not_keep_the_process(tmp_path: Path, meanwhile: str) -> None:
    """Blocked, ignored or handled after it has come: the log is closed for it, so the process ends by it."""
    then = f"signal.raise_signal(signum); await asyncio.sleep(0); {meanwhile}"
    status = run_until_signalled(tmp_path, SIGNALLED.format(signum=int(signal.SIGTERM), then=then))
    assert status == -signal.SIGTERM
    assert_all_there(tmp_path)


# -- eager tasks -------------------------------------------------------------------------------------------------------


def python_with_eager_tasks() -> str | None:
    """Return an interpreter, 3.12 or later, that has what the library needs."""
    for python in (sys.executable, "python3.12", "python3.13"):
        test = "import sys; assert sys.version_info >= (3, 12); import audit_async.logger"
        try:
            if subprocess.run([python, "-c", test], capture_output=True, timeout=180, check=False).returncode == 0:
                return python
        except OSError:
            continue
    return None


def test_a_second_signal_is_not_swallowed_by_eager_tasks(tmp_path: Path) -> None:
    """With `asyncio.eager_task_factory` a drain is over before its task is known; each signal reaches its handler."""
    python = python_with_eager_tasks()
    if python is None:
        pytest.skip("no Python 3.12 or later with the library's dependencies")
    program = tmp_path / "program.py"
    program.write_text(
        COMMON
        + textwrap.dedent(
            """
            async def main():
                asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
                seen = []
                signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
                async with AuditLogger(config) as audit:
                    emit_many(audit)
                    await audit.flush()
                    for n in range(1, 4):
                        signal.raise_signal(signal.SIGTERM)
                        for _ in range(6000):
                            await asyncio.sleep(0.01)
                            if len(seen) == n:
                                break
                    print(len(seen))
            run_here(main)
            """
        )
    )
    command = [python, str(program), str(tmp_path / "audit"), "asyncio"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert_all_there(tmp_path)
