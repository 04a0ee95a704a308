"""What a push leaves in a log's directory: that a segment is in a bucket, looked at after it was stored.

A receipt is a cache of what the bucket says, next to the log, and is as trustworthy as the log's directory. A collector
counts a bucket as a copy by its own receipts, which it has written itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from audit_async._durable import disk
from audit_async._layout.access_modes import Access, local_like
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._layout.names import UNFINISHED
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, read_bounded
from audit_async.errors import LogCorrupted
from audit_async.forwarding.batches import Head

__all__ = ["Receipt", "Receipts", "heads_in_buckets", "read_receipts", "write_receipts"]

_FORMAT_VERSION: Final = 1
_BEGINNING: Final = "bucket-"
_ENDING: Final = ".json"


class Receipt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment in the bucket."""

    segment: str
    hash: str  #: of its last record
    key: str
    version: str  #: of the object; the first of its key
    sha256: str  #: of what is stored
    bytes: int  #: of what is stored
    retain_until: str  #: RFC 3339


class Receipts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a log's receipts for one bucket."""

    format_version: int = _FORMAT_VERSION
    bucket: str
    log_id: str
    head_seq: int = -1  #: of the newest head that was stored; -1 if none was
    checkpoint: str = ""  #: SHA-256 of the checkpoint in it
    segments: tuple[Receipt, ...] = ()

    def by_segment(self) -> dict[str, Receipt]:
        """Return the receipts by the segment's name."""
        return {receipt.segment: receipt for receipt in self.segments}


def read_receipts(directory: Path, *, bucket: str, log_id: str) -> Receipts:
    """Return a log's receipts for a bucket; none if there is no file, or one that is of no use.

    Without receipts the next push looks at everything in the bucket again, so a damaged file loses nothing.
    """
    none = Receipts(bucket=bucket, log_id=log_id)
    try:
        found = _read(directory / _name(bucket))
    except (FileNotFoundError, LogCorrupted):
        return none
    return found if (found.bucket, found.log_id) == (bucket, log_id) else none


def write_receipts(directory: Path, receipts: Receipts) -> None:
    """Write a log's receipts, whole or not at all; on return they are durable."""
    name = _name(receipts.bucket)
    unfinished = f"{name}.{os.getpid()}{UNFINISHED}"
    log_fd = disk.open_directory(str(directory))
    try:
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=log_fd)
        fd = disk.create_file(unfinished, dir_fd=log_fd)
        try:
            Access.of(local_like(directory, directory)).apply_to_file(fd)
            disk.write_at(fd, msgspec.json.format(msgspec.json.encode(receipts), indent=1) + b"\n", 0)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, name, dir_fd=log_fd)
        disk.sync_directory(log_fd)
    finally:
        disk.close(log_fd)


def heads_in_buckets(directory: Path) -> dict[str, Head]:
    """Return how far a log is in each bucket, without a gap, by the receipts of its pushes.

    Segments of which retention has deleted the records count as if they were there: nobody can store them any more.

    Args:
        directory: The log's own directory.

    Returns:
        By the bucket's name, the head of the newest segment up to which all are stored; a bucket that does not have
        the oldest segment is left out.

    Raises:
        LogCorrupted: The manifest can't be understood.
        OSError: A file can't be read.
    """
    entries = read_manifest(directory)
    heads = {}
    for path in sorted(directory.glob(f"{_BEGINNING}*{_ENDING}")):
        with suppress(LogCorrupted, FileNotFoundError):
            found = _read(path)
            if (head := _head_of(entries, found)) is not None:
                heads[found.bucket] = head
    return heads


def _head_of(entries: Iterable[SealedSegment], receipts: Receipts) -> Head | None:
    stored = receipts.by_segment()
    head = None
    for entry in entries:
        receipt = stored.get(entry.segment)
        if receipt is not None and receipt.hash == entry.hash:
            head = Head(seq=entry.last_seq, hash=entry.hash)
        elif entry.state not in {"deleted", "lost"}:
            break
    return head


def _read(path: Path) -> Receipts:
    content = read_bounded(path, max_bytes=MOST_MANIFEST_BYTES)
    try:
        found = msgspec.json.decode(content, type=Receipts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(path.name, None, None, "the file is not what the library writes") from error
    if found.format_version != _FORMAT_VERSION:
        raise LogCorrupted(path.name, None, None, f"it has format version {found.format_version}")
    return found


def _name(bucket: str) -> str:
    """Return the name of the file for a bucket; each bucket has its own."""
    return f"{_BEGINNING}{sha256(bucket.encode()).hexdigest()[:16]}{_ENDING}"
