"""With `archive_after_days=0` an open log encrypts what is sealed as it goes: only the active segment is readable."""

from __future__ import annotations

import asyncio
import errno
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, ConfigError, Local, RetentionPolicy, RotationPolicy, Transparency
from audit_async._layout.manifest import read_manifest
from audit_async._store.archiving import Stopped
from audit_async._writer import upkeep
from audit_async.reader import AuditReader
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.age_keys import IDENTITIES, RECIPIENT
from tests.logs import failure

pytestmark = pytest.mark.anyio

POLICY = RetentionPolicy(archive_after_days=0, archive_recipients=(RECIPIENT,))


async def wait_for_archives(log: Path) -> None:
    """Return once all sealed segments, of which there are some, are encrypted and gone from the directory."""
    with anyio.fail_after(60):
        while True:
            entries = read_manifest(log)
            if entries and all(entry.is_encrypted for entry in entries) and len(list(log.glob("*.audit"))) == 1:
                return
            await anyio.sleep(0.02)


async def test_each_segment_is_encrypted_when_it_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a day later: several times in one session, without being asked, and all of it verifies."""
    monkeypatch.setattr(upkeep, "_FIRST_RUN_S", 0.0)
    monkeypatch.setattr(upkeep, "_AFTER_SEAL_S", 0.0)
    config = AuditConfig(
        mode=Local(tmp_path), service_id="orders", rotation=RotationPolicy(max_bytes=4096), retention=POLICY
    )
    log = tmp_path / "orders" / "00"
    async with AuditLogger(config) as audit:
        before = 0
        for _ in range(3):
            for number in range(30):
                await audit.emit_durable(failure(number))
            await wait_for_archives(log)
            assert len(read_manifest(log)) > before
            before = len(read_manifest(log))
    report = await AuditReader(tmp_path, identities=IDENTITIES).verify()
    assert report.valid, report.findings


def config_for(base_dir: Path, **settings: Any) -> AuditConfig:
    """Return a configuration of small segments that are encrypted as soon as they are sealed."""
    given: dict[str, Any] = {"rotation": RotationPolicy(max_bytes=4096), "retention": POLICY, "handle_signals": False}
    given |= settings
    return AuditConfig(mode=Local(base_dir), service_id="orders", **given)


def readable(log: Path) -> list[bytes]:
    """Return the records that whoever has the disk can read in the files of a log."""
    return [line for path in sorted(log.glob("*.audit")) for line in path.read_bytes().splitlines()]


async def test_after_an_orderly_end_only_the_active_segment_is_readable(tmp_path: Path) -> None:
    """What was sealed shortly before is encrypted before the log is closed, with the usual pauses."""
    log = tmp_path / "orders" / "00"
    async with AuditLogger(config_for(tmp_path)) as audit:
        for number in range(60):
            await audit.emit_durable(failure(number))
        assert len(list(log.glob("*.audit"))) > 3
    entries = read_manifest(log)
    assert len(entries) > 3
    # The closing itself may have sealed one segment.
    assert [entry.is_encrypted for entry in entries[:-1]] == [True] * (len(entries) - 1)
    lines = readable(log)
    assert b'"audit.log_closed"' in lines[-1]
    assert not any(b'"/login/%d"' % number in line for line in lines for number in range(30))
    report = await AuditReader(tmp_path, identities=IDENTITIES).verify()
    assert report.valid, report.findings


_KILLED = """
import asyncio, os, signal, sys
from tests.logs import failure
from tests.writer.test_encrypting_at_sealing import config_for
from audit_async import AuditLogger, RetentionPolicy

async def main():
    retention = RetentionPolicy(archive_after_days=0, archive_recipients=(sys.argv[2],))
    audit = AuditLogger(config_for(sys.argv[1], retention=retention))
    await audit.start()
    for number in range(60):
        await audit.emit_durable(failure(number))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_a_killed_process_has_left_readable_is_encrypted_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not after the time that passes before the first daily run."""
    monkeypatch.setattr(upkeep, "_FIRST_RUN_S", 3600.0)
    command = [sys.executable, "-c", _KILLED, str(tmp_path), RECIPIENT]
    ended = await anyio.run_process(command, check=False)
    assert ended.returncode == -9, ended.stderr
    log = tmp_path / "orders" / "00"
    assert len(list(log.glob("*.audit"))) > 3
    async with AuditLogger(config_for(tmp_path)):
        with anyio.fail_after(60):
            while len(list(log.glob("*.audit"))) > 2:
                await anyio.sleep(0.05)
    report = await AuditReader(tmp_path, identities=IDENTITIES).verify()
    assert report.valid, report.findings


@pytest.mark.parametrize("why", ["a hold", "not automatic"])
async def test_closing_encrypts_nothing_that_the_policy_leaves(tmp_path: Path, why: str) -> None:
    """A legal hold keeps everything as it is, and without `automatic` only the caller archives."""
    retention = RetentionPolicy(archive_after_days=0, archive_recipients=(RECIPIENT,), automatic=why != "not automatic")
    log = tmp_path / "orders" / "00"
    async with AuditLogger(config_for(tmp_path, retention=retention)) as audit:
        if why == "a hold":
            await audit.set_hold(reason="a court asks", set_by="legal")
        for number in range(40):
            await audit.emit_durable(failure(number))
    assert {entry.state for entry in read_manifest(log)} == {"live"}


@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_encrypting_never_keeps_a_log_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """At most half of the time for draining is spent on it; the next session does what is left."""

    def compress(*args: Any, **_: Any) -> None:
        if how == "fails":
            raise OSError(errno.ENOSPC, "No space left on device")
        stopped = args[2]
        while not stopped():
            time.sleep(0.01)
        raise Stopped("the log is being closed")

    log = tmp_path / "orders" / "00"
    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "compress_segment", compress)
        with anyio.fail_after(60):
            async with AuditLogger(config_for(tmp_path, drain_timeout=4.0)) as audit:
                for number in range(40):
                    await audit.emit_durable(failure(number))
    assert {entry.state for entry in read_manifest(log)} == {"live"}
    assert b'"audit.log_closed"' in readable(log)[-1]
    assert list((log / "archive").glob("*")) == [] if (log / "archive").exists() else True
    async with AuditLogger(config_for(tmp_path)):
        pass
    assert all(entry.is_encrypted for entry in read_manifest(log)[:-1])


async def test_a_closing_that_is_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    """Whoever asked for it is cancelled while segments are encrypted."""
    log = tmp_path / "orders" / "00"
    audit = AuditLogger(config_for(tmp_path))
    await audit.start()
    for number in range(40):
        await audit.emit_durable(failure(number))
    closing = asyncio.create_task(audit.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert b'"audit.log_closed"' in readable(log)[-1]
    assert all(entry.is_encrypted for entry in read_manifest(log)[:-1])


def signing(tmp_path: Path, **settings: Any) -> AuditConfig:
    """Return the configuration of a log that signs, with segments that are encrypted when the test says so."""
    key = tmp_path / "key"
    if not key.exists():
        write_key(key, new_key())
    return config_for(
        tmp_path / "audit",
        retention=RetentionPolicy(archive_after_days=0, archive_recipients=(RECIPIENT,), automatic=False),
        transparency=Transparency(key=str(key), origin="example.org/orders/00", interval=3600),
        **settings,
    )


async def test_a_signed_log_encrypts_only_what_its_tree_covers(tmp_path: Path) -> None:
    """The tree is made of records that this host reads; what it has not read can't be encrypted yet. All verifies."""
    config = signing(tmp_path)
    for _ in range(2):
        async with AuditLogger(config) as audit:
            for number in range(60):
                await audit.emit_durable(failure(number))
            report = await audit.apply_retention()
            assert report.ok, report.steps
            assert (await audit.checkpoint()) is not None
    report_ = await AuditReader(tmp_path / "audit", identities=IDENTITIES).verify()
    assert report_.valid, report_.findings


async def encrypted_and_signed(tmp_path: Path) -> Path:
    """Write a signed log with encrypted archives; return its directory."""
    async with AuditLogger(signing(tmp_path)) as audit:
        for number in range(40):
            await audit.emit_durable(failure(number))
        assert (await audit.apply_retention()).ok
    return tmp_path / "audit" / "orders" / "00"


async def test_a_tree_whose_guard_is_lost_goes_on_over_encrypted_archives(tmp_path: Path) -> None:
    """The checkpoint that is published covers all that is encrypted, and so each that is recorded in there."""
    log = await encrypted_and_signed(tmp_path)
    (log / "tlog" / "guard").unlink()
    before = SignedCheckpoint.parse((log / "tlog" / "checkpoint").read_bytes()).checkpoint
    async with AuditLogger(signing(tmp_path)) as audit:
        await audit.emit_durable(failure())
        signed = await audit.checkpoint()
        assert signed.checkpoint.size > before.size
    reader = AuditReader(tmp_path / "audit", identities=IDENTITIES)
    policy = Policy.of([load_signer(tmp_path / "key", origin="example.org/orders/00").key])
    report = await reader.verify(policy=policy)
    assert report.valid, report.findings


@pytest.mark.parametrize("left", ["nothing", "an older checkpoint"])
async def test_no_tree_begins_over_records_that_this_host_can_not_read(tmp_path: Path, left: str) -> None:
    """Instead of signing nothing for ever, the log says which records the tree lacks, and what to do."""
    log = tmp_path / "audit" / "orders" / "00"
    if left == "an older checkpoint":
        async with AuditLogger(signing(tmp_path)) as audit:
            await audit.emit_durable(failure())
        shutil.copytree(log / "tlog", tmp_path / "older")
    await encrypted_and_signed(tmp_path)
    shutil.rmtree(log / "tlog")
    if left == "an older checkpoint":
        shutil.copytree(tmp_path / "older", log / "tlog")
        (log / "tlog" / "guard").unlink()
    with pytest.raises(ConfigError, match=r"can't be signed: records .* are encrypted.*put it back"):
        async with AuditLogger(signing(tmp_path)):
            pass
    async with AuditLogger(config_for(tmp_path / "audit")) as audit:
        await audit.emit_durable(failure())


async def test_a_tree_that_ends_with_what_is_encrypted_is_opened_again(tmp_path: Path) -> None:
    """A session's last record was signed, ends its segment, and is encrypted by the next session, which is killed."""
    async with AuditLogger(signing(tmp_path, rotation=RotationPolicy())) as audit:
        for number in range(10):
            await audit.emit_durable(failure(number))
    log = tmp_path / "audit" / "orders" / "00"
    signed = SignedCheckpoint.parse((log / "tlog" / "checkpoint").read_bytes()).checkpoint.size
    async with AuditLogger(signing(tmp_path)) as audit:
        await audit.emit_durable(failure())
        assert (await audit.apply_retention()).ok
        shutil.copytree(tmp_path / "audit", tmp_path / "killed")
    (entry, *_) = read_manifest(tmp_path / "killed" / "orders" / "00")
    assert (entry.is_encrypted, entry.last_seq + 1) == (True, signed)
    guard = (tmp_path / "killed" / "orders" / "00" / "tlog" / "guard").read_text()
    assert guard.splitlines()[1] == str(signed)
    config = msgspec.structs.replace(signing(tmp_path), mode=Local(tmp_path / "killed"))
    async with AuditLogger(config) as audit:
        await audit.emit_durable(failure())
        assert (await audit.checkpoint()).checkpoint.size > signed
    report = await AuditReader(tmp_path / "killed", identities=IDENTITIES).verify()
    assert report.valid, report.findings
