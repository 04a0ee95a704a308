"""`audit-async erase`: what it destroys, what it says beforehand, when it refuses, and next to a running service."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuthMethod, Local, audit_context
from audit_async._writer.erasures import Erasures
from audit_async.config import Privacy
from audit_async.events import AuthSuccess
from audit_async.sync import SyncAuditLogger
from tests.cli.commands import Audit
from tests.cli.test_sealed_members import files_with
from tests.privacy.key_stores import make_store
from tests.processes import started

ASKED = ("--subject", "alice", "--reason", "request 4711", "--by", "R. Roe")


class Service:
    """A service that records who logged in."""

    def __init__(self, tmp_path: Path, *, escrow: bytes | None = None) -> None:
        self.base_dir = tmp_path / "audit"
        self.store = make_store(tmp_path, escrow=escrow)
        self.master_key = f"file:{tmp_path / 'master.key'}"
        self.keys = ("--key-store", str(self.store), "--master-key", self.master_key)

    def config(self, *, sealing: bool = True) -> AuditConfig:
        """Return the configuration; without `sealing` as it was before."""
        privacy = Privacy(key_store=self.store, master_key=self.master_key) if sealing else None
        return AuditConfig(mode=Local(self.base_dir), service_id="orders", privacy=privacy)

    def run(self, *names: str, sealing: bool = True) -> None:
        """Record that these people logged in."""

        async def main() -> None:
            async with AuditLogger(self.config(sealing=sealing)) as audit:
                for name in names:
                    audit.emit(AuthSuccess(actor=ActorInfo(user_id=name), method="password", path="/"))  # type: ignore[arg-type]

        anyio.run(main)

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """Run a process that records a log-in of `name` for each line that it is given."""
        code = textwrap.dedent(f"""
            import asyncio, sys
            from audit_async import ActorInfo, AuditConfig, AuditLogger, Local
            from audit_async.config import Privacy
            from audit_async.events import AuthSuccess

            async def main():
                privacy = Privacy(key_store={str(self.store)!r}, master_key={self.master_key!r})
                config = AuditConfig(mode=Local({str(self.base_dir)!r}), service_id="orders", privacy=privacy)
                async with AuditLogger(config) as audit:
                    while await asyncio.to_thread(sys.stdin.readline):
                        event = AuthSuccess(actor=ActorInfo(user_id={name!r}), method="password", path="/")
                        await audit.emit_durable(event)
                        print("recorded", flush=True)

            asyncio.run(main())
        """)
        with started([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            log_in(process)
            yield process
            process.stdin.close()
            assert process.wait(timeout=60) == 0


@contextmanager
def a_service_that_does_not_confirm(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a service that has a key of Alice and never looks whether it was destroyed; nobody waits for it."""
    wait = Erasures._wait_for_others
    monkeypatch.setattr("audit_async._writer.erasures._LOOK_EVERY_S", 600.0)
    monkeypatch.setattr("audit_async._writer.requested_erasures._FIRST_LOOK_S", 600.0)
    monkeypatch.setattr(Erasures, "_wait_for_others", lambda self, epoch, _: wait(self, epoch, 0.0))
    with SyncAuditLogger(service.config()) as running:
        running.emit(AuthSuccess(actor=ActorInfo(user_id="alice"), method=AuthMethod.PASSWORD, path="/")).wait()
        yield


def log_in(process: subprocess.Popen[str]) -> None:
    """Let a running service record one log-in."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "recorded\n"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service with a key store."""
    return Service(tmp_path)


def log_ins(audit: Audit, service: Service) -> list[Any]:
    """Return who logged in, as somebody with the keys sees it."""
    rows = audit("query", service.base_dir, "--type", "auth.success", "--json", *service.keys).rows
    return [row["event"]["actor"]["user_id"] for row in rows]


def test_a_person_is_erased_and_the_others_stay(audit: Audit, service: Service) -> None:
    """The records verify, the others are legible, and a later record about the person has a new key."""
    service.run("alice", "bob", "alice")
    done = audit("erase", service.base_dir, *ASKED, *service.keys, "--json")
    assert done.status == 0, done.err
    report = done.document
    assert (report["keys"], report["recorded_in"], report["waiting_for"]) == (1, "orders/00", [])
    service.run("alice")
    erased, bob, again, new = log_ins(audit, service)
    assert (bob, new) == ("bob", "alice")
    assert erased == again
    assert erased.startswith("[erased 20")
    assert audit("verify", service.base_dir).status == 0
    assert files_with(service.base_dir, b"alice") == []
    assert files_with(service.base_dir, b"R. Roe") == []
    (started,) = audit("query", service.base_dir, "--type", "audit.erasure_started", "--json", *service.keys).rows
    assert (started["event"]["requested_by"], started["event"]["reason"]) == ("R. Roe", "request 4711")


def test_a_dry_run_says_what_is_reached_and_what_is_not(audit: Audit, service: Service, tmp_path: Path) -> None:
    """It counts sealed and plain records and unsealed exports, and changes nothing."""
    service.run("alice", "carol", sealing=False)
    service.run("alice", "bob", "alice")
    copy = ("subject-data", service.base_dir, tmp_path / "bob.html", "--subject", "bob", "--as", "roe", *service.keys)
    assert audit(*copy).status == 0
    preview = audit("erase", service.base_dir, "--subject", "alice", "--dry-run", *service.keys, "--json").document
    assert preview == {
        "keys": 1,
        "sealed_records": 2,
        "plain_records": 1,
        "unsealed_logs": [],
        "held_logs": [],
        "unsealed_exports": 1,
    }
    shown = audit("erase", service.base_dir, "--subject", "alice", "--dry-run", *service.keys)
    assert "Nothing was changed." in shown.out
    assert log_ins(audit, service).count("alice") == 3
    assert "audit.erasure_started" not in audit("query", service.base_dir).out


def test_a_person_of_one_tenant(audit: Audit, service: Service) -> None:
    """Alone, if ids are unique only within a tenant; at once, or by a request and its execution."""
    privacy = Privacy(key_store=service.store, master_key=service.master_key, tenant_binding="tenant")
    config = AuditConfig(mode=Local(service.base_dir), service_id="orders", privacy=privacy)

    async def main() -> None:
        async with AuditLogger(config) as log:
            for tenant in ("acme", "umbra", "initech"):
                with audit_context(tenant=tenant):
                    log.emit(AuthSuccess(actor=ActorInfo(user_id="alice"), method=AuthMethod.PASSWORD, path="/"))

    anyio.run(main)
    erased = audit("erase", service.base_dir, *ASKED, "--tenant", "umbra", *service.keys, "--json")
    assert (erased.status, erased.document["keys"]) == (0, 1), erased.err
    assert [name[:7] for name in log_ins(audit, service)] == ["alice", "[erased", "alice"]
    assert audit("erase", service.base_dir, *ASKED, "--tenant", "acme", "--request", *service.keys).status == 0
    assert audit("erase", service.base_dir, "--due", *service.keys).status == 0
    assert [name[:7] for name in log_ins(audit, service)] == ["[erased", "[erased", "alice"]


def test_a_hold_refuses_it_unless_forced(audit: Audit, service: Service) -> None:
    """Also a hold that was set on a log that no service wrote, of which the key store does not know."""
    service.run("alice")
    assert audit("hold", "set", service.base_dir, "--as", "judge", "--reason", "case").status == 0
    refused = audit("erase", service.base_dir, *ASKED, *service.keys)
    assert (refused.status, "legal hold" in refused.err) == (3, True)
    assert log_ins(audit, service) == ["alice"]
    assert audit("erase", service.base_dir, *ASKED, "--force", *service.keys).status == 0
    assert log_ins(audit, service)[0].startswith("[erased")
    (started,) = audit("query", service.base_dir, "--type", "audit.erasure_started", "--json").rows
    assert started["event"]["forced"] is True


def test_next_to_a_running_service(audit: Audit, service: Service) -> None:
    """It is recorded in the command line's own log, and the service uses the old key no more."""
    with service.running("alice") as process:
        report = audit("erase", service.base_dir, *ASKED, *service.keys, "--json").document
        assert (report["keys"], report["recorded_in"], report["waiting_for"]) == (1, "audit-cli", [])
        log_in(process)
    erased, new = log_ins(audit, service)
    assert (erased[:10], new) == ("[erased 20", "alice")
    assert files_with(service.base_dir, b"alice") == []


def test_a_process_that_did_not_confirm_is_named(
    audit: Audit, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have a destroyed key in memory, so the status is not that of an erasure that is complete."""
    with a_service_that_does_not_confirm(service, monkeypatch):
        done = audit("erase", service.base_dir, *ASKED, *service.keys, "--json")
        assert (done.status, done.document["waiting_for"]) == (3, ["orders/00"])


def test_what_is_missing_is_said(audit: Audit, service: Service) -> None:
    """A reason, a name and the key store are needed; somebody of whom nothing is sealed is said to be unknown."""
    service.run("alice")
    for arguments, said in (
        (("--subject", "alice", "--by", "R. Roe", *service.keys), "--reason"),
        (("--subject", "alice", "--reason", "x", "--by", " ", *service.keys), "--by"),
        (ASKED, "--key-store"),
        ((*ASKED, *service.keys[:2]), "--key-store needs --master-key"),
    ):
        refused = audit("erase", service.base_dir, *arguments)
        words = " ".join(refused.err.replace("│", " ").split())
        assert (refused.status, said in words) == (2, True), refused.err
    assert log_ins(audit, service) == ["alice"]
    other = ("--subject", "alice", "--kind", "customer", "--reason", "x", "--by", "y")
    nobody = audit("erase", service.base_dir, *other, *service.keys)
    assert (nobody.status, "--kind" in nobody.out) == (0, True)
    assert log_ins(audit, service) == ["alice"]


def test_no_file_of_any_log_names_who_was_erased(audit: Audit, service: Service, tmp_path: Path) -> None:
    """Not who set holds and why, who searched and for whom, who made files, or who asked for erasures of others."""
    service.run("alice", "bob")
    hold = ("--as", "alice", "--reason", "alice asked for it")
    assert audit("hold", "set", service.base_dir, *hold, *service.keys).status == 0
    shown = audit("hold", "show", service.base_dir, "--json").document["logs"]
    assert {(log["hold"]["set_by"], log["hold"]["reason"]) for log in shown} == {("alice", "alice asked for it")}
    service.run("bob")  # states the hold again
    assert audit("verify", service.base_dir).status == 0
    assert audit("hold", "lift", service.base_dir, *hold, *service.keys).status == 0
    with service.running("bob") as process:  # the command line records in its own log then
        assert audit("hold", "set", service.base_dir, *hold, *service.keys).status == 0
        log_in(process)
    assert audit("hold", "lift", service.base_dir, *hold, *service.keys).status == 0
    for asked in (("--actor", "alice"), ("--text", "alice"), ("--path", "/users/alice")):
        for name in ("alice", "bob"):
            assert audit("query", service.base_dir, *asked, "--as", name, *service.keys).status == 0
    for name in ("alice", "bob"):
        copy = (service.base_dir, tmp_path / f"{name}.html", "--subject", "bob", "--as", "alice")
        assert audit("subject-data", *copy, *service.keys).status == 0
    asked_by = ("--subject", "bob", "--reason", "alice wants it", "--by", "alice", *service.keys)
    assert audit("erase", service.base_dir, *asked_by).status == 0
    assert audit("erase", service.base_dir, *ASKED, *service.keys).status == 0
    assert files_with(service.base_dir, b"alice") == []
    (first, *_) = audit("query", service.base_dir, "--type", "audit.hold_set", "--json", *service.keys).rows
    assert first["event"]["set_by"].startswith("[erased 20")
    assert audit("verify", service.base_dir).status == 0
