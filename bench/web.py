"""What the middleware costs: FastAPI under uvicorn with it and without it, in turn, on this machine, under real load.

The handler answers from memory, so nothing hides the middleware: it is the worst case, and a share of a service that
asks a database is smaller. A third service has the middleware and a log that is disabled, which separates what the
middleware takes from what the log does. Requests a second are taken with `wrk` if it is installed, otherwise with
`bench.http_load` beyond what the server takes; the latency at half load with `bench.http_load`, at half of what the
bare service served in this run. All services run all the time, and only one at a time is asked, so that they share the
machine's moods. On two CPUs the server's event loop has one, and the load, the log's disk thread and the kernel's work
the other.

The environment: `BENCH_FLUSH` (see `bench.web_service`), `BENCH_ROUNDS`, `BENCH_SECONDS` a measurement.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.frame import Row, median, show, work_directory

_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
_SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
_CONNECTIONS = 32
_KINDS = ("bare", "disabled", "audited")


class Service(NamedTuple):
    """A service under load."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used in all its threads, from /proc."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(kind: str, directory: Path) -> Iterator[Service]:
    """Run the service until the end of the block, then stop it as a supervisor does."""
    port_file = directory / f"{kind}.port"
    environment = os.environ | {"BENCH_TRAIL": str(directory / "trail")}
    command = [sys.executable, "-m", "bench.web_service", kind, str(port_file)]
    process = subprocess.Popen(command, env=environment)  # noqa: S603 - our own service
    try:
        while not port_file.exists():
            if process.poll() is not None:
                raise RuntimeError(f"the {kind} service ended with status {process.returncode} at its start")
            time.sleep(0.02)
        yield Service(process, int(port_file.read_text()))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def load(port: int, requests_per_s: float, seconds: float) -> dict[str, float]:
    """Put a service under load at a fixed rate, from a process of its own; return what that says."""
    command = [sys.executable, "-m", "bench.http_load", "127.0.0.1", str(port), str(requests_per_s), str(seconds)]
    output = subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603 - our own load
    figures: dict[str, float] = json.loads(output)
    return figures


def requests_per_s(port: int, seconds: int) -> float:
    """Return how many requests a second a service answers at most."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return load(port, 50_000, seconds)["answered"] / seconds
    url = f"http://127.0.0.1:{port}/orders/7"
    command = [wrk, "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - as above
    assert "Non-2xx" not in output, output
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    assert found is not None, output
    return float(found[1])


def run() -> None:
    """Measure and print."""
    most: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    cpu_us: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    p50: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    p99: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    with work_directory() as directory, ExitStack() as stack:
        services = {kind: stack.enter_context(serving(kind, directory)) for kind in _KINDS}
        for service in services.values():
            requests_per_s(service.port, 1)  # to warm up
        for round_number in range(_ROUNDS):
            for kind in _KINDS[:: 1 if round_number % 2 else -1]:
                began = services[kind].cpu_s()
                most[kind].append(requests_per_s(services[kind].port, _SECONDS))
                cpu_us[kind].append((services[kind].cpu_s() - began) / (most[kind][-1] * _SECONDS) * 1e6)
        half = median(most["bare"]) / 2
        for round_number in range(_ROUNDS):
            for kind in _KINDS[:: 1 if round_number % 2 else -1]:
                figures = load(services[kind].port, half, _SECONDS)
                assert figures["answered"] == figures["sent"], figures
                p50[kind].append(figures["p50_ms"])
                p99[kind].append(figures["p99_ms"])
    parser = "httptools" if importlib.util.find_spec("httptools") else "h11"
    rows = [
        Row(
            f"{kind}: requests/s",
            f"{median(most[kind]):7,.0f} ({min(most[kind]):,.0f} to {max(most[kind]):,.0f})",
            f"wrk, {_CONNECTIONS} connections" if shutil.which("wrk") else "bench.http_load; wrk is not installed",
            value=median(most[kind]),
            unit="requests/s",
            low=min(most[kind]),
            high=max(most[kind]),
        )
        for kind in _KINDS
    ]
    rows += [_lost_requests(kind, most) for kind in _KINDS[1:]]
    rows += [
        Row(
            f"{kind}: CPU time a request",
            f"{median(cpu_us[kind]):5.0f} us",
            "all threads; by round " + " ".join(f"{each:.0f}" for each in cpu_us[kind]),
            value=median(cpu_us[kind]),
            unit="us of CPU a request",
            low=min(cpu_us[kind]),
            high=max(cpu_us[kind]),
        )
        for kind in _KINDS
    ]
    rows += [
        Row(
            f"{kind}: latency at {half:,.0f} requests/s",
            f"p50 {median(p50[kind]):5.2f} ms, p99 {median(p99[kind]):5.2f} ms",
            "p99 by round " + " ".join(f"{each:.2f}" for each in p99[kind]),
            value=median(p99[kind]),
            unit="ms of p99 at half load",
            low=min(p99[kind]),
            high=max(p99[kind]),
        )
        for kind in _KINDS
    ]
    rows += [_more_p99(kind, p99) for kind in _KINDS[1:]]
    flush = os.environ.get("BENCH_FLUSH", "immediate")
    show(f"web: FastAPI under uvicorn ({parser}), flush mode {flush}", rows)


def _lost_requests(kind: str, most: dict[str, list[float]]) -> Row:
    """Return what a service serves less than the bare one, round by round."""
    lost = [(1 - mine / bare) * 100 for mine, bare in zip(most[kind], most["bare"], strict=True)]
    return Row(
        f"{kind}: cost in requests/s",
        f"{median(lost):5.1f} %",
        f"{1e6 / median(most[kind]) - 1e6 / median(most['bare']):.0f} us a request; by round "
        + " ".join(f"{each:.1f}" for each in lost),
        value=median(lost),
        unit="% of requests/s",
        low=min(lost),
        high=max(lost),
        ceiling=8.0 if kind == "audited" else None,
    )


def _more_p99(kind: str, p99: dict[str, list[float]]) -> Row:
    """Return what a service's p99 has more than the bare one's, round by round."""
    more = [mine - bare for mine, bare in zip(p99[kind], p99["bare"], strict=True)]
    return Row(
        f"{kind}: cost in p99 at half load",
        f"{median(more):+5.2f} ms",
        "by round " + " ".join(f"{each:+.2f}" for each in more),
        value=median(more),
        unit="ms more of p99",
        low=min(more),
        high=max(more),
        ceiling=0.3 if kind == "audited" else None,
    )


if __name__ == "__main__":
    run()
