"""Erasures that wait: each step is recorded before it counts, whatever dies when, and nobody gets around the rules."""

from __future__ import annotations

import errno
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

import anyio
import pytest

from audit_async import AuditLogger, ConfigError
from audit_async.config import Immediate, Privacy
from audit_async.privacy import ErasureRefused, ErasureRules, KeyStoreUnavailable, SqliteKeyStore
from audit_async.privacy.sqlite_requests import SqliteErasureRequests
from audit_async.reader import AuditReader
from tests.logs import ConfigFor, log_directory, segment_lines
from tests.privacy.key_stores import ALICE, open_store
from tests.privacy.sealed_logs import opened, recorded, sealing, success

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="key stores are kept on Linux"),
]


class Why(TypedDict):
    """What the records of a request say of it."""

    reason: str
    requested_by: str


ASKED: Why = {"reason": "her wish", "requested_by": "officer"}
WEEK_S = 7 * 86_400


@pytest.fixture(autouse=True)
def only_tests_execute(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine the log itself would execute what is due, some seconds after its opening."""
    monkeypatch.setattr("audit_async._writer.requested_erasures._FIRST_LOOK_S", 600.0)


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass for the requests."""
    now_ns, passed_ns = time.time_ns, int(seconds * 1e9)
    monkeypatch.setattr("audit_async.privacy.sqlite_requests.time.time_ns", lambda: now_ns() + passed_ns)


def events(config: Any, kind: str) -> list[dict[str, Any]]:
    """Return the events of one type of a log, as they are recorded."""
    return [record["event"] for record in recorded(config, event_type=f"audit.erasure_{kind}")]


def names(config: Any, tmp_path: Path) -> list[str]:
    """Return the user ids of a log's records, as they can be read, without dates."""
    return [str(one.event["actor"]["user_id"])[:7] for one in opened(config, tmp_path)]  # type: ignore[index]


async def test_an_erasure_is_requested_waits_and_is_executed(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is on record a week before; a restart in between changes nothing; nobody is named."""
    config = sealing(config_for, tmp_path, privacy={"erasure_delay": "P7D"})
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        with pytest.raises(ErasureRefused, match="request_erasure"):
            await audit.erase_subject("alice", force=True, **ASKED)
        request = await audit.request_erasure("alice", **ASKED)
        assert await audit.execute_erasures() == ()
    async with AuditLogger(config) as audit:
        assert await audit.waiting_erasures() == (request,)
        assert names(config, tmp_path) == ["alice"]
        later(monkeypatch, WEEK_S + 1)
        (report,) = await audit.execute_erasures()
        assert (report.request_id, report.keys, report.kept_keys) == (request.request_id, 1, 0)
        assert not await audit.waiting_erasures()
        assert not await audit.execute_erasures()
    assert names(config, tmp_path) == ["[erased"]
    (asked,), (started,) = events(config, "requested"), events(config, "started")
    assert asked["request_id"] == started["request_id"] == request.request_id
    assert (asked["keys"], asked["needs_approval"]) == (1, False)
    assert asked["epoch"] < started["epoch"]
    (why,) = opened(config, tmp_path, event_type="audit.erasure_started")
    assert (why.event["reason"], why.event["requested_by"]) == ("her wish", "officer")
    lines = b"".join(segment_lines(log_directory(config)))
    assert not any(word in lines for word in (b"alice", b"officer", b"her wish"))
    assert (await AuditReader(tmp_path / "audit").verify()).valid


async def test_two_persons_are_two_calls(config_for: ConfigFor, tmp_path: Path) -> None:
    """One name can't do both, in any spelling, nor both in one call; the second may use another log."""
    config = sealing(config_for, tmp_path, privacy={"two_person": True})
    other = sealing(config_for, tmp_path, service_id="billing")  # whose settings do not ask for it
    async with AuditLogger(config) as audit, AuditLogger(other) as billing:
        audit.emit(success("alice"))
        for log in (audit, billing):
            with pytest.raises(ErasureRefused, match="request_erasure"):
                await log.erase_subject("alice", approved_by="judge", **ASKED)
        request = await audit.request_erasure("alice", **ASKED)
        assert await billing.execute_erasures() == ()
        for name in ("officer", "OFFICER", " officer\u200b"):
            with pytest.raises(ErasureRefused, match="second person"):
                await billing.approve_erasure(request.request_id, "alice", approved_by=name)
        with pytest.raises(ConfigError, match="approved_by"):
            await billing.approve_erasure(request.request_id, "alice", approved_by=" ")
        with pytest.raises(ErasureRefused, match="of this person"):
            await billing.approve_erasure(request.request_id, "bob", approved_by="judge")
        approved = await billing.approve_erasure(request.request_id, "alice", approved_by="judge")
        assert (approved.is_approved, approved.approved_by) == (True, "judge")
        (report,) = await billing.execute_erasures()
        assert report.keys == 1
    assert [event["request_id"] for event in events(other, "approved")] == [request.request_id]
    (started,) = opened(other, tmp_path, event_type="audit.erasure_started")
    assert (started.event["requested_by"], started.event["approved_by"]) == ("officer", "judge")
    assert b"judge" not in b"".join(segment_lines(log_directory(other)))


async def test_who_asks_for_and_approves_his_own_erasure_is_one_person_and_not_named(
    config_for: ConfigFor, tmp_path: Path
) -> None:
    """`[the subject]` is recorded for every spelling of the name that is erased."""
    config = sealing(config_for, tmp_path, privacy={"two_person": True})
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        request = await audit.request_erasure("alice", reason="mine", requested_by="Alice ")
        for name in ("alice", "ALICE"):
            with pytest.raises(ErasureRefused, match="second person"):
                await audit.approve_erasure(request.request_id, "alice", approved_by=name)
        await audit.cancel_erasure(request.request_id, reason="changed my mind", cancelled_by="aLice")
    (asked,) = opened(config, tmp_path, event_type="audit.erasure_requested")
    (cancelled,) = opened(config, tmp_path, event_type="audit.erasure_cancelled")
    assert asked.event["requested_by"] == cancelled.event["cancelled_by"] == "[the subject]"


async def test_a_cancelled_erasure_is_not_executed(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By nobody, at no time; it can be cancelled once, and asked for again."""
    config = sealing(config_for, tmp_path, privacy={"erasure_delay": 7})
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        request = await audit.request_erasure("alice", **ASKED)
        await audit.cancel_erasure(request.request_id, reason="evidence", cancelled_by="judge")
        with pytest.raises(ErasureRefused, match="no erasure"):
            await audit.cancel_erasure(request.request_id, reason="evidence", cancelled_by="judge")
        later(monkeypatch, WEEK_S + 1)
        assert await audit.execute_erasures() == ()
        again = await audit.request_erasure("alice", **ASKED)
        assert again.request_id != request.request_id
    assert names(config, tmp_path) == ["alice"]
    (cancelled,) = events(config, "cancelled")
    assert cancelled["request_id"] == request.request_id


async def test_an_open_log_executes_what_is_due_by_itself(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was not asked; a legal hold keeps it waiting, and the health says so."""
    monkeypatch.setattr("audit_async._writer.requested_erasures._FIRST_LOOK_S", 0.0)
    monkeypatch.setattr("audit_async._writer.requested_erasures._LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("audit_async._writer.requested_erasures._RETRY_S", 0.05)
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        await audit.set_hold(reason="case 7", set_by="court")
        await audit.request_erasure("alice", **ASKED)
        with anyio.fail_after(60):
            while "erasures that are due" not in (audit.health().reason or ""):
                await anyio.sleep(0.02)
        assert events(config, "started") == []
        await audit.lift_hold(reason="over", lifted_by="court")
        with anyio.fail_after(60):
            while await audit.waiting_erasures():
                await anyio.sleep(0.02)
    assert names(config, tmp_path) == ["[erased"]


async def test_two_logs_execute_a_request_once(config_for: ConfigFor, tmp_path: Path) -> None:
    """They look at the same time; one of them does it."""
    config = sealing(config_for, tmp_path)
    other = sealing(config_for, tmp_path, service_id="billing")
    async with AuditLogger(config) as audit, AuditLogger(other) as billing:
        audit.emit(success("alice"))
        await audit.request_erasure("alice", **ASKED)
        reports: list[Any] = []

        async def execute(log: AuditLogger) -> None:
            reports.extend(await log.execute_erasures())

        async with anyio.create_task_group() as group:
            for log in (audit, billing, audit, billing):
                group.start_soon(execute, log)
        assert [report.keys for report in reports] == [1]
    assert len(events(config, "started")) + len(events(other, "started")) == 1


async def test_young_keys_outlive_the_erasure(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call it is refused; requested it waits for the window. What is recorded meanwhile stays legible."""
    config = sealing(config_for, tmp_path, privacy={"erase_not_before_days": 30})
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        await audit.flush()
        with pytest.raises(ErasureRefused, match="younger than 30 days"):
            await audit.erase_subject("alice", **ASKED)
        request = await audit.request_erasure("alice", **ASKED)
        assert 30 <= (request.not_before - request.requested_at).days <= 31
        later(monkeypatch, 31 * 86_400)  # the keys themselves are of today still, so all of them are young
        (report,) = await audit.execute_erasures()
        audit.emit(success("alice"))
        await audit.flush()
    assert (report.keys, report.kept_keys) == (0, 1)
    assert names(config, tmp_path) == ["alice", "alice"]
    assert recorded(config, event_type="audit.erased_in_flight") == []
    (started,) = events(config, "started")
    assert started["kept_keys"] == 1
    assert started["before"] < time.strftime("%Y-%m-%d", time.gmtime())


async def test_rules_are_recorded_kept_and_only_made_stricter(config_for: ConfigFor, tmp_path: Path) -> None:
    """A log with no settings, or weaker ones, is bound by those of another; a change to weaker ones is on record."""
    async with AuditLogger(sealing(config_for, tmp_path, privacy={"erasure_delay": 7, "two_person": True})):
        pass
    other = sealing(config_for, tmp_path, service_id="billing", privacy={"erasure_delay": 3})
    strict = ErasureRules(delay_s=WEEK_S, two_person=True)
    async with AuditLogger(other) as billing:
        assert await billing.erasure_rules() == strict
        assert events(other, "rules_changed") == []
        with pytest.raises(ConfigError, match="changed_by"):
            await billing.change_erasure_rules(ErasureRules(), reason="why", changed_by=" ")
        await billing.change_erasure_rules(ErasureRules(), reason="policy 8", changed_by="board")
        assert await billing.erasure_rules() == ErasureRules()
        billing.emit(success("alice"))
        assert (await billing.erase_subject("alice", **ASKED)).keys == 1
    (ordered, done) = opened(other, tmp_path, event_type="audit.erasure_rules_changed")
    assert (ordered.event["reason"], ordered.event["changed_by"]) == ("policy 8", "board")
    assert (ordered.event.get("done"), done.event["done"]) == (None, True)
    assert b"board" not in b"".join(segment_lines(log_directory(other)))
    async with AuditLogger(other) as billing:  # its own settings count again
        assert await billing.erasure_rules() == ErasureRules(delay_s=3 * 86_400)
    (_, _, tightened) = events(other, "rules_changed")
    assert (tightened["delay_s"], tightened.get("changed_by")) == (3 * 86_400, None)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_rules_are_in_force_only_after_their_record(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By settings as by a call; if the key store refuses them, the old ones hold, and no record says it was done."""
    config = sealing(config_for, tmp_path, privacy={"erasure_delay": 7}, flush_mode=Immediate(max_delay=60.0))
    recorded_before: list[list[int]] = []
    set_rules = SqliteErasureRequests.set_rules

    def noting(self: SqliteErasureRequests, rules: ErasureRules) -> None:
        recorded_before.append([event["delay_s"] for event in events(config, "rules_changed")])
        set_rules(self, rules)

    def refusing(_self: SqliteErasureRequests, _rules: ErasureRules) -> None:
        raise KeyStoreUnavailable(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SqliteErasureRequests, "set_rules", noting)
    async with AuditLogger(config) as audit:
        assert recorded_before == [[WEEK_S]]
        with monkeypatch.context() as patch:
            patch.setattr(SqliteErasureRequests, "set_rules", refusing)
            with pytest.raises(KeyStoreUnavailable):
                await audit.change_erasure_rules(ErasureRules(delay_s=2), reason="policy 8", changed_by="board")
        assert await audit.erasure_rules() == ErasureRules(delay_s=WEEK_S)
        await audit.change_erasure_rules(ErasureRules(delay_s=3), reason="policy 8", changed_by="board")
        assert recorded_before[1:] == [[WEEK_S, 2, 3]]
    changed = [(event["delay_s"], event.get("done")) for event in events(config, "rules_changed")]
    assert changed == [(WEEK_S, None), (2, None), (3, None), (3, True)]


#: Calls of the key store that fail: without being done, or after they were; which time, and how much was done before.
FAULTS = [
    ("undone", "request", 1, 0), ("done", "request", 1, 0), ("undone", "confirm", 1, 0), ("done", "confirm", 1, 0),
    ("done", "approve", 1, 1), ("undone", "confirm", 2, 1), ("undone", "begin", 1, 2), ("done", "begin", 1, 2),
    ("undone", "end_erasure", 1, 2), ("done", "cancel", 1, 4), ("undone", "confirm", 4, 4),
]  # fmt: skip


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_step_that_the_key_store_refuses_is_an_error_and_counts_once_it_is_recorded(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: tuple[str, str, int, int]
) -> None:
    """An I/O error at each step: the log goes on, and its next opening completes what was begun."""
    kind, step, nth, done = fault
    config = sealing(config_for, tmp_path)
    failing: Any = SqliteErasureRequests if hasattr(SqliteErasureRequests, step) else SqliteKeyStore
    real, calls = getattr(failing, step), 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != nth:
            return real(*args, **kwargs)
        if kind == "done":
            real(*args, **kwargs)
        raise KeyStoreUnavailable(errno.EIO, "Input/output error")

    steps: list[str] = []
    async with AuditLogger(config) as audit:
        await audit.emit_durable(success("alice"))
        with monkeypatch.context() as patch:
            patch.setattr(failing, step, call)
            with pytest.raises(KeyStoreUnavailable, match="Input/output"):
                request = await audit.request_erasure("alice", **ASKED)
                steps.append("requested")
                await audit.approve_erasure(request.request_id, "alice", approved_by="judge")
                steps.append("approved")
                await audit.execute_erasures()
                steps.append("executed")
                request = await audit.request_erasure("alice", **ASKED)
                steps.append("requested")
                await audit.cancel_erasure(request.request_id, reason="evidence", cancelled_by="judge")
        assert steps == DONE[:done]
        await audit.emit_durable(success("bob"))
    async with AuditLogger(config) as audit:
        await audit.execute_erasures()
        assert await audit.waiting_erasures() == ()
    asked = {event["request_id"] for event in events(config, "requested")}
    ended = [event["request_id"] for event in events(config, "cancelled") + events(config, "started")]
    assert len(asked) == (0 if (kind, step) == ("undone", "request") else 1 + (done > 2))
    assert set(ended) == asked, "what was noted is recorded, and comes to an end"
    store = open_store(tmp_path / "keys")
    assert store.unfinished_erasures() == []
    assert bool(store.find(ALICE)) == (not events(config, "started"))
    store.close()
    assert (await AuditReader(tmp_path / "audit").verify()).valid


DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from audit_async import AuditConfig, AuditLogger, Local
from audit_async.config import Privacy
from audit_async.privacy.sqlite_key_store import SqliteKeyStore
from audit_async.privacy.sqlite_requests import SqliteErasureRequests
from tests.privacy.sealed_logs import success

tmp, when, step, nth = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
config = AuditConfig(mode=Local(tmp / "audit"), service_id="orders", privacy=Privacy(
    key_store=str(tmp / "keys"), master_key=f"file:{tmp / 'master.key'}"))
cls = SqliteErasureRequests if hasattr(SqliteErasureRequests, step) else SqliteKeyStore
real, calls = getattr(cls, step), 0

def call(*args, **kwargs):
    global calls
    calls += 1
    if calls == nth and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **kwargs)
    if calls == nth and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(cls, step, call)

def done(word):
    print(word, flush=True)

async def main():
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        await audit.flush()
        request = await audit.request_erasure("alice", reason="her wish", requested_by="officer")
        done("requested")
        await audit.approve_erasure(request.request_id, "alice", approved_by="judge")
        done("approved")
        await audit.execute_erasures()
        done("executed")
        request = await audit.request_erasure("alice", reason="her wish", requested_by="officer")
        done("requested")
        await audit.cancel_erasure(request.request_id, reason="evidence", cancelled_by="judge")
        done("cancelled")
asyncio.run(main())
"""

#: Each step of a life: before or after the call, which time; and how much was acknowledged before.
STEPS = [
    ("after request 1", 0), ("before confirm 1", 0), ("after confirm 1", 0), ("after approve 1", 1),
    ("before confirm 2", 1), ("after begin 1", 2), ("before destroy 1", 2), ("after destroy 1", 2),
    ("after end_erasure 1", 2), ("after cancel 1", 4), ("before confirm 4", 4), ("after confirm 4", 4),
]  # fmt: skip
DONE = ["requested", "approved", "executed", "requested", "cancelled"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("step", "acknowledged"), STEPS)
async def test_a_process_that_is_killed_leaves_no_step_without_its_record(
    config_for: ConfigFor, tmp_path: Path, step: str, acknowledged: int
) -> None:
    """What was acknowledged counts, what was not has its record before it counts, and all comes to an end."""
    config = sealing(config_for, tmp_path)
    died = await anyio.run_process([sys.executable, "-c", DYING, str(tmp_path), *step.split()], check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert died.stdout.decode().split() == DONE[:acknowledged]
    async with AuditLogger(config) as audit:
        waiting = await audit.waiting_erasures()
        done = [len(events(config, kind)) for kind in ("requested", "approved", "started", "cancelled")]
        expected = [acknowledged > 0, acknowledged > 1, acknowledged > 2, acknowledged > 4]
        assert all(there >= was for there, was in zip(done, expected, strict=True)), done
        ended = len({event["request_id"] for event in events(config, "cancelled") + events(config, "started")})
        asked = {event["request_id"] for event in events(config, "requested")}
        assert len(waiting) == len(asked) - ended
        await audit.execute_erasures()
        assert await audit.waiting_erasures() == ()
    store = open_store(tmp_path / "keys")
    assert store.unfinished_erasures() == []
    assert store.requests.unconfirmed("") == []
    assert bool(store.find(ALICE)) == (not events(config, "started"))
    store.close()
    assert (await AuditReader(tmp_path / "audit").verify()).valid


async def test_a_restored_store_does_not_execute_what_was_cancelled_since(
    config_for: ConfigFor, tmp_path: Path
) -> None:
    """The log knows, also of a snapshot that was not made by `keystore backup`; what was lost is counted."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        audit.emit(success("bob"))
        request = await audit.request_erasure("alice", **ASKED)
    shutil.copytree(tmp_path / "keys", tmp_path / "snapshot")
    async with AuditLogger(config) as audit:
        await audit.cancel_erasure(request.request_id, reason="evidence", cancelled_by="judge")
        await audit.request_erasure("bob", **ASKED)
    shutil.rmtree(tmp_path / "keys")
    shutil.move(tmp_path / "snapshot", tmp_path / "keys")
    async with AuditLogger(config) as audit:
        assert not await audit.waiting_erasures()
        assert not await audit.execute_erasures()
    (restored,) = recorded(config, event_type="audit.key_store_restored")
    assert restored["event"]["lost_requests"] == 1
    assert restored["event"].get("missing") is None
    assert names(config, tmp_path) == ["alice", "bob"]


async def test_a_key_store_that_lacks_something_is_refused_by_name(config_for: ConfigFor) -> None:
    """As the log is opened, with what is missing; not at the first erasure."""

    class Half:
        def open_session(self, name: str) -> None:
            raise AssertionError(f"{name} is opened")

    with pytest.raises(ConfigError, match=r"privacy\.key_store: a Half is no KeyStore: it has no begin_erasure"):
        await AuditLogger(config_for(privacy=Privacy(key_store=Half()))).start()
