"""How long an event waits until it is acknowledged as durable, at 1 to 1,000 concurrent emitters.

Each emitter is a task that emits one event, waits until its receipt is durable, and emits the next, as a service does
whose request handlers wait for the record. So the rate follows from the latency. There are two limits, from the same
round: one raw `write + fdatasync` of as many bytes as the emitters have under way; and the same tasks on the barest
group commit that an event loop can have, which shows what a thousand tasks cost that only wait.

In batched and hybrid mode fewer emitters than a batch holds wait for the interval, by design; it is 100 ms here and not
the default 1 s, so that a run ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from audit_async import AuditEvent, AuditLogger, Batched, Hybrid, Immediate
from audit_async.config import FlushMode
from bench.frame import (
    Row,
    config,
    critical_event,
    effort,
    in_turn,
    median,
    ordinary_event,
    percentile,
    row_of,
    show,
    work_directory,
)
from bench.raw import RawFile
from bench.throughput import LOOPS

_INTERVAL_S = 0.1
_RECORD = 385  # bytes of a record of these events, about
_MOST_EVENTS = 100_000  # an emitter that never waits long would fill the memory with samples


class _Mode(NamedTuple):
    """A flush mode, and the event that is emitted in it."""

    mode: FlushMode
    event: AuditEvent


_MODES = {
    "immediate": _Mode(Immediate(), ordinary_event()),
    "batched": _Mode(Batched(interval=_INTERVAL_S), ordinary_event()),
    "hybrid": _Mode(Hybrid(batch_interval=_INTERVAL_S), ordinary_event()),
    "hybrid, critical": _Mode(Hybrid(batch_interval=_INTERVAL_S), critical_event()),
}


class _Run(NamedTuple):
    """One run of some emitters."""

    latencies_s: list[float]
    events_per_s: float


async def _emitters(directory: Path, mode: _Mode, emitters: int, seconds: float) -> _Run:
    """Let so many emitters run on a log for that long."""
    async with AuditLogger(config(directory, mode.mode)) as audit:
        emit, event = audit.emit, mode.event

        async def append() -> None:
            await emit(event).durable()

        return await _closed_loop(append, emitters, seconds)


async def _bare_emitters(raw: RawFile, emitters: int, seconds: float) -> _Run:
    """Let so many emitters run on a bare group commit for that long."""
    return await _closed_loop(_BareGroupCommit(raw).append, emitters, seconds)


async def _closed_loop(append: Callable[[], Awaitable[None]], emitters: int, seconds: float) -> _Run:
    """Have each of so many tasks call `append` again and again; the first tenth of the time warms up."""
    latencies_s: list[float] = []
    began = perf_counter()
    measured_from, until = began + seconds / 10, began + seconds

    async def emitter() -> None:
        while (called := perf_counter()) < until and len(latencies_s) < _MOST_EVENTS:
            await append()
            if called >= measured_from:
                latencies_s.append(perf_counter() - called)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(emitters):
            tasks.create_task(emitter())
    return _Run(latencies_s, len(latencies_s) / (perf_counter() - measured_from))


class _BareGroupCommit:
    """The limit of any group commit on an event loop: futures and a thread that writes and syncs, no log at all."""

    def __init__(self, raw: RawFile) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[None]] = []
        self._busy = False

    async def append(self) -> None:
        """Return when as many bytes as a record has are durable."""
        durable: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(durable)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._commit)
        await durable

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        data = b"x" * (_RECORD * len(group))
        written = self._loop.run_in_executor(None, self._raw.write_and_sync, data)
        written.add_done_callback(partial(self._committed, group))

    def _committed(self, group: list[asyncio.Future[None]], _written: asyncio.Future[float]) -> None:
        for durable in group:
            durable.set_result(None)
        if self._waiting:
            self._commit()
        else:
            self._busy = False


async def _lone_events(directory: Path, raw: RawFile, events: int) -> list[tuple[float, float]]:
    """Return the seconds of single `emit_durable` calls and of raw syncs of as many bytes, taken in turn."""
    pairs = []
    async with AuditLogger(config(directory, Immediate())) as audit:
        for _ in range(events):
            theirs = raw.write_and_sync(b"x" * _RECORD)
            began = perf_counter()
            await audit.emit_durable(ordinary_event())
            pairs.append((perf_counter() - began, theirs))
    return pairs


def run() -> None:
    """Measure and print."""
    with work_directory() as directory:
        raw = RawFile(directory)
        fresh = count()
        for loop in LOOPS:
            show(f"latency: one lone event, {loop}", _lone_rows(loop, directory, raw, fresh))
        for loop in LOOPS:
            _show_emitters(loop, directory, raw, fresh)
        raw.close()


def _lone_rows(loop: str, directory: Path, raw: RawFile, fresh: count[int]) -> list[Row]:
    ours, theirs = [], []
    for _ in range(effort(5, 1)):
        pairs = LOOPS[loop](_lone_events(directory / f"lone{next(fresh)}", raw, effort(200, 20)))
        assert isinstance(pairs, list)
        ours += [pair[0] for pair in pairs]
        theirs += [pair[1] for pair in pairs]
    ratio = [a / b for a, b in zip(ours, theirs, strict=True)]
    quartiles = f"quartiles {percentile(ratio, 25):.2f} and {percentile(ratio, 75):.2f}"
    return [
        _percentiles("emit_durable", ours),
        _percentiles("raw write + fdatasync of as many bytes", theirs),
        Row("emit_durable / raw, pair by pair", f"{median(ratio):.2f} ({quartiles})", "", median(ratio), "",
            percentile(ratio, 25), percentile(ratio, 75), ceiling=1.4),
    ]  # fmt: skip


def _show_emitters(loop: str, directory: Path, raw: RawFile, fresh: count[int]) -> None:
    seconds, rounds = effort(1.0, 0.1), effort(3, 1)
    latency_rows: list[Row] = []
    rate_rows: list[Row] = []
    for emitters in effort((1, 10, 100, 1000), (1, 100)):

        def on_a_log(mode: _Mode, emitters: int = emitters) -> _Run:
            return _run_on(loop, _emitters(directory / f"log{next(fresh)}", mode, emitters, seconds))

        def on_a_bare_file(emitters: int = emitters) -> _Run:
            return _run_on(loop, _bare_emitters(raw, emitters, seconds))

        subjects: dict[str, Callable[[], _Run]] = {name: partial(on_a_log, mode) for name, mode in _MODES.items()}
        subjects["limit: the same tasks, a bare group commit"] = on_a_bare_file
        subjects["limit: one write + fdatasync, no tasks"] = partial(_raw_run, raw, emitters, effort(200, 10))
        for name, runs in in_turn(subjects, rounds=rounds).items():
            subject = f"{emitters:,} {'emitter' if emitters == 1 else 'emitters'}, {name}"
            samples = [latency for run in runs for latency in run.latencies_s]
            if not samples:
                continue  # --quick is over before a batch's interval is
            ceiling = 10.0 if (name, emitters) == ("immediate", 1000) else None
            latency_rows.append(_percentiles(subject, samples, p99_ceiling_ms=ceiling))
            rate_rows.append(row_of(subject, [run.events_per_s for run in runs], "events/s"))
    show(f"latency: until an event is acknowledged, {loop} (the bar is p99, from p50 to p99.9)", latency_rows)
    show(f"latency: durable events a second of these emitters, {loop}", rate_rows)


def _run_on(loop: str, run: Coroutine[object, object, _Run]) -> _Run:
    done = LOOPS[loop](run)
    assert isinstance(done, _Run)
    return done


def _raw_run(raw: RawFile, records: int, times: int) -> _Run:
    data = b"x" * (_RECORD * records)
    latencies_s = [raw.write_and_sync(data) for _ in range(times)]
    return _Run(latencies_s, records * times / sum(latencies_s))


def _percentiles(subject: str, samples_s: list[float], *, p99_ceiling_ms: float | None = None) -> Row:
    """Return a row of p50, p99 and p99.9; the last is given if there are enough samples for it to mean something."""
    p50, p99, p999 = (1000 * percentile(samples_s, percent) for percent in (50, 99, 99.9))
    tail = f", p99.9 {p999:.2f}" if len(samples_s) >= 1000 else ""
    figure = f"p50 {p50:.2f}, p99 {p99:.2f}{tail} ms"
    return Row(subject, figure, f"{len(samples_s):,} samples", p99, "ms", p50, p999, ceiling=p99_ceiling_ms)
