"""A log that seals: nothing personal is written in the clear, and no record is written before its keys are stored."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from audit_async import AuditConfig, AuditLogger, Batched, BufferFull, Hybrid, Immediate, InvalidEvent, audit_context
from audit_async._durable import disk
from audit_async.config import FlushMode, Privacy
from audit_async.events import AuditEvent, AuthFailure, CapturedBody, HttpRequest, LogRecorded, ResourceInfo
from audit_async.events.authorization import AuthorizationGranted
from audit_async.privacy import KeyStoreUnavailable, NewKey, Subject, key_id_text
from audit_async.privacy.sqlite_key_store import SqliteSession
from audit_async.status import HealthStatus
from tests.logs import ConfigFor, log_directory, segment_lines
from tests.privacy.key_stores import ALICE, make_store, open_store
from tests.privacy.sealed_logs import (
    all_key_ids,
    key_ids_in,
    nonces_in,
    opened,
    recorded,
    sealing,
    stored_key_ids,
    success,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="key stores are kept on Linux"),
]


class Plain(AuditEvent, tag="privacy.plain"):
    """Nothing in it is personal."""

    note: str


async def test_what_is_personal_is_sealed_and_opens_again(config_for: ConfigFor, tmp_path: Path) -> None:
    """No file of the trail or of the key store has a plain value, and with the key store each is there again."""
    config = sealing(config_for, tmp_path, privacy={"paths": ("/users/{user}",), "resources": ("customer",)})
    async with AuditLogger(config) as audit:
        with audit_context(user_id="carol-77", request_id="7f3a"):
            audit.emit(success("alice-77", session_id="session-77"))
        audit.emit(
            HttpRequest(
                method="GET", path="/users/bob-77", duration_ms=1, bytes_in=0, bytes_out=0, ip="198.51.100.77",
                query="q=q-77", request_headers=["accept: header-77"], user_agent="agent-77",
                request_body=CapturedBody(bytes=9, text=["body", "-77"]),
            )
        )  # fmt: skip
        audit.emit(LogRecorded(logger="x", level="info", message="message-77", data={"n": {"who": ["data-77"]}}))
        for type_, id_ in (("customer", "customer-77"), ("order", "order-1")):
            resource = ResourceInfo(resource_type=type_, resource_id=id_)
            audit.emit(AuthorizationGranted(actor=success("alice-77").actor, resource=resource, action="read"))

    found = opened(config, tmp_path)
    assert found[0].event["actor"] == {
        "user_id": "alice-77", "ip": "203.0.113.9", "session_id": "session-77", "display_name": "Alice Liddell"
    }  # fmt: skip
    assert found[0].context == {"user_id": "carol-77", "request_id": "7f3a"}
    assert found[1].event["path"] == "/users/bob-77"
    assert found[1].event["request_body"] == {"bytes": 9, "text": ["body-77"]}
    assert found[2].event["data"] == {"n": {"who": ["data-77"]}}
    assert recorded(config)[2]["event"]["data"].keys() == {"n"}
    nonces = nonces_in(segment_lines(log_directory(config)))
    assert len({nonce for _, nonce in nonces}) == len(nonces) == sum(len(one.members) for one in found)
    assert [one.event["resource"]["resource_id"] for one in found[3:]] == ["customer-77", "order-1"]  # type: ignore[index]
    assert recorded(config)[4]["event"]["resource"]["resource_id"] == "order-1"
    assert all(member.opened is not None for one in found for member in one.members)
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert b"-77" not in file.read_bytes(), file


async def test_a_member_belongs_to_its_subject(config_for: ConfigFor, tmp_path: Path) -> None:
    """One key a person and day, and one for nobody in particular; a name that a stranger types is nobody's."""
    config = sealing(config_for, tmp_path, privacy={"context": ("user_id:user", "client_ip")})
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        audit.emit(success("alice"))
        audit.emit(success("bob"))
        audit.emit(AuthFailure(attempted_user="alice", reason="bad_password", ip="203.0.113.9", path="/login"))
        audit.emit(AuthFailure(attempted_user="alice", known=True, reason="x", ip="203.0.113.9", path="/login"))
        with audit_context(user_id="alice", client_ip="203.0.113.9"):
            audit.emit(Plain(note="x"))

    lines = segment_lines(log_directory(config))[1:7]
    alice, again, bob, stranger, known = [key_ids_in(line) for line in lines[:5]]
    assert alice == again == known
    assert len(alice | bob | stranger) == 3
    assert key_ids_in(lines[5]) == alice | stranger
    store = open_store(tmp_path / "keys")
    assert set(map(key_id_text, store.find(ALICE))) == alice
    store.close()


async def test_accounts_of_services_are_no_persons(config_for: ConfigFor, tmp_path: Path) -> None:
    """What a service did stays legible; the person on whose behalf it acted does not."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("billing", kind="service", on_behalf_of="alice"))
        audit.emit(success("helper", kind="agent"))
        audit.emit(success("cron", kind="system"))
    service, agent, system = [record["event"]["actor"] for record in recorded(config)]
    assert (system["user_id"], system["ip"], system["display_name"]) == ("cron", "203.0.113.9", "Alice Liddell")
    assert service["user_id"] == "billing"
    assert service["ip"] == "203.0.113.9"
    assert service["on_behalf_of"].startswith("sealed:1:")
    assert agent["user_id"].startswith("sealed:1:")


async def test_only_what_is_chosen_is_sealed(config_for: ConfigFor, tmp_path: Path) -> None:
    """`seal` names members; the others stay as they are."""
    config = sealing(config_for, tmp_path, privacy={"seal": ("ip",)})
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
    (record,) = recorded(config)
    assert record["event"]["actor"]["user_id"] == "alice"
    assert record["event"]["actor"]["ip"].startswith("sealed:1:")


async def test_nothing_that_a_caller_emits_passes_for_sealed(config_for: ConfigFor, tmp_path: Path) -> None:
    """On the plain path, on the slow path, as a key, in a context and inside a sealed member; all come back."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        await audit.flush()
        forged = recorded(config)[0]["event"]["actor"]["user_id"]
        with audit_context(request_id=forged):
            audit.emit(Plain(note=forged))
        audit.emit(Plain(note=f"plain:{forged}"))
        audit.emit(Plain(note=f"é{forged}"))
        audit.emit(success(forged))
    found, raw = opened(config, tmp_path), recorded(config)
    assert raw[1]["event"]["note"] == raw[1]["context"]["request_id"] == f"plain:{forged}"
    assert found[1].event["note"] == found[1].context["request_id"] == forged
    assert [found[n].event["note"] for n in (2, 3)] == [f"plain:{forged}", f"é{forged}"]
    assert raw[4]["event"]["actor"]["user_id"] != forged


async def test_a_digest_of_what_was_cut_is_sealed_as_well(config_for: ConfigFor, tmp_path: Path) -> None:
    """A dictionary finds a name again by its digest, so what is recorded of a cut personal text needs its key."""
    config = sealing(config_for, tmp_path, max_field_chars=64)
    async with AuditLogger(config) as audit:
        with audit_context(user_id="c" * 100):
            audit.emit(success("a" * 100))
        audit.emit(Plain(note="p" * 100))
    person, plain = recorded(config)
    assert person["event"]["reduced"]["actor.user_id"]["sha256"].startswith("sealed:1:")
    assert person["context"]["reduced"]["user_id"]["sha256"].startswith("sealed:1:")
    assert len(plain["event"]["reduced"]["note"]["sha256"]) == 64
    (found, _) = opened(config, tmp_path)
    assert all(member.opened is not None for member in found.members)


async def test_a_sealed_event_is_cut_to_its_size_whole_members_at_a_time(config_for: ConfigFor, tmp_path: Path) -> None:
    """Sealing makes an event larger; what gives way is a whole sealed text, and the rest opens."""
    config = sealing(config_for, tmp_path, max_event_bytes=2048, max_field_chars=1024)
    async with AuditLogger(config) as audit:
        for size in (100, 400, 700, 1000):
            audit.emit(LogRecorded(logger="x", level="info", message="m" * size, data={"d": "d" * size}))
    for line, found in zip(segment_lines(log_directory(config))[1:5], opened(config, tmp_path), strict=True):
        assert len(line) < 2048 + 400
        assert found.event["logger"] == "x"
        assert all(member.opened is not None for member in found.members)
    assert "reduced" not in recorded(config)[0]["event"]
    assert recorded(config)[3]["event"]["reduced"].keys() & {"message", "data.d"}


MODES: dict[str, FlushMode] = {
    "immediate": Immediate(),
    "batched": Batched(size=10, interval=0.01),
    "hybrid": Hybrid(batch_size=10, batch_interval=0.01),
}


@pytest.mark.parametrize("mode", MODES)
async def test_keys_are_stored_before_records_are_written(
    config_for: ConfigFor, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every mode, and not only before the sync: a killed process leaves records that are in the page cache."""
    stored: set[str] = set()
    early: list[set[str]] = []
    insert: Any = SqliteSession.insert

    def insert_and_note(self: SqliteSession, keys: Sequence[NewKey]) -> list[bytes]:
        refused: list[bytes] = insert(self, keys)
        stored.update(key_id_text(key.key_id) for key in keys)
        return refused

    def noting(name: str) -> None:
        real = getattr(disk, name)

        def write(fd: int, data: bytes, offset: int) -> None:
            early.append(key_ids_in(bytes(data)) - stored)
            real(fd, data, offset)

        monkeypatch.setattr(disk, name, write)

    monkeypatch.setattr(SqliteSession, "insert", insert_and_note)
    noting("write_at")
    noting("write_and_sync_at")
    config = sealing(config_for, tmp_path, flush_mode=MODES[mode])
    async with AuditLogger(config) as audit:
        for n in range(200):
            with audit_context(user_id=f"context-{n % 7}"):
                audit.emit(success(f"user-{n % 50}"))
            if n % 10 == 0:
                await anyio.sleep(0.001)
    assert len(stored) == 57
    assert len(early) > 3
    assert set().union(*early) == set()


async def test_a_key_store_that_refuses_is_like_a_full_disk(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written or acknowledged, everything is kept, health says why, and then all of it is recorded."""
    failing = True
    insert: Any = SqliteSession.insert

    def refuse(self: SqliteSession, keys: Sequence[NewKey]) -> list[bytes]:
        if failing:
            raise KeyStoreUnavailable(errno.ENOSPC, "the key store's disk is full")
        found: list[bytes] = insert(self, keys)
        return found

    monkeypatch.setattr(SqliteSession, "insert", refuse)
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        receipts = [audit.emit(success(f"user-{n}")) for n in range(5)]
        with anyio.fail_after(60):
            while audit.health().status is not HealthStatus.DEGRADED:
                await anyio.sleep(0.01)
        assert "key store" in (audit.health().reason or "")
        receipts += [audit.emit(success(f"user-{n}")) for n in range(5, 9)]
        await anyio.sleep(0.15)  # a try and a half
        assert not any(receipt.is_durable for receipt in receipts)
        assert recorded(config) == []
        failing = False
        with anyio.fail_after(60):
            await audit.flush()
        assert audit.health().status is HealthStatus.OK
        assert all(receipt.is_durable for receipt in receipts)
    assert [one.event["actor"]["user_id"] for one in opened(config, tmp_path)] == [f"user-{n}" for n in range(9)]  # type: ignore[index]


async def test_a_refused_event_leaves_no_key(config_for: ConfigFor, tmp_path: Path) -> None:
    """Neither one that finds the buffer full, in the loop's thread or another, nor one that may not be recorded."""
    config = sealing(
        config_for, tmp_path, buffer_events=10, max_field_chars=64, on_unsafe="reject", max_event_bytes=1024
    )
    async with AuditLogger(config) as audit:
        for n in range(9):
            audit.emit(success(f"user-{n}"))
        with pytest.raises(BufferFull):
            audit.emit(success("refused"))
        # The loop waits, so that no commit begins at this very instant: it would take the key along.
        with pytest.raises(BufferFull), ThreadPoolExecutor(1) as other:
            other.submit(audit.emit, success("refused-too")).result()
        await audit.flush()
        with pytest.raises(InvalidEvent):
            audit.emit(
                LogRecorded(logger="x", level="info", message="m" * 60, data={str(n): "d" * 60 for n in range(9)})
            )
        with pytest.raises(InvalidEvent):
            audit.emit(success("\x1b"))
        audit.emit(success("user-0"))
    store = open_store(tmp_path / "keys")
    for name in ("refused", "refused-too", "\\x1b"):
        assert store.find(Subject("", "user", name)) == [], name
    assert store.find(Subject("", "unattributed", "")) == []
    assert len(stored_key_ids(store, all_key_ids(config))) == 9
    store.close()


async def test_a_key_that_a_refused_event_made_is_stored_if_another_needs_it(
    config_for: ConfigFor, tmp_path: Path
) -> None:
    """The refusal of one event takes no key from those that were taken, before it or after it."""
    config = sealing(config_for, tmp_path, buffer_events=10)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        for n in range(8):
            audit.emit(success(f"user-{n}"))
        for _ in range(5):
            with pytest.raises(BufferFull):
                audit.emit(success("alice"))
        with pytest.raises(BufferFull):
            audit.emit(success("bob"))
        await audit.flush()
        audit.emit(success("bob"))
    found = opened(config, tmp_path)
    assert len(found) == 10
    assert all(member.opened is not None for one in found for member in one.members)


async def test_threads_seal_as_the_loop_does(config_for: ConfigFor, tmp_path: Path) -> None:
    """Many threads that emit at once: each record opens, each subject has one key, and no nonce is used twice."""
    config = sealing(config_for, tmp_path, flush_mode=Batched(size=100, interval=0.01))
    async with AuditLogger(config) as audit:

        def emit() -> None:
            for n in range(200):
                audit.emit(success(f"user-{n % 20}"))

        threads = [threading.Thread(target=emit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for n in range(200):
            audit.emit(success(f"user-{n % 20}"))
            if n % 20 == 0:
                await anyio.lowlevel.checkpoint()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
    found = opened(config, tmp_path)
    assert len(found) == 1000
    assert all(member.opened is not None for one in found for member in one.members)
    assert len(all_key_ids(config)) == 20
    nonces = nonces_in(segment_lines(log_directory(config)))
    assert len(set(nonces)) == len(nonces) == 3000


async def test_a_session_says_that_it_seals(config_for: ConfigFor, tmp_path: Path) -> None:
    """With the key store's id and epoch, so that a reader knows, and another store is noticed."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success())
    async with AuditLogger(config_for()) as audit:
        audit.emit(success())
    first, second = recorded(config, event_type="audit.log_opened")
    store = open_store(tmp_path / "keys")
    assert first["event"]["privacy"] == 1
    assert first["event"]["key_store"] == store.store_id
    assert first["event"]["erasure_epoch"] == store.epoch()
    assert "privacy" not in second["event"]
    assert recorded(config)[1]["event"]["actor"]["user_id"] == "alice"
    store.close()


async def test_who_read_the_log_and_whom_they_asked_about_is_sealed(config_for: ConfigFor, tmp_path: Path) -> None:
    """A search by name would put the name into the chain for ever; it is sealed under that person's own key."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.record_access("auditor", {"actor": "alice", "text": "hello"}, 3)
    line = next(line for line in segment_lines(log_directory(config)) if b"audit.log_accessed" in line)
    assert not any(word in line for word in (b"alice", b"auditor", b"hello"))
    (found,) = opened(config, tmp_path, event_type="audit.log_accessed")
    assert found.event["query"] == {"actor": "alice", "text": "hello"}
    store = open_store(tmp_path / "keys")
    (of_alice,) = store.find(ALICE)
    assert key_id_text(of_alice) in key_ids_in(line)
    store.close()


async def test_another_day_has_other_keys(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a context that was sealed yesterday and is still bound: forgetting a day forgets all of it."""
    config = sealing(config_for, tmp_path)
    real = time.time_ns
    async with AuditLogger(config) as audit:
        with audit_context(user_id="alice"):
            audit.emit(success("alice"))
            monkeypatch.setattr("audit_async.privacy.sealer.time_ns", lambda: real() + 86_400 * 10**9)
            audit.emit(Plain(note="x"))
            audit.emit(success("alice"))
    before, plain, after = [key_ids_in(line) for line in segment_lines(log_directory(config))[1:4]]
    assert len(before) == len(after) == 1
    assert before.isdisjoint(after)
    assert plain == after


async def test_a_cache_that_forgets_somebody_gives_him_another_key(config_for: ConfigFor, tmp_path: Path) -> None:
    """Memory is bounded; nothing is read to find a person's key again."""
    config = sealing(config_for, tmp_path, privacy={"cached_subjects": 2})
    async with AuditLogger(config) as audit:
        for name in ("alice", "bob", "carol", "alice"):
            audit.emit(success(name))
    store = open_store(tmp_path / "keys")
    assert len(store.find(ALICE)) == 2
    store.close()
    assert all(member.opened is not None for one in opened(config, tmp_path) for member in one.members)


FORKING = """
import asyncio, os, sys
from pathlib import Path
from audit_async import AuditConfig, AuditLogger, Local, LogClosed
from audit_async.config import Privacy
from tests.privacy.sealed_logs import success

base = Path(sys.argv[1])
config = AuditConfig(
    mode=Local(base / "audit"), service_id="orders", handle_signals=False,
    privacy=Privacy(key_store=str(base / "keys"), master_key=f"file:{base / 'master.key'}"),
)

async def emit(audit):
    for n in range(10_000):
        audit.emit(success(f"user-{n % 10}"))
        if n % 100 == 0:
            await audit.flush()

async def in_child():
    async with AuditLogger(config) as audit:
        await emit(audit)

async def main():
    async with AuditLogger(config) as audit:
        for n in range(10):
            audit.emit(success(f"user-{n}"))  # keys that a child inherits
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                try:
                    try:
                        audit.emit(success("user-1"))
                        os._exit(3)
                    except LogClosed:
                        pass
                    asyncio._set_running_loop(None)
                    asyncio.set_event_loop(None)
                    asyncio.run(in_child())
                    os._exit(0)
                finally:
                    os._exit(4)
            children.append(child)
        await emit(audit)
        await audit.flush()
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
asyncio.run(main())
"""


def test_no_nonce_is_used_twice_after_a_fork(tmp_path: Path, config_for: ConfigFor) -> None:
    """A parent and two children, 10,000 events each: no key is in two processes, no nonce twice under a key."""
    import subprocess  # noqa: PLC0415 - for this test alone

    sealing(config_for, tmp_path)
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], check=True, timeout=300, env=environment)
    seen: list[tuple[str, bytes]] = []
    owners: dict[str, set[str]] = {}
    for instance in ("00", "01", "02"):
        config = sealing(config_for, tmp_path, instance=instance)
        nonces = nonces_in(segment_lines(log_directory(config, instance)))
        seen += nonces
        for key_id, _ in nonces:
            owners.setdefault(key_id, set()).add(instance)
    assert len(seen) >= 3 * 30_000
    assert len(set(seen)) == len(seen)
    assert all(len(instances) == 1 for instances in owners.values())


async def test_a_key_store_of_the_application_stays_open(config_for: ConfigFor, tmp_path: Path) -> None:
    """Several logs may be given one, and each of them closes only what it has opened itself."""
    make_store(tmp_path)
    store = open_store(tmp_path / "keys")
    for service in ("orders", "billing"):
        async with AuditLogger(config_for(privacy=Privacy(key_store=store), service_id=service)) as audit:
            audit.emit(success("alice"))
    assert len(store.find(ALICE)) == 2
    store.close()


async def test_a_log_that_does_not_seal_is_as_before(config_for: ConfigFor) -> None:
    """Declarations alone change nothing, not even for a text that looks sealed."""
    config: AuditConfig = config_for()
    async with AuditLogger(config) as audit:
        audit.emit(success("sealed:1:x"))
    assert recorded(config)[0]["event"]["actor"]["user_id"] == "sealed:1:x"
