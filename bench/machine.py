"""The machine, the interpreter and the packages that a figure was measured with: a figure without them says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "anyio",
    "msgspec",
    "aiofiles",
    "uvloop",
    "auditchain",
    "rust-py-audit",
    "nexuscone",
    "structlog",
    "loguru",
)
_ROOT = Path(__file__).parents[1]


def machine() -> str:
    """Describe the machine in a line."""
    return (
        f"{_cpu_model()}, {os.cpu_count()} CPUs, Linux {platform.release()}, {file_system_of(work_root())}, "
        f"CPython {platform.python_version()}"
    )


def details() -> dict[str, str]:
    """Return everything about the machine and the software that a reader needs to judge a figure."""
    return {
        "cpu": _cpu_model(),
        "cpus": str(os.cpu_count()),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": file_system_of(work_root()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "packages": ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name))),
        "commit": commit(),
    }


def work_root() -> Path:
    """Return the directory below which the benchmarks write: `BENCH_DIR`, or the working directory."""
    return Path(os.environ.get("BENCH_DIR", ".")).resolve()


def commit() -> str:
    """Return the commit of this checkout, with `+` if the code was changed since; `unknown` outside git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return f"{head}+" if _git("status", "--porcelain", "--", "audit_async", "bench") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def file_system_of(path: Path) -> str:
    """Return type, device and options of the file system that `path` lies on, as the kernel mounted it."""
    found = "unknown file system"
    longest = -1
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return found
    for line in mounts:
        device, mounted_at, kind, options, *_ = line.split()
        if path.is_relative_to(mounted_at) and len(mounted_at) >= longest:
            longest = len(mounted_at)
            found = f"{kind} ({device}, {options})"
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.1f} GiB"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
