"""What the benchmarks share: rounds in alternation, samples and their spread, events, a log to write to, the results.

Timings on a shared machine drift by tens of per cent within minutes. So a subject and what it is measured against take
turns within one run (`in_turn`), a ratio is taken round by round, and every figure has its spread.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from audit_async import AuditConfig, Local
from audit_async.config import FlushMode
from audit_async.events import AuthFailure, ModelAccessed
from bench.machine import machine, work_root
from bench.results import Row, show

__all__ = ["Row", "config", "critical_event", "effort", "in_turn", "machine", "median", "ordinary_event", "percentile",
           "ratios", "row_of", "show", "work_directory"]  # fmt: skip

_T = TypeVar("_T")


def effort(full: _T, quick: _T) -> _T:
    """Return what suits the run: `quick` under `--quick`, which shows that everything works and measures little."""
    return quick if os.environ.get("BENCH_QUICK") else full


def in_turn(subjects: Mapping[str, Callable[[], _T]], *, rounds: int) -> dict[str, list[_T]]:
    """Measure each subject once a round, every other round in the opposite order, after a round that warms up.

    `subjects` maps a name to a function that measures it once. Under `--quick` there is no warm-up.
    """
    measured: dict[str, list[_T]] = {name: [] for name in subjects}
    for number in range(effort(-1, 0), rounds):
        for name in list(subjects)[:: 1 if number % 2 else -1]:
            sample = subjects[name]()
            if number >= 0:
                measured[name].append(sample)
    return measured


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the sample that `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(samples: Sequence[float]) -> float:
    """Return the middle sample."""
    return percentile(samples, 50)


def ratios(subject: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return subject / baseline, round by round."""
    return [a / b for a, b in zip(subject, baseline, strict=True)]


def row_of(
    subject: str,
    samples: Sequence[float],
    unit: str,
    compared: str = "",
    *,
    digits: int = 0,
    floor: float | None = None,
    ceiling: float | None = None,
) -> Row:
    """Return a line that gives the median of `samples` and their smallest and largest.

    `floor` is the least, `ceiling` the most that the median should be.
    """
    middle, low, high = median(samples), min(samples), max(samples)
    spread = f" ({low:,.{digits}f} to {high:,.{digits}f})" if len(samples) > 1 else ""
    figure = f"{middle:,.{digits}f}{spread} {unit}".rstrip()
    return Row(subject, figure, compared, middle, unit, low, high, floor, ceiling)


def ordinary_event(n: int = 0) -> ModelAccessed:
    """Return an event that is not critical, of a usual size."""
    return ModelAccessed(customer_id="c-20931", model_ref=f"llama-3-70b/{n}", access_type="inference")


def critical_event(n: int = 0) -> AuthFailure:
    """Return a critical event of a usual size."""
    return AuthFailure(attempted_user="mallory", reason="invalid_token", ip="203.0.113.9", path=f"/v2/tasks/{n}")


@contextmanager
def work_directory() -> Iterator[Path]:
    """Give a directory below `BENCH_DIR` or the working directory: on a real disk, since a tmpfs syncs nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=work_root()) as directory:
        yield Path(directory)


def config(directory: Path, flush_mode: FlushMode, **settings: object) -> AuditConfig:
    """Return the configuration of a log in `directory`."""
    return AuditConfig(
        mode=Local(directory / "audit"),
        service_id="bench",
        flush_mode=flush_mode,
        handle_signals=False,
        **settings,  # type: ignore[arg-type]  # each benchmark names settings that exist
    )
