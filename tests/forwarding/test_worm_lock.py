"""A bucket that does not lock is refused by name, before anything is stored in it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from audit_async import AuditConfig, AuditLogger, ConfigError, Local
from audit_async.forwarding import CheckedSetting, SinkRefused, WormArchive
from tests.forwarding.s3_server import BucketOfTest, S3Server, server_that_locks_nothing
from tests.forwarding.stored_logs import push, write_log
from tests.forwarding.test_worm_archive import be

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What blocks runs in threads, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


def not_ok(found: list[CheckedSetting]) -> dict[str, str]:
    """Return the verdicts on what is not as it should be."""
    return {one.name: one.verdict for one in found if one.verdict != "ok"}


async def test_an_administrator_sees_that_it_is_the_lock_that_refuses(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who may delete nothing sees only that it is refused, and is told so."""
    bucket = BucketOfTest(s3)
    be(monkeypatch, "admin")
    async with WormArchive(bucket.url()) as archive:
        assert "made" in (await archive.init())[0]
        assert "was there" in (await archive.init())[0]
        found = await archive.check()
    assert not_ok(found) == {}
    assert {"versioning", "Object Lock", "deleting a locked object"} <= {one.name for one in found}
    be(monkeypatch, "pusher")
    async with WormArchive(bucket.url()) as archive:
        assert not_ok(await archive.check()) == {"what refused the deletion": "note"}


async def test_a_bucket_that_does_not_lock_is_refused(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By init, by check and by a push, each with what is wrong; nothing is stored."""
    be(monkeypatch, "admin")
    bucket = BucketOfTest.made(s3, lock=False)
    log = await write_log(tmp_path)
    async with WormArchive(bucket.url()) as archive:
        assert not_ok(await archive.check()) == {"versioning": "wrong", "Object Lock": "wrong"}
        for refused in (archive.init(), push(archive, log)):
            with pytest.raises(SinkRefused, match=r"versioning|Object Lock|InvalidRequest"):
                await refused
    assert bucket.objects() == {}


async def test_a_bucket_in_governance_mode_is_refused(
    worm: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the right to bypass it deletes what is stored without a mode of its own."""
    rule: Any = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}
    worm.admin.put_object_lock_configuration(
        Bucket=worm.name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    be(monkeypatch, "pusher")
    log = await write_log(tmp_path)
    async with WormArchive(worm.url()) as archive:
        assert not_ok(await archive.check()) == {"default lock": "wrong"}
        with pytest.raises(SinkRefused, match="governance mode"):
            await push(archive, log)
    assert worm.objects() == {}


async def test_a_server_that_only_says_that_it_locks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its settings are right, and it deletes a locked object: the canary is gone, and nothing else was stored."""
    be(monkeypatch, "admin")
    log = await write_log(tmp_path)
    name = f"worm-{uuid.uuid4().hex[:12]}"
    with server_that_locks_nothing() as endpoint:
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        async with WormArchive(f"s3://{name}?endpoint={endpoint}&region=us-east-1") as archive:
            wrong = not_ok(await archive.check())
            assert any("locked object" in setting for setting in wrong), wrong
            with pytest.raises(SinkRefused, match="does not enforce Object Lock"):
                await push(archive, log)
        stored = client.list_object_versions(Bucket=name).get("Versions", [])
        client.close()
    assert [one["Key"] for one in stored if not one["Key"].startswith("canary/")] == []


async def test_what_is_locked_for_too_short_or_in_a_weaker_mode_is_a_finding(
    worm: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that somebody has stored before, with the right content and another lock, does not count."""
    log = await write_log(tmp_path)
    content = (log / "log.json").read_bytes()
    first, second, third = sorted(log.glob("*.audit"))[:3]
    be(monkeypatch, "pusher")
    async with WormArchive(worm.url()) as archive:
        key = f"web-1/{archive_log_id(content)}/segments"
        worm.put(f"{key}/{first.name}", first.read_bytes())
        worm.admin.put_object(
            Bucket=worm.name, Key=f"{key}/{second.name}", Body=second.read_bytes(), ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=datetime.now(UTC) + timedelta(days=3),
        )  # fmt: skip
        worm.admin.put_object(
            Bucket=worm.name, Key=f"{key}/{third.name}", Body=third.read_bytes(), ObjectLockMode="GOVERNANCE",
            ObjectLockRetainUntilDate=datetime.now(UTC) + timedelta(days=3000),
        )  # fmt: skip
        pushed = await push(archive, log)
    assert any(third.name in text and "governance mode, and can be deleted" in text for text in pushed.findings)
    assert any(first.name in text and "not locked" in text for text in pushed.findings)
    assert any(second.name in text and "less than the 30 days" in text for text in pushed.findings)
    assert pushed.head is None


def archive_log_id(identity: bytes) -> str:
    """Return the log_id in a log.json."""
    return identity.partition(b'"log_id":"')[2][:32].decode()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://bucket", "by its URL"),
        ("s3://", "by its URL"),
        ("s3://key:hunter2@bucket", "by its URL"),
        ("s3://bucket?secret_key=hunter2", "option"),
        ("s3://bucket?endpoint=http://s3.example", "https"),
        ("s3://bucket?endpoint=https://key:hunter2@s3.example", "https"),
        ("s3://bucket?endpoint=https://s3.example?signature=hunter2", "without user and query"),
        ("s3://bucket?endpoint=https://[hunter2", "can be read"),
        ("s3://bucket?endpoint=https://s3.example:hunter2", "can be read"),
        ("s3://[hunter2", "can be read"),
        ("s3://bucket?profile=nowhere", "no profile"),
    ],
)
def test_a_url_that_is_none_is_refused_without_being_repeated(url: str, reason: str) -> None:
    """A secret may be in it."""
    with pytest.raises(ConfigError, match=reason) as caught:
        WormArchive(url)
    assert "hunter2" not in str(caught.value)


async def test_a_directory_of_several_logs_is_refused(tmp_path: Path) -> None:
    """The first log would be held, released or lengthened for all of them, and the others silently left out."""
    for service in ("orders", "payments"):
        async with AuditLogger(AuditConfig(mode=Local(tmp_path), service_id=service, handle_signals=False)):
            pass
    async with WormArchive("s3://bucket?endpoint=http://127.0.0.1:1&region=us-east-1") as archive:
        for call in (
            archive.status(tmp_path),
            archive.hold(tmp_path, retention_days=30),
            archive.release(tmp_path, by="dana", reason="the case is closed", retention_days=30),
            archive.lengthen(tmp_path, retention_days=30),
        ):
            with pytest.raises(ConfigError, match="holds 2 logs; give the directory of one"):
                await call


async def test_a_retention_that_is_none_is_refused(worm: BucketOfTest, tmp_path: Path) -> None:
    """Before anything is stored: what is locked for too long stays locked."""
    async with WormArchive(worm.url()) as archive:
        for days in (0, 100_000):
            with pytest.raises(ConfigError, match="retention_days"):
                await archive.push(tmp_path, retention_days=days)
