"""The durable tail gives what is acknowledged, byte for byte, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audit_async import AuditConfig, AuditLogger, Batched, Local
from audit_async._durable import disk
from audit_async._layout.lock_file import HEAD_AT, head_line, read_acknowledged
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.forwarding import Batch, Head, LogDiffers, RecordsUnreadable, durable_tail
from audit_async.forwarding.log_tail import LogTail
from tests.age_keys import RECIPIENT
from tests.logs import failure, log_directory, segment_lines

pytestmark = pytest.mark.anyio


def config_in(directory: Path, **settings: object) -> AuditConfig:
    """Return the configuration of a log in a directory."""
    settings = {"mode": Local(directory), "service_id": "orders", "handle_signals": False} | settings
    return AuditConfig(**settings)  # type: ignore[arg-type]  # what a test gives


async def written(config: AuditConfig, events: int) -> Path:
    """Write a session of a log, and return its directory."""
    async with AuditLogger(config) as audit:
        for n in range(events):
            audit.emit(failure(n))
    return log_directory(config)


async def shipped(directory: Path, after: Head | None = None, **how: int) -> list[Batch]:
    """Return all batches that are there."""
    return [batch async for batch in durable_tail(directory, after, follow=False, **how)]


def lines_of(batches: list[Batch]) -> bytes:
    """Return the lines of batches that hold."""
    for batch in batches:
        batch.check()
    return b"".join(batch.lines for batch in batches)


async def test_the_tail_is_the_bytes_of_the_log_from_any_record_on(tmp_path: Path) -> None:
    """Whatever the segments and the size of a batch, joined they are what is on the disk."""
    config = config_in(tmp_path, rotation=RotationPolicy(max_bytes=20_000))
    directory = await written(config, 300)
    everything = segment_lines(directory)
    assert len(list(directory.glob("*.audit"))) > 3
    batches = await shipped(directory, max_batch_bytes=5000)
    assert lines_of(batches) == b"".join(everything)
    assert max(len(batch.lines) for batch in batches) <= 5000
    for seq in (0, 1, 57, 150, len(everything) - 2):
        after = Head(seq=seq, hash=json.loads(everything[seq])["hash"])
        assert lines_of(await shipped(directory, after)) == b"".join(everything[seq + 1 :])
    end = batches[-1].head
    assert await shipped(directory, end) == []
    assert (await shipped(directory, max_batch_bytes=1))[7].lines == everything[7]


async def test_archived_segments_are_read_as_well(tmp_path: Path) -> None:
    """Compression changes nothing; what is deleted is said by name, with what would have kept it."""
    config = config_in(
        tmp_path,
        rotation=RotationPolicy(max_bytes=20_000),
        retention=RetentionPolicy(automatic=False, archive_after_days=0),
    )
    directory = await written(config, 300)
    everything = segment_lines(directory)
    async with AuditLogger(config) as audit:
        await audit.apply_retention()
    assert list(directory.glob("archive/*.zst"))
    assert lines_of(await shipped(directory))[: sum(map(len, everything))] == b"".join(everything)
    after = Head(seq=57, hash=json.loads(everything[57])["hash"])
    assert lines_of(await shipped(directory, after)).startswith(everything[58])


async def test_only_what_is_acknowledged_is_shipped(tmp_path: Path) -> None:
    """Whole lines that were written and not synced are not, until they are; the writer's head says it."""
    config = config_in(tmp_path, flush_mode=Batched(size=1000, interval=3600.0))
    async with AuditLogger(config) as audit:
        directory = log_directory(config)
        await audit.flush()
        durable = lines_of(await shipped(directory))
        for n in range(5):
            audit.emit(failure(n))
        async with asyncio.timeout(60):
            while len(segment_lines(directory)) < 6:
                await asyncio.sleep(0.01)
        assert lines_of(await shipped(directory)) == durable
        await audit.flush()
        async with asyncio.timeout(60):
            while lines_of(await shipped(directory)) != b"".join(segment_lines(directory)):
                await asyncio.sleep(0.01)
    assert lines_of(await shipped(directory)) == b"".join(segment_lines(directory))


async def test_a_killed_writers_unacknowledged_lines_wait_for_the_next_opening(tmp_path: Path) -> None:
    """They may be taken back by a power cut; once the log is opened again they are in the chain for good."""
    code = (
        "import asyncio, sys, os, signal\n"
        "from audit_async import *\n"
        "from tests.logs import failure\n"
        "async def main():\n"
        "    mode = Batched(size=1000, interval=3600.0)\n"
        "    config = AuditConfig(mode=Local(sys.argv[1]), service_id='orders', flush_mode=mode)\n"
        "    async with AuditLogger(config) as audit:\n"
        "        await audit.emit_durable(failure())\n"
        "        audit.emit(failure())\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as writer:  # noqa: ASYNC220 - nothing else runs
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            directory = tmp_path / "orders" / "00"
            async with asyncio.timeout(60):
                while (
                    len(segment_lines(directory)) < 3 or (head := read_acknowledged(directory)) is None or head.seq < 1
                ):
                    await asyncio.sleep(0.01)
        finally:
            writer.send_signal(signal.SIGKILL)
    lines = segment_lines(directory)
    assert lines_of(await shipped(directory)) == b"".join(lines[:2])
    await written(config_in(tmp_path), 0)
    assert lines_of(await shipped(directory)) == b"".join(segment_lines(directory))
    assert segment_lines(directory)[:3] == lines


async def test_following_goes_across_rotation_and_a_restart(tmp_path: Path) -> None:
    """A tail that waits gets what two sessions write, as it is acknowledged."""
    config = config_in(tmp_path, rotation=RotationPolicy(max_bytes=20_000))
    await written(config, 1)
    directory = log_directory(config)
    got: list[Batch] = []

    async def follow() -> None:
        async for batch in durable_tail(directory):
            got.append(batch)  # noqa: PERF401 - it is looked at meanwhile

    task = asyncio.create_task(follow())
    for _ in range(2):
        await written(config, 150)
    async with asyncio.timeout(60):
        while not got or got[-1].last_seq < len(segment_lines(directory)) - 1:
            await asyncio.sleep(0.01)
    task.cancel()
    assert lines_of(got) == b"".join(segment_lines(directory))


async def test_a_failed_sync_ships_nothing_that_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it the file is cut and the records go to a new one; the tail gives each once, from wherever it is."""
    config = config_in(tmp_path)
    async with AuditLogger(config) as audit:
        directory = log_directory(config)
        await audit.emit_durable(failure())
        tail = LogTail(directory)
        async with asyncio.timeout(60):
            while (batch := tail.read()) is None:
                await asyncio.sleep(0.01)
        first = batch
        failures = iter([True])
        write_and_sync = disk.write_and_sync_at

        def failing(fd: int, data: bytes, offset: int) -> None:
            write_and_sync(fd, data, offset)
            if next(failures, False):
                raise OSError(5, "no")

        monkeypatch.setattr(disk, "write_and_sync_at", failing)
        receipt = audit.emit(failure(1))
        await receipt.durable()
    assert len(list(directory.glob("*.audit"))) == 2
    batches = [first]
    while (more := tail.read()) is not None:
        batches.append(more)
    tail.close()
    assert lines_of(batches) == b"".join(segment_lines(directory))


async def test_a_log_that_was_rewritten_cut_or_exchanged_is_refused(tmp_path: Path) -> None:
    """A head that the log does not have is an error that says which; so are acknowledged records that are gone."""
    directory = await written(config_in(tmp_path / "a"), 5)
    other = await written(config_in(tmp_path / "b"), 5)
    end = (await shipped(directory))[-1].head
    with pytest.raises(LogDiffers, match="another one") as forked:
        await shipped(other, end)
    assert forked.value.kind == "fork"
    with pytest.raises(LogDiffers, match="ends before record 99") as cut:
        await shipped(directory, Head(seq=99, hash=end.hash))
    assert cut.value.kind == "cut"
    [segment] = directory.glob("*.audit")
    os.truncate(segment, len(b"".join(segment_lines(directory)[:3])))
    with pytest.raises(LogDiffers, match="which was durable"):
        await shipped(directory, Head(seq=1, hash=json.loads(segment_lines(directory)[1])["hash"]))


async def test_a_damaged_line_is_never_shipped(tmp_path: Path) -> None:
    """What comes before it is; the error names the file and the record."""
    directory = await written(config_in(tmp_path), 5)
    [segment] = directory.glob("*.audit")
    segment.chmod(0o600)
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b"/login/3", b"/login/4"))
    tail = LogTail(directory, max_batch_bytes=1)
    got = b""
    with pytest.raises(RecordsUnreadable, match=r"\.audit: record 4 is damaged") as error:
        while (batch := tail.read()) is not None:
            got += batch.lines
    tail.close()
    assert content.startswith(got)
    assert got.count(b"\n") == 4
    assert "login" not in str(error.value)


async def test_without_a_published_head_what_is_sealed_is_shipped(tmp_path: Path) -> None:
    """Earlier releases publish none: nobody can say what of their active segment is acknowledged."""
    config = config_in(tmp_path, rotation=RotationPolicy(max_bytes=20_000))
    directory = await written(config, 100)
    (directory / "lock").write_bytes(b"1234\n")
    assert read_acknowledged(directory) is None
    manifest = json.loads((directory / "manifest.json").read_bytes())
    sealed = manifest["segments"][-1]["last_seq"]
    assert (await shipped(directory))[-1].last_seq == sealed
    await written(config, 0)
    assert lines_of(await shipped(directory)) == b"".join(segment_lines(directory))


async def test_a_published_head_that_is_half_written_is_no_head(tmp_path: Path) -> None:
    """Its checksum shows it."""
    directory = await written(config_in(tmp_path), 1)
    head = read_acknowledged(directory)
    assert head is not None
    content = (directory / "lock").read_bytes()
    assert content[HEAD_AT:] == head_line(head)
    (directory / "lock").write_bytes(content.replace(b"acknowledged 0000", b"acknowledged 0001"))
    assert read_acknowledged(directory) is None


async def test_what_is_deleted_or_encrypted_is_said_by_name(tmp_path: Path) -> None:
    """With what would have kept it; and a tail that has the segment open reads it to its end."""
    config = config_in(
        tmp_path,
        rotation=RotationPolicy(max_bytes=20_000),
        retention=RetentionPolicy(automatic=False, archive_after_days=0, archive_recipients=(RECIPIENT,)),
    )
    directory = await written(config, 100)
    before = b"".join(segment_lines(directory))
    reading, late = LogTail(directory, max_batch_bytes=1), LogTail(directory)
    first = reading.read()
    assert first is not None
    got = first.lines
    async with AuditLogger(config) as audit:
        await audit.apply_retention()
    with pytest.raises(RecordsUnreadable, match=r"000000000000-.*\.audit: record 0 .*encrypted archive"):
        late.read()
    with pytest.raises(RecordsUnreadable, match="encrypted archive"):
        while (batch := reading.read()) is not None:
            got += batch.lines
    assert before.startswith(got)
    assert got.count(b"\n") == int(sorted(directory.glob("archive/*"))[1].name[:12])
    manifest = (directory / "manifest.json").read_bytes()
    (directory / "manifest.json").write_bytes(manifest.replace(b'"archived"', b'"deleted"', 1))
    with pytest.raises(RecordsUnreadable, match="its segment is deleted; retention with hold_unshipped"):
        late.read()
    reading.close()
    late.close()
