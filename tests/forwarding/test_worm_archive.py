"""Sealed segments in a bucket that locks them, on a real server: stored once, verified, and made logs of again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from botocore.exceptions import ClientError

from audit_async import AuditReader, RetentionPolicy, tlog
from audit_async._layout import bucket_receipts
from audit_async._layout.confirmed_file import Confirmed, ConfirmedCopy, confirmed_seq, encode_confirmed
from audit_async._layout.manifest import read_manifest
from audit_async._store.log_directory import LogDirectory
from audit_async._store.writer_lock import WriterLock
from audit_async.forwarding import (
    DirectorySink,
    Forwarder,
    Head,
    SinkRefused,
    SinkUnavailable,
    WormArchive,
    worm_bucket,
    worm_restore,
)
from audit_async.forwarding.collector import Collector
from audit_async.forwarding.worm_bucket import FileDigest
from audit_async.tlog.signing_keys import load_signer
from tests.age_keys import IDENTITIES, RECIPIENT
from tests.forwarding.s3_server import BucketOfTest, S3Server, credentials
from tests.forwarding.shipped_logs import identity_of
from tests.forwarding.stored_logs import DAYS, config_of, digests, push, sealed_in, sealing, write_log

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What blocks runs in threads, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


def be(monkeypatch: pytest.MonkeyPatch, account: str) -> None:
    """Use the credentials of an account from now on."""
    for name, value in credentials(account).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def archive(worm: BucketOfTest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WormArchive]:
    """The test's bucket, as somebody who may push and nothing else."""
    be(monkeypatch, "pusher")
    async with WormArchive(worm.url()) as opened:
        yield opened


def log_id_of(directory: Path) -> str:
    """Return what log.json says."""
    found = re.search(rb'"log_id":"([0-9a-f]{32})"', (directory / "log.json").read_bytes())
    assert found is not None
    return found[1].decode()


def heads_in_buckets(directory: Path, *, days_later: int = 0) -> dict[str, Head]:
    """Return how far a log is in each bucket, at some later time."""
    now = datetime.now(UTC) + timedelta(days=days_later)
    heads = bucket_receipts.heads_in_buckets(directory, log_id_of(directory), now=now)
    return {bucket: Head(seq=head.seq, hash=head.hash.decode()) for bucket, head in heads.items()}


def key_of(directory: Path, name: str) -> str:
    """Return the full key of a segment in the bucket."""
    return f"web-1/{log_id_of(directory)}/segments/{name}"


async def test_each_sealed_segment_is_stored_once_and_locked(
    tmp_path: Path, worm: BucketOfTest, archive: WormArchive
) -> None:
    """By somebody with the rights of the example alone; a second push stores nothing, and a third what is new."""
    log = await write_log(tmp_path)
    segments = sealed_in(log)
    assert len(segments) >= 3
    pushed = await push(archive, log)
    entries = read_manifest(log)
    assert (pushed.stored, pushed.there, pushed.findings) == (len(segments), 0, ())
    assert pushed.head == Head(seq=entries[-1].last_seq, hash=entries[-1].hash)
    objects = worm.objects()
    for entry in entries:
        assert hashlib.sha256(worm.content(key_of(log, entry.segment))).hexdigest() == entry.sha256
    assert all(len(versions) == 1 for versions in objects.values())
    now = datetime.now(UTC)
    for key in objects:
        lock = worm.admin.get_object_retention(Bucket=worm.name, Key=key)["Retention"]
        assert lock["Mode"] == "COMPLIANCE"
        assert abs(lock["RetainUntilDate"] - now - timedelta(days=DAYS)) < timedelta(minutes=10)
        with pytest.raises(ClientError, match="AccessDenied"):
            worm.admin.delete_object(Bucket=worm.name, Key=key, VersionId=objects[key][0][0])

    again = await push(archive, log)
    assert (again.stored, again.there, again.head, again.is_complete) == (0, len(segments), pushed.head, True)
    assert worm.objects() == objects
    await write_log(tmp_path)
    later = await push(archive, log)
    assert (later.there, later.findings) == (len(segments), ())
    assert later.stored == len(sealed_in(log)) - len(segments) > 0
    assert len([key for key in worm.objects() if "/heads/" in key]) == 2


async def test_what_was_pushed_before_a_note_could_be_written_is_recognised(
    tmp_path: Path, worm: BucketOfTest, archive: WormArchive
) -> None:
    """Without its receipts a push compares what is stored, also segments that were archived since, and stores none."""
    log = await write_log(tmp_path)
    pushed = await push(archive, log)
    objects = worm.objects()
    (receipts,) = log.glob("bucket-*.json")
    first = receipts.read_bytes()
    receipts.unlink()
    await _archive_all(tmp_path, RetentionPolicy(archive_after_days=0))
    assert all(entry.state == "archived" for entry in read_manifest(log)[: pushed.stored])
    again = await push(archive, log)
    assert again.findings == ()
    assert again.there == pushed.stored
    assert {key: versions for key, versions in worm.objects().items() if key in objects} == objects
    assert set(heads_in_buckets(log)) == {archive.name}
    receipts.write_bytes(first[:-100])
    assert (await push(archive, log)).is_complete


async def _archive_all(base_dir: Path, retention: RetentionPolicy) -> None:
    from audit_async import AuditLogger  # noqa: PLC0415

    async with AuditLogger(config_of(base_dir, retention=retention)) as audit:
        await audit.apply_retention()


async def test_archived_and_encrypted_segments_come_back_byte_for_byte(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """Plain, compressed and encrypted ones in one log; compared after decryption, and the records verify."""
    policies = (
        RetentionPolicy(archive_after_days=0, automatic=False),
        RetentionPolicy(archive_after_days=0, automatic=False, archive_recipients=(RECIPIENT,)),
    )
    log = await write_log(tmp_path / "host")
    await _archive_all(tmp_path / "host", policies[1])
    await write_log(tmp_path / "host")
    await _archive_all(tmp_path / "host", RetentionPolicy(archive_after_days=90))
    pushed = await push(archive, log)
    assert pushed.is_complete
    files = {key.rpartition("/")[2] for key in worm.objects() if "/segments/" in key}
    assert {name.partition(".audit")[2] for name in files} == {".zst.age", ""}
    original = digests(log, IDENTITIES)

    async with WormArchive(worm.url()) as reading:
        (restored,) = await reading.restore(tmp_path / "new", identities=IDENTITIES)
    assert (restored.log, restored.findings, restored.unread) == ("orders/00", (), 0)
    assert restored.head == pushed.head
    again = digests(tmp_path / "new" / "orders" / "00", IDENTITIES)
    assert again == {name: original[name] for name in again}
    assert list(again) == sealed_in(log)
    assert (tmp_path / "new" / "orders" / "00" / "log.json").read_bytes() == (log / "log.json").read_bytes()
    report = await AuditReader(tmp_path / "new", identities=IDENTITIES).verify()
    assert report.valid, report.findings
    # Without the identity as well, as it was stored.
    async with WormArchive(worm.url()) as reading:
        (unread,) = await reading.restore(tmp_path / "closed")
    assert (unread.findings, unread.head) == ((), pushed.head)
    assert unread.unread == len([name for name in files if name.endswith(".age")])
    await write_log(tmp_path / "new")
    assert (await AuditReader(tmp_path / "new", identities=IDENTITIES).verify()).valid


async def test_a_compressed_segment_is_stored_if_it_holds_what_was_sealed(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """A file that is cut, overwritten or another one stays out of a bucket that keeps it; repaired, it is stored."""
    log = await write_log(tmp_path / "host")
    original = digests(log)
    await _archive_all(tmp_path / "host", RetentionPolicy(archive_after_days=0))
    files = sorted(log.glob("archive/*.zst"))
    cut, overwritten, exchanged = files[:3]
    whole = {file: file.read_bytes() for file in files}
    for file, content in ((cut, whole[cut][:-20]), (overwritten, b"\0" * 500), (exchanged, whole[cut])):
        file.write_bytes(content)
    pushed = await push(archive, log)
    assert pushed.stored == len(files) - 3 > 0
    assert pushed.findings == (
        f"{cut.name}: it is not what was sealed; it was not stored",
        f"{overwritten.name}: it can't be decompressed; it was not stored",
        f"{exchanged.name}: it is not what was sealed; it was not stored",
    )
    for file, content in whole.items():
        file.write_bytes(content)
    assert (await push(archive, log)).is_complete
    (receipts,) = log.glob("bucket-*.json")
    receipts.unlink()
    again = await push(archive, log)  # reads what is stored, and compares it
    assert (again.stored, again.there, again.is_complete) == (0, len(sealed_in(log)), True)
    (restored,) = await archive.restore(tmp_path / "new")
    assert restored.findings == ()
    assert digests(tmp_path / "new" / "orders" / "00") == {name: original[name] for name in sealed_in(log)}


async def test_personal_data_in_the_clear_stays_out_unless_somebody_says_so(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """A log that seals is stored; of one that did not always only what is sealed; encrypted archives are as well."""
    log = await write_log(tmp_path / "plain")
    refused = await archive.push(log, retention_days=DAYS)
    assert (refused.stored, list(refused.unsealed), refused.head) == (0, sealed_in(log), None)
    assert not [key for key in worm.objects() if "/segments/" in key]
    await _archive_all(
        tmp_path / "plain", RetentionPolicy(archive_after_days=0, archive_recipients=(RECIPIENT,), automatic=False)
    )
    encrypted = await archive.push(log, retention_days=DAYS)
    assert encrypted.stored > 0

    sealed = await write_log(tmp_path / "sealed", privacy=sealing(tmp_path))
    assert (await archive.push(sealed, retention_days=DAYS)).unsealed == ()
    mixed = await write_log(tmp_path / "mixed", privacy=sealing(tmp_path))
    before = sealed_in(mixed)
    await write_log(tmp_path / "mixed")
    pushed = await archive.push(mixed, retention_days=DAYS)
    assert pushed.stored == len(before)
    # The segment in which the session without keys began is one that stays out.
    assert list(pushed.unsealed) == sealed_in(mixed)[len(before) :]
    stored = b"".join(worm.content(key) for key in worm.objects() if log_id_of(mixed) in key)
    assert b"alice" not in stored


async def test_the_first_version_is_the_truth_and_whatever_came_later_is_a_finding(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """Somebody with rights stores other versions and delete markers: a restore has the first ones, and names both."""
    log = await write_log(tmp_path / "host")
    pushed = await push(archive, log)
    first, second, *_ = sealed_in(log)
    worm.put(key_of(log, first), b"another history\n")
    worm.admin.delete_object(Bucket=worm.name, Key=key_of(log, second))
    worm.put(f"web-1/{log_id_of(log)}/log.json", b"{}")
    worm.put(key_of(log, f"{second}.zst"), b"the same segment in another form")
    again = await push(archive, log)
    assert again.stored == 0
    assert len(again.findings) == 4
    assert any(f"{second}.zst" in text and "the older one counts" in text for text in again.findings)
    assert any(first in text and "later version" in text for text in again.findings)
    assert any(second in text and "delete marker" in text for text in again.findings)
    (restored,) = await archive.restore(tmp_path / "new")
    assert restored.findings == again.findings
    assert restored.head == pushed.head
    assert digests(tmp_path / "new" / "orders" / "00") == {
        name: digest for name, digest in digests(log).items() if name in sealed_in(log)
    }


async def test_a_head_that_somebody_adds_speaks_after_those_that_were_there(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """Neither where a log is restored to, nor what is in it, nor what a later push has to say; and it is a finding."""
    log = await write_log(tmp_path / "host")
    pushed = await push(archive, log)
    (genuine,) = [key for key in worm.objects() if "/heads/" in key]
    head = msgspec.json.decode(worm.content(genuine))
    entry = head["entries"][0] | {"hash": "0" * 64}
    of = {"tenant": "mallory", "host": "web-9", "service": "orders", "instance": "00", "log_id": head["log_id"]}
    forged = head | {"collected": of, "seq": entry["last_seq"], "hash": "0" * 64, "entries": [entry]}
    await anyio.sleep(1.1)  # the server keeps seconds
    worm.put(genuine.replace(f"{head['seq']:018d}", "0" * 18), msgspec.json.encode(forged))
    (restored,) = await archive.restore(tmp_path / "new")
    assert (restored.log, restored.head) == ("orders/00", pushed.head)
    assert len(restored.findings) == 2
    assert all("head" in text for text in restored.findings)
    for receipts in log.glob("bucket-*.json"):
        receipts.unlink()
    await write_log(tmp_path / "host")
    assert (await push(archive, log)).is_complete
    heads = [msgspec.json.decode(worm.content(key)) for key in worm.objects() if "/heads/" in key]
    newest = max(heads, key=lambda one: one["seq"])
    assert newest["entries"][0]["first_seq"] == head["seq"] + 1


async def test_two_pushes_at_a_time_store_everything_once(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """Of a host and of its collector, say, which know nothing of each other."""
    log = await write_log(tmp_path)
    done = []

    async def one(opened: WormArchive) -> None:
        done.append(await push(opened, log))

    async with WormArchive(worm.url()) as other, anyio.create_task_group() as group:
        group.start_soon(one, archive)
        group.start_soon(one, other)
    assert [pushed.findings for pushed in done] == [(), ()]
    assert all(len(versions) == 1 for versions in worm.objects().values())
    assert done[0].head == done[1].head is not None


async def test_an_object_that_another_push_is_storing_is_none_that_has_vanished(
    tmp_path: Path, archive: WormArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers 409 as long as it can't be said who comes first; nothing is there yet, and nothing is accused."""
    log = await write_log(tmp_path)
    store = archive._bucket.client.put_object

    def conflict(**asked: Any) -> Any:
        if asked["Key"].endswith(".audit"):
            answer = {"Error": {"Code": "ConditionalRequestConflict"}, "ResponseMetadata": {"HTTPStatusCode": 409}}
            raise ClientError(answer, "PutObject")  # type: ignore[arg-type]  # the members that are read
        return store(**asked)

    monkeypatch.setattr(archive._bucket.client, "put_object", conflict)
    with pytest.raises(SinkUnavailable, match=r"\.audit: another process stores it at this moment; push again"):
        await push(archive, log)
    monkeypatch.undo()
    assert (await push(archive, log)).findings == ()


async def test_a_log_that_is_made_during_a_restore_is_not_overwritten(
    tmp_path: Path, archive: WormArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another restore, or by a service that was started too early."""
    log = await write_log(tmp_path)
    await push(archive, log)

    def lock(directory: LogDirectory) -> WriterLock:
        shutil.copytree(log, directory.path, dirs_exist_ok=True)
        return WriterLock(directory)

    monkeypatch.setattr(worm_restore, "WriterLock", lock)
    with pytest.raises(FileExistsError, match="is there already"):
        await archive.restore(tmp_path / "new")
    (made,) = (tmp_path / "new").rglob("manifest.json")
    assert made.read_bytes() == (log / "manifest.json").read_bytes()


async def test_a_log_that_was_rewritten_does_not_replace_what_is_stored(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """Neither one that was changed on disk, with or without its manifest, nor a key that somebody took before."""
    log = await write_log(tmp_path)
    first, second, *_ = sealed_in(log)
    worm.put(key_of(log, second), b"squatted\n")
    (log / first).chmod(0o600)
    (log / first).write_bytes((log / first).read_bytes().replace(b"alice", b"malle"))
    pushed = await push(archive, log)
    assert any(first in text and "not what was sealed" in text for text in pushed.findings)
    assert any(second in text and "something else" in text for text in pushed.findings)
    assert pushed.head is None
    assert key_of(log, first) not in worm.objects()
    assert worm.content(key_of(log, second)) == b"squatted\n"
    assert heads_in_buckets(log) == {}


async def test_another_log_with_the_same_id_is_found(tmp_path: Path, archive: WormArchive) -> None:
    """A cloned machine, or a log that was rolled back and continued: its segments are not those that are stored."""
    log = await write_log(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "clone")
    await write_log(tmp_path / "one")
    clone = await write_log(tmp_path / "clone")
    assert (await push(archive, log)).is_complete
    of_clone = await push(archive, clone)
    assert of_clone.stored == 0 or not of_clone.is_complete
    assert any("something else than this log's segment" in text for text in of_clone.findings)


async def test_a_large_segment_is_stored_in_parts(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the SHA-256 of each part compared by the server; recognised later, and restored byte for byte."""
    log = await write_log(tmp_path / "host", count=900, rotation=_rotation(6 << 20))
    await write_log(tmp_path / "host", count=1, rotation=_rotation(1024))
    assert sealed_in(log)
    monkeypatch.setattr(worm_bucket, "_MOST_IN_ONE", 100_000)
    monkeypatch.setattr(worm_bucket, "_PART_BYTES", 5 << 20)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(11 << 20))
    with big.open("rb") as file:
        digest = FileDigest.of(file)
        assert len(digest.parts) == 3
        bucket = archive._bucket
        version = bucket.store_file("big", file, digest, retain_until=datetime.now(UTC) + timedelta(hours=1))
        state = bucket.lock_state(version)
    assert (state.mode, state.size, state.checksum) == ("COMPLIANCE", 11 << 20, digest.checksum)
    assert b"".join(bucket.read(version)) == big.read_bytes()
    pushed = await push(archive, log)
    assert pushed.is_complete
    (receipts,) = log.glob("bucket-*.json")
    receipts.unlink()
    assert (await push(archive, log)).is_complete
    (restored,) = await archive.restore(tmp_path / "new")
    assert (restored.head, restored.findings) == (pushed.head, ())


def _rotation(max_bytes: int) -> Any:
    from audit_async import RotationPolicy  # noqa: PLC0415

    return RotationPolicy(max_bytes=max_bytes)


async def test_a_collector_learns_from_the_receipts_how_far_a_log_is_in_a_bucket(
    tmp_path: Path, archive: WormArchive, s3: S3Server
) -> None:
    """Without a gap, for each bucket; the receipts are as readable as the log."""
    log = await write_log(tmp_path)
    assert heads_in_buckets(log) == {}
    pushed = await push(archive, log)
    await write_log(tmp_path)
    other = BucketOfTest.made(s3)
    async with WormArchive(other.url()) as second:
        later = await push(second, log)
    assert heads_in_buckets(log) == {archive.name: pushed.head, second.name: later.head}
    assert heads_in_buckets(log, days_later=DAYS + 1) == {}
    for receipts in log.glob("bucket-*.json"):
        assert stat.S_IMODE(receipts.stat().st_mode) == 0o600
    report = await AuditReader(tmp_path).verify()
    assert report.valid, report.findings


async def test_a_bucket_is_a_copy_that_retention_counts(tmp_path: Path, archive: WormArchive) -> None:
    """One collector and a bucket are two places, for as long as the bucket locks; neither alone is."""
    log = await write_log(tmp_path)
    log_id, now = log_id_of(log), datetime.now(UTC)
    assert confirmed_seq(log, log_id, copies=1, now=now) == -1
    pushed = await push(archive, log)
    assert pushed.head is not None
    assert confirmed_seq(log, log_id, copies=1, now=now) == pushed.head.seq
    assert confirmed_seq(log, log_id, copies=2, now=now) == -1
    one = ConfirmedCopy(
        collector="c", seq=pushed.head.seq - 5, hash="0" * 64, copies=1, expires_at=now + timedelta(days=99)
    )
    (log / "confirmed.json").write_bytes(encode_confirmed(Confirmed(log_id=log_id, confirmed=(one,))))
    assert confirmed_seq(log, log_id, copies=2, now=now) == one.seq
    assert confirmed_seq(log, log_id, copies=2, now=now + timedelta(days=DAYS + 1)) == -1
    assert confirmed_seq(log, "0" * 32, copies=1, now=now) == -1


async def test_what_a_collector_pushed_is_confirmed_as_a_place_of_its_own(
    tmp_path: Path, archive: WormArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the host, whose own push to the same bucket adds none; as long as it stays locked while it is confirmed."""
    host, root = tmp_path / "host", tmp_path / "root"
    log = await write_log(host)
    log_id, now = log_id_of(log), datetime.now(UTC)
    tlog.write_key(tmp_path / "c.pem", tlog.new_key())
    signer = load_signer(str(tmp_path / "c.pem"), origin="c")
    monkeypatch.setattr("audit_async.forwarding.collector._BUCKETS_EVERY_S", 0.0)

    async def confirmed(collector: Collector) -> list[int]:
        """Forward, collect, and return up to which record the host knows of one, two and three copies."""
        forwarder = Forwarder(host, sink, tenant="acme", host="web-1", collector_keys=[str(signer.key)])
        await forwarder.run_once()
        assert (await collector.collect()).findings == ()
        await forwarder.run_once()
        return [confirmed_seq(log, log_id, copies=copies, now=now) for copies in (1, 2, 3)]

    (tmp_path / "engine").mkdir()
    DirectorySink.prepare(tmp_path / "engine")
    sink = DirectorySink(tmp_path / "engine", tenant="acme")
    async with sink, Collector(root, sink, tenant="acme", signer=signer) as collector:
        head = (await confirmed(collector))[0]
        assert await confirmed(collector) == [head, -1, -1]
        collected = root / identity_of(log).path()
        pushed = await push(archive, collected)
        assert pushed.head is not None
        assert await confirmed(collector) == [head, pushed.head.seq, -1]
        further = (await push(archive, log)).head
        assert further is not None
        assert await confirmed(collector) == [head, further.seq, -1]
        monkeypatch.setattr("audit_async.forwarding.collector.VALID_FOR", timedelta(days=DAYS + 1))
        for receipts in log.glob("bucket-*.json"):
            receipts.unlink()
        assert await confirmed(collector) == [head, -1, -1]


async def test_a_bucket_that_lost_its_newest_segment_is_found_by_its_heads(
    tmp_path: Path, archive: WormArchive, worm: BucketOfTest
) -> None:
    """A provider that loses objects is not believed: the head names what is missing."""
    log = await write_log(tmp_path / "host")
    pushed = await push(archive, log)
    *_, last = sealed_in(log)
    path = worm.server.directory  # the lock holds, so the object is hidden the way a server that lies would
    assert path.exists()
    real = archive._bucket.listed

    def without_last(below: str = "") -> Any:
        return ((key, there) for key, there in real(below) if not key.endswith(last))

    archive._bucket.listed = without_last  # type: ignore[method-assign]
    (restored,) = await archive.restore(tmp_path / "new")
    assert pushed.head is not None
    assert restored.head.seq < pushed.head.seq
    assert any(f"up to record {pushed.head.seq}" in text for text in restored.findings)
    again = await push(archive, log)
    assert any(last in text for text in again.findings) or again.stored == 1


async def test_what_can_not_be_reached_or_is_not_allowed_is_said(
    tmp_path: Path, worm: BucketOfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as its own kind of error, with the bucket's name and no secret."""
    log = await write_log(tmp_path)
    be(monkeypatch, "restorer")
    async with WormArchive(worm.url()) as reader:
        with pytest.raises(SinkRefused, match="AccessDenied"):
            await push(reader, log)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    async with WormArchive(worm.url()) as wrong:
        with pytest.raises(SinkRefused, match="SignatureDoesNotMatch") as caught:
            await push(wrong, log)
        assert "hunter2" not in str(caught.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with WormArchive(worm.url()) as nobody:
        with pytest.raises(SinkRefused, match="no credentials"):
            await push(nobody, log)
    be(monkeypatch, "pusher")
    async with WormArchive(worm.url("elsewhere")) as elsewhere:
        with pytest.raises(SinkRefused, match="AccessDenied"):
            await push(elsewhere, log)
    async with WormArchive(f"s3://{worm.name}?endpoint=http://127.0.0.1:1&region=us-east-1") as gone:
        with pytest.raises(SinkUnavailable, match=r"127\.0\.0\.1"):
            await gone.logs()
