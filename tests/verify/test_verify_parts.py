"""Verifying what is archived or deleted, and verifying only a part of a trail."""

from __future__ import annotations

import os
import socket
import stat
import sys
import tracemalloc
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from audit_async import standalone
from audit_async._verify.verify_scope import LastRecords, SeqRange, TimeRange
from audit_async.status import Position
from tests.trail.lived import LivedLog, at, changed, note_kinds, only, rewrite_manifest, verify
from tests.trail.written import WrittenLog

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.fixture
def log(tmp_path: Path) -> LivedLog:
    """A log of one closed session with several sealed segments."""
    lived = LivedLog(tmp_path / "audit").session()
    assert len(lived.segments) >= 3
    return lived


def test_archived_segments_are_verified_in_their_archives(log: LivedLog) -> None:
    """They are read like all others, and the report does not say that they are archived."""
    log.retain(archived=2)
    report = log.report(expected=log.head)
    assert report.valid
    assert report.logs[0].records == len(log.chain.lines)


def test_a_damaged_or_missing_archive_is_found(log: LivedLog) -> None:
    """Each changed byte of it, even behind the compressed frame, and its absence."""
    log.retain(archived=1)
    (archive,) = (log.directory / "archive").iterdir()
    content = archive.read_bytes()
    archive.chmod(0o600)
    for at_ in range(0, len(content), 7):
        archive.write_bytes(content[:at_] + bytes([content[at_] ^ 0x10]) + content[at_ + 1 :])
        assert not log.report().valid, at_
    archive.write_bytes(content + b"\x50\x2a\x4d\x18\x01\0\0\0x")  # a skippable frame: decompressors say nothing
    assert "not the file that the chain records" in only(log.report()).reason
    archive.write_bytes(content[:-10])
    assert not log.report().valid
    archive.rename(archive.with_name("x.zst"))
    report = log.report()
    assert {finding.segment for finding in report.findings} >= {"archive/x.zst"}
    assert any("missing" in finding.reason for finding in report.findings)


def test_deleted_segments_are_a_gap_that_is_allowed_and_told(log: LivedLog) -> None:
    """The manifest's hashes join what is left, and a note says what is gone."""
    log.retain(archived=1, deleted=2)
    report = log.report(expected=log.head)
    assert report.valid
    assert note_kinds(report) == ["deleted"]
    assert report.logs[0].first_seq == int(log.segments[0].name[:12])


def test_a_deletion_that_the_chain_does_not_tell_of_is_found(log: LivedLog) -> None:
    """A manifest alone can't make a segment go away."""
    log.retain(deleted=1)
    second = log.segments[0]
    rewrite_manifest(log, lambda entries: entries[1].__setitem__("state", "deleted"))
    second.unlink()
    Path(f"{second}.sha256").unlink()
    finding = only(log.report())
    assert (finding.kind, finding.segment) == ("manifest", second.name)
    assert "does not record it" in finding.reason


def test_the_last_records_are_verified_without_reading_the_rest(log: LivedLog) -> None:
    """What is before them is not looked at, so its damage is not seen; theirs is."""
    log.edit(log.segments[0], lambda lines: [changed(line) for line in lines])
    for count in (1, 4, len(log.segments[-1].read_bytes().splitlines()), 15):
        report = log.report(LastRecords(count), expected=log.head)
        assert report.valid
        assert report.logs[0].records == count
        assert report.logs[0].first_seq == log.head.seq - count + 1
    assert not log.report(LastRecords(10_000)).valid
    log.edit(log.segments[-1], lambda lines: [*lines[:-1], lines[-1].replace(b"closed", b"cloned")])
    assert only(log.report(LastRecords(2))).seq == log.head.seq


def test_a_range_of_sequence_numbers_is_verified_by_its_segments(log: LivedLog) -> None:
    """The segments that hold it are read, and no others."""
    first, second, third = (int(path.name[:12]) for path in log.segments[:3])
    report = log.report(SeqRange(second, second))
    assert (report.logs[0].first_seq, report.logs[0].last_seq) == (second, third - 1)
    report = log.report(SeqRange(second - 1, third))
    assert (report.logs[0].first_seq, report.logs[0].segments) == (first, 3)
    assert log.report(SeqRange(log.head.seq + 5, log.head.seq + 9)).logs[0].segments == 1


def test_a_range_of_time_is_verified_by_its_segments(log: LivedLog) -> None:
    """Records are a millisecond apart; the segments are chosen by the manifest."""
    second = int(log.segments[1].name[:12])
    report = log.report(TimeRange(at(second / 1000), at(second / 1000)))
    assert report.logs[0].first_seq == second
    assert report.logs[0].segments <= 2
    assert log.report(TimeRange(at(-100), at(-50))).logs[0].segments == 0


def test_a_part_that_is_not_in_the_log_is_told(log: LivedLog) -> None:
    """Sound is then what lies nearest to it, if anything: a note says so, and only then."""
    log.retain(deleted=1)
    first, last = int(log.segments[0].name[:12]), log.chain.head.seq
    for scope in (SeqRange(0, 0), SeqRange(0, first - 1), SeqRange(last + 1, last + 9), TimeRange(at(9e5), at(9e6))):
        report = log.report(scope)
        assert report.valid
        (note,) = [note for note in report.notes if note.kind == "not_here"]
        verified = (report.logs[0].first_seq, report.logs[0].last_seq)
        assert (
            "nothing was verified" if verified == (None, None) else "only seq {} to {},".format(*verified)
        ) in note.text
    for scope in (SeqRange(0, first), SeqRange(first, first), SeqRange(last, last + 9), TimeRange(at(-9), at(9e6))):
        assert "not_here" not in note_kinds(log.report(scope))


def test_a_time_is_not_called_absent_where_the_clock_was_set_back(tmp_path: Path) -> None:
    """The times of a segment's first and last record then don't bound the others."""
    written = WrittenLog(tmp_path, max_bytes=1 << 20)
    written.write({"event_type": "test.first"}, step_ns=3600 * 10**9)
    written.write({"event_type": "test.ahead"})
    written.now_ns -= 2 * 3600 * 10**9
    written.write({"event_type": "test.back"})
    written.close()
    assert "not_here" not in note_kinds(verify(tmp_path, TimeRange(at(3600), at(3601))))


def test_a_head_outside_the_verified_part_is_not_called_missing(log: LivedLog) -> None:
    """A note says that it was not looked at."""
    report = log.report(LastRecords(2), expected=Position(1, log.chain.heads[1].hash.decode()))
    assert report.valid
    assert "head_not_covered" in note_kinds(report)


def test_progress_is_told_up_to_the_end(log: LivedLog) -> None:
    """It never goes back, and ends with all bytes and records."""
    seen: list[tuple[int, int, int]] = []
    for processes in (1, 2):
        seen.clear()
        verify(
            log.base_dir,
            processes=processes,
            progress=lambda p: seen.append((p.bytes_done, p.records, p.bytes_total)),
        )
        assert seen == sorted(seen)
        total = sum(map(len, log.chain.lines))
        assert seen[-1] == (total, len(log.chain.lines), total)


@pytest.mark.parametrize("name", ["log.json", "manifest.json", "hold.json", "checksum"])
def test_a_file_of_gigabytes_is_found_and_not_read(log: LivedLog, name: str) -> None:
    """A sparse file takes no space on the disk; reading it would take all of the memory."""
    path = Path(f"{log.segments[0]}.sha256") if name == "checksum" else log.directory / name
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(4 << 30)
    tracemalloc.start()
    try:
        report = log.report()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {finding.segment for finding in report.findings} == {path.name}
    assert peak < 64 << 20


def test_an_archive_that_inflates_beyond_its_manifest_is_stopped_there(log: LivedLog) -> None:
    """A few kilobytes that would become a gigabyte: what the manifest says is read, and not much more."""
    log.retain(archived=1)
    (archive,) = (log.directory / "archive").iterdir()
    records = log.chain.lines[: int(log.segments[0].name[:12])]
    archive.chmod(0o600)
    compressor = zstd.ZstdCompressor()
    with archive.open("wb") as file:
        file.write(compressor.compress(b"".join(records)))
        for _ in range(256):
            file.write(compressor.compress(bytes(4 << 20)))
        file.write(compressor.flush())
    assert archive.stat().st_size < 1 << 20
    done: list[int] = []
    report = verify(log.base_dir, progress=lambda progress: done.append(progress.bytes_done))
    assert not report.valid
    assert {finding.segment for finding in report.findings} == {archive.name.removesuffix(".zst")}
    assert sum(figures.bytes for figures in report.logs) <= sum(map(len, log.chain.lines)) + (4 << 20)
    out = StringIO()
    with redirect_stdout(out):
        assert standalone.main([str(log.base_dir)]) == 1


@pytest.mark.parametrize("kind", ["device", "socket"])
@pytest.mark.parametrize("name", ["log.json", "manifest.json", "hold.json", "sealed", "active", "checksum", "archive"])
def test_a_device_or_a_socket_is_found_and_not_read(log: LivedLog, name: str, kind: str) -> None:
    """As a FIFO and a link: `/dev/zero` never ends."""
    log.retain(archived=1)
    places = {
        "sealed": log.segments[0],
        "active": log.segments[-1],
        "checksum": Path(f"{log.segments[0]}.sha256"),
        "archive": next((log.directory / "archive").iterdir()),
    }
    path = places.get(name, log.directory / name)
    path.unlink(missing_ok=True)
    if kind == "device":
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
            path.open("rb").close()
        except PermissionError:
            pytest.skip("making a device, or opening one here, needs rights that this user does not have")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's path has to be short
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)
    report = log.report()
    assert not report.valid
    assert report.unreadable == ()
    assert any(path.name.removesuffix(".zst") in (finding.segment or "") for finding in report.findings)
    out = StringIO()
    with redirect_stdout(out):
        assert standalone.main([str(log.base_dir)]) == 1
    assert path.name.removesuffix(".zst") in out.getvalue()
