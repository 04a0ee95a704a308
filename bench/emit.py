"""What one `emit` costs its caller, in nanoseconds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from time import perf_counter_ns

from audit_async import ActorInfo, AuditConfig, AuditEvent, AuditLogger, AuthMethod, Batched, Disabled
from audit_async.events import AuthFailure, PoolModified
from audit_async.events.base import encode
from bench.frame import Row, config, critical_event, median, ordinary_event, percentile, show, work_directory

_BURST = 1000
_BURSTS = 60


def _cost_of_measuring() -> int:
    """Return what two readings of the clock cost, to be taken off each sample."""
    samples = []
    for _ in range(20_000):
        began = perf_counter_ns()
        samples.append(perf_counter_ns() - began)
    return int(median(samples))


async def _samples(emit: Callable[[AuditEvent], object], event: AuditEvent, settle: Callable[[], object]) -> list[int]:
    overhead_ns = _cost_of_measuring()
    samples: list[int] = []
    for burst in range(_BURSTS):
        gc.collect()
        for _ in range(_BURST):
            began = perf_counter_ns()
            emit(event)
            took_ns = perf_counter_ns() - began - overhead_ns
            if burst:  # the first is the warm-up
                samples.append(took_ns)
        await settle()  # type: ignore[misc]  # a coroutine function, or asyncio.sleep
    return samples


async def _measure() -> list[Row]:
    actor = ActorInfo(user_id="ada", auth_method=AuthMethod.BEARER_TOKEN, ip="198.51.100.7")
    subjects: dict[str, AuditEvent] = {
        "emit, plain event": ordinary_event(),
        "emit, critical event": critical_event(),
        "emit, free-form event": PoolModified(actor=actor, pool_id="p-17", changes={"replicas": [2, 3]}),
        "emit, text with an accent": AuthFailure(reason="café", ip="203.0.113.9", path="/v2/tasks"),
        "emit, text with an escape": AuthFailure(reason="\x1b[2J", ip="203.0.113.9", path="/v2/tasks"),
    }
    rows = []
    with work_directory() as directory:
        async with AuditLogger(config(directory, Batched(size=5000, interval=1.0))) as audit:
            for name, event in subjects.items():
                samples = await _samples(audit.emit, event, audit.flush)
                rows.append(_row(name, samples, "target p50 <= 1000" if name == "emit, plain event" else ""))
    async with AuditLogger(AuditConfig(mode=Disabled())) as disabled:
        samples = await _samples(disabled.emit, ordinary_event(), disabled.flush)
        rows.append(_row("emit, disabled", samples, ""))
    samples = await _samples(encode, ordinary_event(), _nothing)
    rows.append(_row("msgspec encoding it, alone", samples, "the same event, nothing else"))
    samples = await _samples(lambda _event: None, ordinary_event(), _nothing)
    rows.append(_row("an empty function", samples, "the limit"))
    return rows


async def _nothing() -> None:
    await asyncio.sleep(0)


def _row(name: str, samples: list[int], beside: str) -> Row:
    bursts = [median(samples[at : at + _BURST]) for at in range(0, len(samples), _BURST)]
    return Row(
        name,
        f"p50 {median(samples):5.0f} ns, p99 {percentile(samples, 99):6.0f} ns",
        f"p50 of the quietest burst {min(bursts):5.0f} ns" + (f"; {beside}" if beside else ""),
    )


def run() -> None:
    """Measure and print."""
    show("emit: the cost to its caller", asyncio.run(_measure()))
