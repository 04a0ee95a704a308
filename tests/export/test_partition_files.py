"""A copy as Parquet by service and day: every record once, and each run costs what is new."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyarrow import parquet

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._durable import disk
from audit_async._export import partition_files
from audit_async._export.record_export import ExportReport, export
from audit_async._store.archiving import compress_segment
from audit_async._trail.log_files import find_logs, list_segments
from audit_async.config import RotationPolicy
from audit_async.forwarding import DirectorySink
from audit_async.forwarding.collector import Collector
from audit_async.reader import AuditReader, ExportFailed, PartitionReport
from tests.forwarding.shipped_logs import ship
from tests.logs import failure, segment_lines
from tests.store.chained import open_store

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What is tested is on the disk, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


async def write(base_dir: Path, events: int, service: str = "orders") -> Path:
    """Write a session of a log with small segments; return its directory."""
    config = AuditConfig(
        mode=Local(base_dir), service_id=service, handle_signals=False, rotation=RotationPolicy(max_bytes=16 << 10),
    )  # fmt: skip
    async with AuditLogger(config) as audit:
        for n in range(events):
            audit.emit(failure(n))
            if n % 20 == 19:
                await audit.flush()
    return base_dir / service / "00"


async def run(trail: Path, copy: Path) -> PartitionReport:
    """Bring the copy up to date, as a process of its own would."""
    return await AuditReader(trail).write_partitions(copy)


def rows(copy: Path, what: str = "log, seq, hash") -> list[tuple[object, ...]]:
    """Return what DuckDB finds in the copy, in order."""
    source = f"read_parquet('{copy}/*/*/*.parquet', hive_partitioning = true)"
    return duckdb.execute(f"SELECT {what} FROM {source} ORDER BY ALL").fetchall()  # noqa: S608 - of this test


def recorded(*directories: Path) -> list[tuple[object, ...]]:
    """Return the same of the logs themselves."""
    lines = [(directory.parent.name, n, line[-67:-3].decode()) for directory in directories
             for n, line in enumerate(segment_lines(directory))]  # fmt: skip
    return sorted((f"{service}/00", n, hash_) for service, n, hash_ in lines)


def days_of(directory: Path) -> set[str]:
    """Return the days of a log's records."""
    return {json.loads(line)["timestamp"][:10] for line in segment_lines(directory)}


def files(copy: Path) -> dict[str, tuple[int, int]]:
    """Return each file, and what shows whether it was written again."""
    return {str(path.relative_to(copy)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in copy.rglob("*.*")}


async def test_each_record_is_there_once_whatever_comes(tmp_path: Path) -> None:
    """Of several services; a sealed segment is written once, and the one that was open is there once when sealed."""
    trail, copy = tmp_path / "audit", tmp_path / "copy"
    orders, billing = await write(trail, 100), await write(trail, 5, "billing")
    first = await run(trail, copy)
    assert rows(copy) == recorded(orders, billing)
    assert (first.records, first.kept, first.removed) == (len(recorded(orders, billing)), 0, 0)
    assert {(path.parts[0], path.parts[1]) for path in map(Path, files(copy))} == {
        (f"service={log.parent.name}", f"day={day}") for log in (orders, billing) for day in days_of(log)
    }
    before = files(copy)
    await write(trail, 100)
    second = await run(trail, copy)
    assert rows(copy) == recorded(orders, billing)
    again = {name for name in before.keys() & files(copy).keys() if before[name] != files(copy)[name]}
    assert second.kept == len(before) - 2
    assert all(name.endswith("-open.parquet") for name in again)
    assert sum(name.endswith("-open.parquet") for name in files(copy)) == 2
    assert all((copy / name).stat().st_mode & 0o777 == 0o600 for name in files(copy))


async def test_what_retention_has_deleted_is_not_in_the_copy(tmp_path: Path) -> None:
    """What it has archived is; and files of logs that were not asked for stay."""
    trail, copy = tmp_path / "audit", tmp_path / "copy"
    orders = await write(trail, 100)
    await write(trail, 5, "billing")
    await run(trail, copy)
    store = open_store(trail, max_bytes=16 << 10)
    sealed = [one.sealed for one in list_segments(find_logs(orders)[0]) if one.sealed is not None]
    assert len(sealed) > 1
    store.archive_segments([compress_segment(store.directory, sealed[0])])
    store.archive_segments([compress_segment(store.directory, sealed[1])])
    store.delete_segments([sealed[0].segment])
    store.close()
    before = rows(copy)
    await run(trail / "billing", copy)
    assert rows(copy) == before
    report = await run(trail / "orders", copy)
    assert report.removed == 1
    left = [row for row in before if not (row[0] == "orders/00" and row[1] <= sealed[0].last_seq)]  # type: ignore[operator]
    assert rows(copy)[: len(left)] == left
    shutil.rmtree(copy)
    await run(trail, copy)
    assert rows(copy)[: len(left)] == left


async def test_a_collector_s_logs_of_one_slot_are_apart(tmp_path: Path) -> None:
    """Two hosts with the same service and slot, and names that no path may have."""
    (tmp_path / "engine").mkdir()
    DirectorySink.prepare(tmp_path / "engine")
    count = 0
    async with DirectorySink(tmp_path / "engine", tenant="acme") as sink:
        for host in ("web-1", "web-2"):
            directory = await write(tmp_path / host, 30)
            count += len(segment_lines(directory))
            await ship(directory, sink, host=host)
        async with Collector(tmp_path / "root", sink, tenant="acme") as collector:
            await collector.collect()
    await run(tmp_path / "root", tmp_path / "copy")
    await run(tmp_path / "root", tmp_path / "copy")
    assert rows(tmp_path / "copy", "count(*), count(DISTINCT hash), count(DISTINCT log)") == [(count, count, 2)]


async def test_a_copy_that_can_not_be_made(tmp_path: Path) -> None:
    """A file in its place is said; what a killed run has left is no part of the copy."""
    trail, copy = tmp_path / "audit", tmp_path / "copy"
    orders = await write(trail, 5)
    copy.write_text("")
    with pytest.raises(ExportFailed, match="no directory"):
        await run(trail, copy)
    copy.unlink()
    left = copy / "service=orders" / f"day={min(days_of(orders))}"
    left.mkdir(parents=True)
    (left / ".00.parquet.x.unfinished").write_bytes(b"half")
    await run(trail, copy)
    assert rows(copy) == recorded(orders)
    tables = [parquet.read_table(path) for path in left.parent.glob("*/*.parquet")]
    assert sum(table.num_rows for table in tables) == len(segment_lines(orders))


async def test_two_runs_at_once_leave_no_record_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As cron starts them: the second is refused, in words, while the first is at work."""
    directory = await write(tmp_path / "trail", 40)
    refused: list[bool] = []

    async def overtaken(*of: Any, **how: Any) -> ExportReport:
        if not refused:
            refused.append(True)
            made = await export(*of, **how)
            await write(tmp_path / "trail", 200)  # the segment is sealed meanwhile
            with pytest.raises(ExportFailed, match=r"another run is bringing .*copy up to date; wait for its end"):
                await run(tmp_path / "trail", tmp_path / "copy")
            return made
        return await export(*of, **how)

    monkeypatch.setattr(partition_files, "_WAIT_S", 0.01)
    monkeypatch.setattr(partition_files, "export", overtaken)
    await run(tmp_path / "trail", tmp_path / "copy")
    await run(tmp_path / "trail", tmp_path / "copy")
    assert rows(tmp_path / "copy") == recorded(directory)


async def test_a_run_that_is_cancelled_while_it_waits_keeps_no_other_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled by asyncio itself, as a service's own timeout does it."""
    directory = await write(tmp_path / "trail", 40)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(partition_files, "_WAIT_S", 60.0)
    other, waits, real = os.open(tmp_path / "copy", os.O_RDONLY), asyncio.Event(), disk.lock
    real(other)

    def lock(fd: int) -> None:
        waits.set()
        real(fd)

    monkeypatch.setattr(disk, "lock", lock)
    waiting = asyncio.create_task(run(tmp_path / "trail", tmp_path / "copy"))
    await waits.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    monkeypatch.undo()
    os.close(other)
    await run(tmp_path / "trail", tmp_path / "copy")
    assert rows(tmp_path / "copy") == recorded(directory)
