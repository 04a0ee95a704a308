"""Each system call of the store fails, in turn and in every way: nothing acknowledged is lost, and the log goes on.

The faults are injected at `audit_async._durable.disk`, the one place that touches the disk, since a real disk can't be
told to fail at the seventh fsync. A sync that fails drops what it should have written, as a kernel may: the bytes
since the last good sync read as zeros afterwards, so whoever believes the file again is found out.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditLogger, Batched, HealthStatus, Immediate, Local, Receipt, RotationPolicy
from audit_async._durable import disk
from audit_async._writer import commits
from audit_async.config import FlushMode
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio

CALLS = (
    "write_at",
    "write_and_sync_at",
    "sync_data",
    "sync_directory",
    "create_file",
    "rename",
    "change_mode",
    "truncate",
)
SYNCS = ("sync_data", "write_and_sync_at")
EVENTS = 40


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough here: the subject is the disk."""
    return "asyncio"


class FaultyDisk:
    """Counts the store's calls, and makes some of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.failing: Callable[[str, int], int] = lambda _call, _number: 0  #: the errno of the n-th call, or 0
        self.armed = False  #: until then nothing fails
        self.failed = 0
        self.distrusted: set[tuple[int, int]] = set()
        self.synced_again: list[tuple[int, int]] = []
        self._durable_bytes: dict[tuple[int, int], int] = {}
        for call in CALLS:
            monkeypatch.setattr(disk, call, self._wrapped(call, getattr(disk, call)))
        monkeypatch.setattr(commits, "_FIRST_RETRY_S", 0.001)
        monkeypatch.setattr(commits, "_LAST_RETRY_S", 0.002)

    def _wrapped(self, call: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.calls[call] += 1
            code = self.failing(call, self.calls[call]) if self.armed else 0
            if code:
                self.failed += 1
                self._fail(call, args, code)
            result = function(*args, **kwargs)
            if call in SYNCS:
                self._note_sync(args[0])
            elif call == "create_file":  # a new file may have the inode of one that was removed
                self.distrusted.discard(self._identity(result))
                self._durable_bytes.pop(self._identity(result), None)
            return result

        return wrapper

    def _identity(self, fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def _note_sync(self, fd: int) -> None:
        identity = self._identity(fd)
        if identity in self.distrusted:
            self.synced_again.append(identity)
        self._durable_bytes[identity] = os.fstat(fd).st_size

    def _fail(self, call: str, args: tuple[Any, ...], code: int) -> None:
        if call in {"write_at", "write_and_sync_at"}:
            fd, data, offset = args
            os.pwrite(fd, data[: len(data) // 2], offset)  # a part of it arrives
        if call in SYNCS:
            identity = self._identity(args[0])
            self.distrusted.add(identity)
            begin, end = self._durable_bytes.get(identity, 0), os.fstat(args[0]).st_size
            os.pwrite(args[0], b"\0" * (end - begin), begin)
        raise OSError(code, os.strerror(code))


@pytest.fixture
def faulty_disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    """Put a disk that can fail under the store."""
    return FaultyDisk(monkeypatch)


async def record_events(config_for: ConfigFor, mode: FlushMode, faulty: FaultyDisk) -> list[Receipt]:
    """Record events over several segments; the faults begin once the log is open."""
    config = config_for(flush_mode=mode, rotation=RotationPolicy(max_bytes=5000), instance="00")
    receipts = []
    async with AuditLogger(config) as audit:
        faulty.calls.clear()
        faulty.armed = True
        for n in range(EVENTS):
            receipts.append(audit.emit(Counted(producer="p", n=n)))
            if n % 4 == 3:
                with anyio.fail_after(60):
                    await audit.flush()
        faulty.armed = False
        with anyio.fail_after(60):
            await audit.flush()
        assert audit.health().status is HealthStatus.OK
    return receipts


def assert_nothing_lost(directory: Path, receipts: list[Receipt], faulty: FaultyDisk) -> None:
    """Check the trail, that each event is in it once where its receipt says, and that no bad file was believed."""
    check_trail(directory)
    records = {record["audit_id"]: record for record in read_events(directory)}
    events = [record for record in records.values() if "n" in record["event"]]
    assert [record["event"]["n"] for record in events] == list(range(EVENTS))
    for receipt in receipts:
        assert receipt.is_durable
        assert (records[receipt.audit_id]["seq"], records[receipt.audit_id]["hash"]) == (receipt.seq, receipt.hash)
    assert not faulty.synced_again, "a file whose sync has failed was synced again, and believed"


MODES = [pytest.param(Immediate(), id="immediate"), pytest.param(Batched(size=3, interval=0.5), id="batched")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("code", "tries"), [(errno.EIO, 1), (errno.ENOSPC, 1), (errno.EDQUOT, 3), (errno.EROFS, 5)])
async def test_any_call_may_fail_at_any_time(
    tmp_path: Path,
    config_for: ConfigFor,
    monkeypatch: pytest.MonkeyPatch,
    *,
    mode: FlushMode,
    call: str,
    code: int,
    tries: int,
) -> None:
    """Whichever call fails, whenever, once or a few times: every event is in the trail, and the log opens again."""

    def failing_from(number: int) -> Callable[[str, int], int]:
        return lambda name, nth: code if name == call and number <= nth < number + tries else 0

    number, failed = 1, True
    while failed:
        with monkeypatch.context() as patch:
            faulty = FaultyDisk(patch)
            faulty.failing = failing_from(number)
            local = Local(tmp_path / f"{number}")
            receipts = await record_events(partial(config_for, mode=local), mode, faulty)
            assert_nothing_lost(tmp_path / f"{number}" / "orders" / "00", receipts, faulty)
            failed = faulty.failed > 0
        number += 1
    async with AuditLogger(config_for(mode=Local(tmp_path / "1"), instance="00")) as audit:
        assert (await audit.emit_durable(Counted(producer="p", n=-1))).seq > EVENTS


async def test_a_failed_sync_moves_what_was_not_acknowledged_to_a_new_segment(
    config_for: ConfigFor, faulty_disk: FaultyDisk
) -> None:
    """The file is cut back to what was acknowledged; the records behind, byte for byte, begin the next segment."""
    config = config_for(flush_mode=Batched(size=1000, interval=100.0))
    async with AuditLogger(config) as audit:
        await audit.emit_durable(Counted(producer="p", n=0))
        receipts = [audit.emit(Counted(producer="p", n=n)) for n in (1, 2)]
        with anyio.fail_after(60):
            while audit.stats().commits < 3:
                await anyio.sleep(0.001)
        faulty_disk.armed = True
        faulty_disk.failing = lambda call, _number: errno.EIO if call in SYNCS and not faulty_disk.failed else 0
        await audit.flush()
        assert [receipt.seq for receipt in receipts] == [2, 3]
    first, second = sorted(log_directory(config).glob("*.audit"))
    assert (first.name[:12], second.name[:12]) == ("000000000000", "000000000002")
    assert first.read_bytes().count(b"\n") == 2
    check_trail(log_directory(config))


async def test_nothing_is_acknowledged_without_a_sync(config_for: ConfigFor, faulty_disk: FaultyDisk) -> None:
    """Every acknowledgement has a sync of its own bytes before it: the file is durable up to the record's end."""
    config = config_for(flush_mode=Immediate())
    async with AuditLogger(config) as audit:
        for n in range(20):
            await audit.emit_durable(Counted(producer="p", n=n))
            (segment,) = log_directory(config).glob("*.audit")
            status = segment.stat()
            assert faulty_disk._durable_bytes[status.st_dev, status.st_ino] == status.st_size
            assert faulty_disk.calls["sync_directory"] > 0


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="the system calls of Linux")
async def test_a_sync_is_a_system_call(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called a sync reaches the kernel: fdatasync, or a write that is flagged to be synced."""
    syncs = 0
    fdatasync, pwritev = os.fdatasync, os.pwritev

    def counted_fdatasync(fd: int) -> None:
        nonlocal syncs
        syncs += 1
        fdatasync(fd)

    def counted_pwritev(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        nonlocal syncs
        syncs += bool(flags & os.RWF_DSYNC)
        return pwritev(fd, buffers, offset, flags)

    config = config_for(flush_mode=Batched(size=1000, interval=100.0))
    async with AuditLogger(config) as audit:
        monkeypatch.setattr(os, "fdatasync", counted_fdatasync)
        monkeypatch.setattr(os, "pwritev", counted_pwritev)
        for n in range(5):
            await audit.emit_durable(Counted(producer="p", n=n))
            assert syncs == n + 1
        commits = audit.stats().commits
        audit.emit(Counted(producer="p", n=5))
        with anyio.fail_after(60):
            while audit.stats().commits == commits:
                await anyio.sleep(0.001)
        assert syncs == 5, "written, and not synced yet"
        await audit.flush()
        assert syncs == 6
