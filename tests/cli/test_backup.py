"""`audit-async backup` and `restore`: beside a running service, into one place again and again, and back."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_async import AuditLogger
from audit_async._layout.manifest import read_manifest_file
from audit_async._store.log_directory import LogDirectory
from audit_async._store.writer_lock import WriterLock
from audit_async._trail.log_files import find_logs
from audit_async.cli.commands import backup, restore
from audit_async.cli.run import Refused
from audit_async.config import AuditConfig, Local, RetentionPolicy, RotationPolicy
from audit_async.events import AuthFailure
from tests.cli.commands import Audit
from tests.cli.running_service import running_service
from tests.trails import check_trail


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


def test_what_is_damaged_is_copied_and_named(tmp_path: Path, audit: Audit) -> None:
    """A copy of it is better than none, and the status says that it is not what the manifest has."""
    write(tmp_path / "t", 12)
    damaged = min((tmp_path / "t" / "orders" / "00").glob("*.audit"))
    content = damaged.read_bytes()
    damaged.chmod(0o600)
    damaged.write_bytes(content[:-2] + b"X\n")
    ended = audit("backup", tmp_path / "t", tmp_path / "b", "--json")
    (log,) = ended.document["logs"]
    assert (ended.status, log["damaged"]) == (1, [damaged.name])
    assert f"{damaged.name} is not what the manifest says" in ended.err
    assert (tmp_path / "b" / "orders" / "00" / damaged.name).read_bytes() == damaged.read_bytes()


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


def live_lines(base_dir: Path) -> list[bytes]:
    """Return the records in the segments that are not archived."""
    return [line for path in sorted(base_dir.rglob("*.audit")) for line in path.read_bytes().splitlines()]


def before_the_lock(monkeypatch: pytest.MonkeyPatch, module: object, meanwhile: Callable[[], object]) -> None:
    """Let something happen between the look at a place and its lock."""

    def lock(directory: LogDirectory) -> WriterLock:
        monkeypatch.undo()
        meanwhile()
        return WriterLock(directory)

    monkeypatch.setattr(module, "WriterLock", lock)


def test_two_backups_of_logs_of_one_name_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts copy to one place at once: the second is refused, and the copy of the first is whole."""
    for name in ("one", "two"):
        write(tmp_path / name, 3)
    (one,), (two,) = find_logs(tmp_path / "one"), find_logs(tmp_path / "two")
    before_the_lock(monkeypatch, backup, lambda: backup.copy_log(two, tmp_path / "b"))
    with pytest.raises(Refused, match="another log"):
        backup.copy_log(one, tmp_path / "b")
    (copy,) = find_logs(tmp_path / "b")
    assert copy.log_id == two.log_id
    check_trail(copy.directory)


@pytest.mark.parametrize("from_copy", [False, True])
def test_two_restores_at_once_overwrite_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_copy: bool
) -> None:
    """The service may have written on by the time at which the second gets the lock."""
    write(tmp_path / "t", 3)
    (log,) = find_logs(tmp_path / "t")
    backup.copy_log(log, tmp_path / "b")
    (copy,) = find_logs(tmp_path / "b")

    def restore_and_write() -> None:
        restore._restored(copy, tmp_path / "r", from_copy=False)
        write(tmp_path / "r", 3)

    before_the_lock(monkeypatch, restore, restore_and_write)
    with pytest.raises(Refused, match="is there already"):
        restore._restored(copy, tmp_path / "r", from_copy=from_copy)
    assert len(live_lines(tmp_path / "r")) > len(live_lines(tmp_path / "b"))
