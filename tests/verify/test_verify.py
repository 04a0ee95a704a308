"""What verifying finds: each way of changing a trail, by its own test, with where and why."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_async._chain.record_format import PREV_AT
from audit_async._trail.log_files import Log, SegmentFile
from audit_async._verify import directory_survey, verification
from audit_async._verify.directory_survey import Survey
from audit_async._verify.findings import Observations
from audit_async.errors import ConfigError
from audit_async.status import Position
from tests.chain.test_chain import resealed
from tests.store.chained import Chain, open_store
from tests.trail.lived import LivedLog, changed, forge, found, only, rewrite_manifest, verify


@pytest.fixture
def log(tmp_path: Path) -> LivedLog:
    """A log of one closed session with several sealed segments."""
    lived = LivedLog(tmp_path / "audit").session()
    assert len(lived.segments) >= 3
    return lived


def test_a_trail_as_it_was_written_is_valid(log: LivedLog) -> None:
    """Nothing is found, every record is counted, and the head is the last record's place and hash."""
    report = log.report(expected=log.head)
    assert report.valid
    assert report.notes == ()
    (figures,) = report.logs
    assert figures.head == log.head
    assert (figures.first_seq, figures.last_seq) == (0, log.head.seq)
    assert figures.records == len(log.chain.lines)
    assert figures.bytes == sum(map(len, log.chain.lines)) == sum(path.stat().st_size for path in log.segments)
    assert figures.segments == len(log.segments)
    assert (figures.sessions, figures.dropped, figures.findings) == (1, 0, 0)
    assert figures.log_id == json.loads((log.directory / "log.json").read_bytes())["log_id"]


def test_the_report_is_the_same_on_several_processes(log: LivedLog) -> None:
    """Sharing the work changes nothing of the outcome, with findings and without."""
    assert log.report(processes=2) == log.report(processes=1)
    log.edit(log.segments[1], lambda lines: [lines[0], changed(lines[1]), *lines[2:]])
    log.edit(log.segments[2], lambda lines: lines[1:])
    report = log.report(processes=1)
    assert len(report.findings) > 1
    assert log.report(processes=3) == report


@pytest.mark.parametrize("which", [0, -1], ids=["sealed", "active"])
def test_a_changed_byte_is_one_finding_that_says_where(log: LivedLog, which: int) -> None:
    """Segment, line, sequence number and byte offset are those of the changed line, and no other line is blamed."""
    path = log.segments[which]
    lines = path.read_bytes().splitlines(keepends=True)
    log.edit(path, lambda lines: [lines[0], changed(lines[1]), *lines[2:]])
    finding = only(log.report())
    seq = json.loads(lines[1])["seq"]
    assert (finding.log, finding.kind, finding.segment) == ("orders/00", "record", path.name)
    assert (finding.line, finding.seq, finding.byte_offset) == (2, seq, len(lines[0]))
    assert "hash" in finding.reason


@pytest.mark.parametrize("member", [b'"hash":"', b'"prev_hash":"', b'"seq":', b'"timestamp":"'])
def test_a_change_in_any_member_is_found_once(log: LivedLog, member: bytes) -> None:
    """Not only the event is covered; a record whose own hash was changed does not drag the next one down."""

    def change(line: bytes) -> bytes:
        where = line.rindex(member) + len(member)
        return line[:where] + (b"1" if line[where : where + 1] != b"1" else b"2") + line[where + 1 :]

    log.edit(log.segments[0], lambda lines: [*lines[:3], change(lines[3]), *lines[4:]])
    assert (only(log.report()).line, only(log.report()).seq) == (4, 3)


def test_a_removed_record_is_found(log: LivedLog) -> None:
    """The record behind it is the first that does not follow."""
    log.edit(log.segments[0], lambda lines: [*lines[:4], *lines[5:]])
    finding = only(log.report())
    assert (finding.kind, finding.line, finding.seq) == ("sequence", 5, 4)
    assert "seq is 5, but 4 is due" in finding.reason


def test_an_inserted_record_is_found(log: LivedLog) -> None:
    """A forged record with a good hash of its own has no place in the chain."""

    def insert(lines: list[bytes]) -> list[bytes]:
        return [*lines[:4], resealed(lines[4].replace(b"xxx", b"yyy")), *lines[4:]]

    log.edit(log.segments[-1], insert)
    report = log.report()
    assert {finding.kind for finding in report.findings} <= {"sequence", "link", "audit_id"}
    assert report.findings[0].line in {5, 6}


def test_a_duplicated_record_is_found(log: LivedLog) -> None:
    """The same record twice: the second one is not the one that is due."""
    log.edit(log.segments[-1], lambda lines: [*lines[:3], lines[2], *lines[3:]])
    finding = only(log.report())
    assert (finding.kind, finding.line) == ("sequence", 4)


def test_a_moved_record_is_found(log: LivedLog) -> None:
    """Taken out here, put in there: both places are found."""
    log.edit(log.segments[-1], lambda lines: [*lines[:1], *lines[2:4], lines[1], *lines[4:]])
    assert {finding.line for finding in log.report().findings} >= {2, 4}


def test_two_swapped_records_are_found(log: LivedLog) -> None:
    """Neither of the two stands where it was written."""
    log.edit(log.segments[-1], lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])
    assert [(finding.kind, finding.line) for finding in log.report().findings] == [
        ("sequence", 2),
        ("sequence", 3),
        ("sequence", 4),
    ]


def test_a_missing_sealed_segment_is_found(log: LivedLog) -> None:
    """The manifest knows what should be there."""
    gone = log.segments[1]
    gone.unlink()
    report = log.report()
    assert [finding.segment for finding in report.findings if finding.kind == "segment"] == [gone.name]
    assert report.findings[-1].reason == "the segment is missing"


def test_a_missing_last_segment_is_found(log: LivedLog) -> None:
    """A segment is sealed only when one follows it, so its absence is seen without an expected head."""
    log.segments[-1].unlink()
    assert "follows this one is missing" in only(log.report()).reason


def test_a_renamed_segment_is_found(log: LivedLog) -> None:
    """It is missing under its name, and does not belong under another."""
    path = log.segments[1]
    other = path.with_name(path.name.replace("2026", "2027"))
    path.rename(other)
    assert {finding.segment for finding in log.report().findings} == {path.name, other.name}


@pytest.mark.parametrize("name", ["backup.audit", "1-2026-11-22.audit", "000000000000-2026-11-22.copy.audit"])
def test_a_foreign_segment_is_found(log: LivedLog, name: str) -> None:
    """Whatever calls itself a segment and is none of this log's."""
    shutil.copy(log.segments[0], log.directory / name)
    assert only(log.report()).segment == name


def test_a_renamed_active_segment_is_found(log: LivedLog) -> None:
    """Its name must say what its first record says."""
    path = log.segments[-1]
    later = path.with_name(f"{int(path.name[:12]) + 1:012d}{path.name[12:]}")
    path.rename(later)
    report = log.report()
    assert not report.valid
    assert {finding.segment for finding in report.findings} == {later.name}
    later.rename(path.with_name(path.name.replace("2026", "2025")))
    assert "another date" in only(log.report()).reason


def test_two_swapped_segments_are_found(log: LivedLog) -> None:
    """Each under the other's name."""
    first, second = log.segments[:2]
    first.rename(log.directory / "aside")
    second.rename(first)
    (log.directory / "aside").rename(second)
    assert {finding.segment for finding in log.report().findings} == {first.name, second.name}


def test_a_segment_of_another_log_in_its_place_is_found(log: LivedLog, tmp_path: Path) -> None:
    """It is valid in itself, with its own checksum, and still not what was sealed here."""
    other = LivedLog(tmp_path / "other")
    other.chain.now_ns += 1000
    other.session()
    for source in (other.segments[0], Path(f"{other.segments[0]}.sha256")):
        target = log.directory / source.name
        target.unlink()
        shutil.copy(source, target)
    assert {finding.segment for finding in log.report().findings} >= {other.segments[0].name}


def test_an_active_segment_of_another_log_in_its_place_is_found(log: LivedLog, tmp_path: Path) -> None:
    """It does not go on from the last sealed segment."""
    other = LivedLog(tmp_path / "other")
    other.chain.now_ns += 1000
    other.session()
    assert other.segments[-1].name == log.segments[-1].name
    log.segments[-1].write_bytes(other.segments[-1].read_bytes())
    report = log.report()
    assert (report.findings[0].kind, report.findings[0].line) == ("link", 1)


def test_a_record_of_another_service_is_found(tmp_path: Path) -> None:
    """A whole chain of another service under this one's log.json."""
    log = LivedLog(tmp_path / "audit").session(2)
    forge(log, b'"service_id":"orders"', b'"service_id":"others"')
    assert only(log.report()).reason == "it is not of the service that log.json names"


def test_a_chain_written_anew_must_tell_of_its_new_seals_as_well(log: LivedLog) -> None:
    """Every hash, the manifest and the checksums made to fit is not enough: the chain itself has the old checksums."""
    forge(log, b"xxx", b"yyy")
    report = log.report()
    assert report.logs[0].records == len(log.chain.lines)
    assert {finding.kind for finding in report.findings} == {"manifest"}
    assert "not what the chain records" in report.findings[0].reason


@pytest.mark.parametrize("content", [b"", b"0" * 64 + b"  x\n"])
def test_a_changed_checksum_file_is_found(log: LivedLog, content: bytes) -> None:
    """Changed or emptied."""
    path = Path(f"{log.segments[0]}.sha256")
    path.unlink()
    path.write_bytes(content)
    assert (only(log.report()).kind, only(log.report()).segment) == ("checksum", path.name)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("sha256", "0" * 64),
        ("bytes", 1),
        ("records", 1),
        ("first_timestamp", "2026-11-22T00:00:00.000000Z"),
        ("last_timestamp", "2026-11-22T00:00:00.000000Z"),
        ("hash", "0" * 64),
        ("prev_hash", "0" * 64),
        ("last_seq", 1),
        ("segment", "000000000000-2026-11-23.audit"),
        ("state", "deleted"),
        ("state", "archived"),
        ("state", "damaged"),
        ("state", "lost"),
        ("state", "gone"),
    ],
)
def test_a_changed_manifest_is_found(log: LivedLog, member: str, value: object) -> None:
    """Each member of an entry that says something of the segment."""
    rewrite_manifest(log, lambda entries: entries[1].__setitem__(member, value))
    assert not log.report().valid


def test_a_manifest_with_its_checksum_changed_to_fit_is_found(log: LivedLog) -> None:
    """The chain itself tells what was sealed, so manifest and checksum file can't be changed together unseen."""
    name = log.segments[0].name
    rewrite_manifest(log, lambda entries: entries[0].__setitem__("sha256", "0" * 64))
    path = Path(f"{log.segments[0]}.sha256")
    path.chmod(0o600)
    path.write_text(f"{'0' * 64}  {name}\n")
    assert {finding.kind for finding in log.report().findings} == {"manifest"}


@pytest.mark.parametrize(
    ("member", "value"), [("sha256", "0" * 64), ("bytes", 9999), ("last_timestamp", "2026-11-22T")]
)
def test_a_manifest_is_compared_with_what_was_read(tmp_path: Path, member: str, value: object) -> None:
    """Also where the chain does not tell of the seal (as after a crash) and the checksum file was made to fit."""
    store, chain = open_store(tmp_path, max_bytes=1200), Chain()
    for _ in range(8):
        store.commit(chain.batch(), sync=True)
    store.close()
    log = LivedLog(tmp_path)
    assert log.report().valid
    rewrite_manifest(log, lambda entries: entries[0].__setitem__(member, value))
    if member == "sha256":
        path = Path(f"{log.segments[0]}.sha256")
        path.chmod(0o600)
        path.write_text(f"{value}  {log.segments[0].name}\n")
    finding = only(log.report())
    assert (finding.kind, finding.segment) == ("manifest", log.segments[0].name)


def test_a_segment_that_was_cut_is_named_with_what_is_missing(log: LivedLog) -> None:
    """Whole records from its end on; the finding says from where."""
    path = log.segments[0]
    log.edit(path, lambda lines: lines[:-2])
    finding = only(log.report())
    due = int(log.segments[1].name[:12]) - 2
    assert (finding.segment, finding.seq, finding.byte_offset) == (path.name, due, path.stat().st_size)
    assert "cut off" in finding.reason


def test_the_last_sealed_hash_of_the_manifest_is_compared(log: LivedLog) -> None:
    """Nothing in the manifest follows it, but the segment that it is of ends with it."""
    rewrite_manifest(log, lambda entries: entries[-1].__setitem__("hash", "0" * 64))
    kinds = [(finding.kind, finding.segment) for finding in log.report().findings]
    assert ("manifest", log.segments[-2].name) in kinds


def test_a_manifest_that_hides_a_removed_segment_is_found(log: LivedLog) -> None:
    """The chain records the seal, so the entry and the files can't be removed together."""
    rewrite_manifest(log, lambda entries: entries.pop())
    log.segments[-2].unlink()
    reasons = [finding.reason for finding in log.report().findings]
    assert any("no entry" in reason for reason in reasons)
    assert any("are missing before this segment" in reason for reason in reasons)


def test_a_segment_without_an_entry_is_compared_with_what_the_chain_records(log: LivedLog) -> None:
    """An older manifest does not let the end of a sealed segment go."""
    last_sealed = log.segments[-2]
    rewrite_manifest(log, lambda entries: entries.pop())
    log.edit(last_sealed, lambda lines: lines[:-1])
    assert not log.report().valid


def test_one_log_in_two_directories_is_found_if_they_diverge(log: LivedLog) -> None:
    """A copy that was written to, as the original was: two histories with one name. An older copy is a note."""
    copy = log.base_dir / "orders" / "01"
    shutil.copytree(log.directory, copy)
    report = verify(log.base_dir)
    assert report.valid
    assert [(note.log, note.seq) for note in report.notes if note.kind == "copy"] == [("orders/01", log.head.seq)]
    older = log.head
    log.session(30)
    report = verify(log.base_dir)
    assert report.valid
    assert [(note.log, note.seq) for note in report.notes if note.kind == "copy"] == [("orders/01", older.seq)]
    lines = log.segments[-1].read_bytes().splitlines(keepends=True)
    assert len(lines) < 40
    other = max(copy.glob("*.audit"))
    head = other.read_bytes()[-67:-3]
    forged = resealed(lines[-1].replace(b'{"seq":%d,' % log.head.seq, b'{"seq":%d,' % (older.seq + 1)))
    with other.open("ab") as file:
        file.write(resealed(forged[:PREV_AT] + head + forged[PREV_AT + 64 :]))
    report = verify(log.base_dir)
    assert {(found.log, found.kind) for found in report.findings} >= {
        ("orders/00", "identity"),
        ("orders/01", "identity"),
    }
    assert {log.log: log.findings for log in report.logs} == {
        name: sum(found.log == name for found in report.findings) for name in ("orders/00", "orders/01")
    }


def test_copies_whose_common_records_are_deleted_are_not_compared(log: LivedLog) -> None:
    """Nothing is claimed of what is in one of them only."""
    copy = log.base_dir / "orders" / "01"
    shutil.copytree(log.directory, copy)
    head = log.segments[-1].read_bytes().splitlines(keepends=True)
    (copy / log.segments[-1].name).write_bytes(b"".join(head[:-1]))
    log.session(60).retain(archived=12, deleted=10)
    assert log.chain.head.seq > 0
    report = verify(log.base_dir)
    assert report.valid, report.findings
    assert ["can't be compared" in note.text for note in report.notes if note.kind == "copy"] == [True]


def test_renamed_and_exchanged_instances_are_found(log: LivedLog) -> None:
    """log.json names the instance, and so does the directory; a log that was copied elsewhere may have any name."""
    other = log.base_dir / "orders" / "01"
    open_store(log.base_dir, instance="01").close()
    shutil.rmtree(other)
    second = LivedLog(log.base_dir.parent / "second")
    open_store(second.base_dir, instance="01").close()
    (second.base_dir / "orders" / "01").rename(second.base_dir / "orders" / "00.made")
    assert json.loads((log.directory / "log.json").read_bytes())["instance"] == "00"
    log.directory.rename(other)
    finding = only(verify(log.base_dir))
    assert (finding.log, finding.kind, finding.segment) == ("orders/01", "identity", "log.json")
    assert only(verify(log.base_dir / "orders")).kind == "identity"
    assert only(verify(other)).kind == "identity"
    shutil.copytree(other, log.base_dir.parent / "evidence")
    assert verify(log.base_dir.parent / "evidence").valid


def test_a_log_json_of_an_older_release_names_no_instance(log: LivedLog) -> None:
    """Then nothing is said of its name."""
    path = log.directory / "log.json"
    identity = json.loads(path.read_bytes())
    del identity["instance"]
    path.write_text(json.dumps(identity))
    log.directory.rename(log.base_dir / "orders" / "01")
    assert verify(log.base_dir).valid


@pytest.mark.parametrize("size", [1, 512, 4096, 1 << 20])
def test_zeros_after_a_sealed_segment_are_found(log: LivedLog, size: int) -> None:
    """No copy of a later record is among them, so no failed fsync explains them."""
    path = log.segments[0]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + bytes(size))
    finding = only(log.report())
    assert (finding.kind, finding.segment) == ("segment", path.name)
    assert f"{size} zero bytes" in finding.reason


def test_a_file_that_was_converted_to_cr_lf_is_one_finding(log: LivedLog) -> None:
    """One cause, one finding, whether it is one file or all of them; and damage beside it is still found."""
    head = log.head
    for paths in ([log.segments[0]], [log.segments[-1]], log.segments, sorted(log.directory.glob("*.audit*"))):
        before = {path: path.read_bytes() for path in paths}
        for path in paths:
            path.chmod(0o600)
            path.write_bytes(before[path].replace(b"\n", b"\r\n"))
        report = log.report(expected=head)
        finding = only(report)
        assert (finding.kind, finding.segment) == ("segment", paths[0].name)
        assert f"CR LF in {len(paths)} files" in finding.reason
        assert report.logs[0].records == len(log.chain.lines)
        assert report.logs[0].head == head
        for path in paths:
            path.write_bytes(before[path])
    log.edit(log.segments[1], lambda lines: [line.replace(b"\n", b"\r\n") for line in [*lines[:2], *lines[3:]]])
    kinds = [finding.kind for finding in log.report().findings]
    assert sorted(kinds) == ["segment", "sequence"]


def test_a_file_that_is_no_trail_any_more_is_one_finding(log: LivedLog) -> None:
    """Written in another encoding, or as indented JSON: none of its lines is a record, for one reason."""
    path = log.segments[1]
    text = path.read_text(encoding="utf-8")
    path.chmod(0o600)
    records = [json.dumps(json.loads(line), indent=2) for line in text.splitlines()]
    for content in (text.encode("utf-16"), "\n".join(records).encode(), text.replace("\n", " \n").encode()):
        path.write_bytes(content)
        report = log.report()
        assert len(report.findings) <= 3, report.findings
        assert {finding.segment for finding in report.findings} == {path.name}


def test_a_damaged_manifest_does_not_hide_the_records(log: LivedLog) -> None:
    """It is one finding, and the chain is still read by the files' names."""
    (log.directory / "manifest.json").write_bytes(b"{")
    report = log.report()
    assert only(report).kind == "manifest"
    assert report.logs[0].records == len(log.chain.lines)


def test_a_manifest_of_another_log_is_found(log: LivedLog, tmp_path: Path) -> None:
    """It carries the id of the log it belongs to."""
    other = LivedLog(tmp_path / "other").session()
    shutil.copy(other.directory / "manifest.json", log.directory / "manifest.json")
    assert "another log" in only(log.report()).reason


@pytest.mark.parametrize(
    "content", [None, b"{}", b'{"format_version":2,"log_id":"","service_id":"orders","created":""}']
)
def test_a_changed_log_json_is_found(log: LivedLog, content: bytes | None) -> None:
    """Removed, damaged, or of a version that this release does not know."""
    path = log.directory / "log.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    report = log.report()
    assert report.findings[0].kind == "identity"
    assert report.logs[0].records == len(log.chain.lines)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
@pytest.mark.parametrize(
    "name", ["log.json", "manifest.json", "sealed", "active", "checksum", "archive", "archive directory"]
)
def test_what_is_no_regular_file_is_found_and_never_waited_for(log: LivedLog, name: str, kind: str) -> None:
    """A link to the very same content, a directory, a named pipe: in the place of each file of a log."""
    log.retain(archived=1)
    path = {
        "sealed": log.segments[0],
        "active": log.segments[-1],
        "checksum": Path(f"{log.segments[0]}.sha256"),
        "archive": next((log.directory / "archive").iterdir()),
        "archive directory": log.directory / "archive",
    }.get(name, log.directory / name)
    aside = log.base_dir.parent / "aside"
    path.rename(aside)
    if kind == "link":
        path.symlink_to(aside)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert not log.report().valid


def test_a_log_in_the_directory_of_another_service_is_found(log: LivedLog) -> None:
    """log.json names the service, and so does the directory."""
    log.directory.parent.rename(log.base_dir / "payments")
    assert only(verify(log.base_dir)).kind == "identity"
    assert verify(log.base_dir / "payments" / "00").valid  # a log that was copied elsewhere


def test_a_truncated_tail_is_found_with_an_expected_head_and_only_then(log: LivedLog) -> None:
    """The chain before the cut holds, so the report says that it can't know without a head kept elsewhere."""
    head = log.head
    log.edit(log.segments[-1], lambda lines: lines[:-2])
    assert log.report().valid
    assert "truncation_unseen" in {note.kind for note in log.report().notes}
    report = log.report(expected=head)
    assert (only(report).kind, only(report).seq) == ("head", head.seq)
    assert "truncation_unseen" not in {note.kind for note in report.notes}


def test_a_rewritten_tail_is_found_with_an_expected_head_and_only_then(log: LivedLog) -> None:
    """Whoever can write all files can make a new chain that holds; it has other hashes."""
    path, seq = log.segments[-1], log.head.seq
    lines = path.read_bytes().splitlines(keepends=True)
    forged = resealed(lines[-1].replace(b"audit.log_closed", b"audit.log_cloned"))
    log.edit(path, lambda lines: [*lines[:-1], forged])
    assert log.report().valid
    finding = only(log.report(expected=log.head))
    assert (finding.kind, finding.seq) == ("head", seq)
    assert "rewritten" in finding.reason


def test_an_expected_head_in_the_middle_is_looked_up(log: LivedLog) -> None:
    """Any record's position may have been kept."""
    assert log.report(expected=Position(5, log.chain.heads[5].hash.decode())).valid
    assert found(log.report(expected=Position(5, log.chain.heads[6].hash.decode()))) == [("head", 5)]


def test_an_expected_head_of_a_log_that_is_gone_is_found(log: LivedLog) -> None:
    """A whole log that was removed is missed by whoever kept its head."""
    report = verify(log.base_dir, expected={"orders/01": log.head})
    assert (only(report).log, only(report).kind) == ("orders/01", "head")


@pytest.mark.parametrize("head", [Position(-1, "0" * 64), Position(1, "0" * 63), Position(1, "A" * 64)])
def test_an_expected_head_that_is_none_is_refused(log: LivedLog, head: Position) -> None:
    """A mistyped head must not look like a rewritten chain."""
    with pytest.raises(ConfigError, match="expected_heads"):
        log.report(expected=head)


def test_more_findings_than_a_reader_can_use_are_counted(tmp_path: Path) -> None:
    """A thousand are kept, the report says how many there are."""
    log = LivedLog(tmp_path / "audit").session(500, max_bytes=1 << 20)
    log.edit(log.segments[0], lambda lines: [changed(line) for line in lines])
    report = log.report()
    assert len(report.findings) == 1000
    assert report.logs[0].findings == len(log.chain.lines)
    assert any(note.kind == "more" and "more findings" in note.text for note in report.notes)


def test_the_work_on_a_list_of_segments_grows_with_their_number_and_no_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is gone through as often for many segments as for a few, not once more for each."""
    passes: list[int] = []

    class Counted(list[SegmentFile]):
        def __iter__(self) -> Iterator[SegmentFile]:
            passes[-1] += 1
            return super().__iter__()

    def survey_log(log: Log, observed: Observations) -> Survey:
        survey = directory_survey.survey_log(log, observed)
        return dataclasses.replace(survey, segments=Counted(survey.segments))

    monkeypatch.setattr(verification, "survey_log", survey_log)
    for sealed in (True, False):
        for batches in (12, 60):
            passes.append(0)
            log = LivedLog(tmp_path / f"audit-{len(passes)}").session(batches, max_bytes=1500)
            if not sealed:
                (log.directory / "manifest.json").unlink()
            report = log.report()
            assert report.logs[0].segments > batches // 2
    assert passes[0] == passes[1]
    assert passes[2] == passes[3]
