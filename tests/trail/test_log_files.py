"""Finding logs and segments, and reading lines: what is there is found, wherever it is by now, in bounded memory."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async._durable import disk
from audit_async._trail import log_files as trail
from audit_async._trail.log_files import (
    Lines,
    SegmentDeleted,
    TrailUnreadable,
    find_logs,
    list_segments,
    open_segment,
    read_lines,
)
from audit_async._verify import segment_check
from audit_async.errors import LogCorrupted
from tests.store.chained import open_store
from tests.trail.lived import LivedLog, only


@pytest.fixture
def log(tmp_path: Path) -> LivedLog:
    """A log with several segments."""
    return LivedLog(tmp_path / "audit").session()


def test_logs_are_found_from_each_level(log: LivedLog) -> None:
    """From the base directory, the service's, and the log's own; each has the name that its place gives it."""
    open_store(log.base_dir, instance="01").close()
    (log.base_dir / "payments" / "00").mkdir(parents=True)
    (log.base_dir / "payments" / "00" / "log.json").write_bytes(b"{}")
    assert [found.name for found in find_logs(log.base_dir)] == ["orders/00", "orders/01", "payments/00"]
    assert [found.name for found in find_logs(log.base_dir / "orders")] == ["orders/00", "orders/01"]
    (only,) = find_logs(log.directory)
    assert (only.name, only.directory, len(only.log_id)) == ("orders/00", log.directory, 32)
    assert [found.name for found in find_logs(log.base_dir, service="orders", instance="01")] == ["orders/01"]
    assert find_logs(log.base_dir, service="payments")[0].log_id == ""


@pytest.mark.parametrize("removed", ["log.json", "manifest.json", "*.audit"])
def test_a_log_is_found_though_something_of_it_was_removed(log: LivedLog, removed: str) -> None:
    """Nobody hides a log by removing one of its files."""
    for path in log.directory.glob(removed):
        path.unlink()
    assert [found.name for found in find_logs(log.base_dir)] == ["orders/00"]


def test_where_no_log_is_the_path_is_named(log: LivedLog, tmp_path: Path) -> None:
    """An empty directory, a missing one, a file, and a filter that fits nothing."""
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing", log.segments[0]):
        with pytest.raises(TrailUnreadable) as caught:
            find_logs(path)
        assert str(path) in str(caught.value)
    with pytest.raises(TrailUnreadable, match="of service 'payments' of instance '07'"):
        find_logs(log.base_dir, service="payments", instance="07")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_named(log: LivedLog) -> None:
    """It may hold a log, so it is not passed over."""
    log.directory.chmod(0)
    try:
        with pytest.raises(TrailUnreadable, match="can't be read"):
            find_logs(log.base_dir)
    finally:
        log.directory.chmod(0o700)


def test_one_service_is_read_beside_others_that_may_not_be(log: LivedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one service is asked for, another one's directory may be closed; that of the one asked for may not."""
    closed = log.base_dir / "payments"
    closed.mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [found.name for found in find_logs(log.base_dir, service="orders")] == ["orders/00"]
    for service in (None, "payments"):
        with pytest.raises(TrailUnreadable, match="payments can't be read"):
            find_logs(log.base_dir, service=service)


def test_symbolic_links_below_the_base_directory_are_not_followed(log: LivedLog, tmp_path: Path) -> None:
    """The base directory itself may be one."""
    (log.base_dir / "linked").symlink_to(log.directory.parent)
    (log.base_dir / "orders" / "01").symlink_to(log.directory)
    (tmp_path / "base").symlink_to(log.base_dir)
    assert [found.name for found in find_logs(tmp_path / "base")] == ["orders/00"]


def test_what_can_be_no_service_is_passed_over(log: LivedLog) -> None:
    """`lost+found` on a file system of its own belongs to root."""
    other = log.base_dir / "lost+found"
    (other / "00").mkdir(parents=True)
    (other / "00" / "log.json").write_bytes(b"{}")
    assert [found.name for found in find_logs(log.base_dir)] == ["orders/00"]


def test_segments_are_listed_oldest_first_wherever_they_are(log: LivedLog) -> None:
    """Deleted, archived, live, and last the ones without an entry; each opens as what was written."""
    names = [path.name for path in log.segments]
    log.retain(archived=2, deleted=1)
    (found,) = find_logs(log.base_dir)
    listed = list_segments(found)
    assert [segment.name for segment in listed][: len(names)] == names
    assert [segment.sealed and segment.sealed.state for segment in listed[:3]] == ["deleted", "archived", "live"]
    assert listed[-1].sealed is None
    assert [segment.is_readable for segment in listed][:2] == [False, True]
    content = b""
    for segment in listed[1:]:
        with open_segment(segment) as file:
            content += file.read()
    assert content == b"".join(log.chain.lines[listed[1].first_seq :])
    with pytest.raises(FileNotFoundError):
        open_segment(listed[0])


def test_a_segment_that_is_archived_after_it_was_listed_is_opened(log: LivedLog) -> None:
    """Also one that was not even sealed then."""
    (found,) = find_logs(log.base_dir)
    before = list_segments(found)
    active = before[-1]
    log.session(12).retain(archived=len(before))
    for segment in (before[0], active):
        assert not (log.directory / segment.name).exists()
        with open_segment(segment) as file:
            assert file.readline() == log.chain.lines[segment.first_seq]


def test_a_segment_that_is_deleted_after_it_was_listed_is_not_called_missing(log: LivedLog) -> None:
    """Whoever reads can tell retention from somebody who removed a file."""
    (found,) = find_logs(log.base_dir)
    live, *_, active = list_segments(found)
    log.session(12).retain(archived=1, deleted=1)
    with pytest.raises(SegmentDeleted, match="the segment is deleted"):
        open_segment(live)
    (log.directory / active.name).unlink()
    with pytest.raises(FileNotFoundError) as missing:
        open_segment(active)
    assert not isinstance(missing.value, SegmentDeleted)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "as the user who owns it"),
        (errno.EPERM, "as the user who owns it"),
        (errno.EMFILE, "raise the limit"),
        (errno.ENFILE, "raise the limit"),
        (errno.EIO, "the system's log"),
        (errno.ENOENT, "check the path"),
        (errno.ENOTDIR, "is no directory"),
    ],
)
def test_what_can_not_be_read_says_why_and_what_to_do(number: int, advice: str) -> None:
    """Lack of rights, lack of descriptors and a failing disk are never taken for each other."""
    said = str(trail.unreadable(Path("/trail"), OSError(number, os.strerror(number))))
    assert "/trail" in said
    assert advice in said
    others = {"as the user who owns it", "raise the limit", "the system's log"} - {advice}
    assert not any(other in said for other in others)


def test_a_log_is_not_misnamed_for_lack_of_descriptors(log: LivedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log.json could not be opened, which says nothing of the log."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(disk, "open_file", refuse)
    with pytest.raises(TrailUnreadable, match="raise the limit"):
        find_logs(log.base_dir)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_regular_file_is_not_opened(log: LivedLog, kind: str) -> None:
    """In the place of the active segment: refused, and never waited for."""
    path = log.segments[-1]
    (found,) = find_logs(log.base_dir)
    active = list_segments(found)[-1]
    path.rename(log.base_dir / "aside")
    if kind == "link":
        path.symlink_to(log.base_dir / "aside")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(LogCorrupted, match="not a regular file"):
        open_segment(active)
    assert not log.report().valid


def test_a_link_is_not_followed_in_a_sealed_segment_s_place(log: LivedLog) -> None:
    """It is said to be one, as in the place of the active segment."""
    path = log.segments[0]
    path.rename(log.base_dir / "aside")
    path.symlink_to(log.base_dir / "aside")
    (found,) = find_logs(log.base_dir)
    with pytest.raises(LogCorrupted, match="not a regular file"):
        open_segment(list_segments(found)[0])


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40), st.booleans())
def test_lines_are_read_whole_and_with_their_offsets(lines: list[bytes], chunk: int, whole: bool) -> None:
    """Nothing is lost or added, whatever the size of the chunks; every chunk but the last ends with a line's end."""
    content = b"\n".join(lines) + (b"\n" if whole else b"")
    chunks = list(read_lines(io.BytesIO(content), offset=100, chunk_bytes=chunk))
    assert b"".join(chunk.data for chunk in chunks) == content
    at = 100
    for number, each in enumerate(chunks):
        assert each.offset == at
        assert each.data.endswith(b"\n") or number == len(chunks) - 1
        assert not each.continues
        at += len(each.data)


def test_a_file_without_line_ends_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlong line comes in pieces that say so."""
    monkeypatch.setattr(trail, "LONGEST_LINE", 25)
    content = b"x" * 70 + b"\nab\ncd"
    chunks = list(read_lines(io.BytesIO(content), chunk_bytes=10))
    assert b"".join(chunk.data for chunk in chunks) == content
    assert max(len(chunk.data) for chunk in chunks) <= 35
    assert [chunk.continues for chunk in chunks] == [False, True, True, False]
    assert chunks[0] == Lines(0, b"x" * 30, is_cut=True)


def test_an_overlong_line_is_one_finding(log: LivedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pieces are not blamed one by one, and the records behind it are checked."""
    monkeypatch.setattr(segment_check, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(trail, "LONGEST_LINE", 2500)
    first = log.chain.lines[int(log.segments[-1].name[:12])]
    log.edit(log.segments[-1], lambda lines: [lines[0], b"y" * 9000 + b"\n", *lines[1:]])
    report = log.report()
    assert (only(report).line, only(report).byte_offset) == (2, len(first))
    assert report.logs[0].records == len(log.chain.lines)
