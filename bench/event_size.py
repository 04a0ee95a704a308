"""What an event costs against its size, from 100 bytes to 64 KiB, next to hashing and writing the same bytes alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import uvloop

from audit_async import AuditEvent, AuditLogger, Immediate, Receipt
from audit_async.events.base import encode
from bench.frame import Row, config, effort, in_turn, median, ratios, row_of, show, work_directory
from bench.raw import RawFile, hashing

_SIZES = (100, 256, 1024, 4096, 16384, 65_000)  # the largest event that is recorded whole has 65,536 bytes
_BURST_BYTES = 256 * 1024
_FRAME = 270  # bytes that make a record of an event, about
_TEXT = 1000  # characters; a text of more than 1,024 would be cut


class Sized(AuditEvent, tag="bench.sized"):
    """An event of any size, in texts that are each short enough to be recorded whole."""

    parts: tuple[str, ...]


def _event(size: int) -> Sized:
    """Return an event that is encoded in `size` bytes."""
    room = size - len(encode(Sized(parts=("",))))
    parts = []
    while room > _TEXT:
        parts.append("x" * (_TEXT - 3))  # its quotation marks and its comma
        room -= _TEXT
    event = Sized(parts=(*parts, "x" * room))
    assert len(encode(event)) == size
    return event


class _Run(NamedTuple):
    """What one run brought about."""

    emit_us: float  #: median of a call of `emit`
    events_per_s: float  #: until the last was acknowledged
    megabytes_per_s: float  #: of records, on the disk


async def _write(directory: Path, size: int, total_bytes: int) -> _Run:
    """Emit events of that size from one producer; return when all is acknowledged."""
    event = _event(size)
    events, burst = max(20, total_bytes // (size + _FRAME)), max(1, min(500, _BURST_BYTES // size))
    took_s: list[float] = []
    async with AuditLogger(config(directory, Immediate(), buffer_bytes=64 << 20)) as audit:
        emit = audit.emit
        receipt: Receipt = emit(event)
        await audit.flush()
        before = audit.stats().bytes_written
        began = perf_counter()
        for first in range(0, events, burst):
            if audit.stats().waiting > 8 * burst:
                await receipt.durable()
            for _ in range(min(burst, events - first)):
                called = perf_counter()
                receipt = emit(event)
                took_s.append(perf_counter() - called)
            await asyncio.sleep(0)
        await audit.flush()
        elapsed_s = perf_counter() - began
        written = audit.stats().bytes_written - before
    return _Run(1e6 * median(took_s), events / elapsed_s, 1e-6 * written / elapsed_s)


def run() -> None:
    """Measure and print."""
    total_bytes, rounds = effort(32 << 20, 1 << 20), effort(5, 1)
    emits: list[Row] = []
    rates: list[Row] = []
    shares: list[Row] = []
    with work_directory() as directory:
        raw = RawFile(directory)
        fresh = count()

        def written(size: int) -> _Run:
            return uvloop.run(_write(directory / f"log{next(fresh)}", size, total_bytes))

        for size in _SIZES:
            subjects: dict[str, Callable[[], _Run | float]] = {
                "ours": partial(written, size),
                "raw": lambda: 1e-6 * total_bytes / raw.write_in_batches(total_bytes),
                "hash": lambda size=size: 1e-6 * total_bytes / hashing(total_bytes, size + _FRAME),  # type: ignore[misc]
            }
            samples = in_turn(subjects, rounds=rounds)
            kept = [each for each in samples["ours"] if isinstance(each, _Run)]
            measured = {name: [each for each in samples[name] if isinstance(each, float)] for name in ("raw", "hash")}
            measured["ours"] = [each.megabytes_per_s for each in kept]
            name = f"{size:,} bytes"
            emits.append(row_of(f"emit, {name}", [each.emit_us for each in kept], "us", digits=2))
            rates.append(
                row_of(
                    f"durable, {name}",
                    measured["ours"],
                    "MB/s",
                    f"{median([each.events_per_s for each in kept]):,.0f} events/s; write + fdatasync alone "
                    f"{median(measured['raw']):,.0f} MB/s, hashlib alone {median(measured['hash']):,.0f} MB/s",
                )
            )
            share = ratios(measured["ours"], measured["raw"])
            shares.append(row_of(f"durable / raw, {name}", share, "", digits=2))
        raw.close()
    show("event size: the cost of emit to its caller", emits)
    show("event size: durable bytes a second, immediate, one producer", rates)
    show("event size: of what write + fdatasync takes in batches of 256 KiB", shares)
