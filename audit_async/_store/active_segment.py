"""The active segment: the one file that records are appended to, and what of it is known to be durable."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from audit_async._chain import Head
from audit_async._chain.record_format import HASH_AT
from audit_async._durable import disk
from audit_async._layout.manifest import SealedSegment, SegmentState
from audit_async._layout.names import SegmentName

if TYPE_CHECKING:
    from hashlib import _Hash

_TIMESTAMP: Final = b'","timestamp":"'
_COPY_BYTES: Final = 1 << 20
#: Lines are joined for the disk up to about this size, so that what a write needs besides the lines stays small. Half
#: of it takes a sixth of the events/s under load: after each write, this thread waits for the GIL (bench throughput).
_WRITE_BYTES: Final = 1 << 19


class Extent(NamedTuple):
    """How far a segment reaches, always between two records."""

    bytes: int
    head: Head  #: the chain's head after its last record
    last_timestamp: str  #: of its last record; empty if there is none


class Segment:
    """A segment that is open for writing. Owned by the disk thread.

    `synced` is never more than a sync has confirmed, and `written` never counts a part of a record: what a failed write
    left after `written` is cut off, or is in a file that is written no more.
    """

    __slots__ = ("_digest", "_digest_synced", "durable_bytes", "fd", "first_timestamp", "inode", "name",
                 "name_durable", "path", "prev_hash", "synced", "torn", "written")  # fmt: skip

    def __init__(
        self, fd: int, name: SegmentName, path: str, *, prev_hash: bytes, extent: Extent, digest: _Hash, timestamp: str
    ) -> None:
        self.fd = fd
        self.inode = self.identity()  #: what `identity` said when the file was opened
        self.name: Final = name
        self.path: Final = path
        self.prev_hash: Final = prev_hash
        self.first_timestamp = timestamp  #: of its first record; empty if there is none
        self.written = extent
        self.synced = extent
        self.durable_bytes = extent.bytes  #: up to here the file is durable, though its name may not be
        self.name_durable = False  #: the directory was synced after the file was made
        self.torn = False  #: a failed write may have left part of a record after `written`
        self._digest = digest  # over what is written, so that sealing need not read the file
        self._digest_synced = digest.copy()

    @classmethod
    def begun(cls, fd: int, name: SegmentName, path: str, after: Head) -> Segment:
        """Return a new, empty segment whose first record will follow `after`."""
        extent = Extent(0, after, "")
        return cls(fd, name, path, prev_hash=after.hash, extent=extent, digest=hashlib.sha256(), timestamp="")

    def append(self, lines: Sequence[bytes], seq: int, *, sync: bool = False) -> None:
        """Write whole records after the others; `seq` is that of the last.

        With `sync`, which requires that everything before is durable, they are durable on return: by one call if they
        are few, else by writes and a sync. On `OSError` nothing counts as written, and `torn` says that some of it
        may be in the file.
        """
        step = _lines_a_write(lines)
        at_once = step >= len(lines)
        digest, at = self._digest.copy(), self.written.bytes
        try:
            for start in range(0, len(lines), step):
                data = b"".join(lines if at_once else lines[start : start + step])
                if sync and at_once:
                    disk.write_and_sync_at(self.fd, data, at)
                else:
                    disk.write_at(self.fd, data, at)
                digest.update(data)
                at += len(data)
                del data  # before the next is joined
            if sync and not at_once:
                disk.sync_data(self.fd)
        except BaseException:
            self.torn = True
            raise
        if sync:
            self.durable_bytes = at
        if not self.first_timestamp:
            self.first_timestamp = timestamp_of(lines[0])
        last = lines[-1]
        head = Head(seq, last[HASH_AT : HASH_AT + 64])
        self._digest = digest
        self.written = Extent(at, head, timestamp_of(last))

    def cut_off_torn(self) -> None:
        """Cut the file back to its last whole record, after a failed write."""
        disk.truncate(self.fd, self.written.bytes)
        self.torn = False

    def mark_synced(self) -> None:
        """Note that everything written is on stable storage."""
        self.synced = self.written
        self.durable_bytes = self.written.bytes
        self._digest_synced = self._digest.copy()

    def continue_in(self, fd: int) -> None:
        """Write to another file from now on, which has all that was written, durably; closes the one before."""
        disk.close(self.fd)
        self.fd = fd
        self.inode = self.identity()
        self.name_durable = True
        self.mark_synced()

    def copy_to(self, fd: int) -> bool:
        """Copy what is written to another file; False if that is not what was written to this one."""
        digest = hashlib.sha256()
        offset = 0
        while offset < self.written.bytes:
            chunk = disk.read_at(self.fd, min(_COPY_BYTES, self.written.bytes - offset), offset)
            if not chunk:
                return False
            disk.write_at(fd, chunk, offset)
            digest.update(chunk)
            offset += len(chunk)
        return digest.digest() == self._digest.digest()

    def identity(self) -> tuple[int, int]:
        """Return what distinguishes this file from every other: its device and inode."""
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def as_sealed(self, state: SegmentState = "live") -> SealedSegment:
        """Return what the manifest will say of the part of it that is synced; there must be a record in it."""
        bytes_, head, last_timestamp = self.synced
        return SealedSegment(
            segment=str(self.name),
            state=state,
            first_seq=self.name.first_seq,
            last_seq=head.seq,
            first_timestamp=self.first_timestamp,
            last_timestamp=last_timestamp,
            records=head.seq - self.name.first_seq + 1,
            bytes=bytes_,
            sha256=self._digest_synced.hexdigest(),
            prev_hash=self.prev_hash.decode(),
            hash=head.hash.decode(),
        )


def _lines_a_write(lines: Sequence[bytes]) -> int:
    """Return how many lines are joined for one write: all of them, unless they are large together."""
    size = sum(map(len, lines))
    return len(lines) if size <= _WRITE_BYTES else max(1, len(lines) * _WRITE_BYTES // size)


def timestamp_of(line: bytes) -> str:
    """Return the timestamp of a record."""
    at = line.index(_TIMESTAMP) + len(_TIMESTAMP)
    return line[at : at + 27].decode()
