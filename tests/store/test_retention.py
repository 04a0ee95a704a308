"""Retention: what is old is compressed and in the end deleted, nothing before its time, and the rest still verifies."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from audit_async._chain import START, Head, check_record
from audit_async._durable import disk
from audit_async._layout.age_files import Identities
from audit_async._layout.archive_reading import open_segment_for_reading
from audit_async._layout.hold_file import read_hold
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._store.archiving import Archive, Stopped, compress_segment
from audit_async._store.log_store import LogStore
from audit_async._store.retention_plan import plan_retention
from audit_async.config import RetentionPolicy
from audit_async.errors import LogCorrupted, RetentionRefused
from audit_async.events.base import AuditEvent, encode
from audit_async.events.lifecycle import AuditSegmentArchived, AuditSegmentDeleted
from tests.campaign import sampled
from tests.open_files import open_files_below
from tests.store.chained import DAY_NS, Chain, log_path, memory_directory, open_store, segments, stored_lines
from tests.store.power_cut import Recorder
from tests.store.test_power_cut import check_all_crash_points

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

POLICY = RetentionPolicy(min_retention_days=200, archive_after_days=90, delete_after_days=365)


def at(chain: Chain) -> datetime:
    """Return the chain's present."""
    return datetime.fromtimestamp(chain.now_ns / 1e9, UTC)


def write_days(store: LogStore, chain: Chain, days: int) -> None:
    """Write two records a day."""
    for _ in range(days):
        store.commit(chain.batch(2, step_ns=DAY_NS // 2), sync=True)


def apply(store: LogStore, policy: RetentionPolicy, now: datetime, chain: Chain | None = None) -> list[tuple[str, str]]:
    """Do what is due, as the logger does it; with a chain each step is recorded first, which it does, too."""
    done: list[tuple[str, str]] = []
    for step in store.plan_retention(policy, now):
        if step.action == "archive":
            archive = compress_segment(store.directory, step.segment)
            record(store, chain, archived(archive))
            store.archive_segments([archive])
        else:
            record(store, chain, deleted(step.segment))
            store.delete_segments([step.segment.segment])
        done.append((step.action, step.segment.segment))
    return done


def record(store: LogStore, chain: Chain | None, event: AuditEvent) -> None:
    """Put an event into the chain, if there is one."""
    if chain is not None:
        store.commit(chain.batch_of([encode(event)]), sync=True)


def archived(archive: Archive) -> AuditSegmentArchived:
    """Return what the chain says of an archive."""
    return AuditSegmentArchived(
        segment=archive.segment, archive=archive.file, sha256=archive.sha256, archive_sha256=archive.archive_sha256
    )


def deleted(entry: SealedSegment) -> AuditSegmentDeleted:
    """Return what the chain says of a deletion."""
    return AuditSegmentDeleted(
        segment=entry.segment,
        first_seq=entry.first_seq,
        last_seq=entry.last_seq,
        sha256=entry.sha256,
        hash=entry.hash,
        reason="its time is over",
    )


def read_all(log: Path, identities: Identities | None = None) -> tuple[list[bytes], Head]:
    """Read and verify a log through its manifest: every record that is left, and the head."""
    lines: list[bytes] = []
    head = START
    for entry in read_manifest(log):
        assert (entry.first_seq, entry.prev_hash.encode()) == (head.seq + 1, head.hash)
        if entry.state not in {"deleted", "lost"}:
            with open_segment_for_reading(log, entry, identities) as file:
                content = file.readlines()
            assert hashlib.sha256(b"".join(content)).hexdigest() == entry.sha256
            for line in content:
                head = check_record(line, head).head
            lines += content
        assert head == entry.head or entry.state in {"deleted", "lost"}
        head = entry.head
    for line in (log / segments(log.parent.parent)[-1]).read_bytes().splitlines(keepends=True):
        head = check_record(line, head).head
        lines.append(line)
    return lines, head


def test_four_hundred_days(in_memory: Path) -> None:
    """After 400 days what is past 365 is deleted, what is past 90 compressed, and every record left verifies."""
    chain = Chain()
    store = open_store(in_memory)
    write_days(store, chain, 400)
    log = log_path(in_memory)
    now = at(chain)
    before = sorted(path.name for path in log.iterdir())
    planned = store.plan_retention(POLICY, now)
    assert sorted(path.name for path in log.iterdir()) == before, "planning is a dry run"
    assert apply(store, POLICY, now, chain) == [(step.action, step.segment.segment) for step in planned]
    for entry in read_manifest(log):
        age = now - datetime.fromisoformat(entry.last_timestamp)
        expected = "deleted" if age.days >= 365 else "archived" if age.days >= 90 else "live"
        assert entry.state == expected
        assert (log / entry.segment).exists() == (expected == "live")
        assert (log / f"{entry.segment}.sha256").exists() == (expected == "live")
        archive = log / "archive" / f"{entry.segment}.zst"
        assert archive.exists() == (expected == "archived")
        if expected == "archived":
            assert stat.S_IMODE(archive.stat().st_mode) == 0o400
    assert [step.action for step in planned].count("delete") >= 30
    assert [step.action for step in planned].count("archive") >= 200
    first = next(e for e in read_manifest(log) if e.state != "deleted").first_seq
    assert read_all(log) == (chain.lines[first:], chain.head)
    assert store.plan_retention(POLICY, now) == []
    store.commit(chain.batch(), sync=True)
    store.close()
    store = open_store(in_memory)
    assert store.head == chain.head
    store.close()
    assert read_all(log) == (chain.lines[first:], chain.head)
    live = next(e for e in read_manifest(log) if e.state == "live").first_seq
    assert stored_lines(in_memory) == chain.lines[live:], "the independent check joins what is gone by the manifest"


def test_an_archive_is_an_ordinary_zstd_file(tmp_path: Path) -> None:
    """Anybody can decompress an archive without this library, and its checksum is part of the file."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    entry = store.sealed_segments[0]
    archive = compress_segment(store.directory, entry)
    path = log_path(tmp_path) / archive.file
    assert (log_path(tmp_path) / entry.segment).exists(), "compressing removes nothing"
    content = path.read_bytes()
    assert (archive.archive_sha256, archive.archive_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert zstd.decompress(content) == (log_path(tmp_path) / entry.segment).read_bytes()
    assert content[4] & 0b100, "RFC 8878: the frame's descriptor says that a content checksum follows"
    if shutil.which("zstd"):
        subprocess.run(["zstd", "-t", str(path)], check=True, capture_output=True)
    assert compress_segment(store.directory, entry) == archive, "doing it again finds it done"
    store.close()


def test_nothing_is_deleted_before_the_minimum(tmp_path: Path) -> None:
    """A segment is due by its last record, to the second; `min_retention_days` holds whatever else is set."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    entry = store.sealed_segments[0]
    last = datetime.fromisoformat(entry.last_timestamp)
    policy = RetentionPolicy(min_retention_days=10, archive_after_days=5, delete_after_days=10)

    def due(after: timedelta) -> list[str]:
        return [step.action for step in plan_retention([entry], policy, last + after, None)]

    second = timedelta(seconds=1)
    assert due(timedelta(days=5) - second) == []
    assert due(timedelta(days=5)) == ["archive"]
    assert due(timedelta(days=10) - second) == ["archive"]
    assert due(timedelta(days=10)) == ["delete"]
    assert due(timedelta(days=-1)) == []
    store.close()


def entry(first_seq: int, last: str, state: str = "live") -> SealedSegment:
    """Return a manifest entry of ten records."""
    return SealedSegment(
        segment=f"{first_seq:012d}-{last}.audit",
        state=state,  # type: ignore[arg-type]  # each test names a state that exists
        first_seq=first_seq,
        last_seq=first_seq + 9,
        first_timestamp=f"{last}T00:00:00.000000Z",
        last_timestamp=f"{last}T12:00:00.000000Z",
        records=10,
        bytes=4000,
        sha256="0" * 64,
        prev_hash="0" * 64,
        hash="0" * 64,
    )


def test_deletion_never_leaves_a_hole() -> None:
    """A segment that has to stay keeps everything behind it: what remains is one unbroken piece of the chain."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    kept = entry(10, "2029-12-01")  # its clock was right, its neighbours' was not
    plan = plan_retention([entry(0, "2027-01-01"), kept, entry(20, "2027-01-02")], POLICY, now, None)
    assert [(step.action, step.segment.first_seq) for step in plan] == [("delete", 0), ("archive", 20)]


def test_a_clock_that_was_set_back_makes_nothing_old() -> None:
    """Records of a clock that stood at 2000 for a while don't let yesterday's segment, nor their own, be deleted."""
    now = datetime(2030, 1, 2, tzinfo=UTC)
    yesterday = msgspec.structs.replace(entry(0, "2030-01-01"), last_timestamp="2000-01-01T00:00:30.000000Z")
    assert plan_retention([yesterday], POLICY, now, None) == []
    behind = [entry(0, "2029-08-01", "archived"), entry(10, "2000-01-01", "archived")]
    assert plan_retention(behind, POLICY, now, None) == [], "it was written after the one before it"
    plan = plan_retention(behind, POLICY, now + timedelta(days=300), None)
    assert [(step.action, step.age_days) for step in plan] == [("delete", 453), ("delete", 453)]


def test_damaged_segments_are_kept_as_they_are_until_deletion() -> None:
    """A damaged segment is evidence and is not compressed; what is gone already is not planned again."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    old, recent = "2027-01-01", "2029-07-01"
    states = [entry(0, old, "deleted"), entry(10, old, "lost"), entry(20, old, "archived"), entry(30, old, "damaged"),
              entry(40, recent, "damaged"), entry(50, recent, "archived"), entry(60, recent)]  # fmt: skip
    plan = plan_retention(states, POLICY, now, None)
    assert [(step.action, step.segment.first_seq) for step in plan] == [("delete", 20), ("delete", 30), ("archive", 60)]


def test_a_hold_stops_everything(tmp_path: Path) -> None:
    """While a hold is in force nothing is planned, archived or deleted, also after a restart, until it is lifted."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 400)
    now = at(chain)
    first = store.sealed_segments[0]
    archive = compress_segment(store.directory, first)
    hold = store.set_hold(reason="case 4711", set_by="legal", now=now)
    assert read_hold(log_path(tmp_path)) == store.hold == hold
    assert store.set_hold(reason="another", set_by="other", now=now) == hold, "a hold in force is not overwritten"
    store.close()
    store = open_store(tmp_path)
    assert store.hold == hold
    assert store.plan_retention(POLICY, now) == []
    with pytest.raises(RetentionRefused, match="legal hold"):
        store.archive_segments([archive])
    with pytest.raises(RetentionRefused, match="legal hold"):
        store.delete_segments([first.segment])
    assert (log_path(tmp_path) / first.segment).exists()
    store.lift_holds(store.holds, at(chain))
    store.lift_holds(store.holds, at(chain))
    assert store.hold is None
    assert store.plan_retention(POLICY, now) != []
    store.archive_segments([archive])
    store.close()


@pytest.mark.parametrize("hold", ["of the library", "unreadable"])
def test_a_hold_keeps_also_what_a_crash_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: str) -> None:
    """A deletion that a crash cut short is not finished while there is a hold, or what may be one; afterwards it is."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    first = log_path(tmp_path) / store.sealed_segments[0].segment

    def crash(name: str, *, dir_fd: int) -> None:
        raise OSError(errno.EIO, name)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "unlink", lambda name, *, dir_fd: os.unlink(name, dir_fd=dir_fd) if "unfin" in name
                      else crash(name, dir_fd=dir_fd))  # fmt: skip
        with pytest.raises(OSError, match=first.name):
            store.delete_segments([first.name])
    if hold == "unreadable":
        (log_path(tmp_path) / "hold.json").write_bytes(b"{")
    else:
        store.set_hold(reason="case 4711", set_by="legal", now=at(chain))
    store.finish_retention()
    store.close()
    store = open_store(tmp_path)
    assert first.exists(), "neither the daily run nor the next opening removes it"
    store.lift_holds(store.holds, at(chain))
    store.finish_retention()
    assert not first.exists()
    store.close()


def test_a_directory_in_a_holds_place_is_no_permission(tmp_path: Path) -> None:
    """A hold.json that is no file stops retention each time it is asked, and costs no descriptor."""
    (tmp_path / "hold.json").mkdir()
    for _ in range(3):
        with pytest.raises(LogCorrupted, match="not a regular file"):
            read_hold(tmp_path)
    assert open_files_below(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"reason":"x","set_by":"y","since":"z","more":1}', b"\xff"])
def test_a_hold_that_nobody_can_read_is_no_permission(tmp_path: Path, content: bytes) -> None:
    """A hold.json that is not what the library writes stops retention with an error that names it."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    (log_path(tmp_path) / "hold.json").write_bytes(content)
    with pytest.raises(LogCorrupted, match=r"hold\.json"):
        store.plan_retention(POLICY, at(chain))
    with pytest.raises(LogCorrupted, match=r"hold\.json"):
        store.delete_segments([store.sealed_segments[0].segment])
    store.close()


def test_a_segment_that_was_changed_is_not_archived(tmp_path: Path) -> None:
    """A live file that is not what was sealed is found when it is compressed, and stays."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    first = store.sealed_segments[0]
    path = log_path(tmp_path) / first.segment
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"xxx", b"xyx", 1))
    with pytest.raises(LogCorrupted, match="SHA-256 differs"):
        compress_segment(store.directory, first)
    assert path.exists()
    assert list((log_path(tmp_path) / "archive").iterdir()) == [], "no half of an archive is left behind"
    store.close()


def test_compressing_can_be_stopped(tmp_path: Path) -> None:
    """Compressing ends when it is told to, and leaves nothing behind."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    with pytest.raises(Stopped):
        compress_segment(store.directory, store.sealed_segments[0], lambda: True)
    assert list((log_path(tmp_path) / "archive").iterdir()) == []
    store.close()


@pytest.mark.parametrize("flip", [0, 40, -6, -1])
def test_a_live_segment_goes_only_when_its_archive_is_good(tmp_path: Path, flip: int) -> None:
    """An archive that was damaged after it was made is found before the live file is removed."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    first = store.sealed_segments[0]
    archive = compress_segment(store.directory, first)
    path = log_path(tmp_path) / archive.file
    content = bytearray(path.read_bytes())
    content[flip] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(LogCorrupted, match="archive/"):
        store.archive_segments([archive])
    with pytest.raises(LogCorrupted, match="archive/"):
        compress_segment(store.directory, first)
    path.unlink()
    with pytest.raises(LogCorrupted, match="archive/"):
        store.archive_segments([archive])
    assert (log_path(tmp_path) / first.segment).exists()
    assert read_manifest(log_path(tmp_path))[0].state == "live"
    store.close()


def test_a_missing_archive_is_found_at_opening(tmp_path: Path) -> None:
    """An archived segment whose file somebody removed is damage: opening refuses and names it."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    first = store.sealed_segments[0]
    archive = compress_segment(store.directory, first)
    store.archive_segments([archive])
    store.close()
    (log_path(tmp_path) / archive.file).unlink()
    with pytest.raises(LogCorrupted) as caught:
        open_store(tmp_path)
    assert caught.value.segment == archive.file


def test_steps_may_be_repeated_and_only_forward(tmp_path: Path) -> None:
    """Archiving or deleting twice does nothing more; there is no way back, and no way around."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 4)
    first = store.sealed_segments[0]
    archive = compress_segment(store.directory, first)
    store.archive_segments([archive])
    store.archive_segments([archive])
    archived = store.sealed_segments[0]
    with pytest.raises(RetentionRefused, match="archived"):
        compress_segment(store.directory, archived)
    store.delete_segments([first.segment])
    store.delete_segments([first.segment])
    with pytest.raises(RetentionRefused, match="is deleted"):
        store.archive_segments([archive])
    with pytest.raises(RetentionRefused, match="no sealed segment"):
        store.delete_segments([segments(tmp_path)[-1]])
    with pytest.raises(FileNotFoundError, match="deleted"):
        open_segment_for_reading(log_path(tmp_path), store.sealed_segments[0])
    with open_segment_for_reading(log_path(tmp_path), store.sealed_segments[1]) as file:
        assert file.readline() == chain.lines[store.sealed_segments[1].first_seq]
    store.close()
    assert json.loads((log_path(tmp_path) / "manifest.json").read_bytes())["segments"][0]["hash"] == first.hash


def test_a_reader_follows_a_segment_into_the_archive(tmp_path: Path) -> None:
    """A reader whose manifest is a moment old still gets the segment that was archived meanwhile."""
    chain = Chain()
    store = open_store(tmp_path)
    write_days(store, chain, 3)
    seen = read_manifest(log_path(tmp_path))[0]
    store.archive_segments([compress_segment(store.directory, seen)])
    with open_segment_for_reading(log_path(tmp_path), seen) as file:
        assert file.read() == b"".join(chain.lines[: seen.records])
    store.close()


@sampled(3)
def test_every_crash_point_of_retention(every: int) -> None:
    """Whatever a power cut leaves while segments are compressed, archived and deleted, opening finishes it."""
    chain = Chain()
    with memory_directory() as base_dir, pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(base_dir)
        recorder.install(patch)
        store = open_store(base_dir, max_bytes=1500)
        for _ in range(3):
            store.commit(chain.batch(3), sync=True)
        recorder.acknowledge(store.commit(chain.batch(), sync=True).synced)
        begin = len(recorder.calls)
        first, second = store.sealed_segments[:2]
        for segment in (first, second):
            store.archive_segments([compress_segment(store.directory, segment)])
        store.delete_segments([first.segment])
        store.close()

    def intact(base_dir: Path) -> list[bytes]:
        log = log_path(base_dir)
        lines, head = read_all(log)
        states = [entry.state for entry in read_manifest(log)]
        assert states[1] in {"live", "archived"}
        kept = 0 if states[0] != "deleted" else first.last_seq + 1
        assert lines[: len(chain.lines) - kept] == chain.lines[kept:]
        for entry in read_manifest(log):
            assert (log / entry.segment).exists() == (entry.state == "live")
        assert head.seq >= chain.head.seq
        return lines

    check_all_crash_points(recorder, chain, at_least=100, every=every, since=begin, intact=intact, all_of_it=False)


def test_each_call_of_retention_fails_in_turn(in_memory: Path) -> None:
    """A fault at any call: trying again finishes the step, and until the archive is good the live file is there."""
    names = ("make_directory", "create_file", "rename", "unlink", "write_at", "change_mode", "sync_data",
             "sync_directory", "open_directory", "open_file")  # fmt: skip
    failing = 0
    while True:
        failing += 1
        chain = Chain()
        base_dir = in_memory / str(failing)
        store = open_store(base_dir)
        write_days(store, chain, 3)
        first = store.sealed_segments[0]
        calls = [0]

        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(disk, name, failing_at(failing, calls, getattr(disk, name)))

            for step in (archive, delete):
                try:
                    step(store, first)
                except OSError:
                    read_all(log_path(base_dir))
                    step(store, first)
        assert read_manifest(log_path(base_dir))[0].state == "deleted"
        assert read_all(log_path(base_dir))[0] == chain.lines[first.last_seq + 1 :]
        store.close()
        if calls[0] < failing:
            break
    assert failing > 20


def archive(store: LogStore, segment: SealedSegment) -> None:
    """Take the first step of a segment's way."""
    store.archive_segments([compress_segment(store.directory, segment)])


def delete(store: LogStore, segment: SealedSegment) -> None:
    """Take the last step of a segment's way."""
    store.delete_segments([segment.segment])


def failing_at(number: int, calls: list[int], real: object) -> object:
    """Return `real`, but let the call of that number fail; `calls` counts those of all of them."""

    def call(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] == number:
            raise OSError(5, "Input/output error")
        return real(*args, **kwargs)  # type: ignore[operator]

    return call


def test_no_index_outlives_its_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends before any of the removals leaves something by which the next finds the rest of it."""
    unlink = disk.unlink
    for survived in range(12):
        base_dir = tmp_path / str(survived)
        store = open_store(base_dir)
        write_days(store, Chain(), 4)
        first, second, *_ = (entry.segment for entry in store.sealed_segments)
        store.archive_segments([compress_segment(store.directory, store.sealed_segments[1])])
        index = log_path(base_dir) / "index"
        index.mkdir()
        for segment in (first, second):
            (index / f"{segment}.index").write_bytes(b"terms")
        left = survived

        def die(name: str, *, dir_fd: int | None) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            unlink(name, dir_fd=dir_fd)

        with monkeypatch.context() as patch:
            patch.setattr(disk, "unlink", die)
            with suppress(KeyboardInterrupt):
                store.delete_segments([first, second])
        store.abandon()
        open_store(base_dir).close()
        assert [entry.state for entry in read_manifest(log_path(base_dir))][:2] in (
            ["deleted"] * 2,
            ["live", "archived"],
        )
        if read_manifest(log_path(base_dir))[0].state == "deleted":
            names = [path.name for path in log_path(base_dir).rglob("*") if first in path.name or second in path.name]
            assert names == [], survived
