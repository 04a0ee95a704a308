"""Counting what an event costs in measures that are the same on every machine and at any load.

Timings say whether the library is fast enough; these say, in a test, whether a change made it dearer. What is counted
depends on nothing but the code, so the scenarios are such that batching leaves nothing to chance: events that are
written one at a time, or bursts that fit into one slice and are flushed, one commit each.

`python -m bench.counting SCENARIO EVENTS DIRECTORY` runs events one at a time, without counting: for strace.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import audit_async
from audit_async import AuditConfig, AuditEvent, AuditLogger, Batched, Hybrid, Immediate
from audit_async._writer import commits, disk_thread
from audit_async.config import FlushMode, RotationPolicy
from audit_async.events.base import encode
from bench.frame import config, critical_event, ordinary_event

#: A burst that is framed in one slice, and so is one commit.
BURST: Final = 200

# Neither a timer nor midnight comes in between.
_INTERVAL_S: Final = 3600.0
_ONE_SEGMENT: Final = RotationPolicy(daily=False)
_TO_THE_KERNEL: Final = {"posix", "fcntl"}
_PACKAGE: Final = str(Path(audit_async.__file__).parent)


class Scenario(NamedTuple):
    """A flush mode, and how many of a hundred events are critical."""

    mode: FlushMode
    critical_percent: int = 0

    def events(self, count: int) -> list[AuditEvent]:
        """Return that many events, the critical ones at the head of each hundred."""
        return [
            critical_event(number % 10) if number % 100 < self.critical_percent else ordinary_event(number % 10)
            for number in range(count)
        ]


SCENARIOS: Final[dict[str, Scenario]] = {
    "immediate": Scenario(Immediate()),
    "batched": Scenario(Batched(size=100, interval=_INTERVAL_S)),
    "hybrid": Scenario(Hybrid(batch_size=100, batch_interval=_INTERVAL_S)),
    "hybrid, 1 % critical": Scenario(Hybrid(batch_size=100, batch_interval=_INTERVAL_S), 1),
    "hybrid, 10 % critical": Scenario(Hybrid(batch_size=100, batch_interval=_INTERVAL_S), 10),
}


class Count(NamedTuple):
    """What was called while it was counted, in the loop's thread and in the disk's."""

    python_calls: Counter[str]  #: functions of this package, by qualified name
    system_calls: Counter[str]  #: functions that go to the kernel, by their names in `os` and `fcntl`


class _Counter:
    """A profile function for any number of threads; counts while `on`."""

    def __init__(self) -> None:
        self.on = False
        self._python: Counter[CodeType] = Counter()
        self._system: Counter[str] = Counter()

    def __call__(self, frame: FrameType, what: str, argument: object) -> None:
        if not self.on:
            return
        if what == "call":
            self._python[frame.f_code] += 1
        elif what == "c_call" and getattr(argument, "__module__", "") in _TO_THE_KERNEL:
            assert isinstance(argument, BuiltinFunctionType)
            self._system[argument.__name__] += 1

    def count(self) -> Count:
        """Return what was counted."""
        python: Counter[str] = Counter()
        for code, calls in self._python.items():
            if code.co_filename.startswith(_PACKAGE):
                python[code.co_qualname] += calls
        return Count(python, Counter(self._system))


@contextmanager
def _profiled(counter: _Counter) -> Iterator[None]:
    """Profile this thread, and those that start inside the block: the disk thread is one of them."""
    before = sys.getprofile()
    threading.setprofile(counter)
    sys.setprofile(counter)
    try:
        # What a clock would decide about: the writer looks once a second how much space is left, and publishes up to
        # where the log is acknowledged, a hundred times a second at most.
        with (
            patch.object(commits, "_SPACE_INTERVAL_S", math.inf),
            patch.object(commits, "_PUBLISH_INTERVAL_S", math.inf),
            patch.object(disk_thread, "_IDLE_S", _INTERVAL_S),
        ):
            yield
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


async def _one_by_one(audit: AuditLogger, events: Sequence[AuditEvent]) -> None:
    """Emit events one at a time, each when the one before is written: nothing shares a commit."""
    written = asyncio.Event()
    stop_observing = audit.observe_commits(lambda _commit: written.set())
    for event in events:
        written.clear()
        audit.emit(event)
        await written.wait()
    stop_observing()


async def _in_bursts(audit: AuditLogger, events: Sequence[AuditEvent]) -> None:
    """Emit bursts and flush each: the events of a burst share a commit."""
    emit, flush = audit.emit, audit.flush
    for first in range(0, len(events), BURST):
        for event in events[first : first + BURST]:
            emit(event)
        await flush()


_Run = Callable[[AuditLogger, Sequence[AuditEvent]], Awaitable[None]]


async def _count(run: _Run, directory: Path, scenario: Scenario, events: int) -> Count:
    counter = _Counter()
    known, counted = scenario.events(2 * BURST), scenario.events(events)
    with _profiled(counter):
        async with AuditLogger(config(directory, scenario.mode, rotation=_ONE_SEGMENT)) as audit:
            await run(audit, known)  # what is made once is made, and each class of event is known
            await audit.flush()
            counter.on = True
            await run(audit, counted)
            counter.on = False
    return counter.count()


def count_one_by_one(directory: Path, scenario: Scenario, events: int) -> Count:
    """Count what events cost that are written one at a time; what notices that each is written is counted with it."""
    return asyncio.run(_count(_one_by_one, directory, scenario, events))


def count_in_bursts(directory: Path, scenario: Scenario, events: int) -> Count:
    """Count what events cost that come in bursts of `BURST` and share a commit."""
    return asyncio.run(_count(_in_bursts, directory, scenario, events))


class Blocks(NamedTuple):
    """Memory blocks an event, by `sys.getallocatedblocks`."""

    waiting: float  #: while it waits for the writer, its receipt dropped by the caller
    kept: float  #: its receipt kept by the caller, the record durable
    left: float  #: its receipt is not kept, the record is durable: what this library leaks


def count_blocks(directory: Path, event: AuditEvent, events: int) -> Blocks:
    """Count the memory blocks that `events` events take, at three moments of their lives."""

    async def count() -> Blocks:
        async with AuditLogger(config(directory, Immediate(), buffer_events=4 * events, buffer_bytes=1 << 30)) as audit:
            emit = audit.emit
            for _ in range(3):  # lists and queues have grown to their size, which they keep
                for _ in range(events):
                    emit(event)
                await audit.flush()
            gc.collect()
            gc.disable()
            try:
                before = sys.getallocatedblocks()
                for _ in range(events):
                    emit(event)
                waiting = sys.getallocatedblocks() - before
                await audit.flush()
                gc.collect()
                left = sys.getallocatedblocks() - before
                receipts = [emit(event) for _ in range(events)]
                await audit.flush()
                gc.collect()
                kept = sys.getallocatedblocks() - before - left
                del receipts
            finally:
                gc.enable()
        return Blocks(waiting / events, kept / events, left / events)

    return asyncio.run(count())


def calls_of_one(emit: Callable[[AuditEvent], object], event: AuditEvent, events: int) -> float:
    """Return how many Python functions, of anybody, one call of `emit` runs, itself included."""
    calls = 0

    def profile(_frame: FrameType, what: str, _argument: object) -> None:
        nonlocal calls
        calls += what == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        for _ in range(events):
            emit(event)
    finally:
        sys.setprofile(before)
    return calls / events


class Request(NamedTuple):
    """What the middleware adds to a request, but for the commit that it shares with others."""

    python_calls: float  #: functions of this package
    built_in_calls: float  #: what they call that is not written in Python
    blocks: float  #: memory blocks that it holds while the application answers


_REQUEST: Final = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/orders/7",
    "raw_path": b"/orders/7",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"bench"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}


def count_request(configuration: AuditConfig, requests: int) -> Request:
    """Count what requests cost that an application answers from memory, one after the other, through the middleware."""
    from audit_async.integrations.asgi import AuditMiddleware  # noqa: PLC0415 - not for strace, which runs `main`

    calls: Counter[str] = Counter()
    blocks_held = 0

    async def answer(scope: MutableMapping[str, Any], _receive: object, send: Callable[[Any], Awaitable[None]]) -> None:
        nonlocal blocks_held
        blocks_held += sys.getallocatedblocks()
        scope["path_template"] = "/orders/{order_id}"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(_message: object) -> None:
        return

    def profile(frame: FrameType, what: str, _argument: object) -> None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            calls[what] += 1

    async def count() -> None:
        nonlocal blocks_held
        async with AuditLogger(configuration) as audit:
            middleware = AuditMiddleware(answer, audit)
            for profiled in (None, None, profile):  # what is made once is made
                calls.clear()
                gc.collect()
                gc.disable()
                blocks_held = 0
                sys.setprofile(profiled)
                for _ in range(requests):
                    scope = dict(_REQUEST)
                    blocks_held -= sys.getallocatedblocks()
                    await middleware(scope, receive, send)
                sys.setprofile(None)
                gc.enable()
                if profiled is None:
                    blocks = blocks_held
                await asyncio.sleep(0)
            blocks_held = blocks

    Context().run(asyncio.run, count())  # others' context variables take blocks of ours
    return Request(calls["call"] / requests, calls["c_call"] / requests, blocks_held / requests)


class Bytes(NamedTuple):
    """Bytes an event."""

    event: float  #: encoded, as `emit` keeps it
    record: float  #: on the disk: the event, and what makes a record of it


def count_bytes(directory: Path, event: AuditEvent, events: int) -> Bytes:
    """Count the bytes that `events` events take on the disk."""

    async def count() -> float:
        async with AuditLogger(config(directory, Batched(size=events, interval=_INTERVAL_S))) as audit:
            before = audit.stats().bytes_written
            for _ in range(events):
                audit.emit(event)
            await audit.flush()
            return audit.stats().bytes_written - before

    return Bytes(len(encode(event)), asyncio.run(count()) / events)


def main() -> None:
    """Run a scenario without counting: strace counts."""
    name, events, directory = sys.argv[1:]

    async def run() -> None:
        scenario = SCENARIOS[name]
        async with AuditLogger(config(Path(directory), scenario.mode)) as audit:
            await _one_by_one(audit, scenario.events(int(events)))

    asyncio.run(run())


if __name__ == "__main__":
    main()
