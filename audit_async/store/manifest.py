"""The manifest: what is known of every sealed segment, so that opening a log need not read them.

It is the record of the boundaries, too: a segment's `prev_hash` and `hash` stay in it after the segment was archived
or deleted, so the rest of the chain still verifies. It is replaced as a whole, never changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from audit_async.chain import FORMAT_VERSION, START, Head
from audit_async.errors import LogCorrupted
from audit_async.store import disk
from audit_async.store.directory import LogDirectory, SegmentName

MANIFEST_FILE: Final = "manifest.json"

#: `live`: in the log directory. `archived`: compressed, in archive/. `deleted`: by retention. `damaged`: changed by
#: somebody while it was written, and reported. `lost`: removed by somebody with its directory, and reported.
SegmentState = Literal["live", "archived", "deleted", "damaged", "lost"]


class SealedSegment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest says of one sealed segment."""

    segment: str  #: file name
    state: SegmentState = "live"
    first_seq: int
    last_seq: int
    first_timestamp: str  #: of its first record, RFC 3339
    last_timestamp: str  #: of its last record, RFC 3339
    records: int
    bytes: int  #: uncompressed
    sha256: str  #: of the uncompressed file, 64 hex digits
    prev_hash: str  #: `prev_hash` of its first record
    hash: str  #: `hash` of its last record
    recorded: bool = False  #: the chain holds its `audit.segment_sealed`, for certain

    @property
    def head(self) -> Head:
        """The chain's head behind its last record."""
        return Head(self.last_seq, self.hash.encode())


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    log_id: str
    segments: tuple[SealedSegment, ...]


class Manifest:
    """The sealed segments of an open log, oldest first. Owned by the worker thread."""

    def __init__(self, log_id: str, segments: Iterable[SealedSegment] = ()) -> None:
        self.log_id: Final = log_id
        self.segments: tuple[SealedSegment, ...] = tuple(segments)

    @property
    def head(self) -> Head:
        """The chain's head behind the last sealed segment."""
        return self.segments[-1].head if self.segments else START

    def find(self, segment: str) -> SealedSegment:
        """Return the entry of a segment; `KeyError` where it has none."""
        for entry in self.segments:
            if entry.segment == segment:
                return entry
        raise KeyError(segment)

    def write(self, directory: LogDirectory, segments: Iterable[SealedSegment]) -> None:
        """Replace the manifest, durably; what is held here changes only when that has succeeded.

        The directory sync makes every other name durable that was made before, checksum files among them.
        """
        segments = tuple(segments)
        content = msgspec.json.encode(
            _File(format_version=FORMAT_VERSION, log_id=self.log_id, segments=segments),
        )
        directory.replace(MANIFEST_FILE, msgspec.json.format(content, indent=1) + b"\n")
        directory.sync()
        self.segments = segments

    def with_changed(self, changed: SealedSegment) -> tuple[SealedSegment, ...]:
        """Return the entries with the one of that segment changed."""
        return tuple(changed if entry.segment == changed.segment else entry for entry in self.segments)


def decode_manifest(content: bytes, log_id: str | None) -> tuple[SealedSegment, ...]:
    """Return the entries of a manifest, oldest first.

    Raises `LogCorrupted` where it is not whole (it is replaced atomically, so no crash explains that), belongs to
    another log (`log_id` None: any), or where its entries don't link up.
    """
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _corrupted("the file is not what the library writes") from error
    if file.format_version != FORMAT_VERSION:
        raise _corrupted(f"it has format version {file.format_version}, and this release reads {FORMAT_VERSION}")
    if log_id is not None and file.log_id != log_id:
        raise _corrupted("it belongs to another log")
    head = START
    for entry in file.segments:
        name = SegmentName.parse(entry.segment)
        if name is None or name.first_seq != entry.first_seq or name.date != entry.first_timestamp[:10]:
            raise _corrupted(f"the entry for seq {entry.first_seq} names a file that can't hold it")
        if (
            entry.first_seq != head.seq + 1
            or entry.prev_hash.encode() != head.hash
            or entry.last_seq - entry.first_seq + 1 != entry.records
            or entry.records < 1
            or len(entry.hash) != 64
        ):
            raise _corrupted(f"the entry of {entry.segment} does not follow the one before", head.seq + 1)
        head = entry.head
    return file.segments


def read_manifest(directory: Path) -> tuple[SealedSegment, ...]:
    """Return the sealed segments of the log in `directory`, oldest first; none where there is no manifest yet.

    For readers: needs no lock, and sees one state or the next, never a mixture. Raises `LogCorrupted` as
    `decode_manifest` does, `OSError` where the file can't be read.
    """
    try:
        fd = disk.open_file(str(directory / MANIFEST_FILE))
    except FileNotFoundError:
        return ()
    with open(fd, "rb") as file:
        return decode_manifest(file.read(), None)


def _corrupted(reason: str, seq: int | None = None) -> LogCorrupted:
    return LogCorrupted(MANIFEST_FILE, None, seq, reason)
