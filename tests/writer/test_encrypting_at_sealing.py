"""With `archive_after_days=0` an open log encrypts what is sealed as it goes: only the active segment is readable."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local, RetentionPolicy, RotationPolicy, Transparency
from audit_async._layout.manifest import read_manifest
from audit_async._writer import upkeep
from audit_async.reader import AuditReader
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


async def test_a_signed_log_encrypts_only_what_its_tree_covers(tmp_path: Path) -> None:
    """The tree is made of records that this host reads; what it has not read can't be encrypted yet. All verifies."""
    pytest.importorskip("cryptography", reason="signing needs the extra tlog")
    from audit_async.tlog.signing_keys import new_key, write_key  # noqa: PLC0415 - needs the extra

    key = tmp_path / "key"
    write_key(key, new_key())
    config = AuditConfig(
        mode=Local(tmp_path / "audit"),
        service_id="orders",
        rotation=RotationPolicy(max_bytes=4096),
        retention=RetentionPolicy(archive_after_days=0, archive_recipients=(RECIPIENT,), automatic=False),
        transparency=Transparency(key=str(key), origin="example.org/orders/00", interval=3600),
    )
    for _ in range(2):
        async with AuditLogger(config) as audit:
            for number in range(60):
                await audit.emit_durable(failure(number))
            report = await audit.apply_retention()
            assert report.ok, report.steps
            assert (await audit.checkpoint()) is not None
    report_ = await AuditReader(tmp_path / "audit", identities=IDENTITIES).verify()
    assert report_.valid, report_.findings
