"""A directory as a sink: every engine's promises, and what can happen to a directory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread
import msgspec
import pytest

from audit_async._chain import BadRecord
from audit_async._durable import disk
from audit_async.errors import ConfigError
from audit_async.forwarding import DirectorySink, SinkFull, SinkRefused, SinkUnavailable
from tests.forwarding.logs_to_ship import a_batch, a_log, batches
from tests.forwarding.sink_contract import SinkContract, read

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A prepared directory."""
    root = tmp_path / "medium"
    root.mkdir()
    DirectorySink.prepare(root)
    return root


class TestContract(SinkContract):
    """What every engine promises."""

    @pytest.fixture(autouse=True)
    def _root(self, root: Path) -> None:
        self.root = root

    async def host(self) -> DirectorySink:
        """Open the directory."""
        return DirectorySink(self.root, tenant="acme")

    collector = host


async def test_a_medium_that_is_not_there_is_unavailable_and_not_empty(root: Path, tmp_path: Path) -> None:
    """Missing, or an empty mount point: nothing is made there, and no log looks as if it had to be shipped again."""
    log, batch = a_log(), a_batch(None)
    (tmp_path / "mount_point").mkdir()
    for missing in (tmp_path / "nothing", tmp_path / "mount_point"):
        sink = DirectorySink(missing, tenant="acme")
        with pytest.raises(SinkUnavailable, match=r"DirectorySink\.prepare"):
            await sink.head(log)
        with pytest.raises(SinkUnavailable, match=r"DirectorySink\.prepare"):
            await sink.append(log, batch, after=None)
    assert os.listdir(tmp_path / "mount_point") == []
    DirectorySink.prepare(root)
    assert await DirectorySink(root, tenant="acme").head(log) is None


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, SinkFull), (errno.EDQUOT, SinkFull), (errno.EROFS, SinkRefused), (errno.EIO, SinkUnavailable)],
)
async def test_a_disk_that_refuses_stores_nothing_and_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    """By what a forwarder has to do about it; the next try stores the batch once."""
    log, (first, second) = a_log(), batches(2)

    def refuse(fd: int) -> None:
        raise OSError(number, os.strerror(number), "a file of the medium")

    async with DirectorySink(root, tenant="acme") as sink:
        await sink.append(log, first, after=None)
        with monkeypatch.context() as patched:
            patched.setattr(disk, "sync_data", refuse)
            with pytest.raises(kind, match="a file of the medium"):
                await sink.append(log, second, after=first.head)
        assert await sink.head(log) == first.head
        await sink.append(log, second, after=first.head)
        assert await read(sink, log) == [first, second]


async def test_a_batch_is_synced_before_it_has_its_name_and_the_name_before_it_is_acknowledged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the names of the directories above it, up to the root; and a head is synced before it is answered."""
    calls: list[str] = []

    def recorded(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def record(*args: object, **kwargs: object) -> None:
            calls.append(f"{name} {os.readlink(f'/proc/self/fd/{args[0]}')}" if name != "rename" else name)
            call(*args, **kwargs)

        return record

    log, batch = a_log(), a_batch(None)
    for name in ("sync_data", "sync_directory", "rename"):
        monkeypatch.setattr(disk, name, recorded(name, getattr(disk, name)))
    async with DirectorySink(root, tenant="acme") as sink:
        await sink.append(log, batch, after=None)
        directory = root / log.path()
        above = [f"sync_directory {parent}" for parent in [*directory.parents][:4]]
        assert set(calls[:4]) == set(above)
        assert calls[4:] == [f"sync_data {directory}/unfinished", "rename", f"sync_directory {directory}"]
        calls.clear()
        await sink.head(log)
        assert calls == [f"sync_directory {directory}"]


async def test_what_a_killed_process_left_unfinished_is_not_in_the_log(root: Path) -> None:
    """Half of a batch never has a batch's name, and does not keep the next one out."""
    log, (first, second) = a_log(), batches(2)
    async with DirectorySink(root, tenant="acme") as sink:
        await sink.append(log, first, after=None)
        (root / log.path() / "unfinished").write_bytes(second.lines[:100])
        assert await sink.head(log) == first.head
        assert await read(sink, log) == [first]
        await sink.append(log, second, after=first.head)
        assert await read(sink, log) == [first, second]


SHIP = """
import asyncio, sys
from audit_async.forwarding import DirectorySink, HeadMoved
from tests.forwarding.logs_to_ship import a_batch, a_log

async def ship():
    sink, log = DirectorySink(sys.argv[1], tenant="acme"), a_log(log_id="a-log")
    head = await sink.head(log)
    while True:
        batch = a_batch(head, 50)
        await sink.append(log, batch, after=head)
        head = batch.head
        print(head.seq, head.hash, flush=True)

asyncio.run(ship())
"""


def _killed_after(lines: int, root: Path) -> str:
    """Kill a process that stores batches once it has acknowledged some; return its last acknowledgement."""
    with subprocess.Popen([sys.executable, "-c", SHIP, str(root)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = [process.stdout.readline() for _ in range(lines)]
        finally:
            process.kill()
        return [*said, *process.stdout.readlines()][-1]


async def test_a_process_killed_while_it_stores_loses_nothing_acknowledged(root: Path) -> None:
    """Five times with kill -9: what was acknowledged is there once, and every batch follows the one before."""
    log = a_log(log_id="a-log")
    for acknowledged in range(1, 6):
        seq, hash_ = (await anyio.to_thread.run_sync(_killed_after, acknowledged, root)).split()
        async with DirectorySink(root, tenant="acme") as sink:
            found = await read(sink, log)
            assert [batch.prev for batch in found[1:]] == [batch.last_hash for batch in found[:-1]]
            assert any((batch.last_seq, batch.last_hash) == (int(seq), hash_) for batch in found[-2:])


async def test_a_lock_that_is_held_for_too_long_is_unavailable(root: Path) -> None:
    """And says whose log it is; the log is not changed."""
    log, (first, second) = a_log(), batches(2)
    async with DirectorySink(root, tenant="acme", timeout_s=0.05) as sink:
        await sink.append(log, first, after=None)
        fd = disk.open_file(str(root / log.path() / "lock"), writable=True)
        try:
            disk.lock(fd)
            with pytest.raises(SinkUnavailable, match=log.log_id):
                await sink.append(log, second, after=first.head)
        finally:
            disk.close(fd)
        assert await sink.head(log) == first.head


async def test_names_with_dots_and_strange_letters_come_back_as_they_were(root: Path) -> None:
    """And what is no log in the tenant's directory is not listed."""
    log = a_log(service="a.b c", host="..", instance="0.0", log_id="ä%2E")
    async with DirectorySink(root, tenant="acme") as sink:
        await sink.append(log, a_batch(None), after=None)
        (root / "acme" / "web" / "x" / "no.log").mkdir(parents=True)
        (root / "acme" / "notes").write_text("by hand")
        assert await sink.logs() == [log]


async def test_a_batch_that_was_changed_in_the_directory_fails_its_check(root: Path) -> None:
    """The directory is a copy, and no evidence: whoever reads it checks."""
    log, batch = a_log(), a_batch(None)
    async with DirectorySink(root, tenant="acme") as sink:
        await sink.append(log, batch, after=None)
        [file] = (root / log.path()).glob("*.lines")
        file.write_bytes(batch.lines.replace(b"test.made", b"test.fake"))
        with pytest.raises(BadRecord, match="hash"):
            await read(sink, log)
        forged = a_batch(None, text="one")
        forged = msgspec.structs.replace(forged, lines=forged.lines.replace(b"one", b"two"))
        with pytest.raises(SinkRefused, match="hash"):
            await sink.append(a_log(), forged, after=None)


@pytest.mark.parametrize("wrong", [{"tenant": ""}, {"tenant": "a/b"}, {"timeout_s": 0}, {"timeout_s": float("nan")}])
async def test_a_sink_that_could_not_work_is_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    """When it is made."""
    with pytest.raises(ConfigError):
        DirectorySink(tmp_path, **({"tenant": "acme"} | wrong))  # type: ignore[arg-type]
