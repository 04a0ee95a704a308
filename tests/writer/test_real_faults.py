"""Faults of a real kernel: a full tmpfs, and a FUSE file system whose calls fail; nothing acknowledged is lost.

`tests/writer/test_disk_faults.py` does the same at the store's own calls, in more ways than a real disk allows.
"""

from __future__ import annotations

import errno
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import run_process

from audit_async import AuditConfig, AuditLogger, BufferFull, HealthStatus, Local, Receipt, RotationPolicy, WriteFailed
from audit_async._writer import commits
from tests.campaign import sampled
from tests.logs import Counted, log_directory
from tests.store.failing_disk import FailingDisk, mounted
from tests.trails import check_trail, read_events

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="tmpfs and FUSE as Linux has them"),
]

MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough here: the subject is the disk."""
    return "asyncio"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a tmpfs of 2 MiB; skipped where this process may not mount."""
    path = tmp_path / "small"
    path.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(path)]
    mounting = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounting.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounting.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingDisk]:
    """Mount a file system that fails on demand, once for all tests."""
    with mounted(tmp_path_factory.mktemp("fuse")) as failing_disk:
        yield failing_disk


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon: the waits are another test's subject."""
    monkeypatch.setattr(commits, "_FIRST_RETRY_S", 0.002)
    monkeypatch.setattr(commits, "_LAST_RETRY_S", 0.02)


def config_on(path: Path, **settings: object) -> AuditConfig:
    """Return the configuration of a log on that file system."""
    base = {"mode": Local(path / "audit"), "service_id": "orders", "handle_signals": False, "low_disk_bytes": 0}
    return AuditConfig(**(base | settings))  # type: ignore[arg-type]  # each test names settings that exist


def assert_recorded(config: AuditConfig, receipts: list[Receipt]) -> None:
    """Assert that each event is in the trail once, where its receipt says, and that the trail verifies."""
    check_trail(log_directory(config))
    recorded = {
        record["audit_id"]: (record["seq"], record["hash"])
        for record in read_events(log_directory(config))
        if "n" in record["event"]
    }
    assert recorded == {receipt.audit_id: (receipt.seq, receipt.hash) for receipt in receipts}


async def wait_for(audit: AuditLogger, status: HealthStatus) -> None:
    """Wait until the log's health is this."""
    with anyio.fail_after(60):
        while audit.health().status is not status:
            await anyio.sleep(0.002)


async def test_a_full_disk(small_disk: Path) -> None:
    """On a tmpfs that is full, events are kept; once there is room again all of them are written, in order."""
    ballast = small_disk / "ballast"
    config = config_on(small_disk, buffer_bytes=16 * MIB)
    receipts: list[Receipt] = []
    async with AuditLogger(config) as audit:
        ballast.write_bytes(bytes(MIB))
        receipts.extend(audit.emit(Counted(producer="x" * 100, n=n)) for n in range(4000))  # about 1.5 MiB
        await wait_for(audit, HealthStatus.DEGRADED)
        assert "No space left" in (audit.health().reason or "")
        acknowledged = [receipt for receipt in receipts if receipt.is_durable]
        whole_lines = b"".join(path.read_bytes() for path in sorted(log_directory(config).glob("*.audit")))
        assert all(f'"audit_id":"{receipt.audit_id}"'.encode() in whole_lines for receipt in acknowledged)
        assert len(acknowledged) < len(receipts)
        ballast.unlink()
        with anyio.fail_after(60):
            await audit.flush()
        assert audit.health().status is HealthStatus.OK
    assert_recorded(config, receipts)


def fill(ballast: Path) -> None:
    """Write until the file system has no byte left."""
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


async def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    """A log that can't write its first record says so at the start, and starts when there is room."""
    ballast = small_disk / "ballast"
    fill(ballast)
    config = config_on(small_disk)
    with pytest.raises(WriteFailed, match="No space left"):
        await AuditLogger(config).start()
    ballast.unlink()
    async with AuditLogger(config) as audit:
        receipts = [audit.emit(Counted(producer="p", n=0))]
    assert_recorded(config, receipts)


@pytest.mark.parametrize("text", ["x", "x" * 8000], ids=["small", "large"])
async def test_memory_stays_bounded_while_the_disk_is_full(small_disk: Path, text: str) -> None:
    """With a disk that takes nothing, memory stays below `buffer_bytes` and a write's buffer, however long it lasts."""
    config = config_on(small_disk, buffer_bytes=4 * MIB, buffer_events=100_000, max_field_chars=10_000)
    async with AuditLogger(config) as audit:
        await audit.flush()
        ballast = small_disk / "ballast"
        fill(ballast)
        gc.collect()
        taken = 0
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(20):
                with pytest.raises(BufferFull):
                    while True:
                        audit.emit(Counted(producer=text, n=taken))  # nobody keeps the receipt
                        taken += 1
                tries = audit.stats().write_errors
                with anyio.fail_after(60):
                    while audit.stats().write_errors == tries:
                        await anyio.sleep(0.002)
            held = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        assert taken > 300
        assert held < 4 * MIB + MIB // 4
        ballast.unlink()
        await run_process(["mount", "-o", "remount,size=64m", str(small_disk)])
        with anyio.fail_after(60):
            await audit.flush()
    events = [record["event"] for record in read_events(log_directory(config))]
    assert [event["n"] for event in events if "n" in event] == list(range(taken))
    refused = sum(event["count"] for event in events if event["event_type"] == "audit.events_dropped")
    assert refused == 20, "each refusal is in the chain"
    check_trail(log_directory(config))


FAULTS = [
    (errno.EIO, ("write",)),
    (errno.EIO, ("fsync",)),
    (errno.EIO, ("fsyncdir",)),
    (errno.EIO, ("rename",)),
    (errno.EIO, ("create", "open")),
    (errno.EIO, ("unlink", "chmod", "truncate")),
    (errno.EDQUOT, ("write", "create")),
    (errno.EROFS, ("write", "create")),
]


@sampled(3)
@pytest.mark.parametrize(
    ("code", "calls"), FAULTS, ids=["-".join([errno.errorcode[code], *calls]) for code, calls in FAULTS]
)
async def test_each_real_call_fails_in_turn(
    failing_disk: FailingDisk, code: int, calls: tuple[str, ...], every: int
) -> None:
    """A real EIO, EDQUOT or EROFS at each write, fsync, rename and open in turn, also while the log is opened."""
    start, made = 1, 1
    while start <= made:
        config = config_on(
            failing_disk.path / f"{'-'.join(calls)}-{code}-{start}", rotation=RotationPolicy(max_bytes=1500)
        )
        failing_disk.fail(calls, code, start=start, times=1)
        receipts = await session(config, 0) + await session(config, 100)
        made = failing_disk.counted()
        failing_disk.mend()
        receipts += await session(config, 200)
        assert_recorded(config, receipts)
        start += every


async def session(config: AuditConfig, first: int) -> list[Receipt]:
    """Record events over several segments; an opening that fails is tried again."""
    receipts = []
    audit = AuditLogger(config)
    try:
        await audit.start()
    except (WriteFailed, OSError):
        audit = AuditLogger(config)
        await audit.start()
    try:
        for n in range(first, first + 9):
            receipts.append(audit.emit(Counted(producer="p", n=n)))
            if n % 3 == 2:
                with anyio.fail_after(60):
                    await audit.flush()
                assert receipts[-1].is_durable
    finally:
        await audit.aclose()
    return receipts


async def test_a_disk_that_fails_for_a_while(failing_disk: FailingDisk) -> None:
    """While every sync fails, nothing is acknowledged; when they work again, all is written and nothing was lost."""
    config = config_on(failing_disk.path / "while")
    async with AuditLogger(config) as audit:
        receipts = [audit.emit(Counted(producer="p", n=n)) for n in range(100)]
        await audit.flush()
        failing_disk.fail(("fsync", "fsyncdir"), errno.EIO)
        receipts += [audit.emit(Counted(producer="p", n=n)) for n in range(100, 200)]
        await wait_for(audit, HealthStatus.DEGRADED)
        with anyio.fail_after(60):
            while failing_disk.counted() < 30:
                await anyio.sleep(0.002)
        assert [receipt.is_durable for receipt in receipts] == [True] * 100 + [False] * 100
        reason = audit.health().reason
        assert reason is not None
        assert reason.startswith("OSError: [Errno 5] ")
        assert "Input/output error" in reason
        failing_disk.mend()
        with anyio.fail_after(60):
            await audit.flush()
        assert audit.health().status is HealthStatus.OK
    assert_recorded(config, receipts)
