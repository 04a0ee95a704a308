"""Building the shim of `fault_shim.c`, and running processes under it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fault_shim.c")


def build_shim(place: Path, source: Path = SOURCE) -> Path:
    """Return the shim, or another, built below `place`; skips the test if this machine has no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the interposed shim needs Linux and a C compiler")
    shim = place / f"{source.stem}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True, timeout=180)
    return shim


def environment(shim: Path, below: Path, **fault: object) -> dict[str, str]:
    """Return an environment in which a call on a file below a directory goes wrong; see `fault_shim.c`."""
    settings = {f"FAULT_{name.upper()}": str(value) for name, value in fault.items()}
    return {**os.environ, "LD_PRELOAD": str(shim), "FAULT_BELOW": str(below), **settings}
