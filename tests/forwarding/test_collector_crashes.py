"""A collector that is killed at any moment: nothing is lost, nothing is there twice, and the files are the host's."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from audit_async._chain import Head
from audit_async._layout.collected_file import Collected
from audit_async._store.collected_log import CollectedLog
from audit_async.forwarding import DirectorySink
from audit_async.forwarding.collector import Collector
from audit_async.reader import AuditReader
from tests.campaign import sampled
from tests.forwarding.shipped_logs import files_of, ship, write_log
from tests.logs import segment_lines
from tests.store.chained import memory_directory
from tests.store.power_cut import Recorder, State, crash_states

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What is tested is on the disk, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


_COLLECT = """
import sys, anyio
from audit_async.forwarding import DirectorySink
from audit_async.forwarding.collector import Collector

async def main():
    async with DirectorySink(sys.argv[1], tenant="acme") as sink, Collector(sys.argv[2], sink, tenant="acme") as one:
        print("collecting", flush=True)
        await one.run(pause_s=0.01)

anyio.run(main)
"""


@sampled(6)
async def test_thirty_kills(every: int, tmp_path: Path) -> None:
    """At each kill what is here is a beginning of what the host has, and it verifies; at the end it is all of it."""
    engine, root = tmp_path / "engine", tmp_path / "root"
    engine.mkdir()
    DirectorySink.prepare(engine)
    kills = 30 // every
    drawn = random.Random(15)  # noqa: S311
    host = await write_log(tmp_path / "host", 2000 if every == 1 else 700, max_bytes=20_000)
    async with DirectorySink(engine, tenant="acme") as sink:
        log = await ship(host, sink, a_batch=2)
        copy, lines, reached = root / log.path(), segment_lines(host), [0]
        for _ in range(kills):
            with collecting(engine, root):
                # So many batches that each kill comes in the middle of them, at another step of one.
                wanted = reached[-1] + len(lines) // (kills + 1)
                deadline = time.monotonic() + 60
                while stored(copy) < wanted and time.monotonic() < deadline:
                    await anyio.sleep(0.002)
                await anyio.sleep(drawn.uniform(0, 0.02))
            have = segment_lines(copy)
            whole = [line for line in have if line.endswith(b"\n")]
            assert sorted(set(whole), key=whole.index)[: len(lines)] == lines[: len(set(whole))]
            reached.append(len(set(whole)))
        assert reached == sorted(reached)
        async with Collector(root, sink, tenant="acme") as collector:
            assert (await collector.collect()).findings == ()
    assert files_of(copy) == files_of(host)
    report = await AuditReader(root).verify()
    assert report.valid, report.findings


def stored(copy: Path) -> int:
    """Return about how many records are in a copy."""
    with contextlib.suppress(FileNotFoundError):
        return len(segment_lines(copy))
    return 0


@contextlib.contextmanager
def collecting(engine: Path, root: Path) -> Iterator[None]:
    """Run a collector in a process of its own, and kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _COLLECT, str(engine), str(root)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "collecting\n"
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


#: States that are tried after each call, at most.
_TRIED = 2


async def test_the_power_goes_at_every_moment(tmp_path: Path) -> None:
    """Whatever the disk kept, what was acknowledged is there, and the rest makes it what the host has."""
    host = await write_log(tmp_path / "host", 40, max_bytes=6_000, flush_every=4)
    await write_log(tmp_path / "host", 2)
    lines, document = segment_lines(host), (host / "log.json").read_bytes()
    log_id = document.partition(b'"log_id":"')[2][:32].decode()
    collected = Collected(tenant="acme", host="web-1", service="orders", instance="00", log_id=log_id)
    path = Path("orders") / f"00.{log_id}"  # below the directory of the host
    acknowledged: list[tuple[int, int]] = []
    with memory_directory() as base, pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(base)
        recorder.install(patch)
        log = CollectedLog.open(base / path, collected, document)
        for at in range(0, len(lines), 2):
            head = log.append(b"".join(lines[at : at + 2]), log.head).head
            acknowledged.append((len(recorder.calls), head.seq))
        assert files_of(base / path) == files_of(host)
    chosen: dict[int, list[State]] = {}
    number: Counter[int] = Counter()
    choice = random.Random(1)  # noqa: S311
    for count, state in crash_states(recorder.calls):
        number[count] += 1
        tried = chosen.setdefault(count, [])
        if len(tried) < _TRIED:
            tried.append(state)
        elif (kept := choice.randrange(number[count])) < _TRIED:
            tried[kept] = state
    states = [(count, state) for count, tried in chosen.items() for state in tried]
    assert len(states) > 200
    for count, state in states:
        with memory_directory() as base:
            state.write_to(base)
            log = CollectedLog.open(base / path, collected, document)
            assert log.head.seq >= max((seq for calls, seq in acknowledged if calls <= count), default=-1)
            rest = lines[log.head.seq + 1 :]
            if rest:
                log.append(b"".join(rest), Head(log.head.seq, log.head.hash))
            assert files_of(base / path) == files_of(host)
