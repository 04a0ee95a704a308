"""How fast a trail is delivered to a receiver of HTTP on this machine, and what a receiver that fails costs a service.

The receiver is a process of its own that reads each body and answers. The service writes in immediate mode on one core:
next to a process that sleeps on another core, and next to a deliverer there whose receiver is dead (nothing listens) or
stalled (it accepts connections and never answers). The three take turns in each round, and a ratio is taken round by
round. What a service pays is processor time, of all it does and of `emit` alone, which a busy machine changes little;
the time until a record is acknowledged, of 16 tasks that wait for theirs; and the memory that the service has grown by.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import uvloop
from aiohttp import web

from audit_async import AuditLogger, Immediate
from audit_async.config.setting import MIB
from audit_async.delivery import Deliverer, DeliverSettings, HttpSettings
from audit_async.delivery.deliverable_record import OWN_SERVICE
from bench.forwarding import on_core, service
from bench.frame import (
    Row,
    config,
    effort,
    in_turn,
    ordinary_event,
    percentile,
    ratios,
    row_of,
    show,
    work_directory,
)

_processes: Final = multiprocessing.get_context("fork")
_BURST: Final = 50
_EMITTERS: Final = 16


class Rate(NamedTuple):
    """How fast a trail was delivered."""

    records_per_s: float
    records_per_cpu_s: float  #: of the deliverer's processor time


class Cost(NamedTuple):
    """What a service paid for its events."""

    events_per_s: float
    cpu_us: float  #: for an event, of the whole process
    emit_us: float  #: of that, in `emit`
    median_ms: float  #: until an event was acknowledged
    slowest_ms: float  #: the same, for 99 of 100 at most
    grown_mib: float  #: by how much its memory grew at most


def run() -> None:
    """Measure in alternation, and print."""
    _show_rates()
    _show_costs()


def _show_rates() -> None:
    records, rounds = effort(200_000, 1_000), effort(5, 1)
    with work_directory() as directory, receiver() as url:
        trail = directory / "trail"
        service(trail, records)

        def delivered(**more: object) -> Rate:
            given, (ours, theirs) = settings(trail, url, **more), _processes.Pipe(duplex=False)

            def deliver() -> None:
                began, used = time.perf_counter(), time.process_time()
                status = next(one for one in uvloop.run(Deliverer(given).run_once()) if one.log.service != OWN_SERVICE)
                assert status.lag_records == 0, status.problem
                took_s, used_s = time.perf_counter() - began, time.process_time() - used
                theirs.send(Rate(status.delivered / took_s, status.delivered / used_s))

            with on_core(-1, deliver):
                theirs.close()  # so that a process that fails is noticed
                rate: Rate = ours.recv()
            return rate

        measured = in_turn(
            {
                "as lines": delivered,
                "as lines, compressed": lambda: delivered(gzip=True),
                "in OCSF": lambda: delivered(format="ocsf"),
            },
            rounds=rounds,
        )
    rows = []
    for name, rates in measured.items():
        floor = 50_000 if name == "as lines" else None
        rows += [
            row_of(f"records {name}", [one.records_per_s for one in rates], "records/s", floor=floor),
            row_of(f"records {name}, by its processor time", [one.records_per_cpu_s for one in rates], "records/s"),
        ]
    show("delivery: to a receiver of HTTP on this machine", rows)


def _show_costs() -> None:
    events, rounds = effort(50_000, 1_000), effort(7, 1)
    with work_directory() as directory, dead_receiver() as dead, stalled_receiver() as stalled:

        def begun() -> Path:
            """Return the directory of a log that has something to deliver; a service that is alone has one as well."""
            base_dir = directory / uuid.uuid4().hex
            service(base_dir, 1_000)
            return base_dir

        def alone() -> Cost:
            base_dir = begun()
            # On a busy machine a second process changes how the first is scheduled, also if it sleeps.
            with on_core(-1, lambda: time.sleep(3600)):
                return cost(base_dir, events)

        def next_to(url: str) -> Cost:
            base_dir = begun()
            with on_core(-1, lambda: uvloop.run(Deliverer(settings(base_dir, url, timeout_s=1.0)).run())):
                return cost(base_dir, events)

        costs = in_turn(
            {"alone": alone, "dead": lambda: next_to(dead), "stalled": lambda: next_to(stalled)}, rounds=rounds
        )
    show(
        "delivery: what a service pays next to a deliverer whose receiver fails",
        [row for name, found in costs.items() for row in _cost_rows(name, found)],
    )
    show(
        "delivery: with such a receiver / alone",
        [row for name in ("dead", "stalled") for row in _ratio_rows(name, costs[name], costs["alone"])],
    )


def _cost_rows(name: str, found: list[Cost]) -> list[Row]:
    where = "alone" if name == "alone" else f"{name} receiver"
    return [
        row_of(f"{where}: events", [one.events_per_s for one in found], "events/s"),
        row_of(f"{where}: processor time", [one.cpu_us for one in found], "us/event", digits=2),
        row_of(f"{where}: in emit", [one.emit_us for one in found], "us/event", digits=2),
        row_of(f"{where}: acknowledged, median", [one.median_ms for one in found], "ms", digits=2),
        row_of(f"{where}: acknowledged, 99 %", [one.slowest_ms for one in found], "ms", digits=2),
        row_of(f"{where}: memory grown by", [one.grown_mib for one in found], "MiB", digits=1),
    ]


def _ratio_rows(name: str, found: list[Cost], alone: list[Cost]) -> list[Row]:
    def row(what: str, of: Callable[[Cost], float], *, ceiling: float | None = None, floor: float | None = None) -> Row:
        compared = ratios([of(one) for one in found], [of(one) for one in alone])
        return row_of(f"{name} receiver: {what}", compared, "", digits=2, ceiling=ceiling, floor=floor)

    return [
        row("events a second", lambda one: one.events_per_s, floor=0.95),
        row("processor time", lambda one: one.cpu_us, ceiling=1.05),
        row("in emit", lambda one: one.emit_us, ceiling=1.05),
        row("acknowledged, median", lambda one: one.median_ms, ceiling=1.05),
        row("acknowledged, 99 %", lambda one: one.slowest_ms),
        row("memory grown by", lambda one: one.grown_mib, ceiling=1.1),
    ]


def cost(base_dir: Path, events: int) -> Cost:
    """Write a log in a process on the first core; return what that cost."""
    ours, theirs = _processes.Pipe(duplex=False)
    with on_core(0, lambda: theirs.send(uvloop.run(_pay(base_dir, events)))):
        theirs.close()  # so that a process that fails is noticed
        paid: Cost = ours.recv()
    return paid


async def _pay(base_dir: Path, events: int) -> Cost:
    before_mib = _memory_mib("VmRSS")
    async with AuditLogger(config(base_dir, Immediate())) as audit:
        burst = [ordinary_event(n) for n in range(_BURST)]
        emit, emit_s = audit.emit, 0.0
        began, used = time.perf_counter(), time.process_time()
        for _ in range(events // _BURST):
            called = time.thread_time()
            for event in burst:
                receipt = emit(event)
            emit_s += time.thread_time() - called
            await receipt.durable()
        took_s, used_s = time.perf_counter() - began, time.process_time() - used
        waited_s = await _acknowledged(audit, events // 10)
    return Cost(
        events_per_s=events / took_s,
        cpu_us=used_s / events * 1e6,
        emit_us=emit_s / events * 1e6,
        median_ms=percentile(waited_s, 50) * 1e3,
        slowest_ms=percentile(waited_s, 99) * 1e3,
        grown_mib=_memory_mib("VmHWM") - before_mib,
    )


async def _acknowledged(audit: AuditLogger, events: int) -> list[float]:
    """Return how long each event waited, of tasks that emit one after the other."""
    waited_s: list[float] = []
    event = ordinary_event()

    async def emitter() -> None:
        for _ in range(events // _EMITTERS):
            called = time.perf_counter()
            await audit.emit(event).durable()
            waited_s.append(time.perf_counter() - called)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_EMITTERS):
            tasks.create_task(emitter())
    return waited_s


def _memory_mib(member: str) -> float:
    found = re.search(rf"{member}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def settings(base_dir: Path, url: str, **more: object) -> DeliverSettings:
    """Return a deliverer that begins from the beginning, with batches of up to 5,000 records and 4 MiB."""
    given: dict[str, object] = {"name": "bench", "url": url, "max_records": 5000, "max_bytes": 4 * MIB}
    sink = HttpSettings(**(given | {"exclude": ()} | more))  # type: ignore[arg-type]  # by their names
    own = base_dir.parent / f"{base_dir.name}-own"
    return DeliverSettings(
        base_dir=str(base_dir / "audit"), state_dir=str(own / uuid.uuid4().hex), own_log=str(own), sinks=(sink,)
    )


@contextmanager
def receiver() -> Iterator[str]:
    """Run a receiver that takes everything, in a process of its own; yield its URL."""
    ours, theirs = _processes.Pipe(duplex=False)

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async def serve() -> None:
        application = web.Application(client_max_size=64 * MIB)
        application.router.add_post("/", take)
        runner = web.AppRunner(application, access_log=None, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        theirs.send(runner.addresses[0][1])
        await anyio.sleep_forever()

    process = _processes.Process(target=lambda: uvloop.run(serve()))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/"
    finally:
        process.kill()
        process.join()


@contextmanager
def dead_receiver() -> Iterator[str]:
    """Yield a URL where nothing listens."""
    with socket.socket() as reserved:  # bound, so that no other process listens there
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}/"


@contextmanager
def stalled_receiver() -> Iterator[str]:
    """Accept connections, and never answer; yield the URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(os.cpu_count() or 1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
