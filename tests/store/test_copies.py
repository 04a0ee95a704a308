"""A copy that is taken while the log is written: a backup always opens, another copy opens or says how to repair it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import msgspec
import pytest

from audit_async import AuditLogger
from audit_async._chain import Head
from audit_async._durable import disk
from audit_async._layout.manifest import SealedSegment, read_manifest, read_manifest_file
from audit_async._store import backup_lock, log_backup
from audit_async._store.archiving import compress_segment
from audit_async._store.backup_lock import BackupRunning, RetentionTakesLong, holding_back_retention
from audit_async._store.log_backup import LogCopier
from audit_async._store.log_directory import LogDirectory
from audit_async._store.log_restore import rebuild
from audit_async._store.log_store import LogStore
from audit_async._store.writer_lock import WriterLock
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.errors import LogCorrupted, RetentionRefused
from audit_async.events.base import encode
from audit_async.events.lifecycle import AuditSegmentArchived, AuditSegmentDeleted
from tests.logs import ConfigFor, Counted
from tests.store.chained import SERVICE, Chain, log_path, memory_directory, open_store
from tests.trails import check_trail, read_events

MAX_BYTES = 1500


class RunningLog:
    """A log whose writer takes one step after the other: records, rotations and seals, archives and deletions."""

    #: Whom archives are encrypted to.
    recipients: tuple[str, ...] = ()

    def __init__(self, base_dir: Path, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self.chain = Chain()
        self.store: LogStore = open_store(base_dir, max_bytes=MAX_BYTES)
        self.directory = self.store.directory
        for _ in range(12):
            self.step()

    def step(self, *, retention: bool = True) -> None:
        """Do one thing that a writer does."""
        what = self.random.random() if retention else 1.0
        sealed = self.store.sealed_segments
        live = [entry for entry in sealed if entry.state == "live"]
        try:
            if what < 0.12 and len(live) > 2:
                self.archive(live[0])
                return
            if what < 0.2 and len(live) > 2:
                self.delete(next(entry for entry in sealed if entry.state != "deleted"))
                return
        except BackupRunning:
            pass
        self.store.commit(self.chain.batch(self.random.randrange(1, 4)), sync=self.random.random() < 0.9)

    def archive(self, entry: SealedSegment) -> None:
        """Archive a segment; the chain says so before."""
        self.store.refuse_during_backup()
        archive = compress_segment(self.directory, entry, recipients=self.recipients)
        event = AuditSegmentArchived(
            segment=entry.segment,
            archive=archive.file,
            sha256=archive.sha256,
            archive_sha256=archive.archive_sha256,
            recipients=list(self.recipients) or None,
        )
        self.store.commit(self.chain.batch_of([encode(event)]), sync=True)
        self.store.archive_segments([archive])

    def delete(self, entry: SealedSegment) -> None:
        """Delete a segment; the chain says so before."""
        self.store.refuse_during_backup()
        event = AuditSegmentDeleted(
            segment=entry.segment,
            first_seq=entry.first_seq,
            last_seq=entry.last_seq,
            sha256=entry.sha256,
            hash=entry.hash,
            reason="its time is over",
        )
        self.store.commit(self.chain.batch_of([encode(event)]), sync=True)
        self.store.delete_segments([entry.segment])


def opened(base_dir: Path) -> Head:
    """Open a log as a writer does, write on, and return the head it had."""
    store = open_store(base_dir, max_bytes=MAX_BYTES)
    head = store.head
    store.close()
    return head


def checked(base_dir: Path) -> None:
    """Check the chain of a log with the independent verifier of the tests."""
    with redirect_stdout(StringIO()):
        check_trail(log_path(base_dir))


def files_below(directory: Path) -> list[Path]:
    """Return every file of a log, as names relative to its directory."""
    return [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]


def orders(log: RunningLog) -> Iterator[Callable[[list[Path]], list[Path]]]:
    """Yield ways to order what is copied: by name as cp and tar do, backwards, manifest first or last, at random."""
    yield sorted
    yield lambda names: sorted(names, reverse=True)
    yield lambda names: sorted(names, key=lambda name: (name.name != "manifest.json", name))
    yield lambda names: sorted(names, key=lambda name: (name.name == "manifest.json", name))
    for _ in range(3):
        yield lambda names: log.random.sample(names, len(names))


def copy_while_it_is_written(
    log: RunningLog, target: Path, order: Callable[[list[Path]], list[Path]], *, retention: bool
) -> None:
    """Copy file by file; the writer takes a step or two after each. A file that has vanished is left out, as by tar."""
    for name in order(files_below(log.directory)):
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            shutil.copy2(log.directory / name, to)
        except FileNotFoundError:
            continue
        for _ in range(log.random.randrange(3)):
            log.step(retention=retention)


def rebuilt(base_dir: Path) -> tuple[str, ...]:
    """Do what `audit-async restore --from-copy` does, in place; return what was set aside."""
    directory = LogDirectory(base_dir, SERVICE, "00", allow_insecure_dir=False)
    lock = WriterLock(directory)
    try:
        return rebuild(directory, directory.identify(may_create=False).log_id).set_aside
    finally:
        lock.close()
        directory.close()


def open_or_rebuild(log: RunningLog, copied: Path) -> str:
    """Open a copy, after a rebuild if it is refused; return what was needed. Raises what the rebuild raises."""
    try:
        head, needed = opened(copied), "nothing"
    except LogCorrupted as error:
        refusal = str(error)
        rebuilt(copied)
        head, needed = opened(copied), "a rebuild"
        assert "restore --from-copy" in refusal
        manifest = read_manifest_file(log_path(copied))
        assert manifest is not None
        assert manifest.rebuilt is not None
    assert log.chain.holds(head)
    return needed


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(1, 4))])
def test_copies_in_every_order(seed: int) -> None:
    """A copy taken in any order while segments are sealed opens, or is refused with the way out, which then works."""
    with memory_directory() as place:
        log = RunningLog(place / "live", seed)
        needed = set()
        for number, order in enumerate(orders(log)):
            copy_while_it_is_written(log, log_path(place / f"copy {number}"), order, retention=False)
            needed.add(open_or_rebuild(log, place / f"copy {number}"))
            checked(place / f"copy {number}")
        log.store.close()
    assert "nothing" in needed


@pytest.mark.parametrize("seed", range(3))
def test_copies_in_every_order_while_retention_is_at_work(seed: int) -> None:
    """Files that are archived or deleted meanwhile may be missing altogether; then rebuilding says what to do."""
    with memory_directory() as place:
        log = RunningLog(place / "live", seed)
        made = 0
        for number, order in enumerate(orders(log)):
            copy_while_it_is_written(log, log_path(place / f"copy {number}"), order, retention=True)
            try:
                open_or_rebuild(log, place / f"copy {number}")
            except LogCorrupted as error:
                said = str(error)
            else:
                made += 1
                continue
            assert "audit-async backup" in said
        assert made > 0
        log.store.close()


def test_some_copies_need_to_be_rebuilt() -> None:
    """The test above meets what it is about: by name, segments come before the manifest, which may be newer."""
    with memory_directory() as place:
        log = RunningLog(place / "live", 7)
        sealed = False
        while not sealed:
            last = max(log_path(place / "live").glob("*.audit"))
            content = last.read_bytes()
            sealed = bool(log.store.commit(log.chain.batch(2), sync=True).sealed)
        copied = place / "copy"
        shutil.copytree(log.directory, log_path(copied))
        (log_path(copied) / last.name).chmod(0o600)
        (log_path(copied) / last.name).write_bytes(content[:-300])
        with pytest.raises(LogCorrupted, match="restore --from-copy"):
            opened(copied)
        aside = rebuilt(copied)
        assert len(aside) == 1, "the segment after the gap"
        assert log.chain.holds(opened(copied))
        log.store.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_backup_opens_whatever_the_writer_does_meanwhile(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups that are taken again and again into one place, the writer at work between any two files, all open."""
    with memory_directory() as place:
        log = RunningLog(place / "live", seed)
        copy_file = LogCopier._copy_file

        def copy_and_step(self: LogCopier, *args: object, **kwargs: object) -> str:
            done = copy_file(self, *args, **kwargs)  # type: ignore[arg-type]  # what it takes itself
            if self.source == log.directory:
                for _ in range(log.random.randrange(4)):
                    log.step()
            return done

        monkeypatch.setattr(LogCopier, "_copy_file", copy_and_step)
        for _ in range(6):
            before = log.chain.head
            kept = back_up(log.directory, place / "backup").kept
            shutil.copytree(place / "backup", place / "look")
            head = opened(place / "look")
            assert log.chain.holds(head)
            assert head.seq >= before.seq
            checked(place / "look")
            shutil.rmtree(place / "look")
            for _ in range(6):
                log.step()
        assert kept > 0, "what an earlier backup has is not copied again"
        log.store.close()


def back_up(source: Path, base_dir: Path) -> log_backup.Copied:
    """Do what `audit-async backup` does for one log."""
    directory = LogDirectory(base_dir, SERVICE, "00", allow_insecure_dir=False)
    lock = WriterLock(directory)
    try:
        return LogCopier(source, directory).copy()
    finally:
        lock.close()
        directory.close()


class Killed(BaseException):
    """Ends a backup where it is."""


class KillAt:
    """Stands in for `disk.rename`; the call with this number, and all after it, end the process in effect."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.real = disk.rename

    def __call__(  # noqa: D102 - it is a stand-in
        self, source: str, target: str, *, dir_fd: int | None, target_dir_fd: int | None = None
    ) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed
        self.real(source, target, dir_fd=dir_fd, target_dir_fd=target_dir_fd)


def test_a_backup_that_is_killed_half_way_leaves_a_valid_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment the copy is a valid trail of an earlier moment, and the next backup completes it."""
    with memory_directory() as place:
        log = RunningLog(place / "live", 3)
        back_up(log.directory, place / "backup")
        left = 0
        for number in range(60):
            for _ in range(3):
                log.step()
            kill = KillAt(number)
            with monkeypatch.context() as patch:
                patch.setattr(disk, "rename", kill)
                try:
                    back_up(log.directory, place / "backup")
                except Killed:
                    left += 1
            shutil.copytree(place / "backup", place / "look")
            assert log.chain.holds(opened(place / "look"))
            checked(place / "look")
            shutil.rmtree(place / "look")
        assert left > 5
        log.store.close()


def test_a_backup_names_a_segment_that_was_changed(tmp_path: Path) -> None:
    """A sealed segment that is not what was sealed is copied as it is, as evidence, and named."""
    log = RunningLog(tmp_path / "live", 1)
    entry = next(entry for entry in log.store.sealed_segments if entry.state == "live")
    path = log.directory / entry.segment
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:100] + b"X" + content[101:])
    copied = back_up(log.directory, tmp_path / "backup")
    assert copied.damaged == (entry.segment,)
    assert (log_path(tmp_path / "backup") / entry.segment).read_bytes() == path.read_bytes()
    log.store.close()


def test_retention_waits_for_a_backup(tmp_path: Path) -> None:
    """While a backup is being taken nothing is archived or deleted, and nothing is recorded of it."""
    log = RunningLog(tmp_path / "live", 1)
    first = next(entry for entry in log.store.sealed_segments if entry.state == "live")
    archive = compress_segment(log.directory, first)
    fd = os.open(log.directory, os.O_RDONLY)
    with holding_back_retention(log.directory, fd) as held:
        assert held
        with pytest.raises(BackupRunning, match="backup"):
            log.store.archive_segments([archive])
        with pytest.raises(BackupRunning, match="backup"):
            log.store.delete_segments([first.segment])
        with pytest.raises(BackupRunning, match="backup"):
            log.store.refuse_during_backup()
    os.close(fd)
    log.store.archive_segments([archive])
    assert next(e for e in read_manifest(log.directory) if e.segment == first.segment).state == "archived"
    log.store.close()


def test_a_backup_says_what_keeps_it_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped in the middle of a step of retention is named by its lock, not by an error number."""
    log = RunningLog(tmp_path / "live", 1)
    monkeypatch.setattr(backup_lock, "_WAIT_S", 0.01)
    fd = os.open(log.directory / "backup.lock", os.O_RDONLY)
    disk.lock(fd)
    with pytest.raises(RetentionTakesLong, match=r"has held .*/backup\.lock for 0\.01 s.* take the backup again"):
        back_up(log.directory, tmp_path / "backup")
    os.close(fd)
    back_up(log.directory, tmp_path / "backup")
    log.store.close()


def test_a_child_that_is_forked_meanwhile_holds_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a copy of the descriptor all its life, and keeps neither backups nor retention from beginning."""
    log = RunningLog(tmp_path / "live", 1)
    monkeypatch.setattr(backup_lock, "_WAIT_S", 0.01)
    lock, copies = disk.lock, []

    def forked(fd: int, *, shared: bool = False) -> None:
        lock(fd, shared=shared)
        copies.append(os.dup(fd))  # what a fork leaves in the child

    monkeypatch.setattr(disk, "lock", forked)
    log.store.refuse_during_backup()
    back_up(log.directory, tmp_path / "backup")
    log.store.refuse_during_backup()
    assert len(copies) >= 3
    for fd in copies:
        os.close(fd)
    log.store.close()


def test_a_copy_without_its_newest_live_segment_is_rebuilt_from_the_archive(tmp_path: Path) -> None:
    """If only the archive has the last segment that was copied, it becomes the active one again."""
    chain = Chain()
    store = open_store(tmp_path / "live", max_bytes=MAX_BYTES)
    for _ in range(8):
        store.commit(chain.batch(2), sync=True)
    for entry in store.sealed_segments:
        store.archive_segments([compress_segment(store.directory, entry)])
    store.close()
    copied = log_path(tmp_path / "copy")
    shutil.copytree(store.directory, copied)
    for path in copied.glob("*.audit"):
        path.unlink()
    with pytest.raises(LogCorrupted, match="restore --from-copy"):
        opened(tmp_path / "copy")
    rebuilt(tmp_path / "copy")
    head = opened(tmp_path / "copy")
    assert head.seq == store.sealed_segments[-1].last_seq
    checked(tmp_path / "copy")


def test_a_damaged_segment_at_the_end_is_set_aside(tmp_path: Path) -> None:
    """The segment before it is written on, so nothing after that may be left in the manifest."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=MAX_BYTES)
    for _ in range(8):
        store.commit(chain.batch(2), sync=True)
    store.close()
    log = log_path(tmp_path)
    manifest = read_manifest_file(log)
    assert manifest is not None
    *rest, last = manifest.segments
    damaged = msgspec.structs.replace(last, state="damaged")
    (log / "manifest.json").write_bytes(msgspec.structs.replace(manifest, segments=(*rest, damaged)).encode())
    (active,) = set(log.glob("*.audit")) - {log / entry.segment for entry in manifest.segments}
    active.unlink()
    (log / last.segment).chmod(0o600)
    (log / last.segment).write_bytes(b"damaged\n")
    assert any(last.segment in name for name in rebuilt(tmp_path))
    assert opened(tmp_path).seq == last.first_seq - 1


def test_tampering_is_no_gap(tmp_path: Path) -> None:
    """A changed record in the middle of a copy is neither a crash nor a copy's fault: rebuilding refuses it."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=MAX_BYTES)
    for _ in range(8):
        store.commit(chain.batch(2), sync=True)
    store.close()
    path = log_path(tmp_path) / store.sealed_segments[1].segment
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:200] + b"X" + content[201:])
    before = {name: (log_path(tmp_path) / name).read_bytes() for name in files_below(log_path(tmp_path))}
    with pytest.raises(LogCorrupted, match=path.name):
        rebuilt(tmp_path)
    after = {name: (log_path(tmp_path) / name).read_bytes() for name in files_below(log_path(tmp_path))}
    assert after == before


@pytest.mark.anyio
async def test_a_logger_says_that_a_backup_is_being_taken(config_for: ConfigFor) -> None:
    """While a backup is being taken, `apply_retention` refuses, records nothing, and works afterwards."""
    settings = config_for(
        instance="00",
        rotation=RotationPolicy(max_bytes=2000),
        retention=RetentionPolicy(archive_after_days=0, automatic=False),
    )
    async with AuditLogger(settings) as audit:
        for n in range(20):
            await audit.emit_durable(Counted(producer="p", n=n))
        assert audit.directory is not None
        fd = os.open(audit.directory, os.O_RDONLY)
        with holding_back_retention(audit.directory, fd):
            with pytest.raises(RetentionRefused, match="backup"):
                await audit.apply_retention()
            assert (await audit.apply_retention(dry_run=True)).steps
        os.close(fd)
        report = await audit.apply_retention()
        assert report.steps
        assert report.ok
        recorded = [event["event"]["event_type"] for event in read_events(audit.directory)]
    assert recorded.count("audit.segment_archived") == len(report.steps)
