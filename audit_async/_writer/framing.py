"""Framing: chunks in, batches out, a bounded slice at a time, so that no turn of the loop takes long."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from audit_async._chain import Batch, Entry, Framer
from audit_async._writer.buffer import Buffer
from audit_async._writer.receipts import Receipt
from audit_async._writer.sync_schedule import SyncSchedule

#: Records, and about their bytes, framed before the loop gets a turn: 0.4 ms of work.
_SLICE: Final = 256
_SLICE_BYTES: Final = 1 << 19
#: A batch that has grown to this many bytes is closed. Joining its lines holds the GIL, for 0.3 ms at this size.
_BATCH_BYTES: Final = 2 << 20


class Framing:
    """What was taken from the buffer and is not handed to the store. Owned by the writer.

    There are at most two chunks: the one that is being framed, and the next, to which `emit` still appends.
    """

    def __init__(self, framer: Framer, buffer: Buffer, schedule: SyncSchedule, now: Callable[[], float]) -> None:
        self.batches: Final[deque[Batch]] = deque()  #: framed, in order; the writer takes them from the left
        self.head = framer.head  #: the chain's: the last record framed
        self._framer: Final = framer
        self._buffer: Final = buffer
        self._schedule: Final = schedule
        self._now: Final = now
        self._chunk: Sequence[Receipt] = ()
        self._framed = 0  # entries of it
        self._chunk_is_urgent = False
        self._next_chunk: list[Receipt] | None = None
        # A part of the buffer, so that nothing is refused for want of room while records wait for company.
        self._full_records: Final = min(_SLICE, buffer.bounds.events // 4)
        self._full_bytes: Final = min(_SLICE_BYTES, buffer.bounds.bytes // 4)

    @property
    def is_full(self) -> bool:
        """True if so much is framed and not handed over that it need not wait for more."""
        if not self.batches:
            return False
        oldest = self.batches[0]
        return oldest.size >= self._full_bytes or len(oldest.lines) >= self._full_records

    @property
    def has_more(self) -> bool:
        """True if something has arrived that is not framed."""
        return bool(self._chunk) or self._next_chunk is not None

    def add(self, chunk: list[Receipt]) -> None:
        """Take in a chunk that has arrived; it stays open until the one before is framed.

        One that is not open never was, and is empty: a signal handler has interrupted `Buffer.open_chunk`.
        """
        if chunk is self._buffer.chunk:
            self._next_chunk = chunk

    def frame_slice(self) -> bool:
        """Frame the next slice of what has arrived, if anything has; return whether it was a full one."""
        if not self._chunk:
            if self._next_chunk is None:
                return False
            self._chunk, self._framed, self._next_chunk = self._next_chunk, 0, None
            self._chunk_is_urgent = self._buffer.begin(self._chunk)
        buffer, length = self._buffer, _SLICE
        if buffer.bounds.ordinary_bytes - buffer.free_bytes > _SLICE_BYTES:
            # By the average of what is held, so that 256 events of 64 KiB don't hold the loop for 10 ms.
            length = min(_SLICE, 1 + _SLICE_BYTES * buffer.held_events // (buffer.held_bytes + 1))
        entries = self._chunk[self._framed : self._framed + length]
        self.frame(entries)
        self._schedule.framed(self._now())
        self._framed += len(entries)
        if self._framed == len(self._chunk):
            self._chunk = ()
            if self._chunk_is_urgent:
                self._schedule.demand(self.head.seq)
        return len(entries) == length

    def frame_rest(self) -> None:
        """Frame all that is left, also what is still in the buffer, at once: no loop waits for a turn."""
        if self._buffer.chunk is not None:
            self.add(self._buffer.chunk)
        self.frame(self._chunk[self._framed :])
        if self._next_chunk is not None:
            self._buffer.begin(self._next_chunk)
            self.frame(self._next_chunk)
        self._chunk, self._next_chunk = (), None

    def frame(self, entries: Sequence[Entry]) -> None:
        """Give entries their places in the chain, in the newest batch."""
        if not entries:
            return
        if not self.batches or self.batches[-1].size >= _BATCH_BYTES:
            self.batches.append(Batch(after=self.head))
        self._framer.frame(entries, self.batches[-1])
        self.head = self.batches[-1].head

    def make_urgent(self) -> Receipt | None:
        """Have all that is not framed made durable at once; return the last of it, None if all is framed."""
        newest = self._buffer.make_urgent()
        if newest is None and self._chunk:
            newest = self._chunk[-1]
            self._chunk_is_urgent = True
        return newest
