"""What the middleware costs: FastAPI under uvicorn, recorded in several ways or not, in turn, under real load.

The handler answers from memory, so nothing hides the middleware: it is the worst case, and a share of a service that
asks a database is smaller. The yardstick is what a service would have instead, a JSON access log of structlog: what
that adds to the bare service, in CPU time a request and in time a request at the most requests a second, and what the
audit trail adds in the same round. A service with a disabled log separates what the middleware takes from what the log
does; uvicorn's own access log is there for comparison. Everything twice, with uvicorn's parsers h11 and httptools.

Requests a second are taken with `wrk` if it is installed, otherwise with `bench.http_load` beyond what the server
takes; the latency at half load with `bench.http_load`, at half of what the bare service served in this run. All
services run all the time, and only one at a time is asked, in short rounds whose order turns round, so that they share
the machine's moods: what is compared is within one round. On two CPUs the server's event loop has one, and the load,
the log's disk thread and the kernel's work the other.

The environment: `BENCH_FLUSH` and `BENCH_HTTP` (see `bench.web_service`; without the second both parsers are measured),
`BENCH_ROUNDS`, `BENCH_SECONDS` a measurement.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.frame import Row, median, show, work_directory

_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "21"))
_SECONDS = int(os.environ.get("BENCH_SECONDS", "2"))
_CONNECTIONS = 32
_KINDS = ("bare", "uvicorn", "structlog", "disabled", "audited", "delayed")
_AT_HALF_LOAD = ("bare", "disabled", "audited", "delayed")
#: The audited services, whose price is compared with the yardstick's.
_AUDITED = ("audited", "delayed")
_YARDSTICK = "structlog"
_RESAMPLES = 2000


class Service(NamedTuple):
    """A service under load."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used in all its threads, from /proc."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Samples(NamedTuple):
    """What was measured of each kind of service, by round."""

    most: dict[str, list[float]]  #: requests a second
    cpu_us: dict[str, list[float]]  #: CPU time a request
    p50: dict[str, list[float]]  #: milliseconds at half load
    p99: dict[str, list[float]]


@contextmanager
def serving(kind: str, directory: Path, parser: str = "auto") -> Iterator[Service]:
    """Run the service until the end of the block, then stop it as a supervisor does."""
    port_file = directory / f"{kind}.port"
    environment = os.environ | {"BENCH_TRAIL": str(directory / "trail"), "BENCH_HTTP": parser}
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


def requests_answered(port: int, seconds: int) -> float:
    """Return how many requests a service answers in that time at most."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return load(port, 50_000, seconds)["answered"]
    url = f"http://127.0.0.1:{port}/orders/7"
    command = [wrk, "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - as above
    assert "Non-2xx" not in output, output
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    return float(found[1])


def measure(parser: str) -> Samples:
    """Run all services, and take turns."""
    samples = Samples(*[dict[str, list[float]]((kind, []) for kind in _KINDS) for _ in Samples._fields])
    with work_directory() as directory, ExitStack() as stack:
        services = {kind: stack.enter_context(serving(kind, directory, parser)) for kind in _KINDS}
        for service in services.values():
            requests_answered(service.port, 1)  # to warm up
        for round_number in range(_ROUNDS):
            for kind in _turn(_KINDS, round_number):
                began, cpu_began = time.perf_counter(), services[kind].cpu_s()
                answered = requests_answered(services[kind].port, _SECONDS)
                samples.most[kind].append(answered / _SECONDS)
                samples.cpu_us[kind].append((services[kind].cpu_s() - cpu_began) / answered * 1e6)
                assert time.perf_counter() - began >= _SECONDS
        half = median(samples.most["bare"]) / 2
        for round_number in range(min(_ROUNDS, 7)):
            for kind in _turn(_AT_HALF_LOAD, round_number):
                figures = load(services[kind].port, half, _SECONDS)
                assert figures["answered"] == figures["sent"], figures
                samples.p50[kind].append(figures["p50_ms"])
                samples.p99[kind].append(figures["p99_ms"])
    return samples


def _turn(kinds: Sequence[str], round_number: int) -> Sequence[str]:
    """Return the services in the order of a round: each begins at another one, every second goes backward."""
    first = round_number // 2 % len(kinds)
    turned = (*kinds[first:], *kinds[:first])
    return turned[:: 1 if round_number % 2 else -1]


def run() -> None:
    """Measure and print."""
    parsers = [os.environ["BENCH_HTTP"]] if "BENCH_HTTP" in os.environ else ["h11", "httptools"]
    for parser in parsers:
        if importlib.util.find_spec(parser) is None:
            print(f"web: {parser} is not installed (pip install {parser}), so it is left out")
            continue
        samples = measure(parser)
        flush = os.environ.get("BENCH_FLUSH", "immediate")
        title = f"web: FastAPI under uvicorn ({parser}), audited in flush mode {flush}, delayed with max_delay=2 ms"
        show(title, [row for rows in (_most, _cpu, _shares, _half_load) for row in rows(samples)])


def _most(samples: Samples) -> Iterator[Row]:
    load_from = f"wrk, {_CONNECTIONS} connections" if shutil.which("wrk") else "bench.http_load; wrk is not installed"
    for kind, most in samples.most.items():
        yield Row(
            f"{kind}: requests/s",
            f"{median(most):7,.0f} ({min(most):,.0f} to {max(most):,.0f})",
            load_from,
            value=median(most),
            unit="requests/s",
            low=min(most),
            high=max(most),
        )
    for kind in _KINDS[1:]:
        lost = [(1 - mine / bare) * 100 for mine, bare in zip(samples.most[kind], samples.most["bare"], strict=True)]
        yield Row(
            f"{kind}: cost in requests/s",
            f"{median(lost):5.1f} %",
            f"{median(_added(_times_us(samples), kind)):.0f} us a request; by round "
            + " ".join(f"{each:.1f}" for each in lost),
            value=median(lost),
            unit="% of requests/s",
            low=min(lost),
            high=max(lost),
            ceiling=8.0 if kind == "audited" else None,
        )


def _cpu(samples: Samples) -> Iterator[Row]:
    for kind, cpu_us in samples.cpu_us.items():
        yield Row(
            f"{kind}: CPU time a request",
            f"{median(cpu_us):5.0f} us",
            "all threads; by round " + " ".join(f"{each:.0f}" for each in cpu_us),
            value=median(cpu_us),
            unit="us of CPU a request",
            low=min(cpu_us),
            high=max(cpu_us),
        )


def _shares(samples: Samples) -> Iterator[Row]:
    """Say what part the audit trail adds of what the yardstick adds, each over the bare service of its round."""
    for name, measured in (("CPU time", samples.cpu_us), ("time at most requests/s", _times_us(samples))):
        yardstick = _added(measured, _YARDSTICK)
        for kind in _AUDITED:
            share = Share.of(_added(measured, kind), yardstick)
            yield Row(
                f"{kind}: {name} added, of what {_YARDSTICK} adds",
                f"{share.value:5.2f} (95 %: {share.low:.2f} to {share.high:.2f})",
                f"{median(_added(measured, kind)):.0f} of {median(yardstick):.0f} us a request",
                value=share.value,
                unit=f"of what {_YARDSTICK} adds",
                low=share.low,
                high=share.high,
                ceiling=0.5,
            )


def _half_load(samples: Samples) -> Iterator[Row]:
    half = median(samples.most["bare"]) / 2
    for kind in _AT_HALF_LOAD:
        p50, p99 = samples.p50[kind], samples.p99[kind]
        yield Row(
            f"{kind}: latency at {half:,.0f} requests/s",
            f"p50 {median(p50):5.2f} ms, p99 {median(p99):5.2f} ms",
            "p99 by round " + " ".join(f"{each:.2f}" for each in p99),
            value=median(p99),
            unit="ms of p99 at half load",
            low=min(p99),
            high=max(p99),
        )
    for kind in _AT_HALF_LOAD[1:]:
        more = _added(samples.p99, kind)
        yield Row(
            f"{kind}: cost in p99 at half load",
            f"{median(more):+5.2f} ms",
            "by round " + " ".join(f"{each:+.2f}" for each in more),
            value=median(more),
            unit="ms more of p99",
            low=min(more),
            high=max(more),
            ceiling=0.3 if kind == "audited" else None,
        )


def _times_us(samples: Samples) -> dict[str, list[float]]:
    """Return the time a request at the most requests a second."""
    return {kind: [1e6 / each for each in most] for kind, most in samples.most.items()}


def _added(measured: Mapping[str, Sequence[float]], kind: str) -> list[float]:
    """Return what a service adds to the bare one, round by round."""
    return [mine - bare for mine, bare in zip(measured[kind], measured["bare"], strict=True)]


class Share(NamedTuple):
    """A ratio of two medians, with what 95 % of samples of the same rounds would say."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, added: Sequence[float], yardstick: Sequence[float]) -> Share:
        """Return the share, and its interval by the bootstrap over rounds (Efron, https://doi.org/10.1214/aos/1176344552)."""
        draw = random.Random(0)  # noqa: S311 - samples, not secrets
        rounds = range(len(added))
        shares = []
        for _ in range(_RESAMPLES):
            drawn = draw.choices(rounds, k=len(rounds))
            shares.append(median([added[n] for n in drawn]) / (median([yardstick[n] for n in drawn]) or 1e-9))
        shares.sort()
        value = median(added) / (median(yardstick) or 1e-9)
        return cls(value, shares[_RESAMPLES // 40], shares[-_RESAMPLES // 40 - 1])


if __name__ == "__main__":
    run()
