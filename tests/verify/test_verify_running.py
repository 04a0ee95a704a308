"""Verifying beside a running writer that rotates, seals, archives and deletes: no false finding, ever."""

from __future__ import annotations

import asyncio
import os
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

# Begins a segment every few records; with each 16th round it archives the oldest live one, with each 32nd it deletes
# one. It does as many rounds as it is asked for and says when they are done: its reader is never outrun.
_WRITER = """
import sys
from pathlib import Path
from audit_async.events.base import encode
from audit_async.events.lifecycle import AuditSegmentArchived, AuditSegmentDeleted
from audit_async._store.archiving import compress_segment
from audit_async._writer.segment_events import events_of
from audit_async._writer.stated_holds import StatedHolds
from tests.store.chained import Chain, open_store

chain = Chain()
store = open_store(Path(sys.argv[1]), max_bytes=3000)
due = []
rounds = 0

def write():
    global due, rounds
    rounds += 1
    batch = chain.batch_of([*map(encode, due), *[b'{"event_type":"test.filled","text":"%s"}' % (b"x" * 80)] * 3])
    del chain.lines[:]
    due = events_of(store.commit(batch, sync=True), StatedHolds(()))
    live = [entry for entry in store.sealed_segments if entry.state == "live"]
    if rounds % 16 == 0 and len(live) > 3:
        entry = live[0]
        archive = compress_segment(store.directory, entry)
        event = AuditSegmentArchived(segment=entry.segment, archive=archive.file, sha256=archive.sha256,
                                     archive_sha256=archive.archive_sha256)
        store.commit(chain.batch_of([encode(event)]), sync=True)
        store.archive_segments([archive])
    if rounds % 32 == 0:
        entry = next((entry for entry in store.sealed_segments if entry.state == "archived"), None)
        if entry is not None:
            event = AuditSegmentDeleted(segment=entry.segment, first_seq=entry.first_seq, last_seq=entry.last_seq,
                                        sha256=entry.sha256, hash=entry.hash, reason="age")
            store.commit(chain.batch_of([encode(event)]), sync=True)
            store.delete_segments([entry.segment])

for asked in sys.stdin:
    for _ in range(int(asked)):
        write()
    print("done", flush=True)
"""


class Writer:
    """A process that writes and rotates as many rounds as it is asked for."""

    def __init__(self, base_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(base_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, rounds: int) -> None:
        """Let it write, while the caller does something else."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rounds}\n")
        self._process.stdin.flush()

    def wait_done(self) -> None:
        """Return once it has written what it was asked for."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "done\n"

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait(60)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def running_writer(base_dir: Path) -> Iterator[Writer]:
    """Run a process that has written and rotated several times when this is entered, and has the log until the end."""
    writer = Writer(base_dir)
    try:
        writer.begin(40)
        writer.wait_done()
        yield writer
    finally:
        writer.kill()


def test_nothing_is_found_while_a_writer_rotates_archives_and_deletes(tmp_path: Path) -> None:
    """Thirty verifications, each while twenty rounds are written: the log grows, and is cut at its beginning."""
    heads = set()
    with running_writer(tmp_path) as writer:
        for n in range(30):
            writer.begin(20)
            scope = LastRecords(30) if n % 5 == 4 else None
            report = verify(tmp_path, scope, processes=2 if n % 10 == 0 else 1)
            assert report.valid, report
            assert "in_use" in {note.kind for note in report.notes}
            (figures,) = report.logs
            assert figures.head is not None
            heads.add(figures.head.seq)
            writer.wait_done()
    assert len(heads) > 20  # else it was never verified while it grew
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
    """Surveying again because the manifest has changed does not make a finding go away."""
    with running_writer(tmp_path) as writer:
        entry = [entry for entry in read_manifest(log_path(tmp_path)) if entry.state == "live"][-1]
        path = log_path(tmp_path) / entry.segment
        lines = path.read_bytes().splitlines(keepends=True)
        path.chmod(0o600)
        path.write_bytes(b"".join([changed(lines[0]), *lines[1:]]))
        writer.begin(20)  # too few to archive this segment
        report = verify(tmp_path)
        assert entry.segment in {finding.segment for finding in report.findings}, report
        writer.wait_done()


def test_a_verification_can_be_cancelled(tmp_path: Path) -> None:
    """Within a worker thread and with worker processes; nothing of it goes on running."""
    log = LivedLog(tmp_path).session(400, max_bytes=20_000)

    async def run(processes: int) -> None:
        with anyio.move_on_after(60) as scope:

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
