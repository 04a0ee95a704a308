"""What a report tells though the chain holds, and what a crash explains: notes, not findings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from audit_async import AuditConfig, AuditLogger, BufferFull, Local
from audit_async._trail import running_writer
from audit_async._verify.verify_report import VerifyReport
from audit_async._verify.verify_scope import LastRecords
from audit_async.events.base import encode
from audit_async.events.lifecycle import AuditEventsDropped, AuditLogRecovered, AuditSegmentDamaged
from tests.logs import failure
from tests.store.chained import Chain, log_path, open_store
from tests.trail.lived import LivedLog, note_kinds, only, rewrite_manifest, verify


def note(report: VerifyReport, kind: str) -> tuple[int | None, str]:
    """Return the one note of a kind."""
    (found,) = [note for note in report.notes if note.kind == kind]
    return found.seq, found.text


def test_a_session_without_an_orderly_end_is_told(tmp_path: Path) -> None:
    """Also one in the middle; the note names the record that begins it."""
    log = LivedLog(tmp_path / "audit").session(2, closed=False)
    assert note(log.report(), "unclean_end")[0] == 0
    second = log.chain.head.seq + 1
    log.session(2, closed=False).session(2)
    report = log.report()
    assert report.valid
    assert [note.seq for note in report.notes if note.kind == "unclean_end"] == [0, second]
    assert report.logs[0].sessions == 3


def test_a_writer_in_another_container_is_not_called_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be seen from a sidecar: the last session may go on, one that another has followed does not."""
    log = LivedLog(tmp_path / "audit").session(2, closed=False).session(2, closed=False)
    (tmp_path / "locks").write_text("")  # what /proc/locks shows there
    monkeypatch.setattr(running_writer, "_LOCKS", tmp_path / "locks")
    with contextlib.closing(open_store(log.base_dir)):
        with max(log.directory.glob("*.audit")).open("ab") as file:
            file.write(b'{"seq":')
        report = log.report()
    first, last = [note.text for note in report.notes if note.kind == "unclean_end"]
    assert "another container" not in first
    assert "not shut down in order, or a process that can't be seen from here, in another container" in last
    assert "unless a process that can't be seen from here is writing it" in note(report, "torn_tail")[1]


def test_what_the_log_tells_of_itself_is_told(tmp_path: Path) -> None:
    """Refused events, recovered tails, segments that were changed under the writer; and no text of theirs raw."""
    log = LivedLog(tmp_path / "audit").session(1)
    now = datetime.now(UTC)
    store = open_store(log.base_dir)
    events = [
        AuditEventsDropped(count=7, by_type={"a": 7}, first_at=now, last_at=now, reason="buffer_full"),
        AuditEventsDropped(count=5, by_type={"a": 5}, first_at=now, last_at=now, reason="buffer_full"),
        AuditLogRecovered(torn_bytes=12, torn_sha256="0" * 64, torn_file="torn/x", reason="torn last line"),
        AuditSegmentDamaged(segment="x\u202e", reason="truncated"),
    ]
    store.commit(log.chain.batch_of([encode(event) for event in events]), sync=True)
    store.close()
    report = log.report()
    assert report.valid
    assert report.logs[0].dropped == 12
    assert note_kinds(report) == ["dropped", "dropped", "recovered", "damaged"]
    assert "12 bytes" in note(report, "recovered")[1]
    assert "\u202e" not in note(report, "damaged")[1]


def test_a_refusal_of_a_real_logger_is_told(tmp_path: Path) -> None:
    """What `emit` refused and the writer counted is in the report."""
    config = AuditConfig(mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, buffer_events=20)

    async def run() -> int:
        refused = 0
        async with AuditLogger(config) as audit:
            for _ in range(50):
                try:
                    audit.emit(failure())
                except BufferFull:
                    refused += 1
        return refused

    refused = asyncio.run(run())
    report = verify(tmp_path / "audit")
    assert refused > 0
    assert report.valid
    assert (report.logs[0].dropped, note_kinds(report)) == (refused, ["dropped"])


def test_a_clock_that_was_set_back_is_told(tmp_path: Path) -> None:
    """Within a segment and between two; by more than a second, since threads differ by microseconds."""
    log = LivedLog(tmp_path / "audit").session(2)
    log.chain.now_ns -= 500_000_000
    log.session(2)
    assert note_kinds(log.report()) == []
    log.chain.now_ns -= 90_000_000_000
    back = log.chain.head.seq + 1
    log.session(2)
    assert note(log.report(), "clock") == (back, "the clock was set back by 89.999 s before this record")
    log.chain.now_ns -= 5_000_000_000
    across = log.session(40).report()
    assert across.valid
    assert note_kinds(across) == ["clock", "clock"]


@pytest.mark.parametrize("tail", [b'{"seq":99,"audit_', b"\0" * 700], ids=["torn", "zeros"])
def test_a_tail_that_a_crash_has_torn_is_no_finding(tmp_path: Path, tail: bytes) -> None:
    """What the next opening will put aside is told, and the records before it hold."""
    log = LivedLog(tmp_path / "audit").session()
    with log.segments[-1].open("ab") as file:
        file.write(tail)
    report = log.report(expected=log.head)
    assert report.valid
    assert "torn_tail" in note_kinds(report)
    open_store(log.base_dir).close()
    assert note_kinds(log.report(expected=log.head)) == []


def test_a_bad_line_at_the_end_is_a_finding(tmp_path: Path) -> None:
    """No crash leaves a whole line that is no record, nor anything behind a sealed segment."""
    log = LivedLog(tmp_path / "audit").session()
    with log.segments[-1].open("ab") as file:
        file.write(b"x\n")
    assert (only(log.report()).kind, only(log.report()).seq) == ("record", log.head.seq + 1)
    log.edit(log.segments[-1], lambda lines: lines[:-1])
    log.edit(log.segments[0], lambda lines: [*lines, b"x"])
    finding = only(log.report())
    assert (finding.segment, finding.line) == (log.segments[0].name, len(log.segments[0].read_bytes().splitlines()))


def three_segments(base_dir: Path, *, sealed: bool) -> Chain:
    """Make a log of three segments, sealed but the last, or with no manifest as yet."""
    chain = Chain()
    store = open_store(base_dir, max_bytes=1200)
    for _ in range(8):
        store.commit(chain.batch(), sync=True)
    store.close()
    if not sealed:
        for path in [*log_path(base_dir).glob("*.sha256"), log_path(base_dir) / "manifest.json"]:
            path.unlink()
    return chain


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
def test_void_copies_are_no_finding_and_anything_else_there_is_one(tmp_path: Path, *, sealed: bool) -> None:
    """After a failed fsync a segment may end with copies of what the next holds, zeros where blocks are missing."""
    three_segments(tmp_path, sealed=sealed)
    first, second, third, *_ = sorted(log_path(tmp_path).glob("*.audit"))
    whole = first.read_bytes()
    copies = second.read_bytes() + third.read_bytes()[:500]
    assert verify(tmp_path).valid
    first.chmod(0o600)
    explained = [copies, copies[:100], copies[:512] + bytes(512) + copies[1024:], bytes(512) + copies[512:]]
    for tail in explained if sealed else [*explained, bytes(512)]:
        first.write_bytes(whole + tail)
        report = verify(tmp_path)
        assert report.valid, report.findings
        assert note_kinds(report) == ["void_copies"]
    unexplained = [b"x"] if not sealed else [b"x", bytes(512), bytes(5)]
    for tail in (*unexplained, copies[:200] + b"y" + copies[201:], copies + b"z", bytes(len(copies)) + b"w"):
        first.write_bytes(whole + tail)
        report = verify(tmp_path)
        assert not report.valid
        assert {finding.segment for finding in report.findings} == {first.name}


def _keep_first(count: int, entries: list[dict[str, object]]) -> None:
    del entries[count:]


def test_a_copy_with_an_older_manifest_is_noted(tmp_path: Path) -> None:
    """And one without, and one whose segments have no checksum files yet: the next opening completes it."""
    log = LivedLog(tmp_path / "audit").session()
    manifest = log.directory / "manifest.json"
    entries = len(json.loads(manifest.read_bytes())["segments"])
    assert entries > 2
    for kept in range(entries):
        rewrite_manifest(log, partial(_keep_first, kept))
        if not kept:
            manifest.unlink()
        report = log.report(expected=log.head)
        assert report.valid, report.findings
        assert note_kinds(report) == ["incomplete"]
        assert f"{entries - kept} that the chain records" in note(report, "incomplete")[1]
        assert log.report(LastRecords(2), expected=log.head).valid
        open_store(log.base_dir).close()
        assert log.report(expected=log.head).notes == ()
    for path in log.directory.glob("*.sha256"):
        path.unlink()
    report = log.report(expected=log.head)
    assert report.valid
    assert note_kinds(report) == ["incomplete"] * entries
    open_store(log.base_dir).close()
    assert log.report(expected=log.head).notes == ()


def test_unsealed_segments_are_read_one_after_another(tmp_path: Path) -> None:
    """Without a manifest the chain is still joined, and a gap in it found."""
    chain = three_segments(tmp_path, sealed=False)
    report = verify(tmp_path)
    assert report.valid
    assert report.logs[0].records == len(chain.lines)
    first, second, *_ = sorted(log_path(tmp_path).glob("*.audit"))
    content = second.read_bytes()
    second.unlink()
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.seq) == ("sequence", int(second.name[:12]))
    second.write_bytes(content)
    first.unlink()
    assert "records from seq 0" in only(verify(tmp_path)).reason


def test_what_retention_has_not_removed_yet_is_told(tmp_path: Path) -> None:
    """A crash between the manifest and the removal leaves files that nobody misses."""
    log = LivedLog(tmp_path / "audit").session()
    kept = log.segments[0].read_bytes()
    log.retain(archived=1)
    path = log.directory / "000000000000-2026-11-22.audit"
    path.write_bytes(kept)
    report = log.report()
    assert report.valid
    assert note_kinds(report) == ["leftover"]


def test_a_log_without_records_is_a_finding_unless_it_is_being_made(tmp_path: Path) -> None:
    """Removing every segment leaves an empty log."""
    store = open_store(tmp_path)
    assert verify(tmp_path).valid
    assert note_kinds(verify(tmp_path)) == ["in_use"]
    store.close()
    assert "its first opening failed before it recorded anything" in only(verify(tmp_path)).reason


def test_a_log_whose_segments_were_removed_is_told_from_one_that_never_recorded(tmp_path: Path) -> None:
    """The lock has what was acknowledged: that it was removed is said only if there was something."""
    log = LivedLog(tmp_path / "audit").session(2, max_bytes=1 << 20)
    for segment in log.segments:
        segment.unlink()
    assert f"up to record {log.chain.head.seq} at least, was removed" in only(log.report()).reason


def test_a_writer_is_told_by_its_pid_and_its_lock_is_left_alone(tmp_path: Path) -> None:
    """A log that is open is no log that was not shut down."""
    log = LivedLog(tmp_path / "audit").session(2, closed=False)
    store = open_store(log.base_dir)
    report = log.report()
    assert report.valid
    assert f"process {os.getpid()} " in note(report, "in_use")[1]
    assert note_kinds(report) == ["in_use"]
    store.close()
    assert note_kinds(log.report()) == ["unclean_end"]


def test_audit_ids_that_were_given_twice_are_found(tmp_path: Path) -> None:
    """In one segment, and in two."""
    log = LivedLog(tmp_path / "audit").session(2)
    log.chain.number -= 1
    again = log.chain.head.seq + 1
    log.session(2)
    finding = only(log.report())
    assert (finding.kind, finding.seq, finding.line) == ("audit_id", again, again + 1)
    log = LivedLog(tmp_path / "other").session()
    log.chain.number = 3
    log.session(1)
    assert {finding.kind for finding in log.report().findings} == {"audit_id"}
