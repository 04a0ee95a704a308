"""The near side of the writer: from an event in any thread to its receipt in the buffer.

An event is encoded and made harmless (`encoder`), counted against the bounds and put in order (`buffer`), or refused
and counted (`drop_counter`). What happens to it then is the writer's story. Nothing here waits for the disk, and
nothing does I/O. The plain path of the loop's own thread is in `AuditLogger.emit`; all others are here.
"""

from __future__ import annotations

from contextlib import suppress
from threading import get_ident
from time import time_ns
from typing import Final

from audit_async._chain import Entry
from audit_async._writer.buffer import RECORD_OVERHEAD, Bounds, Buffer, Outlet, State
from audit_async._writer.drop_counter import DropCounter
from audit_async._writer.encoder import BACKSLASH, CRITICAL, DEL, LOOKED_INTO, Encoder
from audit_async._writer.receipts import Acknowledgements, Receipt
from audit_async.config import AuditConfig
from audit_async.context import bound_here
from audit_async.errors import BufferFull, LogClosed
from audit_async.events import AuditEvent, describe
from audit_async.events.base import encode

_OPEN: Final = State.OPEN  # an enum's member costs 100 ns to look up on Python 3.11


class Intake:
    """Takes events of any thread: an encoder, a buffer and a drop counter, one after the other."""

    def __init__(self, config: AuditConfig) -> None:
        self.encoder: Final = Encoder(config)
        self.buffer: Final = Buffer(Bounds.of(config.buffer_events, config.buffer_bytes))
        self.drops: Final = DropCounter()

    @property
    def state(self) -> State:
        """What happens to an event now."""
        return self.buffer.state

    # Events of the application.

    def emit_elsewhere(self, event: AuditEvent) -> Receipt:
        """Take an event that doesn't come from the loop's thread; refuse one that no open log awaits."""
        # Every event of a `SyncAuditLogger` comes here, so what need not be called is not: see `AuditLogger.emit`.
        buffer, encoder = self.buffer, self.encoder
        if buffer.state is not _OPEN:
            buffer.check_open()
        try:
            kind = encoder.kinds[event.__class__]
        except KeyError:
            kind = encoder.learn(event)
        try:
            encoded = encode(event)
        except Exception:  # noqa: BLE001 - as in `Encoder.encode`
            encoded = encoder.look_into(event, kind, None)
        else:
            if kind and kind & LOOKED_INTO:
                encoded = encoder.look_into(event, kind, encoded)
            elif len(encoded) > encoder.plain_bytes or not encoded.isascii() or BACKSLASH in encoded or DEL in encoded:
                encoded = encoder.harmless(event, encoded)
        bound = bound_here()
        if bound is not None:
            encoded += encoder.context_text(bound)
        cost = len(encoded) + RECORD_OVERHEAD
        inbox = buffer.inbox
        with inbox.lock:
            if buffer.state is not _OPEN:  # it may have been closed since
                buffer.check_open()
            if buffer.free_events <= len(inbox.entries) or buffer.free_bytes - inbox.bytes < cost:
                self.refuse_unless_room(event, kind, encoded)
            if not inbox.loop_woken:
                buffer.wake_loop()
            receipt = Receipt(buffer.next_number(), time_ns(), encoded, -1, "", buffer.acknowledgements)
            inbox.bytes += cost  # before: a signal handler that raises comes after the call
            inbox.entries.append((receipt, cost, kind & buffer.urgent_kinds))
        return receipt

    def emit_prepared(self, event_class: type[AuditEvent], encoded: bytes) -> bool:
        """Take an event that its emitter has encoded, with the context that is bound here; in the loop's thread.

        `encoded` is what an event of that class encodes to, and plain (`encoder.is_plain`). Return False if nothing was
        taken, since the event needs a look, there is no room, or this is another thread: then it is to be emitted.
        Raises `InvalidEvent` and `LogClosed` as `AuditLogger.emit` does, whose plain path this is.
        """
        buffer, encoder = self.buffer, self.encoder
        if (
            get_ident() != buffer.owner
            or encoder.kinds.get(event_class, LOOKED_INTO)
            or len(encoded) > encoder.plain_bytes
        ):
            return False
        bound = bound_here()
        if bound is not None:
            encoded += encoder.context_text(bound)
        cost = len(encoded) + RECORD_OVERHEAD
        if buffer.inbox.entries:
            buffer.empty_inbox()
        if buffer.free_events <= 0 or buffer.free_bytes < cost:
            return False
        chunk = buffer.chunk
        if chunk is None:
            chunk = buffer.open_chunk()
        receipt = Receipt(buffer.next_number(), time_ns(), encoded, -1, "", buffer.acknowledgements)
        buffer.free_events -= 1
        buffer.free_bytes -= cost
        chunk.append(receipt)
        return True

    async def emit_durably(self, event: AuditEvent) -> Receipt:
        """Take an event once there is room for it, and make it durable at once. In the loop's thread only."""
        buffer = self.buffer
        if buffer.state is not _OPEN:
            buffer.check_open()
        kind, encoded = self.encoder.encode(event)
        cost = len(encoded) + RECORD_OVERHEAD
        if buffer.inbox.entries or buffer.free_events <= 0 or buffer.free_bytes < cost:
            try:
                await buffer.wait_for_room(cost, critical=bool(kind & CRITICAL))
            except BaseException:
                self.encoder.refused(encoded)
                raise
        return buffer.accept(encoded, urgent=True)

    def refuse_unless_room(self, event: AuditEvent, kind: int, encoded: bytes) -> None:
        """Raise `BufferFull`, and count the event as lost, unless there is room for it."""
        buffer = self.buffer
        if buffer.has_room(len(encoded) + RECORD_OVERHEAD, critical=bool(kind & CRITICAL)):
            return
        self.encoder.refused(encoded)
        event_type = describe(event.__class__).tag
        self.drops.count(event_type, "buffer_full")
        raise BufferFull(
            f"no room for {event_type}: {buffer.held_events} of {buffer.bounds.events} events and {buffer.held_bytes} "
            f"of {buffer.bounds.bytes} bytes wait for the disk, the last tenth kept for critical events. The refusal "
            "is counted and will be recorded. health() says whether the disk fails; otherwise raise buffer_events or "
            "buffer_bytes, or wait for room with emit_durable()"
        )

    def count_lost(self, event_type: str, reason: str) -> None:
        """Count an event that something else than the buffer kept from being recorded; from any thread.

        It is in the statistics at once, and in the chain with the next commit; if nothing waits for one, a commit is
        made for it. `reason` is a word such as `invalid_event`.
        """
        self.drops.count(event_type, reason)
        buffer = self.buffer
        if buffer.state is _OPEN and not buffer.held_events:
            with buffer.inbox.lock, suppress(LogClosed):
                if buffer.state is not _OPEN:
                    return
                if get_ident() != buffer.owner and not buffer.inbox.loop_woken:
                    buffer.wake_loop()  # raises if the loop is closed, before what is to be recorded is taken
                for dropped in self.drops.take_unrecorded():
                    self.emit_on_record(dropped)

    # The library's own events.

    def emit_internal(self, event: AuditEvent) -> Receipt:
        """Take one of the library's own events, whatever the bounds say: there are few. In the loop's thread only."""
        return self.buffer.accept(self.encoder.encode_internal(event), urgent=False)

    def emit_on_record(self, event: AuditEvent) -> Receipt:
        """Take one of the library's own events from any thread, whatever the bounds say; raises as `emit` does."""
        buffer = self.buffer
        buffer.check_open()
        encoded = self.encoder.encode_internal(event)
        if get_ident() == buffer.owner:
            return buffer.accept(encoded, urgent=False)
        with buffer.inbox.lock:
            buffer.check_open()
            return buffer.accept_elsewhere(encoded, urgent=False)

    def stamp(self, event: AuditEvent) -> Entry:
        """Return an entry for one of the library's own events that goes into the chain before the log is open."""
        return Entry(self.buffer.next_number(), time_ns(), self.encoder.encode_internal(event))

    def record_drops(self) -> None:
        """Put into the chain what was lost and is in no record yet. In the loop's thread, while the log is open."""
        for dropped in self.drops.take_unrecorded():
            self.emit_internal(dropped)

    # The life of the log, in the loop's thread.

    def open(self, acknowledgements: Acknowledgements, outlet: Outlet, *, critical_at_once: bool) -> None:
        """Begin to take events; the running loop and its thread become the owner."""
        self.buffer.open(acknowledgements, outlet, urgent_kinds=CRITICAL if critical_at_once else 0)

    def close(self, last_event: AuditEvent | None, *, failed: bool = False) -> None:
        """Take no more events: from here on `emit` raises.

        What other threads have put in is taken before, losses are recorded, and `last_event` becomes the last one.
        """
        buffer = self.buffer
        with buffer.inbox.lock:
            if buffer.state is not State.OPEN:
                return
            buffer.empty_inbox()
            if last_event is not None:
                self.record_drops()
                buffer.accept(self.encoder.encode_internal(last_event), urgent=True)
            buffer.close(failed=failed)
