"""How fast a trail is delivered to a receiver of HTTP on this machine, and what a dead receiver costs the service.

The receiver is a process of its own that reads each body and answers. The service writes in immediate mode on one core;
its rate alone and next to a deliverer, on another core, whose receiver accepts connections and never answers, are
compared in alternation.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio
import uvloop
from aiohttp import web

from audit_async.config.setting import MIB
from audit_async.delivery import Deliverer, DeliverSettings, HttpSettings
from audit_async.delivery.deliverable_record import OWN_SERVICE
from bench.forwarding import on_core, service
from bench.frame import effort, in_turn, ratios, row_of, show, work_directory

_processes: Final = multiprocessing.get_context("fork")


def run() -> None:
    """Measure in alternation, and print."""
    records, events, rounds = effort(200_000, 1_000), effort(50_000, 1_000), effort(5, 1)
    with work_directory() as directory, receiver() as url, dead_receiver() as dead:
        trail = directory / "trail"
        service(trail, records)

        def delivered(**more: object) -> float:
            given, (ours, theirs) = settings(trail, url, **more), _processes.Pipe(duplex=False)

            def deliver() -> None:
                began = time.perf_counter()
                status = next(one for one in uvloop.run(Deliverer(given).run_once()) if one.log.service != OWN_SERVICE)
                took_s = time.perf_counter() - began
                assert status.lag_records == 0, status.problem
                theirs.send(status.delivered / took_s)

            with on_core(-1, deliver):
                rate: float = ours.recv()
            return rate

        def alone() -> float:
            return service(directory / uuid.uuid4().hex, events)

        def next_to_a_dead_receiver() -> float:
            base_dir = directory / uuid.uuid4().hex
            service(base_dir, 1_000)  # the log is there, and there is something to deliver
            with on_core(-1, lambda: uvloop.run(Deliverer(settings(base_dir, dead, timeout_s=1.0)).run())):
                return service(base_dir, events)

        rates = in_turn(
            {
                "lines": delivered,
                "gzip": lambda: delivered(gzip=True),
                "ocsf": lambda: delivered(format="ocsf"),
                "alone": alone,
                "dead": next_to_a_dead_receiver,
            },
            rounds=rounds,
        )
    show(
        "delivery: to a receiver of HTTP on this machine, and a service next to a deliverer whose receiver is dead",
        [
            row_of("records as lines", rates["lines"], "records/s", floor=50_000),
            row_of("records as lines, compressed", rates["gzip"], "records/s"),
            row_of("records in OCSF", rates["ocsf"], "records/s"),
            row_of("the service alone", rates["alone"], "events/s"),
            row_of("the service with a dead receiver", rates["dead"], "events/s"),
            row_of("with / alone", ratios(rates["dead"], rates["alone"]), "", digits=2, floor=0.95),
        ],
    )


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
    """Accept connections, and never answer; yield the URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(os.cpu_count() or 1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
