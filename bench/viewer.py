"""What a page of the viewer takes, what its server keeps in memory, and what its readers cost the service next to it.

`python -m bench viewer --records 1000000`; 100,000 without it. The server is `audit-async serve`, a process of its own
that is asked over HTTP by many people, whom a proxy would name.

- Pages: the time from the request to the last byte of the answer, without an index and with one. Without, the same
  questions are put to `audit-async query`, in turn; its start, most of a second of imports, is not counted.
- Memory: the peak of the server over searches and a download of the whole trail, next to a server of a tenth of it.
- Readers: the service writes in immediate mode on one core; the server and fifty people, each of whom looks at a page
  for a second and asks for the next, have another one. The service's rate with and without them is compared, and with
  two processes there that only compute: on a machine that does something else as well, what they displace comes to the
  service's core. So the rate is also taken of the time in which the service did not wait for its core.

`BENCH_VIEWER_PARTS` names the parts to run, out of pages, memory and readers.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle
from math import inf
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import anyio
import uvloop

from audit_async import AuditLogger
from audit_async.reader import AuditReader
from bench.forwarding import on_core
from bench.frame import config, effort, in_turn, median, ratios, row_of, show, work_directory
from bench.long_trail import Shape, Written, write_log
from bench.scale import Bench, Ran, require_room
from bench.throughput import SUBJECTS, produce

_PARTS: Final = ("pages", "memory", "readers")
_PEOPLE: Final = 50
_LOOKS_S: Final = 1.0  # at a page, before the next
_FIRST_PAGE_MS: Final = 300.0
_SEGMENT_RECORDS: Final = 200_000  # about 100 MiB, as the library rotates by itself
#: What is asked of the viewer, and of `audit-async query` by the options of the same names.
_QUESTIONS: Final = {
    "one actor": {"actor": "user-eve@example.org"},
    "no match, by actor": {"actor": "user-nobody@example.org"},
    "no match, by text": {"text": "no such text"},
}
#: What a reader opens, again and again: a page, and what its browser loads then.
_CLICKS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("/records", {}),
    ("/records/counts", {}),
    ("/records", _QUESTIONS["one actor"]),
    ("/logs", {}),
    ("/logs/orders/00/records/1000", {}),
)
#: The clock of what a process computes: https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
_CPU_CLOCK: Final = 2
#: Of so many records fewer rounds are taken.
_MANY: Final = 5_000_000
_PATIENCE: Final = aiohttp.ClientTimeout(total=900)
_processes: Final = multiprocessing.get_context("fork")


def run() -> None:
    """Measure and print; `BENCH_VIEWER_RECORDS` is what `--records` says."""
    records = int(os.environ.get("BENCH_VIEWER_RECORDS", effort(100_000, 5_000)))
    wanted = os.environ.get("BENCH_VIEWER_PARTS", ",".join(_PARTS)).split(",")
    if unknown := set(wanted) - set(_PARTS):
        raise SystemExit(f"BENCH_VIEWER_PARTS: no part is called {min(unknown)!r}; there are {', '.join(_PARTS)}")
    with work_directory() as directory:
        require_room(directory, records, trails=1.2)  # one of a tenth, and indexes
        whole = trail_of(directory / "whole", records)
        if "pages" in wanted:
            pages(whole, Bench(directory, records))
        if "memory" in wanted:
            memory(whole, trail_of(directory / "tenth", records // 10))
            shutil.rmtree(directory / "tenth")
        if "readers" in wanted:
            next_to_a_service(whole.base_dir)


class Trail(NamedTuple):
    """A trail that is viewed."""

    base_dir: Path
    written: Written


def trail_of(directory: Path, records: int) -> Trail:
    """Write a trail as the base directory `audit` below a directory."""
    base_dir = directory / "audit"
    return Trail(base_dir, write_log(base_dir, Shape(records, max(2, records // _SEGMENT_RECORDS)), service="orders"))


def build_index(base_dir: Path) -> None:
    """Index the sealed segments."""

    async def build() -> None:
        async for _ in AuditReader(base_dir).build_index():
            pass

    anyio.run(build)


# The server.


class Took(NamedTuple):
    """What an answer took."""

    seconds: float  #: until its end
    cpu_s: float  #: of the server


class Server:
    """A running `audit-async serve`, which is asked as one of the people who read."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url: Final = url
        self._process: Final = process
        self._people: Final = cycle(range(_PEOPLE))  # each may ask so often in a second

    def client(self, person: int | None = None) -> aiohttp.ClientSession:
        """Return the client of a person, the next one if none is named."""
        who = next(self._people) if person is None else person
        return aiohttp.ClientSession(self.url, headers={"X-Forwarded-User": f"reader-{who}"})

    def ask(self, path: str, **params: str) -> Took:
        """Return what it takes until all of a page is here."""

        async def ask() -> float:
            async with self.client() as client:
                return await page_s(client, path, params)

        before_s = self._cpu_s
        return Took(uvloop.run(ask()), self._cpu_s - before_s)

    @property
    def _cpu_s(self) -> float:
        return time.clock_gettime((~self._process.pid << 3) | _CPU_CLOCK)

    @property
    def peak_mebibytes(self) -> float:
        """The most memory that the process held so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class PageRefused(Exception):
    """The server answered, and not with a page."""


async def page_s(client: aiohttp.ClientSession, path: str, params: Mapping[str, str] = {}) -> float:
    """Return how many seconds a page takes until its end; raises if it is refused or ends early."""
    began = time.perf_counter()
    async with client.get(path, params=params, timeout=_PATIENCE) as answer:
        size = 0
        async for piece in answer.content.iter_chunked(1 << 20):
            size += len(piece)
        if answer.status != 200 or not size:
            raise PageRefused(f"{answer.url} was answered with {answer.status} and {size:,} bytes")
    return time.perf_counter() - began


@contextmanager
def serving(base_dir: Path, *, core: int | None = None) -> Iterator[Server]:
    """Run the server until the end of the block, on one core if one is named."""
    roles = base_dir.parent / "roles.toml"
    roles.write_text("".join(f'[people."reader-{n}"]\nrole = "auditor"\n' for n in range(_PEOPLE)))
    command = [sys.executable, "-m", "audit_async.cli", "serve", str(base_dir), "--port", "0"]
    command += ["--proxy-header", "X-Forwarded-User", "--proxy", "127.0.0.1", "--roles", str(roles)]
    with (base_dir.parent / "serve.log").open("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, text=True)  # noqa: S603 - our own command
        if core is not None:
            os.sched_setaffinity(process.pid, {core})  # before it has threads, which inherit it
        try:
            yield Server(process, _url_of(process, Path(said.name)))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _url_of(process: subprocess.Popen[str], said: Path) -> str:
    """Return where the server listens, once it answers."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:[0-9]+", said.read_text()):
            address = urlsplit(found[0])
            with suppress(OSError), socket.create_connection((address.hostname, address.port), timeout=1):
                return found[0]
        time.sleep(0.02)
    raise RuntimeError(f"the server does not answer: {said.read_text()[-500:]}")


# What is measured.


def pages(trail: Trail, bench: Bench) -> None:
    """Measure pages, first without an index."""
    read_once(trail)
    with serving(trail.base_dir) as server:
        pages_without_index(server, trail.base_dir, bench)
        build_index(trail.base_dir)
        pages_with_index(server, trail.written)


def read_once(trail: Trail) -> None:
    """Read the trail, so that what fits is in the page cache, for whoever is measured first as well."""
    for path in sorted(trail.written.directory.glob("*.audit")):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def pages_without_index(server: Server, base_dir: Path, bench: Bench) -> None:
    """Compare the first page of each question with the command's answer to the same."""
    takes: dict[str, Callable[[], Took | Ran]] = {}
    for name, asked in _QUESTIONS.items():
        options = [part for member, value in asked.items() for part in (f"--{member}", value)]
        command = ("query", base_dir, *options, "--newest-first", "--limit", "50", "--json")
        takes[f"page: {name}"] = partial(server.ask, "/records", **asked)
        takes[f"query: {name}"] = partial(bench.command, *command)
        if name != "one actor":  # without a limit several processes search, if the trail is long
            takes[f"processes: {name}"] = partial(bench.command, *command[:-3], "--json")
    took = in_turn(takes, rounds=effort(5, 1) if bench.records < _MANY else 2)
    rows = []
    for name in _QUESTIONS:
        page_s = [one.seconds for one in took[f"page: {name}"]]
        cpu_s = median([one.cpu_s for one in took[f"page: {name}"]])
        for how, title in (("query", "page / query"), ("processes", "page / query without a limit")):
            if (query := took.get(f"{how}: {name}")) is None:
                continue
            query_s = [one.seconds for one in query]
            compared = f"{median(page_s):,.2f} s ({cpu_s:,.2f} s of CPU) and {median(query_s):,.2f} s"
            ceiling = 1.5 if how == "query" else None
            rows.append(
                row_of(f"{name}: {title}", ratios(page_s, query_s), "times", compared, digits=2, ceiling=ceiling)
            )
    show(f"viewer: first pages of {bench.records:,} records without an index", rows)


def pages_with_index(server: Server, trail: Written) -> None:
    """Measure the pages that people open first, and what they load after they are shown."""
    opened: dict[str, tuple[str, dict[str, str]]] = {"newest records": ("/records", {})}
    opened |= {name: ("/records", asked) for name, asked in _QUESTIONS.items() if "text" not in asked}
    opened |= {"one status": ("/records", {"status": "404"}), "logs": ("/logs", {})}
    opened |= {"a record": (f"/logs/orders/00/records/{trail.records // 2}", {})}
    after = {
        "counts of all": {},
        "counts of one actor": _QUESTIONS["one actor"],
        "counts of one status": {"status": "404"},
    }
    opened |= {name: ("/records/counts", asked) for name, asked in after.items()}
    takes = {name: partial(server.ask, path, **asked) for name, (path, asked) in opened.items()}
    took = in_turn(takes, rounds=effort(9, 1))
    show(
        f"viewer: pages of {trail.records:,} records in {trail.segments} segments with an index",
        [
            row_of(
                name,
                [1000 * one.seconds for one in samples],
                "ms",
                f"{1000 * median([one.cpu_s for one in samples]):,.0f} ms of CPU"
                + ("; loaded after the page is shown" if name in after else ""),
                digits=1,
                ceiling=None if name in after else _FIRST_PAGE_MS,
            )
            for name, samples in took.items()
        ],
    )


def memory(whole: Trail, tenth: Trail) -> None:
    """Compare the peak of two servers over the same searches, and over a download of the whole trail."""
    few, many = _peaks(tenth.base_dir), _peaks(whole.base_dir)
    rows = []
    for name, large in many.items():
        small = few[name]
        compared = f"{small:,.0f} MiB with {tenth.written.records:,} records, {large:,.0f} MiB with "
        compared += f"{whole.written.records:,}"
        rows.append(row_of(name, [large / small], "times", compared, digits=2, ceiling=1.3))
    show("viewer: peak memory of the server with ten times the records", rows)


def _peaks(base_dir: Path) -> dict[str, float]:
    """Return the peak of a new server after each kind of work, in MiB."""
    with serving(base_dir) as server:
        server.ask("/records")
        peaks = {"one page": server.peak_mebibytes}
        for _ in range(effort(5, 2)):
            for asked in _QUESTIONS.values():
                server.ask("/records", **asked)
            server.ask("/records/counts")
        peaks["searches and counts"] = server.peak_mebibytes
        server.ask("/download/csv")
        peaks["a download of all as CSV"] = server.peak_mebibytes
    return peaks


class Rate(NamedTuple):
    """How fast a service was."""

    events_per_s: float
    on_core_per_s: float  #: of the time in which its event loop did not wait for the core, which others use as well


class Reading(NamedTuple):
    """What people saw while the service wrote."""

    rate: Rate  #: of the service
    pages_s: list[float]  #: how long each page took; infinity for one that was refused
    seconds: float


def next_to_a_service(base_dir: Path) -> None:
    """Compare a service's rate with and without people who read the trail that it adds to."""
    events = effort(200_000, 1_000)
    cores = sorted(os.sched_getaffinity(0))

    def written() -> Rate:
        ours, theirs = _processes.Pipe(duplex=False)
        with on_core(0, lambda: theirs.send(uvloop.run(service(base_dir.parent, events)))):
            rate: Rate = ours.recv()
        return rate

    def on_same_trail(measure: Callable[[], Reading]) -> Reading:
        try:
            return measure()
        finally:
            shutil.rmtree(base_dir / "bench")  # so that each round begins with the same trail; nobody reads any more

    with serving(base_dir, core=cores[-1]) as server:

        def alone() -> Reading:
            return Reading(written(), [], 0.0)

        def read() -> Reading:
            ours, theirs = _processes.Pipe(duplex=False)
            ends = _processes.Event()
            with on_core(-1, lambda: theirs.send(uvloop.run(readers(server, theirs.send, ends.is_set)))):
                ours.recv()  # all of them have seen a page
                began = time.perf_counter()
                rate = written()
                took_s = time.perf_counter() - began
                ends.set()
                pages_s: list[float] = ours.recv()
            return Reading(rate, pages_s, took_s)

        def computed() -> Reading:
            with on_core(-1, spin), on_core(-1, spin):
                return Reading(written(), [], 0.0)

        subjects = {"alone": alone, "read": read, "computed": computed}
        takes = {name: partial(on_same_trail, measure) for name, measure in subjects.items()}
        taken = in_turn(takes, rounds=effort(7, 1))
    rates = {name: [one.rate.events_per_s for one in each] for name, each in taken.items()}
    on_core_rates = {name: [one.rate.on_core_per_s for one in each] for name, each in taken.items()}
    pages_s = [page for one in taken["read"] for page in one.pages_s]
    show(
        f"viewer: {_PEOPLE} people who read next to a service, on a core of their own",
        [
            row_of("the service alone", rates["alone"], "events/s"),
            row_of(f"the service with {_PEOPLE} readers", rates["read"], "events/s"),
            row_of("the service with two processes that compute", rates["computed"], "events/s"),
            row_of("readers / alone", ratios(rates["read"], rates["alone"]), "", digits=2, floor=0.95),
            row_of("two processes that compute / alone", ratios(rates["computed"], rates["alone"]), "", digits=2),
            row_of(
                "readers / alone, while the service had its core",
                ratios(on_core_rates["read"], on_core_rates["alone"]),
                "",
                "without the time in which other processes had it",
                digits=2,
                floor=0.95,
            ),
            row_of(
                "two processes that compute / alone, while the service had its core",
                ratios(on_core_rates["computed"], on_core_rates["alone"]),
                "",
                digits=2,
            ),
            row_of("pages", [len(one.pages_s) / one.seconds for one in taken["read"]], "pages/s"),
            row_of("a page", [1000 * page for page in pages_s if page < inf], "ms"),
            row_of("pages that were refused", [100 * pages_s.count(inf) / len(pages_s)], "%", digits=1, ceiling=0),
        ],
    )


def spin() -> None:
    """Compute until the process is ended."""
    while True:
        pass


async def service(directory: Path, events: int) -> Rate:
    """Write a log of the trail in a directory; return the rate."""
    subject = SUBJECTS["immediate"]
    async with AuditLogger(config(directory, subject.mode)) as audit:
        before_s = _waited_s()
        rate = (await produce(audit, subject, events)).events_per_s
        waited_s = _waited_s() - before_s
    return Rate(rate, events / max(events / rate - waited_s, 1e-3))


def _waited_s() -> float:
    """Return how long this thread was ready and had no core: https://docs.kernel.org/scheduler/sched-stats.html."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


async def readers(server: Server, report: Callable[[str], object], is_over: Callable[[], bool]) -> list[float]:
    """Read as all people at the same time; report when each has seen a page; return how long pages took after that."""
    began: set[int] = set()
    pages_s: list[float] = []

    async def read(person: int) -> None:
        await anyio.sleep(_LOOKS_S * person / _PEOPLE)  # not all of them click at the same moment
        async with server.client(person) as client:
            for path, asked in cycle(_CLICKS):
                try:
                    took_s = await page_s(client, path, asked)
                except PageRefused:
                    took_s = inf
                if len(began) == _PEOPLE:
                    pages_s.append(took_s)
                elif person not in began:
                    began.add(person)
                    if len(began) == _PEOPLE:
                        report("all are reading")
                if is_over():
                    return
                await anyio.sleep(_LOOKS_S)

    async with anyio.create_task_group() as tasks:
        for person in range(_PEOPLE):
            tasks.start_soon(read, person)
    return pages_s
