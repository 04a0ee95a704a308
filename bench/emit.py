"""What one `emit` costs its caller, in nanoseconds.

Each call is timed by itself, less what two readings of the clock cost. The subjects take turns, a burst each, behind a
burst that warms up; between two bursts everything is written, so that no call meets a full buffer or a commit.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from time import perf_counter_ns
from typing import Final, NamedTuple

from audit_async import ActorInfo, AuditConfig, AuditEvent, AuditLogger, AuthMethod, Batched, Disabled
from audit_async.context import audit_context
from audit_async.events import AuthFailure, PoolModified
from audit_async.events.base import encode
from bench.frame import (
    Row,
    config,
    critical_event,
    effort,
    median,
    ordinary_event,
    percentile,
    ratios,
    row_of,
    show,
    work_directory,
)

_BURST: Final = 1000
_EMPTY: Final = "an empty function"
_DISABLED: Final = "emit, disabled"


class _Subject(NamedTuple):
    """Something that is called with an event."""

    call: Callable[[AuditEvent], object]
    event: AuditEvent = ordinary_event()
    within: Callable[[], AbstractContextManager[object]] = nullcontext
    in_thread: bool = False  #: called from another thread than the loop's
    compared: str = ""
    p50_ns: float | None = None  #: the targets
    p99_ns: float | None = None


def run() -> None:
    """Measure and print."""
    bursts = asyncio.run(_measure())
    subjects = {name: subject for name, (subject, _) in bursts.items()}
    samples = {name: each for name, (_, each) in bursts.items()}
    medians = {name: [median(burst) for burst in each] for name, each in samples.items()}
    show(
        "emit: the cost to its caller, p50 of each burst",
        [
            row_of(name, medians[name], "ns", subject.compared, ceiling=subject.p50_ns)
            for name, subject in subjects.items()
        ],
    )
    tails = [_tail(name, subject, samples[name]) for name, subject in subjects.items()]
    show("emit: the cost to its caller, all calls (the bar is p99, from p50 to p99.9)", tails)
    over_empty = [a - b for a, b in zip(medians[_DISABLED], medians[_EMPTY], strict=True)]
    show(
        "emit: differences, burst by burst",
        [
            row_of("disabled, over an empty function", over_empty, "ns", ceiling=60),
            row_of(
                "plain / msgspec alone",
                ratios(medians["emit, plain event"], medians["msgspec encoding it, alone"]),
                "",
                digits=2,
            ),
        ],
    )


async def _measure() -> dict[str, tuple[_Subject, list[list[int]]]]:
    """Return the samples of each subject, burst by burst."""
    overhead_ns = _cost_of_measuring()
    bursts = effort(40, 2)
    with work_directory() as directory:
        async with (
            AuditLogger(config(directory, Batched(size=5000, interval=1.0))) as audit,
            AuditLogger(AuditConfig(mode=Disabled())) as disabled,
        ):
            subjects = _subjects(audit, disabled)
            samples: dict[str, list[list[int]]] = {name: [] for name in subjects}
            for burst in range(-1, bursts):
                for name in list(subjects)[:: 1 if burst % 2 else -1]:
                    subject = subjects[name]
                    gc.collect()
                    with subject.within():
                        call = asyncio.to_thread(_burst, subject, overhead_ns) if subject.in_thread else None
                        taken = _burst(subject, overhead_ns) if call is None else await call
                    await audit.flush()
                    if burst >= 0:  # the first is the warm-up
                        samples[name].append(taken)
    return {name: (subjects[name], samples[name]) for name in subjects}


def _subjects(audit: AuditLogger, disabled: AuditLogger) -> dict[str, _Subject]:
    emit = audit.emit
    actor = ActorInfo(user_id="ada", auth_method=AuthMethod.BEARER_TOKEN, ip="198.51.100.7")
    text = {"note": "moved to eu-central-1 by hand", "at": "2026-11-23T04:35:12Z"}

    def bound() -> AbstractContextManager[object]:
        return audit_context(request_id="7f3a9c04", tenant="acme", trace_id="4bf92f3577b34da6a3ce929d0e0e4736")

    def modified(changes: dict[str, object]) -> PoolModified:
        return PoolModified(actor=actor, pool_id="p-17", changes=changes)

    subjects = {
        "emit, plain event": _Subject(emit, p50_ns=800, p99_ns=3000),
        "emit, critical event": _Subject(emit, critical_event()),
        "emit, plain event, context bound": _Subject(emit, within=bound),
        "emit, plain event, from another thread": _Subject(emit, in_thread=True),
        "emit, free-form event": _Subject(emit, modified({"replicas": [2, 3]})),
        "emit, free-form text": _Subject(emit, modified(dict(text))),
        "emit, free-form secret": _Subject(emit, modified({"api_key": "k-123", "replicas": 2})),
        "emit, text with an accent": _Subject(emit, AuthFailure(reason="café", ip="203.0.113.9", path="/v2/tasks")),
        "emit, text with an escape": _Subject(emit, AuthFailure(reason="\x1b[2J", ip="203.0.113.9", path="/v2/tasks")),
        _DISABLED: _Subject(disabled.emit),
        "msgspec encoding it, alone": _Subject(encode, compared="the same event, nothing else"),
        _EMPTY: _Subject(lambda _event: None, compared="the limit"),
    }
    if find_spec("opentelemetry") is not None and find_spec("opentelemetry.sdk") is not None:
        subjects["OpenTelemetry's current span, alone"] = _current_span()
    return subjects


def _current_span() -> _Subject:
    # Imported here, since a service has OpenTelemetry's SDK or not.
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    from audit_async.context import current_span  # noqa: PLC0415

    tracer = TracerProvider().get_tracer("bench")
    return _Subject(
        lambda _event: current_span(),
        within=lambda: tracer.start_as_current_span("request"),
        compared="so it is bound once a request",
    )


def _burst(subject: _Subject, overhead_ns: int) -> list[int]:
    call, event = subject.call, subject.event
    samples = []
    for _ in range(_BURST):
        began = perf_counter_ns()
        call(event)
        samples.append(perf_counter_ns() - began - overhead_ns)
    return samples


def _cost_of_measuring() -> int:
    """Return what two readings of the clock cost, to be taken off each sample."""
    samples = []
    for _ in range(20_000):
        began = perf_counter_ns()
        samples.append(perf_counter_ns() - began)
    return int(median(samples))


def _tail(name: str, subject: _Subject, bursts: list[list[int]]) -> Row:
    calls = [taken for burst in bursts for taken in burst]
    p50, p99, p999 = (float(percentile(calls, percent)) for percent in (50, 99, 99.9))
    figure = f"p50 {p50:,.0f}, p99 {p99:,.0f}, p99.9 {p999:,.0f} ns"
    return Row(name, figure, f"{len(calls):,} calls", p99, "ns", p50, p999, ceiling=subject.p99_ns)
