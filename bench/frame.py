"""What the benchmarks share: samples and their percentiles, a log to write to, one table for the results."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from audit_async import AuditConfig, Local
from audit_async.config import FlushMode
from audit_async.events import AuthFailure, ModelAccessed


class Row(NamedTuple):
    """One line of a result: a figure, and what it is measured against."""

    subject: str
    figure: str
    beside: str = ""


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the sample that `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(samples: Sequence[float]) -> float:
    """Return the middle sample."""
    return percentile(samples, 50)


def ordinary_event(n: int = 0) -> ModelAccessed:
    """Return an event that is not critical, of a usual size."""
    return ModelAccessed(customer_id="c-20931", model_ref=f"llama-3-70b/{n}", access_type="inference")


def critical_event(n: int = 0) -> AuthFailure:
    """Return a critical event of a usual size."""
    return AuthFailure(attempted_user="mallory", reason="invalid_token", ip="203.0.113.9", path=f"/v2/tasks/{n}")


@contextmanager
def work_directory() -> Iterator[Path]:
    """Give a directory on the file system of the working directory (not a tmpfs, which syncs nothing)."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR", ".")) as directory:
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


def machine() -> str:
    """Describe the machine in a line."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, CPython {platform.python_version()}"
    )


def show(title: str, rows: Sequence[Row]) -> None:
    """Print the results as a Markdown table."""
    widths = [max(len(row[i]) for row in [*rows, Row("subject", "figure", "beside")]) for i in range(3)]
    print(f"\n## {title}\n")
    for row in [Row("subject", "figure", "beside"), Row(*("-" * width for width in widths)), *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
