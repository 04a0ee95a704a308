"""The near side of the buffer: from `emit()` in any thread to the stream that the writer task reads.

Here an event is encoded, checked, stamped, counted against the bounds and put in order. What happens to it then is
the writer's story. Nothing on this side waits for the disk, and nothing here does I/O.

The stream (anyio's memory object stream) carries *chunks*, lists of receipts. The newest chunk stays open: while the
writer has not taken it, `emit` appends to it, so a burst of events costs one send and one wake-up instead of one
each (measured: 25 ns an event instead of 230).

Who owns what: everything is owned by the loop's thread, except the *inbox*, which belongs to `_lock`. Other threads
put their receipts there under the lock and poke the loop, since anyio's streams are not thread-safe. The loop's
thread empties the inbox before it accepts an event of its own, so what happened before stands before, also across
threads. The lock is re-entrant, since a signal handler or a finalizer may emit while its thread holds it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from itertools import count
from threading import RLock, get_ident
from time import time_ns
from typing import Final, NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from audit_async._redact.free_form import free_form_members
from audit_async._redact.redactor import Redactor
from audit_async._sanitize.context_member import context_member
from audit_async._sanitize.slow_path import OnUnsafe, holds_plain_values, make_harmless
from audit_async._writer.receipts import Acknowledgements, Receipt
from audit_async.config import AuditConfig
from audit_async.context import Bound, bound_here
from audit_async.errors import BufferFull, InvalidEvent, LogClosed, WriteFailed
from audit_async.events.base import AuditEvent, encode
from audit_async.events.lifecycle import AuditEventsDropped, AuditLogAccessed
from audit_async.events.registry import describe

#: What an event costs in memory beside its encoded text: the other members of its line, its receipt, its numbers.
RECORD_OVERHEAD: Final = 640

#: An event of more bytes takes the slow road, however long a text may be: there it is copied to its size.
_LARGEST_PLAIN: Final = 2048

# What is learned of an event's class, once.
_CRITICAL: Final = 1
_FREE_FORM: Final = 2  # it has room for a float, or for anything
_SEARCHED: Final = 4  # it has members in which secrets are searched for
_WALKED: Final = _FREE_FORM | _SEARCHED

#: The most that the context takes of a record, in bytes; and at most a quarter of `max_event_bytes`.
_MAX_CONTEXT_BYTES: Final = 4096

# Each intake's own key for the text that it makes of a binding.
_next_context_key: Final = count().__next__

_BACKSLASH: Final = 0x5C
_DEL: Final = 0x7F


class State(Enum):
    """What an intake does with an event."""

    NOT_STARTED = "not started"
    OPEN = "open"
    CLOSED = "closed"
    FAILED = "failed"
    FORKED = "forked"


class _FromElsewhere(NamedTuple):
    """An event in the inbox: another thread put it there, the loop's thread takes it out."""

    receipt: Receipt
    cost: int
    urgent: bool


def _nobody() -> None:
    """Take no notice of a chunk: what an intake calls that was not opened."""


class Intake:
    """Takes events from any thread, in order and within the bounds, and hands them to the writer in chunks."""

    def __init__(self, config: AuditConfig) -> None:
        self.dropped: Counter[str] = Counter()  #: refused because of a full buffer, by type, since the start
        self.state = State.NOT_STARTED
        self._config = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._acknowledgements: Acknowledgements | None = None
        # The loop's thread while the state is OPEN, otherwise 0, which is no thread: one comparison on the hot path
        # sends both another thread and a log that is not open to `_emit_elsewhere`.
        self._owner = 0
        self._kinds: dict[type, int] = {}
        self._redactor = Redactor(config.redaction)
        self._free_form_members: dict[type, tuple[str, ...]] = {}
        self._context_key = _next_context_key()
        self._max_context_bytes = min(_MAX_CONTEXT_BYTES, config.max_event_bytes // 4)
        self._next_number = count().__next__
        self._send: MemoryObjectSendStream[list[Receipt]] | None = None
        self._receive: MemoryObjectReceiveStream[list[Receipt]] | None = None
        self._chunk_sent: Callable[[], None] = _nobody
        self._chunk: list[Receipt] | None = None
        self._demanded = False
        self._urgent_kinds = 0
        self._room_waiters: set[asyncio.Event] = set()
        # An event and its context together are never larger than the largest event: the slow road sees to it, and an
        # event that may not leave room takes that.
        largest_plain = min(config.max_field_chars, _LARGEST_PLAIN, config.max_event_bytes - self._max_context_bytes)
        self._plain_cost = largest_plain + RECORD_OVERHEAD
        # Bounds: ordinary events may fill nine tenths of the buffer, the last tenth is kept for critical ones.
        self._max_events, self._max_bytes = config.buffer_events, config.buffer_bytes
        self._open_events = self._max_events - max(1, self._max_events // 10)
        self._open_bytes = self._max_bytes - max(1, self._max_bytes // 10)
        self._held_events = 0
        self._held_bytes = 0
        # Owned by _lock, like the refusals that no record tells of yet.
        self._lock = RLock()
        self._inbox: deque[_FromElsewhere] = deque()
        self._inbox_bytes = 0
        self._poked = False
        self._emptying_inbox = False
        self._untold: Counter[str] = Counter()
        self._untold_since = self._untold_until = datetime.min.replace(tzinfo=UTC)

    # The way of an event.

    def emit(self, event: AuditEvent) -> Receipt:
        """Take `event` into the trail; see `AuditLogger.emit`."""
        # The hot path: about 700 ns (python -m bench emit). What it needs stands here, since a call costs 50 ns.
        if get_ident() != self._owner:
            return self._emit_elsewhere(event)
        try:
            kind = self._kinds[event.__class__]
        except KeyError:
            kind = self._learn(event)
        try:
            encoded = encode(event)
        except Exception:  # noqa: BLE001 - whatever the event's own objects raise; the slow road names the field
            encoded = self._walk(event, kind, None)
            cost = len(encoded) + RECORD_OVERHEAD
        else:
            # Encoded JSON that is ASCII, has no backslash and no DEL, and is no longer than one text may be, can't hold
            # a control character, a bidirectional override or an overlong text.
            cost = len(encoded) + RECORD_OVERHEAD
            if kind and kind & _WALKED:
                encoded = self._walk(event, kind, encoded)
                cost = len(encoded) + RECORD_OVERHEAD
            elif cost > self._plain_cost or not encoded.isascii() or _BACKSLASH in encoded or _DEL in encoded:
                encoded = self._harmless(event, encoded)
                cost = len(encoded) + RECORD_OVERHEAD
        bound = bound_here()
        if bound is not None:
            context = self._context_text(bound)
            encoded += context
            cost += len(context)
        if self._inbox:
            self._empty_inbox()
        if self._held_events >= self._open_events or self._held_bytes + cost > self._open_bytes:
            self._refuse_unless_room(event, kind, cost)
        receipt = Receipt(self._next_number(), time_ns(), encoded, -1, "", self._acknowledgements)
        self._held_events += 1
        self._held_bytes += cost
        if kind and kind & self._urgent_kinds:
            self._demanded = True
        chunk = self._chunk
        if chunk is None:
            chunk = self._open_chunk()
        chunk.append(receipt)
        return receipt

    def _emit_elsewhere(self, event: AuditEvent) -> Receipt:
        """Take an event that doesn't come from the loop's thread; refuse one that no open log awaits."""
        self._check_open()
        kind, encoded = self._encode(event)
        cost = len(encoded) + RECORD_OVERHEAD
        with self._lock:
            self._check_open()  # it may have been closed since
            self._refuse_unless_room(event, kind, cost)
            self._poke()
            receipt = Receipt(self._next_number(), time_ns(), encoded, -1, "", self._acknowledgements)
            self._inbox.append(_FromElsewhere(receipt, cost, bool(kind & self._urgent_kinds)))
            self._inbox_bytes += cost
        return receipt

    async def emit_durably(self, event: AuditEvent) -> Receipt:
        """Take `event` once there is room for it, and make it durable at once. In the loop's thread only."""
        self._check_open()
        kind, encoded = self._encode(event)
        cost = len(encoded) + RECORD_OVERHEAD
        self._empty_inbox()
        while not self._has_room(kind, cost):
            room = asyncio.Event()
            self._room_waiters.add(room)
            try:
                await room.wait()
            finally:
                self._room_waiters.discard(room)
            self._check_open()
            self._empty_inbox()
        self._demanded = True
        return self._accept(encoded)

    def emit_internal(self, event: AuditEvent) -> Receipt:
        """Take one of the library's own events, whatever the bounds say: there are few. In the loop's thread only."""
        self._empty_inbox()
        return self._accept(self._harmless_internal(event))

    def emit_on_record(self, event: AuditEvent) -> Receipt:
        """Take one of the library's own events from any thread, whatever the bounds say; raises as `emit` does."""
        self._check_open()
        if isinstance(event, AuditLogAccessed):  # what somebody asked for, unlike all else that the log tells of itself
            event = self._redactor.redact_members(event, ("query",))
        if get_ident() == self._owner:
            return self.emit_internal(event)
        encoded = self._harmless_internal(event)
        with self._lock:
            self._check_open()
            self._poke()
            receipt = Receipt(self._next_number(), time_ns(), encoded, -1, "", self._acknowledgements)
            cost = len(encoded) + RECORD_OVERHEAD
            self._inbox.append(_FromElsewhere(receipt, cost, urgent=False))
            self._inbox_bytes += cost
        return receipt

    def stamp(self, event: AuditEvent, acknowledgements: Acknowledgements) -> Receipt:
        """Return an entry for one of the library's own events that goes into the chain before the stream is open."""
        encoded = self._harmless_internal(event)
        return Receipt(self._next_number(), time_ns(), encoded, -1, "", acknowledgements)

    def _accept(self, encoded: bytes) -> Receipt:
        receipt = Receipt(self._next_number(), time_ns(), encoded, -1, "", self._acknowledgements)
        self._held_events += 1
        self._held_bytes += len(encoded) + RECORD_OVERHEAD
        chunk = self._chunk if self._chunk is not None else self._open_chunk()
        chunk.append(receipt)
        return receipt

    def _open_chunk(self) -> list[Receipt]:
        chunk: list[Receipt] = []
        self._chunk = chunk
        assert self._send is not None  # noqa: S101 - it is there while the state is OPEN
        assert self._loop is not None  # noqa: S101 - as well
        self._send.send_nowait(chunk)
        self._loop.call_soon(self._chunk_sent)
        return chunk

    # Encoding off the hot path.

    def _encode(self, event: AuditEvent) -> tuple[int, bytes]:
        """Do what `emit` does first, at the price of a call: return the event's kind and its harmless bytes."""
        kind = self._kinds.get(event.__class__, -1)
        if kind < 0:
            kind = self._learn(event)
        try:
            encoded = encode(event)
        except Exception:  # noqa: BLE001 - as in emit
            encoded = self._walk(event, kind, None)
        else:
            encoded = self._walk(event, kind, encoded)
        bound = bound_here()
        return kind, encoded if bound is None else encoded + self._context_text(bound)

    def _walk(self, event: AuditEvent, kind: int, encoded: bytes | None) -> bytes:
        """Return the harmless bytes of an event that is looked into, without the secrets in free-form data.

        `encoded` is what it encodes to, None where that raised.
        """
        if kind & _SEARCHED:
            clean = self._redactor.redact_members(event, self._free_form_members[event.__class__])
            if clean is not event:
                event = clean
                try:
                    encoded = encode(event)
                except Exception:  # noqa: BLE001 - as in emit
                    encoded = None
        if encoded is None or (kind & _FREE_FORM and not holds_plain_values(event)):
            return self._harmless(event, None)
        too_long = len(encoded) + RECORD_OVERHEAD > self._plain_cost
        if too_long or not encoded.isascii() or _BACKSLASH in encoded or _DEL in encoded:
            return self._harmless(event, encoded)
        return encoded

    def _context_text(self, bound: Bound) -> bytes:
        """Return the record's member `context` for what is bound; made at the first event, and kept in the binding."""
        text = bound.texts.get(self._context_key)
        if text is None:
            text = bound.texts[self._context_key] = context_member(
                bound.values,
                redactor=self._redactor,
                on_unsafe=self._config.on_unsafe,
                max_field_chars=self._config.max_field_chars,
                max_bytes=self._max_context_bytes,
            )
        return text

    def _learn(self, event: AuditEvent) -> int:
        """Check the event's class once, and remember what matters of it."""
        described = describe(event.__class__)
        if described.internal:
            raise InvalidEvent(described.tag, "", "audit.* events tell of the log itself, and only the log emits them")
        kind = (_CRITICAL if described.critical else 0) | (_FREE_FORM if described.free_form else 0)
        members = free_form_members(event.__class__) if self._config.redaction.enabled else ()
        if members:
            kind |= _SEARCHED
            self._free_form_members[event.__class__] = members
        self._kinds[event.__class__] = kind
        return kind

    def _harmless(self, event: AuditEvent, encoded: bytes | None) -> bytes:
        config, bound = self._config, bound_here()
        room = config.max_event_bytes if bound is None else config.max_event_bytes - len(self._context_text(bound))
        return self._fitted(event, encoded, config.on_unsafe, room)

    def _harmless_internal(self, event: AuditEvent) -> bytes:
        """Return the bytes of one of the library's own events: no task's, and never refused."""
        return self._fitted(event, None, "escape", self._config.max_event_bytes)

    def _fitted(self, event: AuditEvent, encoded: bytes | None, on_unsafe: OnUnsafe, max_event_bytes: int) -> bytes:
        harmless = make_harmless(
            event,
            encoded,
            on_unsafe=on_unsafe,
            max_field_chars=self._config.max_field_chars,
            max_event_bytes=max_event_bytes,
        )
        # A copy, since msgspec returns its whole output buffer, of which a third may be unused: a buffer of 4 MiB
        # that was full of large events held 5.3 (tests/writer/test_real_faults.py).
        return memoryview(harmless).tobytes()

    # The bounds.

    def _has_room(self, kind: int, cost: int) -> bool:
        """True where an event of this kind and cost may be taken.

        The configuration sees to it that an empty buffer takes the largest event. What other threads put in at this
        very moment may not be counted yet, so the bounds can be exceeded by one event a thread.
        """
        events = self._held_events + len(self._inbox)
        if kind & _CRITICAL:
            max_events, max_bytes = self._max_events, self._max_bytes
        else:
            max_events, max_bytes = self._open_events, self._open_bytes
        return events < max_events and self._held_bytes + self._inbox_bytes + cost <= max_bytes

    def _refuse_unless_room(self, event: AuditEvent, kind: int, cost: int) -> None:
        """Raise `BufferFull`, and count the event, unless there is room for it."""
        if self._has_room(kind, cost):
            return
        event_type = describe(event.__class__).tag
        now = datetime.now(UTC)
        with self._lock:
            self.dropped[event_type] += 1
            if not self._untold:
                self._untold_since = now
            self._untold[event_type] += 1
            self._untold_until = now
        raise BufferFull(
            f"no room for {event_type}: {self.held_events} of {self._max_events} events and {self.held_bytes} of "
            f"{self._max_bytes} bytes wait for the disk, the last tenth kept for critical events. The refusal is "
            "counted and will be recorded. health() says whether the disk fails; otherwise raise buffer_events or "
            "buffer_bytes, or wait for room with emit_durable()"
        )

    @property
    def held_events(self) -> int:
        """Events taken and not yet durable."""
        return self._held_events + len(self._inbox)

    @property
    def held_bytes(self) -> int:
        """The memory that those events are counted with."""
        return self._held_bytes + self._inbox_bytes

    @property
    def fill(self) -> float:
        """How full the buffer is, 0.0 to 1.0, by whichever bound is closer."""
        return min(1.0, max(self.held_events / self._max_events, self.held_bytes / self._max_bytes))

    # The states.

    def _check_open(self) -> None:
        """Raise what is owed to a caller whose event can't be taken because of the log's state."""
        match self.state:
            case State.OPEN:
                return
            case State.NOT_STARTED:
                raise LogClosed(
                    "the audit log is not started: enter `async with AuditLogger(config)` or await start() first"
                )
            case State.FORKED:
                raise LogClosed(
                    "this process was forked from the one that opened the audit log, and a log has one writer: open "
                    "an AuditLogger of its own in each process, after the fork"
                )
            case State.FAILED:
                failure = self._acknowledgements.failure if self._acknowledgements else None
                raise WriteFailed(
                    "the audit log's writer has stopped and takes no more events; health() says why. Mend the cause "
                    "and start a new AuditLogger"
                ) from failure
            case State.CLOSED:
                raise LogClosed("the audit log is closed and takes no more events: open a new AuditLogger")

    def open(
        self, acknowledgements: Acknowledgements, chunk_sent: Callable[[], None], *, critical_at_once: bool
    ) -> None:
        """Begin to take events; the running loop and its thread become the owner.

        The loop calls `chunk_sent` for each chunk on the stream, and once more at its end.
        """
        # The bounds are ours, in events and bytes; the stream itself has none.
        self._send, self._receive = anyio.create_memory_object_stream[list[Receipt]](math.inf)
        self._loop = asyncio.get_running_loop()
        self._chunk_sent = chunk_sent
        self._acknowledgements = acknowledgements
        self._urgent_kinds = _CRITICAL if critical_at_once else 0
        self.state = State.OPEN
        self._owner = get_ident()

    def close(self, last_event: AuditEvent | None, *, failed: bool = False) -> None:
        """Take no more events: from here on `emit` raises. In the loop's thread only.

        What other threads have put in is taken before, refusals are told, and `last_event` becomes the last one.
        """
        with self._lock:
            if self.state is not State.OPEN:
                return
            self._empty_inbox()
            if last_event is not None:
                self.tell_refusals()
                self.emit_internal(last_event)
                self._demanded = True
            self.state = State.FAILED if failed else State.CLOSED
            self._owner = 0
            assert self._send is not None  # noqa: S101 - it was OPEN
            assert self._loop is not None  # noqa: S101 - as well
            self._send.close()
            self._loop.call_soon(self._chunk_sent)
        self._wake_room_waiters()

    def forked(self) -> None:
        """Refuse everything in a forked child; the lock may be held for ever by a thread that is not there."""
        if self.state is State.OPEN:
            self.state = State.FORKED
            self._owner = 0

    # Between the threads and the loop.

    def _poke(self) -> None:
        """Ask the loop to empty the inbox; the caller holds `_lock`."""
        if self._poked:
            return
        assert self._loop is not None  # noqa: S101 - it is there while the state is OPEN
        try:
            self._loop.call_soon_threadsafe(self._empty_inbox)
        except RuntimeError as error:
            raise LogClosed(
                "the event loop that the audit log was started on is closed, so nothing writes its events: keep "
                "`async with AuditLogger(config)` open as long as threads emit"
            ) from error
        self._poked = True

    def _empty_inbox(self) -> None:
        """Move what other threads emitted into the open chunk, in order. In the loop's thread only."""
        with self._lock:
            self._poked = False
            if self._emptying_inbox:  # a signal handler that emits in the middle of this, in this thread
                return
            self._emptying_inbox = True
            try:
                while self._inbox:
                    chunk = self._chunk if self._chunk is not None else self._open_chunk()
                    receipt, cost, urgent = self._inbox.popleft()
                    chunk.append(receipt)
                    self._inbox_bytes -= cost
                    self._held_events += 1
                    self._held_bytes += cost
                    self._demanded = self._demanded or urgent
            finally:
                self._emptying_inbox = False

    # For the writer, in the loop's thread.

    def take(self) -> tuple[list[Receipt], bool] | None:
        """Take the next chunk from the stream; None where there is none now.

        With it comes whether something in it is to be durable at once. Raises `anyio.EndOfStream` behind the last.
        """
        assert self._receive is not None  # noqa: S101 - it is there since the opening
        try:
            chunk = self._receive.receive_nowait()
        except anyio.WouldBlock:
            return None
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._receive.close()
            raise anyio.EndOfStream from None
        if chunk is self._chunk:
            self._chunk = None
        demanded, self._demanded = self._demanded, False
        return chunk, demanded

    def demand(self) -> Receipt | None:
        """Return the newest receipt that the writer has not taken, now to be made durable at once; None if none."""
        self._empty_inbox()
        if not self._chunk:
            return None
        self._demanded = True
        return self._chunk[-1]

    def release(self, events: int, event_bytes: int) -> None:
        """Give back the room of events that are durable, record refusals, and wake those who wait for room."""
        self._held_events -= events
        self._held_bytes -= event_bytes + events * RECORD_OVERHEAD
        if self._untold and self.state is State.OPEN:
            self.tell_refusals()
        self._wake_room_waiters()

    def tell_refusals(self) -> None:
        """Put the count of refused events into the chain, where there is one that no record tells of."""
        with self._lock:
            untold, self._untold = self._untold, Counter()
            since, until = self._untold_since, self._untold_until
        if untold:
            self.emit_internal(
                AuditEventsDropped(
                    count=untold.total(),
                    by_type=dict(untold),
                    first_at=since,
                    last_at=until,
                    reason="buffer_full",
                )
            )

    def _wake_room_waiters(self) -> None:
        waiters, self._room_waiters = self._room_waiters, set()
        for room in waiters:
            room.set()
