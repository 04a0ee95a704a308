"""How long the event loop is held at a time while 50,000 events a second are recorded.

Wall time is what a host's tasks feel, and on a shared machine it has the neighbours' noise in it; the time that the
loop's thread itself ran (its CPU time) is what this library answers for.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import NamedTuple

from audit_async import AuditEvent, AuditLogger, Immediate
from bench.frame import Row, config, ordinary_event, percentile, show, work_directory

_SECONDS = 5.0
_PER_SECOND = 50_000
_TICK_S = 0.001


class _Turns(NamedTuple):
    """The turns of a loop."""

    wall_s: list[float]  #: from the beginning of a turn to that of the next
    cpu_s: list[float]  #: how long the loop's thread ran in it
    events_per_second: float


async def _turns(emit: Callable[[AuditEvent], object]) -> _Turns:
    """Measure the turns of the loop while `emit` is called at the rate."""
    wall_s: list[float] = []
    cpu_s: list[float] = []
    stop = False

    async def watch() -> None:
        # Always ready, so a gap is what everything else took in one turn of the loop.
        wall, cpu = perf_counter(), thread_time()
        while not stop:
            await asyncio.sleep(0)
            wall_now, cpu_now = perf_counter(), thread_time()
            wall_s.append(wall_now - wall)
            cpu_s.append(cpu_now - cpu)
            wall, cpu = wall_now, cpu_now

    watcher = asyncio.create_task(watch())
    event = ordinary_event()
    began = perf_counter()
    emitted = 0
    while (elapsed := perf_counter() - began) < _SECONDS:
        due = min(int(elapsed * _PER_SECOND) - emitted, 500)
        for _ in range(due):
            emit(event)
        emitted += due
        await asyncio.sleep(_TICK_S)
    stop = True
    await watcher
    return _Turns(wall_s, cpu_s, emitted / _SECONDS)


async def _measure() -> list[Row]:
    gc.collect()
    gc.freeze()
    idle = await _turns(lambda _event: None)
    with work_directory() as directory:
        async with AuditLogger(config(directory, Immediate())) as audit:
            busy = await _turns(audit.emit)
            await audit.flush()
            dropped = audit.stats().dropped
    with_it = f"with the library, {busy.events_per_second:,.0f} events/s"
    return [
        _row(f"{with_it}: the loop's thread ran", busy.cpu_s, f"target: never above 2 ms; {dropped} refused"),
        _row("without it, the same loop", idle.cpu_s, "the machine's own noise"),
        _row(f"{with_it}: wall time", busy.wall_s, ""),
        _row("without it, the same loop", idle.wall_s, "the machine's own noise"),
    ]


def _row(name: str, turns_s: list[float], beside: str) -> Row:
    ms = [1000 * percentile(turns_s, percent) for percent in (50, 99, 99.9)]
    above = sum(turn_s > 0.002 for turn_s in turns_s)
    return Row(
        name,
        f"p50 {ms[0]:.3f}, p99 {ms[1]:.3f}, p99.9 {ms[2]:.3f}, max {1000 * max(turns_s):.2f} ms; "
        f"{above} of {len(turns_s):,} above 2 ms",
        beside,
    )


def run() -> None:
    """Measure and print."""
    show("loop lag: how long a turn of the loop takes", asyncio.run(_measure()))
