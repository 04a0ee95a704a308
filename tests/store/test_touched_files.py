"""Somebody removes, replaces or changes files of an open log: it goes on, saves what can be saved, and says so."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit_async._durable import disk
from audit_async._layout.hold_file import read_hold
from audit_async._layout.manifest import read_manifest
from audit_async._store.legal_hold import place_hold
from audit_async._store.log_directory import LogDirectory
from audit_async._store.log_store import LogStore
from audit_async.errors import LogLocked
from tests.store.chained import Chain, log_path, open_store, segments, stored_lines


@pytest.fixture
def chain() -> Chain:
    """The chain of the log under test."""
    return Chain()


@pytest.fixture
def store(tmp_path: Path, chain: Chain) -> LogStore:
    """A log with five acknowledged records in its only segment."""
    store = open_store(tmp_path)
    store.commit(chain.batch(5), sync=True)
    return store


def active(base_dir: Path) -> Path:
    """Return the path of the last segment."""
    return log_path(base_dir) / segments(base_dir)[-1]


def test_a_segment_that_was_unlinked_is_saved(tmp_path: Path, chain: Chain, store: LogStore) -> None:
    """Everything in an unlinked segment, acknowledged or only written, comes back under the same name."""
    store.commit(chain.batch(2), sync=False)
    name = active(tmp_path).name
    active(tmp_path).unlink()
    committed = store.commit(chain.batch(3), sync=True)
    assert committed.synced == chain.head
    expected = sum(map(len, chain.lines[:7]))
    assert committed.damaged == ((name, "removed", expected, 0),)
    assert segments(tmp_path) == [name]
    assert store.commit(chain.batch(), sync=True).damaged == ()
    store.close()
    assert stored_lines(tmp_path) == chain.lines


def test_a_segment_that_was_replaced_is_saved_and_the_other_kept(tmp_path: Path, chain: Chain, store: LogStore) -> None:
    """A file that somebody put in the segment's place goes to torn/, and the segment comes back."""
    path = active(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(b"not what was written")
    other.rename(path)
    committed = store.commit(chain.batch(3), sync=True)
    assert committed.damaged == ((path.name, "replaced", sum(map(len, chain.lines[:5])), 20),)
    assert [p.read_bytes() for p in (log_path(tmp_path) / "torn").iterdir()] == [b"not what was written"]
    store.close()
    assert stored_lines(tmp_path) == chain.lines


def test_a_segment_that_was_replaced_by_its_own_copy_is_saved_too(
    tmp_path: Path, chain: Chain, store: LogStore
) -> None:
    """Another file with the same bytes is not the one that is written: later records would be in no file of the log."""
    path = active(tmp_path)
    copy = tmp_path / "copy"
    shutil.copy2(path, copy)
    copy.rename(path)
    committed = store.commit(chain.batch(3), sync=True)
    assert [damaged.reason for damaged in committed.damaged] == ["replaced"]
    assert stored_lines(tmp_path) == chain.lines
    assert store.commit(chain.batch(3), sync=True).damaged == ()
    segment = store._active
    assert segment is not None
    assert segment.inode == (path.stat().st_dev, path.stat().st_ino)
    store.close()
    assert stored_lines(tmp_path) == chain.lines


def test_a_removed_directory_is_made_again(tmp_path: Path, chain: Chain, store: LogStore) -> None:
    """After `rm -r` of the log, what the open segment held is there again, locked, and the log opens again."""
    shutil.rmtree(tmp_path / "orders")
    committed = store.commit(chain.batch(3), sync=True)
    assert committed.synced == chain.head
    assert [d.reason for d in committed.damaged] == ["removed"]
    with pytest.raises(LogLocked):
        open_store(tmp_path)
    assert stored_lines(tmp_path) == chain.lines
    log_id = store.log_id
    store.close()
    store = open_store(tmp_path)
    assert (store.head, store.log_id) == (chain.head, log_id)
    store.close()


@pytest.mark.parametrize("seen", ["set", "asked for", "opened with"])
def test_a_hold_outlives_the_removal_of_the_directory(tmp_path: Path, chain: Chain, store: LogStore, seen: str) -> None:
    """Removing the log's directory lifts no hold: it is back, for what is recorded from then on, until it is lifted."""
    now = datetime(2026, 11, 22, tzinfo=UTC)
    if seen == "set":
        hold = store.set_hold(reason="case 4711", set_by="legal", now=now)
    else:
        hold = place_hold(store.directory, reason="case 4711", set_by="legal", now=now)
        if seen == "asked for":
            assert store.hold == hold
        else:
            store.close()
            store = open_store(tmp_path)
    shutil.rmtree(log_path(tmp_path))
    store.commit(chain.batch(), sync=True)
    assert store.hold == read_hold(log_path(tmp_path)) == hold
    store.lift_holds(store.holds, now)
    shutil.rmtree(log_path(tmp_path))
    store.commit(chain.batch(), sync=True)
    assert store.hold is None
    store.close()


def test_a_directory_that_was_moved_away_is_made_again(tmp_path: Path, chain: Chain, store: LogStore) -> None:
    """A log whose directory was renamed goes on at its own path, where its readers look for it."""
    (tmp_path / "orders").rename(tmp_path / "moved")
    committed = store.commit(chain.batch(3), sync=True)
    assert committed.synced == chain.head
    store.close()
    assert stored_lines(tmp_path) == chain.lines


def test_sealed_segments_that_are_gone_with_their_directory_are_reported(tmp_path: Path, chain: Chain) -> None:
    """What nobody can bring back is named and marked `lost`; the rest opens, and verifying goes on finding the gap."""
    store = open_store(tmp_path, max_bytes=1500)
    sealed = [s.segment for _ in range(6) for s in store.commit(chain.batch(2), sync=True).sealed]
    assert len(sealed) >= 2
    shutil.rmtree(log_path(tmp_path))
    committed = store.commit(chain.batch(), sync=True)
    assert {d.segment for d in committed.damaged} >= set(sealed)
    store.close()
    assert [entry.state for entry in read_manifest(log_path(tmp_path))][: len(sealed)] == ["lost"] * len(sealed)
    first = read_manifest(log_path(tmp_path))[len(sealed) - 1].last_seq + 1
    assert b"".join(p.read_bytes() for p in sorted(log_path(tmp_path).glob("*.audit"))) == b"".join(chain.lines[first:])
    with pytest.raises(AssertionError):
        stored_lines(tmp_path)
    store = open_store(tmp_path)
    assert store.head == chain.head
    store.close()


@pytest.mark.parametrize("keep", [0, 100, 700, -1])
def test_a_segment_that_was_cut_is_left_and_reported(tmp_path: Path, chain: Chain, store: LogStore, keep: int) -> None:
    """What is not acknowledged goes on in a new segment; the loss is reported; the log opens again afterwards."""
    store.commit(chain.batch(2), sync=False)
    path = active(tmp_path)
    size = path.stat().st_size
    os.truncate(path, keep % size)
    committed = store.commit(chain.batch(3), sync=True)
    assert committed.synced == chain.head
    assert committed.damaged == ((path.name, "truncated", size, keep % size),)
    store.commit(chain.batch(), sync=True)
    store.close()
    assert active(tmp_path).read_bytes() == b"".join(chain.lines[5:])
    assert [entry.state for entry in read_manifest(log_path(tmp_path))] == ["damaged"]
    store = open_store(tmp_path)
    assert store.head == chain.head
    store.close()


def test_a_segment_that_somebody_wrote_to_is_left_as_evidence(tmp_path: Path, chain: Chain, store: LogStore) -> None:
    """Foreign bytes stay where they are; the chain goes on in a new segment, and it is reported."""
    path = active(tmp_path)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"forged\n")
    committed = store.commit(chain.batch(3), sync=True)
    assert committed.damaged == ((path.name, "grown", size, size + 7),)
    store.close()
    assert path.read_bytes().endswith(b"forged\n")
    assert active(tmp_path).read_bytes() == b"".join(chain.lines[5:])
    store = open_store(tmp_path)
    assert store.head == chain.head
    store.close()


def test_a_file_in_the_way_of_the_next_segment_is_put_aside(tmp_path: Path, chain: Chain) -> None:
    """A file that has the name of the next segment goes to torn/ and is reported; nothing is written into it."""
    store = open_store(tmp_path)
    name = "000000000000-2026-11-22.audit"
    (log_path(tmp_path) / name).write_bytes(b"in the way")
    committed = store.commit(chain.batch(2), sync=True)
    assert [(d.segment, d.actual_bytes) for d in committed.damaged] == [(name, 10)]
    assert [p.read_bytes() for p in (log_path(tmp_path) / "torn").iterdir()] == [b"in the way"]
    store.close()
    assert stored_lines(tmp_path) == chain.lines


def move_away(path: Path) -> None:
    """Give a file another name in its directory."""
    path.rename(path.with_name("elsewhere"))


@pytest.mark.parametrize("lose", [Path.unlink, move_away])
def test_a_lost_lock_file_is_made_and_locked_again(
    tmp_path: Path, chain: Chain, store: LogStore, lose: Callable[[Path], None]
) -> None:
    """Without its lock file the log locks itself again, before another writer could come in unnoticed."""
    lose(log_path(tmp_path) / "lock")
    store.commit(chain.batch(), sync=True)
    with pytest.raises(LogLocked):
        open_store(tmp_path)
    store.close()
    assert stored_lines(tmp_path) == chain.lines


@pytest.mark.parametrize("lose", [Path.unlink, move_away])
def test_a_log_that_another_writer_has_taken_is_not_written(
    tmp_path: Path, chain: Chain, store: LogStore, lose: Callable[[Path], None]
) -> None:
    """If another writer locked the log while its lock file was gone, this one writes nothing more."""
    lose(log_path(tmp_path) / "lock")
    other = open_store(tmp_path)
    before = active(tmp_path).read_bytes()
    with pytest.raises(LogLocked):
        store.commit(chain.batch(), sync=True)
    assert active(tmp_path).read_bytes() == before
    store.close()
    other.close()


@pytest.mark.parametrize("link", [False, True])
def test_a_finished_segment_that_is_gone_before_it_is_sealed_is_reported(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    """A segment that was removed, or replaced by a link, between its last record and its seal is marked `lost`."""
    store = open_store(tmp_path, max_bytes=1500)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "rename", no_space)
        committed = [store.commit(chain.batch(2), sync=True) for _ in range(2)]
        assert committed[-1].sealing_error is not None
    first = log_path(tmp_path) / segments(tmp_path)[0]
    first.unlink()
    if link:
        first.symlink_to(tmp_path)
    committed = [store.commit(chain.batch(2), sync=True) for _ in range(8)]
    (damaged,) = [damaged for c in committed for damaged in c.damaged]
    assert (damaged.segment, damaged.reason) == (first.name, "removed")
    assert read_manifest(log_path(tmp_path))[0].state == "lost"
    assert committed[-1].synced == chain.head
    store.close()
    open_store(tmp_path).close()


def no_space(*_: object, **__: object) -> None:
    """Refuse as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_descriptor_is_closed_twice(
    tmp_path: Path, chain: Chain, store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If saving a segment fails in the middle, each descriptor is closed once: its number may be in use again."""
    path = active(tmp_path)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(content[:10].replace(b"0", b"7"))
    path.unlink()
    closed: list[int] = []
    close, unlink = disk.close, disk.unlink

    def remember(fd: int) -> None:
        os.fstat(fd)  # fails if it is not open
        closed.append(fd)
        close(fd)

    def refuse(name: str, *, dir_fd: int) -> None:
        if name.endswith(".unfinished") and name in os.listdir(dir_fd):
            raise OSError(errno.EIO, name)
        unlink(name, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "close", remember)
        patch.setattr(disk, "unlink", refuse)
        committed = store.commit(chain.batch(), sync=True)
    assert len(closed) >= 2, "the segment's, and that of the copy"
    assert [damaged.reason for damaged in committed.damaged] == ["removed, and its content changed"]
    assert committed.synced == chain.head
    store.close()


def test_a_directory_that_is_closed_again_closes_no_other_file(tmp_path: Path) -> None:
    """As in a child that is forked while its parent closes a log; the descriptor's number is another file's by then."""
    directory = LogDirectory(tmp_path, "orders", "00", allow_insecure_dir=False)
    number = directory.fd
    directory.close()
    others = [os.open(tmp_path, os.O_RDONLY)]
    while others[-1] < number:
        others.append(os.open(tmp_path, os.O_RDONLY))
    directory.close()
    for other in others:
        os.close(other)
