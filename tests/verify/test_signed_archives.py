"""Signed logs of which some records can't be read here: everything else is compared with what was signed."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import anyio
import msgspec
import pytest

from audit_async import AuditLogger, RetentionPolicy
from audit_async._layout.manifest import SealedSegment, read_manifest_file
from audit_async._verify.verify_report import VerifyReport
from audit_async.reader import AuditReader, Identities
from tests.age_keys import IDENTITIES, IDENTITY, OTHER_IDENTITY, OTHER_RECIPIENT, RECIPIENT
from tests.cli.made_trails import rehashed
from tests.logs import Counted
from tests.trail.signed import SMALL_SEGMENTS, SigningLog, run
from tests.verify.test_signed_heads import notes, reasons
from tests.verify.test_unreadable import as_nobody


def archiving(recipient: str = RECIPIENT) -> RetentionPolicy:
    """Return a policy that encrypts what is sealed as soon as it is asked to."""
    return RetentionPolicy(archive_after_days=0, archive_recipients=(recipient,), automatic=False)


def encrypted(base_dir: Path, *, recipients: tuple[str, ...] = (RECIPIENT,)) -> SigningLog:
    """Return a signed log, one session for each recipient that what was sealed is encrypted to; then a few records."""
    log = SigningLog(base_dir, rotation=SMALL_SEGMENTS)

    async def live(recipient: str) -> None:
        async with AuditLogger(log.config(retention=archiving(recipient))) as audit:
            for number in range(12):
                await audit.emit_durable(Counted(producer="p", n=number))
            assert (await audit.apply_retention()).ok
            await audit.emit_durable(Counted(producer="readable", n=77))

    for recipient in recipients:
        run(lambda recipient=recipient: live(recipient))  # type: ignore[misc]  # the name of each turn
    assert len(closed(log)) >= 2
    return log


def closed(log: SigningLog) -> list[SealedSegment]:
    """Return the manifest's entries of the encrypted segments."""
    file = read_manifest_file(log.directory)
    assert file is not None
    return [entry for entry in file.segments if entry.is_encrypted]


def verified(log: SigningLog, identities: Identities | None = None, *, skip_encrypted: bool = False) -> VerifyReport:
    """Verify it with its key, as a caller of the library does."""
    reader = AuditReader(log.base_dir, identities=identities)

    async def verify() -> VerifyReport:
        return await reader.verify(policy=log.policy, skip_encrypted=skip_encrypted, processes=1)

    return anyio.run(verify)


def test_a_signed_log_is_verified_without_the_identity(tmp_path: Path) -> None:
    """There is a report: what is encrypted is unread, all else leads to what was signed, and nothing is found."""
    log = encrypted(tmp_path / "audit")
    assert verified(log, IDENTITIES).valid
    report = verified(log)
    assert report.findings == ()
    assert not report.valid
    (piece,) = report.unreadable
    assert "no identity" in piece.reason
    assert "truncation_unseen" not in notes(report)
    unread = sum(entry.records for entry in closed(log))
    assert f"except that {unread} of them can't be read here" in notes(report)["signed"]
    assert f"{log.size} records" in notes(report)["signed"]
    skipped = verified(log, skip_encrypted=True)
    assert skipped.valid
    assert f"except that {unread}" in notes(skipped)["signed"]


def test_some_identities_open_some_archives(tmp_path: Path) -> None:
    """What one of two keys opens is read, older or newer than what it does not open."""
    log = encrypted(tmp_path / "audit", recipients=(RECIPIENT, OTHER_RECIPIENT))
    assert verified(log, Identities([IDENTITY, OTHER_IDENTITY])).valid
    for identity in (IDENTITY, OTHER_IDENTITY):
        report = verified(log, Identities([identity]))
        assert report.findings == ()
        assert len(report.unreadable) == 1
        assert "except that" in notes(report)["signed"]
        assert verified(log, Identities([identity]), skip_encrypted=True).valid


def test_readable_records_that_were_rewritten_are_found_without_the_identity(tmp_path: Path) -> None:
    """The root of the tree is computed over the published hashes of the others."""
    log = encrypted(tmp_path / "audit")
    prev = closed(log)[-1].hash.encode()
    for path in sorted(log.directory.glob("*.audit")):
        path.chmod(0o600)
        path.write_bytes(rehashed(path.read_bytes().replace(b'"n":77', b'"n":78'), prev))
        prev = path.read_bytes()[-67:-3]
    report = verified(log, skip_encrypted=True)
    assert {finding.kind for finding in report.findings} >= {"history"}
    assert "these may be what differs" in reasons(report)


def test_the_manifest_is_compared_with_what_was_signed(tmp_path: Path) -> None:
    """A boundary inside of what is encrypted, forged on both sides, joins the chain; the signed tree has another."""
    log = encrypted(tmp_path / "audit")
    file = read_manifest_file(log.directory)
    assert file is not None
    first, second, *rest = file.segments
    forged = "ab" * 32
    entries = (
        msgspec.structs.replace(first, hash=forged), msgspec.structs.replace(second, prev_hash=forged), *rest
    )  # fmt: skip
    (log.directory / "manifest.json").write_bytes(msgspec.structs.replace(file, segments=entries).encode())
    report = verified(log, skip_encrypted=True)
    assert [(found.kind, found.segment, found.seq) for found in report.findings] == [
        ("history", first.segment, first.last_seq)
    ]


@pytest.mark.parametrize("what", ["a tile is missing", "nothing is published"])
def test_without_published_hashes_what_can_not_be_compared_is_named(tmp_path: Path, what: str) -> None:
    """Neither a finding nor silence: the report says from which record on, and why."""
    log = encrypted(tmp_path / "audit")
    for path in (log.directory / "tlog" / "tile" / "0").rglob("*"):
        if path.is_file() and what == "a tile is missing":
            path.unlink()
    if what == "nothing is published":
        (log.directory / "tlog" / "checkpoint").unlink()
    report = verified(log, skip_encrypted=True)
    assert not report.valid
    (piece,) = report.unreadable
    assert piece.file == f"archive/{closed(log)[0].archive_file}"
    assert "can't be compared with the records from seq 0 on: it is encrypted" in piece.reason
    assert ("no accepted checkpoint" if what == "nothing is published" else "are damaged") in piece.reason
    kinds = [finding.kind for finding in report.findings]
    assert kinds == (["checkpoint"] if what == "nothing is published" else [])
    assert "signed" not in notes(report)


def test_a_segment_without_rights_makes_a_report_as_well() -> None:
    """The same as for an archive that no identity opens; by the real command, as a user who may not read it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user without rights")
    with tempfile.TemporaryDirectory(prefix="audit-async-") as name:
        base = Path(name)
        log = SigningLog(base / "audit", rotation=SMALL_SEGMENTS).session(checkpoints=2, per_checkpoint=6)
        vkey = log.vkey
        for path in [base, *base.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert as_nobody(log, "--vkey", vkey)[0] == 0
        segment = min(log.directory.glob("*.audit"))
        segment.chmod(0)
        status, out, err = as_nobody(log, "--vkey", vkey, "--json")
    assert status == 3, (out, err)
    report = json.loads(out)
    assert report["findings"] == []
    assert [piece["file"] for piece in report["unreadable"]] == [segment.name]
    assert "except that" in next(note["text"] for note in report["notes"] if note["kind"] == "signed")
