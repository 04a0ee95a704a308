"""Verifying a trail: records a second on one process and on two, next to the same hashing alone, and the memory.

A million records, or as many as `BENCH_VERIFY_RECORDS` says. Each measurement is a process of its own, pinned to as
many CPUs as it may use, so that its speed and its peak memory are its own; interpreters' starts are not counted, the
workers' are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from audit_async._chain import Batch, Entry, Framer
from audit_async._store.log_store import LogStore
from audit_async.config import RotationPolicy
from audit_async.events.base import encode
from bench.frame import Row, effort, in_turn, ordinary_event, ratios, row_of, show, work_directory

_BATCH = 2000

_BASELINE = """
import hashlib, json, resource, sys, time
from pathlib import Path
records, began = 0, time.perf_counter()
for path in sorted(Path(sys.argv[1]).glob("*.audit")):
    with path.open("rb") as file:
        for line in file:
            hashlib.sha256(line).hexdigest()
            records += 1
took = time.perf_counter() - began
print(json.dumps([records / took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0]))
"""
_HASHED = """
import hashlib, json, resource, sys, time
from pathlib import Path
records, began = 0, time.perf_counter()
for path in sorted(Path(sys.argv[1]).glob("*.audit")):
    segment = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 16) + file.readline():
            segment.update(data)
            for line in data.splitlines():
                hashlib.sha256(line[:-75] + b"}").hexdigest()
                records += 1
    segment.hexdigest()
took = time.perf_counter() - began
print(json.dumps([records / took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0]))
"""
_VERIFY = """
import anyio, json, resource, sys, time
from audit_async._trail.log_files import find_logs
from audit_async._verify.verification import verify_trail
logs, processes, began = find_logs(sys.argv[1]), int(sys.argv[2]), time.perf_counter()
report = anyio.run(lambda: verify_trail(logs, processes=processes))
took = time.perf_counter() - began
assert report.valid
own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps([report.logs[0].records / took, own, workers]))
"""


_AGAIN = """
import anyio, anyio.to_thread, json, sys, time
from pathlib import Path
from audit_async._trail.log_files import find_logs
from audit_async._verify.state_file import StateFile
from audit_async._verify.verification import verify_trail
from audit_async._verify.verified_before import Verified
logs, state = find_logs(sys.argv[1]), StateFile(sys.argv[2])
anyio.run(anyio.to_thread.run_sync, int)  # what a first run imports is no part of it
verified, began = Verified(state.read(), full=sys.argv[3] == "full"), time.process_time()
report = anyio.run(lambda: verify_trail(logs, verified=verified, processes=1))
took = time.process_time() - began
assert report.valid
if not state.path.exists():
    state.write(verified.logs)
print(json.dumps([1 / took, report.logs[0].records, 0]))
"""


class _Measured(NamedTuple):
    """What a measuring process prints."""

    records_per_s: float
    own_kib: int  #: its peak memory
    worker_kib: int  #: that of the largest of its workers


def _write(base_dir: Path, records: int) -> Path:
    """Write so many ordinary events into a log, sealed as usual; return its directory."""
    store = LogStore.open(base_dir, "bench", "00", rotation=RotationPolicy())
    framer = Framer(store.head, audit_prefix=os.urandom(8).hex(), service_id="bench")
    for begin in range(0, records, _BATCH):
        batch = Batch(framer.head)
        now_ns = time.time_ns()
        numbers = range(begin, min(begin + _BATCH, records))
        framer.frame([Entry(n, now_ns + 1000 * n, encode(ordinary_event(n))) for n in numbers], batch)
        store.commit(batch, sync=store.unsynced_bytes > 8 << 20)
    store.commit(None, sync=True)
    store.close()
    return base_dir / "bench" / "00"


def _measuring(program: str, cpus: int, *arguments: object) -> Callable[[], _Measured]:
    """Return what runs a program on so many CPUs."""
    allowed = sorted(os.sched_getaffinity(0))[:cpus]

    def measure() -> _Measured:
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        return _Measured(*json.loads(done.stdout))

    return measure


def run() -> None:
    """Measure and print."""
    records = int(os.environ.get("BENCH_VERIFY_RECORDS", effort(1_000_000, 20_000)))
    with work_directory() as directory:
        newest = max(1, records // 100)
        log = _write(directory, records - newest)
        state = directory / "verified"
        _measuring(_AGAIN, 1, log, state, "full")()
        _write(directory, newest)
        size = sum(len(path.read_bytes()) for path in log.glob("*.audit"))  # and so into the page cache
        measured = in_turn(
            {
                "baseline": _measuring(_BASELINE, 1, log),
                "hashed": _measuring(_HASHED, 1, log),
                "one": _measuring(_VERIFY, 1, log, 1),
                "two": _measuring(_VERIFY, 2, log, 2),
                "everything": _measuring(_AGAIN, 1, log, state, "full"),
                "again": _measuring(_AGAIN, 1, log, state, "new"),
            },
            rounds=effort(5, 1),
        )
    rates = {name: [each.records_per_s for each in rounds] for name, rounds in measured.items()}
    show(
        f"verify: {records:,} records of {size / records:.0f} bytes",
        [
            row_of("hashlib.sha256 of each line, nothing else, 1 CPU", rates["baseline"], "records/s"),
            row_of(
                "hashlib over what the format hashes: records and segments, 1 CPU",
                rates["hashed"],
                "records/s",
                "the limit: reads and hashes, compares nothing",
            ),
            row_of("verify, 1 CPU", rates["one"], "records/s", floor=1_200_000),
            row_of("verify, 2 CPUs, 2 processes", rates["two"], "records/s"),
            row_of("what verifying costs, of the limit", ratios(rates["hashed"], rates["one"]), "times", digits=2),
            row_of("2 CPUs over 1", ratios(rates["two"], rates["one"]), "times", digits=2, floor=1.6),
            row_of(
                "verify what is new, the last 1 %, of verifying everything",
                [
                    100 * everything / again
                    for everything, again in zip(rates["everything"], rates["again"], strict=True)
                ],
                "%",
                "with --state; CPU time",
                digits=2,
                ceiling=3,
            ),
            _memory("peak memory, 1 process", [each.own_kib for each in measured["one"]]),
            _memory("peak memory, 2 processes: who asks", [each.own_kib for each in measured["two"]]),
            _memory("peak memory, 2 processes: a worker", [each.worker_kib for each in measured["two"]]),
        ],
    )


def _memory(subject: str, kib: list[int]) -> Row:
    return row_of(subject, [each / 1024 for each in kib], "MiB", ceiling=80)
