"""A long run: FastAPI with the middleware at 1,000 requests a second; its memory, and every request in the trail.

The environment: `BENCH_SOAK_SECONDS` (600), `BENCH_SOAK_RATE` (1000), and `BENCH_FLUSH` as for `bench.web`. Ends with
an error if memory grew, a request is missing or doubled, or the independent check finds anything wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from bench.frame import Row, median, show, work_directory
from bench.web import serving

_SECONDS = int(os.environ.get("BENCH_SOAK_SECONDS", "600"))
_RATE = int(os.environ.get("BENCH_SOAK_RATE", "1000"))
_SAMPLES = 120
#: The first tenth fills caches and pools; from then on memory may not grow by more than this.
_MAY_GROW_MIB = 4.0


def _resident_mib(pid: int) -> float:
    """Return the memory that a process has in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _recorded(trail: Path) -> Counter[str]:
    """Return the paths of all requests in a trail, and how often each was recorded."""
    paths: Counter[str] = Counter()
    for segment in sorted(trail.rglob("*.audit")):
        with segment.open("rb") as lines:
            for line in lines:
                event = json.loads(line)["event"]
                if event["event_type"] == "http.request":
                    paths[event["path"]] += 1
    return paths


def run() -> None:
    """Run, and print what came of it."""
    with work_directory() as directory:
        samples: list[float] = []
        with serving("audited", directory) as service:
            command = [
                sys.executable,
                "-m",
                "bench.http_load",
                "127.0.0.1",
                str(service.port),
                str(_RATE),
                str(_SECONDS),
            ]
            load = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own load
            while load.poll() is None:
                samples.append(_resident_mib(service.process.pid))
                time.sleep(_SECONDS / _SAMPLES)
            assert load.stdout is not None
            figures = json.loads(load.stdout.read())
        assert service.process.returncode in {0, -15}, f"the service ended with status {service.process.returncode}"
        check = [sys.executable, "examples/verify_trail.py", str(directory / "trail")]
        subprocess.run(check, check=True, capture_output=True)  # noqa: S603 - our own check
        recorded = _recorded(directory / "trail")
    sent, answered = figures["sent"], figures["answered"]
    assert answered == sent, f"{sent - answered} of {sent} requests were not answered"
    missing = sum(f"/orders/{n}" not in recorded for n in range(sent))
    assert missing == 0, f"{missing} of {sent} requests are not in the trail"
    assert recorded.total() == sent, f"{recorded.total() - sent} events too many"
    settled = samples[len(samples) // 10 :]
    third = len(settled) // 3
    grown = median(settled[-third:]) - median(settled[:third])
    show(
        f"soak: {_SECONDS} s at {figures['requests_per_s']:,.0f} requests/s ({_RATE:,} were asked for)",
        [
            Row(
                "requests answered and recorded", f"{sent:,}", "each once; the independent check found the trail valid"
            ),
            Row(
                "requests/s",
                f"{figures['requests_per_s']:,.0f}",
                f"{_RATE:,} were asked for",
                value=figures["requests_per_s"],
                unit="requests/s",
                floor=0.99 * _RATE,
            ),
            Row(
                "resident memory grew by",
                f"{grown:+.1f} MiB",
                f"from {median(settled[:third]):.1f} to {median(settled[-third:]):.1f} MiB, medians of the first and "
                "last third after the first tenth",
                value=grown,
                unit="MiB",
                ceiling=_MAY_GROW_MIB,
            ),
            Row(
                "resident memory over time",
                "MiB " + " ".join(f"{each:.1f}" for each in samples[:: max(1, len(samples) // 10)]),
                "from the start to the end",
            ),
            Row("latency", f"p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms", "as the load saw it"),
        ],
    )
    assert grown <= _MAY_GROW_MIB, f"resident memory grew by {grown:.1f} MiB"


if __name__ == "__main__":
    run()
