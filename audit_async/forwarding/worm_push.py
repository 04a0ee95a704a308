"""Bringing the sealed segments of a log, and its head, to a bucket that locks them.

The order, for each log, so that a process killed anywhere leaves nothing wrong and the next push goes on:

1. what is in the bucket is listed       the listing decides what is missing, never a local note alone
2. log.json                              without it nothing else can be restored
3. each sealed segment that is missing   hashed, compared with the manifest, stored with that SHA-256 as a condition
4. the object is looked at               first version, size, SHA-256 of the server, compliance mode, retain-until date
5. the receipt is written                only now the segment counts as stored
6. the head                              names the last record up to which every segment is stored

A segment is stored in the form that it has at this moment; archiving it later needs no second copy of it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from audit_async._layout.archive_reading import DAMAGED_ARCHIVE, open_binary
from audit_async._layout.bucket_receipts import Receipt, Receipts
from audit_async._layout.collected_file import read_collected
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import (
    ARCHIVE,
    COMPRESSED,
    ENCRYPTED,
    LOG_FILE,
    MANIFEST_FILE,
    SegmentName,
)
from audit_async._layout.regular_files import read_bounded
from audit_async._trail.log_files import Log, SegmentFile, find_logs, list_segments
from audit_async._writer.unsealed_logs import stated_sealing
from audit_async.errors import LogCorrupted
from audit_async.forwarding.batches import Head
from audit_async.forwarding.worm_bucket import Bucket, FileDigest, LockState, ObjectVersion
from audit_async.forwarding.worm_objects import (
    StoredLog,
    StoredSegment,
    encode_head,
    head_key,
    heads_of,
    identity_key,
    is_log_id,
    segment_key,
)
from audit_async.forwarding.worm_receipts import receipts_for, write_receipts

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["LogPush", "PushedLog", "directories_of_logs"]

_CHUNK_BYTES: Final = 1 << 20
#: A host's logs are two levels below its base directory, those of a collector four below its root.
_MOST_LEVELS: Final = 4
#: How often a segment is looked for that is archived or deleted at this moment.
_MOST_TRIES: Final = 5
#: Clocks differ, and a server may have seconds only.
_TOLERANCE: Final = timedelta(days=1)
_CHECKPOINT: Final = "tlog/checkpoint"


class PushedLog(Struct, frozen=True, kw_only=True):
    """What became of one log."""

    log: str
    log_id: str
    stored: int  #: segments that this push has stored
    bytes: int  #: of these
    there: int  #: segments that were in the bucket
    #: Segments that stay out of the bucket since they hold personal data in the clear.
    unsealed: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()  #: what is not as it has to be, in the bucket or on disk
    head: Head | None = None  #: the last record up to which every segment is stored
    receipts: bool = True  #: the log's directory says what is stored; only its owner can write that

    @property
    def is_complete(self) -> bool:
        """True if every sealed segment is in the bucket, as it has to be."""
        return not self.unsealed and not self.findings


def directories_of_logs(base_dir: Path) -> list[Path]:
    """Return the directories of the logs at or below a base directory or a collector's root, in order.

    No symbolic link below `base_dir` is followed. Raises `TrailUnreadable` if there is no log.
    """
    top = Path(os.path.abspath(base_dir))
    found = []
    for here, below, files in os.walk(top, onerror=_refuse):
        is_log = LOG_FILE in files or MANIFEST_FILE in files or any(map(SegmentName.parse, files))
        if is_log:
            found.append(Path(here))
        if is_log or len(Path(here).relative_to(top).parts) >= _MOST_LEVELS:
            below.clear()
        below.sort()
    if not found:
        find_logs(base_dir)  # which says what is wrong
    return found


def _refuse(error: OSError) -> None:
    raise error


class LogPush:
    """One push of one log. Used by one thread."""

    def __init__(
        self,
        bucket: Bucket,
        directory: Path,
        *,
        retention: timedelta,
        keep_plain_personal_data: bool = False,
        before_storing: Callable[[], None] = lambda: None,
    ) -> None:
        """Push the log in `directory`; `before_storing` is called before anything is stored, and may refuse.

        Raises `LogCorrupted` if log.json is missing or damaged, `TrailUnreadable` if it can't be read.
        """
        self.bucket: Final = bucket
        self.log: Final = _log_at(directory)
        self._retention: Final = retention
        self._keeps_plain: Final = keep_plain_personal_data
        self._before_storing: Final = before_storing
        self._receipts = receipts_for(directory, bucket=str(bucket.place), log_id=self.log.log_id)
        self._has_receipts = True
        self._there = StoredLog(self.log.log_id, {})
        self._findings: list[str] = []
        self._unsealed: list[str] = []
        self._stored: list[int] = []  # sizes
        self._known = 0

    def run(self) -> PushedLog:
        """Store what is missing; returns once it is stored and was looked at.

        Raises:
            SinkRefused: The bucket refuses; a person has to act.
            SinkUnavailable: It can't be reached; what was stored so far stays, and the next push goes on.
            LogCorrupted: The manifest can't be understood.
            OSError: A file can't be read.
        """
        self._there = StoredLog(self.log.log_id, dict(self.bucket.listed(f"{self.log.log_id}/")))
        self._findings += self._there.findings
        self._push_identity()
        segments = [segment for segment in list_segments(self.log) if segment.sealed is not None]
        head: SealedSegment | None = None
        has_gap = False
        for segment in segments:
            entry = segment.sealed
            assert entry is not None  # noqa: S101 - those without were left out
            if self._push_segment(segment, entry):
                head = head if has_gap else entry
            elif entry.state not in {"deleted", "lost"}:
                has_gap = True
        self._report_vanished()
        if head is not None:
            self._push_head(tuple(segment.sealed for segment in segments if segment.sealed is not None), head)
        return PushedLog(
            log=self.log.name,
            log_id=self.log.log_id,
            stored=len(self._stored),
            bytes=sum(self._stored),
            there=self._known,
            unsealed=tuple(self._unsealed),
            findings=tuple(self._findings),
            head=Head(seq=head.last_seq, hash=head.hash) if head is not None else None,
            receipts=self._has_receipts,
        )

    # -- the log's identity ------------------------------------------------------------------------------------------

    def _push_identity(self) -> None:
        content = read_bounded(self.log.directory / LOG_FILE)
        key = identity_key(self.log.log_id)
        there = self._there.identity
        if there is None:
            self._store_small(key, content)
        elif self.bucket.read_small(there) != content:
            self._findings.append(f"{key}: the bucket has another log.json, of a log with this log_id")

    def _store_small(self, key: str, content: bytes) -> None:
        self._before_storing()
        with suppress(FileExistsError):
            self.bucket.store(key, content, retain_until=self._retain_until())
        first = self.bucket.stored(key).first
        if first is None or self.bucket.read_small(first) != content:
            self._findings.append(f"{key}: somebody else has stored other content first")
        else:
            self._check_lock(first, self.bucket.lock_state(first))

    # -- segments ----------------------------------------------------------------------------------------------------

    def _push_segment(self, segment: SegmentFile, entry: SealedSegment) -> bool:
        """Store a segment unless it is stored; return whether it is, as it has to be."""
        stored = self._there.segments.get(entry.segment)
        if stored is not None:
            self._known += 1
            return self._recognise(stored, entry)
        if entry.state in {"deleted", "lost"}:
            return False
        if not entry.is_encrypted and not self._keeps_plain and not _is_sealed(segment):
            self._unsealed.append(entry.segment)
            return False
        self._before_storing()
        try:
            opened = self._opened(segment)
        except FileNotFoundError:
            self._findings.append(f"{entry.segment}: it is missing on disk, and the bucket does not have it")
            return False
        with opened.file as file:
            digest = FileDigest.of(file)
            if (reason := opened.why_wrong(digest)) is not None:
                self._findings.append(f"{opened.name}: {reason}; it was not stored")
                return False
            key = segment_key(self.log.log_id, opened.name)
            with suppress(FileExistsError):  # another push has just stored it
                self.bucket.store_file(key, file, digest, retain_until=self._retain_until())
        first = self.bucket.stored(key).first
        if first is None:
            self._findings.append(f"{key}: it was stored, and is not there")
            return False
        self._stored.append(digest.size)
        return self._accept(first, opened.entry, digest)

    def _recognise(self, stored: StoredSegment, entry: SealedSegment) -> bool:
        """Return whether what is in the bucket under a segment's name is that segment."""
        receipt = self._receipts.by_segment().get(entry.segment)
        if receipt is not None and receipt.hash == entry.hash and receipt.key == stored.version.key:
            if receipt.version == stored.version.version:
                return True
            self._findings.append(f"{receipt.key}: the version that a push has stored is not the first any more")
            return False
        sha256 = self._sha256_of(stored, entry)
        if sha256 is None:
            self._findings.append(f"{stored.version.key}: the bucket has something else than this log's segment")
            return False
        return self._accept(stored.version, entry, FileDigest(stored.version.size, sha256, 0, ()), compare=False)

    def _sha256_of(self, stored: StoredSegment, entry: SealedSegment) -> str | None:
        """Return the SHA-256 of what is stored; None if it is not the segment. It is read, if the server can't say."""
        wanted = entry.sha256
        if entry.state == "damaged":  # the manifest has the SHA-256 of what was written, and the file is what was found
            with open_binary(self.log.directory / entry.segment) as file:
                wanted = FileDigest.of(file).sha256
        whole, content = hashlib.sha256(), hashlib.sha256()
        known = self.bucket.lock_state(stored.version).checksum
        if stored.is_plain and known == FileDigest(0, wanted, 0, ()).checksum:
            return wanted
        pieces = _watched(self.bucket.read(stored.version), whole)
        if stored.is_encrypted:
            for _ in pieces:
                pass
            is_it = entry.encrypted is not UNSET and entry.encrypted.sha256 == whole.hexdigest()
        else:
            for piece in pieces if stored.is_plain else _decompressed(pieces, entry.bytes):
                content.update(piece)
            is_it = content.hexdigest() == wanted
        return whole.hexdigest() if is_it else None

    def _accept(
        self, version: ObjectVersion, entry: SealedSegment, digest: FileDigest, *, compare: bool = True
    ) -> bool:
        """Look at what is stored, and write the receipt if it is as it has to be."""
        state = self.bucket.lock_state(version)
        if compare and not self._is_same(version, state, digest):
            self._findings.append(f"{version.key}: somebody else has stored other content first")
            return False
        until = self._check_lock(version, state)
        if until is None:
            return False
        receipt = Receipt(
            segment=entry.segment,
            hash=entry.hash,
            key=version.key,
            version=version.version,
            sha256=digest.sha256,
            bytes=version.size,
            retain_until=until,
        )
        receipts = {**self._receipts.by_segment(), entry.segment: receipt}
        self._write(msgspec.structs.replace(self._receipts, segments=tuple(receipts.values())))
        return True

    def _is_same(self, version: ObjectVersion, state: LockState, digest: FileDigest) -> bool:
        """Return whether a version has this content, by the server's own checksum or by reading it again."""
        if state.checksum is not None:
            return (state.size, state.checksum) == (digest.size, digest.checksum)
        whole = hashlib.sha256()
        for piece in self.bucket.read(version):
            whole.update(piece)
        return whole.hexdigest() == digest.sha256

    def _check_lock(self, version: ObjectVersion, state: LockState) -> datetime | None:
        """Return until when a version is locked; None, and a finding, if it is not locked as it has to be."""
        if state.mode != "COMPLIANCE" or state.retain_until is None:
            mode = f"locked in {state.mode.lower()} mode" if state.mode else "not locked"
            self._findings.append(f"{version.key}: it is {mode}, and can be deleted")
            return None
        if state.retain_until < state.stored + self._retention - _TOLERANCE:
            self._findings.append(
                f"{version.key}: it is locked until {state.retain_until:%Y-%m-%d}, which is less than the "
                f"{self._retention.days} days that are to be kept"
            )
            return None
        return state.retain_until.astimezone(UTC)

    def _report_vanished(self) -> None:
        """Find segments that a push has stored and that are gone although their time is not over."""
        now = datetime.now(UTC)
        for receipt in self._receipts.segments:
            if receipt.segment not in self._there.segments and receipt.retain_until > now:
                stored = self.bucket.stored(receipt.key).first
                if stored is None:
                    self._findings.append(
                        f"{receipt.key}: it was locked until {receipt.retain_until:%Y-%m-%d}, and is gone"
                    )

    # -- reading -----------------------------------------------------------------------------------------------------

    def _opened(self, segment: SegmentFile) -> _Opened:
        """Open the file of a segment in the form that it has now; raises `FileNotFoundError` if it is missing."""
        name = segment.name
        for _ in range(_MOST_TRIES):
            entry = next(one.sealed for one in list_segments(self.log) if one.name == name)
            if entry is None:
                break
            at = ARCHIVE + "/" if entry.state == "archived" else ""
            file_name = entry.archive_file if at else entry.segment
            with suppress(FileNotFoundError):
                return _Opened(file_name, entry, open_binary(self.log.directory / f"{at}{file_name}"))
        raise FileNotFoundError(name)

    # -- the head ----------------------------------------------------------------------------------------------------

    def _push_head(self, entries: tuple[SealedSegment, ...], last: SealedSegment) -> None:
        """Store the head, unless the bucket has it."""
        checkpoint = _checkpoint(self.log.directory)
        digest = hashlib.sha256(checkpoint.encode()).hexdigest() if checkpoint is not None else ""
        receipts = self._receipts
        if (receipts.head_seq, receipts.checkpoint) == (last.last_seq, digest) and self._there.heads:
            return
        known = receipts.head_seq if receipts.head_seq >= 0 and self._there.heads else self._last_known(entries)
        identity = msgspec.json.decode(read_bounded(self.log.directory / LOG_FILE), type=Identity)
        content = encode_head(
            log_id=self.log.log_id,
            service_id=identity.service_id,
            instance=identity.instance or self.log.directory.name,
            collected=read_collected(self.log.directory),
            entries=tuple(entry for entry in entries if known < entry.last_seq <= last.last_seq),
            last=last,
            checkpoint=checkpoint,
        )
        before = len(self._findings)
        self._store_small(head_key(self.log.log_id, last.last_seq, content), content)
        if len(self._findings) == before:
            self._write(msgspec.structs.replace(self._receipts, head_seq=last.last_seq, checkpoint=digest))

    def _last_known(self, entries: Iterable[SealedSegment]) -> int:
        """Return up to which record the heads in the bucket have the manifest's entries, without receipts."""
        hashes = {entry.segment: entry.hash for entry in entries}
        there = StoredLog(self.log.log_id, {})
        there.heads.extend(self._there.heads)
        known = -1
        for head in heads_of(self.bucket, there):
            for entry in head.entries:
                if entry.first_seq == known + 1 and hashes.get(entry.segment) == entry.hash:
                    known = entry.last_seq
        self._findings += there.findings
        return known

    def _write(self, receipts: Receipts) -> None:
        """Write the receipts, if this process belongs to the log's owner; the service could not read another's."""
        self._receipts = receipts
        if self._has_receipts and os.stat(self.log.directory).st_uid == os.geteuid():
            write_receipts(self.log.directory, receipts)
        else:
            self._has_receipts = False

    def _retain_until(self) -> datetime:
        """Return until when an object that is stored now is kept: counted from now, since a record's time may be wrong.

        A record of a clock that was years behind would otherwise be free at once.
        """
        return datetime.now(UTC).replace(microsecond=0) + self._retention


class _Opened(NamedTuple):
    """The file of a segment, in the form that it has."""

    name: str
    entry: SealedSegment
    file: BinaryIO

    def why_wrong(self, digest: FileDigest) -> str | None:
        """Return why it is not what the manifest says; None if it is, or if the chain says that it is damaged."""
        entry = self.entry
        if entry.state == "damaged":
            return None
        if self.name.endswith(ENCRYPTED):
            known = entry.encrypted.sha256 if entry.encrypted is not UNSET else None
            return None if digest.sha256 == known else "it is not the encrypted file that the manifest has"
        if not self.name.endswith(COMPRESSED):
            return None if digest.sha256 == entry.sha256 else "it is not what was sealed"
        content = hashlib.sha256()
        self.file.seek(0)
        try:
            for piece in _decompressed(iter(lambda: self.file.read(_CHUNK_BYTES), b""), entry.bytes):
                content.update(piece)
        except DAMAGED_ARCHIVE:
            return "it can't be decompressed"
        return None if content.hexdigest() == entry.sha256 else "it is not what was sealed"


def _log_at(directory: Path) -> Log:
    try:
        read_bounded(directory / LOG_FILE)
    except FileNotFoundError as error:
        reason = "the file is missing, so it can't be said which log it is; restore it from the bucket or a backup"
        raise LogCorrupted(LOG_FILE, None, None, reason) from error
    log = find_logs(directory)[0]
    if not is_log_id(log.log_id):
        raise LogCorrupted(LOG_FILE, None, None, "it names no log_id")
    return log


def _is_sealed(segment: SegmentFile) -> bool:
    """Return whether every session in a segment seals what is personal."""
    try:
        stated = stated_sealing(segment)
    except (LogCorrupted, FileNotFoundError, *DAMAGED_ARCHIVE):
        return False
    return bool(stated) and all(stated)


def _checkpoint(directory: Path) -> str | None:
    """Return the newest signed note of the log's tree, None if it has none in its own directory."""
    try:
        return read_bounded(directory / _CHECKPOINT).decode()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, LogCorrupted):
        return None


def _watched(pieces: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _decompressed(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield what pieces decompress to, up to a little more than `max_bytes`; all of the pieces are read."""
    decompressor = zstd.ZstdDecompressor()
    size = 0
    for piece in pieces:
        data = decompressor.decompress(piece, _CHUNK_BYTES) if not decompressor.eof and size <= max_bytes else b""
        while data:
            size += len(data)
            yield data
            more = not decompressor.needs_input and not decompressor.eof and size <= max_bytes
            data = decompressor.decompress(b"", _CHUNK_BYTES) if more else b""
