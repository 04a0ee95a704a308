"""Small files: replaced as a whole, and lines that a crash left unfinished are written over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest

from audit_async._durable import disk
from audit_async._durable.lock_waits import one_at_a_time
from audit_async._durable.whole_files import append_lines, remove_left_over, replace_file, replace_shared_file
from audit_async._layout.bucket_receipts import Receipts
from audit_async._store import legal_hold
from audit_async._store.legal_hold import place_hold
from audit_async._verify.state_file import StateFile
from audit_async.delivery.position_file import SetAside, SinkDirectory
from audit_async.forwarding.worm_receipts import receipts_for, write_receipts
from audit_async.tlog import log_monitor
from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.log_monitor import Seen, save_seen
from tests.tlog.trees import ORIGIN, mth, records, sign


@pytest.mark.parametrize("torn", [b"", b"{", b"x" * 200_000, b"\0" * 10])
def test_an_unfinished_line_is_written_over(tmp_path: Path, torn: bytes) -> None:
    """However long it is, and whatever a power cut has left in its place; whole lines before it stay."""
    path = tmp_path / "lines"
    for before in (b"", b"one\n", b"one\ntwo\n"):
        path.write_bytes(before + torn)
        append_lines(path, b"new\n")
        assert path.read_bytes() == before + b"new\n"
    path.unlink()
    append_lines(path, b"new\n")
    assert path.read_bytes() == b"new\n"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """What an earlier process left unfinished is in nobody's way."""
    path, unfinished = tmp_path / "file", tmp_path / "file.unfinished"
    for content in (b"one", b"another"):
        unfinished.write_bytes(b"left over")
        replace_file(path, content, unfinished=unfinished, mode=0o640)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o640
        assert not unfinished.exists()


def at_its_sync(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Do something once, in the moment in which a new file's bytes are synced, and it does not have its name yet."""
    real, left = disk.sync_data, [do]

    def sync_data(fd: int) -> None:
        if left:
            left.pop()()
        real(fd)

    monkeypatch.setattr(disk, "sync_data", sync_data)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """The test's directory, open."""
    fd = disk.open_directory(str(tmp_path))
    yield fd
    disk.close(fd)


def _hold(directory: Path) -> None:
    place_hold(directory, reason="case", set_by="legal", now=datetime.now(UTC))


def _receipts(directory: Path) -> None:
    write_receipts(directory, Receipts(bucket="s3:b", log_id="ab"))
    assert receipts_for(directory, bucket="s3:b", log_id="ab").bucket == "s3:b"


def _state(directory: Path) -> None:
    StateFile(directory / "state").write({})
    assert StateFile(directory / "state").read() == {}


def _seen(directory: Path) -> None:
    note = sign(Checkpoint(ORIGIN, 1, mth(records(1)))).encode().decode()
    save_seen(directory / "seen", Seen(version=1, note=note))


@pytest.mark.parametrize("write", [_hold, _receipts, _state, _seen])
def test_two_that_replace_a_file_at_once_both_succeed(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads, or two containers whose process is 1: neither takes the other's file for its own.

    Also if there is no lock that keeps them apart, or its holder was stopped.
    """
    for module in (legal_hold, log_monitor):
        monkeypatch.setattr(module, "_WAIT_S", 0.01)
    at_its_sync(monkeypatch, lambda: write(tmp_path))
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".unfinished")] == []


def test_many_threads_replace_one_file(tmp_path: Path, directory: int) -> None:
    """What stays is what one of them wrote, whole, and nothing else is left."""
    failed = []
    contents = [bytes([at]) * 5_000 for at in range(8)]

    def replace(content: bytes) -> None:
        try:
            for _ in range(10):
                replace_shared_file(directory, "file", content, durable=False)
                remove_left_over(directory, "file")
        except OSError as error:
            failed.append(error)

    threads = [Thread(target=replace, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (tmp_path / "file").read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_that_somebody_removes_is_written_again(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a log removes what looks left over, in whatever moment that is."""

    def remove_unfinished() -> None:
        for found in tmp_path.glob("*.unfinished"):
            found.unlink()

    at_its_sync(monkeypatch, remove_unfinished)
    replace_shared_file(directory, "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_new_file_without_a_directory_is_an_error(tmp_path: Path, directory: int) -> None:
    """Trying again ends, with the system's reason."""
    tmp_path.rmdir()
    with pytest.raises(FileNotFoundError):
        replace_shared_file(directory, "file", b"content")


def test_a_refused_replacement_leaves_everything_as_it_was(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file as it was, and no other."""
    (tmp_path / "file").write_bytes(b"before")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "sync_data", full)
    with pytest.raises(OSError, match="No space"):
        replace_shared_file(directory, "file", b"content")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]


def test_what_the_killed_have_left_is_removed(tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But nothing that somebody is writing, and nothing of another file."""
    others = ["file.unfinished", "file.1.unfinished", f"file2.{'0' * 16}.unfinished", f"file.{'0' * 16}"]
    for name in (*others, f"file.{'0' * 16}.unfinished"):
        (tmp_path / name).write_bytes(b"left")
    at_its_sync(monkeypatch, lambda: remove_left_over(directory, "file"))
    replace_shared_file(directory, "file", b"content", prepare=lambda fd: disk.change_mode(fd, 0o640))
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "file"])
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_was_set_aside_is_readable_after_a_torn_write(tmp_path: Path) -> None:
    """A deliverer that was killed while it noted a record goes on, and what was noted before is still known."""
    sink = SinkDirectory(tmp_path, "siem")
    sink.lock()
    entry = SetAside(log_id="ab", log="orders/00", seq=7, audit_id="x-7", hash="0" * 64, reason="400", at="now")
    sink.set_aside([entry])
    with (sink.path / "set-aside.ndjson").open("ab") as file:
        file.write(b'{"log_id":"a')
    assert sink.all_set_aside() == [entry]
    sink.set_aside([entry])
    assert sink.all_set_aside() == [entry, entry]
    sink.unlock()


def test_a_forked_child_leaves_its_parents_lock(tmp_path: Path) -> None:
    """Also one that ends in the middle of what its parent does alone: what it unwinds is not its own."""
    pid = -1
    with one_at_a_time(tmp_path, 0) as is_alone:
        assert is_alone
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            with one_at_a_time(tmp_path, 0) as is_free:
                assert not is_free
    if not pid:
        os._exit(0)
    with one_at_a_time(tmp_path, 0) as is_free:
        assert is_free
