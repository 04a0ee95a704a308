"""Retention and holds of an open log: each step is in the chain before it is taken, and a hold stops them all."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from audit_async import (
    AuditConfig,
    AuditLogger,
    ConfigError,
    Disabled,
    Hold,
    InvalidEvent,
    Local,
    LogClosed,
    LogCorrupted,
    RetentionPolicy,
    RetentionRefused,
)
from audit_async._chain import START, check_record
from audit_async._layout.archive_reading import open_segment_for_reading
from audit_async._layout.hold_file import read_hold
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._store.archiving import Archive, compress_segment
from audit_async._store.log_store import LogStore
from audit_async._writer import upkeep
from audit_async.events.lifecycle import AuditLogAccessed
from tests.logs import ConfigFor, Counted, log_directory, segment_lines
from tests.store.chained import memory_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio

POLICY = RetentionPolicy(min_retention_days=200, archive_after_days=90, delete_after_days=365, automatic=False)


class Clock:
    """A wall clock that the test sets: for the timestamps of records, and for what retention takes for now."""

    def __init__(self) -> None:
        self.days = 0

    def time_ns(self) -> int:
        """Return what `time.time_ns` would on that day."""
        return time.time_ns() + self.days * 86_400 * 10**9

    def now(self) -> datetime:
        """Return the present of that day."""
        return datetime.now(UTC) + timedelta(days=self.days)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stamp the records of this test by a clock that the test sets."""
    clock = Clock()
    for module in ("audit_async.logger.audit_logger", "audit_async._writer.buffer", "audit_async._writer.intake"):
        monkeypatch.setattr(f"{module}.time_ns", clock.time_ns)
    return clock


@pytest.fixture
def in_memory() -> Iterator[AuditConfig]:
    """Give a configuration of a log in memory, for tests with hundreds of segments."""
    with memory_directory() as base_dir:
        yield AuditConfig(mode=Local(base_dir), service_id="orders", retention=POLICY, handle_signals=False)


def believe(audit: AuditLogger, clock: Clock) -> None:
    """Let retention go by the test's clock, and believe its jumps."""
    assert audit._session is not None
    audit._session.upkeep._now = clock.now
    audit._session.upkeep._jumped_s = float("inf")


async def write_days(audit: AuditLogger, clock: Clock, days: int) -> None:
    """Write two records a day; the next day begins behind the last."""
    for day in range(days):
        audit.emit(Counted(producer="test", n=2 * day))
        await audit.emit_durable(Counted(producer="test", n=2 * day + 1))
        clock.days += 1


def check_whole(log: Path) -> list[int]:
    """Verify every record that the log still holds, archives included; return their sequence numbers."""
    head = START
    seqs = []
    for entry in read_manifest(log):
        assert (entry.first_seq, entry.prev_hash.encode()) == (head.seq + 1, head.hash)
        if entry.state != "deleted":
            with open_segment_for_reading(log, entry) as file:
                for line in file:
                    head = check_record(line, head).head
                    seqs.append(head.seq)
        head = entry.head
    for line in max(log.glob("*.audit")).read_bytes().splitlines(keepends=True):
        head = check_record(line, head).head
        seqs.append(head.seq)
    return seqs


def told(config: AuditConfig, kind: str) -> list[dict[str, object]]:
    """Return the events of this type that stand in the live segments."""
    events = [record["event"] for record in read_events(log_directory(config))]
    return [event for event in events if event["event_type"] == kind]


async def test_four_hundred_days(in_memory: AuditConfig, clock: Clock) -> None:
    """After 400 days what is due is archived or deleted, every step is in the chain, and all that is left verifies."""
    log = log_directory(in_memory)
    async with AuditLogger(in_memory) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 400)
        planned = await audit.apply_retention(dry_run=True)
        assert {entry.state for entry in read_manifest(log)} == {"live"}, "a dry run changes nothing"
        report = await audit.apply_retention()
        assert report.ok
        assert [(s.action, s.segment) for s in report.steps] == [(s.action, s.segment) for s in planned.steps]
        assert all(step.done for step in report.steps)
        assert not any(step.done for step in planned.steps)
        assert (await audit.apply_retention()).steps == (), "what is done is not done again"
    for entry in read_manifest(log):
        age_days = (clock.now() - datetime.fromisoformat(entry.last_timestamp)).days
        assert entry.state == ("deleted" if age_days >= 365 else "archived" if age_days >= 90 else "live")
    deleted = [step for step in report.steps if step.action == "delete"]
    archived = [step for step in report.steps if step.action == "archive"]
    assert len(deleted) >= 30
    assert len(archived) >= 200
    assert [event["segment"] for event in told(in_memory, "audit.segment_deleted")] == [s.segment for s in deleted]
    assert [event["segment"] for event in told(in_memory, "audit.segment_archived")] == [s.segment for s in archived]
    boundary = told(in_memory, "audit.segment_deleted")[-1]
    first_left = read_manifest(log)[len(deleted)]
    assert boundary["hash"] == first_left.prev_hash, "the chain itself keeps the hash at the boundary"
    seqs = check_whole(log)
    assert seqs == list(range(first_left.first_seq, seqs[-1] + 1))
    check_trail(log)
    async with AuditLogger(in_memory) as audit:
        assert (await audit.emit_durable(Counted(producer="again", n=0))).seq > seqs[-1]


async def test_a_step_is_durable_in_the_chain_before_it_is_taken(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a segment is about to go, the record that says so is on the disk."""
    config = config_for(retention=POLICY)
    seen: list[tuple[str, str]] = []
    archive_segments, delete_segments = LogStore.archive_segments, LogStore.delete_segments

    def says(kind: str, segment: str) -> bool:
        return any(event["segment"] == segment for event in told(config, kind))

    def archive(log_store: LogStore, archives: Sequence[Archive]) -> None:
        for archive in archives:
            assert says("audit.segment_archived", archive.segment)
            seen.append(("archive", archive.segment))
        archive_segments(log_store, archives)

    def delete(log_store: LogStore, segments: Sequence[str]) -> None:
        for segment in segments:
            assert says("audit.segment_deleted", segment)
            seen.append(("delete", segment))
        delete_segments(log_store, segments)

    monkeypatch.setattr(LogStore, "archive_segments", archive)
    monkeypatch.setattr(LogStore, "delete_segments", delete)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 2)
        clock.days += 100
        await write_days(audit, clock, 1)
        assert [step.action for step in (await audit.apply_retention()).steps] == ["archive", "archive"]
        clock.days += 300
        report = await audit.apply_retention()
        assert report.ok
    assert [action for action, _ in seen].count("delete") == 2


async def test_a_hold_stops_retention_until_it_is_lifted(config_for: ConfigFor, clock: Clock) -> None:
    """A hold is in force at once, recorded, and outlives a restart; lifting it is recorded before it takes effect."""
    config = config_for(retention=POLICY)
    log = log_directory(config)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 3)
        clock.days += 400
        assert await audit.hold() is None
        hold = await audit.set_hold(reason="case 4711", set_by="legal")
        assert hold == await audit.hold() == read_hold(log)
        assert isinstance(hold, Hold)
        assert (hold.reason, hold.set_by) == ("case 4711", "legal")
        assert await audit.set_hold(reason="case 4712", set_by="legal") == hold, "the one in force stays"
        report = await audit.apply_retention()
        assert (report.steps, report.hold) == ((), hold)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        assert await audit.hold() == hold
        assert (await audit.apply_retention()).steps == ()
        await audit.lift_hold(reason="settled", lifted_by="legal")
        await audit.lift_hold(reason="there is none any more", lifted_by="legal")
        assert await audit.hold() is None
        assert len((await audit.apply_retention()).steps) >= 2
    assert [event["reason"] for event in told(config, "audit.hold_set")] == ["case 4711", "case 4712"]
    assert [event["reason"] for event in told(config, "audit.hold_lifted")] == ["settled"]


async def test_a_hold_set_while_retention_runs_stops_what_is_left(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two segments retention asks again whether there is a hold."""
    config = config_for(retention=POLICY)
    delete_segments = LogStore.delete_segments
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 4)
        clock.days += 400

        def delete_and_hold(log_store: LogStore, segments: Sequence[str]) -> None:
            delete_segments(log_store, segments)
            log_store.set_hold(reason="just now", set_by="legal", now=clock.now())

        monkeypatch.setattr(LogStore, "delete_segments", delete_and_hold)
        report = await audit.apply_retention()
        assert [step.done for step in report.steps] == [True] + [False] * (len(report.steps) - 1)
        assert all("legal hold" in step.error for step in report.steps if step.error is not None)
    assert len(told(config, "audit.segment_deleted")) == 1, "nothing is told that did not happen"


@pytest.mark.parametrize("action", ["archive", "delete"])
async def test_steps_that_were_recorded_and_not_taken_are_recorded_as_not_taken(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """A hold that comes between the record and the step: the chain says of each segment that it was kept."""
    config = config_for(retention=POLICY)
    name = f"{action}_segments"
    step_of_store = getattr(LogStore, name)
    monkeypatch.setattr(LogStore, "steps_at_once", 10)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 4)
        clock.days += 400 if action == "delete" else 100

        def hold_first(log_store: LogStore, what: object) -> None:
            log_store.set_hold(reason="just now", set_by="legal", now=clock.now())
            step_of_store(log_store, what)

        with monkeypatch.context() as patch:
            patch.setattr(LogStore, name, hold_first)
            report = await audit.apply_retention()
        assert not any(step.done for step in report.steps if step.action == action)
        recorded = told(config, f"audit.segment_{action}d")
        kept = told(config, "audit.segment_kept")
        assert len(recorded) > 1
        assert [(event["segment"], event["step"]) for event in kept] == [
            (event["segment"], action) for event in recorded
        ]
        assert all("legal hold" in str(event["reason"]) for event in kept)
        await audit.lift_hold(reason="settled", lifted_by="legal")
        assert (await audit.apply_retention()).ok
    assert len(told(config, "audit.segment_kept")) == len(kept), "what was taken is not said to be kept"
    check_whole(log_directory(config))


async def test_a_step_that_fails_is_reported_and_done_the_next_time(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stops no other segment's turn, leaves the segment as it was, and the next run finishes it."""
    config = config_for(retention=POLICY)
    log = log_directory(config)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 3)
        clock.days += 100
        with monkeypatch.context() as patch:
            compress = compress_segment
            failing = read_manifest(log)[0].segment

            def no_space(directory: Path, segment: object, *rest: object, **how: object) -> Archive:
                if getattr(segment, "segment", None) == failing:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return compress(directory, segment, *rest, **how)  # type: ignore[arg-type]  # passed on as they came

            patch.setattr(upkeep, "compress_segment", no_space)
            report = await audit.apply_retention()
        assert not report.ok
        assert [(step.segment == failing, step.done) for step in report.steps[:2]] == [(True, False), (False, True)]
        assert "No space" in (report.steps[0].error or "")
        assert [entry.state for entry in read_manifest(log)[:2]] == ["live", "archived"]
        assert (await audit.apply_retention()).ok
        assert [entry.state for entry in read_manifest(log)[:2]] == ["archived", "archived"]
    check_whole(log)


async def test_files_that_could_not_be_removed_are_removed_by_the_next_run(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that is archived, and whose live file stayed for an I/O error, loses it at the next run."""
    config = config_for(retention=POLICY)
    log = log_directory(config)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 2)
        clock.days += 100
        with monkeypatch.context() as patch:

            def refuse(*_: object, **__: object) -> None:
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr("audit_async._durable.disk.unlink", refuse)
            report = await audit.apply_retention()
            assert not report.ok
        first = read_manifest(log)[0].segment
        assert (log / first).exists()
        await audit.apply_retention()
        assert not (log / first).exists()
    check_whole(log)


async def test_damage_that_retention_meets_is_recorded_once(config_for: ConfigFor, clock: Clock) -> None:
    """A sealed segment that somebody changed is neither archived nor passed over in silence."""
    config = config_for(retention=POLICY)
    log = log_directory(config)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 3)
        clock.days += 100
        victim = log / read_manifest(log)[0].segment
        victim.chmod(0o600)
        victim.write_bytes(victim.read_bytes().replace(b'"test"', b'"tast"', 1))
        for _ in range(2):
            report = await audit.apply_retention()
            assert "SHA-256 differs" in (report.steps[0].error or "")
        assert victim.exists()
    (damaged,) = told(config, "audit.segment_damaged")
    assert damaged["segment"] == victim.name


async def test_an_archive_that_is_missing_stops_retention(config_for: ConfigFor, clock: Clock) -> None:
    """Nothing more is deleted from a log of which an archive has gone."""
    config = config_for(retention=POLICY)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 3)
        clock.days += 100
        await audit.apply_retention()
        next((log_directory(config) / "archive").iterdir()).unlink()
        with pytest.raises(LogCorrupted, match="archived segment is missing"):
            await audit.apply_retention()


async def test_a_clock_set_forward_deletes_nothing(config_for: ConfigFor, clock: Clock) -> None:
    """Seven years of evidence don't depend on one wrong setting of a clock."""
    config = config_for(retention=POLICY)
    async with AuditLogger(config) as audit:
        await write_days(audit, clock, 3)
        clock.days += 4000
        assert audit._session is not None
        audit._session.upkeep._now = clock.now
        with pytest.raises(RetentionRefused, match=r"set forward by 400\d\.\d days"):
            await audit.apply_retention()
        assert (await audit.apply_retention(dry_run=True)).steps != (), "asking is harmless"
    assert {entry.state for entry in read_manifest(log_directory(config))} == {"live"}


async def test_another_time_is_for_asking_only(config_for: ConfigFor) -> None:
    """`at` can't be used to delete before the time, and needs a time zone."""
    async with AuditLogger(config_for(retention=POLICY)) as audit:
        await audit.emit_durable(Counted(producer="test", n=0))
        for wrong in (
            {"at": datetime.now(UTC)},
            {"at": datetime.now(), "dry_run": True},  # noqa: DTZ005 - that is what is refused
        ):
            with pytest.raises(ConfigError, match="at: "):
                await audit.apply_retention(**wrong)
        report = await audit.apply_retention(dry_run=True, at=datetime.now(UTC) + timedelta(days=4000))
        assert report.dry_run


@pytest.mark.parametrize("automatic", [True, False])
async def test_the_policy_is_applied_daily_by_itself(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch, automatic: bool
) -> None:
    """An open log archives what is due without being asked; with `automatic` off it leaves that to its owner."""
    config = config_for(retention=RetentionPolicy(archive_after_days=90, automatic=automatic))
    async with AuditLogger(config) as audit:
        await write_days(audit, clock, 3)
    monkeypatch.setattr(upkeep, "_FIRST_RUN_S", 0.0)
    monkeypatch.setattr(upkeep, "_DAY_S", 0.01)
    clock.days += 100
    applied = anyio.Event()
    apply = upkeep.Upkeep.apply

    async def apply_by_clock(self: upkeep.Upkeep, **arguments: object) -> upkeep.RetentionReport:
        self._now, self._jumped_s = clock.now, float("inf")
        report = await apply(self, **arguments)  # type: ignore[arg-type]  # passed on as they came
        if not report.steps:  # the second run: all is done
            applied.set()
        return report

    monkeypatch.setattr(upkeep.Upkeep, "apply", apply_by_clock)
    async with AuditLogger(config) as audit:
        if automatic:
            with anyio.fail_after(60):
                await applied.wait()
        else:
            names = {task.name for task in anyio.get_running_tasks()}
            assert not any("retention" in (name or "") for name in names)
        await audit.flush()
    assert {entry.state for entry in read_manifest(log_directory(config))[:2]} == {"archived" if automatic else "live"}


async def test_a_daily_run_that_fails_is_said_once_and_goes_on(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same trouble each day is one warning, and the log is not disturbed by it."""
    monkeypatch.setattr(upkeep, "_FIRST_RUN_S", 0.0)
    monkeypatch.setattr(upkeep, "_DAY_S", 0.0)
    runs = 0
    enough = anyio.Event()

    async def fail(self: upkeep.Upkeep, **_: object) -> upkeep.RetentionReport:
        nonlocal runs
        runs += 1
        if runs == 3:
            enough.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(upkeep.Upkeep, "apply", fail)
    async with AuditLogger(config_for()) as audit:
        with anyio.fail_after(60):
            await enough.wait()
        assert audit.health().ok
    assert sum("not all that is due could be done" in record.message for record in caplog.records) == 1


async def test_closing_does_not_wait_for_a_long_compression(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is closed while a segment is being compressed stops that, and the next session starts anew."""
    config = config_for(retention=POLICY)
    log = log_directory(config)
    compressing = threading.Event()
    compress = compress_segment

    def endless(directory: Path, segment: object, stopped: object, **how: object) -> Archive:
        compressing.set()
        while not stopped():  # type: ignore[operator]  # it is a callable
            time.sleep(0.001)
        return compress(directory, segment, stopped, **how)  # type: ignore[arg-type]  # passed on as they came

    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 2)
        clock.days += 100
        monkeypatch.setattr(upkeep, "compress_segment", endless)
        reports: list[upkeep.RetentionReport] = []

        async def apply() -> None:
            reports.append(await audit.apply_retention())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(apply)
            with anyio.fail_after(60):
                assert await anyio.to_thread.run_sync(compressing.wait, 60)
                await audit.aclose()
        assert not reports[0].ok
    monkeypatch.setattr(upkeep, "compress_segment", compress)
    assert {entry.state for entry in read_manifest(log)} == {"live"}
    assert list((log / "archive").iterdir()) == []
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        assert (await audit.apply_retention()).ok
    check_whole(log)
    check_trail(log)


async def test_a_run_that_is_cancelled_has_stopped_before_the_next_begins(
    config_for: ConfigFor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads never compress one segment: they would remove and rename each other's unfinished files."""
    running: list[int] = []
    most: list[int] = []

    def slow(directory: Path, segment: SealedSegment, stopped: Callable[[], bool], **how: Any) -> Archive:
        running.append(1)
        most.append(len(running))
        try:
            while len(most) == 1 and not stopped():  # the first one, which is cancelled
                time.sleep(0.001)
            time.sleep(0.05)  # in which a second one would begin
            return compress_segment(directory, segment, stopped, **how)
        finally:
            running.pop()

    monkeypatch.setattr(upkeep, "compress_segment", slow)
    config = config_for(retention=POLICY)
    async with AuditLogger(config) as audit:
        believe(audit, clock)
        await write_days(audit, clock, 3)
        clock.days += 100
        first = asyncio.get_running_loop().create_task(audit.apply_retention())
        with anyio.fail_after(60):
            while not running:
                await anyio.sleep(0.001)
            first.cancel()
            report = await audit.apply_retention()
            with pytest.raises(asyncio.CancelledError):
                await first
        assert report.ok
        assert report.steps
    assert set(most) == {1}


async def test_retention_can_be_asked_for_from_another_loop(config_for: ConfigFor) -> None:
    """A worker thread with an event loop of its own may apply retention and set a hold."""
    async with AuditLogger(config_for(retention=POLICY)) as audit:

        async def elsewhere() -> Hold:
            assert (await audit.apply_retention()).ok
            return await audit.set_hold(reason="asked for elsewhere", set_by="legal")

        hold = await anyio.to_thread.run_sync(anyio.run, elsewhere)
        assert await audit.hold() == hold


async def test_a_log_that_is_not_open_keeps_nothing_and_forgets_nothing(config_for: ConfigFor) -> None:
    """Before the start and after the end there is a clear error; a disabled logger has nothing to keep."""
    audit = AuditLogger(config_for())
    with pytest.raises(LogClosed):
        await audit.apply_retention()
    async with audit:
        pass
    for call in (
        audit.apply_retention,
        audit.hold,
        lambda: audit.set_hold(reason="", set_by=""),
        lambda: audit.lift_hold(reason="", lifted_by=""),
    ):
        with pytest.raises(LogClosed):
            await call()
    async with AuditLogger(AuditConfig(mode=Disabled())) as disabled:
        assert (await disabled.apply_retention()).steps == ()
        assert not disabled.record_access("auditor", {}).is_durable


async def test_who_reads_the_trail_is_recorded(config_for: ConfigFor) -> None:
    """`record_access` puts `audit.log_accessed` into the chain from any thread, also where the buffer is full."""
    config = config_for(buffer_events=10, buffer_bytes=1 << 20)
    async with AuditLogger(config) as audit:
        with pytest.raises(InvalidEvent):
            audit.emit(AuditLogAccessed(actor="mallory", query={}))
        for n in range(20):
            audit.record_access("alice", {"text": f"\x1b[2J{n}"}, n)
        receipt = await anyio.to_thread.run_sync(audit.record_access, "bob", {"limit": 3})
        await receipt.durable()
    accesses = told(config, "audit.log_accessed")
    assert [event["actor"] for event in accesses] == ["alice"] * 20 + ["bob"]
    assert accesses[0]["query"] == {"text": "\\x1b[2J0"}
    assert len(segment_lines(log_directory(config))) == 23
    with pytest.raises(LogClosed):
        audit.record_access("eve", {})
