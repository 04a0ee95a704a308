"""`audit-async backup` and `restore`: beside a running service, into one place again and again, and back."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from audit_async import AuditLogger
from audit_async._layout.manifest import read_manifest_file
from audit_async.config import AuditConfig, Local, RetentionPolicy, RotationPolicy
from audit_async.events import AuthFailure
from tests.cli.commands import Audit
from tests.cli.running_service import running_service


def write(base_dir: Path, count: int = 30) -> None:
    """Write a log with several segments."""
    config = AuditConfig(
        mode=Local(base_dir),
        service_id="orders",
        handle_signals=False,
        rotation=RotationPolicy(max_bytes=2000),
        retention=RetentionPolicy(archive_after_days=0, automatic=False),
    )

    async def run() -> None:
        async with AuditLogger(config) as audit:
            for _ in range(count):
                await audit.emit_durable(AuthFailure(reason="invalid_token", ip="203.0.113.9", path="/v2/tasks"))
            if count > 20:
                await audit.apply_retention()

    asyncio.run(run())


def test_a_backup_beside_a_running_service_is_valid(tmp_path: Path, audit: Audit) -> None:
    """What is copied while the service writes verifies, and is completed by the next backup."""
    with running_service(tmp_path / "t"):
        for _ in range(2):
            assert audit("backup", tmp_path / "t", tmp_path / "b").status == 0
            assert audit("verify", tmp_path / "b").status == 0


def test_there_and_back(tmp_path: Path, audit: Audit) -> None:
    """A restored log verifies, is written on, and nothing that is there is ever overwritten."""
    write(tmp_path / "t")
    ended = audit("backup", tmp_path / "t", tmp_path / "b", "--json")
    assert ended.status == 0
    (first,) = ended.document["logs"]
    (second,) = audit("backup", tmp_path / "t", tmp_path / "b", "--json").document["logs"]
    assert first["kept"] == 0
    assert second["kept"] > 5
    assert second["files"] < first["files"]
    assert audit("restore", tmp_path / "b", tmp_path / "r").status == 0
    assert audit("verify", tmp_path / "r").status == 0
    write(tmp_path / "r", 3)
    assert audit("verify", tmp_path / "r").status == 0
    again = audit("restore", tmp_path / "b", tmp_path / "r")
    assert again.status == 3
    assert "never overwritten" in again.err


def test_a_copy_that_is_no_backup_is_restored_when_asked(tmp_path: Path, audit: Audit) -> None:
    """A manifest that is newer than its segments is refused, with the way out; then verify is content."""
    write(tmp_path / "t", 12)
    log = tmp_path / "t" / "orders" / "00"
    manifest = read_manifest_file(log)
    assert manifest is not None
    shutil.copytree(tmp_path / "t", tmp_path / "c")
    last = tmp_path / "c" / "orders" / "00" / manifest.segments[-1].segment
    last.chmod(0o600)
    os.truncate(last, last.stat().st_size - 100)
    refused = audit("restore", tmp_path / "c", tmp_path / "r1")
    assert refused.status == 3
    assert "--from-copy" in refused.err
    ended = audit("restore", tmp_path / "c", tmp_path / "r2", "--from-copy")
    assert ended.status == 0
    assert "set aside" in ended.out + ended.err
    verified = audit("verify", tmp_path / "r2", "--json")
    assert verified.status == 0
    assert "rebuilt" in [note["kind"] for note in verified.document["notes"]]


def test_another_log_is_never_mixed_in(tmp_path: Path, audit: Audit) -> None:
    """A place that holds another log, or the log itself, is refused."""
    write(tmp_path / "t", 3)
    write(tmp_path / "other", 3)
    assert audit("backup", tmp_path / "t", tmp_path / "b").status == 0
    other = audit("backup", tmp_path / "other", tmp_path / "b")
    assert other.status == 3
    assert "another log" in other.err
    itself = audit("backup", tmp_path / "t", tmp_path / "t")
    assert itself.status == 3
    assert "the log itself" in itself.err
