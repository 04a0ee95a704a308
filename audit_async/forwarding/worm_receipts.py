"""Keeping the receipts of a log for one bucket, in the log's directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from audit_async._durable import disk
from audit_async._durable.whole_files import replace_shared_file
from audit_async._layout.access_modes import Access, local_like
from audit_async._layout.bucket_receipts import Receipts, read_receipts, receipts_file
from audit_async.errors import LogCorrupted

__all__ = ["receipts_for", "write_receipts"]


def receipts_for(directory: Path, *, bucket: str, log_id: str) -> Receipts:
    """Return a log's receipts for a bucket; none if there is no file, or one that is of no use.

    Without receipts the next push looks at everything in the bucket again, so a damaged file loses nothing.
    """
    none = Receipts(bucket=bucket, log_id=log_id)
    try:
        found = read_receipts(directory / receipts_file(bucket))
    except (FileNotFoundError, LogCorrupted):
        return none
    return found if (found.bucket, found.log_id) == (bucket, log_id) else none


def write_receipts(directory: Path, receipts: Receipts) -> None:
    """Write a log's receipts, whole or not at all; on return they are durable.

    Several may push one log, such as a host and its collector, or two archives of one process: the last one's stay.
    """
    name = receipts_file(receipts.bucket)
    content = msgspec.json.format(msgspec.json.encode(receipts), indent=1) + b"\n"
    log_fd = disk.open_directory(str(directory))
    try:
        access = Access.of(local_like(directory, directory))
        replace_shared_file(log_fd, name, content, prepare=access.apply_to_file)
    finally:
        disk.close(log_fd)
