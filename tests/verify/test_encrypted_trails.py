"""Trails with encrypted archives: what is verified and found with the key, and what is said without it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, Local, RetentionPolicy, RotationPolicy
from audit_async._layout.archive_reading import open_segment_for_reading
from audit_async._layout.manifest import ManifestFile, read_manifest_file
from audit_async._store.log_backup import Copied, LogCopier
from audit_async._store.log_directory import LogDirectory
from audit_async._store.writer_lock import WriterLock
from audit_async.errors import LogCorrupted
from audit_async.events import AuditSegmentArchived, AuthFailure, Record
from audit_async.privacy import Subject
from audit_async.reader import (
    AuditQuery,
    AuditReader,
    ExportFailed,
    Identities,
    RecordNotFound,
    SeqRange,
    TrailUnreadable,
    VerifyReport,
)
from tests.age_keys import IDENTITIES, OTHER_IDENTITY, RECIPIENT, encrypted
from tests.privacy.key_stores import make_store, open_store
from tests.trails import run_verify_trail

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio

RECORDS = 40


def config_for(base_dir: Path, *, recipients: tuple[str, ...] = (RECIPIENT,), automatic: bool = False) -> AuditConfig:
    """Return the configuration of a log that archives what is sealed at once."""
    return AuditConfig(
        mode=Local(base_dir),
        service_id="orders",
        rotation=RotationPolicy(max_bytes=4096),
        retention=RetentionPolicy(archive_after_days=0, archive_recipients=recipients, automatic=automatic),
        handle_signals=False,
    )


async def make(base_dir: Path, *, recipients: tuple[str, ...] = (RECIPIENT,), twice: bool = False) -> Path:
    """Write a log with encrypted archives; return its directory."""
    config = config_for(base_dir, recipients=recipients)
    async with AuditLogger(config) as audit:
        for number in range(RECORDS):
            await audit.emit_durable(attempt(f"user{number}"))
        report = await audit.apply_retention()
        assert report.ok
        assert len(report.steps) >= 3
        if twice:  # so that the records of the first run are encrypted as well
            for _ in range(RECORDS):
                await audit.emit_durable(attempt("somebody"))
            assert (await audit.apply_retention()).ok
        await audit.emit_durable(attempt("the last one"))
    return base_dir / "orders" / "00"


def attempt(user: str) -> AuthFailure:
    """Return an event that names somebody."""
    return AuthFailure(reason="wrong password", attempted_user=user, ip="192.0.2.1", path="/login")


def users_in(records: Sequence[Record]) -> list[str | None]:
    """Return who tried to log in."""
    return [record.event.attempted_user for record in records if isinstance(record.event, AuthFailure)]


def encrypted_entries(log: Path) -> list[str]:
    """Return the segments that are encrypted."""
    file = read_manifest_file(log)
    assert file is not None
    return [entry.segment for entry in file.segments if entry.is_encrypted]


def kinds(report: VerifyReport) -> list[tuple[str, str]]:
    """Return what was found, and of which file."""
    return [(found.kind, found.reason) for found in report.findings]


async def test_with_the_key_all_of_it_is_verified(tmp_path: Path) -> None:
    """In this process and in several, as if nothing were encrypted."""
    await make(tmp_path)
    for processes in (1, 2):
        report = await AuditReader(tmp_path, identities=IDENTITIES).verify(processes=processes)
        assert report.valid
        assert report.logs[0].first_seq == 0
        assert report.logs[0].last_seq == report.logs[0].records - 1
        assert not [note for note in report.notes if note.kind == "encrypted"]


@pytest.mark.parametrize("identities", [None, Identities([OTHER_IDENTITY])], ids=["no key", "another key"])
async def test_without_the_key_verify_says_what_it_did_not_open(tmp_path: Path, identities: Identities | None) -> None:
    """It is no finding, and the trail is not called valid, unless the caller has said that this is known."""
    log = await make(tmp_path)
    reader = AuditReader(tmp_path, identities=identities)
    report = await reader.verify()
    assert not report.valid
    assert report.findings == ()
    (piece,) = report.unreadable
    assert piece.file.startswith("archive/")
    assert f"{len(encrypted_entries(log))} segments with" in piece.reason
    skipped = await reader.verify(skip_encrypted=True)
    assert skipped.valid
    assert [note.kind for note in skipped.notes].count("encrypted") == 1
    head = report.logs[0].head
    assert head is not None
    assert (await reader.verify(expected_head=head, skip_encrypted=True)).valid
    inside = await reader.verify(expected_head=(1, "0" * 64), skip_encrypted=True)
    assert "head_not_covered" in [note.kind for note in inside.notes]
    part = await reader.verify(SeqRange(head.seq, head.seq))
    assert part.valid, "nothing encrypted was asked for"


async def test_an_archive_that_was_replaced_is_found_without_the_key(tmp_path: Path) -> None:
    """By the hash of the encrypted file in the manifest."""
    log = await make(tmp_path)
    path = log / "archive" / f"{encrypted_entries(log)[0]}.zst.age"
    path.chmod(0o600)
    path.write_bytes(encrypted(b"anything"))
    report = await AuditReader(tmp_path).verify(skip_encrypted=True)
    assert kinds(report) == [
        ("segment", "its encrypted archive is not the file that the manifest has"),
        ("segment", "its archive is not the file that the chain records"),
    ]
    standalone = run_verify_trail(log)
    assert standalone.returncode == 1
    assert "its encrypted archive is not the file that manifest.json has" in standalone.stdout


@pytest.mark.parametrize("what", ["other bytes", "another segment", "one record changed"])
async def test_a_forged_archive_is_found_by_what_is_in_it(tmp_path: Path, what: str) -> None:
    """Anybody can encrypt to a public key and change the manifest: the plain hash and the chain bind what is in it."""
    log = await make(tmp_path, twice=True)
    first, second = encrypted_entries(log)[:2]
    path = log / "archive" / f"{first}.zst.age"
    if what == "another segment":
        forged = (log / "archive" / f"{second}.zst.age").read_bytes()
    else:
        plain = b"nothing at all\n"
        if what == "one record changed":
            with open_with_key(log, first) as file:
                plain = file.read().replace(b"user1", b"userX", 1)
        forged = encrypted(zstd.compress(plain))
    path.chmod(0o600)
    path.write_bytes(forged)
    rewrite_manifest(log, first, forged)
    without = await AuditReader(tmp_path).verify(skip_encrypted=True)
    assert [found.kind for found in without.findings] == [], "what would show it is in another encrypted archive"
    report = await AuditReader(tmp_path, identities=IDENTITIES).verify()
    assert not report.valid
    assert {found.segment for found in report.findings} >= {first}
    assert ("segment", "its archive is not the file that the chain records") in kinds(report)


def open_with_key(log: Path, segment: str) -> BinaryIO:
    """Open a segment with the key."""
    file = read_manifest_file(log)
    assert file is not None
    entry = next(entry for entry in file.segments if entry.segment == segment)
    return open_segment_for_reading(log, entry, IDENTITIES)


def rewrite_manifest(log: Path, segment: str, archive: bytes) -> None:
    """Put the hash of another archive into the manifest, as whoever can write the directory can."""
    file = read_manifest_file(log)
    assert file is not None
    entries = []
    for entry in file.segments:
        if entry.segment == segment:
            assert entry.encrypted is not msgspec.UNSET
            changed = msgspec.structs.replace(entry.encrypted, sha256=sha256(archive).hexdigest(), bytes=len(archive))
            entry = msgspec.structs.replace(entry, encrypted=changed)  # noqa: PLW2901 - changed in its place
        entries.append(entry)
    whole: ManifestFile = msgspec.structs.replace(file, segments=tuple(entries))
    (log / "manifest.json").write_bytes(whole.encode())


async def test_the_verifier_without_dependencies_says_what_it_can_not_open(tmp_path: Path) -> None:
    """Status 3, as for everything that it did not check; nothing is wrong."""
    log = await make(tmp_path)
    ended = run_verify_trail(log)
    assert ended.returncode == 3
    assert ended.stdout.count("are encrypted with age") == len(encrypted_entries(log))
    assert "verify --identity" in ended.stdout


async def test_a_query_with_the_key_finds_everything(tmp_path: Path) -> None:
    """In both orders, page by page, by audit_id, exported; and no index is made of what is encrypted."""
    log = await make(tmp_path)
    reader = AuditReader(tmp_path, identities=IDENTITIES)
    expected = [f"user{number}" for number in range(RECORDS)] + ["the last one"]
    records = [record async for record in reader.query()]
    assert users_in(records) == expected
    newest = [record async for record in reader.query(AuditQuery(newest_first=True))]
    assert users_in(newest) == expected[::-1]
    made = [segment async for segment in reader.build_index()]
    assert not {segment.segment for segment in made} & set(encrypted_entries(log))
    assert users_in([record async for record in reader.query(AuditQuery(actor="user3"))]) == ["user3"]
    placed = await reader.record(audit_id=records[3].audit_id)
    assert placed.record == records[3]
    assert placed.is_linked
    await reader.export(tmp_path / "all.ndjson")
    assert len((tmp_path / "all.ndjson").read_text().splitlines()) == len(records)


async def test_a_query_without_the_key_is_never_silently_incomplete(tmp_path: Path) -> None:
    """What is found elsewhere comes first; then the query raises, or warns if damage is to be passed over."""
    log = await make(tmp_path)
    reader = AuditReader(tmp_path)
    found = []
    with pytest.raises(TrailUnreadable, match=f"{len(encrypted_entries(log))} segments, of which .* were not searched"):
        async for record in reader.query():
            found.append(record)  # noqa: PERF401 - it is the error that comes at the end
    assert "the last one" in users_in(found)
    with pytest.raises(TrailUnreadable, match="not searched"):
        _ = [record async for record in reader.query(AuditQuery(limit=1))]
    newest = [record async for record in reader.query(AuditQuery(newest_first=True, limit=1))]
    assert len(newest) == 1, "nothing older was asked for"
    later = max(record.timestamp for record in found)
    assert [record async for record in reader.query(AuditQuery(start=later))], "nothing encrypted is of that time"
    with pytest.raises(TrailUnreadable, match="not searched"):
        await reader.page()
    with pytest.raises(TrailUnreadable, match="not searched"):
        await reader.record(audit_id="0" * 16 + "-1")
    with pytest.raises(TrailUnreadable, match="not searched"):
        await reader.record(0)
    with pytest.raises(TrailUnreadable, match="not searched"):
        await reader.export(tmp_path / "all.ndjson")
    assert not (tmp_path / "all.ndjson").exists()


async def test_what_is_about_a_person_is_never_silently_incomplete(tmp_path: Path) -> None:
    """As for a query: also if a limit ends the answer before all of the log was looked at."""
    await make(tmp_path / "audit")
    key_store = open_store(make_store(tmp_path))
    reader = AuditReader(tmp_path / "audit", key_store=key_store)
    for query in (AuditQuery(), AuditQuery(limit=1)):
        with pytest.raises(TrailUnreadable, match="not searched"):
            _ = [record async for record in reader.about(Subject("", "user", "the last one"), query)]
    key_store.close()


async def test_damage_may_be_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning says how much was not searched."""
    await make(tmp_path)
    found = [record async for record in AuditReader(tmp_path).query(on_damage="skip")]
    assert "the last one" in users_in(found)
    assert "were not searched" in caplog.text


async def test_the_chain_records_to_whom_an_archive_is_encrypted(tmp_path: Path) -> None:
    """So it is known who can read it, and both hashes are bound by the chain."""
    log = await make(tmp_path)
    query = AuditQuery(event_types=("audit.segment_archived",))
    records = [record async for record in AuditReader(tmp_path, identities=IDENTITIES).query(query)]
    events = [record.event for record in records if isinstance(record.event, AuditSegmentArchived)]
    assert {event.segment for event in events} >= set(encrypted_entries(log))
    for event in events:
        assert event.recipients == [RECIPIENT]
        assert event.archive.endswith(".zst.age")


async def test_a_bundle_of_encrypted_records_needs_the_key(tmp_path: Path) -> None:
    """And has the plain chain then, which is what an auditor checks."""
    await make(tmp_path)
    with pytest.raises((TrailUnreadable, ExportFailed)):
        await AuditReader(tmp_path).export(tmp_path / "x.zip", "bundle", AuditQuery(actor="user3"))
    reader = AuditReader(tmp_path, identities=IDENTITIES)
    await reader.export(tmp_path / "x.zip", "bundle", AuditQuery(actor="user3"))
    shutil.unpack_archive(tmp_path / "x.zip", tmp_path / "x")
    ended = run_verify_trail(tmp_path / "x")
    assert ended.returncode == 0, ended.stdout


async def test_a_log_goes_on_and_is_copied_without_the_key(tmp_path: Path) -> None:
    """Opening, writing, retention and backups, the second of which copies what is new, need none."""
    log = await make(tmp_path / "a")
    first = back_up(log, tmp_path / "copy")
    assert first.damaged == ()
    async with AuditLogger(config_for(tmp_path / "a")) as audit:
        for number in range(RECORDS):
            await audit.emit_durable(attempt(f"again{number}"))
        assert (await audit.apply_retention()).ok
        second = back_up(log, tmp_path / "copy")
    assert second.damaged == ()
    assert second.kept >= len(encrypted_entries(log)) // 3
    copied = tmp_path / "copy" / "orders" / "00"
    assert encrypted_entries(copied) == encrypted_entries(log)
    for name in encrypted_entries(log):
        assert (copied / "archive" / f"{name}.zst.age").read_bytes() == (
            log / "archive" / f"{name}.zst.age"
        ).read_bytes()
    for base_dir in (tmp_path / "a", tmp_path / "copy"):
        report = await AuditReader(base_dir, identities=IDENTITIES).verify()
        assert report.valid, report.findings
    async with AuditLogger(config_for(tmp_path / "copy")) as audit:
        await audit.emit_durable(attempt("in the copy"))
    assert (await AuditReader(tmp_path / "copy", identities=IDENTITIES).verify()).valid


def back_up(log: Path, base_dir: Path) -> Copied:
    """Do what `audit-async backup` does for one log."""
    directory = LogDirectory(base_dir, "orders", "00", allow_insecure_dir=False)
    lock = WriterLock(directory)
    try:
        return LogCopier(log, directory).copy()
    finally:
        lock.close()
        directory.close()


async def test_missing_archives_are_damage(tmp_path: Path) -> None:
    """With the key and without: that nobody may read it does not excuse that it is gone."""
    log = await make(tmp_path)
    (log / "archive" / f"{encrypted_entries(log)[0]}.zst.age").unlink()
    for identities in (None, IDENTITIES):
        report = await AuditReader(tmp_path, identities=identities).verify()
        assert [found.kind for found in report.findings] == ["segment"]
    with pytest.raises(LogCorrupted):
        _ = [record async for record in AuditReader(tmp_path, identities=IDENTITIES).query()]
    with pytest.raises((LogCorrupted, RecordNotFound)):
        await AuditReader(tmp_path, identities=IDENTITIES).record(0)
