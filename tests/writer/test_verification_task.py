"""A log that verifies itself while it is written: what it finds, what it says, and that nothing waits for it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, ConfigError, HealthStatus, Local, RetentionPolicy, RotationPolicy
from audit_async._trail import worker_process
from audit_async._verify import background_pass
from audit_async._verify.background_pass import PassRequest, PassResult, VerifyingProcess
from audit_async.config import Verification
from audit_async.integrations.health import readiness
from audit_async.integrations.prometheus import AuditCollector
from audit_async.reader import AuditQuery, AuditReader
from audit_async.status import VerificationStats
from tests.integrations.test_metrics import scraped, value
from tests.logs import Counted
from tests.trail.lived import changed

pytestmark = pytest.mark.anyio

_DEADLINE_S = 60.0


def config(base_dir: Path, **settings: Any) -> AuditConfig:
    """Return the configuration of a log of small segments that verifies itself all the time."""
    verification = Verification(interval=0.05, **settings)
    rotation, keep = RotationPolicy(max_bytes=2000), RetentionPolicy(automatic=False)
    return AuditConfig(
        mode=Local(base_dir), service_id="orders", rotation=rotation, retention=keep, verification=verification
    )


@asynccontextmanager
async def filled(base_dir: Path, count: int = 30, **settings: Any) -> AsyncIterator[AuditLogger]:
    """Open such a log with so many records."""
    async with AuditLogger(config(base_dir, **settings)) as audit:
        for n in range(count):
            await audit.emit_durable(Counted(producer="a", n=n))
        yield audit


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes of a verification."""
    with anyio.fail_after(_DEADLINE_S):
        while not condition():
            await anyio.sleep(0.02)


def verification_of(audit: AuditLogger) -> VerificationStats:
    """Return what the statistics have of it."""
    stats = audit.stats().verification
    assert stats is not None
    return stats


def edit(base_dir: Path, which: int = 0) -> str:
    """Change a byte of a segment's second record; return the segment's name."""
    path = sorted((base_dir / "orders" / "00").glob("*.audit"))[which]
    lines = path.read_bytes().splitlines(keepends=True)
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(b"".join([lines[0], changed(lines[1]), *lines[2:]]))
    path.chmod(mode)
    return path.name


async def test_what_is_verified_grows_with_the_log(tmp_path: Path) -> None:
    """In `stats()`, `health()` and the metrics; the status stays ok."""
    async with filled(tmp_path) as audit:
        assert audit.health().verified_seq is None
        await until(lambda: (audit.health().verified_seq or 0) >= 30)
        position = await audit.emit_durable(Counted(producer="b", n=0))
        await until(lambda: (verification_of(audit).verified_seq or 0) >= position.seq)
        stats, health = verification_of(audit), audit.health()
        assert (health.status, health.findings, health.reason) == (HealthStatus.OK, 0, None)
        assert stats.since_verified_s is not None
        samples = scraped(AuditCollector(audit))
        assert value(samples, "verified_seq") >= position.seq
        assert value(samples, "verification_findings") == 0
        assert value(samples, "verification_age_seconds") < _DEADLINE_S
        assert value(samples, "verification_errors_total") == 0
    assert (await AuditReader(tmp_path).verify()).valid


async def test_an_edit_of_an_old_segment_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is recorded once, in the status and the metrics, logged as an error; and the log goes on."""
    async with filled(tmp_path) as audit:
        await until(lambda: (audit.health().verified_seq or 0) >= 30)
        with caplog.at_level(logging.ERROR, logger="audit_async"):
            name = edit(tmp_path)
            await until(lambda: audit.health().findings > 0)
        health = audit.health()
        assert (health.status, health.ok) == (HealthStatus.INVALID, True)
        assert name in (health.reason or "")
        assert any(name in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
        assert readiness(audit) == (True, {"status": "ok"}), "strangers are not told"
        assert readiness(audit, details=True)[1]["status"] == "invalid"
        assert value(scraped(AuditCollector(audit)), "verification_findings") == 1
        await audit.emit_durable(Counted(producer="b", n=0))
        assert audit.health().status is HealthStatus.INVALID, "a commit that succeeds changes nothing of it"
        before = audit.stats().head_seq
        await anyio.sleep(1)
        assert audit.stats().head_seq == before, "it is recorded once"
    query = AuditQuery(event_types=("audit.verification_failed",))
    (record,) = [record async for record in AuditReader(tmp_path).query(query, on_damage="skip")]
    plain = record.to_dict()["event"]
    assert isinstance(plain, dict)
    assert (plain["findings"], plain["kinds"], plain["segments"], plain["first_seq"]) == (1, ["record"], [name], 1)


async def test_a_trail_that_was_put_right_is_ok_again(tmp_path: Path) -> None:
    """The status follows what is found; a second edit is recorded again."""
    async with filled(tmp_path) as audit:
        path = min((tmp_path / "orders" / "00").glob("*.audit"))
        content = path.read_bytes()
        edit(tmp_path)
        await until(lambda: audit.health().status is HealthStatus.INVALID)
        path.chmod(0o600)
        path.write_bytes(content)
        path.chmod(0o400)
        await until(lambda: audit.health().status is HealthStatus.OK)
        assert audit.health().reason is None
        edit(tmp_path)
        await until(lambda: audit.health().status is HealthStatus.INVALID)
    query = AuditQuery(event_types=("audit.verification_failed",))
    assert len([record async for record in AuditReader(tmp_path).query(query, on_damage="skip")]) == 2


async def test_what_another_process_has_verified_is_kept(tmp_path: Path) -> None:
    """With `state_dir` the next process continues; an end that was cut off in between is found."""
    kept, base_dir = tmp_path / "kept", tmp_path / "audit"
    kept.mkdir(mode=0o700)
    async with filled(base_dir, state_dir=kept) as audit:
        await until(lambda: (audit.health().verified_seq or 0) >= 30)
    content = json.loads((kept / "orders.00.json").read_bytes())
    assert content["logs"]["orders/00"]["head"][0] >= 30
    edit_at = max((base_dir / "orders" / "00").glob("*.audit"))
    edit_at.write_bytes(b"".join(edit_at.read_bytes().splitlines(keepends=True)[:-2]))
    async with filled(base_dir, count=5, state_dir=kept) as audit:
        await until(lambda: audit.health().findings > 0)
        assert audit.health().status is HealthStatus.INVALID


async def test_what_cannot_be_verified_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that can't be started, or dies, is trouble; the next one does the work."""
    real = worker_process.command_for
    monkeypatch.setattr(background_pass, "command_for", lambda _: [str(tmp_path / "nothing")])
    async with filled(tmp_path / "audit") as audit:
        await until(lambda: verification_of(audit).errors > 0)
        assert "no process can be started" in (audit.health().reason or "")
        assert (audit.health().status, audit.health().findings) == (HealthStatus.OK, 0)
        monkeypatch.setattr(background_pass, "command_for", lambda _: [sys.executable, "-c", "import os; os._exit(7)"])
        await until(lambda: "ended with status 7" in (audit.health().reason or ""))
        monkeypatch.setattr(background_pass, "command_for", real)
        await until(lambda: (audit.health().verified_seq or 0) >= 30)
        assert audit.health().reason is None


async def test_a_state_that_others_can_write_is_trouble(tmp_path: Path) -> None:
    """Nothing is verified against it."""
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o777)
    async with filled(tmp_path / "audit", state_dir=kept) as audit:
        await until(lambda: verification_of(audit).errors > 0)
        assert "other users" in (audit.health().reason or "")
        assert audit.health().verified_seq is None


async def test_closing_waits_for_no_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs is ended, with the log closed in order."""
    pids = tmp_path / "pids"
    hang = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(background_pass, "command_for", lambda _: [sys.executable, "-c", hang])
    async with filled(tmp_path / "audit"):
        await until(lambda: pids.exists() and bool(pids.read_text()))
        began = time.monotonic()
    assert time.monotonic() - began < _DEADLINE_S / 2
    await until(lambda: not _is_alive(int(pids.read_text())))
    assert (await AuditReader(tmp_path / "audit").verify()).notes[0].kind == "truncation_unseen"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_ends_with_the_service(tmp_path: Path, end: signal.Signals) -> None:
    """However the service ends: nothing of it is left behind, and Ctrl-C is not its business."""
    program = f"""
import anyio, sys, os
from pathlib import Path
from audit_async._trail import worker_process
from audit_async._verify import background_pass
from tests.writer.test_verification_task import filled
slow = "import audit_async._verify.background_pass as b, os, time\\n" \\
    "async def hang(request): open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); time.sleep(600)\\n" \\
    "b.verify_once = hang\\nb.main()"
background_pass.command_for = lambda _: [sys.executable, "-c", slow]
async def main():
    async with filled(Path({str(tmp_path / "audit")!r}), count=1):
        await anyio.sleep(600)
anyio.run(main)
"""
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as service:
        try:
            deadline = time.monotonic() + _DEADLINE_S
            while not (pid.exists() and pid.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            service.send_signal(end)
            service.wait(timeout=_DEADLINE_S)
        finally:
            service.kill()
    deadline = time.monotonic() + _DEADLINE_S
    while _is_alive(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_a_forked_child_leaves_the_verification_alone(tmp_path: Path) -> None:
    """It neither ends the parent's process nor waits for it."""
    async with filled(tmp_path) as audit:
        await until(lambda: (audit.health().verified_seq or 0) >= 30)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        position = await audit.emit_durable(Counted(producer="b", n=0))
        await until(lambda: (audit.health().verified_seq or 0) >= position.seq)
        assert audit.health().status is HealthStatus.OK


def test_a_stopped_process_starts_no_other(tmp_path: Path) -> None:
    """And says why there is no result."""
    process = VerifyingProcess()
    process.stop()
    request = PassRequest(directory="d", base_dir="b", expected=None, before=None, state=None, full_every_s=1.0)
    assert process.run(request) == PassResult(error="the log is being closed")


def test_settings(tmp_path: Path) -> None:
    """They come from code, a file and the environment; what can't be is refused."""
    given = AuditConfig.from_env(
        environ={"AUDIT_BASE_DIR": str(tmp_path), "AUDIT_SERVICE_ID": "a", "AUDIT_VERIFICATION_INTERVAL": "60"}
    )
    assert given.verification == Verification(interval=60)
    (tmp_path / "audit.toml").write_text(
        'service_id = "a"\n[mode]\ntype = "local"\nbase_dir = "log"\n[verification]\nstate_dir = "kept"\n'
    )
    loaded = AuditConfig.load(tmp_path / "audit.toml").verification
    assert loaded == Verification(state_dir=str(tmp_path / "kept"))
    assert Verification(state_dir=tmp_path) == Verification(state_dir=str(tmp_path))
    for wrong in ({"interval": 0}, {"full_every_days": 0}, {"state_dir": ""}, {"state_dir": 3}, {"every": 1}):
        with pytest.raises(ConfigError, match=r"verification\."):
            Verification(**wrong)
    with pytest.raises(ConfigError, match="keep it outside of the trail"):
        AuditConfig(mode=Local(tmp_path), service_id="a", verification=Verification(state_dir=tmp_path / "kept"))


def test_an_edit_by_another_process_is_found_by_a_running_service(tmp_path: Path) -> None:
    """A service of its own process, whose old segment is changed by this one, records it and goes on."""
    program = f"""
import anyio
from pathlib import Path
from tests.writer.test_verification_task import filled, until
async def main():
    async with filled(Path({str(tmp_path)!r})) as audit:
        await until(lambda: (audit.health().verified_seq or 0) >= 30)
        print("verified", flush=True)
        await until(lambda: audit.health().findings > 0)
        print(audit.health().status.value, flush=True)
anyio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "verified\n"
        name = edit(tmp_path, which=1)
        assert service.stdout.readline() == "invalid\n"
        assert service.wait(timeout=_DEADLINE_S) == 0
    records = b"".join(path.read_bytes() for path in (tmp_path / "orders" / "00").glob("*.audit"))
    (line,) = [line for line in records.splitlines() if b'"event_type":"audit.verification_failed"' in line]
    assert json.loads(line)["event"]["segments"] == [name]


async def test_a_start_for_which_no_thread_is_left_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses one more thread: the log is unlocked, and can be started as soon as there is one."""

    def refuse(_name: str) -> None:
        raise RuntimeError("can't start new thread")

    audit = AuditLogger(msgspec.structs.replace(config(tmp_path), instance="00"))
    with monkeypatch.context() as patch:
        patch.setattr("audit_async._writer.verification_task.DiskThread", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await audit.start()
    async with audit:
        assert audit.health().ok
