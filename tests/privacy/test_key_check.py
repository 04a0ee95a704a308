"""Every sealed member of a trail has its key, or the check says which has not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from anyio import to_thread

from audit_async import AuditConfig, AuditLogger
from audit_async.privacy import copy_key_store
from tests.cli.commands import Audit
from tests.logs import ConfigFor, log_directory
from tests.privacy.key_stores import make_store
from tests.privacy.sealed_logs import sealing, success

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="key stores are kept on Linux"),
]


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str]) -> Audit:
    """Return what runs a command."""
    return Audit(capsys)


async def record(config: AuditConfig, *users: str) -> None:
    """Record an event of each user, in one session."""
    async with AuditLogger(config) as log:
        for user in users:
            log.emit(success(user))


async def test_every_key_is_there_or_was_destroyed(config_for: ConfigFor, tmp_path: Path, audit: Audit) -> None:
    """Erased members are no finding; an old copy of the store is one, with the records that it can't open."""
    config = sealing(config_for, tmp_path)
    await record(config, "alice", "bob")
    copy_key_store(tmp_path / "keys", tmp_path / "copy")
    await record(config, "carol")
    async with AuditLogger(config) as log:
        await log.erase_subject("bob", reason="asked", requested_by="dpo")
    trail = log_directory(config).parents[1]

    async def check(store: str) -> tuple[int, dict[str, object], str]:
        options = ("--key-store", tmp_path / store, "--master-key", f"file:{tmp_path / 'master.key'}")
        ended = await to_thread.run_sync(lambda: audit("keystore", "check", trail, *options, "--json"))
        return ended.status, ended.document["logs"][0], ended.err

    status, found, err = await check("keys")
    assert (status, err) == (0, "")
    assert (found["missing"], found["forged"], found["damaged"]) == (0, 0, 0)
    assert found["erased"] == 3
    status, old, err = await check("copy")
    assert status == 1
    assert int(str(old["missing"])) >= 3
    assert int(str(old["open"])) >= 6  # it still has bob's, which its log would destroy again
    assert "do not open, first in the records" in err

    other = tmp_path / "other"
    other.mkdir()
    make_store(other)
    ended = await to_thread.run_sync(
        lambda: audit(
            "keystore", "check", trail, "--key-store", other / "keys", "--master-key", f"file:{other / 'master.key'}"
        )
    )
    assert ended.status == 1
    assert "missing" in ended.out


async def test_a_check_needs_a_key_store(tmp_path: Path, audit: Audit) -> None:
    """There is nothing to check without one."""
    ended = await to_thread.run_sync(lambda: audit("keystore", "check", tmp_path))
    assert ended.status == 2
    assert "--key-store" in ended.err
