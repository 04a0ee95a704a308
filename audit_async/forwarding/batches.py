"""Consecutive records as they are on the disk: whole lines, and which place in the chain they have."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from audit_async._chain import GENESIS_HASH, START, BadRecord, check_record
from audit_async._chain import Head as ChainHead

__all__ = ["MAX_BATCH_BYTES", "Batch", "Head"]

#: A batch is larger only if a single record is.
MAX_BATCH_BYTES: Final = 512 * 1024


class Head(Struct, frozen=True, kw_only=True):
    """The last record of a log that somebody has; who has none has no head, None."""

    seq: int
    hash: str  #: 64 lower-case hex digits


class Batch(Struct, frozen=True, kw_only=True):
    r"""Consecutive records of one log, as raw lines.

    What it says of itself is a declaration until `check` has compared it with its lines.
    """

    first_seq: int
    last_seq: int
    prev: str  #: hash of the record before the first; 64 zeros before record 0
    last_hash: str
    lines: bytes  #: each ends in a line feed

    @property
    def head(self) -> Head:
        """The head of the log once this batch is stored."""
        return Head(seq=self.last_seq, hash=self.last_hash)

    def check(self) -> None:
        """Check every hash and link, and that the lines are what the batch declares; linear in its size.

        Raises:
            BadRecord: a line is not the record that is due, or the declaration is not what the lines say.
        """
        at = START if self.first_seq == 0 else ChainHead(self.first_seq - 1, self.prev.encode())
        if self.first_seq == 0 and self.prev.encode() != GENESIS_HASH:
            raise BadRecord("prev_hash is not the hash of the record before")
        if not self.lines.endswith(b"\n"):
            raise BadRecord("not a whole record")
        for line in self.lines.splitlines(keepends=True):
            record = check_record(line, at)
            at = ChainHead(record.seq, record.hash)
        if (at.seq, at.hash) != (self.last_seq, self.last_hash.encode()):
            raise BadRecord("the last record is not the one that the batch declares")

    def rest_after(self, seq: int) -> Batch:
        """Return the records after one that is in the batch and is not its last."""
        # A forged batch may have fewer lines than it declares; what is returned then fails its check.
        lines = self.lines.split(b"\n")
        before = b"".join(lines[seq - self.first_seq :][:1])
        return Batch(
            first_seq=seq + 1,
            last_seq=self.last_seq,
            prev=before[-66:-2].decode("ascii", "replace"),
            last_hash=self.last_hash,
            lines=b"\n".join(lines[seq + 1 - self.first_seq :]),
        )
