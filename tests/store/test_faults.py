"""The disk refuses, for a moment or a while, at every call in turn: nothing acknowledged is lost, the log goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit_async._durable import disk
from audit_async._store.log_store import LogStore
from tests.open_files import open_files_below
from tests.store.chained import (
    DAY_NS,
    Chain,
    commit_until_it_works,
    log_path,
    memory_directory,
    open_store,
    stored_lines,
)

MAX_BYTES = 1500
CHANGING = ("make_directory", "create_file", "open_or_create_file", "rename", "unlink", "write_at",
            "write_and_sync_at", "truncate", "change_mode", "sync_data", "sync_directory")  # fmt: skip
OTHERS = ("open_directory", "open_file", "read_at")


class Faults:
    """Counts the store's calls, and makes those numbered `first` up to `last` fail."""

    def __init__(self, patch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
        self.calls: list[str] = []
        self.failed: list[str] = []
        self.first = self.last = 0
        self.error = errno.EIO
        for name in names:
            self._wrap(patch, name, getattr(disk, name))

    def _wrap(self, patch: pytest.MonkeyPatch, name: str, real: Callable[..., Any]) -> None:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if not self.first <= len(self.calls) <= self.last:
                return real(*args, **kwargs)
            self.failed.append(name)
            if name in {"write_at", "write_and_sync_at"}:  # as much as fits is written before the refusal
                fd, data, offset = args
                os.pwrite(fd, data[: len(data) // 2], offset)
            raise OSError(self.error, os.strerror(self.error))

        patch.setattr(disk, name, call)


def scenario(base_dir: Path, chain: Chain) -> None:
    """Open, write across rotations, close, open again, write on; whatever fails is tried again, as the writer does."""
    for counts in ((1, 3, 2, 4), (2, 3)):
        store = open_until_it_works(base_dir)
        assert store.head == chain.head, "what was acknowledged before is there"
        for count in counts:
            batch = chain.batch(count)
            (committed,) = commit_until_it_works(store, batch)
            assert (committed.synced, committed.damaged) == (chain.head, ())
            assert store.unsynced_bytes == 0
        store.close()


def open_until_it_works(base_dir: Path) -> LogStore:
    """Open, and try again for as long as the disk refuses."""
    for _ in range(200):
        try:
            return open_store(base_dir, max_bytes=MAX_BYTES)
        except OSError:
            continue
    raise AssertionError("the disk was mended, but opening goes on failing")


def count_calls(names: tuple[str, ...]) -> int:
    """Return how many of these calls the scenario makes on an honest disk."""
    with memory_directory() as base_dir, pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, names)
        scenario(base_dir, Chain())
    return len(faults.calls)


@pytest.mark.parametrize("lasting", [1, 2, 9])
@pytest.mark.parametrize("names", [CHANGING, OTHERS], ids=["changing", "reading"])
def test_each_call_fails_in_turn(names: tuple[str, ...], lasting: int) -> None:
    """Faults at every call of a scenario with rotations and a restart, once or for a while: all is there at the end."""
    calls = count_calls(names)
    assert calls > 20
    errors = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    for first in range(1, calls + 1):
        chain = Chain()
        with memory_directory() as base_dir:
            with pytest.MonkeyPatch.context() as patch:
                faults = Faults(patch, names)
                faults.first, faults.last, faults.error = first, first + lasting - 1, errors[first % len(errors)]
                try:
                    scenario(base_dir, chain)
                except BaseException as error:
                    error.add_note(f"calls {first} to {faults.last} failed: {faults.failed}")
                    raise
            assert faults.failed, "the fault has not happened"
            try:
                assert stored_lines(base_dir) == chain.lines
                store = open_store(base_dir, max_bytes=MAX_BYTES)
                assert store.head == chain.head
                assert store.sealed_segments
                store.close()
            except BaseException as error:
                error.add_note(f"after calls {first} to {faults.last} failed: {faults.failed}")
                raise
            assert open_files_below(base_dir) == [], f"after calls {first} to {faults.last} failed"


def test_a_file_whose_sync_failed_is_never_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fdatasync the same file is neither synced nor written again; the records go to a new segment."""
    chain = Chain()
    store = open_store(tmp_path)
    store.commit(chain.batch(2), sync=True)
    real_sync, real_write = disk.sync_data, disk.write_at
    touched: list[tuple[str, int]] = []
    failing = True

    def sync_data(fd: int) -> None:
        touched.append(("sync", os.fstat(fd).st_ino))
        if failing:
            raise OSError(errno.EIO, "Input/output error")
        real_sync(fd)

    def write_at(fd: int, data: bytes, offset: int) -> None:
        touched.append(("write", os.fstat(fd).st_ino))
        real_write(fd, data, offset)

    monkeypatch.setattr(disk, "sync_data", sync_data)
    monkeypatch.setattr(disk, "write_at", write_at)
    first = max(log_path(tmp_path).glob("*.audit"))
    store.commit(chain.batch(3), sync=False)
    with pytest.raises(OSError, match="Input/output"):
        store.commit(None, sync=True)
    assert touched[-1] == ("sync", first.stat().st_ino)
    assert first.read_bytes() == b"".join(chain.lines[:2]), "cut back to what was acknowledged"
    assert store.unsynced_bytes == sum(map(len, chain.lines[2:]))
    failing = False
    touched.clear()
    (committed,) = commit_until_it_works(store, None)
    assert committed.synced == chain.head
    assert [sealed.segment for sealed in committed.sealed] == [first.name]
    store.commit(chain.batch(2), sync=True)
    assert first.stat().st_ino not in {inode for _, inode in touched}
    store.close()
    second = max(log_path(tmp_path).glob("*.audit"))
    assert second.name.startswith(f"{2:012d}-")
    assert second.read_bytes() == b"".join(chain.lines[2:]), "byte for byte the same records"
    assert stored_lines(tmp_path) == chain.lines


def test_where_even_the_cut_fails_the_copies_are_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that could not be cut off are harmless: the trail verifies with them, and the next opening moves them."""
    chain = Chain()
    store = open_store(tmp_path)
    store.commit(chain.batch(2), sync=True)
    store.commit(chain.batch(3), sync=False)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_data", refuse)
        patch.setattr(disk, "truncate", refuse)
        with pytest.raises(OSError, match="Input/output"):
            store.commit(None, sync=True)
        patch.undo()
        patch.setattr(disk, "truncate", refuse)
        (committed,) = commit_until_it_works(store, None)
        assert committed.synced == chain.head
        assert committed.sealed == (), "it is sealed once it could be cut"
        store.close()
    first = min(log_path(tmp_path).glob("*.audit"))
    assert first.read_bytes() == b"".join(chain.lines)
    stored_lines(tmp_path)
    store = open_store(tmp_path)
    assert (store.head, [torn.reason for torn in store.recovered]) == (
        chain.head,
        ["copies of records in the next segment"],
    )
    store.close()
    assert first.read_bytes() == b"".join(chain.lines[:2])
    assert stored_lines(tmp_path) == chain.lines


@pytest.mark.parametrize("failing", [("sync_data", "write_and_sync_at"), ("sync_directory",)], ids=str)
def test_memory_and_disk_stay_bounded_while_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...]
) -> None:
    """However often a commit is tried again, no batch is kept twice and no file is left behind by each try."""
    chain = Chain()
    store = open_store(tmp_path)
    store.commit(chain.batch(2), sync=True)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        for name in failing:
            patch.setattr(disk, name, refuse)
        batch = chain.batch(5, step_ns=DAY_NS)
        for handed_over in [batch] + 50 * [None]:
            with pytest.raises(OSError, match="Input/output"):
                store.commit(handed_over, sync=True)
        assert store.unsynced_bytes == batch.size
        assert len(list(log_path(tmp_path).rglob("*"))) <= 6
    (committed,) = commit_until_it_works(store, None)
    assert committed.damaged == (), "nobody but us was at work"
    store.close()
    assert stored_lines(tmp_path) == chain.lines


def test_a_seal_that_fails_holds_up_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the manifest cannot be written records are acknowledged all the same; the seals come when it can be."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=MAX_BYTES)
    real = disk.rename

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(disk, "rename", refuse)
    for _ in range(6):
        committed = store.commit(chain.batch(2), sync=True)
        assert committed.synced == chain.head
        assert committed.sealed == ()
    assert committed.sealing_error is not None
    assert committed.sealing_error.errno == errno.EDQUOT
    monkeypatch.setattr(disk, "rename", real)
    sealed = [s for _ in range(20) for s in store.commit(chain.batch(), sync=True).sealed]
    store.close()
    assert [s.segment for s in sealed][:3] == sorted(path.name for path in log_path(tmp_path).glob("*.audit"))[:3]
    assert stored_lines(tmp_path) == chain.lines


def test_closing_never_raises_for_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` lets go of everything whatever the disk says, and the log opens again."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=MAX_BYTES)
    store.commit(chain.batch(2), sync=True)
    synced = chain.head
    with monkeypatch.context() as patch:
        for name in CHANGING:
            patch.setattr(disk, name, lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(OSError, match="no"):
            store.commit(chain.batch(4), sync=True)
        store.close()
    chain.rewind_to(synced)
    store = open_store(tmp_path, max_bytes=MAX_BYTES)
    assert store.head == chain.head
    store.close()


@contextmanager
def small_disk(at: Path, size: str = "2m") -> Iterator[Path]:
    """Mount a file system of 2 MiB; skips the test where this process may not."""
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(at)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.parametrize("sync", [True, False])
def test_a_disk_that_is_really_full(tmp_path: Path, sync: bool) -> None:
    """On a full file system nothing acknowledged is lost; when there is room again all is written, in order."""
    with small_disk(tmp_path / "small") as base_dir:
        chain = Chain()
        ballast = base_dir / "ballast"
        ballast.write_bytes(b"x" * (1 << 20))
        store = open_store(base_dir, max_bytes=200_000)
        acknowledged = -1
        refused = 0
        while not refused:
            batch = chain.batch(50, event_bytes=700)
            try:
                acknowledged = store.commit(batch, sync=sync).written.seq
            except OSError:
                refused = len(chain.lines)
        assert acknowledged > 500
        assert store.free_bytes() < 100_000
        for _ in range(5):
            with pytest.raises(OSError, match="No space left"):
                store.commit(chain.batch(50, event_bytes=700), sync=True)
        ballast.unlink()
        (committed,) = commit_until_it_works(store, None)
        assert committed.synced == chain.head
        store.close()
        assert stored_lines(base_dir) == chain.lines
        store = open_store(base_dir, max_bytes=200_000)
        assert (store.head, store.recovered) == (chain.head, ())
        store.close()


def test_a_file_system_that_takes_nothing_and_says_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that makes no progress raises; it does not go on for ever."""
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="took no byte"):
        disk.write_at(file.fileno(), b"record", 0)
