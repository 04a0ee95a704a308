"""Verifying what is archived or deleted, and verifying only a part of a trail."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async.reading import LastRecords, SeqRange, TimeRange
from audit_async.status import Position
from tests.reading.lived import LivedLog, at, changed, note_kinds, only, rewrite_manifest, verify


@pytest.fixture
def log(tmp_path: Path) -> LivedLog:
    """A log of one closed session with several sealed segments."""
    lived = LivedLog(tmp_path / "audit").session()
    assert len(lived.segments) >= 3
    return lived


def test_archived_segments_are_verified_in_their_archives(log: LivedLog) -> None:
    """They are read like all others, and the report says nothing of where they are."""
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
    assert "not the file that the chain tells of" in only(log.report()).reason
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
    assert "does not tell of it" in finding.reason


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
