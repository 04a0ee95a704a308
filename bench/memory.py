"""Memory against the length of the trail: writing it, opening it, querying it.

Each figure is the most physical memory (`VmHWM`) that a process of its own ever held, less that of a process that only
imported the package; so the machine's page cache is not in it. `python -m bench.memory ACTION DIRECTORY NUMBER` is that
process.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from audit_async import AuditLogger, Immediate
from audit_async.reader import AuditQuery, AuditReader
from bench.frame import Row, config, effort, in_turn, ordinary_event, row_of, show, work_directory
from bench.trail import SERVICE, fill, open_store

_BURST = 500
_MEBIBYTE = 1 << 20


def run() -> None:
    """Measure and print."""
    lengths = effort((10_000, 100_000, 1_000_000), (1_000,))
    sealed = effort((1, 10, 100), (1,))
    sealed_bytes, active_bytes = effort(4 * _MEBIBYTE, _MEBIBYTE), effort(2 * _MEBIBYTE, _MEBIBYTE // 4)
    with work_directory() as directory:
        subjects: dict[str, Callable[[], float]] = {"import": partial(_most_memory, "import", directory, 0)}
        for events in lengths:
            subjects[f"writing {events:,} events"] = partial(_most_memory, "write", directory, events)
        for segments in sealed:
            trail = directory / f"trail{segments}"
            fill(trail, sealed=segments, sealed_bytes=sealed_bytes, active_bytes=active_bytes)
            subjects[f"opening {segments} sealed segments"] = partial(_most_memory, "open", trail, sealed_bytes)
            subjects[f"reading all records of {segments} sealed segments"] = partial(_most_memory, "query", trail, 0)
        most = in_turn(subjects, rounds=effort(3, 1))
    imported = most.pop("import")
    rows = [row_of("the package, imported", imported, "MiB", "the limit; taken off below", digits=1)]
    over: dict[str, list[float]] = {}
    for name, samples in most.items():
        over[name] = [a - b for a, b in zip(samples, imported, strict=True)]
        rows.append(row_of(name, over[name], "MiB", digits=1))
    show("memory: the most that a process holds, against the length of the trail", rows)
    show("memory: constant? what the longest trail takes more than the shortest", _growth_rows(over))


def _growth_rows(over: dict[str, list[float]]) -> list[Row]:
    rows = []
    for what in ("writing", "opening", "reading"):
        names = [name for name in over if name.startswith(what)]
        growth = [longest - shortest for longest, shortest in zip(over[names[-1]], over[names[0]], strict=True)]
        rows.append(row_of(f"{names[-1]}, less {names[0].removeprefix(what).strip()}", growth, "MiB", digits=1))
    return rows


def _most_memory(action: str, directory: Path, number: int) -> float:
    """Return the MiB of a process that does this."""
    command = [sys.executable, "-m", "bench.memory", action, str(directory), str(number)]
    done = subprocess.run(  # noqa: S603 - ourselves
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    return float(done.stdout)


async def _write(directory: Path, events: int) -> None:
    async with AuditLogger(config(directory / f"written{events}", Immediate())) as audit:
        event = ordinary_event()
        for _ in range(events // _BURST):
            for _ in range(_BURST):
                receipt = audit.emit(event)
            if audit.stats().waiting > 4 * _BURST:
                await receipt.durable()


async def _query(directory: Path) -> None:
    async for _ in AuditReader(directory, service=SERVICE).query(AuditQuery(), use_index=False):
        pass


async def _open(directory: Path, max_bytes: int) -> None:
    open_store(directory, max_bytes).close()


async def _import() -> None:
    """Do nothing more."""


def main() -> None:
    """Do what the command line names; print the most memory that was held, in MiB."""
    action, directory, number = sys.argv[1:]
    actions: dict[str, Callable[[], Coroutine[object, object, None]]] = {
        "import": _import,
        "write": lambda: _write(Path(directory), int(number)),
        "open": lambda: _open(Path(directory), int(number)),
        "query": lambda: _query(Path(directory)),
    }
    asyncio.run(actions[action]())
    # Not `getrusage`: its figure includes what the parent held before it became this program.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(int(found[1]) / 1024)


if __name__ == "__main__":
    main()
