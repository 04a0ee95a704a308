"""Every sealed member of a trail has its key, or the check says which has not."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pyrage
import pytest
from anyio import to_thread

from audit_async import AuditConfig, AuditLogger, RetentionPolicy, RotationPolicy, audit_context
from audit_async.privacy import copy_key_store
from audit_async.reader import AuditReader, Identities, InvalidQuery, LastRecords
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


async def test_verify_finds_keys_that_a_store_lacks(config_for: ConfigFor, tmp_path: Path, audit: Audit) -> None:
    """Without a master key: erased persons are no finding; an old copy and another store are, with a status of 1."""
    config = sealing(config_for, tmp_path)
    await record(config, "alice", "bob")
    copy_key_store(tmp_path / "keys", tmp_path / "copy")
    await record(config, "carol", "dave")
    reader = AuditReader(tmp_path / "audit")
    report = await reader.verify(verify_keys=tmp_path / "keys")
    assert (report.valid, report.findings) == (True, ())
    lacking = (await reader.verify(verify_keys=tmp_path / "copy")).findings
    assert [(found.kind, found.seq) for found in lacking] == [("key", 5)]
    assert lacking[0].reason.startswith("[key missing] 2 keys that 2 records are sealed under are not in the key store")
    async with AuditLogger(config) as log:
        await log.erase_subject("bob", reason="asked", requested_by="dpo")
    assert (await reader.verify(verify_keys=tmp_path / "keys")).valid
    old = (await reader.verify(verify_keys=tmp_path / "copy")).findings
    assert "the log states 1 erasures" in old[0].reason
    other = tmp_path / "other"
    other.mkdir()
    make_store(other)
    foreign = await reader.verify(verify_keys=other / "keys")
    assert {found.kind for found in foreign.findings} == {"key"}
    assert "is another one" in foreign.findings[0].reason
    assert foreign.logs[0].findings == 2
    for store, status in ((tmp_path / "keys", 0), (tmp_path / "copy", 1), (tmp_path / "nowhere", 3)):
        options = ("verify", tmp_path / "audit", "--keys", store)
        ended = await to_thread.run_sync(partial(audit, *options))
        assert ended.status == status, ended.err
        assert ("[key missing]" in ended.out) == (status == 1)
    partly = await to_thread.run_sync(
        lambda: audit("verify", tmp_path / "audit", "--keys", tmp_path / "keys", "--last", "1")
    )
    assert partly.status == 2
    with pytest.raises(InvalidQuery, match="verify_keys"):
        await reader.verify(LastRecords(1), verify_keys=tmp_path / "keys")


async def test_a_text_that_looks_sealed_needs_no_key(config_for: ConfigFor, tmp_path: Path) -> None:
    """Whoever types one can't make a trail look as if its keys were lost, nor hide a key that is lost."""
    key_id = "T" * 22
    plain = config_for(service_id="plain")
    async with AuditLogger(plain) as log:
        log.emit(success(f"sealed:1:{key_id}:x"))
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as log:
        log.emit(success(f"sealed:1:{key_id}:x"))
        log.emit(success(f'{{"a":"sealed:1:{key_id}:x"}}'))
        with audit_context(note=f"sealed:1:{key_id}:x", other=f'"sealed:1:{key_id}:x'):
            log.emit(success("alice"))
    report = await AuditReader(tmp_path / "audit").verify(verify_keys=tmp_path / "keys")
    assert report.findings == ()


async def test_what_can_not_be_read_is_named(config_for: ConfigFor, tmp_path: Path) -> None:
    """The keys of encrypted archives are not looked up without an identity, and with one they are."""
    identity = pyrage.x25519.Identity.generate()
    retention = RetentionPolicy(archive_after_days=0, archive_recipients=(str(identity.to_public()),))
    config = sealing(config_for, tmp_path, retention=retention, rotation=RotationPolicy(max_bytes=4096))
    copy_key_store(tmp_path / "keys", tmp_path / "copy")
    await record(config, *(f"user{n}" for n in range(30)))
    async with AuditLogger(config) as log:
        await log.apply_retention()
    names = [path.name for path in log_directory(config).rglob("*.age")]
    assert names
    report = await AuditReader(tmp_path / "audit").verify(verify_keys=tmp_path / "keys", skip_encrypted=True)
    assert report.findings == ()
    (note,) = [note for note in report.notes if note.kind == "keys_not_looked_at"]
    assert note.text.startswith(f"{len(names)} segments could not be read")
    reader = AuditReader(tmp_path / "audit", identities=Identities([str(identity)]))
    report = await reader.verify(verify_keys=tmp_path / "copy")
    assert not [note for note in report.notes if note.kind == "keys_not_looked_at"]
    (lacking,) = report.findings
    assert lacking.reason.startswith("[key missing] 30 keys")


async def test_the_doctor_looks_up_the_keys_of_the_newest_segment(
    config_for: ConfigFor, tmp_path: Path, audit: Audit
) -> None:
    """So that a service is not started for weeks with a store that lost the day's keys."""
    config = sealing(config_for, tmp_path)
    await record(config, "alice")
    copy_key_store(tmp_path / "keys", tmp_path / "copy")
    await record(config, "bob")
    for store, wanted in (("keys", 0), ("copy", 1)):
        options = ("doctor", tmp_path / "audit", "--key-store", tmp_path / store, "--json")
        ended = await to_thread.run_sync(partial(audit, *options))
        found = [check["text"] for check in ended.document["checks"] if "the store never knew" in check["text"]]
        assert len(found) == wanted
