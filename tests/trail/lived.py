"""Logs that have lived: sessions, sealed segments and the records of their seals, retention; made without a writer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from audit_async._chain.record_format import PREV_AT
from audit_async._store.archiving import compress_segment
from audit_async._trail.log_files import find_logs
from audit_async._verify.findings import Finding
from audit_async._verify.verification import verify_trail
from audit_async._verify.verify_report import Progress, VerifyReport
from audit_async._verify.verify_scope import Scope
from audit_async._writer.segment_events import events_of
from audit_async._writer.stated_holds import StatedHolds
from audit_async.events.base import AuditEvent, encode
from audit_async.events.lifecycle import (
    AuditLogClosed,
    AuditLogOpened,
    AuditSegmentArchived,
    AuditSegmentDeleted,
)
from audit_async.status import Position
from tests.chain.test_chain import resealed
from tests.store.chained import Chain, log_path, open_store

SEGMENT_BYTES: Final = 4000


class LivedLog:
    """A log of the service `orders`, and what was put into its chain."""

    def __init__(self, base_dir: Path) -> None:
        self.base_dir = base_dir
        self.directory = log_path(base_dir)
        self.chain = Chain()

    def session(
        self, batches: int = 12, *, per_batch: int = 3, max_bytes: int = SEGMENT_BYTES, closed: bool = True
    ) -> LivedLog:
        """Open the log, write so many batches, and close it; seals are told in the chain, as a writer does."""
        store = open_store(self.base_dir, max_bytes=max_bytes)
        due: list[AuditEvent] = [
            AuditLogOpened(library_version="1", format_version=1, host="h", pid=1, flush_mode="immediate"),
        ]
        for _ in range(batches):
            events = [encode(event) for event in due]
            filled = b'{"event_type":"test.filled","text":"%s"}' % (b"x" * 100)
            committed = store.commit(self.chain.batch_of([*events, *[filled] * per_batch]), sync=True)
            due = events_of(committed, StatedHolds(()))
        if closed:
            due.append(AuditLogClosed())
        if due:
            store.commit(self.chain.batch_of([encode(event) for event in due]), sync=True)
        store.close()
        return self

    def retain(self, *, archived: int = 0, deleted: int = 0) -> LivedLog:
        """Archive so many segments, then delete so many, from the oldest on; each step is told first."""
        store = open_store(self.base_dir, max_bytes=SEGMENT_BYTES)
        for entry in store.sealed_segments[:archived]:
            archive = compress_segment(store.directory, entry)
            told = AuditSegmentArchived(
                segment=entry.segment,
                archive=archive.file,
                sha256=archive.sha256,
                archive_sha256=archive.archive_sha256,
            )
            store.commit(self.chain.batch_of([encode(told)]), sync=True)
            store.archive_segments([archive])
        for entry in store.sealed_segments[:deleted]:
            told_ = AuditSegmentDeleted(
                segment=entry.segment,
                first_seq=entry.first_seq,
                last_seq=entry.last_seq,
                sha256=entry.sha256,
                hash=entry.hash,
                reason="age",
            )
            store.commit(self.chain.batch_of([encode(told_)]), sync=True)
            store.delete_segments([entry.segment])
        store.close()
        return self

    @property
    def segments(self) -> list[Path]:
        """The live segments, oldest first."""
        return sorted(self.directory.glob("*.audit"))

    @property
    def head(self) -> Position:
        """The chain's head."""
        return Position(self.chain.head.seq, self.chain.head.hash.decode())

    def report(
        self, scope: Scope | None = None, *, expected: Position | None = None, processes: int = 1
    ) -> VerifyReport:
        """Verify it."""
        return verify(self.base_dir, scope, expected={"orders/00": expected} if expected else {}, processes=processes)

    def edit(self, path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Replace a segment's lines with what `change` makes of them."""
        mode = path.stat().st_mode
        path.chmod(0o600)
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
        path.chmod(mode)


def changed(line: bytes) -> bytes:
    """Return a record with one byte of its event changed."""
    where = line.index(b'"event_type":"') + len(b'"event_type":"')
    return line[:where] + bytes([line[where] ^ 1]) + line[where + 1 :]


def forge(log: LivedLog, old: bytes, new: bytes) -> None:
    """Change every record and write the whole chain anew, with its manifest and checksum files, so that all fits."""
    previous = b"0" * 64
    content: dict[str, bytes] = {}
    for path in log.segments:
        lines = []
        for line in path.read_bytes().splitlines(keepends=True):
            changed_line = line.replace(old, new)
            lines.append(resealed(changed_line[:PREV_AT] + previous + changed_line[PREV_AT + 64 :]))
            previous = lines[-1][-67:-3]
        content[path.name] = b"".join(lines)
        path.chmod(0o600)
        path.write_bytes(content[path.name])

    def fit(entries: list[dict[str, object]]) -> None:
        for entry in entries:
            name = str(entry["segment"])
            lines = content[name].splitlines(keepends=True)
            entry["prev_hash"], entry["hash"] = lines[0][PREV_AT : PREV_AT + 64].decode(), lines[-1][-67:-3].decode()
            entry["bytes"], entry["sha256"] = len(content[name]), sha256(content[name]).hexdigest()
            checksum = log.directory / f"{name}.sha256"
            checksum.chmod(0o600)
            checksum.write_text(f"{entry['sha256']}  {name}\n")

    if (log.directory / "manifest.json").exists():
        rewrite_manifest(log, fit)


def rewrite_manifest(log: LivedLog, change: Callable[[list[dict[str, object]]], object]) -> None:
    """Change the manifest's entries."""
    path = log.directory / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content["segments"])
    path.write_text(json.dumps(content))


def verify(
    base_dir: Path,
    scope: Scope | None = None,
    *,
    expected: dict[str, Position] | None = None,
    processes: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> VerifyReport:
    """Verify all logs below a directory."""

    async def run() -> VerifyReport:
        return await verify_trail(
            find_logs(base_dir), scope, expected_heads=expected, processes=processes, progress=progress
        )

    return asyncio.run(run())


def found(report: VerifyReport) -> list[tuple[str, int | None]]:
    """Return the kind and the seq of each finding."""
    assert report.valid == (not report.findings)
    return [(finding.kind, finding.seq) for finding in report.findings]


def only(report: VerifyReport) -> Finding:
    """Return the one finding of a report."""
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def note_kinds(report: VerifyReport) -> list[str]:
    """Return the kinds of the notes, but for what every report without an expected head says."""
    return [note.kind for note in report.notes if note.kind != "truncation_unseen"]


def at(seconds: float) -> datetime:
    """Return the moment so many seconds after the first record of a `Chain`."""
    return datetime.fromtimestamp(1_795_348_800 + seconds, UTC)
