"""What a push leaves in a log's directory: that a segment is in a bucket, looked at after it was stored.

A receipt is a cache of what the bucket says, next to the log, and is as trustworthy as the log's directory: whoever can
write it can also delete the segments themselves. `forwarding` writes it; retention counts the bucket as a copy.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from audit_async._chain import Head
from audit_async._layout.manifest import read_manifest
from audit_async._layout.names import BUCKET_RECEIPTS
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, read_bounded
from audit_async.errors import LogCorrupted

_FORMAT_VERSION: Final = 1


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment in the bucket."""

    segment: str
    hash: str  #: of its last record
    key: str
    version: str  #: of the object; the first of its key
    sha256: str  #: of what is stored
    bytes: int  #: of what is stored
    retain_until: datetime  #: nobody can delete it before


class Receipts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


def receipts_file(bucket: str) -> str:
    """Return the name of the file for a bucket; each bucket has its own."""
    return BUCKET_RECEIPTS.replace("*", sha256(bucket.encode()).hexdigest()[:16])


def read_receipts(path: Path) -> Receipts:
    """Return the receipts in a file.

    Raises:
        LogCorrupted: It can't be understood, so nothing is known to be in that bucket.
        OSError: It can't be read; `FileNotFoundError` if there is none.
    """
    content = read_bounded(path, max_bytes=MOST_MANIFEST_BYTES)
    try:
        found = msgspec.json.decode(content, type=Receipts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(path.name, None, None, "the file is not what the library writes") from error
    if found.format_version != _FORMAT_VERSION:
        raise LogCorrupted(path.name, None, None, f"it has format version {found.format_version}")
    return found


def place_of(bucket: str) -> str:
    """Return what counts as one place: a bucket, whatever the prefix, and by whichever address it is reached.

    Two servers that each have a bucket of this name count as one place as well, which keeps more than is needed.

    Args:
        bucket: As in receipts, such as `s3://audit-worm/web-1/ at https://s3.example`.
    """
    scheme, _, rest = bucket.partition("://")
    return f"{scheme}://{re.split('[/ ]', rest, maxsplit=1)[0]}"


def heads_in_buckets(directory: Path, log_id: str, *, now: datetime) -> dict[str, Head]:
    """Return how far a log is in each bucket, by the receipts of its pushes, without a gap; needs no lock.

    What is not locked any more does not count, since it may have been deleted. Segments of which retention has deleted
    the records are passed over: nobody needs them to be anywhere.

    Args:
        directory: The log's own directory.
        log_id: Whose it is; receipts of another log do not count.
        now: The moment.

    Returns:
        By the bucket's name, the head of the newest segment up to which all are stored; a bucket that does not have
        the oldest segment is left out, and so is one whose receipts can't be read.

    Raises:
        LogCorrupted: The manifest can't be understood.
        OSError: The manifest can't be read.
    """
    paths = sorted(directory.glob(BUCKET_RECEIPTS))
    entries = [entry for entry in read_manifest(directory) if entry.state not in {"deleted", "lost"}] if paths else []
    heads = {}
    for path in paths:
        with suppress(LogCorrupted, OSError):
            found = read_receipts(path)
            stored = found.by_segment() if found.log_id == log_id else {}
            for entry in entries:
                receipt = stored.get(entry.segment)
                if receipt is None or receipt.hash != entry.hash or receipt.retain_until <= now:
                    break
                heads[found.bucket] = entry.head
    return heads
