"""A legal hold is lifted by a record that names it, and by nothing else: no removed, replaced or damaged file."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit_async import AuditConfig, AuditLogger
from audit_async._durable import disk
from audit_async._layout.chain_holds import ChainHolds
from audit_async._layout.hold_file import Hold, read_hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._store import legal_hold
from audit_async._store.legal_hold import LegalHolds, place_hold
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.errors import RetentionRefused
from audit_async.events import AuthFailure
from tests.logs import ConfigFor
from tests.store.chained import Chain, log_path, open_store
from tests.trails import check_trail

pytestmark = pytest.mark.anyio

DUE = RetentionPolicy(archive_after_days=0, automatic=False)


def config(config_for: ConfigFor, **settings: object) -> AuditConfig:
    """Return the configuration of a log with small segments that are archived as soon as they are sealed."""
    return config_for(instance="00", retention=DUE, rotation=RotationPolicy(max_bytes=2000), **settings)


async def record(audit: AuditLogger, count: int = 12) -> None:
    """Record some events over several segments."""
    for _ in range(count):
        await audit.emit_durable(AuthFailure(reason="invalid_token", ip="203.0.113.9", path="/v2/tasks"))


def directory(config: AuditConfig) -> Path:
    """Return the log's directory."""
    return Path(config.mode.base_dir) / "orders" / "00"  # type: ignore[union-attr]  # it is Local


def events(config: AuditConfig, kind: str) -> list[dict[str, object]]:
    """Return the events of a type that are in the log's live segments, in order."""
    lines = b"".join(path.read_bytes() for path in sorted(directory(config).glob("*.audit"))).splitlines()
    return [event for line in lines if (event := json.loads(line)["event"])["event_type"] == kind]


def remove(path: Path) -> None:
    """Remove hold.json."""
    path.unlink()


def replace(path: Path) -> None:
    """Put a directory in the place of hold.json."""
    path.unlink()
    path.mkdir()


def garble(path: Path) -> None:
    """Overwrite hold.json."""
    path.write_bytes(b"{}")


def exchange(path: Path) -> None:
    """State another hold in hold.json, as an older release would."""
    path.write_bytes(b'{"reason":"other","set_by":"other","since":"2026-01-01T00:00:00.000000Z"}')


@pytest.mark.parametrize("touch", [remove, replace, garble, exchange])
@pytest.mark.parametrize("when", ["open", "closed"])
async def test_no_hand_at_the_file_lifts_a_hold(
    config_for: ConfigFor, touch: Callable[[Path], None], when: str
) -> None:
    """Whatever is done to hold.json, while the log is open or not, nothing is archived or deleted, and it is back."""
    settings = config(config_for)
    async with AuditLogger(settings) as audit:
        await record(audit)
        hold = await audit.set_hold(reason="case 4711", set_by="legal")
        await record(audit)
        if when == "open":
            touch(directory(settings) / "hold.json")
            assert (await audit.apply_retention()).steps == ()
    if when == "closed":
        touch(directory(settings) / "hold.json")
    assert find_holds(directory(settings))[-1] == hold
    async with AuditLogger(settings) as audit:
        report = await audit.apply_retention()
        assert report.steps == ()
        assert hold in (report.hold, read_hold(directory(settings)), *find_holds(directory(settings)))
        assert read_hold(directory(settings)) is not None
        await audit.lift_hold(reason="closed", lifted_by="legal")
        assert await audit.hold() is None
        assert not (directory(settings) / "hold.json").exists()
        assert (await audit.apply_retention()).steps != ()
    assert hold.id in [event.get("hold_id") for event in events(settings, "audit.hold_lifted")]
    check_trail(directory(settings))


async def test_a_hold_whose_file_could_not_be_written_is_recorded_once_it_can(config_for: ConfigFor) -> None:
    """It is in force from then on, though its call has failed; so it is in the chain as well, and after a restart."""
    settings = config(config_for)
    async with AuditLogger(settings) as audit:
        await record(audit)
        in_the_way = directory(settings) / "hold.json.unfinished"
        in_the_way.mkdir()
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
            await audit.set_hold(reason="case 4711", set_by="legal")
        in_the_way.rmdir()
        hold = await audit.hold()
        assert hold is not None
        assert (await audit.apply_retention()).steps == ()
        assert [event["hold_id"] for event in events(settings, "audit.hold_set")] == [hold.id]
        assert read_hold(directory(settings)) == hold
    async with AuditLogger(settings) as audit:
        assert await audit.hold() == hold
    check_trail(directory(settings))


async def test_each_opening_and_each_seal_repeat_the_holds(config_for: ConfigFor) -> None:
    """`audit.log_opened` and `audit.segment_sealed` state all holds in force, so the end of the chain knows them."""
    settings = config(config_for)
    async with AuditLogger(settings) as audit:
        await record(audit)
        hold = await audit.set_hold(reason="case 4711", set_by="legal")
        await record(audit)
    async with AuditLogger(settings) as audit:
        await audit.lift_hold(reason="closed", lifted_by="legal")
        await record(audit)
    stated = {"reason": "case 4711", "set_by": "legal", "since": hold.since, "id": hold.id}
    assert [event["holds"] for event in events(settings, "audit.log_opened")] == [[], [stated]]
    sealed = [event["holds"] for event in events(settings, "audit.segment_sealed")]
    assert [] in sealed
    assert [stated] in sealed
    assert sealed[-1] == []


async def test_a_long_reason_is_repeated_in_short(config_for: ConfigFor) -> None:
    """What is repeated stays small, so that the smallest event limit does not cost the statement."""
    settings = config(config_for, max_event_bytes=1024, max_field_chars=1000)
    async with AuditLogger(settings) as audit:
        hold = await audit.set_hold(reason="4711 " * 150, set_by="R. Roe")
        await record(audit)
    async with AuditLogger(settings):
        pass
    (directory(settings) / "hold.json").unlink()
    assert [found.id for found in find_holds(directory(settings))] == [hold.id]
    statements = [event["holds"] for event in events(settings, "audit.log_opened")]
    assert isinstance(statements[-1], list)
    assert len(statements[-1][0]["reason"]) == 200


async def test_a_hold_that_is_only_in_the_file_is_recorded(config_for: ConfigFor) -> None:
    """A hold that was placed without the lock enters the chain with the opening, or while the log is open, once."""
    settings = config(config_for)
    async with AuditLogger(settings):
        pass
    now = datetime.now(UTC)
    hold = place_hold(directory(settings), reason="case 4711", set_by="legal", now=now)
    for _ in range(2):
        async with AuditLogger(settings) as audit:
            assert await audit.hold() == hold
    expected = {"event_type": "audit.hold_set", "reason": "case 4711", "set_by": "legal", "hold_id": hold.id,
                "since": hold.since}  # fmt: skip
    assert events(settings, "audit.hold_set") == [expected]
    async with AuditLogger(settings) as audit:
        await audit.lift_hold(reason="closed", lifted_by="legal")
        second = place_hold(directory(settings), reason="case 4712", set_by="legal", now=now)
        for _ in range(2):
            assert (await audit.apply_retention()).hold == second
    assert [event["hold_id"] for event in events(settings, "audit.hold_set")] == [hold.id, second.id]


async def test_an_unreadable_file_is_a_hold_of_its_own(config_for: ConfigFor) -> None:
    """A hold.json that says nothing to us is recorded as a hold, kept as evidence, and lifted like any other."""
    settings = config(config_for)
    async with AuditLogger(settings) as audit:
        await record(audit)
    (directory(settings) / "hold.json").write_bytes(b"case 4711, by hand")
    for _ in range(2):
        async with AuditLogger(settings) as audit:
            hold = await audit.hold()
            assert hold is not None
            assert hold.set_by == "audit-async"
            assert (await audit.apply_retention()).steps == ()
    (torn,) = (directory(settings) / "torn").iterdir()
    assert torn.read_bytes() == b"case 4711, by hand"
    assert hold is not None
    (recorded,) = events(settings, "audit.hold_set")
    assert recorded["hold_id"] == hold.id
    assert "can't be understood" in str(recorded["reason"])
    async with AuditLogger(settings) as audit:
        await audit.lift_hold(reason="it was a mistake", lifted_by="legal")
    assert find_holds(directory(settings)) == ()


async def test_a_lifted_hold_does_not_come_back_with_its_file(config_for: ConfigFor) -> None:
    """A process that dies between the record of the lifting and the removal of the file has lifted the hold."""
    settings = config(config_for)
    async with AuditLogger(settings) as audit:
        await audit.set_hold(reason="case 4711", set_by="legal")
        content = (directory(settings) / "hold.json").read_bytes()
        await audit.lift_hold(reason="closed", lifted_by="legal")
    (directory(settings) / "hold.json").write_bytes(content)
    async with AuditLogger(settings) as audit:
        assert await audit.hold() is None
    assert not (directory(settings) / "hold.json").exists()


async def test_a_hold_survives_the_loss_of_the_end(config_for: ConfigFor) -> None:
    """If the newest segment's statements are cut off as a torn tail would be, the segment before it is asked."""
    settings = config(config_for)
    async with AuditLogger(settings) as audit:
        hold = await audit.set_hold(reason="case 4711", set_by="legal")
        await record(audit, 20)
    last = max(directory(settings).glob("*.audit"))
    os.truncate(last, last.read_bytes().index(b"\n") + 10)
    (directory(settings) / "hold.json").unlink()
    assert find_holds(directory(settings)) == (hold,)
    async with AuditLogger(settings) as audit:
        assert await audit.hold() == hold


def test_a_trail_of_a_release_without_ids_is_understood(tmp_path: Path) -> None:
    """A hold that was set without an id is in force by the chain alone, until a lifting without an id."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1500)
    store.commit(chain.batch_of([b'{"event_type":"audit.hold_set","reason":"case 4711","set_by":"legal"}']), sync=True)
    for _ in range(8):
        store.commit(chain.batch(2), sync=True)
    first = store.sealed_segments[0].segment
    store.close()
    store = open_store(tmp_path, max_bytes=1500)
    (hold,) = store.holds
    assert (hold.id, hold.reason, hold.set_by) == ("", "case 4711", "legal")
    assert read_hold(log_path(tmp_path)) == hold, "the file is restored"
    with pytest.raises(RetentionRefused, match="legal hold"):
        store.delete_segments([first])
    store.commit(chain.batch_of([b'{"event_type":"audit.hold_lifted","reason":"x","lifted_by":"legal"}']), sync=True)
    store.lift_holds([hold], datetime.fromtimestamp(chain.now_ns / 1e9, UTC))
    store.close()
    store = open_store(tmp_path, max_bytes=1500)
    assert store.holds == ()
    store.close()


async def test_a_rebuilt_directory_has_its_hold(config_for: ConfigFor) -> None:
    """Removing the whole directory of an open log lifts no hold, also one that only the chain had."""
    settings = config(config_for)
    async with AuditLogger(settings) as audit:
        hold = await audit.set_hold(reason="case 4711", set_by="legal")
        (directory(settings) / "hold.json").unlink()
        await record(audit, 2)
    async with AuditLogger(settings) as audit:
        await record(audit, 2)
        shutil.rmtree(directory(settings))
        await record(audit, 2)
        assert await audit.hold() == read_hold(directory(settings)) == hold


def test_text_of_a_user_states_no_hold() -> None:
    """Only the library's own events say something of holds, whatever texts other events hold."""
    chain = Chain()
    forged = rb'{"event_type":"x.y","text":",\"event\":{\"event_type\":\"audit.hold_set\",\"hold_id\":\"1\"}"}'
    holds = ChainHolds()
    for line in chain.batch_of(
        [forged, b'{"event_type":"x.y","a":{"event_type":"audit.log_opened","holds":[]}}']
    ).lines:
        holds.read(line)
    assert not holds.in_force
    assert not holds.is_complete


@pytest.mark.parametrize("call", ["unlink", "rename"])
async def test_a_hold_that_is_placed_while_the_file_changes_is_in_force(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Another process places one after the writer has read hold.json, and before it removes or replaces that."""
    monkeypatch.setattr(legal_hold, "_WAIT_S", 120.0)
    settings, change = config(config_for), getattr(disk, call)
    placed: list[Hold] = []

    def place() -> None:
        placed.append(place_hold(directory(settings), reason="case 4712", set_by="court", now=datetime.now(UTC)))

    other = threading.Thread(target=place)

    def interrupted(*args: object, **keywords: object) -> None:
        if "hold.json" in args and other.ident is None:
            other.start()
            other.join(0.3)  # it gets no further if it waits for us, as it has to
        change(*args, **keywords)

    async with AuditLogger(settings) as audit:
        if call == "unlink":
            await audit.set_hold(reason="case 4711", set_by="legal")
        monkeypatch.setattr(disk, call, interrupted)
        if call == "unlink":
            await audit.lift_hold(reason="closed", lifted_by="legal")
        else:
            await audit.set_hold(reason="case 4711", set_by="legal")
        other.join(60)
        assert placed[0] in find_holds(directory(settings))
        assert await audit.hold() is not None


async def test_a_lifted_hold_is_not_taken_for_one_in_force(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is there until the writer removes it: who places a hold in between gets one of his own."""
    settings, now = config(config_for), datetime.now(UTC)
    placed: list[Hold] = []

    def interrupted(holds: LegalHolds, lifted: Iterable[Hold], at: datetime) -> None:
        placed.append(place_hold(directory(settings), reason="case 4712", set_by="court", now=now))
        lift(holds, lifted, at)

    lift = LegalHolds.lift
    monkeypatch.setattr(LegalHolds, "lift", interrupted)
    async with AuditLogger(settings) as audit:
        await audit.set_hold(reason="case 4711", set_by="legal")
        await audit.lift_hold(reason="closed", lifted_by="legal")
        assert [hold.reason for hold in placed] == ["case 4712"]
        assert find_holds(directory(settings)) == tuple(placed)
