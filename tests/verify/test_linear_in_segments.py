"""Verification takes steps in proportion to the number of segments: seven years of them are thousands."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import anyio

from audit_async.reader import AuditReader
from tests.trail.written import WrittenLog


class Steps:
    """How many lines of the library were run."""

    def __init__(self) -> None:
        self.count = 0

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        """Count the lines of the library's functions, in every thread."""
        if "/audit_async/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.count += 1
        return self.trace


@contextmanager
def counted() -> Iterator[Steps]:
    """Count the steps of the block."""
    steps, before = Steps(), sys.gettrace()
    threading.settrace(steps.trace)
    sys.settrace(steps.trace)
    try:
        yield steps
    finally:
        sys.settrace(before)
        threading.settrace(before)


def write_segments(base_dir: Path, count: int) -> None:
    """Write a log of so many sealed segments of a few records."""
    log = WrittenLog(base_dir, max_bytes=1024)
    while len(log.sealed()) < count:
        log.write({"event_type": "test.made", "text": "x" * 100})


def test_twice_the_segments_take_twice_the_steps(tmp_path: Path) -> None:
    """What is done once a segment must not look at all the others."""
    steps = []
    for count in (10, 30, 60, 120):  # the first learns what is learned once a process
        base_dir = tmp_path / str(count)
        write_segments(base_dir, count)
        reader = AuditReader(base_dir)
        with counted() as counter:
            report = anyio.run(partial(reader.verify, processes=1))  # in new threads, which are traced
        assert report.valid
        steps.append(counter.count)
    _, few, more, most = steps
    assert more - few > 1_000
    assert most - more < 2.2 * (more - few), steps
