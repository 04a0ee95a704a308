"""System calls as the kernel sees them, counted by strace if it is installed and allowed to trace."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def works() -> bool:
    """Return whether processes can be traced here; containers often forbid it."""
    if shutil.which("strace") is None:
        return False
    probe = ["strace", "-o", "/dev/null", "true"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0  # noqa: S603 - fixed


def counted_into(summary: Path, only: Sequence[str] = ()) -> list[str]:
    """Return what to put before a command so that the system calls of all its threads are counted into `summary`."""
    selected = ["-e", f"trace={','.join(only)}"] if only else []
    return ["strace", "-f", "-c", "-o", str(summary), *selected]


def read_counts(summary: Path) -> Counter[str]:
    """Return how often each system call was made."""
    calls: Counter[str] = Counter()
    for line in summary.read_text().splitlines():
        fields = line.split()  # % time, seconds, usecs/call, calls, errors if there were some, syscall
        if len(fields) >= 5 and fields[0][0].isdigit() and fields[-1] != "total":
            calls[fields[-1]] += int(fields[3])
    return calls
