"""What the middleware costs: FastAPI under uvicorn with it and without it, in turn, on this machine, under real load.

Requests a second are taken with `wrk` where it is installed, otherwise with `bench.http_load` beyond what the server
takes; the latency at half load with `bench.http_load`, at half of what the bare service served in this run. Both
services run all the time, and only one at a time is asked, so that they share the machine's moods.

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
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.frame import Row, median, show, work_directory

_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
_SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
_CONNECTIONS = 32
_KINDS = ("bare", "audited")


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
    with work_directory() as directory, serving("bare", directory) as bare, serving("audited", directory) as audited:
        services = dict(zip(_KINDS, (bare, audited), strict=True))
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
    by_round = [a / b for a, b in zip(most["audited"], most["bare"], strict=True)]
    more_p99 = [a - b for a, b in zip(p99["audited"], p99["bare"], strict=True)]
    parser = "httptools" if importlib.util.find_spec("httptools") else "h11"
    rows = [
        Row(
            f"{kind}: requests/s",
            f"{median(most[kind]):7,.0f} ({min(most[kind]):,.0f} to {max(most[kind]):,.0f})",
            "wrk, 32 connections" if shutil.which("wrk") else "bench.http_load; wrk is not installed",
        )
        for kind in _KINDS
    ]
    rows.append(
        Row(
            "cost of the middleware",
            f"{(1 - median(by_round)) * 100:5.1f} % of requests/s (target <= 8 %)",
            f"{1e6 / median(most['audited']) - 1e6 / median(most['bare']):.0f} us a request; by round "
            + " ".join(f"{(1 - ratio) * 100:.1f}" for ratio in by_round),
        )
    )
    rows += [
        Row(
            f"{kind}: CPU time a request",
            f"{median(cpu_us[kind]):5.0f} us",
            "all threads; by round " + " ".join(f"{each:.0f}" for each in cpu_us[kind]),
        )
        for kind in _KINDS
    ]
    rows += [
        Row(
            f"{kind}: latency at {half:,.0f} requests/s",
            f"p50 {median(p50[kind]):5.2f} ms, p99 {median(p99[kind]):5.2f} ms",
            "p99 by round " + " ".join(f"{each:.2f}" for each in p99[kind]),
        )
        for kind in _KINDS
    ]
    rows.append(
        Row(
            "cost of the middleware",
            f"{median(more_p99):+5.2f} ms of p99 (target <= 0.3 ms)",
            "by round " + " ".join(f"{each:+.2f}" for each in more_p99),
        )
    )
    flush = os.environ.get("BENCH_FLUSH", "immediate")
    show(f"web: FastAPI under uvicorn ({parser}), flush mode {flush}", rows)


if __name__ == "__main__":
    run()
