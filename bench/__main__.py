"""`python -m bench [name ...]`: run these benchmarks, or all; results go to `bench/results/`."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from bench import machine
from bench.results import RESULTS, keep


class _Benchmark(NamedTuple):
    """A module of this package with a function `run`, imported only when it is asked for."""

    subject: str
    by_default: bool = True  #: whether it belongs to the whole set


BENCHMARKS: Final[dict[str, _Benchmark]] = {
    "emit": _Benchmark("what one emit costs its caller"),
    "costs": _Benchmark(
        "what an event costs in measures that no noise touches: allocations, calls, system calls, bytes"
    ),
    "throughput": _Benchmark("durable events a second from one producer"),
    "breakdown": _Benchmark("what the time of a durable event goes into"),
    "latency": _Benchmark("durable events a second and acknowledgement latency at 1 to 1,000 concurrent emitters"),
    "loop_lag": _Benchmark("how long a turn of the event loop takes under load"),
    "event_size": _Benchmark("cost against the size of an event"),
    "memory": _Benchmark("memory against the length of the trail"),
    "opening": _Benchmark("opening time against the length of the trail"),
    "verify": _Benchmark("records verified a second and the memory it takes, next to hashlib"),
    "transparency": _Benchmark("what signing costs, how long a proof takes, tiles against the length of the log"),
    "privacy": _Benchmark("what sealing costs in emit, and persons who are new"),
    "query": _Benchmark("queries with and without the index, next to grep"),
    "scale": _Benchmark(
        "ten million records, 20,000 segments, 10,000 logs, next to grep, DuckDB, SQLite and jq; a quarter of an hour",
        by_default=False,
    ),
    "platform": _Benchmark("how fast an engine takes a log, next to the local durable rate", by_default=False),
    "forwarding": _Benchmark(
        "a service beside a sidecar, end to end, and catching up after an outage", by_default=False
    ),
    "delivery": _Benchmark(
        "how fast a trail is delivered to a local receiver, and what a dead one costs", by_default=False
    ),
    "viewer": _Benchmark(
        "what a page of the viewer takes, and what its readers cost the service next to it", by_default=False
    ),
    "rivals": _Benchmark("the same event through other libraries"),
    "orm": _Benchmark(
        "what recording a saved object costs, next to the audit packages of the mappers", by_default=False
    ),
    "web": _Benchmark("FastAPI with the middleware and without it; takes the machine for minutes", by_default=False),
    "soak": _Benchmark("ten minutes of requests: memory, and each of them in the trail", by_default=False),
}


def main() -> None:
    """Run what the command line names."""
    listing = "\n".join(f"  {name:<14}{benchmark.subject}" for name, benchmark in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure audit-async on this machine, next to the machine's own limits.",
        epilog=f"benchmarks:\n{listing}\n\nBENCH_DIR: the directory to write logs below; its file system is measured",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="which to run; the whole set if none is named")
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes: shows that all works, no figures"
    )
    parser.add_argument(
        "--records", type=int, metavar="N", help="for scale and viewer: how many records (10,000,000; 100,000)"
    )
    parser.add_argument("--engine", choices=("nats", "postgres"), help="for platform: which engine (postgres)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept (%(default)s)")
    arguments = parser.parse_args()
    names = arguments.name or [name for name, benchmark in BENCHMARKS.items() if benchmark.by_default]
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if arguments.quick:
        os.environ["BENCH_QUICK"] = "1"  # so that the processes that benchmarks start see it as well
    if arguments.engine is not None:
        os.environ["BENCH_ENGINE"] = arguments.engine
    if arguments.records is not None:
        if arguments.records < 1000:
            parser.error("--records: 1,000 at least; fewer show nothing")
        for benchmark in ("SCALE", "VIEWER"):
            os.environ[f"BENCH_{benchmark}_RECORDS"] = str(arguments.records)
    print(f"Measured on: {machine.machine()}")
    for name in names:
        about = machine.details() | ({"quick": "yes: not to be quoted"} if arguments.quick else {})
        import_module(f"bench.{name}").run()
        print("\nKept in " + ", ".join(map(str, keep(name, about, arguments.results))))


if __name__ == "__main__":
    main()
