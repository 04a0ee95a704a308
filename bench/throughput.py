"""Durable events a second from one producer, in each flush mode, next to what the file system and hashlib take.

The producer emits as fast as it goes, never more than the buffer holds, and the time runs until the last record is
acknowledged. The limit is the same bytes through `write + fdatasync` in batches of 256 KiB.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import ClassVar, NamedTuple

import uvloop

from audit_async import AuditEvent, AuditLogger, Batched, Hybrid, Immediate, Receipt
from audit_async.config import FlushMode
from bench.frame import Row, config, effort, in_turn, median, ratios, row_of, show, work_directory
from bench.raw import RawFile, hashing

_BURST = 500
_OUTSTANDING = 8_000  # of the 9,000 that the buffer has for ordinary events

#: The event loops that are measured.
LOOPS: dict[str, Callable[..., object]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}


class Ordinary(AuditEvent, tag="bench.ordinary"):
    """An event of a usual size; `Critical` is its twin, so that a share of those changes nothing but what is synced."""

    customer_id: str
    model_ref: str
    access_type: str


class Critical(AuditEvent, tag="bench.critical"):
    """The same, critical."""

    critical: ClassVar[bool] = True

    customer_id: str
    model_ref: str
    access_type: str


class Subject(NamedTuple):
    """A way to write events that is measured."""

    mode: FlushMode
    loop: str = "uvloop"
    critical_percent: int = 0


class Written(NamedTuple):
    """What one run brought about."""

    events_per_s: float  #: until the last was acknowledged
    bytes: int
    syncs_per_s: float


SUBJECTS = {
    "immediate": Subject(Immediate()),
    "batched": Subject(Batched()),
    "hybrid": Subject(Hybrid()),
    "hybrid, 1 % critical": Subject(Hybrid(), critical_percent=1),
    "hybrid, 10 % critical": Subject(Hybrid(), critical_percent=10),
    "immediate, asyncio": Subject(Immediate(), loop="asyncio"),
    "batched, asyncio": Subject(Batched(), loop="asyncio"),
    "hybrid, asyncio": Subject(Hybrid(), loop="asyncio"),
}


async def write(directory: Path, subject: Subject, events: int) -> Written:
    """Emit from one producer as fast as it goes; return when all is acknowledged."""
    async with AuditLogger(config(directory, subject.mode)) as audit:
        before = audit.stats().durable
        written = await produce(audit, subject, events)
        durable = audit.stats().durable - before
    assert durable == events, f"{durable} events are durable, not {events}"
    return written


async def produce(audit: AuditLogger, subject: Subject, events: int) -> Written:
    """Emit to an open log, as `write` does; the log may record events of its own meanwhile."""
    emit = audit.emit
    burst = [
        (Critical if n % 100 < subject.critical_percent else Ordinary)(
            customer_id="c-20931", model_ref=f"llama-3-70b/{n}", access_type="inference"
        )
        for n in range(_BURST)
    ]
    before = audit.stats()
    outstanding: deque[Receipt] = deque()  # the last of each burst: no more than the buffer holds
    began = perf_counter()
    for _ in range(events // _BURST):
        if len(outstanding) == _OUTSTANDING // _BURST:
            oldest = outstanding.popleft()
            if not oldest.is_durable:
                await oldest.durable()
        for event in burst:
            receipt = emit(event)
        outstanding.append(receipt)
        await asyncio.sleep(0)
    await audit.flush()
    took_s = perf_counter() - began
    after = audit.stats()
    durable = after.durable - before.durable
    assert durable >= events, f"{durable} events are durable, not {events}"
    return Written(events / took_s, after.bytes_written - before.bytes_written, (after.syncs - before.syncs) / took_s)


def run() -> None:
    """Measure and print."""
    events, rounds = effort(200_000, 2_000), effort(7, 1)
    with work_directory() as directory:
        raw = RawFile(directory)
        fresh = count()

        def written(subject: Subject) -> Written:
            runner = LOOPS[subject.loop]
            done = runner(write(directory / f"log{next(fresh)}", subject, events))
            assert isinstance(done, Written)
            return done

        record = written(SUBJECTS["immediate"]).bytes / events
        total = int(record * events)
        limits: dict[str, Callable[[], float]] = {
            "write + fdatasync in batches of 256 KiB": lambda: events / raw.write_in_batches(total),
            "sequential write, one fdatasync at the end": lambda: events / raw.write_in_sequence(total),
            "hashlib.sha256 of each record": lambda: events / hashing(total, int(record)),
        }
        subjects: dict[str, Callable[[], Written | float]] = {
            name: partial(written, subject) for name, subject in SUBJECTS.items()
        }
        samples = in_turn(subjects | limits, rounds=rounds)
        raw.close()
    runs = {name: [each for each in samples[name] if isinstance(each, Written)] for name in SUBJECTS}
    rates = {name: [each.events_per_s for each in each_run] for name, each_run in runs.items()}
    limit_rates = {name: [each for each in samples[name] if isinstance(each, float)] for name in limits}
    raw_rates = limit_rates["write + fdatasync in batches of 256 KiB"]
    rows = [
        row_of(
            name,
            rates[name],
            "events/s",
            f"{median(ratios(rates[name], raw_rates)):.2f} of raw; "
            f"{median([each.syncs_per_s for each in runs[name]]):,.0f} syncs/s",
            floor=300_000 if name == "immediate" else None,
        )
        for name in SUBJECTS
    ]
    rows += [
        row_of(f"limit: {name}", rate, "events/s", f"the same bytes, {record:.0f} an event")
        for name, rate in limit_rates.items()
    ]
    show("throughput: durable events a second, one producer", rows)
    show("throughput: ratios, round by round", _ratio_rows(rates, raw_rates))


def _ratio_rows(rates: dict[str, list[float]], raw_rates: list[float]) -> list[Row]:
    def row(subject: str, over: str, floor: float | None) -> Row:
        return row_of(f"{subject} / {over}", ratios(rates[subject], rates[over]), "", digits=2, floor=floor)

    return [
        row_of("immediate / write + fdatasync", ratios(rates["immediate"], raw_rates), "", digits=2, floor=0.5),
        row("immediate", "batched", 0.9),
        row("hybrid, 1 % critical", "hybrid", 0.9),
        row("hybrid, 10 % critical", "hybrid", None),
        row("immediate, asyncio", "immediate", None),
    ]
