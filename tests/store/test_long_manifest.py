"""The manifest of a log with many segments: the same bytes as ever, at a cost that does not grow with each seal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, Local, RetentionPolicy
from audit_async._durable import disk
from audit_async._layout.manifest import ManifestFile, SealedSegment, encode_entries, read_manifest, read_manifest_file
from audit_async._store.archiving import Archive
from audit_async._store.log_directory import LogDirectory
from audit_async._store.log_store import LogStore
from audit_async._store.manifest_file import Manifest
from audit_async._writer.upkeep import RetentionReport
from bench.long_trail import Shape, write_log
from tests.store.chained import memory_directory
from tests.trails import check_trail, read_events

LOG_ID = "0" * 32


def entries(count: int) -> list[SealedSegment]:
    """Return that many entries; they need not be of a chain to be written."""
    return [
        SealedSegment(
            segment=f"{10 * n:012d}-2026-11-22.audit",
            first_seq=10 * n,
            last_seq=10 * n + 9,
            first_timestamp="2026-11-22T00:00:00.000000Z",
            last_timestamp="2026-11-22T00:00:00.000000Z",
            records=10,
            bytes=1000,
            sha256="1" * 64,
            prev_hash="2" * 64,
            hash="3" * 64,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("rebuilt", [None, "2026-11-22T00:00:00.000000Z"])
def test_the_file_is_the_same_as_if_it_were_encoded_at_once(tmp_path: Path, rebuilt: str | None) -> None:
    """Whatever was written before, the bytes are those of one encoder over all of it: other tools may rely on them."""
    directory = LogDirectory(tmp_path, "orders", "00", allow_insecure_dir=False)
    manifest = Manifest(LOG_ID, rebuilt=rebuilt)
    known: list[SealedSegment] = []
    for count in (0, 1, 2, 255, 256, 257, 600):
        known += entries(count)[len(known) :]
        if count > 300:
            known[5] = msgspec.structs.replace(known[5], state="deleted")
        if known:
            known[-1] = msgspec.structs.replace(known[-1], recorded=True)
        manifest.write(directory, known)
        file = ManifestFile(format_version=1, log_id=LOG_ID, rebuilt=rebuilt, segments=tuple(known))
        written = directory.read("manifest.json", max_bytes=1 << 24)
        assert written == msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n" == file.encode()
    directory.close()


def test_one_more_seal_encodes_only_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20,000 segments, the work in Python is that of the last entries: encoding all of them takes 13 to 30 ms."""
    directory = LogDirectory(tmp_path, "orders", "00", allow_insecure_dir=False)
    manifest, known = Manifest(LOG_ID), entries(20_000)
    manifest.write(directory, known[:-1])
    encoded: list[int] = []

    def count(some: Sequence[SealedSegment]) -> bytes:
        encoded.append(len(some))
        return encode_entries(some)

    monkeypatch.setattr("audit_async._store.manifest_file.encode_entries", count)
    manifest.write(directory, [*known[:-2], msgspec.structs.replace(known[-2], recorded=True), known[-1]])
    assert sum(encoded) < 1000
    directory.close()


async def applied(base_dir: Path, policy: RetentionPolicy, days: int) -> RetentionReport:
    """Apply a policy to a log that `write_log` made, so many days later."""
    config = AuditConfig(mode=Local(base_dir), service_id="bench", retention=policy, handle_signals=False)
    async with AuditLogger(config) as audit:
        assert audit._session is not None
        upkeep = audit._session.upkeep
        upkeep._jumped_s = float("inf")
        now = upkeep._now
        upkeep._now = lambda: now() + timedelta(days=days)
        return await audit.apply_retention()


DELETING = RetentionPolicy(min_retention_days=1, archive_after_days=1, delete_after_days=2, automatic=False)
ARCHIVING = RetentionPolicy(min_retention_days=1, archive_after_days=1, delete_after_days=9999, automatic=False)


@pytest.mark.anyio
@pytest.mark.parametrize(("policy", "kind"), [(DELETING, "deleted"), (ARCHIVING, "archived")])
async def test_retention_of_many_segments_writes_little_manifest_for_each(
    policy: RetentionPolicy, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the whole manifest for every step, 10 MB a step if there are 20,000; each step is in the chain."""
    written: list[int] = []
    write_at = disk.write_at

    def count(fd: int, data: bytes, offset: int) -> None:
        if data.startswith(b'{\n "format_version"'):
            written.append(len(data))
        write_at(fd, data, offset)

    with memory_directory() as base_dir:
        log = write_log(base_dir, Shape(1500, segments=1300, rare_hits=0)).directory
        monkeypatch.setattr(disk, "write_at", count)
        report = await applied(base_dir, policy, days=400)
        assert report.ok
        assert len(report.steps) == 1300  # opening seals the last one, whose day is over
        assert sum(written) <= len(report.steps) * (96 << 10)
        assert [entry.state for entry in read_manifest(log)] == [kind] * 1300
        check_trail(log)
        recorded = [r["event"]["segment"] for r in read_events(log) if r["event"]["event_type"].endswith(kind)]
        assert recorded == [step.segment for step in report.steps]


@pytest.mark.anyio
async def test_one_archive_that_was_touched_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken together if the manifest is long; one that can't be taken leaves the others their turn."""
    archive_segments = LogStore.archive_segments
    with memory_directory() as base_dir:
        log = write_log(base_dir, Shape(400, segments=300, rare_hits=0)).directory
        touched = read_manifest(log)[7].segment

        def touch(log_store: LogStore, archives: Sequence[Archive]) -> None:
            if any(archive.segment == touched for archive in archives):
                path = log / "archive" / f"{touched}.zst"
                path.chmod(0o600)
                path.write_bytes(path.read_bytes() + b"x")
            archive_segments(log_store, archives)

        monkeypatch.setattr(LogStore, "archive_segments", touch)
        report = await applied(base_dir, ARCHIVING, days=100)
        assert [step.segment for step in report.steps if not step.done] == [touched]
        file = read_manifest_file(log)
        assert file is not None
        assert next(entry.segment for entry in file.segments if entry.state == "live") == touched
        check_trail(log)


@pytest.mark.anyio
async def test_a_hold_between_two_groups_stops_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for before each group, and nothing is recorded that did not happen."""
    delete_segments = LogStore.delete_segments
    with memory_directory() as base_dir:
        log = write_log(base_dir, Shape(400, segments=300, rare_hits=0)).directory
        done: list[str] = []

        def delete_and_hold(log_store: LogStore, segments: Sequence[str]) -> None:
            delete_segments(log_store, segments)
            done.extend(segments)
            log_store.set_hold(reason="case 4711", set_by="legal", now=datetime.now(UTC))

        monkeypatch.setattr(LogStore, "delete_segments", delete_and_hold)
        report = await applied(base_dir, DELETING, days=400)
        assert [step.segment for step in report.steps if step.done] == done
        assert 1 < len(done) < 10
        deleted = [
            r["event"]["segment"] for r in read_events(log) if r["event"]["event_type"] == "audit.segment_deleted"
        ]
        assert deleted == done
