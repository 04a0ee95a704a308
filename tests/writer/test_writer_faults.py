"""A disk that refuses, and a writer that breaks: nothing acknowledged is lost, and nothing passes in silence.

The faults are injected at the store's `commit`, since the subject here is what the writer makes of them; the store's
own tests break real disks.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from audit_async import AuditConfig, AuditLogger, BufferFull, HealthStatus, Local, LogLocked, WriteFailed
from audit_async._store.log_store import LogStore
from audit_async._writer.writer_health import WriterHealth
from audit_async.status import Condition
from tests.logs import ConfigFor, Counted, failure, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio

Breaker = Callable[[Exception | None], None]


@pytest.fixture
def break_commits(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """Return a switch: from now on each commit accepts its batch and raises this; None mends it."""
    broken: list[Exception | None] = [None]
    commit = LogStore.commit
    accepted: dict[LogStore, list[Any]] = {}

    def breaking(self: LogStore, batch: Any, *, sync: bool) -> Any:
        if broken[0] is not None:
            accepted.setdefault(self, []).append(batch)
            raise broken[0]
        for each in accepted.pop(self, []):
            commit(self, each, sync=False)
        return commit(self, batch, sync=sync)

    monkeypatch.setattr(LogStore, "commit", breaking)

    def switch(error: Exception | None) -> None:
        broken[0] = error

    return switch


def no_space() -> OSError:
    """Return what a full disk says."""
    return OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_is_waited_out(
    config_for: ConfigFor, break_commits: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    """While the disk refuses, events are kept and health says so at once; afterwards all are written, in order."""
    config = config_for()
    async with AuditLogger(config) as audit:
        break_commits(no_space())
        receipts = [audit.emit(Counted(producer="p", n=n)) for n in range(500)]
        with anyio.fail_after(60):
            while audit.stats().write_errors < 2:
                await anyio.sleep(0.001)
        receipts += [audit.emit(Counted(producer="p", n=n)) for n in range(500, 600)]
        health = audit.health()
        assert (health.status, health.ok) == (HealthStatus.DEGRADED, False)
        assert "No space left" in str(health.reason)
        assert not any(receipt.is_durable for receipt in receipts)
        break_commits(None)
        with anyio.fail_after(60):
            await receipts[-1].durable()
        assert audit.health().status is HealthStatus.OK
    events = [r["event"] for r in read_events(log_directory(config))]
    assert [event["n"] for event in events if "n" in event] == list(range(600))
    warnings = [r for r in caplog.records if r.name == "audit_async" and r.levelno == logging.WARNING]
    assert len(warnings) == 2, "one for each change of state, not one for each try"
    check_trail(log_directory(config))


async def test_emit_fails_only_when_the_buffer_is_full(config_for: ConfigFor, break_commits: Breaker) -> None:
    """A failing disk does not refuse events as long as there is memory for them, and never more than that."""
    config = config_for(buffer_events=1000)
    async with AuditLogger(config) as audit:
        break_commits(no_space())
        for n in range(900):
            audit.emit(Counted(producer="p", n=n))
            await anyio.lowlevel.checkpoint()
        with pytest.raises(BufferFull):
            audit.emit(Counted(producer="p", n=-1))
        assert audit.stats().waiting == 900
        break_commits(None)
        await audit.flush()
    check_trail(log_directory(config))


async def test_closing_while_the_disk_fails_says_what_is_lost(config_for: ConfigFor, break_commits: Breaker) -> None:
    """After `drain_timeout` the end comes, and it is an error that names the number of events; receipts raise too."""
    config = config_for(drain_timeout=0.2)
    audit = AuditLogger(config)
    await audit.start()
    break_commits(no_space())
    receipts = [audit.emit(Counted(producer="p", n=n)) for n in range(7)]
    with pytest.raises(WriteFailed, match=r"8 events"):  # with audit.log_closed
        await audit.aclose()
    with pytest.raises(WriteFailed):
        await receipts[0].durable()
    assert audit.health().status is HealthStatus.FAILED
    await audit.aclose()  # it was told once
    break_commits(None)
    async with AuditLogger(config_for()) as audit:  # the lock is free again, and the chain as it was acknowledged
        await audit.emit_durable(failure())
    check_trail(log_directory(config))


async def test_a_disk_that_comes_back_during_the_drain_loses_nothing(
    config_for: ConfigFor, break_commits: Breaker
) -> None:
    """The drain keeps trying: an outage shorter than `drain_timeout` costs nothing."""
    config = config_for(drain_timeout=60.0)
    async with AuditLogger(config) as audit, anyio.create_task_group() as group:
        break_commits(no_space())
        for n in range(7):
            audit.emit(Counted(producer="p", n=n))

        async def mend() -> None:
            while audit.stats().write_errors < 2:
                await anyio.sleep(0.001)
            break_commits(None)

        group.start_soon(mend)
        await audit.aclose()
    events = read_events(log_directory(config))
    assert [r["event"]["n"] for r in events if "n" in r["event"]] == list(range(7))
    assert events[-1]["event"]["event_type"] == "audit.log_closed"


async def test_a_broken_writer_cancels_nobody_and_is_not_silent(
    config_for: ConfigFor, break_commits: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect in the writer leaves the host's tasks alone; emit, flush, receipts and closing raise `WriteFailed`."""
    config = config_for()
    host_survived = False
    audit = AuditLogger(config)
    async with anyio.create_task_group() as group:
        await audit.start()
        break_commits(ZeroDivisionError("a defect"))
        receipt = audit.emit(failure())
        with pytest.raises(WriteFailed, match="a defect"):
            await receipt.durable()
        with pytest.raises(WriteFailed) as caught:
            audit.emit(failure())
        assert caught.value.__cause__ is not None
        for broken in (audit.flush, lambda: audit.emit_durable(failure()), receipt.durable):
            with pytest.raises(WriteFailed):
                await broken()
        assert audit.health().status is HealthStatus.FAILED
        assert "a defect" in str(audit.health().reason)
        assert not group.cancel_scope.cancel_called
        host_survived = True
        with pytest.raises(WriteFailed):
            await audit.aclose()
    assert host_survived
    assert [r for r in caplog.records if r.levelno == logging.ERROR]
    break_commits(None)
    async with AuditLogger(config):
        pass


async def test_the_applications_own_error_is_not_hidden_by_ours(config_for: ConfigFor, break_commits: Breaker) -> None:
    """When both fail, the application's exception is raised, with a note about the log."""
    with pytest.raises(LookupError) as caught:
        async with AuditLogger(config_for(drain_timeout=0.1)) as audit:
            break_commits(no_space())
            audit.emit(failure())
            raise LookupError
    assert any("not known to be durable" in note for note in caught.value.__notes__)


async def test_a_log_that_cannot_be_written_does_not_start(config_for: ConfigFor, break_commits: Breaker) -> None:
    """A start on a full disk raises at once instead of promising; it leaves no lock behind."""
    break_commits(no_space())
    with pytest.raises(WriteFailed, match="No space left"):
        await AuditLogger(config_for(instance="one")).start()
    break_commits(None)
    try:
        async with AuditLogger(config_for(instance="one")):
            pass
    except LogLocked:
        pytest.fail("the failed start kept the lock")
    check_trail(log_directory(config_for(), "one"))


async def test_a_directory_that_cant_be_made_says_what_to_do(tmp_path: Path) -> None:
    """The error of a first start names the path, the reason and the setting to change."""
    (tmp_path / "file").touch()
    config = AuditConfig(mode=Local(tmp_path / "file" / "audit"), service_id="orders")
    with pytest.raises(WriteFailed, match=r"file.*Not a directory.*choose another base_dir"):
        await AuditLogger(config).start()


@pytest.mark.parametrize("disk_comes_back", [True, False])
async def test_a_log_that_has_failed_stays_failed(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, *, disk_comes_back: bool
) -> None:
    """A commit that ends after the log was given up tells its receipts, and does not make the log well again."""
    released = threading.Event()
    commit, free_bytes = LogStore.commit, LogStore.free_bytes
    config = config_for(drain_timeout=0.2)
    audit = AuditLogger(config)
    await audit.start()

    def hanging(self: LogStore, batch: Any, *, sync: bool) -> Any:
        released.wait(120)
        if not disk_comes_back:
            raise no_space()
        return commit(self, batch, sync=sync)

    looked = threading.Event()

    def looking(self: LogStore) -> int:
        looked.set()
        return free_bytes(self)

    monkeypatch.setattr(LogStore, "commit", hanging)
    monkeypatch.setattr(LogStore, "free_bytes", looking)
    monkeypatch.setattr("audit_async._writer.commits._SPACE_INTERVAL_S", 0.0)
    receipt = audit.emit(failure())
    with pytest.raises(WriteFailed):
        await audit.aclose()
    assert audit.health().status is HealthStatus.FAILED
    released.set()
    with anyio.fail_after(60):
        while not looked.is_set() or (disk_comes_back and not receipt.is_durable):
            await anyio.sleep(0.001)
        await anyio.sleep(0.05)  # the loop has been told by now
    assert audit.health().status is HealthStatus.FAILED
    assert receipt.is_durable is disk_comes_back


async def test_tries_come_ever_more_seldom(config_for: ConfigFor, break_commits: Breaker) -> None:
    """The pauses double from 0.1 s to 5 s, and begin anew with the next outage."""
    async with AuditLogger(config_for()) as audit:
        assert audit._session is not None
        writer = audit._session.writer
        for _ in range(2):
            pauses: list[float] = []
            audit.emit(failure())
            tried = audit.stats().write_errors
            break_commits(no_space())
            for tries in range(1, 9):
                pauses.append(writer._commits._retry_s)
                with anyio.fail_after(60):
                    while audit.stats().write_errors < tried + tries:
                        await anyio.lowlevel.checkpoint()
                writer.retry_now()  # instead of waiting for the pause
            assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
            break_commits(None)
            with anyio.fail_after(60):
                await audit.flush()


async def test_space_that_runs_low_is_reported_before_it_is_gone(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With less than `low_disk_bytes` left the log works, and says so in `health()` and one warning, until it ends."""
    left = [1 << 40]
    monkeypatch.setattr(LogStore, "free_bytes", lambda _: left[0])
    monkeypatch.setattr("audit_async._writer.commits._SPACE_INTERVAL_S", 0.0)
    async with AuditLogger(config_for()) as audit:
        await audit.emit_durable(failure())
        assert audit.health().status is HealthStatus.OK
        left[0] = (64 << 20) - 1
        for _ in range(3):
            await audit.emit_durable(failure())
        health = audit.health()
        assert (health.status, health.ok) == (HealthStatus.LOW_DISK, True)
        assert str(left[0]) in str(health.reason)
        left[0] = 64 << 20
        await audit.emit_durable(failure())
        assert audit.health().status is HealthStatus.OK
    warnings = [r for r in caplog.records if r.name == "audit_async" and r.levelno == logging.WARNING]
    assert len(warnings) == 2, "one for each change of state"


@pytest.mark.parametrize(
    ("age_s", "refused", "status"),
    [
        (4.9, 0, HealthStatus.OK),
        (5.0, 0, HealthStatus.STALLED),
        (0.9, 3, HealthStatus.OK),
        (1.0, 3, HealthStatus.STALLED),
    ],
)
def test_a_disk_that_does_not_answer_is_said_in_time(age_s: float, refused: int, status: HealthStatus) -> None:
    """After five seconds; after one if events are refused meanwhile."""
    condition = Condition(HealthStatus.OK)
    WriterHealth(condition, "/var/lib/audit", 0).under_way(age_s, refused)
    assert condition.status is status
    assert ("events were refused" in (condition.reason or "")) == (status is HealthStatus.STALLED and refused > 0)
