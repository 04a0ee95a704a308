"""Erasing a person: no key survives an acknowledged erasure, none is destroyed without a record, whatever dies when."""

from __future__ import annotations

import asyncio
import errno
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

import anyio
import pytest

from audit_async import AuditLogger, Batched, ConfigError, Immediate, RotationPolicy, audit_context
from audit_async._layout.hold_file import Hold
from audit_async._query.sealing_logs import seals
from audit_async._trail.log_files import find_logs
from audit_async._writer.unsealed_logs import find_unsealed
from audit_async.privacy import ErasureRefused, KeyStoreUnavailable, NewKey, Subject, key_id_bytes
from audit_async.privacy.data_keys import day_number
from audit_async.privacy.sqlite_key_store import SqliteKeyStore, open_key_store
from audit_async.reader import AuditReader
from tests.logs import ConfigFor, failure, log_directory, segment_lines
from tests.privacy.key_stores import ALICE, BOB, copies_in_files, open_store, some_keys, wrapped_bytes
from tests.privacy.sealed_logs import all_key_ids, key_ids_in, opened, recorded, sealing, success

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="key stores are kept on Linux"),
]


class Why(TypedDict):
    """What the records of an erasure say of it."""

    reason: str
    requested_by: str


WHY: Why = {"reason": "asked for it", "requested_by": "officer"}


def names(config: Any, tmp_path: Path) -> list[object]:
    """Return the user ids of a log's records, as they can be read."""
    return [one.event["actor"]["user_id"] for one in opened(config, tmp_path)]  # type: ignore[index]


async def test_an_erased_person_is_gone_and_everybody_else_is_there(config_for: ConfigFor, tmp_path: Path) -> None:
    """Her records stay, verify, and can't be read; nothing names her; what she does afterwards can be read again."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        with audit_context(user_id="alice"):
            audit.emit(success("alice"))
        audit.emit(success("bob"))
        await audit.flush()
        store = open_store(tmp_path / "keys")
        of_alice = store.find(ALICE)
        wrapped = wrapped_bytes(tmp_path / "keys", of_alice)
        assert copies_in_files(tmp_path / "keys", wrapped)
        report = await audit.erase_subject("alice", **WHY)
        assert report.keys == 1
        assert report.is_complete
        assert store.find(ALICE) == []
        assert copies_in_files(tmp_path / "keys", wrapped) == {}
        store.close()
        audit.emit(success("alice"))
    today = f"[erased {datetime.now(UTC):%Y-%m-%d}]"
    assert names(config, tmp_path) == [today, "bob", "alice"]
    assert opened(config, tmp_path)[0].context == {"user_id": today}
    (started,) = recorded(config, event_type="audit.erasure_started")
    (erased,) = recorded(config, event_type="audit.subject_erased")
    assert list(map(key_id_bytes, started["event"]["key_ids"])) == of_alice
    assert started["event"]["erasure_id"] == erased["event"]["erasure_id"] == report.erasure_id
    assert (erased["event"]["keys"], erased["event"]["epoch"]) == (1, report.epoch)
    lines = b"".join(segment_lines(log_directory(config)))
    assert not any(word in lines for word in (b"alice", b"officer", b"asked for it"))
    (why,) = opened(config, tmp_path, event_type="audit.erasure_started")
    assert (why.event["reason"], why.event["requested_by"]) == ("asked for it", "officer")
    assert (await AuditReader(tmp_path / "audit").verify()).valid


async def test_who_asks_for_his_own_erasure_is_not_named(config_for: ConfigFor, tmp_path: Path) -> None:
    """Or the record of the erasure would be the one that still says who it was."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        await audit.erase_subject("alice", reason="mine", requested_by="alice")
    (why,) = opened(config, tmp_path, event_type="audit.erasure_started")
    assert why.event["requested_by"] == "[the subject]"


async def test_an_id_is_found_in_the_form_in_which_it_was_recorded(config_for: ConfigFor, tmp_path: Path) -> None:
    """Unsafe characters, another Unicode form, a text that looks sealed, and one that was cut."""
    config = sealing(config_for, tmp_path, max_field_chars=64)
    async with AuditLogger(config) as audit:
        for emitted, erased in (
            ("al\u200bice", "al\u200bice"), ("Åsa", "A\u030asa"), ("sealed:x", "sealed:x"), ("x" * 100, "x" * 100)
        ):  # fmt: skip
            audit.emit(success(emitted))
            assert (await audit.erase_subject(erased, **WHY)).keys == 1


async def test_kinds_and_tenants_are_different_persons(config_for: ConfigFor, tmp_path: Path) -> None:
    """Erasing customer 42 takes nothing from user 42, nor from the 42 of another tenant."""
    config = sealing(config_for, tmp_path, privacy={"tenant_binding": "tenant"})
    async with AuditLogger(config) as audit:
        for tenant in ("acme", "umbrella"):
            with audit_context(tenant=tenant):
                audit.emit(success("42"))
        assert (await audit.erase_subject("42", kind="customer", tenant="acme", **WHY)).keys == 0
        assert (await audit.erase_subject("42", tenant="", **WHY)).keys == 0
        assert (await audit.erase_subject("42", tenant="acme", **WHY)).keys == 1
        with pytest.raises(ConfigError, match="tenant"):
            await audit.erase_subject("42", **WHY)
    first, second = names(config, tmp_path)
    assert str(first).startswith("[erased")
    assert second == "42"


async def test_who_approves_is_another_name(config_for: ConfigFor, tmp_path: Path) -> None:
    """A spelling of the name that asks is refused, and so is a name of nothing but spaces."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        for approved_by in ("officer", " Officer", " \u200b"):
            with pytest.raises(ConfigError, match="approved_by"):
                await audit.erase_subject("alice", approved_by=approved_by, **WHY)
        assert recorded(config, event_type="audit.erasure_started") == []
        assert (await audit.erase_subject("alice", approved_by="judge", **WHY)).keys == 1


async def test_an_erasure_needs_a_log_that_seals(config_for: ConfigFor, tmp_path: Path) -> None:
    """Without privacy nothing was sealed, and saying that somebody is erased would be wrong."""
    async with AuditLogger(config_for()) as audit:
        with pytest.raises(ConfigError, match="privacy"):
            await audit.erase_subject("alice", **WHY)
    async with AuditLogger(sealing(config_for, tmp_path)) as audit:
        with pytest.raises(ConfigError, match="subject_id"):
            await audit.erase_subject("", **WHY)


async def test_it_says_which_logs_it_does_not_reach(config_for: ConfigFor, tmp_path: Path) -> None:
    """One that does not seal, one that did not when it began, one that can't be read; and one that always has."""
    config = sealing(config_for, tmp_path)
    tiny = RotationPolicy(max_bytes=4096)
    async with AuditLogger(config_for(service_id="plain")) as audit:
        audit.emit(success("alice"))
    async with AuditLogger(config_for(service_id="older", rotation=tiny)) as audit:
        audit.emit(success("alice"))
    async with AuditLogger(sealing(config_for, tmp_path, service_id="older", rotation=tiny)) as audit:
        for _ in range(40):
            audit.emit(success("bob"))
    async with AuditLogger(sealing(config_for, tmp_path, service_id="toggled", rotation=tiny)) as audit:
        audit.emit(success("bob"))
    async with AuditLogger(config_for(service_id="toggled", rotation=tiny)) as audit:
        for _ in range(40):
            audit.emit(success("alice"))
    async with AuditLogger(sealing(config_for, tmp_path, service_id="toggled", rotation=tiny)) as audit:
        for _ in range(40):
            audit.emit(success("bob"))
    broken = sealing(config_for, tmp_path, service_id="unread")
    async with AuditLogger(broken) as audit:
        audit.emit(success("bob"))
    (log_directory(broken) / "manifest.json").write_bytes(b"{")
    async with AuditLogger(config) as audit:
        report = await audit.erase_subject("bob", **WHY)
    assert report.keys == 4
    assert report.unsealed_logs == ("plain/00",)
    assert report.partly_sealed_logs == ("older/00", "toggled/00")
    assert report.unread_logs == ("unread/00",)


async def test_commands_that_look_after_a_log_do_not_make_it_one_that_does_not_seal(
    config_for: ConfigFor, tmp_path: Path
) -> None:
    """They may fill whole segments with the log's own records; a session that records callers' events does."""
    tiny = RotationPolicy(max_bytes=4096)
    config, command = sealing(config_for, tmp_path, rotation=tiny), config_for(rotation=tiny)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
    async with AuditLogger(command) as audit:
        for _ in range(20):
            await audit.set_hold(reason="case 7", set_by="court")
            await audit.lift_hold(reason="over", lifted_by="court")
    assert len(list(log_directory(config).glob("*.audit"))) > 2
    (log,) = find_logs(tmp_path / "audit")
    assert seals(log)
    assert find_unsealed(tmp_path / "audit").unsealed == ()
    async with AuditLogger(command) as audit:
        for _ in range(20):
            audit.emit(success("alice"))
    assert not seals(log)
    assert find_unsealed(tmp_path / "audit").unsealed == ("orders/00",)


# -- holds --------------------------------------------------------------------------------------------------------


async def test_a_hold_of_any_log_keeps_everybody(config_for: ConfigFor, tmp_path: Path) -> None:
    """Set before or after, on this log or another that uses the key store; lifting it or force ends that."""
    config, other = sealing(config_for, tmp_path), sealing(config_for, tmp_path, service_id="billing")
    async with AuditLogger(config) as audit, AuditLogger(other) as billing:
        audit.emit(success("alice"))
        for held in (audit, billing):
            await held.set_hold(reason="case 7", set_by="court")
            with pytest.raises(ErasureRefused, match="legal hold"):
                await audit.erase_subject("alice", **WHY)
            await held.lift_hold(reason="over", lifted_by="court")
        assert names(config, tmp_path) == ["alice"]
        assert recorded(config, event_type="audit.erasure_started") == []
        await audit.set_hold(reason="case 8", set_by="court")
        assert (await audit.erase_subject("alice", force=True, **WHY)).keys == 1
    (started,) = recorded(config, event_type="audit.erasure_started")
    assert started["event"]["forced"] is True


async def test_who_set_a_hold_and_why_is_sealed(config_for: ConfigFor, tmp_path: Path) -> None:
    """`hold.json` has it in the clear while the hold is in force; if that is lost the hold stays, without its texts."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        hold = await audit.set_hold(reason="against alice", set_by="judge")
    path = log_directory(config) / "hold.json"
    async with AuditLogger(config) as audit:
        assert await audit.hold() == hold
    assert path.read_bytes().count(b"alice") == 1
    assert (await AuditReader(tmp_path / "audit").verify()).valid
    assert not any(word in b"".join(segment_lines(log_directory(config))) for word in (b"alice", b"judge"))
    (shown,) = opened(config, tmp_path, event_type="audit.hold_set")
    assert (shown.event["reason"], shown.event["set_by"]) == ("against alice", "judge")
    path.unlink()
    for _ in range(2):
        async with AuditLogger(config) as audit:
            assert await audit.hold() == Hold(reason="[sealed]", set_by="[sealed]", since=hold.since, id=hold.id)
            with pytest.raises(ErasureRefused):
                await audit.erase_subject("alice", **WHY)
    async with AuditLogger(config) as audit:
        await audit.lift_hold(reason="alice is innocent", lifted_by="judge")
    assert not path.exists()
    assert not any(word in b"".join(segment_lines(log_directory(config))) for word in (b"alice", b"judge"))
    assert (await AuditReader(tmp_path / "audit").verify()).valid


async def test_a_session_that_does_not_seal_repeats_no_hold_in_the_clear(config_for: ConfigFor, tmp_path: Path) -> None:
    """As a command without the key store opens its own log; the hold itself stays, and its texts in `hold.json`."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        hold = await audit.set_hold(reason="against alice", set_by="judge")
    for _ in range(2):
        async with AuditLogger(config_for(rotation=RotationPolicy(max_bytes=4096))) as audit:
            assert await audit.hold() == hold
            for number in range(20):
                await audit.emit_durable(failure(number))
            assert (await audit.apply_retention()).hold == hold
    assert len(recorded(config, event_type="audit.segment_sealed")) > 2
    assert not any(word in b"".join(segment_lines(log_directory(config))) for word in (b"alice", b"judge"))
    assert (await AuditReader(tmp_path / "audit").verify()).valid
    async with AuditLogger(config) as audit:
        assert await audit.hold() == hold
    states = [record["event"]["holds"] for record in recorded(config, event_type="audit.log_opened")]
    assert [[stated["reason"][:8] for stated in holds] for holds in states] == [
        [], ["[sealed]"], ["[sealed]"], ["sealed:1"],
    ]  # fmt: skip


async def test_a_hold_from_before_the_start_counts(config_for: ConfigFor, tmp_path: Path) -> None:
    """One that was set when the log did not seal yet is copied at the opening."""
    async with AuditLogger(config_for()) as audit:
        await audit.set_hold(reason="case 7", set_by="court")
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        with pytest.raises(ErasureRefused):
            await audit.erase_subject("alice", **WHY)


# -- other processes ----------------------------------------------------------------------------------------------


async def test_another_log_drops_the_keys_and_counts_what_was_on_its_way(config_for: ConfigFor, tmp_path: Path) -> None:
    """Records that were not durable yet are unreadable at birth: the chain says how many. New ones have new keys."""
    config = sealing(config_for, tmp_path)
    other = sealing(config_for, tmp_path, service_id="billing", flush_mode=Batched(size=1000, interval=600))
    async with AuditLogger(config) as audit, AuditLogger(other) as billing:
        audit.emit(success("alice"))
        with audit_context(user_id="alice"):
            for _ in range(3):
                billing.emit(success("alice"))
            billing.emit(success("bob"))
            with anyio.fail_after(60):
                while len(recorded(other)) < 4:  # written, and not synced
                    await anyio.sleep(0.01)
            report = await audit.erase_subject("alice", **WHY)
            assert report.is_complete
            assert report.keys == 2
            billing.emit(success("alice"))
            await billing.flush()
        await billing.flush()
        (in_flight,) = recorded(other, event_type="audit.erased_in_flight")
    assert in_flight["event"] == {"event_type": "audit.erased_in_flight", "epoch": report.epoch, "records": 4}
    assert [str(name)[:7] for name in names(other, tmp_path)] == ["[erased"] * 3 + ["bob", "alice"]
    assert opened(other, tmp_path)[4].context == {"user_id": "alice"}


async def test_what_is_found_only_while_closing_is_recorded_by_the_next_opening(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain has ended by then, so the key store keeps the count; it is recorded once."""
    config = sealing(config_for, tmp_path)
    other = sealing(config_for, tmp_path, service_id="billing", flush_mode=Batched(size=1000, interval=600))
    monkeypatch.setattr("audit_async._writer.erasures._LOOK_EVERY_S", 600.0)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        async with AuditLogger(other) as billing:
            for _ in range(3):
                billing.emit(success("alice"))
            with anyio.fail_after(60):
                while len(recorded(other)) < 3:  # written, and not synced
                    await anyio.sleep(0.01)
            report = await audit.erase_subject("alice", timeout_s=0.0, **WHY)
            assert report.waiting_for == ("billing/00",)
        assert recorded(other, event_type="audit.erased_in_flight") == []
    for _ in range(2):
        async with AuditLogger(other):
            (in_flight,) = recorded(other, event_type="audit.erased_in_flight")
            assert (in_flight["event"]["records"], in_flight["event"]["session_before"]) == (3, True)
    assert (await AuditReader(tmp_path / "audit").verify()).valid


async def test_a_start_that_is_cancelled_as_the_key_store_opens_leaves_it(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or every erasure would wait for a log that nobody has, for as long as the process lives."""
    opening, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slowly(*args: Any, **kwargs: Any) -> SqliteKeyStore:
        loop.call_soon_threadsafe(opening.set)
        go_on.wait(60)
        return open_key_store(*args, **kwargs)

    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        monkeypatch.setattr("audit_async._writer.opened_keys.open_key_store", slowly)
        billing = AuditLogger(sealing(config_for, tmp_path, service_id="billing"))
        starting = asyncio.create_task(billing.start())
        await opening.wait()
        starting.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        report = await audit.erase_subject("alice", timeout_s=60, **WHY)
        assert report.is_complete
        async with billing:
            assert billing.health().ok


async def test_a_key_that_was_made_before_an_erasure_is_not_stored_after_it(
    config_for: ConfigFor, tmp_path: Path
) -> None:
    """An event that waits in memory while its person is erased elsewhere brings no key back."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        store = open_store(tmp_path / "keys")
        audit.emit(success("alice"))
        audit.emit(success("bob"))
        store.begin_erasure(ALICE, "elsewhere")  # before the loop has a turn, as another process may
        await audit.flush()
        assert store.find(ALICE) == []
        assert len(store.find(BOB)) == 1
        store.close()
        await audit.flush()
        (in_flight,) = recorded(config, event_type="audit.erased_in_flight")
        audit.emit(success("alice"))
    assert in_flight["event"]["records"] == 1
    assert set(in_flight["event"]["key_ids"]) == key_ids_in(segment_lines(log_directory(config))[1])
    assert [str(name)[:7] for name in names(config, tmp_path)] == ["[erased", "bob", "alice"]


async def test_a_full_disk_of_the_key_store_does_not_keep_an_erasure_waiting(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys can't be stored just when an erasure is noticed: once they are, the log says that it has passed it."""
    config = sealing(config_for, tmp_path)
    store = open_store(tmp_path / "keys")
    stored, failures = SqliteKeyStore.insert, [KeyStoreUnavailable(errno.ENOSPC, "full")]

    def insert(self: SqliteKeyStore, keys: Sequence[NewKey]) -> list[bytes]:
        if keys and failures:
            raise failures.pop()
        return stored(self, keys)

    async with AuditLogger(config) as audit:
        await audit.emit(success("alice")).durable()
        erasure = store.begin_erasure(ALICE, "e1")
        monkeypatch.setattr(SqliteKeyStore, "insert", insert)
        await audit.emit(success("bob")).durable()
        assert failures == []
        with anyio.fail_after(60):
            while store.lagging(erasure.epoch):
                await anyio.sleep(0.05)
    store.close()


async def test_an_idle_log_takes_notice_by_itself(config_for: ConfigFor, tmp_path: Path) -> None:
    """It has no commits, and an erasure elsewhere waits for it no longer than about a second."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        await audit.flush()
        store = open_store(tmp_path / "keys")
        erasure = store.begin_erasure(ALICE, "elsewhere")
        store.destroy(erasure.key_ids, erasure_id="elsewhere")
        assert store.lagging(erasure.epoch) == ["orders/00"]
        with anyio.fail_after(60):
            while store.lagging(erasure.epoch):
                await anyio.sleep(0.05)
        store.close()


# -- what dies when -----------------------------------------------------------------------------------------------

DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from audit_async import AuditConfig, AuditLogger, Local
from audit_async.config import Privacy
from audit_async.privacy.sqlite_key_store import SqliteKeyStore, SqliteSession
from tests.privacy.sealed_logs import success

base, step, when = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
config = AuditConfig(
    mode=Local(base / "audit"), service_id="orders", handle_signals=False,
    privacy=Privacy(key_store=str(base / "keys"), master_key=f"file:{base / 'master.key'}"),
)

def dying(cls, name):
    real = getattr(cls, name)
    def call(*args, **kwargs):
        if armed and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if armed and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(cls, name, call)

armed = False
dying(SqliteSession if step == "insert" else SqliteKeyStore, step)

async def main():
    global armed
    async with AuditLogger(config) as audit:
        audit.emit(success("bob"))
        await audit.flush()
        if step != "insert":
            audit.emit(success("alice"))
            await audit.flush()
        print("durable", flush=True)
        armed = True
        if step == "insert":
            audit.emit(success("alice"))
            await audit.flush()
            print("durable", flush=True)
        else:
            await audit.erase_subject("alice", reason="art. 17", requested_by="officer")
            print("erased", flush=True)
asyncio.run(main())
"""

STEPS = [
    (step, when)
    for step in ("insert", "begin_erasure", "destroy", "lagging", "end_erasure")
    for when in ("before", "after")
]


@pytest.mark.parametrize(("step", "when"), STEPS)
async def test_a_process_that_is_killed_loses_no_key_and_keeps_no_erased_one(
    config_for: ConfigFor, tmp_path: Path, step: str, when: str
) -> None:
    """At each step of a first use and of an erasure: what was acknowledged opens, what was begun on record is ended."""
    config = sealing(config_for, tmp_path)
    died = await anyio.run_process([sys.executable, "-c", DYING, str(tmp_path), step, when], check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert died.stdout == b"durable\n"
    async with AuditLogger(config) as audit:
        audit.emit(success("carol"))
        began = recorded(config, event_type="audit.erasure_started")
        ended = recorded(config, event_type="audit.subject_erased")
        if (step, when) == ("begin_erasure", "after"):  # nothing says who asked for it: it ends with nothing destroyed
            assert not began
            assert (ended[0]["event"]["keys"], ended[0]["event"]["incomplete"]) == (0, True)
        else:
            assert [e["event"]["erasure_id"] for e in began] == [e["event"]["erasure_id"] for e in ended]
            assert all(e["event"]["keys"] == 1 for e in ended)
        store = open_store(tmp_path / "keys")
        assert store.unfinished_erasures() == []
        assert bool(store.find(ALICE)) == (step in {"insert", "begin_erasure"} and (step, when) != ("insert", "before"))
        store.close()
    found = names(config, tmp_path)
    assert found[0] == "bob"
    assert found[-1] == "carol"
    assert not any(member.shown == "[key missing]" for one in opened(config, tmp_path) for member in one.members)
    if began:
        assert str(found[1]).startswith("[erased")
        assert ended[0]["event"].get("resumed") or step == "end_erasure"


async def test_an_erasure_that_the_key_store_refuses_is_completed_later(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle is an error for the caller; the next opening does what was begun."""

    def refuse(*_: object, **__: object) -> int:
        raise KeyStoreUnavailable(errno.ENOSPC, "no space")

    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        with monkeypatch.context() as patch:
            patch.setattr(SqliteKeyStore, "destroy", refuse)
            with pytest.raises(KeyStoreUnavailable):
                await audit.erase_subject("alice", **WHY)
        assert names(config, tmp_path) == ["alice"]
    async with AuditLogger(config):
        pass
    assert str(names(config, tmp_path)[0]).startswith("[erased")
    (erased,) = recorded(config, event_type="audit.subject_erased")
    assert erased["event"]["resumed"] is True


async def test_a_hold_that_comes_in_the_middle_keeps_what_was_only_begun(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the erasure nor the next opening destroys a key then; the opening after the hold is lifted does."""
    config = sealing(config_for, tmp_path)
    real: Any = SqliteKeyStore.destroy

    def held(self: SqliteKeyStore, *args: Any, **kwargs: Any) -> int:
        self.set_hold("another-log", "7")
        destroyed: int = real(self, *args, **kwargs)
        return destroyed

    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        with monkeypatch.context() as patch:
            patch.setattr(SqliteKeyStore, "destroy", held)
            with pytest.raises(ErasureRefused):
                await audit.erase_subject("alice", **WHY)
    async with AuditLogger(config):
        pass
    assert names(config, tmp_path) == ["alice"]
    store = open_store(tmp_path / "keys")
    store.lift_hold("another-log", "7")
    async with AuditLogger(config):
        pass
    assert str(names(config, tmp_path)[0]).startswith("[erased")
    assert store.unfinished_erasures() == []
    store.close()
    assert len(recorded(config, event_type="audit.subject_erased")) == 1


async def test_a_key_store_from_a_backup_destroys_again_before_it_serves(config_for: ConfigFor, tmp_path: Path) -> None:
    """The chain knows what was destroyed; a restored store does not, and would let everybody be read again."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        audit.emit(success("bob"))
    shutil.copytree(tmp_path / "keys", tmp_path / "backup")
    async with AuditLogger(config) as audit:
        await audit.erase_subject("alice", **WHY)
    shutil.rmtree(tmp_path / "keys")
    shutil.move(tmp_path / "backup", tmp_path / "keys")
    assert names(config, tmp_path) == ["alice", "bob"]
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
    assert [str(name)[:7] for name in names(config, tmp_path)] == ["[erased", "bob", "alice"]
    (restored,) = recorded(config, event_type="audit.key_store_restored")
    assert restored["event"]["keys"] == 1
    assert restored["event"]["expected_epoch"] > restored["event"]["epoch"]
    async with AuditLogger(config):
        pass
    assert len(recorded(config, event_type="audit.key_store_restored")) == 1


# -- forgetting ---------------------------------------------------------------------------------------------------


async def test_keys_are_forgotten_by_age(config_for: ConfigFor, tmp_path: Path) -> None:
    """Whoever they were about; recorded before and after, once, and not under a hold."""
    config = sealing(config_for, tmp_path, privacy={"forget_after_days": 30, "forget_before_retention": True})
    store = open_store(tmp_path / "keys")
    today = datetime.now(UTC).date()
    old, young = [day_number(today - timedelta(days=days)) for days in (31, 29)]
    session = store.open_session("old")
    nobody = Subject("", "unattributed", "")
    session.insert(some_keys(store, ALICE, 2, day=old) + some_keys(store, nobody, 1, day=old))
    session.insert(some_keys(store, ALICE, 1, day=young))
    session.close()
    async with AuditLogger(config) as audit:
        erasures = audit._session.erasures  # type: ignore[union-attr]
        assert erasures is not None
        await audit.set_hold(reason="case 7", set_by="court")
        with pytest.raises(ConfigError, match="hold"):
            await erasures.forget()
        await audit.lift_hold(reason="over", lifted_by="court")
        await erasures.forget()
        await erasures.forget()
    assert len(store.find(ALICE)) == 1
    assert store.find(nobody) == []
    store.close()
    before = (today - timedelta(days=30)).isoformat()
    assert [record["event"] for record in recorded(config, event_type="audit.keys_forgotten")] == [
        {"event_type": "audit.keys_forgotten", "before": before},
        {"event_type": "audit.keys_forgotten", "before": before, "days": 1, "keys": 3},
    ]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nothing_is_destroyed_or_ended_before_its_record_is_written(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records wait for no company, though all others do, and the key store is called after them."""
    config = sealing(
        config_for,
        tmp_path,
        privacy={"forget_after_days": 30, "forget_before_retention": True},
        flush_mode=Immediate(max_delay=60.0),
    )
    written: dict[str, int] = {}
    record_of = {
        "destroy": "audit.erasure_started",
        "end_erasure": "audit.subject_erased",
        "forget": "audit.keys_forgotten",
    }

    def note(step: str) -> None:
        real = getattr(SqliteKeyStore, step)

        def noting(*args: Any, **kwargs: Any) -> Any:
            written[step] = len(recorded(config, event_type=record_of[step]))
            return real(*args, **kwargs)

        monkeypatch.setattr(SqliteKeyStore, step, noting)

    for step in record_of:
        note(step)
    async with AuditLogger(config) as audit:
        audit.emit(success("alice"))
        await audit.erase_subject("alice", **WHY)
        erasures = audit._session.erasures  # type: ignore[union-attr]
        assert erasures is not None
        await erasures.forget()
    assert written == dict.fromkeys(record_of, 1)


async def test_many_keys_take_several_records(config_for: ConfigFor, tmp_path: Path) -> None:
    """At most 1,000 key ids each, so that no record grows past what a log takes."""
    config = sealing(config_for, tmp_path)
    store = open_store(tmp_path / "keys")
    session = store.open_session("old")
    session.insert(some_keys(store, ALICE, 2500))
    session.close()
    async with AuditLogger(config) as audit:
        assert (await audit.erase_subject("alice", **WHY)).keys == 2500
    assert store.find(ALICE) == []
    store.close()
    parts = recorded(config, event_type="audit.erasure_started")
    assert [len(part["event"]["key_ids"]) for part in parts] == [1000, 1000, 500]
    assert [(part["event"]["part"], part["event"]["parts"]) for part in parts] == [(1, 3), (2, 3), (3, 3)]
    assert len(all_key_ids(config)) == 1  # of who asked


KILLED_BETWEEN = """
import asyncio, os, signal, sys
from pathlib import Path
from audit_async import AuditConfig, AuditLogger, Local
from audit_async._durable import disk
from audit_async.config import Privacy

base, records, extra = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def dying(name):
    real = getattr(disk, name)
    def call(fd, data, offset):
        data = bytes(data)
        if b"audit.erasure_started" in data:
            lines = data.splitlines(keepends=True)
            assert len(lines) == 3
            part = b"".join(lines)[: sum(map(len, lines[:records])) + extra]
            disk_write(fd, part, offset)
            os.fsync(fd)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(fd, data, offset)
    setattr(disk, name, call)

disk_write = disk.write_at
for name in ("write_at", "write_and_sync_at"):
    dying(name)

async def main():
    privacy = Privacy(key_store=str(base / "keys"), master_key=f"file:{base / 'master.key'}")
    mode = Local(base / "audit")
    async with AuditLogger(AuditConfig(mode=mode, service_id="orders", handle_signals=False, privacy=privacy)) as audit:
        await audit.erase_subject("alice", reason="asked for it", requested_by="officer", force=True)
asyncio.run(main())
"""


@pytest.mark.parametrize(("whole", "extra"), [(0, 0), (0, 900), (1, 0), (1, 900), (2, 0), (2, 900), (3, 0)])
async def test_an_erasure_that_was_killed_between_its_records_is_completed(
    config_for: ConfigFor, tmp_path: Path, whole: int, extra: int
) -> None:
    """What the chain does not list is recorded at the next opening before it is destroyed; later keys are kept."""
    config = sealing(config_for, tmp_path)
    store = open_store(tmp_path / "keys")
    session = store.open_session("old")
    before = some_keys(store, ALICE, 1300) + some_keys(store, ALICE, 1200, day=day_number(datetime.now(UTC).date()) - 1)
    session.insert(before)
    command = [sys.executable, "-c", KILLED_BETWEEN, str(tmp_path), str(whole), str(extra)]
    died = await anyio.run_process(command, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    later = some_keys(store, ALICE, 3)
    session.passed(store.epoch())
    assert session.insert(later) == []
    session.close()
    assert len(store.find(ALICE)) == 2503
    async with AuditLogger(config):
        pass
    (ended,) = recorded(config, event_type="audit.subject_erased")
    parts = [record["event"] for record in recorded(config, event_type="audit.erasure_started")]
    if whole == 0:
        assert parts == []
        assert (ended["event"]["keys"], ended["event"]["incomplete"]) == (0, True)
        assert len(store.find(ALICE)) == 2503
    else:
        assert (ended["event"]["keys"], ended["event"].get("incomplete")) == (2500, None)
        assert set(store.find(ALICE)) == {key.key_id for key in later}
        assert [(part["part"], part["parts"], part["keys"], part["forced"]) for part in parts] == [
            (1, 3, 2500, True), (2, 3, 2500, True), (3, 3, 2500, True)
        ]  # fmt: skip
        assert [part.get("resumed") for part in parts] == [None] * whole + [True] * (3 - whole)
        listed = [key_id_bytes(key_id) for part in parts for key_id in part["key_ids"]]
        assert sorted(listed) == sorted(key.key_id for key in before)
        why = [one.event for one in opened(config, tmp_path, event_type="audit.erasure_started")]
        assert {(part["reason"], part["requested_by"]) for part in why} == {("asked for it", "officer")}
    assert ended["event"]["resumed"] is True
    assert store.unfinished_erasures() == []
    store.close()
    assert (await AuditReader(tmp_path / "audit").verify()).valid
