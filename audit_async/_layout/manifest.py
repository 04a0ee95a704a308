"""The manifest: what is known of every sealed segment, so that opening a log need not read them.

It is the record of the boundaries, too: a segment's `prev_hash` and `hash` stay in it after the segment was archived
or deleted, so the rest of the chain still verifies. It is replaced as a whole, never changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from audit_async._chain import FORMAT_VERSION, START, Head
from audit_async._layout.names import COMPRESSED, ENCRYPTED, MANIFEST_FILE, SegmentName
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, read_bounded
from audit_async.errors import LogCorrupted

#: `live`: in the log directory. `archived`: compressed, in archive/. `deleted`: by retention. `damaged`: changed by
#: somebody while it was written, and reported. `lost`: removed by somebody with its directory, and reported.
SegmentState = Literal["live", "archived", "deleted", "damaged", "lost"]


class EncryptedArchive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest says of the encrypted archive of a segment, so that much can be done without a key."""

    sha256: str  #: of the encrypted file, 64 hex digits
    bytes: int  #: of the encrypted file
    earliest: str  #: timestamp among its records, RFC 3339: the first record's unless the clock was set back
    latest: str  #: timestamp among its records, RFC 3339


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
    #: Of an archived segment that is encrypted; left out of the file for all others.
    encrypted: EncryptedArchive | msgspec.UnsetType = msgspec.UNSET

    @property
    def head(self) -> Head:
        """The chain's head after its last record."""
        return Head(self.last_seq, self.hash.encode())

    @property
    def is_encrypted(self) -> bool:
        """True if its records are in an encrypted archive and nowhere else."""
        return self.state == "archived" and self.encrypted is not msgspec.UNSET

    @property
    def archive_file(self) -> str:
        """The name of its archive in `archive/`, if it has or gets one."""
        return self.segment + (COMPRESSED if self.encrypted is msgspec.UNSET else ENCRYPTED)


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of manifest.json."""

    format_version: int
    log_id: str
    #: When `audit-async restore --from-copy` made it by reading every record, RFC 3339; left out if that never was.
    rebuilt: str | None = None
    segments: tuple[SealedSegment, ...]

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        return self.encode_with([encode_entries(self.segments)] if self.segments else [])

    def encode_with(self, entries: list[bytes]) -> bytes:
        """Return the bytes of the file with these entries, made by `encode_entries`, in the place of its own."""
        head = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(self, segments=())), indent=1)
        if not entries:
            return head + b"\n"
        before, after = head.rsplit(b"[]", 1)
        return b"".join((before, b"[\n", b",\n".join(entries), b"\n ]", after, b"\n"))


def encode_entries(entries: Sequence[SealedSegment]) -> bytes:
    """Return entries, one or more, as they are in the file: without what comes before the first and after the last."""
    listed = msgspec.json.format(msgspec.json.encode({"segments": entries}), indent=1)
    return listed[listed.index(b"[") + 2 : -len(b"\n ]\n}")]


def decode_manifest_file(content: bytes, log_id: str | None) -> ManifestFile:
    """Return what a manifest says.

    Raises `LogCorrupted` if it is not whole (it is replaced atomically, so no crash explains that), belongs to
    another log (`log_id` None: any), or if its entries don't link up.
    """
    try:
        file = msgspec.json.decode(content, type=ManifestFile)
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
    return file


def read_manifest(directory: Path) -> tuple[SealedSegment, ...]:
    """Return the sealed segments of the log in `directory`, oldest first; none if there is no manifest yet.

    For readers: needs no lock, and sees one state or the next, never a mixture. Raises `LogCorrupted` as
    `decode_manifest_file` does and for a file that is no manifest by its kind or size, `OSError` if it can't be read.
    """
    file = read_manifest_file(directory)
    return file.segments if file is not None else ()


def read_manifest_file(directory: Path) -> ManifestFile | None:
    """Return the manifest of the log in `directory`, None if there is none yet; otherwise as `read_manifest`."""
    try:
        content = read_bounded(directory / MANIFEST_FILE, max_bytes=MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    return decode_manifest_file(content, None)


def _corrupted(reason: str, seq: int | None = None) -> LogCorrupted:
    return LogCorrupted(MANIFEST_FILE, None, seq, reason)
