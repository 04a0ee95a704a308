"""How long the event loop is held at a time while 50,000 events a second are recorded.

Wall time is what a host's tasks feel, and on a shared machine it has the neighbours' noise in it; the time that the
loop's thread itself ran (its CPU time) is what this library answers for. The same loop without the library is measured
in the same round.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter, thread_time
from typing import NamedTuple

from audit_async import AuditEvent, AuditLogger, Immediate
from bench.frame import Row, config, effort, in_turn, ordinary_event, percentile, show, work_directory
from bench.throughput import LOOPS

_PER_SECOND = 50_000
_TICK_S = 0.001


class _Turns(NamedTuple):
    """The turns of a loop."""

    wall_s: list[float]  #: from the beginning of a turn to that of the next
    cpu_s: list[float]  #: how long the loop's thread ran in it
    events_per_second: float
    dropped: int


async def _turns(emit: Callable[[AuditEvent], object]) -> _Turns:
    """Measure the turns of the loop while `emit` is called at the rate."""
    wall_s: list[float] = []
    cpu_s: list[float] = []
    seconds = effort(3.0, 0.1)
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
    while (elapsed := perf_counter() - began) < seconds:
        due = min(int(elapsed * _PER_SECOND) - emitted, 500)
        for _ in range(due):
            emit(event)
        emitted += due
        await asyncio.sleep(_TICK_S)
    stop = True
    await watcher
    return _Turns(wall_s, cpu_s, emitted / seconds, 0)


async def _busy(directory: Path) -> _Turns:
    async with AuditLogger(config(directory, Immediate())) as audit:
        turns = await _turns(audit.emit)
        await audit.flush()
        return turns._replace(dropped=audit.stats().dropped)


async def _idle() -> _Turns:
    return await _turns(lambda _event: None)


def _run_on(loop: str, turns: Callable[[], Coroutine[object, object, _Turns]]) -> _Turns:
    gc.collect()
    gc.freeze()
    measured = LOOPS[loop](turns())
    gc.unfreeze()
    assert isinstance(measured, _Turns)
    return measured


def run() -> None:
    """Measure and print."""
    with work_directory() as directory:
        fresh = count()
        for loop in LOOPS:
            subjects: dict[str, Callable[[], _Turns]] = {
                "with": lambda loop=loop: _run_on(loop, lambda: _busy(directory / f"log{next(fresh)}")),  # type: ignore[misc]
                "without": partial(_run_on, loop, _idle),
            }
            rounds = in_turn(subjects, rounds=effort(3, 1))
            busy, idle = (_joined(rounds[name]) for name in ("with", "without"))
            with_it = f"{busy.events_per_second:,.0f} events/s"
            show(
                f"loop lag: how long a turn of the loop takes, {loop} (the bar is p99, from p50 to p99.9)",
                [
                    _row(f"{with_it}: the loop's thread ran", busy.cpu_s, f"{busy.dropped} events refused"),
                    _row("the same loop without it: its thread ran", idle.cpu_s, "the machine's own noise"),
                    _row(f"{with_it}: wall time", busy.wall_s, "", ceiling_ms=1.0),
                    _row("the same loop without it: wall time", idle.wall_s, "the machine's own noise"),
                ],
            )


def _joined(rounds: list[_Turns]) -> _Turns:
    return _Turns(
        [turn_s for each in rounds for turn_s in each.wall_s],
        [turn_s for each in rounds for turn_s in each.cpu_s],
        sum(each.events_per_second for each in rounds) / len(rounds),
        sum(each.dropped for each in rounds),
    )


def _row(name: str, turns_s: list[float], compared: str, *, ceiling_ms: float | None = None) -> Row:
    p50, p99, p999 = (1000 * percentile(turns_s, percent) for percent in (50, 99, 99.9))
    above = sum(turn_s > 0.002 for turn_s in turns_s)
    figure = (
        f"p50 {p50:.3f}, p99 {p99:.3f}, p99.9 {p999:.3f}, max {1000 * max(turns_s):.2f} ms; "
        f"{above} of {len(turns_s):,} above 2 ms"
    )
    return Row(name, figure, compared, p99, "ms", p50, p999, ceiling=ceiling_ms)
