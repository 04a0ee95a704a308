"""What `SyncAuditLogger` offers besides recording: proof, holds, retention, erasure; the same as `AuditLogger`."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from audit_async import AuditLogger, Transparency
from audit_async._durable import disk
from audit_async._store.log_store import LogStore
from audit_async._writer.upkeep import _under_way
from audit_async.config import Disabled
from audit_async.errors import ConfigError, LogClosed
from audit_async.privacy import ErasureRefused, ErasureRules
from audit_async.sync import SyncAuditLogger
from audit_async.tlog import Policy, load_signer, new_key, verify_proof, write_key
from tests.logs import ConfigFor, failure, log_directory
from tests.privacy.key_stores import make_store
from tests.privacy.sealed_logs import opened, sealing, success
from tests.processes import wait_until
from tests.trails import check_trail, read_events

ORIGIN = "example.org/orders/00"

#: A prefork server in small: two workers have opened logs of their own, and a third erases before it has recorded.
WORKERS = """
import os, sys
from audit_async import ActorInfo, AuditConfig, AuthMethod, Local
from audit_async.config import Privacy
from audit_async.events import AuthSuccess
from audit_async.sync import SyncAuditLogger

place = sys.argv[1]
privacy = Privacy(key_store=f"{place}/keys", master_key=f"file:{place}/master.key")
audit = SyncAuditLogger(AuditConfig(mode=Local(f"{place}/audit"), service_id="orders", privacy=privacy))

def log_in():
    audit.emit_durable(AuthSuccess(actor=ActorInfo(user_id="alice"), method=AuthMethod.MFA, path="/login"), 120)

def worker():
    "Record, report that, and record again once somebody was erased."
    reported, report = os.pipe()
    erased, go_on = os.pipe()
    if (child := os.fork()) == 0:
        os.close(go_on)
        log_in()
        os.write(report, b"1")
        os.read(erased, 1)
        log_in()
        audit.close()
        os._exit(0)
    os.close(report)
    os.close(erased)
    assert os.read(reported, 1) == b"1"
    return child, go_on

audit.start()
log_in()
workers = [worker(), worker()]
eraser = os.fork()
if eraser == 0:
    report = audit.erase_subject("alice", reason="r", requested_by="officer", timeout_s=120)
    print(report.keys, report.waiting_for, audit.directory.name, flush=True)
    audit.close()
    os._exit(0)
assert os.waitpid(eraser, 0)[1] == 0
log_in()
for child, go_on in workers:
    os.write(go_on, b"1")
    assert os.waitpid(child, 0)[1] == 0
audit.close()
"""


def public_calls(kind: type) -> dict[str, list[str]]:
    """Return the parameters of each public method of a class."""
    calls = {name: call for name, call in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    return {name: list(inspect.signature(call).parameters) for name, call in calls.items()}


def test_it_offers_what_an_audit_logger_offers() -> None:
    """Each call, by the same name, with the same parameters in the same order; it may take a timeout besides."""
    blocking = public_calls(SyncAuditLogger)
    for name, parameters in public_calls(AuditLogger).items():
        if name == "aclose":
            continue  # it is `close`
        own = [parameter for parameter in blocking[name] if parameter not in {"timeout_s", "blocks_event_loop"}]
        assert own == [parameter for parameter in parameters if parameter != "timeout_s"], name


def test_a_hold_keeps_what_retention_would_take(config_for: ConfigFor) -> None:
    """It is recorded, returned and lifted; retention says that it is held, and reading is on record."""
    config = config_for()
    with SyncAuditLogger(config) as audit:
        assert audit.hold() is None
        hold = audit.set_hold(reason="case 4711", set_by="legal", timeout_s=60)
        assert audit.hold(timeout_s=60) == hold
        assert audit.apply_retention(dry_run=True).hold == hold
        audit.lift_hold(reason="settled", lifted_by="legal", timeout_s=60)
        assert audit.hold() is None
        audit.record_access("carol", {"actor": "bob"}, 3).wait(60)
        audit.record_export("carol", format="csv", records=3, sha256="0" * 64, unsealed=False).wait(60)
    check_trail(log_directory(config))
    kinds = [record["event"]["event_type"] for record in read_events(log_directory(config))]
    assert kinds[1:-1] == ["audit.hold_set", "audit.hold_lifted", "audit.log_accessed", "audit.exported"]


@pytest.mark.parametrize("call", ["set", "lift"])
def test_a_hold_that_takes_longer_than_its_caller_waits_is_on_record(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Its file and its record belong together: in force in this session, it is no secret of it."""
    config = config_for()
    going_on, real = threading.Event(), LogStore.set_hold if call == "set" else LogStore.lift_holds

    def slow(*args: Any, **keywords: Any) -> Any:
        done = real(*args, **keywords)
        assert going_on.wait(60)
        return done

    with SyncAuditLogger(config) as audit:
        if call == "lift":
            audit.set_hold(reason="case", set_by="legal")
        monkeypatch.setattr(LogStore, real.__name__, slow)
        with pytest.raises(TimeoutError):
            if call == "set":
                audit.set_hold(reason="case", set_by="legal", timeout_s=0.05)
            else:
                audit.lift_hold(reason="closed", lifted_by="legal", timeout_s=0.05)
        going_on.set()
        assert (audit.hold(timeout_s=60) is None) is (call == "lift")
        wait_until(lambda: not _under_way)
        kinds = [record["event"]["event_type"] for record in read_events(log_directory(config))]
        assert kinds[-1] == ("audit.hold_set" if call == "set" else "audit.hold_lifted")


def test_what_ends_the_block_is_not_replaced(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that takes nothing Ctrl-C is a KeyboardInterrupt all the same, with the log's error as a note."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(KeyboardInterrupt) as caught,
        monkeypatch.context() as patch,
        SyncAuditLogger(config_for(drain_timeout=0.2)) as audit,
    ):
        for call in ("write_at", "write_and_sync_at"):
            patch.setattr(disk, call, full)
        audit.emit(failure())
        raise KeyboardInterrupt
    (note,) = caught.value.__notes__
    assert note.startswith("orders: ")


def test_a_record_is_proved(config_for: ConfigFor, tmp_path: Path) -> None:
    """By its receipt and by its id, under a checkpoint that is signed now."""
    write_key(tmp_path / "key.pem", new_key())
    config = config_for(transparency=Transparency(key=str(tmp_path / "key.pem"), origin=ORIGIN))
    with SyncAuditLogger(config) as audit:
        receipt = audit.emit(failure())
        proof = audit.prove(receipt, timeout_s=60)
        assert audit.prove(receipt.audit_id).leaf_index == receipt.seq
        assert audit.checkpoint(timeout_s=60).checkpoint.size > receipt.seq
    policy = Policy.of([load_signer(tmp_path / "key.pem", origin=ORIGIN).key])
    verify_proof(proof, index=receipt.seq, record_hash=bytes.fromhex(receipt.hash), policy=policy)


def test_a_person_is_erased(config_for: ConfigFor, tmp_path: Path) -> None:
    """The key is destroyed, what comes afterwards is legible, and both records of the erasure are in the chain."""
    config = sealing(config_for, tmp_path)
    with SyncAuditLogger(config) as audit:
        audit.emit(success())
        report = audit.erase_subject("alice", reason="her request", requested_by="officer")
        assert (report.keys, report.is_complete) == (1, True)
        audit.emit(success())
    check_trail(log_directory(config))
    first, second = opened(config, tmp_path)
    assert {member.shown[:8] for member in first.members} == {"[erased "}
    assert all(member.opened is not None for member in second.members)


def test_an_erasure_waits_for_a_second_person(
    config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of a request, and the rules that ask for one; a timeout and a second `erase_subject` are refused."""
    monkeypatch.setattr("audit_async._writer.requested_erasures._FIRST_LOOK_S", 600.0)  # nobody else executes it
    config = sealing(config_for, tmp_path, privacy={"two_person": True})
    with SyncAuditLogger(config) as audit:
        audit.emit(success())
        with pytest.raises(ErasureRefused):
            audit.erase_subject("alice", reason="r", requested_by="officer")
        dropped = audit.request_erasure("alice", reason="r", requested_by="officer", timeout_s=60)
        audit.cancel_erasure(dropped.request_id, reason="lawsuit", cancelled_by="legal", timeout_s=60)
        request = audit.request_erasure("alice", reason="r", requested_by="officer")
        assert [waiting.request_id for waiting in audit.waiting_erasures(timeout_s=60)] == [request.request_id]
        with pytest.raises(ErasureRefused):
            audit.approve_erasure(request.request_id, "alice", approved_by="Officer")
        audit.approve_erasure(request.request_id, "alice", approved_by="legal", timeout_s=60)
        assert [report.keys for report in audit.execute_erasures()] == [1]
        assert audit.erasure_rules(timeout_s=60).two_person
        audit.change_erasure_rules(ErasureRules(), reason="policy", changed_by="board", timeout_s=60)
        assert not audit.erasure_rules().two_person
    check_trail(log_directory(config))


def test_none_of_it_is_done_by_a_log_that_is_not_open(config_for: ConfigFor, tmp_path: Path) -> None:
    """Before the start, after the end, switched off, and in a thread whose event loop it would stop."""
    audit = SyncAuditLogger(sealing(config_for, tmp_path))

    def erase() -> None:
        audit.erase_subject("alice", reason="r", requested_by="officer")

    for call in (erase, audit.hold, audit.waiting_erasures, lambda: audit.record_access("carol", {})):
        with pytest.raises(LogClosed):
            call()
    audit.start()

    async def in_loop() -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            erase()
        await asyncio.to_thread(erase)

    asyncio.run(in_loop())
    audit.close()
    for call in (erase, audit.hold, lambda: audit.record_access("carol", {})):
        with pytest.raises(LogClosed):
            call()
    with SyncAuditLogger(config_for(mode=Disabled())) as off, pytest.raises(ConfigError, match="Disabled"):
        off.erase_subject("alice", reason="r", requested_by="officer")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_worker_erases_in_the_logs_of_all(config_for: ConfigFor, tmp_path: Path) -> None:
    """The log of the one that asks is opened for it; the others confirm while they are idle, and go on."""
    make_store(tmp_path)
    command = [sys.executable, "-c", WORKERS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "()", "03"]
    for instance in ("00", "01", "02"):
        config = sealing(config_for, tmp_path, instance=instance)
        check_trail(log_directory(config, instance))
        before, after = opened(config, tmp_path, instance=instance)
        assert {member.shown[:8] for member in before.members} == {"[erased "}
        assert all(member.opened is not None for member in after.members)
    eraser = [record["event"]["event_type"] for record in read_events(tmp_path / "audit/orders/03")]
    assert eraser == ["audit.log_opened", "audit.erasure_started", "audit.subject_erased", "audit.log_closed"]
