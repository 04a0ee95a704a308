"""An open log indexes what was sealed: in another process, which is in nobody's way and ends with the log."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, RotationPolicy
from audit_async._query import search
from audit_async._query import segment_scan as scan
from audit_async._query.index_process import Indexed
from audit_async._trail.segment_parts import Part
from audit_async._writer import index_task
from audit_async.reader import AuditQuery, AuditReader
from tests.logs import ConfigFor, failure, log_directory
from tests.trails import check_trail

pytestmark = pytest.mark.anyio

ROTATION = RotationPolicy(max_bytes=4096, index_sealed=True)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at once, and often."""
    monkeypatch.setattr(index_task, "_FIRST_LOOK_S", 0.0)
    monkeypatch.setattr(index_task, "_LOOK_S", 0.02)


def indexed(config: AuditConfig) -> set[str]:
    """Return the segments that have an index."""
    return {path.name.removesuffix(".index") for path in (log_directory(config) / "index").glob("*.index")}


def sealed(config: AuditConfig) -> set[str]:
    """Return the segments that are sealed."""
    return {path.name.removesuffix(".sha256") for path in log_directory(config).glob("*.sha256")}


async def emit(audit: AuditLogger, count: int) -> None:
    """Write records, enough of which fill several segments."""
    for n in range(count):
        await audit.emit(failure(n)).durable()


async def until_indexed(config: AuditConfig) -> None:
    """Wait until every segment that is sealed has an index."""
    with anyio.fail_after(60):
        while not sealed(config) or indexed(config) != sealed(config):
            await asyncio.sleep(0.02)


async def started() -> int:
    """Return the process that indexes, once there is one."""
    with anyio.fail_after(60):
        while True:
            for path in Path("/proc/self/task").iterdir():
                with suppress(OSError):  # a thread or a process that has ended meanwhile
                    for pid in (path / "children").read_text().split():
                        if b"index_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                            return int(pid)
            await asyncio.sleep(0.005)


@pytest.fixture
def first_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the first process before it does anything, so that it is there for as long as a test needs it."""

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        monkeypatch.setattr(index_task, "Popen", subprocess.Popen)
        *python, program = command
        return subprocess.Popen([*python, f"import os, signal; os.kill(os.getpid(), signal.SIGSTOP)\n{program}"], **how)

    monkeypatch.setattr(index_task, "Popen", start)


async def test_what_is_sealed_gets_its_index_while_the_log_is_open(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segment after segment; a query then scans only the active one, and nothing is left unfinished."""
    config = config_for(rotation=ROTATION)
    async with AuditLogger(config) as audit:
        for _ in range(2):
            await emit(audit, 40)
            await until_indexed(config)
        assert audit.health().reason is None
        scanned: list[str] = []
        plain_scan = scan.scan

        def note(part: Part, *rest: Any, **how: Any) -> Iterator[scan.Found | None]:
            scanned.append(part.segment.name)
            return plain_scan(part, *rest, **how)

        monkeypatch.setattr(search, "scan", note)
        found = [record async for record in AuditReader(log_directory(config)).query(AuditQuery(status=999))]
        assert found == []
        assert len(scanned) == 1
    assert {path.suffix for path in (log_directory(config) / "index").iterdir()} == {".index"}
    check_trail(log_directory(config).parents[1])


async def test_without_the_setting_there_is_no_process(config_for: ConfigFor) -> None:
    """Unless it is asked for, nothing is indexed."""
    config = config_for(rotation=RotationPolicy(max_bytes=4096))
    async with AuditLogger(config) as audit:
        await emit(audit, 40)
        await asyncio.sleep(0.2)
    assert sealed(config)
    assert not (log_directory(config) / "index").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process in /proc")
async def test_it_ends_with_the_log_and_is_waited_for_by_nobody(config_for: ConfigFor, first_hangs: None) -> None:
    """Commits and the close of a log don't wait for a process that hangs; it is gone soon after."""
    config = config_for(rotation=ROTATION)
    audit = AuditLogger(config)
    await audit.start()
    await emit(audit, 40)
    pid = await started()
    with anyio.fail_after(60):
        await emit(audit, 40)
        await audit.aclose()
    with anyio.fail_after(60):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)
    check_trail(log_directory(config).parents[1])


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process in /proc")
async def test_a_killed_process_is_reported_and_its_work_done_later(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, first_hangs: None
) -> None:
    """Health gives the reason; the next process does the work, and then all is well."""
    monkeypatch.setattr(index_task, "_AFTER_FAILURE_S", 0.5)
    config = config_for(rotation=ROTATION)
    async with AuditLogger(config) as audit:
        await emit(audit, 40)
        os.kill(await started(), signal.SIGKILL)
        with anyio.fail_after(60):
            while audit.health().reason is None:
                await asyncio.sleep(0.005)
        assert "ended with status -9" in (audit.health().reason or "")
        await until_indexed(config)
        with anyio.fail_after(60):
            while audit.health().reason is not None:
                await asyncio.sleep(0.005)


async def test_an_interpreter_that_is_none_is_not_started(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a server that embeds Python its own program would be started; the log goes on, and says so."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    config = config_for(rotation=ROTATION)
    async with AuditLogger(config) as audit:
        await emit(audit, 40)
        with anyio.fail_after(60):
            while audit.health().reason is None:
                await asyncio.sleep(0.005)
        assert "'/usr/bin/uwsgi' is no Python interpreter" in (audit.health().reason or "")
        await emit(audit, 1)


async def test_a_segment_that_can_not_be_indexed_is_reported(config_for: ConfigFor) -> None:
    """What was damaged after it was sealed is named, and the other segments are indexed."""
    config = config_for()
    async with AuditLogger(config_for(rotation=RotationPolicy(max_bytes=4096))) as audit:
        await emit(audit, 40)
    damaged = log_directory(config) / min(sealed(config))
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes().replace(b"alice", b"mally"))
    damaged.write_bytes(damaged.read_bytes().replace(b'"seq":1,', b'"seq":2,', 1))
    async with AuditLogger(config_for(rotation=ROTATION)) as audit:
        with anyio.fail_after(60):
            while audit.health().reason is None:
                await asyncio.sleep(0.005)
        assert f"{damaged.name}: its content is not what was sealed" in (audit.health().reason or "")
    assert indexed(config) == sealed(config) - {damaged.name}


async def test_a_log_that_can_not_be_read_is_not_tried_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that finds nothing to do its work on is not started every few seconds."""
    said: list[str | None] = []
    starts: list[int] = []
    plain = index_task.SegmentIndexing._run_process

    def count(self: index_task.SegmentIndexing) -> Indexed:
        starts.append(1)
        return plain(self)

    monkeypatch.setattr(index_task.SegmentIndexing, "_run_process", count)
    indexing = index_task.SegmentIndexing(
        tmp_path / "none", newest=lambda: "000000000000-2026-11-22.audit", set_trouble=lambda _, text: said.append(text)
    )
    with anyio.move_on_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(indexing.run)
            while not said:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            group.cancel_scope.cancel()
    assert len(starts) == 1
    assert "can't be read" in (said[0] or "")
