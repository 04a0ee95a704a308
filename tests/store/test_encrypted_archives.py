"""Archives encrypted with age: nothing readable is left on the host, and whoever has the key reads all of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from audit_async import ConfigError
from audit_async._durable import disk
from audit_async._layout.age_files import ArchiveEncrypted, EncryptionFailed, Identities, encrypt, open_encrypted
from audit_async._layout.archive_reading import open_segment_for_reading
from audit_async._layout.manifest import read_manifest
from audit_async._store import archiving
from audit_async._store.archiving import Archive, Stopped, compress_segment
from audit_async._store.log_store import LogStore
from audit_async.config import RetentionPolicy
from audit_async.errors import LogCorrupted, RetentionRefused
from audit_async.events.base import encode
from audit_async.events.lifecycle import AuditSegmentArchived
from tests.age_keys import IDENTITIES, IDENTITY, OTHER_IDENTITY, OTHER_RECIPIENT, RECIPIENT, encrypted, key_file, pyrage
from tests.campaign import sampled
from tests.store.chained import DAY_NS, Chain, log_path, memory_directory, open_store
from tests.store.power_cut import Recorder
from tests.store.test_power_cut import check_all_crash_points
from tests.store.test_retention import at, failing_at, read_all, write_days

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

POLICY = RetentionPolicy(
    min_retention_days=200, archive_after_days=0, delete_after_days=365, archive_recipients=(RECIPIENT,)
)


def archive_due(store: LogStore, policy: RetentionPolicy, now: datetime, chain: Chain) -> list[Archive]:
    """Archive what is due, as the logger does it."""
    archives = []
    for step in store.plan_retention(policy, now):
        assert step.action == "archive"
        archive = compress_segment(store.directory, step.segment, recipients=policy.archive_recipients)
        event = AuditSegmentArchived(
            segment=archive.segment,
            archive=archive.file,
            sha256=archive.sha256,
            archive_sha256=archive.archive_sha256,
            recipients=list(policy.archive_recipients) or None,
        )
        store.commit(chain.batch_of([encode(event)]), sync=True)
        store.archive_segments([archive])
        archives.append(archive)
    return archives


def made(base_dir: Path, *, days: int = 3, policy: RetentionPolicy = POLICY) -> tuple[Path, Chain]:
    """Make a log whose sealed segments are archived by a policy; return its directory."""
    chain = Chain()
    store = open_store(base_dir)
    write_days(store, chain, days)
    archive_due(store, policy, at(chain), chain)
    store.commit(chain.batch(), sync=True)
    store.close()
    return log_path(base_dir), chain


def lines_of(log: Path, identities: Identities | None = IDENTITIES) -> list[bytes]:
    """Return the records of all sealed segments."""
    found: list[bytes] = []
    for entry in read_manifest(log):
        with open_segment_for_reading(log, entry, identities) as file:
            found += file.readlines()
    return found


def test_what_is_sealed_is_readable_with_the_key_alone(tmp_path: Path) -> None:
    """No sealed record is in any file of the directory, all are in the archives, and opening asks for no key."""
    log, chain = made(tmp_path)
    entries = read_manifest(log)
    assert [entry.state for entry in entries] == ["archived"] * len(entries)
    assert sorted(os.listdir(log / "archive")) == [f"{entry.segment}.zst.age" for entry in entries]
    assert not list(log.glob("*.sha256"))
    sealed = chain.lines[: entries[-1].last_seq + 1]
    for path in log.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            content = path.read_bytes()
            assert not any(line[60:200] in content for line in sealed), path
    assert lines_of(log) == sealed
    with pytest.raises(ArchiveEncrypted, match="give an identity"):
        open_segment_for_reading(log, entries[0])
    with pytest.raises(ArchiveEncrypted, match="none of the identities"):
        open_segment_for_reading(log, entries[0], Identities([OTHER_IDENTITY]))
    store = open_store(tmp_path)
    assert store.head == chain.head
    store.close()


def test_the_manifest_has_what_can_be_done_without_the_key(tmp_path: Path) -> None:
    """Hash and size of the encrypted file, and the times of its records, exact also if the clock went back."""
    chain = Chain()
    store = open_store(tmp_path)
    for step_ns in (1_000_000, -3_600_000_000_000, 7_200_000_000_000):
        store.commit(chain.batch(2, step_ns=step_ns), sync=True)
    store.commit(chain.batch(1, step_ns=2 * DAY_NS), sync=True)
    store.commit(chain.batch(1), sync=True)
    archive = archive_due(store, POLICY, at(chain), chain)[0]
    store.close()
    log = log_path(tmp_path)
    (entry,) = [entry for entry in read_manifest(log) if entry.segment == archive.segment]
    file = log / "archive" / f"{entry.segment}.zst.age"
    assert entry.encrypted is not msgspec.UNSET
    assert entry.encrypted.sha256 == archive.archive_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert entry.encrypted.bytes == file.stat().st_size
    times = [msgspec.json.decode(line)["timestamp"] for line in lines_of(log)]
    assert (entry.encrypted.earliest, entry.encrypted.latest) == (min(times), max(times))
    assert min(times) < times[0], "the clock went back"
    assert file.stat().st_mode & 0o777 == 0o400


def test_lines_that_are_cut_anywhere_give_their_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pieces in which a segment is read end in the middle of timestamps, too."""
    log, _ = made(tmp_path / "whole")
    expected = [entry.encrypted for entry in read_manifest(log)]
    for size in (7, 61, 100, 333):
        monkeypatch.setattr(archiving, "_CHUNK_BYTES", size)
        again, _ = made(tmp_path / str(size))
        for entry, other in zip(read_manifest(again), expected, strict=True):
            assert entry.encrypted is not msgspec.UNSET
            assert other is not msgspec.UNSET
            assert (entry.encrypted.earliest, entry.encrypted.latest) == (other.earliest, other.latest)


@pytest.mark.skipif(shutil.which("age") is None, reason="needs the program age (apt-get install age)")
def test_the_program_age_decrypts_an_archive(tmp_path: Path) -> None:
    """What is in the file is age and zstd, so nobody depends on this package to read it."""
    log, chain = made(tmp_path)
    key = key_file(tmp_path)
    entry = read_manifest(log)[0]
    command = ["age", "--decrypt", "--identity", str(key), str(log / "archive" / f"{entry.segment}.zst.age")]
    compressed = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout
    assert hashlib.sha256(zstd.decompress(compressed)).hexdigest() == entry.sha256
    assert zstd.decompress(compressed) == b"".join(chain.lines[: entry.last_seq + 1])


@pytest.mark.skipif(shutil.which("age") is None, reason="needs the program age (apt-get install age)")
def test_a_file_of_the_program_age_is_read(tmp_path: Path) -> None:
    """An archive that somebody encrypted again, to another recipient, with the program."""
    content = os.urandom(200_000)
    for recipient in (RECIPIENT, OTHER_RECIPIENT):
        command = ["age", "--recipient", recipient, "--output", str(tmp_path / recipient)]
        subprocess.run(command, check=True, input=content, timeout=120)
    both = Identities([IDENTITY, OTHER_IDENTITY])
    for recipient in (RECIPIENT, OTHER_RECIPIENT):
        with open_encrypted((tmp_path / recipient).open("rb"), both, recipient) as file:
            assert file.read() == content


def test_what_was_archived_before_is_encrypted_by_the_next_run(tmp_path: Path) -> None:
    """A policy that gets recipients later covers the archives that are there; the readable ones are gone then."""
    clear = msgspec.structs.replace(POLICY, archive_recipients=())
    log, chain = made(tmp_path, policy=clear)
    entries = read_manifest(log)
    assert sorted(os.listdir(log / "archive")) == [f"{entry.segment}.zst" for entry in entries]
    store = open_store(tmp_path)
    assert store.plan_retention(clear, at(chain)) == []
    (log / "index").mkdir()
    (log / "index" / f"{entries[0].segment}.index").write_bytes(b"its terms")
    archive_due(store, POLICY, at(chain), chain)
    assert store.plan_retention(POLICY, at(chain)) == []
    assert store.plan_retention(clear, at(chain)) == [], "there is no way back"
    with pytest.raises(RetentionRefused):
        compress_segment(log, read_manifest(log)[0], recipients=POLICY.archive_recipients)
    store.close()
    assert sorted(os.listdir(log / "archive")) == [f"{entry.segment}.zst.age" for entry in entries]
    assert os.listdir(log / "index") == [], "an index says whether a name is in it"
    assert lines_of(log) == chain.lines[: entries[-1].last_seq + 1]


def test_encrypted_archives_are_deleted_in_time_and_held_by_a_hold(tmp_path: Path) -> None:
    """Retention and holds do with them what they do with others."""
    log, chain = made(tmp_path)
    store = open_store(tmp_path)
    later = at(chain) + timedelta(days=400)
    store.set_hold(reason="a court asks", set_by="legal", now=at(chain))
    assert store.plan_retention(POLICY, later) == []
    with pytest.raises(RetentionRefused):
        store.delete_segments([read_manifest(log)[0].segment])
    store.lift_holds(store.holds, at(chain))
    due = [step for step in store.plan_retention(POLICY, later) if step.action == "delete"]
    assert len(due) == len(read_manifest(log))
    store.delete_segments([step.segment.segment for step in due])
    store.close()
    assert os.listdir(log / "archive") == []
    open_store(tmp_path).close()


def test_a_missing_encrypted_archive_is_found_at_opening(tmp_path: Path) -> None:
    """It does not pass for a crash."""
    log, _ = made(tmp_path)
    entry = read_manifest(log)[0]
    (log / "archive" / f"{entry.segment}.zst.age").unlink()
    with pytest.raises(LogCorrupted, match="the archived segment is missing"):
        open_store(tmp_path)


def test_a_copy_that_an_interrupted_run_left_is_not_believed(tmp_path: Path) -> None:
    """Nobody here can read it, so it is made again, whatever it is."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 2)
    log = log_path(tmp_path)
    step = store.plan_retention(POLICY, at(chain))[0]
    forged = log / "archive" / f"{step.segment.segment}.zst.age"
    forged.parent.mkdir(mode=0o700)
    forged.write_bytes(encrypted(b"forged"))
    archive_due(store, POLICY, at(chain), chain)
    store.close()
    assert lines_of(log)[: step.segment.last_seq + 1] == chain.lines[: step.segment.last_seq + 1]


@pytest.mark.parametrize("how", ["changed", "stopped", "full", "age"])
def test_a_segment_stays_when_it_can_not_be_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is as it was, and nothing unfinished is left of the try."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 2)
    log = log_path(tmp_path)
    step = store.plan_retention(POLICY, at(chain))[0]
    expected: type[BaseException] = OSError
    stopped: Callable[[], bool] = lambda: False  # noqa: E731 - one of four
    if how == "changed":
        path, expected = log / step.segment.segment, LogCorrupted
        path.chmod(0o600)
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content)
    elif how == "stopped":
        expected, stopped = Stopped, lambda: True
    elif how == "age":
        expected = EncryptionFailed

        def refuse(*_: object) -> None:
            raise pyrage.EncryptError("no entropy")

        monkeypatch.setattr(pyrage, "encrypt_io", refuse)
    else:

        def full(fd: int, data: bytes, at: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(disk, "write_at", full)
    with pytest.raises(expected):
        compress_segment(log, step.segment, stopped, recipients=POLICY.archive_recipients)
    assert os.listdir(log / "archive") == []
    assert (log / step.segment.segment).exists()
    monkeypatch.undo()
    store.close()


def test_what_is_read_back_must_be_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses a byte is noticed before the segment goes."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 2)
    step = store.plan_retention(POLICY, at(chain))[0]
    real = disk.write_at

    def lossy(fd: int, data: bytes, offset: int) -> None:
        real(fd, data[:-1] + b"\0", offset)

    monkeypatch.setattr(disk, "write_at", lossy)
    with pytest.raises(LogCorrupted, match="what is read back"):
        compress_segment(store.directory, step.segment, recipients=POLICY.archive_recipients)
    monkeypatch.undo()
    store.close()


@sampled(3)
@pytest.mark.parametrize("was", ["live", "archived"])
def test_every_crash_point_of_encrypting(was: str, every: int) -> None:
    """Whatever a power cut leaves, the records are where the manifest says, and opening finishes what was begun."""
    chain = Chain()
    with memory_directory() as base_dir, pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(base_dir)
        recorder.install(patch)
        store = open_store(base_dir, max_bytes=1500)
        for _ in range(3):
            store.commit(chain.batch(3), sync=True)
        recorder.acknowledge(store.commit(chain.batch(), sync=True).synced)
        first = store.sealed_segments[0].segment
        if was == "archived":
            store.archive_segments([compress_segment(store.directory, store.sealed_segments[0])])
        begin = len(recorder.calls)
        encrypt_first(store)
        store.delete_segments([first])
        store.close()

    def intact(base_dir: Path) -> list[bytes]:
        log = log_path(base_dir)
        lines, head = read_all(log, IDENTITIES)
        entry = read_manifest(log)[0]
        assert (log / entry.segment).exists() == (entry.state == "live")
        archives = set(os.listdir(log / "archive")) if (log / "archive").exists() else set()
        finished = {name for name in archives if not name.endswith(".unfinished")}
        if entry.state != "live":  # of one that is live an unrecorded copy may be left, which the next run replaces
            assert finished == ({entry.archive_file} if entry.state == "archived" else set())
        kept = 0 if entry.state != "deleted" else entry.last_seq + 1
        assert lines[: len(chain.lines) - kept] == chain.lines[kept:]
        assert head.seq >= chain.head.seq
        return lines

    check_all_crash_points(recorder, chain, at_least=40, every=every, since=begin, intact=intact, all_of_it=False)


def encrypt_first(store: LogStore) -> None:
    """Encrypt the first segment, live or archived."""
    segment = store.sealed_segments[0]
    store.archive_segments([compress_segment(store.directory, segment, recipients=(RECIPIENT,))])


@pytest.mark.parametrize("was", ["live", "archived"])
def test_each_call_of_encrypting_fails_in_turn(in_memory: Path, was: str) -> None:
    """A fault at any call: trying again finishes the step, and until then the records are where they were."""
    names = ("make_directory", "create_file", "rename", "unlink", "write_at", "change_mode", "sync_data",
             "sync_directory", "open_directory", "open_file")  # fmt: skip
    failing = 0
    while True:
        failing += 1
        chain = Chain()
        base_dir = in_memory / str(failing)
        store = open_store(base_dir)
        write_days(store, chain, 2)
        if was == "archived":
            store.archive_segments([compress_segment(store.directory, store.sealed_segments[0])])
        calls = [0]
        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(disk, name, failing_at(failing, calls, getattr(disk, name)))
            try:
                encrypt_first(store)
            except OSError:
                assert read_all(log_path(base_dir), IDENTITIES)[0] == chain.lines
                if not store.sealed_segments[0].is_encrypted:
                    encrypt_first(store)
        store.finish_retention()
        entry = read_manifest(log_path(base_dir))[0]
        assert os.listdir(log_path(base_dir) / "archive") == [entry.archive_file] == [f"{entry.segment}.zst.age"]
        assert read_all(log_path(base_dir), IDENTITIES)[0] == chain.lines
        store.close()
        if calls[0] < failing:
            break
    assert failing > 10


# -- files and keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3 << 20])
def test_any_size_comes_back(tmp_path: Path, size: int) -> None:
    """Also what fills a piece of age exactly, and much more than the reader takes at once."""
    content = os.urandom(size)
    with (tmp_path / "x").open("wb") as file:

        def write(data: bytes) -> None:
            file.write(data)

        encrypt(iter([content[:5], content[5:]]), write, (RECIPIENT,))
    with open_encrypted((tmp_path / "x").open("rb"), IDENTITIES, "x") as plain:
        assert plain.read(3) + plain.read() == content


def test_a_reader_that_stops_early_leaves_no_thread(tmp_path: Path) -> None:
    """Closing ends the thread that decrypts ahead, wherever it is."""
    (tmp_path / "x").write_bytes(encrypted(bytes(8 << 20)))
    before = threading.active_count()
    for size in (0, 1, 100_000, 5 << 20):
        file = open_encrypted((tmp_path / "x").open("rb"), IDENTITIES, "x")
        assert len(file.read(size)) == size
        file.close()
        assert threading.active_count() == before


@pytest.mark.parametrize("cut", [0, 10, 40, 150, 210, 66_000])
def test_a_damaged_file_is_no_shorter_file(tmp_path: Path, cut: int) -> None:
    """What is cut off, or changed, raises: never less content than was encrypted."""
    whole = encrypted(bytes(200_000))
    (tmp_path / "x").write_bytes(whole[:cut])
    with pytest.raises(EOFError), open_encrypted((tmp_path / "x").open("rb"), IDENTITIES, "x") as file:
        file.read()
    changed = bytearray(whole)
    changed[-1 - cut] ^= 1
    (tmp_path / "x").write_bytes(changed)
    with pytest.raises(EOFError), open_encrypted((tmp_path / "x").open("rb"), IDENTITIES, "x") as file:
        file.read()


@pytest.mark.parametrize(
    ("recipient", "reason"),
    [
        ("age1abc", "is no recipient"),
        ("", "is no recipient"),
        (RECIPIENT[:-1] + ("q" if RECIPIENT[-1] != "q" else "p"), "is no recipient"),
        ("ssh-ed25519 AAAA", "is no recipient"),
        (IDENTITY, "private key"),
    ],
    ids=["short", "empty", "mistyped", "ssh", "private"],
)
def test_a_wrong_recipient_is_refused_by_the_configuration(recipient: str, reason: str) -> None:
    """Before anything is archived, with the reason, and never with a private key in it."""
    with pytest.raises(ConfigError, match=reason) as caught:
        RetentionPolicy(archive_recipients=(RECIPIENT, recipient))
    assert caught.value.field == "retention.archive_recipients"
    assert IDENTITY not in str(caught.value)


def test_a_missing_pyrage_is_said_by_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; a policy without recipients needs nothing."""
    monkeypatch.setitem(sys.modules, "pyrage", None)
    RetentionPolicy()
    with pytest.raises(ConfigError, match=r"audit-async\[age\]"):
        RetentionPolicy(archive_recipients=(RECIPIENT,))
    with pytest.raises(ConfigError, match=r"audit-async\[age\]"):
        Identities([IDENTITY])


def test_identities_are_read_from_files_and_shown_nowhere(tmp_path: Path) -> None:
    """As age-keygen writes them; what is wrong with a file is said without its content."""
    key, other = key_file(tmp_path), tmp_path / "other.txt"
    other.write_text(OTHER_IDENTITY)
    identities = Identities.from_files(key, other)
    assert identities.texts == (IDENTITY, OTHER_IDENTITY)
    assert repr(identities) == str(identities) == "<Identities 2>"
    wrong = {
        "empty": "",
        "public": RECIPIENT,
        "cut": IDENTITY[:-3],
        "protected": "-----BEGIN AGE ENCRYPTED FILE-----\n",
        "ssh": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    }
    for name, content in wrong.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match="identities") as caught:
            Identities.from_files(tmp_path / name)
        assert IDENTITY[20:40] not in str(caught.value)
    with pytest.raises(ConfigError, match="can't be read"):
        Identities.from_files(tmp_path / "absent")
