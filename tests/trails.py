"""Checking and reading the logs that tests make, without the package that wrote them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERIFY_TRAIL = Path(__file__).parents[1] / "audit_async" / "standalone.py"


def _load_check_log() -> Callable[[Path], list[str]]:
    """Load the independent check from its file, so that a test needs no process of its own for each log."""
    spec = importlib.util.spec_from_file_location("verify_trail", VERIFY_TRAIL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check_log: Callable[[Path], list[str]] = module.check_log
    return check_log


_check_log = _load_check_log()


def logs_below(directory: Path) -> list[Path]:
    """Return the directory of each log in or below `directory`, sorted."""
    return sorted(path.parent for path in Path(directory).rglob("log.json"))


def check_trail(directory: Path) -> None:
    """Assert that `directory` holds a log, or logs, and that the independent check finds nothing wrong with them."""
    logs = logs_below(directory)
    assert logs, f"no log in {directory}"
    assert [finding for log in logs for finding in _check_log(log)] == []


def run_verify_trail(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the independent check as its users do, in an interpreter that does not see the package."""
    command = [sys.executable, "-I", "-S", str(VERIFY_TRAIL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def read_events(directory: Path) -> list[dict[str, Any]]:
    """Return every record in or below `directory` (its event is the member `event`), in order, log by log.

    Only live segments are read, and each seq of a log once: what a failed fsync left behind are copies.
    """
    assert directory.is_dir(), f"{directory} does not exist: what is compared with its records would always be equal"
    records: dict[tuple[Path, int], dict[str, Any]] = {}
    for log in logs_below(directory):
        for segment in sorted(log.glob("*.audit")):
            with segment.open("rb") as lines:  # a binary file's lines end at "\n" and nowhere else
                for line in lines:
                    record = json.loads(line)
                    records[log, record["seq"]] = record
    return list(records.values())
