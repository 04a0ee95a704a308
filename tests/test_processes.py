"""No test leaves a process: what `tests/conftest.py` asks at the end of each session finds children and orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

import pytest

from tests.processes import MARK, Process, left_over

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc on this system")

SLEEPER = "import time; time.sleep(600)"


def test_a_child_that_still_runs_is_found_until_it_ends() -> None:
    """By its parent, without a mark."""
    child = subprocess.Popen([sys.executable, "-S", "-c", SLEEPER])
    try:
        found = left_over(os.getpid(), "no such mark", grace_s=0)
        assert Process(child.pid, f"{sys.executable} -S -c {SLEEPER}") in found
    finally:
        child.kill()
        child.wait()
    assert child.pid not in [process.pid for process in left_over(os.getpid(), "no such mark", grace_s=0)]


def test_an_orphan_is_found_by_the_mark_that_it_inherited() -> None:
    """Its parent has ended, and somebody else is its parent now."""
    mark = uuid.uuid4().hex
    start_one = (
        "import subprocess as s, sys\n"
        f"print(s.Popen([sys.executable, '-S', '-c', {SLEEPER!r}], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    )
    environment = {**os.environ, MARK: mark}
    parent = subprocess.run(
        [sys.executable, "-S", "-c", start_one],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=True,
    )
    orphan = int(parent.stdout)
    try:
        assert [process.pid for process in left_over(-1, mark, grace_s=0)] == [orphan]
    finally:
        os.kill(orphan, signal.SIGKILL)
    assert left_over(-1, mark) == []
