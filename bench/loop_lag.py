"""How long the event loop is held at a time while 50,000 events a second are recorded."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from time import perf_counter

from audit_async import AuditEvent, AuditLogger, Immediate
from bench.frame import Row, config, ordinary_event, percentile, show, work_directory

_SECONDS = 5.0
_PER_SECOND = 50_000
_TICK_S = 0.001


async def _gaps(emit: Callable[[AuditEvent], object]) -> tuple[list[float], float]:
    """Return the gaps (s) between turns of the loop, and the events a second, while `emit` is called at the rate."""
    gaps: list[float] = []
    stop = False

    async def watch() -> None:
        # Always ready, so a gap is what everything else took in one turn of the loop.
        last = perf_counter()
        while not stop:
            await asyncio.sleep(0)
            now = perf_counter()
            gaps.append(now - last)
            last = now

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
    return gaps, emitted / _SECONDS


async def _measure() -> list[Row]:
    gc.collect()
    gc.freeze()
    idle, _ = await _gaps(lambda _event: None)
    with work_directory() as directory:
        async with AuditLogger(config(directory, Immediate())) as audit:
            busy, rate = await _gaps(audit.emit)
            await audit.flush()
            dropped = audit.stats().dropped
    return [
        _row(f"with the library, {rate:,.0f} events/s", busy, f"target: never above 2 ms; {dropped} refused"),
        _row("without it, the same loop", idle, "the machine's own noise"),
    ]


def _row(name: str, gaps: list[float], beside: str) -> Row:
    milliseconds = [1000 * percentile(gaps, percent) for percent in (50, 99, 99.9)]
    above = sum(gap > 0.002 for gap in gaps)
    return Row(
        name,
        f"p50 {milliseconds[0]:.3f} ms, p99 {milliseconds[1]:.3f} ms, p99.9 {milliseconds[2]:.3f} ms, "
        f"max {1000 * max(gaps):.2f} ms, {above} of {len(gaps):,} above 2 ms",
        beside,
    )


def run() -> None:
    """Measure and print."""
    show("loop lag: how long a turn of the loop takes", asyncio.run(_measure()))
