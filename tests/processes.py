"""The processes of tests: running one for a bounded time, and finding those that a session did not end.

Each session has a mark of its own in its environment, which whatever it starts inherits: so an orphan, whose parent has
ended, is found, too. A child that was forked and not executed has its parent's environment, and is found by its parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

#: The environment variable with the session's mark.
MARK = "AUDIT_ASYNC_TEST_SESSION"
#: What Python's multiprocessing keeps until its parent ends.
_PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
#: A bound for processes that are ending at the moment.
GRACE_S = 60.0


#: Bounds every wait, the ones for an answer included: a machine that has much to do is slow and not broken.
PATIENCE_S = 120.0
#: A bound for all that a test does with a process; a test that reads from one would otherwise wait for ever.
_LONGEST_S = 1200.0


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a command as `subprocess.Popen` does; it is killed at the end of the block, and after twenty minutes.

    `with subprocess.Popen(...)` alone waits for the process even if the test has failed in the block.
    """
    with subprocess.Popen(command, **options) as process:
        watchdog = threading.Timer(_LONGEST_S, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            if process.poll() is None:
                process.kill()


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[Any] | None = None, log: Path | None = None
) -> None:
    """Return once the condition holds; fail after two minutes, or if the process has ended, with what it wrote."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process is None or process.poll() is None, log and log.read_text()
        assert time.monotonic() < deadline, log and log.read_text()
        time.sleep(0.02)


def pause(pid: int) -> None:
    """Stop a process, and return once none of its threads runs: a signal is only on its way when `kill` returns."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(_is_stopped(thread) for thread in Path(f"/proc/{pid}/task").glob("*")))


def _is_stopped(thread: Path) -> bool:
    stat = _read(thread / "stat")  # its name, in parentheses, may hold anything; nothing is there of one that has ended
    return not stat or stat[stat.rindex(b")") :].split()[1] in {b"T", b"t", b"Z", b"X"}


class Process(NamedTuple):
    """A process that is still there."""

    pid: int
    command: str


def _read(path: Path) -> bytes:
    """Return what a file below /proc says, nothing if the process has ended or is not ours."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def started_by(pid: int, mark: str) -> Iterator[Process]:
    """Yield the processes that carry `mark`, and the children of `pid`; nothing on a system without /proc."""
    for directory in Path("/proc").glob("[0-9]*"):
        number = int(directory.name)
        if number in {pid, os.getpid()}:
            continue
        status = _read(directory / "stat").rpartition(b") ")[2].split()
        if not status or status[0] in {b"Z", b"X"}:
            continue  # it has ended
        environment = _read(directory / "environ").split(b"\0")
        if int(status[1]) == pid or f"{MARK}={mark}".encode() in environment:
            command = _read(directory / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
            if not any(word in command for word in _PYTHONS_OWN):
                yield Process(number, command)


def left_over(pid: int, mark: str, grace_s: float = GRACE_S) -> list[Process]:
    """Return what is still there, after waiting a while for what is ending."""
    deadline = time.monotonic() + grace_s
    while (found := list(started_by(pid, mark))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
