"""What a crash leaves at the end of a segment, and how it differs from what no crash explains.

The writer asks when it opens a log, the verifier when it reads one; the answer is the same for both, so it is here.
Nothing is changed on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import BinaryIO, Final, NamedTuple

from audit_async._chain import BadRecord, Head, check_record

#: No line is longer: a file of this many bytes without a line's end is damaged, not torn. The configuration allows
#: events of 64 MiB, and a mebibyte is left for the members around one.
LONGEST_LINE: Final = 65 << 20
_CHUNK_BYTES: Final = 1 << 20
#: The least unit that a disk writes whole.
_SECTOR_BYTES: Final = 512


class Follower(NamedTuple):
    """A segment that comes later in the chain than the one whose end is in question."""

    open: Callable[[], BinaryIO] | None  #: opens it at its first byte; None if it is not in the log directory any more
    max_bytes: int  #: how many of its bytes are records


def torn_by_crash(file: BinaryIO, at: int) -> str | None:
    """Return how a crash left the bytes from `at`, whose first line is no record; None if no crash leaves such bytes.

    Args:
        file: The last segment of a log, opened for reading.
        at: The byte after its last whole record.

    Returns:
        A reason for a report: a torn line, or blocks that the file system counted and had not written.
    """
    file.seek(at)
    line = file.readline(LONGEST_LINE)
    zeros_in_line = line.find(b"\0")
    if zeros_in_line < 0:
        return None if line.endswith(b"\n") or len(line) == LONGEST_LINE else "torn last line"
    # A block that was never written reads as zeros. It begins at a block's beginning, or at the end of the records
    # that were synced, and ends at a block's end or the file's. No record holds a zero byte.
    begin = at + zeros_in_line
    file.seek(begin)
    end = begin
    while chunk := file.read(_CHUNK_BYTES):
        rest = chunk.lstrip(b"\0")
        end += len(chunk) - len(rest)
        if rest:
            break
    else:
        return "zero-filled tail" if begin == at or begin % _SECTOR_BYTES == 0 else None
    if (begin == at or begin % _SECTOR_BYTES == 0) and end % _SECTOR_BYTES == 0:
        return "blocks that were never written"
    return None


def are_void_copies(copies: BinaryIO, at: int, following: Iterable[Follower], head: Head) -> bool:
    """Return whether the bytes of a segment from `at` are those of the segments that follow it.

    A failed fsync leaves such bytes: what that file had got since the last good one was written again, to the next
    segment, and the cut that should have removed it did not reach the disk. The copies are void. They may have zeros in
    blocks that were never written, and may hold more than the last follower: then a crash took that end from it, and
    the copies must go on as the chain would.

    Args:
        copies: The segment, opened for reading.
        at: The byte after its last record.
        following: The segments that come after it, oldest first.
        head: The chain's head after the last record of the last follower.

    Raises:
        OSError: A file can't be read.
        LogCorrupted: A follower can't be opened as a segment.
    """
    size = os.fstat(copies.fileno()).st_size
    copies.seek(at)
    for follower in following:
        if follower.open is None:
            return False
        with follower.open() as file:
            if not _is_copy(copies, file, follower.max_bytes):
                return False
        if copies.tell() >= size:
            return True
    while copies.tell() < size:
        begin = copies.tell()
        try:
            head = check_record(copies.readline(LONGEST_LINE), head).head
        except BadRecord:
            return torn_by_crash(copies, begin) is not None
    return True


def _is_copy(copies: BinaryIO, file: BinaryIO, max_bytes: int) -> bool:
    """Compare up to `max_bytes` of both from their positions; a zero in `copies` equals any byte."""
    while max_bytes:
        theirs = copies.read(min(max_bytes, _CHUNK_BYTES))
        if not theirs:
            return True
        ours = file.read(len(theirs))
        if len(ours) != len(theirs):
            return False
        if ours != theirs and any(a not in (0, b) for a, b in zip(theirs, ours, strict=True)):
            return False
        max_bytes -= len(theirs)
    return True
