"""Opening: what the last session left is read, checked, and put in order, before anything is written.

Everything is checked before anything is changed, so damage that no crash explains leaves the directory as it was.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from audit_async.chain import BadRecord, Head, check_record
from audit_async.errors import LogCorrupted
from audit_async.store import disk
from audit_async.store.directory import TORN, UNFINISHED, Identity, LogDirectory, SegmentName, open_regular
from audit_async.store.manifest import MANIFEST_FILE, Manifest, SealedSegment, decode_manifest
from audit_async.store.sealing import CHECKSUM, make_read_only, seal, write_checksum
from audit_async.store.segment import Extent, Segment


class TornTail(NamedTuple):
    """What a crash left behind the last whole record, and where it is now."""

    bytes: int
    sha256: str  #: 64 hex digits
    file: str  #: below the log's directory
    segment: str
    reason: str


class Found(NamedTuple):
    """One segment as it was read, up to its last whole record."""

    name: SegmentName
    segment: Segment
    size: int  #: of the file, with what is behind the last whole record
    tail: str  #: why there is something behind it; empty where there is nothing
    recorded: frozenset[str]  #: segments whose `audit.segment_sealed` stands in it


def read_segment(directory: LogDirectory, name: SegmentName, after: Head) -> Found:
    """Read and check a segment record by record; `after` is the head of the chain before it.

    A torn last line, and zero bytes behind the last record, are what a crash leaves. Anything else that is no record
    raises `LogCorrupted`.
    """
    fd = open_regular(str(name), dir_fd=directory.fd, writable=True)
    try:
        return _read(fd, directory, name, after)
    except BaseException:
        disk.close(fd)
        raise


def _read(fd: int, directory: LogDirectory, name: SegmentName, after: Head) -> Found:
    size = os.fstat(fd).st_size
    digest = hashlib.sha256()
    head, at, number, first, last, recorded = after, 0, 0, "", "", set()
    prev_hash = after.hash
    tail = ""
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        for line in file:
            number += 1
            try:
                checked = check_record(line, head)
            except BadRecord as error:
                rest = line + file.read()
                tail = _tail(rest)
                if not tail:
                    raise LogCorrupted(str(name), number, head.seq + 1, str(error)) from error
                break
            if number == 1:
                first = checked.timestamp
                if head.seq + 1 != name.first_seq:
                    raise LogCorrupted(str(name), 1, head.seq + 1, "its name does not fit its first record")
            head, last = checked.head, checked.timestamp
            digest.update(line)
            at += len(line)
            if b'"event":{"event_type":"audit.segment_sealed","segment":"' in line[:300]:
                event = msgspec.json.decode(line)["event"]
                recorded.add(event["segment"])
    extent = Extent(at, head, last)
    segment = Segment(
        fd, name, str(directory.path / str(name)), prev_hash=prev_hash, extent=extent, digest=digest, timestamp=first
    )
    return Found(name, segment, size, tail, frozenset(recorded))


def _tail(rest: bytes) -> str:
    """Return why a crash explains `rest`, the empty text where none does."""
    if not rest.strip(b"\0"):
        return "zero bytes"
    body = rest.rstrip(b"\0")
    if b"\n" not in body:
        return "torn record"
    if body.count(b"\n") == 1 and body.endswith(b"\n") and b"\0" in body:
        return "torn record"
    return ""


class Recovered(NamedTuple):
    """A log that is ready to be written."""

    identity: Identity
    manifest: Manifest
    active: Segment | None  #: None where there is no record yet
    head: Head
    torn: tuple[TornTail, ...]
    unrecorded: tuple[SealedSegment, ...]  #: sealed, but the chain does not say so yet


def recover(directory: LogDirectory) -> Recovered:
    """Read what the last session left, check it, and put it in order; on return all of it is durable.

    Sealed segments are not read: the manifest says what they are. Every other one is, record by record. In order:

    1. read log.json, the manifest and the unsealed segments; `LogCorrupted` ends it here, with nothing changed
    2. tails that a crash explains are copied to torn/, synced, and cut off; empty segments are removed
    3. all unsealed segments but the last are sealed (see `sealing`); names that a crash left undone are completed
    4. the last segment is synced: what was read may only have been in the page cache of a killed process
    """
    names = directory.names()
    segments = sorted(name for name in map(SegmentName.parse, names) if name is not None)
    identity = directory.identify(may_create=not segments)
    manifest = Manifest(identity.log_id, _read_manifest(directory, names, identity.log_id))
    known = {entry.segment for entry in manifest.segments}
    _check_sealed(manifest, names)
    found: list[Found] = []
    try:
        head = manifest.head
        for name in segments:
            if str(name) not in known:
                found.append(read_segment(directory, name, head))
                head = found[-1].segment.written.head
        _check_order(found)
        return _put_in_order(directory, identity, manifest, found, names)
    except BaseException:
        for each in found:
            disk.close(each.segment.fd)
        raise


def _read_manifest(directory: LogDirectory, names: set[str], log_id: str) -> tuple[SealedSegment, ...]:
    return decode_manifest(directory.read(MANIFEST_FILE), log_id) if MANIFEST_FILE in names else ()


def _check_sealed(manifest: Manifest, names: set[str]) -> None:
    for entry in manifest.segments:
        if entry.state == "live" and entry.segment not in names:
            raise LogCorrupted(entry.segment, None, entry.first_seq, "the sealed segment is missing")


def _check_order(found: list[Found]) -> None:
    """Only the last segment can have been written when the process died; the others end with a whole record."""
    for each in found[:-1]:
        if each.tail and found[-1].segment.written.bytes:
            line = each.segment.written.head.seq - each.name.first_seq + 2
            raise LogCorrupted(str(each.name), line, each.segment.written.head.seq + 1, "damage in the middle")


def _put_in_order(
    directory: LogDirectory, identity: Identity, manifest: Manifest, found: list[Found], names: set[str]
) -> Recovered:
    torn = [_put_aside(directory, each) for each in found if each.tail]
    kept = []
    for each in found:
        if each.segment.written.bytes:
            kept.append(each)
        else:
            disk.close(each.segment.fd)
            disk.unlink(str(each.name), dir_fd=directory.fd)
    for name in names:
        if name.endswith(UNFINISHED):
            disk.unlink(name, dir_fd=directory.fd)
    for each in kept:
        disk.sync_data(each.segment.fd)
        each.segment.mark_synced()
        each.segment.name_durable = True
    directory.sync()
    if len(kept) > 1:
        seal(directory, manifest, [each.segment.as_sealed() for each in kept[:-1]], recorded=frozenset())
        for each in kept[:-1]:
            disk.close(each.segment.fd)
    _complete(directory, manifest, names)
    active = kept[-1] if kept else None
    recorded = active.recorded if active else frozenset()
    unrecorded = [entry for entry in manifest.segments[-len(kept) - 1 :] if entry.segment not in recorded]
    head = active.segment.written.head if active else manifest.head
    return Recovered(identity, manifest, active.segment if active else None, head, tuple(torn), tuple(unrecorded))


def _complete(directory: LogDirectory, manifest: Manifest, names: set[str]) -> None:
    """Add what a crash behind the manifest's replacement may have left undone."""
    for entry in manifest.segments[-2:]:
        if entry.state == "live" and entry.segment + CHECKSUM not in names:
            write_checksum(directory, entry)
            make_read_only(directory, entry.segment)
            directory.sync()


def _put_aside(directory: LogDirectory, found: Found) -> TornTail:
    """Copy what is behind the last whole record to torn/, durably, then cut it off."""
    extent = found.segment.written
    rest = disk.read_at(found.segment.fd, found.size - extent.bytes, extent.bytes)
    sha256 = hashlib.sha256(rest).hexdigest()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    name = f"{found.name}.{stamp}"
    torn = directory.open_subdirectory(TORN)
    try:
        fd = disk.create_file(name, dir_fd=torn)
        try:
            disk.write_at(fd, rest, 0)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.sync_directory(torn)
    finally:
        disk.close(torn)
    disk.truncate(found.segment.fd, extent.bytes)
    return TornTail(len(rest), sha256, f"{TORN}/{name}", str(found.name), found.tail)
