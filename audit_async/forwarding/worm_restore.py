"""Making log directories again of what a bucket has: the first version of everything, verified record by record.

The segments are put in their places as they were stored, the manifest is made again by reading every record, which
checks each hash and link, and the result is compared with the heads in the bucket: what a head names and the restored
chain does not have is reported, never passed over. What was not sealed when the last push came is not in the bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from audit_async._durable import disk
from audit_async._layout.age_files import Identities
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._layout.names import (
    ARCHIVE,
    COLLECTED_FILE,
    COLLECTED_NAME,
    CONFIGURABLE_NAME,
    LOG_FILE,
    MANIFEST_FILE,
    UNFINISHED,
    SegmentName,
)
from audit_async._store.log_directory import LogDirectory
from audit_async._store.log_restore import Rebuilt, rebuild
from audit_async._store.manifest_file import Manifest
from audit_async._store.writer_lock import WriterLock
from audit_async.errors import LogCorrupted
from audit_async.forwarding.batches import Head
from audit_async.forwarding.collector_root import prepare_root
from audit_async.forwarding.sink_errors import SinkRefused
from audit_async.forwarding.worm_bucket import Bucket, ObjectVersion, StoredKey
from audit_async.forwarding.worm_objects import HeadObject, StoredLog, StoredSegment, heads_of, log_id_of

__all__ = ["RestoredLog", "logs_in", "restore_log"]


class RestoredLog(Struct, frozen=True, kw_only=True):
    """What was restored of one log."""

    log: str  #: its place below the target
    log_id: str
    segments: int
    bytes: int  #: of what was read from the bucket
    head: Head  #: of the restored chain
    unread: int  #: encrypted segments that no identity opens, as they were stored
    #: What is odd in the bucket, or missing in what was restored.
    findings: tuple[str, ...] = ()


def logs_in(bucket: Bucket) -> Iterator[StoredLog]:
    """Yield the logs that are in a bucket, by their log_id; what is in memory is the keys of one of them."""
    log_id: str | None = None
    keys: dict[str, StoredKey] = {}
    for key, there in bucket.listed():
        of = log_id_of(key)
        if of != log_id:
            if log_id is not None:
                yield StoredLog(log_id, keys)
            log_id, keys = of, {}
        if of is not None:
            keys[key] = there
    if log_id is not None:
        yield StoredLog(log_id, keys)


def restore_log(
    bucket: Bucket, stored: StoredLog, target: Path, *, taken: set[Path], identities: Identities | None = None
) -> RestoredLog:
    """Restore one log below `target`, which must not have it.

    Args:
        bucket: Where it is.
        stored: What is there of it.
        target: The base directory, or the collector's root; absolute.
        taken: The directories of logs that were restored before; this one's is added.
        identities: What opens encrypted segments; without them they are restored as they are.

    Raises:
        FileExistsError: The log is there already; it is never overwritten.
        LogLocked: It is being restored, or written, by another process.
        LogCorrupted: What the bucket has is no log that can be read.
        SinkRefused: log.json is missing, or the server refuses.
        SinkUnavailable: The bucket can't be reached; remove what was restored of this log, and restore it again.
        OSError: The disk refuses.
    """
    if stored.identity is None:
        raise SinkRefused(f"{bucket.place}{stored.log_id}/{LOG_FILE} is missing, so it can't be said whose log it is")
    content = bucket.read_small(stored.identity)
    identity = _identity(content, stored.log_id)
    heads = heads_of(bucket, stored)
    directory = _open(target, identity, heads, taken)
    try:
        _refuse_other_log(directory)  # before the lock, so that a log whose service runs is refused with these words
        taken.add(directory.path)
        lock = WriterLock(directory)
        try:
            _refuse_other_log(directory)  # another restore, or a service, may have made it meanwhile
            entries = _entries(heads, stored)
            size = _Fetch(bucket, directory, stored, entries).run()
            Manifest(stored.log_id).write(directory, _as_restored(entries, stored))
            rebuilt = rebuild(directory, stored.log_id, identities)
            _compare(read_manifest(directory.path), rebuilt, entries, heads, stored)
            # Last, so that nobody takes for a log what was interrupted.
            directory.replace(LOG_FILE, content)
            directory.sync()
        finally:
            lock.close()
    finally:
        directory.close()
    return RestoredLog(
        log=str(directory.path.relative_to(target)),
        log_id=stored.log_id,
        segments=rebuilt.segments,
        bytes=size,
        head=Head(seq=rebuilt.head.seq, hash=rebuilt.head.hash.decode()),
        unread=rebuilt.unread,
        findings=(*stored.findings, *(f"{name}: after a gap, so set aside" for name in rebuilt.set_aside)),
    )


def _refuse_other_log(directory: LogDirectory) -> None:
    """Raise `FileExistsError` if a log is there."""
    if any(SegmentName.parse(name) is not None or name in {LOG_FILE, MANIFEST_FILE} for name in directory.names()):
        raise FileExistsError(
            f"{directory.path} is there already, and a log is never overwritten; stop its service and move it away. "
            "What an interrupted restore has left has no log.json, and may be removed"
        )


def _identity(content: bytes, log_id: str) -> Identity:
    try:
        identity = msgspec.json.decode(content, type=Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(LOG_FILE, None, None, "the object is not what the library writes") from error
    if identity.log_id != log_id:
        raise LogCorrupted(LOG_FILE, None, None, "the object belongs to another log")
    return identity


def _open(target: Path, identity: Identity, heads: list[HeadObject], taken: set[Path]) -> LogDirectory:
    """Open the place where a log was, by the head that was stored first; without one, as log.json has it.

    The second log of one service and instance gets its log_id as its instance.
    """
    first = heads[0] if heads else None
    if first is not None and (of := first.collected) is not None and of.log_id == identity.log_id:
        *above, service, instance = first.place.split("/")
        prepare_root(target)
        at = target.joinpath(*above)
        directory = LogDirectory(at, service, instance, allow_insecure_dir=False, names=COLLECTED_NAME)
        if not any(map(SegmentName.parse, directory.names())):
            directory.replace(COLLECTED_FILE, msgspec.json.encode(of) + b"\n")
        return directory
    instance = identity.instance or (first.instance if first is not None else "")
    if not CONFIGURABLE_NAME.fullmatch(instance) or target / identity.service_id / instance in taken:
        instance = identity.log_id
    return LogDirectory(target, identity.service_id, instance, allow_insecure_dir=False)


def _entries(heads: list[HeadObject], stored: StoredLog) -> list[SealedSegment]:
    """Return the manifest's entries that the heads have, as far as they follow each other."""
    entries: list[SealedSegment] = []
    for head in heads:
        for entry in head.entries:
            is_next = entry.first_seq == (entries[-1].last_seq + 1 if entries else 0)
            if is_next and (not entries or entry.prev_hash == entries[-1].hash):
                entries.append(entry)
            elif all(known.segment != entry.segment or known.hash != entry.hash for known in entries):
                stored.findings.append(
                    f"{entry.segment}: a later head says something else of the log than an earlier one"
                )
    return entries


def _as_restored(entries: list[SealedSegment], stored: StoredLog) -> list[SealedSegment]:
    """Return the entries as the manifest of what was fetched has them; it is made again by reading the records."""
    adapted = []
    for entry in entries:
        there = stored.segments.get(entry.segment)
        if there is None:
            adapted.append(entry)
        elif there.is_plain:
            kept = "damaged" if entry.state == "damaged" else "live"
            adapted.append(msgspec.structs.replace(entry, state=kept, encrypted=UNSET))
        else:
            encrypted = entry.encrypted if there.is_encrypted else UNSET
            adapted.append(msgspec.structs.replace(entry, state="archived", encrypted=encrypted))
    return adapted


class _Fetch:
    """Brings the segments of a log from the bucket to its directory."""

    def __init__(
        self, bucket: Bucket, directory: LogDirectory, stored: StoredLog, entries: list[SealedSegment]
    ) -> None:
        self._bucket: Final = bucket
        self._directory: Final = directory
        self._stored: Final = stored
        self._known: Final = {entry.segment: entry for entry in entries}

    def run(self) -> int:
        """Fetch all; return how many bytes that was. All of it is durable."""
        size = 0
        for segment in self._stored.segments.values():
            into = self._directory.fd if segment.is_plain else self._directory.open_subdirectory(ARCHIVE)
            try:
                self._compare(segment, self._fetch(segment.version, segment.file, into))
                disk.sync_directory(into)
            finally:
                if not segment.is_plain:
                    disk.close(into)
            size += segment.version.size
        return size

    def _fetch(self, version: ObjectVersion, name: str, into: int) -> str:
        """Write an object to a file, synced and then renamed; return its SHA-256."""
        unfinished = name + UNFINISHED
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=into)
        digest = hashlib.sha256()
        fd = disk.create_file(unfinished, dir_fd=into)
        try:
            self._directory.access.apply_to_file(fd)
            at = 0
            for piece in self._bucket.read(version):
                disk.write_at(fd, piece, at)
                digest.update(piece)
                at += len(piece)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, name, dir_fd=into)
        return digest.hexdigest()

    def _compare(self, segment: StoredSegment, sha256: str) -> None:
        """Compare a file with what the heads say of it; compressed ones are read record by record later."""
        entry = self._known.get(segment.segment)
        if entry is None or entry.state == "damaged":
            return
        encrypted = entry.encrypted.sha256 if entry.encrypted is not UNSET else None
        wanted = {True: entry.sha256, False: encrypted if segment.is_encrypted else None}[segment.is_plain]
        if wanted is not None and sha256 != wanted:
            self._stored.findings.append(f"{segment.version.key}: it is not what the head in the bucket says")


def _compare(
    sealed: Sequence[SealedSegment],
    rebuilt: Rebuilt,
    entries: list[SealedSegment],
    heads: list[HeadObject],
    stored: StoredLog,
) -> None:
    """Compare the restored chain with all that the heads say of it."""
    hashes = {entry.last_seq: entry.hash for entry in sealed}
    hashes[rebuilt.head.seq] = rebuilt.head.hash.decode()
    for head in heads:
        if head.seq > rebuilt.head.seq:
            stored.findings.append(
                f"the bucket has a head up to record {head.seq}, and only records up to {rebuilt.head.seq} could be "
                "restored"
            )
        elif hashes.get(head.seq) != head.hash:
            stored.findings.append(f"the head at record {head.seq} in the bucket is not that of the restored chain")
    gone = {entry.segment for entry in sealed if entry.state in {"deleted", "lost"}}
    for entry in entries:
        if entry.segment in gone and entry.state not in {"deleted", "lost"}:
            stored.findings.append(f"{entry.segment}: the heads have it, and the bucket does not have it any more")
