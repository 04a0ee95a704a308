"""Finding processes that a test session started and did not end.

Each session has a mark of its own in its environment, which whatever it starts inherits: so an orphan, whose parent has
ended, is found, too. A child that was forked and not executed has its parent's environment, and is found by its parent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: The environment variable with the session's mark.
MARK = "AUDIT_ASYNC_TEST_SESSION"
#: What Python's multiprocessing keeps until its parent ends.
_PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
#: A bound for processes that are ending at the moment.
GRACE_S = 20.0


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
