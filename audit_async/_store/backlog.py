"""Records that were accepted and are not known to be durable: kept in memory until they are.

They are what makes a failed write or sync survivable: the same bytes are written again, if need be to another file.
"""

from __future__ import annotations

from audit_async._chain import Batch, Head


class Backlog:
    """Accepted batches in order, and how far the chain is accepted >= written >= synced. Owned by the disk thread.

    `LogStore` moves `written` and `next` forward as it writes; everything else changes here.
    """

    __slots__ = ("accepted", "batches", "next", "synced", "unsynced_bytes", "written")

    def __init__(self, head: Head) -> None:
        self.accepted = self.written = self.synced = head
        self.batches: list[Batch] = []
        self.next = 0  #: index of the first batch that is not wholly written
        self.unsynced_bytes = 0

    def accept(self, batch: Batch) -> None:
        """Take a batch that follows the last one; `ValueError` if it does not."""
        if batch.first_seq != self.accepted.seq + 1:
            raise ValueError(f"the batch begins at seq {batch.first_seq}, but {self.accepted.seq + 1} is due")
        self.batches.append(batch)
        self.unsynced_bytes += batch.size
        self.accepted = batch.head

    def mark_synced(self) -> None:
        """Note that everything written is durable, and let go of it."""
        self.synced = self.written
        if self.synced.seq == self.accepted.seq:
            self.batches.clear()
            self.unsynced_bytes = 0
        else:
            del self.batches[: self.next]
            self.unsynced_bytes = sum(batch.size for batch in self.batches)
        self.next = 0

    def rewind(self) -> None:
        """Believe no more of what was written than what is synced: the rest is written again."""
        self.written = self.synced
        self.next = 0
