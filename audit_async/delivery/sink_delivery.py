"""Delivering one log to one sink: at least once, in order, from a position that moves after the receiver's answer.

    read what is durable -> select, redact or open -> encode -> send -> store the position
                                                          |
             retry: wait, and read it again from the position; nothing is kept in memory meanwhile
             refused: halve the batch until the records are known that the receiver refuses alone

A record is set aside only if the receiver takes another one: of the same batch, or the last one it took, sent again.
Otherwise it is the receiver that is wrong, or its settings, and the trail waits. Syslog confirms nothing: there the
stored position is that of `overlap_s` ago, and after a broken connection it is gone back to.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import msgspec

from audit_async._trail.log_files import Log
from audit_async.delivery.deliver_settings import SinkSettings
from audit_async.delivery.deliverable_record import OWN_SERVICE, DeliverableRecord, DeliveredLog, EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.delivery.delivery_status import DeliveryState, DeliveryStatus
from audit_async.delivery.position_file import Position, SetAside, SinkDirectory, StateUnusable
from audit_async.delivery.record_formats import Format
from audit_async.delivery.record_selection import Selection
from audit_async.delivery.sink_gate import SinkGate
from audit_async.errors import AuditError
from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.log_tail import LogTail

__all__ = ["DeliveryReport", "SinkDelivery"]

_logger: Final = logging.getLogger("audit_async")

#: Waits of a log that has nothing new, in seconds: doubled from the first to the last.
_FIRST_WAIT_S: Final = 0.02
_LAST_WAIT_S: Final = 0.5
#: How long a log waits whose next records can't be read, in seconds.
_UNREADABLE_RETRY_S: Final = 60.0
#: How often a position is stored that moves over records which are not wanted, in seconds.
_STORE_EVERY_S: Final = 1.0
#: What is kept to know which record was sent how long ago: no more often than this, in seconds.
_SENT_EVERY_S: Final = 0.25

_STATES: Final = {
    Outcome.RETRY: DeliveryState.RETRYING,
    Outcome.UNAUTHORIZED: DeliveryState.UNAUTHORIZED,
    Outcome.MISCONFIGURED: DeliveryState.MISCONFIGURED,
    Outcome.REFUSED: DeliveryState.REFUSING,
}


class DeliveryReport(NamedTuple):
    """Something that belongs into the deliverer's own log."""

    kind: str
    reason: str
    log: DeliveredLog
    seq: int | None = None
    hash: str | None = None


class _Chunk(NamedTuple):
    """Records that are sent together, and up to where the log is done with them."""

    records: list[EncodedRecord]
    until: Head


class _NotTaken(Exception):
    """The receiver did not take a batch; what it said is in the first argument."""

    @property
    def result(self) -> SendResult:
        result: SendResult = self.args[0]
        return result


class SinkDelivery:
    """Delivers one log. For one task at a time; the status may be read from anywhere.

    Args:
        log: The log.
        delivered: How the receiver knows it.
        settings: The sink's.
        format: What a record is turned into.
        selection: What the sink gets.
        gate: The sink, shared with the deliveries of other logs.
        directory: The sink's positions, locked.
        report: Called in the event loop with what belongs into the deliverer's own log.
    """

    def __init__(
        self,
        log: Log,
        *,
        delivered: DeliveredLog,
        settings: SinkSettings,
        format: Format,  # noqa: A002 - the setting's name
        selection: Selection,
        gate: SinkGate,
        directory: SinkDirectory,
        report: Callable[[DeliveryReport], object],
    ) -> None:
        self._log: Final = log
        self._source: Final = delivered
        self._settings: Final = settings
        self._format: Final = format
        self._selection: Final = selection
        self._gate: Final = gate
        self._report: Final = report
        self._at: Final = _StoredPosition(directory, delivered, overlap_s=gate.sink.overlap_s)
        self._tail: LogTail | None = None
        self._sent: Head | None = None  #: up to where records were read and sent
        self._is_own: Final = delivered.service == OWN_SERVICE
        self._taken: EncodedRecord | None = None  #: the last record that the receiver took
        self._breaks = gate.sink.breaks
        self._reported = ""
        self.status = DeliveryStatus(sink=settings.name, log=delivered)

    def __repr__(self) -> str:
        return f"<SinkDelivery {self._source.name} to {self._settings.name} {self.status.state.value}>"

    @property
    def position(self) -> Position:
        """The stored position."""
        return self._at.position

    async def run(self) -> None:
        """Deliver what becomes durable, until cancelled."""
        try:
            while True:
                wait_s = await self._attempt(once=False)
                await anyio.sleep(wait_s)
        finally:
            self._close()

    async def run_once(self) -> DeliveryStatus:
        """Deliver what is durable by now; what fails is not tried again."""
        try:
            await self._attempt(once=True)
        finally:
            self._close()
        return self.status

    async def settle(self, *, all_sent: bool) -> None:
        """Store the position at the end; with `all_sent` all that was sent has reached the receiver."""
        await anyio.to_thread.run_sync(lambda: self._at.store(settle=all_sent))

    def note_recorded(self, now: float) -> None:
        """Take note that `audit.delivered` was recorded of the present position; stored with the next one."""
        position = self._at.position
        self._at.change(recorded_at=now, recorded_seq=position.seq, recorded_delivered=position.delivered)

    # -- what is tried, and what follows from an error ---------------------------------------------------------------

    async def _attempt(self, *, once: bool) -> float:
        """Deliver until something happens; return how long to wait then."""
        try:
            await self._deliver(once=once)
        except _NotTaken as not_taken:
            return self._wait(not_taken.result)
        except StateUnusable as error:
            self._stop(DeliveryState.STATE_UNUSABLE, str(error))
        except (AuditError, OSError) as error:
            self._stop(DeliveryState.UNREADABLE, str(error))
        except Exception as error:
            _logger.exception("%s to %s: an unexpected error; it is tried again", self._source.name, self.status.sink)
            self._stop(DeliveryState.STATE_UNUSABLE, type(error).__name__)
        return _UNREADABLE_RETRY_S

    def _wait(self, result: SendResult) -> float:
        self._close()
        self._gate.failed(result)
        state = _STATES[result.outcome]
        if self.status.state is not state:
            _logger.warning("%s to %s: %s: %s", self._source.name, self.status.sink, state.value, result.reason)
        self._set(state=state, problem=result.reason, failures=self.status.failures + 1)
        if state.needs_a_person and self._gate.is_news(state.value):
            self._report(DeliveryReport(state.name.lower(), result.reason, self._source))
        return self._gate.opens_in_s

    def _stop(self, state: DeliveryState, problem: str) -> None:
        self._close()
        self._set(state=state, problem=problem)
        _logger.error("%s to %s: %s", self._source.name, self.status.sink, problem)
        self._report_once(state.name.lower(), problem)

    def _report_once(self, kind: str, reason: str) -> None:
        """Report a problem, once until it changes: the receiver may be asked for days."""
        if self._reported != kind:
            self._reported = kind
            self._report(DeliveryReport(kind, reason, self._source))

    def _set(self, **changes: object) -> None:
        self.status = msgspec.structs.replace(self.status, **changes)

    def _close(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _open(self) -> LogTail:
        """Return the tail, at the place after the last record that was sent."""
        if self._tail is None:
            await anyio.to_thread.run_sync(self._at.load)
            breaks = self._gate.sink.breaks
            if breaks != self._breaks:
                self._at.go_back()
                self._breaks = breaks
            self._sent = self._at.sent
            tail = await anyio.to_thread.run_sync(lambda: LogTail(Path(self._log.directory)))
            tail.max_batch_bytes = max(tail.max_batch_bytes, self._settings.max_bytes)
            self._tail = tail  # closed from here on, whatever happens
            await anyio.to_thread.run_sync(tail.seek, self._sent)
            self._show(tail)
        return self._tail

    def _show(self, tail: LogTail) -> None:
        position = self._at.position
        self._set(
            seq=-1 if self._sent is None else self._sent.seq,
            acknowledged_seq=tail.known_seq,
            delivered=position.delivered,
            set_aside=position.set_aside,
        )

    async def _deliver(self, *, once: bool) -> None:
        """Deliver what is there; return never, or with `once` at the end."""
        wait_s = _FIRST_WAIT_S
        while True:
            if not once and self._gate.opens_in_s:
                self._close()
                await anyio.sleep(self._gate.opens_in_s)
                continue
            tail = await self._open()
            if self._gate.sink.breaks != self._breaks:
                self._close()
                continue
            async with self._gate.slots:
                if self._gate.opens_in_s and not once:  # by another log, meanwhile
                    continue
                chunks = await anyio.to_thread.run_sync(self._read, tail)
                for chunk in chunks:
                    await self._take(chunk)
                    self._show(tail)
            if chunks:
                wait_s = _FIRST_WAIT_S
                continue
            await self._caught_up(tail)
            if once:
                return
            await anyio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LAST_WAIT_S)

    async def _caught_up(self, tail: LogTail) -> None:
        if self._at.is_due():
            await anyio.to_thread.run_sync(self._at.store)
        self._show(tail)
        if self.status.state is not DeliveryState.CAUGHT_UP:
            self._set(state=DeliveryState.CAUGHT_UP, problem=None, waiting_since=None)
        self._reported = ""

    def _read(self, tail: LogTail) -> list[_Chunk]:
        """Return what comes next, ready to be sent; in a worker thread."""
        batch = tail.read()
        return list(self._chunks(batch)) if batch is not None else []

    def _chunks(self, batch: Batch) -> Iterator[_Chunk]:
        records: list[EncodedRecord] = []
        size = 0
        encode = self._format.encode
        for record in self._selection.take(batch.lines):
            body = encode(record)
            if records and (len(records) >= self._settings.max_records or size + len(body) > self._settings.max_bytes):
                yield _Chunk(records, _head_of(records[-1]))
                records, size = [], 0
            records.append(EncodedRecord(record, body))
            size += len(body)
        yield _Chunk(records, batch.head)

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _take(self, chunk: _Chunk) -> None:
        """Send a chunk, and move the position once the receiver has all of it that it does not refuse."""
        refused: dict[int, str] = {}
        if chunk.records:
            self._set(state=DeliveryState.DELIVERING, waiting_since=chunk.records[0].record.timestamp)
            refused = await self._send(chunk.records)
            self._set(problem=None)
        entries = [self._aside(chunk.records[index].record, reason) for index, reason in sorted(refused.items())]
        self._sent = chunk.until
        of_itself = self._is_own * sum(one.record.event_type == "audit.delivered" for one in chunk.records)
        self._at.move(
            chunk.until, delivered=len(chunk.records) - len(entries), set_aside=len(entries), of_itself=of_itself
        )
        if entries or chunk.records or self._at.is_due():
            await anyio.to_thread.run_sync(lambda: self._at.store(entries))
        for entry in entries:
            _logger.error(
                "%s: the receiver of %s refuses record %d: %s", entry.log, self.status.sink, entry.seq, entry.reason
            )
            self._report(DeliveryReport("set_aside", entry.reason, self._source, entry.seq, entry.hash))

    def _aside(self, record: DeliverableRecord, reason: str) -> SetAside:
        return SetAside(
            log=self._source.name,
            log_id=record.log_id,
            seq=record.seq,
            hash=record.hash,
            audit_id=record.audit_id,
            reason=reason,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    async def _send(self, records: Sequence[EncodedRecord]) -> dict[int, str]:
        """Send records; return, by their index, those that the receiver refuses, each of them alone.

        Raises:
            _NotTaken: The receiver takes none of them now.
        """
        refused: dict[int, str] = {}
        taken = 0
        waiting = deque([(0, len(records))])
        while waiting:
            first, end = waiting.popleft()
            result = await self._gate.sink.send(records[first:end])
            if result.outcome is Outcome.REFUSED and end - first > 1:
                middle = (first + end) // 2
                waiting.extendleft([(middle, end), (first, middle)])
                continue
            if result.outcome is Outcome.REFUSED:
                refused[first] = result.reason
                continue
            if result.outcome is not Outcome.ACCEPTED:
                raise _NotTaken(result)
            self._gate.accepted()
            refused |= {first + index: reason for index, reason in result.refused.items()}
            again = sorted(result.retry)
            taken += end - first - len(result.refused) - len(again)
            if again:
                # What was taken is sent once more with the rest: the receiver knows it by its key.
                raise _NotTaken(
                    SendResult(outcome=Outcome.RETRY, reason=result.reason, retry_after_s=result.retry_after_s)
                )
        if refused and not taken:
            await self._require_willing(records, refused)
        elif len(refused) < len(records):
            self._taken = next(one for index, one in reversed(list(enumerate(records))) if index not in refused)
        return refused

    async def _require_willing(self, records: Sequence[EncodedRecord], refused: dict[int, str]) -> None:
        """Return if the receiver takes the record that it took last; otherwise it refuses whatever it gets.

        Raises:
            _NotTaken: It does, or it has taken none yet.
        """
        if self._taken is not None:
            result = await self._gate.sink.send([self._taken])
            if result.outcome is Outcome.ACCEPTED and not result.refused and not result.retry:
                self._gate.accepted()
                return
            if result.outcome not in {Outcome.ACCEPTED, Outcome.REFUSED}:
                raise _NotTaken(result)
        reason = (
            f"the receiver refuses all of {len(records)} records from record {records[0].record.seq} on, so it may be "
            f"the receiver or its settings that are wrong: {next(iter(refused.values()))}"
        )
        raise _NotTaken(SendResult(outcome=Outcome.REFUSED, reason=reason))


class _StoredPosition:
    """The position of one log, in memory and in its file.

    Args:
        directory: The sink's.
        log: The log.
        overlap_s: How long after it was sent something may still be lost.
    """

    def __init__(self, directory: SinkDirectory, log: DeliveredLog, *, overlap_s: float) -> None:
        self._directory: Final = directory
        self._overlap_s: Final = overlap_s
        self._sent: deque[tuple[float, Position]] = deque()  #: what may still be lost, oldest first
        self._loaded = False
        self._stored_at = 0.0
        self.position = Position(log_id=log.log_id, log=log.name)  #: up to where the receiver has everything
        self._newest = self.position  #: up to where everything was sent
        self._stored = self.position

    @property
    def sent(self) -> Head | None:
        """Up to where everything was sent."""
        return self._newest.head

    def load(self) -> None:
        """Read the file, the first time."""
        if not self._loaded:
            found = self._directory.read(self.position.log_id)
            if found is not None:
                self.position = self._newest = self._stored = found
            self._loaded = True

    def move(self, head: Head, *, delivered: int, set_aside: int, of_itself: int = 0) -> None:
        """Everything up to `head` was sent, or is not wanted; `of_itself` of it says only what was delivered."""
        now = time.monotonic()
        self._newest = msgspec.structs.replace(
            self._newest,
            seq=head.seq,
            hash=head.hash,
            delivered=self._newest.delivered + delivered,
            set_aside=self._newest.set_aside + set_aside,
            recorded_delivered=self._newest.recorded_delivered + of_itself,
        )
        if not self._overlap_s:
            self.position = self._newest
        elif not self._sent or now - self._sent[-1][0] > _SENT_EVERY_S:
            self._sent.append((now, self._newest))
        else:
            self._sent[-1] = (self._sent[-1][0], self._newest)

    def change(self, **changes: object) -> None:
        """Change what the position says besides the record."""
        self.position = msgspec.structs.replace(self.position, **changes)
        self._newest = msgspec.structs.replace(self._newest, **changes)
        self._sent = deque((sent, msgspec.structs.replace(one, **changes)) for sent, one in self._sent)

    def go_back(self) -> None:
        """What was sent since the stored position may be lost."""
        self._sent.clear()
        self._newest = self.position

    def is_due(self) -> bool:
        """Whether the file should be written, of a position that has moved over nothing that was sent."""
        self._settle()
        return self.position != self._stored and time.monotonic() - self._stored_at >= _STORE_EVERY_S

    def _settle(self) -> None:
        limit = time.monotonic() - self._overlap_s - _SENT_EVERY_S
        while self._sent and self._sent[0][0] < limit:
            self.position = self._sent.popleft()[1]

    def store(self, entries: list[SetAside] | None = None, *, settle: bool = False) -> None:
        """Write what is set aside, then the position, durable on return.

        With `settle` all that was sent has arrived.
        """
        if entries:
            self._directory.set_aside(entries)
        self._settle()
        if settle:
            self.position = self._newest
            self._sent.clear()
        if self.position != self._stored and self._loaded:
            self._directory.write(self.position)
            self._stored, self._stored_at = self.position, time.monotonic()


def _head_of(encoded: EncodedRecord) -> Head:
    return Head(seq=encoded.record.seq, hash=encoded.record.hash)
