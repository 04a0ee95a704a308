"""Copies with encrypted archives are rebuilt: with the key by reading them, without it as the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import msgspec
import pytest

from audit_async._layout.age_files import Identities
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._store.log_directory import LogDirectory
from audit_async._store.log_restore import Rebuilt, rebuild
from audit_async._store.writer_lock import WriterLock
from audit_async._verify.verify_report import VerifyReport
from audit_async.errors import LogCorrupted
from audit_async.reader import AuditReader
from tests.age_keys import IDENTITIES, RECIPIENT, encrypted
from tests.store.chained import SERVICE, log_path, memory_directory
from tests.store.test_copies import RunningLog, copy_while_it_is_written, files_below, opened, orders


def rebuilt(base_dir: Path, identities: Identities | None = None) -> Rebuilt:
    """Do what `audit-async restore --from-copy` does, in place."""
    directory = LogDirectory(base_dir, SERVICE, "00", allow_insecure_dir=False)
    lock = WriterLock(directory)
    try:
        return rebuild(directory, directory.identify(may_create=False).log_id, identities)
    finally:
        lock.close()
        directory.close()


class EncryptingLog(RunningLog):
    """A log that encrypts its archives, and deletes nothing: a copy's chain may end before it records a deletion."""

    recipients = (RECIPIENT,)

    def delete(self, entry: SealedSegment) -> None:
        """Archive it instead."""
        if entry.state == "live":
            self.archive(entry)


def running(base_dir: Path, seed: int) -> RunningLog:
    """Return a log that has encrypted archives and is being written."""
    log = EncryptingLog(base_dir, seed)
    while len(archived(log.directory)) < 3:
        log.step()
    return log


def archived(log: Path) -> list[SealedSegment]:
    """Return the entries of encrypted archives."""
    return [entry for entry in read_manifest(log) if entry.is_encrypted]


def contents(log: Path) -> dict[Path, bytes]:
    """Return every file of a log, but for the lock."""
    return {name: (log / name).read_bytes() for name in files_below(log) if name.name not in {"lock", "backup.lock"}}


def verified(base_dir: Path) -> VerifyReport:
    """Verify with the key."""
    return anyio.run(lambda: AuditReader(base_dir, identities=IDENTITIES).verify(processes=1))


@pytest.mark.parametrize("identities", [IDENTITIES, None], ids=["key", "no key"])
@pytest.mark.parametrize("seed", range(2))
def test_copies_that_are_taken_while_archives_are_encrypted(seed: int, identities: Identities | None) -> None:
    """In any order: what is rebuilt is a part of the chain, verifies with the key, and has the copy's archives.

    What can't be rebuilt is left as it was, and the message says what else to give: a key that was not given, or
    another copy.
    """
    with memory_directory() as place:
        log = running(place / "live", seed)
        made = 0
        for number, order in enumerate(orders(log)):
            base_dir = place / f"copy {number}"
            copied = log_path(base_dir)
            copy_while_it_is_written(log, copied, order, retention=True)
            for checksum in copied.glob("*.sha256"):
                checksum.unlink()  # the command does not copy them
            before = contents(copied)
            refusal, done = rebuilt_or_refused(base_dir, identities)
            if done is None:
                assert "audit-async backup" in refusal or ("--identity" in refusal and identities is None)
                assert contents(copied) == before
                continue
            made += 1
            assert done.unread == 0 or identities is None
            assert log.chain.holds(done.head)
            for entry in archived(copied):
                name = Path("archive") / entry.archive_file
                assert (copied / name).read_bytes() == before[name]
            assert log.chain.holds(opened(base_dir))
            # At the beginning of the chain segments that were removed while the copy was taken are lost to the copy.
            found = [one for one in verified(base_dir).findings if "it was removed while the log" not in one.reason]
            assert found == []
        log.store.close()
    assert made > 0


def rebuilt_or_refused(base_dir: Path, identities: Identities | None) -> tuple[str, Rebuilt | None]:
    """Return what was rebuilt, or why nothing was."""
    try:
        return "", rebuilt(base_dir, identities)
    except LogCorrupted as error:
        return str(error), None


def whole_copy(place: Path, seed: int = 1) -> Path:
    """Return the base directory of a copy of a log that was closed."""
    log = running(place / "live", seed)
    log.store.close()
    shutil.copytree(log.directory, log_path(place / "copy"))
    return place / "copy"


def test_without_the_key_a_copy_keeps_its_entries(tmp_path: Path) -> None:
    """Those of what is encrypted are taken over as they are, and the log opens and goes on."""
    base_dir = whole_copy(tmp_path)
    before = archived(log_path(base_dir))
    done = rebuilt(base_dir)
    assert done.unread == len(before)
    assert done.set_aside == ()
    assert archived(log_path(base_dir)) == before
    opened(base_dir)
    assert verified(base_dir).findings == ()


def test_with_the_key_the_entries_are_made_again(tmp_path: Path) -> None:
    """Also if there is no manifest: hash and size of the encrypted file, and the times of its records."""
    base_dir = whole_copy(tmp_path)
    log = log_path(base_dir)
    before = archived(log)
    (log / "manifest.json").unlink()
    with pytest.raises(LogCorrupted, match="--identity"):
        rebuilt(base_dir)
    done = rebuilt(base_dir, IDENTITIES)
    assert done.unread == 0
    assert archived(log) == before
    opened(base_dir)
    assert verified(base_dir).findings == ()


@pytest.mark.parametrize(
    "what", ["replaced", "cut", "entry changed", "no entry", "the newest", "the last before a gap"]
)
def test_without_the_key_nothing_is_believed_that_does_not_fit(tmp_path: Path, what: str) -> None:
    """The file must be the one of the manifest and join the chain; else the rebuild refuses, and nothing is changed."""
    base_dir = whole_copy(tmp_path)
    log = log_path(base_dir)
    entries = list(read_manifest(log))
    victim = next(place for place, entry in enumerate(entries) if entry.is_encrypted and place + 1 < len(entries))
    archive = log / "archive" / entries[victim].archive_file
    archive.chmod(0o600)
    if what == "replaced":
        archive.write_bytes(encrypted(b"anything"))
    elif what == "cut":
        archive.write_bytes(archive.read_bytes()[:-1])
    elif what == "entry changed":
        last = max(place for place, entry in enumerate(entries) if entry.is_encrypted)
        forge_boundary(log, last)  # between two that are encrypted only the key shows it
    elif what == "no entry":
        rewrite(log, entries[:victim])
    elif what == "the last before a gap":
        missing = next(entry for entry in entries[victim:] if not entry.is_encrypted)
        for name in (missing.segment, f"{missing.segment}.sha256"):
            (log / name).unlink()
    else:
        for path in [*log.glob("*.audit"), *log.glob("*.sha256")]:
            path.unlink()
    before = contents(log)
    with pytest.raises(LogCorrupted, match=r"--identity|prev_hash"):
        rebuilt(base_dir)
    assert contents(log) == before
    if what in {"no entry", "the newest", "entry changed", "the last before a gap"}:
        assert rebuilt(base_dir, IDENTITIES).unread == 0
        opened(base_dir)
        assert verified(base_dir).findings == ()


def rewrite(log: Path, entries: list[SealedSegment]) -> None:
    """Write a manifest with these entries."""
    manifest = msgspec.json.decode((log / "manifest.json").read_bytes())
    manifest["segments"] = msgspec.to_builtins(entries)
    (log / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def forge_boundary(log: Path, at: int) -> None:
    """Give the last record of one segment another hash, in the manifest's entries on both sides."""
    entries = list(read_manifest(log))
    entries[at] = msgspec.structs.replace(entries[at], hash="ab" * 32)
    entries[at + 1] = msgspec.structs.replace(entries[at + 1], prev_hash="ab" * 32)
    rewrite(log, entries)


def test_a_damaged_archive_is_a_gap_with_the_key(tmp_path: Path) -> None:
    """As for one that is not encrypted: what comes after it is set aside, encrypted or not, and nothing is removed."""
    base_dir = whole_copy(tmp_path)
    log = log_path(base_dir)
    victim = archived(log)[1]
    archive = log / "archive" / victim.archive_file
    archive.chmod(0o600)
    archive.write_bytes(archive.read_bytes()[:-1])
    names = {name.name for name in files_below(log) if ".audit" in name.name and not name.name.endswith(".sha256")}
    done = rebuilt(base_dir, IDENTITIES)
    assert done.head.seq == victim.first_seq - 1
    assert any(name.endswith(".zst.age") for name in done.set_aside)
    kept = {name.name for name in files_below(log)}
    first = archived(log)[0].archive_file if archived(log) else None
    assert first is None, "the first one is written on, so it is in the log directory again"
    assert len(names - kept) == 1, "only the archive of the segment that is written on is gone"
    assert opened(base_dir) == done.head
