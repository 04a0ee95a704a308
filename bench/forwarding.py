"""What forwarding costs the service next to it, how soon records are elsewhere, and how fast an outage is caught up.

The service writes in immediate mode on one core, and the sidecar, a process of its own, has another core: the service's
rate with it and without it are compared. End to end is the rate at which the engine has what the service emits, until
it has the last record; the engine shares these cores. Catching up is the rate at which a forwarder brings a log to the
engine that it has nothing of: an outage at 1,000 events a second is over after the outage's time divided by it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import uvloop

from audit_async.forwarding import Forwarder, LogIdentity, Sink
from bench.frame import effort, in_turn, ratios, row_of, show, work_directory
from bench.platform import ENGINES, OpenSink
from bench.throughput import SUBJECTS, write

_TENANT: Final = "bench"
_HOST: Final = "bench"
_OUTAGE_RATE: Final = 1_000  # events a second while the engine was away
_processes = multiprocessing.get_context("fork")


class Beside(NamedTuple):
    """What one run next to a sidecar brought about."""

    events_per_s: float  #: of the service
    end_to_end_per_s: float  #: until the engine had everything


def run() -> None:
    """Measure in alternation, and print."""
    name = os.environ.get("BENCH_ENGINE", "postgres")
    events, rounds = effort(100_000, 1_000), effort(5, 1)
    with ENGINES[name]() as open_sink, work_directory() as directory:
        logs: list[Path] = []

        def alone() -> float:
            logs.append(directory / uuid.uuid4().hex)
            return service(logs[-1], events)

        def beside() -> Beside:
            base_dir = directory / uuid.uuid4().hex
            before = effort(1_000, 200)
            service(base_dir, before)  # new logs are looked for every few seconds: this one is there
            with sidecar(base_dir, open_sink):
                began = time.perf_counter()
                rate = service(base_dir, events)
                uvloop.run(arrived(open_sink(), identity(base_dir), events + before))
                return Beside(rate, events / (time.perf_counter() - began))

        def caught_up() -> float:
            if not logs:
                alone()
            return uvloop.run(catch_up(open_sink(), logs.pop()))

        measured = in_turn({"alone": alone, "beside": beside, "caught up": caught_up}, rounds=rounds)
    rates: list[float] = measured["alone"]  # type: ignore[assignment]  # `in_turn` has one type for all
    pairs: list[Beside] = measured["beside"]  # type: ignore[assignment]
    recovery: list[float] = measured["caught up"]  # type: ignore[assignment]
    with_sidecar = [one.events_per_s for one in pairs]
    end_to_end = [one.end_to_end_per_s for one in pairs]
    show(
        f"forwarding: a service and a sidecar to {name}, each on a core of its own",
        [
            row_of("the service alone", rates, "events/s"),
            row_of("the service beside the sidecar", with_sidecar, "events/s"),
            row_of("in the engine, end to end", end_to_end, "events/s"),
            row_of("catching up", recovery, "records/s"),
        ],
    )
    show(
        "forwarding: enough?",
        [
            row_of("beside / alone", ratios(with_sidecar, rates), "", digits=2, floor=0.95),
            row_of("end to end / alone", ratios(end_to_end, rates), "", digits=2, floor=0.35),
            row_of("catching up, times real time", [rate / _OUTAGE_RATE for rate in recovery], "x", digits=1, floor=15),
        ],
    )


def service(base_dir: Path, events: int) -> float:
    """Write a log in a process on the first core; return its rate."""
    ours, theirs = _processes.Pipe(duplex=False)

    def produce() -> None:
        theirs.send(uvloop.run(write(base_dir, SUBJECTS["immediate"], events)).events_per_s)

    with on_core(0, produce):
        theirs.close()  # so that a process that fails is noticed
        rate: float = ours.recv()
    return rate


@contextmanager
def sidecar(base_dir: Path, open_sink: OpenSink) -> Iterator[None]:
    """Forward in a process on the last core while the block runs."""

    async def forward() -> None:
        await Forwarder(base_dir / "audit", open_sink(), tenant=_TENANT, host=_HOST).run()

    with on_core(-1, lambda: uvloop.run(forward())):
        yield


@contextmanager
def on_core(number: int, call: Callable[[], object]) -> Iterator[None]:
    """Run a call in a process that has one core; killed at the end of the block if it has not ended."""

    def run_there() -> None:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[number]})
        call()

    process = _processes.Process(target=run_there)
    process.start()
    try:
        yield
        process.join(0.2)
    finally:
        process.kill()
        process.join()


def identity(base_dir: Path) -> LogIdentity:
    """Return what the one log below a directory is called in the engine."""
    [directory] = [path.parent for path in base_dir.rglob("log.json")]
    log_id = json.loads((directory / "log.json").read_bytes())["log_id"]
    return LogIdentity(
        tenant=_TENANT, service=directory.parent.name, host=_HOST, instance=directory.name, log_id=log_id
    )


async def arrived(sink: Sink, log: LogIdentity, events: int) -> None:
    """Return once the engine has all events of a log."""
    try:
        with anyio.fail_after(120):
            while (head := await sink.head(log)) is None or head.seq < events:
                await anyio.sleep(0.01)
    finally:
        await sink.aclose()


async def catch_up(sink: Sink, base_dir: Path) -> float:
    """Bring a log to the engine that it has nothing of; return the rate."""
    try:
        forwarder = Forwarder(base_dir / "audit", sink, tenant=_TENANT, host=_HOST)
        began = time.perf_counter()
        [status] = await forwarder.run_once()
        took_s = time.perf_counter() - began
    finally:
        await sink.aclose()
    assert status.shipped is not None, status.problem
    return (status.shipped.seq + 1) / took_s
