"""Verifying beside a running writer that rotates, seals, archives and deletes: no false finding, ever."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import anyio
import pytest

from audit_async._layout.manifest import read_manifest
from audit_async._trail.log_files import Lines, find_logs
from audit_async._verify import segment_check
from audit_async._verify.verification import verify_trail
from audit_async._verify.verify_report import VerifyReport
from audit_async._verify.verify_scope import LastRecords
from tests.store.chained import log_path
from tests.trail.lived import LivedLog, changed, verify

# Begins a segment every few records; with each fourth one archives the oldest live one, with each eighth deletes one.
_WRITER = """
import sys
import time
from pathlib import Path
from audit_async.events.base import encode
from audit_async.events.lifecycle import AuditSegmentArchived, AuditSegmentDeleted
from audit_async._store.archiving import compress_segment
from audit_async._writer.segment_events import events_of
from tests.store.chained import Chain, open_store

chain = Chain()
store = open_store(Path(sys.argv[1]), max_bytes=3000)
due = []
rounds = 0
while True:
    rounds += 1
    time.sleep(0.003)  # the log must not outgrow its reader: many small segments are the point, not speed
    batch = chain.batch_of([*map(encode, due), *[b'{"event_type":"test.filled","text":"%s"}' % (b"x" * 80)] * 3])
    del chain.lines[:]
    due = events_of(store.commit(batch, sync=True))
    live = [entry for entry in store.sealed_segments if entry.state == "live"]
    if rounds % 16 == 0 and len(live) > 3:
        entry = live[0]
        archive = compress_segment(store.directory, entry)
        told = AuditSegmentArchived(segment=entry.segment, archive=archive.file, sha256=archive.sha256,
                                    archive_sha256=archive.archive_sha256)
        store.commit(chain.batch_of([encode(told)]), sync=True)
        store.archive_segment(archive)
    if rounds % 32 == 0:
        entry = next((entry for entry in store.sealed_segments if entry.state == "archived"), None)
        if entry is not None:
            told = AuditSegmentDeleted(segment=entry.segment, first_seq=entry.first_seq, last_seq=entry.last_seq,
                                       sha256=entry.sha256, hash=entry.hash, reason="age")
            store.commit(chain.batch_of([encode(told)]), sync=True)
            store.delete_segment(entry.segment)
    if rounds == 40:
        print("running", flush=True)
"""


@contextmanager
def running_writer(base_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that writes and rotates; it has done so several times when this is entered."""
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(base_dir)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def test_nothing_is_found_while_a_writer_rotates_archives_and_deletes(tmp_path: Path) -> None:
    """Thirty verifications, each of another moment; the log grows and is cut at its beginning meanwhile."""
    heads = set()
    with running_writer(tmp_path) as process:
        for n in range(30):
            scope = LastRecords(30) if n % 5 == 4 else None
            report = verify(tmp_path, scope, processes=2 if n % 10 == 0 else 1)
            assert report.valid, report.findings
            assert "in_use" in {note.kind for note in report.notes}
            (figures,) = report.logs
            assert figures.head is not None
            heads.add(figures.head.seq)
        assert process.poll() is None
    assert len(heads) > 10
    assert {entry.state for entry in read_manifest(log_path(tmp_path))} == {"live", "archived", "deleted"}
    killed = verify(tmp_path)
    assert killed.valid
    assert "in_use" not in {note.kind for note in killed.notes}


def test_a_torn_line_of_a_running_writer_is_no_finding_and_no_note(tmp_path: Path) -> None:
    """Half a record at the end is being written at this instant, as long as somebody has the lock."""
    log = LivedLog(tmp_path).session(2)
    whole = log.segments[-1].read_bytes()
    with running_writer(tmp_path / "other"):
        # A stand-in for the instant within a write: the lock is held, and part of a line is there.
        (log.directory / "lock").unlink()
        os.link(log_path(tmp_path / "other") / "lock", log.directory / "lock")
        log.segments[-1].write_bytes(whole + b'{"seq":')
        report = log.report()
        assert report.valid
        assert {note.kind for note in report.notes} == {"in_use", "truncation_unseen"}
    assert "torn_tail" in {note.kind for note in log.report().notes}


def test_a_line_that_is_completed_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it was there at one moment and all of it at the next: neither torn nor lost."""
    log = LivedLog(tmp_path).session(2)
    path, whole = log.segments[-1], log.segments[-1].read_bytes()
    path.write_bytes(whole[:-20])
    lines_between = segment_check._lines_between

    def grown_behind_the_reader(file: BinaryIO, begin: int, end: int | None) -> Iterator[Lines]:
        for lines in lines_between(file, begin, end):
            if not lines.data.endswith(b"\n"):
                path.write_bytes(whole)
            yield lines

    monkeypatch.setattr(segment_check, "_lines_between", grown_behind_the_reader)
    report = log.report(expected=log.head)
    assert report.valid
    assert report.notes == ()
    assert report.logs[0].bytes == len(whole)


def test_damage_is_found_beside_a_running_writer(tmp_path: Path) -> None:
    """Looking again because the manifest has changed does not make a finding go away."""
    with running_writer(tmp_path):
        process_report = None
        for _ in range(20):
            entry = [entry for entry in read_manifest(log_path(tmp_path)) if entry.state == "live"][-1]
            path = log_path(tmp_path) / entry.segment
            lines = path.read_bytes().splitlines(keepends=True)
            path.chmod(0o600)
            path.write_bytes(b"".join([changed(lines[0]), *lines[1:]]))
            process_report = verify(tmp_path)
            if any(finding.segment == entry.segment for finding in process_report.findings):
                break
        else:
            pytest.fail(f"not found: {process_report}")
        assert not process_report.valid


def test_a_verification_can_be_cancelled(tmp_path: Path) -> None:
    """Within a worker thread and with worker processes; nothing of it goes on running."""
    log = LivedLog(tmp_path).session(400, max_bytes=20_000)

    async def run(processes: int) -> None:
        with anyio.move_on_after(30) as scope:

            def cancel(_: object) -> None:
                scope.cancel()

            await verify_trail(find_logs(log.base_dir), processes=processes, progress=cancel)
        assert scope.cancelled_caught

    for processes in (1, 2):
        asyncio.run(run(processes))


def test_a_worker_that_can_not_be_started_or_dies_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had is checked in this process."""
    log = LivedLog(tmp_path).session()
    report: VerifyReport = log.report()
    for executable in ("/nonexistent/python", "/bin/false", "/bin/cat"):
        monkeypatch.setattr(sys, "executable", executable)
        assert log.report(processes=2) == report
