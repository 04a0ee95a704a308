"""How long opening takes with 1, 10 and 100 sealed segments before the active one, next to the active segment alone.

Only the active segment is read, so the time should not grow with the trail; the manifest alone does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from bench.frame import effort, in_turn, ratios, row_of, show, work_directory
from bench.trail import fill, open_store


def run() -> None:
    """Measure, alternating between the trails, and print."""
    lengths = effort((1, 10, 100), (1, 3))
    sealed_bytes, active_bytes = effort(10 << 20, 1 << 20), effort(5 << 20, 1 << 18)
    with work_directory() as directory:
        trails = {"the active segment alone": directory / "alone"}
        trails |= {f"{sealed} sealed segments before it": directory / str(sealed) for sealed in lengths}
        for path, sealed in zip(trails.values(), (0, *lengths), strict=True):
            fill(path, sealed=sealed, sealed_bytes=sealed_bytes, active_bytes=active_bytes)
        subjects: dict[str, Callable[[], float]] = {
            name: partial(_opening_ms, path, sealed_bytes) for name, path in trails.items()
        }
        times = in_turn(subjects, rounds=effort(11, 1))
        mebibytes = {name: _size(path) / (1 << 20) for name, path in trails.items()}
    alone = times.pop("the active segment alone")
    rows = [row_of(f"the active segment alone ({active_bytes / (1 << 20):.1f} MiB)", alone, "ms", digits=1)]
    rows += [row_of(name, taken, "ms", f"{mebibytes[name]:,.0f} MiB in all", digits=1) for name, taken in times.items()]
    show("opening: time against the length of the trail", rows)
    longest = list(times)[-1]
    ratio = ratios(times[longest], alone)
    show("opening: constant?", [row_of(f"{longest} / alone", ratio, "", digits=2, ceiling=1.2)])


def _opening_ms(base_dir: Path, max_bytes: int) -> float:
    began = perf_counter()
    store = open_store(base_dir, max_bytes)
    took_ms = (perf_counter() - began) * 1e3
    store.close()
    return took_ms


def _size(base_dir: Path) -> int:
    return sum(path.stat().st_size for path in base_dir.rglob("*.audit"))
