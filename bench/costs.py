"""What an event costs in measures that no noise touches: allocations, function calls, system calls, bytes.

The same counts, with bounds, are the test that guards against regressions (tests/test_regressions.py).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

from audit_async import AuditConfig, AuditEvent, AuditLogger, Disabled
from bench import strace
from bench.counting import (
    BURST,
    SCENARIOS,
    Count,
    calls_of_one,
    count_blocks,
    count_bytes,
    count_in_bursts,
    count_one_by_one,
)
from bench.frame import Row, config, critical_event, effort, ordinary_event, show, work_directory

_SYNCS = ("fdatasync", "fsync", "pwritev", "pwritev2")
# How often one thread waits for the other, and what memory is asked for, depend on the machine.
_OF_THE_LOOP = {"epoll_wait", "futex", "sched_yield", "clock_nanosleep", "mmap", "munmap", "madvise", "brk"}


def run() -> None:
    """Count and print."""
    with work_directory() as directory:
        show("costs: memory and bytes of an event", _memory(directory))
        show("costs: Python functions of this library", _calls(directory))
        show("costs: system calls of a thousand events", _system_calls(directory))


def _memory(directory: Path) -> list[Row]:
    events = effort(5000, 1000)
    rows: list[Row] = []
    for name, event in _events().items():
        blocks = count_blocks(directory / f"blocks {name}", event, events)
        bytes_ = count_bytes(directory / f"bytes {name}", event, effort(5000, 1000))
        rows += [
            _row(f"{name}: blocks while it waits to be written", blocks.waiting, "blocks"),
            _row(f"{name}: blocks of a receipt that is kept", blocks.kept, "blocks"),
            _row(f"{name}: blocks left when all is durable", blocks.left, "blocks"),
            _row(f"{name}: bytes on the disk", bytes_.record, "bytes", f"{bytes_.event:.0f} are the event itself"),
        ]
    return rows


def _events() -> dict[str, AuditEvent]:
    return {"ordinary event": ordinary_event(), "critical event": critical_event()}


def _calls(directory: Path) -> list[Row]:
    events = effort(10 * BURST, 2 * BURST)
    rows = []
    for name in ("immediate", "batched"):
        counted = count_in_bursts(directory / f"calls {name}", SCENARIOS[name], events)
        total = counted.python_calls.total()
        rows += [
            _row(f"{name}: an event, in bursts of {BURST}", total / events, "calls", "emit included"),
            _row(
                f"{name}: a commit",
                (total - events) * BURST / events,  # an emit is one call
                "calls",
                "framing, the way to the disk thread and back, and the flush that asks for it",
            ),
        ]

    async def emits() -> list[Row]:
        async with AuditLogger(config(directory / "one", SCENARIOS["batched"].mode)) as audit:
            audit.emit(ordinary_event())
            plain = calls_of_one(audit.emit, ordinary_event(), 1000)
        async with AuditLogger(AuditConfig(mode=Disabled())) as disabled:
            return [
                _row("emit", plain, "calls"),
                _row("emit, disabled", calls_of_one(disabled.emit, ordinary_event(), 1000), "calls"),
            ]

    return asyncio.run(emits()) + rows


def _system_calls(directory: Path) -> list[Row]:
    rows = []
    for number, (name, scenario) in enumerate(SCENARIOS.items()):
        counted = count_one_by_one(directory / f"one {number}", scenario, 1000)
        rows.append(_calls_row(f"{name}: one at a time", counted, ""))
        if strace.works() and effort(True, False):
            rows.append(_traced_row(f"{name}: one at a time, strace, both threads", _trace(name, directory)))
    counted = count_in_bursts(directory / "bursts", SCENARIOS["immediate"], 1000)
    rows.append(_calls_row(f"immediate: in bursts of {BURST}, each flushed", counted, "batched and hybrid: the same"))
    return rows


def _calls_row(subject: str, counted: Count, note: str) -> Row:
    calls = counted.system_calls
    return _row(subject, calls.total(), "system calls", "; ".join(filter(None, (_by_name(calls), note))))


def _traced_row(subject: str, calls: Counter[str]) -> Row:
    return _row(subject, calls.total(), "system calls", f"{_by_name(calls)}; those of waiting and of memory left out")


def _by_name(calls: Counter[str]) -> str:
    syncs = sum(calls[name] for name in _SYNCS)
    return f"{syncs} of them sync: " + ", ".join(f"{name} {count}" for name, count in calls.most_common(8))


def _trace(name: str, directory: Path) -> Counter[str]:
    """Return the system calls of a thousand events as the kernel sees them: of 1,500 less those of 500."""
    many, few = (_traced(name, events, directory) for events in (1500, 500))
    calls = Counter({call: many[call] - few[call] for call in many if call not in _OF_THE_LOOP})
    return Counter({call: count for call, count in calls.items() if count > 5})


def _traced(name: str, events: int, directory: Path) -> Counter[str]:
    summary = directory / "strace"
    below = directory / f"traced {name} {events}"
    subprocess.run(  # noqa: S603 - ourselves
        [*strace.counted_into(summary), sys.executable, "-m", "bench.counting", name, str(events), str(below)],
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return strace.read_counts(summary)


def _row(subject: str, value: float, unit: str, note: str = "") -> Row:
    return Row(subject, f"{value:,.4g} {unit}", note, value, unit)
