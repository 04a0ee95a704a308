"""Durable events a second in each flush mode, and the latency of one lone event, beside the raw file system."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from time import perf_counter

import uvloop

from audit_async import AuditLogger, Batched, Hybrid, Immediate, Receipt
from audit_async.config import FlushMode
from bench.frame import Row, config, median, ordinary_event, percentile, show, work_directory

_EVENTS = 200_000
_ROUNDS = 5
_BURST = 500
_LONE = 400
_RAW_BATCH = 256 * 1024
_RECORD = 420  # bytes of a record of this benchmark, about


class _RawFile:
    """What the machine can do: write and fdatasync, nothing else."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write_and_sync(self, data: bytes) -> float:
        """Return how many seconds it took."""
        began = perf_counter()
        os.write(self._descriptor, data)
        os.fdatasync(self._descriptor)
        return perf_counter() - began

    def close(self) -> None:
        os.close(self._descriptor)


async def _durable_per_second(directory: Path, mode: FlushMode) -> tuple[float, int, float]:
    """Emit from one producer as fast as it goes; return events/s until all is durable, bytes, and syncs/s."""
    async with AuditLogger(config(directory, mode)) as audit:
        emit, event = audit.emit, ordinary_event()
        before = audit.stats()
        outstanding: deque[Receipt] = deque()  # the last of each burst: no more than the buffer holds
        began = perf_counter()
        for _ in range(_EVENTS // _BURST):
            if len(outstanding) == 8_000 // _BURST:
                oldest = outstanding.popleft()
                if not oldest.is_durable:
                    await (audit.flush() if isinstance(mode, Batched | Hybrid) else oldest.durable())
            for _ in range(_BURST - 1):
                emit(event)
            outstanding.append(emit(event))
            await asyncio.sleep(0)
        await audit.flush()
        took_s = perf_counter() - began
        after = audit.stats()
        assert after.durable - before.durable == _EVENTS
        written = after.bytes_written - before.bytes_written
        return _EVENTS / took_s, written, (after.syncs - before.syncs) / took_s


async def _lone_latency(directory: Path, raw: _RawFile) -> tuple[list[float], list[float]]:
    """Return the seconds of single `emit_durable` calls and of raw syncs of as many bytes, taken in turn."""
    ours, theirs = [], []
    async with AuditLogger(config(directory, Immediate())) as audit:
        for _ in range(_LONE):
            theirs.append(raw.write_and_sync(b"x" * _RECORD))
            began = perf_counter()
            await audit.emit_durable(ordinary_event())
            ours.append(perf_counter() - began)
    return ours, theirs


def run() -> None:
    """Measure and print."""
    rows: list[Row] = []
    modes: dict[str, FlushMode] = {"immediate": Immediate(), "batched": Batched(), "hybrid": Hybrid()}
    rates: dict[str, list[float]] = {name: [] for name in modes}
    syncs: dict[str, list[float]] = {name: [] for name in modes}
    raw_rates: list[float] = []
    with work_directory() as directory:
        raw = _RawFile(directory)
        for round_number in range(_ROUNDS):
            for name, mode in modes.items():
                rate, written, syncs_s = uvloop.run(_durable_per_second(directory / f"{name}{round_number}", mode))
                rates[name].append(rate)
                syncs[name].append(syncs_s)
            took_s = sum(raw.write_and_sync(b"x" * _RAW_BATCH) for _ in range(written // _RAW_BATCH))
            raw_rates.append(_EVENTS / took_s)
        immediate, batched = median(rates["immediate"]), median(rates["batched"])
        beside = {"immediate": f"{immediate / batched:.2f} of batched (target >= 0.8)"}
        for name, samples in rates.items():
            rows.append(
                Row(
                    f"durable events/s, {name}",
                    f"{median(samples):9,.0f} ({min(samples):,.0f} to {max(samples):,.0f})",
                    f"{median(samples) / median(raw_rates):.2f} of raw; {median(syncs[name]):.0f} syncs/s; "
                    + beside.get(name, ""),
                )
            )
        rows.append(
            Row(
                "raw write + fdatasync, 256 KiB", f"{median(raw_rates):9,.0f}", "the same bytes, as events/s: the limit"
            )
        )
        for loop_name, runner in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
            ours, theirs = runner(_lone_latency(directory / loop_name, raw))
            ratio = median([a / b for a, b in zip(ours, theirs, strict=True)])
            rows.append(
                Row(
                    f"one lone emit_durable, {loop_name}",
                    f"p50 {median(ours) * 1e6:4.0f} us, p99 {percentile(ours, 99) * 1e6:5.0f} us",
                    f"{ratio:.2f} of a raw sync, p50 {median(theirs) * 1e6:.0f} us (target <= 1.6)",
                )
            )
        raw.close()
    show("throughput: events made durable", rows)
