"""Each way in which an engine, a host or both can fail: nothing is lost or twice, and a changed log is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._layout.confirmed_file import read_confirmed
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.errors import ConfigError
from audit_async.forwarding import (
    Batch,
    Confirmation,
    DirectorySink,
    Forwarder,
    Head,
    HeadMoved,
    LogIdentity,
    RecordTooLarge,
    ShippingFinding,
    ShippingState,
    ShippingStatus,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
    open_sink,
)
from audit_async.forwarding.confirmations import sign_confirmation
from audit_async.forwarding.shipping import LogShipping
from tests.forwarding.failing_sink import FailingSink
from tests.forwarding.test_confirmations import made_signer
from tests.logs import failure, segment_lines

pytestmark = pytest.mark.anyio

ROTATION = RotationPolicy(max_bytes=20_000)


def config_in(base_dir: Path, **settings: object) -> AuditConfig:
    """Return the configuration of a service's log."""
    settings = {
        "mode": Local(base_dir), "service_id": "orders", "handle_signals": False, "rotation": ROTATION
    } | settings  # fmt: skip
    return AuditConfig(**settings)  # type: ignore[arg-type]  # what a test gives


async def write(base_dir: Path, events: int = 100, **settings: object) -> Path:
    """Write a session of a log; return its directory."""
    config = config_in(base_dir, **settings)
    async with AuditLogger(config) as audit:
        for n in range(events):
            audit.emit(failure(n))
    return base_dir / config.service_id / "00"


class Host:
    """A machine with a base directory, and an engine that is a directory."""

    def __init__(self, directory: Path, medium: Path) -> None:
        self.base_dir = directory / "audit"
        self.log_dir = self.base_dir / "orders" / "00"
        self.medium = medium
        self.sink = FailingSink(DirectorySink(medium, tenant="acme"))
        self.findings: list[ShippingFinding] = []

    def forwarder(self, **settings: object) -> Forwarder:
        """Return a new forwarder, as after a restart."""
        how = {"tenant": "acme", "host": "web-1", "on_finding": self.findings.append} | settings
        return Forwarder(self.base_dir, self.sink, **how)  # type: ignore[arg-type]  # what a test gives

    async def ship(self, **settings: object) -> ShippingStatus:
        """Ship the one log there is."""
        [status] = await self.forwarder(**settings).run_once()
        return status

    async def stored(self, log: LogIdentity | None = None) -> bytes:
        """Return what the engine has of the log, each record once and linked, or this raises."""
        [found] = [log] if log is not None else await self.sink.logs()
        return await stored(self.sink.sink, found)

    def local(self) -> bytes:
        """Return the log's bytes."""
        return b"".join(segment_lines(self.log_dir))


async def stored(sink: object, log: LogIdentity) -> bytes:
    """Return what a sink has of a log, checked."""
    lines, due = b"", None
    async for batch in sink.read(log, None):  # type: ignore[attr-defined]  # a sink
        batch.check()
        assert (batch.first_seq, batch.prev) == ((0, "0" * 64) if due is None else (due.seq + 1, due.hash))
        lines, due = lines + batch.lines, batch.head
    return lines


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host, and a prepared medium."""
    medium = tmp_path / "medium"
    medium.mkdir()
    DirectorySink.prepare(medium)
    return Host(tmp_path, medium)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a shipping waits after failures; nothing is waited for."""
    waited: list[float] = []

    async def pause(_self: LogShipping, seconds: float) -> None:
        waited.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(LogShipping, "_pause", pause)
    return waited


async def shipped_by(forwarder: Forwarder, done: Callable[[], bool]) -> None:
    """Let a forwarder run until something is so."""
    task = asyncio.create_task(forwarder.run())
    async with asyncio.timeout(60):
        while not done():
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


async def test_what_is_shipped_is_the_log_byte_for_byte(host: Host) -> None:
    """With its log.json; a second time nothing is sent, and later only what is new."""
    await write(host.base_dir)
    status = await host.ship()
    assert status.state is ShippingState.CAUGHT_UP
    assert status.lag_records == 0
    [log] = await host.sink.logs()
    identity = json.loads((host.log_dir / "log.json").read_bytes())
    assert (log.service, log.host, log.instance, log.log_id) == ("orders", "web-1", "00", identity["log_id"])
    assert await host.sink.description(log) == (host.log_dir / "log.json").read_bytes()
    assert await host.stored() == host.local()
    before = len(host.sink.appended)
    await host.ship()
    assert len(host.sink.appended) == before
    await write(host.base_dir, 3)
    await host.ship()
    assert await host.stored() == host.local()
    assert host.findings == []


async def test_all_logs_of_a_base_directory_are_shipped_and_new_ones_as_they_appear(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that can't be shipped keeps none of the others; the forwarder may be there before the first log is."""
    monkeypatch.setattr("audit_async.forwarding.forwarder._LOOK_FOR_LOGS_S", 0.01)
    forwarder = host.forwarder()
    task = asyncio.create_task(forwarder.run())
    for service in ("orders", "billing", "users"):
        await write(host.base_dir, 10, service_id=service)
    bad = host.base_dir / "bad" / "00"
    bad.mkdir(parents=True)
    (bad / "log.json").write_bytes(b"{}")
    async with AuditLogger(config_in(host.base_dir, service_id="late")) as audit:
        await audit.emit_durable(failure())
        async with asyncio.timeout(60):
            while len(forwarder.statuses) < 4 or any(
                status.shipped is None or status.state is not ShippingState.CAUGHT_UP for status in forwarder.statuses
            ):
                await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await host.forwarder().run_once()
    logs = await host.sink.logs()
    assert {log.service for log in logs} == {"orders", "billing", "users", "late"}
    for log in logs:
        assert await host.stored(log) == b"".join(segment_lines(host.base_dir / log.service / "00"))


async def test_an_engine_that_does_not_answer_is_waited_for(host: Host, pauses: list[float]) -> None:
    """For minutes or days: longer each time, up to a minute, not in step with other hosts; then all is sent."""
    await write(host.base_dir)
    host.sink.before["head"] = [SinkUnavailable("no route") for _ in range(40)]
    forwarder = host.forwarder()
    await shipped_by(forwarder, lambda: [s.state for s in forwarder.statuses] == [ShippingState.CAUGHT_UP])
    assert await host.stored() == host.local()
    waited = [pause for pause in pauses if pause]
    assert waited[0] <= 0.5
    assert all(30 <= pause <= 60 for pause in waited[10:40])
    assert len(set(waited)) > 30
    assert host.findings == []
    host.sink.before["head"] = [SinkUnavailable("no route")]
    status = await host.ship()  # which doesn't wait
    assert (status.state, status.problem) == (ShippingState.UNAVAILABLE, "no route")


@pytest.mark.parametrize("call", ["head", "append", "describe", "confirmation"])
async def test_wherever_it_fails_it_is_tried_again(host: Host, tmp_path: Path, pauses: list[float], call: str) -> None:
    """Every call may fail, and every batch may be the one."""
    await write(host.base_dir, 300)
    keys = [Collector(tmp_path).key] if call == "confirmation" else []
    host.sink.before[call] = [SinkUnavailable("gone"), SinkUnavailable("gone")]
    forwarder = host.forwarder(collector_keys=keys)
    await shipped_by(forwarder, lambda: [s.state for s in forwarder.statuses] == [ShippingState.CAUGHT_UP])
    assert await host.stored() == host.local()
    assert len([pause for pause in pauses if pause]) == 2


async def test_a_full_engine_is_said_and_waited_for(host: Host, pauses: list[float]) -> None:
    """It is a state of its own, since somebody has to make room."""
    await write(host.base_dir)
    host.sink.before["append"] = [SinkFull("no space") for _ in range(3)]
    status = await host.ship()
    assert (status.state, status.problem) == (ShippingState.FULL, "no space")
    assert status.lag_records > 0
    forwarder = host.forwarder()
    await shipped_by(forwarder, lambda: [s.state for s in forwarder.statuses] == [ShippingState.CAUGHT_UP])
    assert await host.stored() == host.local()


async def test_a_lost_answer_stores_nothing_twice(host: Host, pauses: list[float]) -> None:
    """The batch is stored and the answer is not heard: the head shows it."""
    await write(host.base_dir, 300)
    host.sink.after["append"] = [SinkUnavailable("cut off") for _ in range(2)]
    forwarder = host.forwarder()
    await shipped_by(forwarder, lambda: [s.state for s in forwarder.statuses] == [ShippingState.CAUGHT_UP])
    assert await host.stored() == host.local()
    assert host.findings == []


async def test_two_forwarders_may_ship_one_log(host: Host) -> None:
    """Each append is on the condition of the head, so every record is stored once."""
    await write(host.base_dir, 10)
    forwarders = [host.forwarder() for _ in range(3)]
    tasks = [asyncio.create_task(forwarder.run()) for forwarder in forwarders]
    async with AuditLogger(config_in(host.base_dir)) as audit:
        for n in range(300):
            await audit.emit_durable(failure(n))
    async with asyncio.timeout(60):
        while any(not f.statuses or f.statuses[0].acknowledged_seq < 313 for f in forwarders):
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await host.ship()
    assert await host.stored() == host.local()
    assert host.findings == []


async def test_an_engine_that_lost_its_newest_records_gets_them_again(host: Host, pauses: list[float]) -> None:
    """A failover, or a restored backup: while it runs the forwarder knows, and says so."""
    await write(host.base_dir, 50)
    forwarder = host.forwarder()
    [one] = forwarder._ships(forwarder._find())
    await one.run_once()
    await write(host.base_dir, 50)
    await one.run_once()
    max(host.medium.rglob("*.lines")).unlink()
    await one.run_once()
    assert await host.stored() == host.local()
    assert [finding.kind for finding in host.findings] == ["engine_went_back"]
    for file in host.medium.rglob("*.lines"):
        file.unlink()
    await one.run_once()
    assert await host.stored() == host.local()
    assert [finding.kind for finding in host.findings] == ["engine_went_back", "engine_lost_log"]


async def test_a_rewritten_log_is_refused(host: Host) -> None:
    """Another log under the same log_id: nothing of it is stored, and the finding says which record differs."""
    await write(host.base_dir, 5)
    await host.ship()
    before = await host.stored()
    identity = (host.log_dir / "log.json").read_bytes()
    shutil.rmtree(host.log_dir)
    host.log_dir.mkdir(mode=0o700)
    (host.log_dir / "log.json").write_bytes(identity)
    await write(host.base_dir, 10)
    status = await host.ship()
    assert status.state is ShippingState.REFUSED
    assert [finding.kind for finding in host.findings] == ["fork"]
    assert "record 6 has the hash" in host.findings[0].reason
    assert await host.stored() == before


async def test_a_log_that_was_cut_is_refused(host: Host) -> None:
    """It ends before what the engine has: also if it is continued, which is then another record."""
    await write(host.base_dir, 5)
    old = host.base_dir.with_name("old")
    shutil.copytree(host.base_dir, old)
    await write(host.base_dir, 5)
    await host.ship()
    before = await host.stored()
    shutil.rmtree(host.base_dir)
    shutil.copytree(old, host.base_dir)  # a backup is restored
    assert (await host.ship()).state is ShippingState.REFUSED
    await write(host.base_dir, 20)
    assert (await host.ship()).state is ShippingState.REFUSED
    assert [finding.kind for finding in host.findings] == ["cut", "fork"]
    assert await host.stored() == before


async def test_of_a_cloned_machine_the_one_that_is_second_is_refused(host: Host, tmp_path: Path) -> None:
    """Nothing but the condition of the append can tell the two."""
    await write(host.base_dir, 5)
    await host.ship()
    clone = Host(tmp_path / "clone", host.medium)
    shutil.copytree(host.base_dir, clone.base_dir)
    await write(host.base_dir, 6)
    await write(clone.base_dir, 6)
    assert (await clone.ship()).state is ShippingState.CAUGHT_UP
    assert (await host.ship()).state is ShippingState.REFUSED
    assert [finding.kind for finding in host.findings] == ["fork"]
    assert "cloned" in host.findings[0].reason
    assert await clone.stored() == clone.local()


async def test_a_host_whose_disk_was_lost_begins_a_new_log(host: Host) -> None:
    """The old one stays in the engine as it was."""
    await write(host.base_dir, 5)
    await host.ship()
    [old] = await host.sink.logs()
    before = await host.stored(old)
    shutil.rmtree(host.base_dir)
    await write(host.base_dir, 7)
    assert (await host.ship()).state is ShippingState.CAUGHT_UP
    logs = await host.sink.logs()
    assert len(logs) == 2
    assert await host.stored(old) == before
    [new] = [log for log in logs if log != old]
    assert await host.stored(new) == host.local()
    assert host.findings == []


async def test_a_log_whose_directory_gets_another_log_is_let_go(
    host: Host, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running forwarder ships the new log as what it is."""
    monkeypatch.setattr("audit_async.forwarding.forwarder._LOOK_FOR_LOGS_S", 0.01)
    monkeypatch.setattr("audit_async.forwarding.shipping._LOOK_EVERY_S", 0.05)
    await write(host.base_dir, 5)
    forwarder = host.forwarder()

    def states() -> list[ShippingState]:
        return [status.state for status in forwarder.statuses]

    task = asyncio.create_task(forwarder.run())
    async with asyncio.timeout(60):
        while states() != [ShippingState.CAUGHT_UP]:
            await asyncio.sleep(0.01)
        shutil.rmtree(host.log_dir)
        await write(host.base_dir, 5)
        while states() != [ShippingState.REPLACED, ShippingState.CAUGHT_UP]:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


async def test_a_record_that_is_too_large_stops_the_log_and_is_named(host: Host) -> None:
    """All before it is sent; it is never left out, since what follows could not be linked to it."""
    async with AuditLogger(config_in(host.base_dir, max_field_chars=20_000)) as audit:
        for n in range(40):
            audit.emit(failure(n))
        large = audit.emit(type(failure())(attempted_user="m", reason="x" * 9000, ip="203.0.113.9", path="/"))
        position = await large.durable()
        audit.emit(failure())

    def check(batch: Batch) -> None:
        if len(batch.lines) > 8000:
            raise RecordTooLarge("8000 bytes at most")

    host.sink.check = check
    status = await host.ship()
    assert status.state is ShippingState.REFUSED
    assert status.shipped is not None
    assert status.shipped.seq == position.seq - 1
    assert host.local().startswith(await host.stored())
    [finding] = host.findings
    assert finding.kind == "record_too_large"
    assert f"record {position.seq} has 9," in finding.reason
    host.sink.check = lambda _batch: None  # the limit is raised
    assert (await host.ship()).state is ShippingState.CAUGHT_UP
    assert await host.stored() == host.local()


async def test_a_small_limit_of_a_batch_is_no_limit_of_the_log(host: Host) -> None:
    """Only a single record can be too large."""
    await write(host.base_dir, 60)

    def check(batch: Batch) -> None:
        if len(batch.lines) > 1500:
            raise RecordTooLarge("1500 bytes at most")

    host.sink.check = check
    assert (await host.ship()).state is ShippingState.CAUGHT_UP
    assert await host.stored() == host.local()


async def test_an_engine_that_refuses_is_a_finding(host: Host) -> None:
    """Its words are handed on; it is looked at again, and goes on once somebody has acted."""
    await write(host.base_dir, 5)
    host.sink.before["append"] = [SinkRefused("the role was revoked")]
    assert (await host.ship()).state is ShippingState.REFUSED
    assert [(finding.kind, finding.reason) for finding in host.findings] == [("engine_refused", "the role was revoked")]
    assert (await host.ship()).state is ShippingState.CAUGHT_UP


async def test_damage_is_a_finding_and_never_shipped(host: Host) -> None:
    """All before it is."""
    await write(host.base_dir, 5)
    [segment] = host.log_dir.glob("*.audit")
    segment.chmod(0o600)
    segment.write_bytes(segment.read_bytes().replace(b"/login/3", b"/login/9"))
    assert (await host.ship()).state is ShippingState.REFUSED
    assert [finding.kind for finding in host.findings] == ["unreadable"]
    assert "record 4 is damaged" in host.findings[0].reason


class Collector:
    """Signs confirmations."""

    def __init__(self, directory: Path, name: str = "collector") -> None:
        self.name = name
        self.signer = made_signer(directory, name)
        self.key = str(self.signer.key)

    async def confirm(self, host: Host, head: Head, **changes: object) -> None:
        """Confirm a record."""
        [log] = await host.sink.logs()
        confirmation = Confirmation.of(log.log_id, head.seq, head.hash, collector=self.name)
        values = {name: getattr(confirmation, name) for name in confirmation.__struct_fields__} | changes
        await host.sink.confirm(log, await sign_confirmation(Confirmation(**values), self.signer))


async def test_a_host_and_an_engine_that_were_both_set_back_are_refused(host: Host, tmp_path: Path) -> None:
    """The engine alone would take other records in the place of the lost ones; the collector knows better."""
    collector = Collector(tmp_path)
    await write(host.base_dir, 5)
    await host.ship(collector_keys=[collector.key])
    old = host.base_dir.with_name("old")
    shutil.copytree(host.base_dir, old)
    kept = {path: path.read_bytes() for path in host.medium.rglob("*.lines")}
    await write(host.base_dir, 5)
    status = await host.ship(collector_keys=[collector.key])
    assert status.shipped is not None
    await collector.confirm(host, status.shipped)
    shutil.rmtree(host.base_dir)
    shutil.copytree(old, host.base_dir)
    for path in host.medium.rglob("*.lines"):
        if path not in kept:
            path.unlink()
    await write(host.base_dir, 9)
    before = await host.stored()
    status = await host.ship(collector_keys=[collector.key])
    assert status.state is ShippingState.REFUSED
    assert [finding.kind for finding in host.findings] == ["fork"]
    assert "collector collector has confirmed it" in host.findings[0].reason
    assert await host.stored() == before


async def test_an_engine_that_lost_a_log_is_resumed_from_what_the_collector_has(host: Host, tmp_path: Path) -> None:
    """Also if the log's beginning was deleted here by then, as retention does."""
    collector = Collector(tmp_path)
    await write(host.base_dir, 100)
    status = await host.ship(collector_keys=[collector.key])
    assert status.shipped is not None
    await collector.confirm(host, status.shipped)
    for path in host.medium.rglob("*.lines"):
        path.unlink()
    manifest = (host.log_dir / "manifest.json").read_bytes()
    (host.log_dir / "manifest.json").write_bytes(manifest.replace(b'"live"', b'"deleted"', 1))
    min(host.log_dir.glob("*.audit")).unlink()
    await write(host.base_dir, 5, retention=RetentionPolicy(automatic=False))
    log, last = status.log, status.shipped
    status = await host.ship(collector_keys=[collector.key])
    assert status.state is ShippingState.CAUGHT_UP
    assert [finding.kind for finding in host.findings] == ["engine_lost_log"]
    first = await anext(aiter(host.sink.read(log, None)))
    assert first.first_seq == last.seq + 1


async def test_an_engine_behind_its_collector_gets_the_missing_records_again(host: Host, tmp_path: Path) -> None:
    """A new forwarder does not know what the engine had; the collector does."""
    collector = Collector(tmp_path)
    await write(host.base_dir, 50)
    await host.ship()
    await write(host.base_dir, 50)
    status = await host.ship()
    assert status.shipped is not None
    await collector.confirm(host, status.shipped)
    max(host.medium.rglob("*.lines")).unlink()
    status = await host.ship(collector_keys=[collector.key])
    assert status.state is ShippingState.CAUGHT_UP
    assert status.confirmed == status.shipped
    kept = read_confirmed(host.log_dir)
    assert kept is not None
    assert status.shipped is not None
    assert [(one.collector, one.seq, one.hash) for one in kept.confirmed] == [
        ("collector", status.shipped.seq, status.shipped.hash)  # for retention
    ]
    assert [finding.kind for finding in host.findings] == ["engine_went_back"]
    assert await host.stored() == host.local()


async def test_a_confirmation_that_does_not_hold_accuses_nobody(host: Host, tmp_path: Path) -> None:
    """Of a key that is not known, from the future as a wrong clock makes it, expired, damaged: it is not believed."""
    collector, other = Collector(tmp_path), Collector(tmp_path, "other")
    await write(host.base_dir, 5)
    await host.ship()
    [log] = await host.sink.logs()
    wrong = Head(seq=2, hash="f" * 64)
    year = Confirmation.of(log.log_id, 2, wrong.hash, collector="c")
    later = {"issued_at": year.issued_at.replace(year=2040), "expires_at": year.expires_at.replace(year=2041)}
    past = {"issued_at": year.issued_at.replace(year=2020), "expires_at": year.expires_at.replace(year=2021)}
    await other.confirm(host, wrong)
    assert (await host.ship(collector_keys=[collector.key])).state is ShippingState.CAUGHT_UP
    for times in (later, past):
        await collector.confirm(host, wrong, **times)
        status = await host.ship(collector_keys=[collector.key])
        assert (status.state, status.confirmed) == (ShippingState.CAUGHT_UP, None)
        assert status.problem is not None
    await host.sink.confirm(log, b"nonsense")
    assert (await host.ship(collector_keys=[collector.key])).state is ShippingState.CAUGHT_UP
    assert host.findings == []
    assert read_confirmed(host.log_dir) is None
    await collector.confirm(host, wrong)  # and this one does hold
    assert (await host.ship(collector_keys=[collector.key])).state is ShippingState.REFUSED


async def test_the_head_of_an_idle_log_is_repeated_for_an_engine_that_forgets(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then, and only of a log that the engine has; another append that came first is compared as ever."""
    monkeypatch.setattr("audit_async.forwarding.shipping._REPEAT_EVERY_S", 0.01)
    repeated: list[LogIdentity] = []

    class Forgetting(FailingSink):
        async def repeat_head(self, log: LogIdentity) -> None:
            repeated.append(log)
            if len(repeated) == 2:
                raise HeadMoved(None)

        async def heard_at(self, log: LogIdentity) -> datetime | None:
            raise NotImplementedError  # a collector's

    host.sink = Forgetting(host.sink.sink)
    await write(host.base_dir, 5)
    forwarder = host.forwarder()
    await shipped_by(forwarder, lambda: len(repeated) > 3)
    assert set(repeated) == {forwarder.statuses[0].log}
    assert await host.stored() == host.local()
    assert host.findings == []


async def test_a_forwarder_runs_once_as_often_as_it_is_asked(host: Host) -> None:
    """Each call ships what has come since; calls at the same time wait for each other."""
    forwarder = host.forwarder()
    for _ in range(2):
        await write(host.base_dir, 5)
        first, second = await asyncio.gather(forwarder.run_once(), forwarder.run_once())
        assert first == second
        assert await host.stored() == host.local()
        assert [status.lag_records for status in await forwarder.look()] == [0]
    assert host.findings == []


async def test_looking_stores_nothing(host: Host) -> None:
    """It says how far each log is, and what is wrong."""
    await write(host.base_dir, 50)
    [status] = await host.forwarder().look()
    assert (status.state, status.shipped, status.lag_records) == (ShippingState.STARTING, None, 52)
    assert await host.sink.logs() == []
    await host.ship()
    [status] = await host.forwarder().look()
    assert (status.state, status.lag_records) == (ShippingState.CAUGHT_UP, 0)


async def test_waiting_for_a_record(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the engine has it, or a collector says so, which is asked for more often then."""
    monkeypatch.setattr("audit_async.forwarding.shipping._LOOK_SOON_S", 0.01)
    collector = Collector(tmp_path)
    await write(host.base_dir, 5)
    forwarder = host.forwarder(collector_keys=[collector.key])
    [one] = forwarder._ships(forwarder._find())
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(60):
        await one.wait(6, by="engine")
        waiting = asyncio.create_task(one.wait(6, by="collector"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert one.status.shipped is not None
        await collector.confirm(host, one.status.shipped)
        await waiting
    task.cancel()
    await asyncio.wait([task])


async def test_a_record_is_not_elsewhere_if_another_one_has_its_place(host: Host) -> None:
    """The head of the engine says nothing of a log before the log is known to have it."""
    await write(host.base_dir, 50)
    await host.ship()
    identity = (host.log_dir / "log.json").read_bytes()
    shutil.rmtree(host.log_dir)
    host.log_dir.mkdir(mode=0o700)
    (host.log_dir / "log.json").write_bytes(identity)
    await write(host.base_dir, 60)
    forwarder = host.forwarder()
    [one] = forwarder._ships(forwarder._find())
    waiting = asyncio.create_task(one.wait(3, by="engine"))
    await asyncio.sleep(0)
    assert (await one.run_once()).shipped is None
    with pytest.raises(SinkRefused):
        await waiting
    assert host.findings[0].engine is not None
    assert host.findings[0].engine.seq == 51


def test_what_can_not_be_a_name_or_a_key_is_refused_at_once(host: Host) -> None:
    """Not at the first record."""
    for settings in ({"tenant": ""}, {"host": "a/b"}, {"collector_keys": ["nonsense"]}):
        with pytest.raises(ConfigError):
            host.forwarder(**settings)


def test_a_url_names_the_sink(tmp_path: Path) -> None:
    """What is wrong with one is said without repeating it: it may hold a password."""
    assert repr(open_sink(f"file://{tmp_path}", tenant="acme")) == f"<DirectorySink {tmp_path} tenant='acme' open>"
    assert "PostgresSink" in repr(open_sink("postgres://host@127.0.0.1/audit", tenant="acme"))
    for url in (
        "https://me:secret@example",
        "file://elsewhere/secret",
        "file:///a?secret",
        "secret",
        "file:secret",
        "file://[secret",
    ):
        with pytest.raises(ConfigError, match="engine") as error:
            open_sink(url, tenant="acme")
        assert "secret" not in str(error.value)
    assert os.listdir(tmp_path) == []
