"""The buffer: what was emitted and is not durable yet, in order and within its bounds.

The writer gets it in *chunks*, lists of receipts. The newest chunk stays open: while the writer has not begun to frame
it, `emit` appends to it, so a burst of events costs one message and one wake-up instead of one each (measured: 25 ns an
event instead of 230).

Who owns what: everything is owned by the loop's thread, except the inbox, which has a lock. Other threads put their
receipts there and wake the loop, since neither the chunk nor the writer's task is thread-safe. The loop's thread
empties the inbox before it accepts an event of its own, so what happened before comes before in the chain, also across
threads.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from itertools import count
from threading import RLock, get_ident
from time import time_ns
from typing import Final, NamedTuple, Self

from audit_async._writer.receipts import Acknowledgements, Receipt
from audit_async.errors import LogClosed, WriteFailed

#: What an event costs in memory besides its encoded text: the other members of its line, its receipt, its numbers.
RECORD_OVERHEAD: Final = 640

_LOOP_CLOSED: Final = (
    "the event loop that the audit log was started on is closed, so nothing writes its events: keep "
    "`async with AuditLogger(config)` open for as long as anybody emits"
)

#: Some years.
_NEVER_S: Final = 1e8


class State(Enum):
    """What a log does with an event: NOT_STARTED -> OPEN -> CLOSED, FAILED or (in a child process) FORKED."""

    NOT_STARTED = "not started"
    OPEN = "open"
    CLOSED = "closed"
    FAILED = "failed"
    FORKED = "forked"


class _LastThing:
    """A timer's callback that is never called; see `Buffer.open`."""

    __slots__ = ("__weakref__",)

    def __call__(self) -> None:
        """Do nothing."""


class Outlet(NamedTuple):
    """The receiver of what a buffer has; both calls are made in the loop's thread."""

    chunk: Callable[[list[Receipt]], object]  #: takes a chunk as soon as it is opened; more may be appended to it
    end: Callable[[], object]  #: says that no chunk comes any more


class Bounds(NamedTuple):
    """How much may wait. Ordinary events may fill nine tenths of it, the last tenth is kept for critical ones."""

    events: int
    bytes: int
    ordinary_events: int
    ordinary_bytes: int

    @classmethod
    def of(cls, events: int, bytes_: int) -> Self:
        """Return the bounds of a buffer that holds so many events, and so many bytes of them."""
        return cls(events, bytes_, events - max(1, events // 10), bytes_ - max(1, bytes_ // 10))


#: An event in the inbox, with its cost and whether it is urgent (not 0): another thread put it there, the loop's thread
#: takes it out. A plain tuple, since making one with names takes 0.2 us.
_FromElsewhere = tuple[Receipt, int, int]


class Inbox:
    """Receipts from other threads than the loop's. Everything in it is owned by `lock`.

    The lock is re-entrant, since a signal handler or a finalizer may emit while its thread holds it.
    """

    def __init__(self) -> None:
        self.lock: Final = RLock()
        self.entries: Final[deque[_FromElsewhere]] = deque()  #: may be looked at without the lock: is it empty?
        self.bytes = 0
        self.loop_woken = False  #: the loop was asked to empty this, and has not begun
        self.being_emptied = False
        #: The last receipt that was moved into a chunk. It may be in `entries` still: if a signal handler raises in the
        #: middle of the move, the event may neither get lost nor be recorded twice.
        self.moved: Receipt | None = None


class Buffer:
    """Keeps what was emitted in order and within the bounds. Owned by the loop's thread, but for its inbox."""

    def __init__(self, bounds: Bounds) -> None:
        self.state = State.NOT_STARTED
        #: The loop's thread while the state is OPEN, otherwise 0, which is no thread: one comparison on the hot path
        #: sends every other thread, and every caller while the log is not open, to the slow path.
        self.owner = 0
        #: What ordinary events may still take. `AuditLogger.emit` counts it down, as `accept` does; below zero only by
        #: critical and internal events.
        self.free_events, self.free_bytes = bounds.ordinary_events, bounds.ordinary_bytes
        #: The chunk that the writer has not begun, None if there is none. `AuditLogger.emit` appends to it.
        self.chunk: list[Receipt] | None = None
        self.chunk_is_urgent = False  #: something in it is to be durable at once; set as `chunk` is filled
        self.urgent_kinds = 0  #: the bits of an event's kind that make it urgent
        self.acknowledgements: Acknowledgements | None = None
        self.next_number: Final = count().__next__  #: of audit_ids
        self.inbox: Final = Inbox()
        self.bounds: Final = bounds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_end: weakref.ref[_LastThing] | None = None
        self._outlet: Outlet | None = None
        self._room_waiters: set[asyncio.Event] = set()

    # The states.

    def open(self, acknowledgements: Acknowledgements, outlet: Outlet, *, urgent_kinds: int) -> None:
        """Begin to take events; the running loop and its thread become the owner."""
        self._loop = asyncio.get_running_loop()
        self._outlet = outlet
        self.acknowledgements = acknowledgements
        self.urgent_kinds = urgent_kinds
        self.state = State.OPEN
        self.owner = get_ident()
        # A loop has no hook for its closing, but it drops its timers then. So one that is never due, and that nothing
        # else refers to, shows it: from then on the hot path, which must not ask the loop, leads to the slow one.
        last_thing = _LastThing()
        self._loop.call_later(_NEVER_S, last_thing)
        self._loop_end = weakref.ref(last_thing, self._loop_has_ended)

    def _loop_has_ended(self, _: object) -> None:
        self.owner = 0

    def redirect(self, outlet: Outlet) -> None:
        """Send to another outlet from now on: the writer's task will never read again."""
        self._outlet = outlet

    def close(self, *, failed: bool = False) -> None:
        """Take no more events: from here on `emit` raises. In the loop's thread only, with the inbox locked."""
        self.state = State.FAILED if failed else State.CLOSED
        self.owner = 0
        if self._outlet is not None:
            self._outlet.end()
        self._wake_room_waiters()

    def forked(self) -> None:
        """Refuse everything in a forked child; the lock may be held for ever by a thread that is not there."""
        if self.state is State.OPEN:
            self.state = State.FORKED
            self.owner = 0

    def check_open(self) -> None:
        """Raise what is owed to a caller whose event can't be taken because of the log's state."""
        match self.state:
            case State.OPEN:
                return
            case State.NOT_STARTED:
                raise LogClosed(
                    "the audit log is not started: enter `async with AuditLogger(config)`, in synchronous code `with "
                    "SyncAuditLogger(config)`, or call its start() first"
                )
            case State.FORKED:
                raise LogClosed(
                    "this process was forked from the one that opened the audit log, and a log has one writer: open "
                    "an AuditLogger of its own in each process, after the fork"
                )
            case State.FAILED:
                failure = self.acknowledgements.failure if self.acknowledgements else None
                raise WriteFailed(
                    "the audit log's writer has stopped and takes no more events; health() says why. Fix the cause "
                    "and start a new one"
                ) from failure
            case State.CLOSED:
                raise LogClosed("the audit log is closed and takes no more events: open a new one")

    # The way of an event in the loop's thread; `AuditLogger.emit` does the same by itself.

    def accept(self, encoded: bytes, *, urgent: bool) -> Receipt:
        """Take an event after all others, whatever the bounds say."""
        if self.inbox.entries:
            self.empty_inbox()
        chunk = self.chunk if self.chunk is not None else self.open_chunk()
        receipt = Receipt(self.next_number(), time_ns(), encoded, -1, "", self.acknowledgements)
        self.free_events -= 1
        self.free_bytes -= len(encoded) + RECORD_OVERHEAD
        if urgent:
            self.chunk_is_urgent = True
        chunk.append(receipt)
        return receipt

    def stamp(self, encoded: bytes) -> Receipt:
        """Return a new receipt: the event gets its number, and the time of now."""
        return Receipt(self.next_number(), time_ns(), encoded, -1, "", self.acknowledgements)

    def open_chunk(self) -> list[Receipt]:
        """Send a new chunk to the writer, empty still; return the open one if there is one by now.

        It is open once the writer has it and is woken, not before: a signal handler that raises may end this anywhere,
        and no event may be in a chunk that nobody takes.
        """
        assert self._outlet is not None  # noqa: S101 - it is there while the state is OPEN
        chunk: list[Receipt] = []
        # A signal handler or a finalizer may have emitted since the caller looked, and the writer takes one at a time.
        if self.chunk is not None:
            return self.chunk
        try:
            self._outlet.chunk(chunk)
        except RuntimeError as error:
            raise LogClosed(_LOOP_CLOSED) from error
        if self.chunk is None:  # or one has emitted during the call: the writer ignores the chunk that stays empty
            self.chunk = chunk
        return self.chunk

    # The way of an event from another thread.

    def accept_elsewhere(self, encoded: bytes, *, urgent: bool) -> Receipt:
        """Take an event in another thread than the loop's, whatever the bounds say; the inbox is locked."""
        if not self.inbox.loop_woken:
            self.wake_loop()
        receipt = self.stamp(encoded)
        cost = len(encoded) + RECORD_OVERHEAD
        self.inbox.bytes += cost  # before: a signal handler that raises comes after the call
        self.inbox.entries.append((receipt, cost, urgent))
        return receipt

    def wake_loop(self) -> None:
        """Have the loop empty the inbox, which was not asked of it yet; the inbox is locked."""
        assert self._loop is not None  # noqa: S101 - it is there while the state is OPEN
        self.inbox.loop_woken = True  # before the call: the loop may run it before it returns here
        try:
            self._loop.call_soon_threadsafe(self.empty_inbox)
        except RuntimeError as error:
            self.inbox.loop_woken = False
            raise LogClosed(_LOOP_CLOSED) from error
        except BaseException:  # of a signal handler, as Celery's time limits are: nobody knows whether it was woken
            self.inbox.loop_woken = False
            raise

    def empty_inbox(self) -> None:
        """Move what other threads emitted into the open chunk, in order. In the loop's thread only."""
        inbox = self.inbox
        if not inbox.entries and not inbox.loop_woken:
            return
        with inbox.lock:
            inbox.loop_woken = False
            if inbox.being_emptied:  # a signal handler that emits in the middle of this, in this thread
                return
            inbox.being_emptied = True
            try:
                while inbox.entries:
                    chunk = self.chunk if self.chunk is not None else self.open_chunk()
                    receipt, cost, urgent = inbox.entries[0]
                    if receipt is not inbox.moved:
                        inbox.moved = receipt
                        inbox.bytes -= cost
                        self.free_events -= 1
                        self.free_bytes -= cost
                        if urgent:
                            self.chunk_is_urgent = True
                        chunk.append(receipt)
                    inbox.entries.popleft()
                inbox.moved = None
            finally:
                inbox.being_emptied = False

    # The bounds.

    def has_room(self, cost: int, *, critical: bool) -> bool:
        """True if an event of this cost may be taken.

        The configuration sees to it that an empty buffer takes the largest event. What other threads put in at this
        very moment may not be counted yet, so the bounds can be exceeded by one event a thread.
        """
        free_events = self.free_events - len(self.inbox.entries)
        free_bytes = self.free_bytes - self.inbox.bytes
        if critical:
            free_events += self.bounds.events - self.bounds.ordinary_events
            free_bytes += self.bounds.bytes - self.bounds.ordinary_bytes
        return free_events > 0 and cost <= free_bytes

    @property
    def held_events(self) -> int:
        """Events taken and not yet durable."""
        return self.bounds.ordinary_events - self.free_events + len(self.inbox.entries)

    @property
    def held_bytes(self) -> int:
        """The memory that those events are counted with."""
        return self.bounds.ordinary_bytes - self.free_bytes + self.inbox.bytes

    @property
    def fill(self) -> float:
        """How full the buffer is, 0.0 to 1.0, by whichever bound is closer."""
        return min(1.0, max(self.held_events / self.bounds.events, self.held_bytes / self.bounds.bytes))

    async def wait_for_room(self, cost: int, *, critical: bool) -> None:
        """Return when an event of this cost may be taken; raises as `check_open` if the log ends meanwhile."""
        self.empty_inbox()
        while not self.has_room(cost, critical=critical):
            room = asyncio.Event()
            self._room_waiters.add(room)
            try:
                await room.wait()
            finally:
                self._room_waiters.discard(room)
            self.check_open()
            self.empty_inbox()

    def release(self, events: int, event_bytes: int) -> None:
        """Give back the room of events that are durable, and wake those who wait for room."""
        self.free_events += events
        self.free_bytes += event_bytes + events * RECORD_OVERHEAD
        if self._room_waiters:
            self._wake_room_waiters()

    def clear(self) -> None:
        """Give back all room: everything is durable, and the loop runs no more."""
        self.free_events, self.free_bytes = self.bounds.ordinary_events, self.bounds.ordinary_bytes

    def _wake_room_waiters(self) -> None:
        waiters, self._room_waiters = self._room_waiters, set()
        for room in waiters:
            with suppress(RuntimeError):  # the loop is closed, so no task waits any more
                room.set()

    # For the writer, in the loop's thread.

    def begin(self, chunk: list[Receipt]) -> bool:
        """Close a chunk, which the writer begins to frame; return whether something in it is urgent."""
        if chunk is self.chunk:
            self.chunk = None
        urgent, self.chunk_is_urgent = self.chunk_is_urgent, False
        return urgent

    def make_urgent(self) -> Receipt | None:
        """Have what the writer has not begun made durable at once; return the newest of it, None if there is none."""
        if self.inbox.entries:
            self.empty_inbox()
        if not self.chunk:
            return None
        self.chunk_is_urgent = True
        return self.chunk[-1]
