"""Queries over a million records in a hundred segments, without the index and with it, next to `grep` over the same."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, process_time

import anyio

from audit_async._chain import Batch, Entry, Framer
from audit_async._store.log_store import LogStore
from audit_async.config import RotationPolicy
from audit_async.events import AuthFailure, Record
from audit_async.events.base import encode
from audit_async.reader import AuditQuery, AuditReader
from bench.frame import Row, effort, in_turn, median, ordinary_event, ratios, row_of, show, work_directory

_HITS = 100
_BATCH = 1_000
_START = datetime(2026, 11, 22, 0, 0, tzinfo=UTC)
_STEP = timedelta(milliseconds=50)
_RARE = "eve@example.org"


def _write_trail(base_dir: Path, records: int, segments: int) -> int:
    """Write the trail straight into the store; return its bytes. A hundred records are about the rare actor."""
    store = LogStore.open(base_dir, "bench", "00", rotation=RotationPolicy(daily=False, max_bytes=1 << 40))
    store.close()
    ordinary = encode(ordinary_event())
    rare = encode(AuthFailure(attempted_user=_RARE, reason="bad_password", ip="203.0.113.9", path="/login"))
    line_bytes = len(ordinary) + 320
    rotation = RotationPolicy(daily=False, max_bytes=records // segments * line_bytes)
    store = LogStore.open(base_dir, "bench", "00", rotation=rotation)
    framer = Framer(store.head, audit_prefix="5f0c1e9b7a3d2c48", service_id="bench")
    began_ns, step_ns = int(_START.timestamp()) * 10**9, _STEP // timedelta(microseconds=1) * 1000
    for first in range(0, records, _BATCH):
        batch = Batch(framer.head)
        framer.frame(
            [
                Entry(n, began_ns + n * step_ns, rare if n % (records // _HITS) == 7 else ordinary)
                for n in range(first, first + _BATCH)
            ],
            batch,
        )
        store.commit(batch, sync=False)
    store.commit(None, sync=True)
    store.close()
    return sum(path.stat().st_size for path in (base_dir / "bench" / "00").glob("*.audit"))


def _asked(base_dir: Path, query: AuditQuery, *, use_index: bool) -> Callable[[], int]:
    """Return what puts a query and counts the answers, as a service does: on a loop of its own."""

    async def ask() -> int:
        records: list[Record] = [r async for r in AuditReader(base_dir).query(query, use_index=use_index)]
        return len(records)

    return lambda: anyio.run(ask)


def _build_index(base_dir: Path) -> int:
    """Index the trail; return the index's bytes."""

    async def build() -> int:
        return sum([made.index_bytes async for made in AuditReader(base_dir).build_index(processes=1)])

    return anyio.run(build)


def _verify(base_dir: Path) -> int:
    """Verify the trail in this process; return its records."""
    report = anyio.run(lambda: AuditReader(base_dir).verify(processes=1))
    assert report.valid
    return sum(log.records for log in report.logs)


def _computing(call: Callable[[], int]) -> tuple[float, int]:
    """Return how many seconds a call computes, and its result; without the collector, as in a process of the pool."""
    gc.disable()
    began = process_time()
    result = call()
    took_s = process_time() - began
    gc.enable()
    return took_s, result


def _grep(paths: Sequence[str]) -> Callable[[], int]:
    command = ["grep", "-c", "-F", f'"{_RARE}"', *paths]

    def count() -> int:
        output = subprocess.run(command, check=True, capture_output=True, text=True, env={"LC_ALL": "C"}).stdout  # noqa: S603 - ours
        return sum(int(line.rpartition(":")[2]) for line in output.splitlines())

    return count


def _milliseconds(call: Callable[[], int]) -> Callable[[], float]:
    """Return what makes the call and says how long it took."""

    def timed() -> float:
        began = perf_counter()
        call()
        return 1000 * (perf_counter() - began)

    return timed


def run() -> None:
    """Measure and print."""
    records, segments = effort((1_000_000, 100), (10_000, 4))
    by_actor = AuditQuery(actor=_RARE)
    middle = _START + _STEP * (records // 2 + records // segments // 2)
    one_segment = AuditQuery(start=middle, end=middle + _STEP * 100)
    with work_directory() as directory:
        size = _write_trail(directory, records, segments)
        paths = sorted(map(str, (directory / "bench" / "00").glob("*.audit")))
        verify_s, _ = _computing(lambda: _verify(directory))
        first_s, index_bytes = _computing(lambda: _build_index(directory))
        calls = {
            "grep": _grep(paths),
            "by actor, no index": _asked(directory, by_actor, use_index=False),
            "by actor, index": _asked(directory, by_actor, use_index=True),
            "time range, no index": _asked(directory, one_segment, use_index=False),
            "time range, index": _asked(directory, one_segment, use_index=True),
        }
        counts = [call() for call in calls.values()]
        assert counts == [_HITS, _HITS, _HITS, 100, 100]
        took = in_turn({name: _milliseconds(call) for name, call in calls.items()}, rounds=effort(7, 1))
    compared = {
        "grep": "the baseline: C, the same files, the same string",
        "by actor, index": f"{_HITS} hits",
        "time range, index": f"100 records, one segment of {len(paths)}",
    }
    ceilings = {"by actor, no index": 1000.0, "by actor, index": 20.0, "time range, index": 50.0}
    rows = [
        row_of(
            name,
            samples,
            "ms",
            "; ".join(filter(None, (f"{median(ratios(samples, took['grep'])):.2f} of grep", compared.get(name)))),
            digits=1,
            ceiling=ceilings.get(name),
        )
        for name, samples in took.items()
    ]
    rows.append(
        Row(
            "by actor, index being built",
            f"{first_s * 1000:.1f} ms",
            f"CPU in one process: {first_s / verify_s:.2f} of verify; {records / first_s:,.0f} records/s; "
            f"{index_bytes / 2**20:.0f} MiB next to {size / 2**20:.0f} MiB",
        )
    )
    show(f"query: {records:,} records in {len(paths)} segments", rows)
