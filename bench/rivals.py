"""The same logical event through what a user might pick instead, each with its strongest durability and its default.

None of them does quite the same, so the first table says what each does; it was read in their sources, and the syncs
are counted by strace if that is installed. A library that is not installed is left out, and the table says so
(`pip install 'audit-async[bench]'` brings all). Each run is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from bench import strace
from bench.frame import Row, effort, in_turn, median, ratios, row_of, show, work_directory
from bench.rival import Measured

_ROOT: Final = Path(__file__).parents[1]


class _About(NamedTuple):
    """What a rival does, as its source has it."""

    module: str  #: what must be installed
    synced: bool  #: whether a record is on stable storage when the library says that it is kept
    waits: str  #: what the caller, and with it the event loop, waits for
    verifies: str  #: how a change can be found afterwards


_CHAIN: Final = "SHA-256 chain"
_NOTHING: Final = "nothing"
#: By the names of `bench.rival`.
ABOUT: Final[dict[str, _About]] = {
    "audit-async": _About("audit_async", True, "memory only; the receipt can be awaited", _CHAIN),
    "audit-async, one at a time": _About("audit_async", True, "the task waits for the disk, the loop does not", _CHAIN),
    "auditchain, SQLite": _About("auditchain", True, "the task waits for the disk, the loop does not", _CHAIN),
    "auditchain, SQLite, append_many": _About(
        "auditchain", True, "the task waits for the disk; the loop for hashing 1,000 records", _CHAIN
    ),
    "auditchain, JSONL": _About("auditchain", False, "the task waits for open, write and close", _CHAIN),
    "nexuscone": _About("nexuscone", True, "the task waits for the disk, the loop does not", _CHAIN),
    "rust-py-audit, fsync=True": _About("rust_py_audit", True, "the loop waits for lock, write and fdatasync", _CHAIN),
    "rust-py-audit": _About("rust_py_audit", False, "the loop waits for lock, open and write", _CHAIN),
    "structlog, O_DSYNC": _About("structlog", True, "the loop waits for the disk", _NOTHING),
    "structlog": _About("structlog", False, "the loop waits for write", _NOTHING),
    "loguru, O_DSYNC": _About("loguru", True, "the loop waits for the disk", _NOTHING),
    "loguru": _About("loguru", False, "the loop waits for write", _NOTHING),
    "QueueHandler, O_DSYNC": _About("logging", True, "memory only, without a bound", _NOTHING),
    "QueueHandler": _About("logging", False, "memory only, without a bound", _NOTHING),
}


def run() -> None:
    """Measure and print."""
    present = [name for name, about in ABOUT.items() if find_spec(about.module) is not None]
    with work_directory() as directory:
        fresh = count()

        def measure(name: str) -> Measured:
            return _measure(name, directory / str(next(fresh)), effort(1.0, 0.05))

        subjects: dict[str, Callable[[], Measured]] = {name: partial(measure, name) for name in present}
        runs = in_turn(subjects, rounds=effort(5, 1))
        show("rivals: what each of them does", [_about_row(name, directory, fresh) for name in ABOUT])
    rates = {name: [each.events_per_s for each in runs[name]] for name in present}
    costs = {name: [each.call_us for each in runs[name]] for name in present}
    for synced, title in ((True, "on stable storage"), (False, "handed to the operating system, not synced")):
        names = [name for name in present if ABOUT[name].synced is synced]
        rows = [row_of(name, rates[name], "events/s", _about_loss(name, costs)) for name in names]
        show(f"rivals: events a second, {title}", rows)
    show("rivals: what a call costs its caller", [row_of(name, costs[name], "us", digits=1) for name in present])
    show("rivals: how audit-async, all of it on stable storage, compares", _comparison(rates, costs))


def _about_loss(name: str, costs: dict[str, list[float]]) -> str:
    return f"a call takes its caller {median(costs[name]):,.1f} us"


def _comparison(rates: dict[str, list[float]], costs: dict[str, list[float]]) -> list[Row]:
    """Return this library's rate over that of the fastest rivals, and its cost to the caller over structlog's."""
    ours = rates["audit-async"]
    rivals = {name: rate for name, rate in rates.items() if not name.startswith("audit-async")}

    def fastest(names: list[str]) -> str:
        return max(names, key=lambda name: median(rivals[name]))

    one_by_one = [name for name in rivals if ABOUT[name].synced and "append_many" not in name]
    rows = []
    if one_by_one:
        name = fastest(one_by_one)
        rows.append(row_of(f"over {name}, the fastest that syncs", ratios(ours, rates[name]), "", digits=1, floor=60))
    if (many := "auditchain, SQLite, append_many") in rates:
        compared = "if the caller collects 1,000 records first"
        rows.append(row_of(f"over {many}", ratios(ours, rates[many]), "", compared, digits=1))
    name = fastest([name for name in rivals if not ABOUT[name].synced])
    rows.append(
        row_of(f"over {name}, the fastest that does not sync", ratios(ours, rates[name]), "", digits=1, floor=2)
    )
    if "structlog" in costs:
        share = ratios(costs["audit-async"], costs["structlog"])
        rows.append(row_of("cost of emit / of a structlog call", share, "", digits=2, ceiling=0.2))
    return rows


def _about_row(name: str, directory: Path, fresh: count[int]) -> Row:
    about = ABOUT[name]
    if find_spec(about.module) is None:
        return Row(name, "not installed here")
    keeps = "on stable storage" if about.synced else "with the operating system"
    return Row(
        name,
        f"{keeps}; {_syncs(name, directory, fresh)}",
        f"{about.waits}; a change is found by: {about.verifies}",
    )


def _syncs(name: str, directory: Path, fresh: count[int]) -> str:
    """Return how many syncs an event takes, as the kernel sees them: of a long run less those of a short one."""
    if not (effort(True, False) and strace.works()):
        return "syncs not counted"
    (few_syncs, few_events), (many_syncs, many_events) = (
        _traced(name, directory / str(next(fresh)), seconds) for seconds in (0.1, 0.6)
    )
    return f"{max(0, many_syncs - few_syncs) / max(1, many_events - few_events):.2g} syncs an event"


def _traced(name: str, directory: Path, seconds: float) -> tuple[int, int]:
    """Return how many syncs the kernel saw in a run, and how many events it was."""
    summary = directory.with_suffix(".strace")
    syncing = ("fsync", "fdatasync", "pwritev2", *(["write"] if "O_DSYNC" in name else []))
    measured = _measure(name, directory, seconds, strace.counted_into(summary, syncing))
    return strace.read_counts(summary).total(), measured.events


def _measure(name: str, directory: Path, seconds: float, prefix: Sequence[str] = ()) -> Measured:
    """Measure a rival in a process of its own."""
    directory.mkdir()
    command = [*prefix, sys.executable, "-m", "bench.rival", name, str(directory), str(seconds)]
    done = subprocess.run(  # noqa: S603 - ourselves
        command, check=True, capture_output=True, text=True, cwd=_ROOT, env=os.environ | {"BENCH_DIR": str(directory)}
    )
    return Measured(**json.loads(done.stdout))
