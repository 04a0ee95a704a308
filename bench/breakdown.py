"""What the time of a durable event goes into: each step alone, next to the whole as it runs.

The steps are measured one after the other in one thread, in which nothing waits; what only computes, by the
thread's CPU time. The event loop's thread does the first two, the disk thread the commit at the same time. What the
whole takes longer than the dearer of the two threads is waiting: the disk thread for the GIL, the loop for the disk,
and both for a processor.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import perf_counter, thread_time, time_ns
from typing import Final

import uvloop

from audit_async import AuditLogger, Batched, Immediate, Receipt
from audit_async._chain import START, Batch, Entry, Framer
from audit_async._store.log_store import LogStore
from audit_async.config import RotationPolicy
from audit_async.events.base import encode
from bench.frame import config, effort, in_turn, median, ordinary_event, row_of, show, work_directory
from bench.raw import RawFile

_RECORDS: Final = 600  # of these events, a batch of about 230 KB
_EVENT: Final = encode(ordinary_event())
_BURST: Final = 500


def run() -> None:
    """Measure and print."""
    events = effort(60_000, 1_200)
    with work_directory() as directory:
        raw = RawFile(directory)
        fresh = count()
        batches = _framed(events)
        size = sum(batch.size for batch in batches)
        blobs = [b"".join(batch.lines) for batch in batches]

        def path() -> Path:
            return directory / f"log{next(fresh)}"

        subjects: dict[str, Callable[[], float]] = {
            "emit": lambda: uvloop.run(_emitting(path(), events)),
            "framing": lambda: _framing(events),
            "of it: SHA-256 of each record, hashlib alone": lambda: _hashing(batches),
            "commit": lambda: _committing(path(), batches),
            "of it: joining the lines": lambda: _joining(batches),
            "of it: SHA-256 of the segment, hashlib alone": lambda: _digesting(blobs),
            "of it: pwrite alone": lambda: _writing(directory, blobs),
            "of it: write + fdatasync alone": lambda: sum(raw.write_and_sync(blob) for blob in blobs),
            "whole": lambda: uvloop.run(_whole(path(), events, perf_counter)),
            "CPU": lambda: uvloop.run(_whole(path(), events, thread_time)),
        }
        measured = in_turn(subjects, rounds=effort(7, 1))
        raw.close()
    per_event = {name: [1e9 * seconds / events for seconds in samples] for name, samples in measured.items()}
    names = {
        "emit": "loop's thread: emit",
        "framing": "loop's thread: framing",
        "commit": "disk thread: commit",
        "CPU": "as it runs: CPU time of the loop's thread",
        "whole": "as it runs: wall time",
    }
    rows = [row_of(names.get(name, name), samples, "ns") for name, samples in per_event.items()]
    show(f"breakdown: a durable event of {size / events:.0f} bytes on disk, immediate, one producer", rows)
    loop = median(per_event["emit"]) + median(per_event["framing"])
    disk, whole = median(per_event["commit"]), median(per_event["whole"])
    waiting = [wall - max(loop, disk) for wall in per_event["whole"]]
    show(
        "breakdown: what limits it",
        [
            row_of("the loop's thread, alone", [loop], "ns", f"{loop / whole:.0%} of the wall time"),
            row_of("the disk thread, alone", [disk], "ns", f"{disk / whole:.0%} of the wall time"),
            row_of("waiting: GIL, disk, processor", waiting, "ns", f"{median(waiting) / whole:.0%} of the wall time"),
        ],
    )


def _framed(events: int) -> list[Batch]:
    framer = Framer(START, audit_prefix="0" * 16, service_id="bench")
    batches = []
    for first in range(0, events, _RECORDS):
        batches.append(Batch(framer.head))
        framer.frame(_entries(first), batches[-1])
    return batches


def _entries(first: int) -> list[Entry]:
    now_ns = time_ns()
    return [Entry(number, now_ns, _EVENT) for number in range(first, first + _RECORDS)]


def _framing(events: int) -> float:
    framer = Framer(START, audit_prefix="0" * 16, service_id="bench")
    took_s = 0.0
    for first in range(0, events, _RECORDS):
        entries, batch = _entries(first), Batch(framer.head)
        began = thread_time()
        framer.frame(entries, batch)
        took_s += thread_time() - began
    return took_s


def _hashing(batches: list[Batch]) -> float:
    new_hash = hashlib.sha256().copy
    began = thread_time()
    for batch in batches:
        for line in batch.lines:
            hasher = new_hash()
            hasher.update(line)
            hasher.hexdigest()
    return thread_time() - began


def _joining(batches: list[Batch]) -> float:
    began = thread_time()
    for batch in batches:
        b"".join(batch.lines)
    return thread_time() - began


def _digesting(blobs: list[bytes]) -> float:
    digest = hashlib.sha256()
    began = thread_time()
    for blob in blobs:
        digest.update(blob)
    return thread_time() - began


def _writing(directory: Path, blobs: list[bytes]) -> float:
    descriptor = os.open(directory / "written", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        began = perf_counter()
        at = 0
        for blob in blobs:
            at += os.pwrite(descriptor, blob, at)
        return perf_counter() - began
    finally:
        os.close(descriptor)


def _committing(base_dir: Path, batches: list[Batch]) -> float:
    """Hand the batches to a store, each synced, in this thread."""
    store = LogStore.open(base_dir, "bench", "00", rotation=RotationPolicy(daily=False))
    try:
        began = perf_counter()
        for batch in batches:
            store.commit(batch, sync=True)
        return perf_counter() - began
    finally:
        store.close()


async def _emitting(directory: Path, events: int) -> float:
    """Return the seconds that so many calls of `emit` take; the writer gets its turns in between."""
    took_s = 0.0
    event = ordinary_event()
    async with AuditLogger(config(directory, Batched(size=5000))) as audit:
        emit = audit.emit
        for _ in range(events // _BURST):
            began = thread_time()
            for _ in range(_BURST):
                emit(event)
            took_s += thread_time() - began
            await audit.flush()
    return took_s * events / (events // _BURST * _BURST)


async def _whole(directory: Path, events: int, clock: Callable[[], float]) -> float:
    """Return how long so many events take, by `clock`, from one producer, until all are durable."""
    event = ordinary_event()
    outstanding: deque[Receipt] = deque()
    async with AuditLogger(config(directory, Immediate())) as audit:
        emit = audit.emit
        began = clock()
        for _ in range(events // _BURST):
            if len(outstanding) == 16:
                await outstanding.popleft().durable()
            for _ in range(_BURST):
                receipt = emit(event)
            outstanding.append(receipt)
            await asyncio.sleep(0)
        await audit.flush()
        return (clock() - began) * events / (events // _BURST * _BURST)
