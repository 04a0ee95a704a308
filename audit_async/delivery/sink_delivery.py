"""Delivering one log to one sink: at least once, in order, from a position that moves after the receiver's answer.

read what is durable -> select, redact or open -> encode -> send -> store the position
                                                      |
         retry: wait, and read it again from the position; nothing is kept in memory meanwhile
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import msgspec

from audit_async._trail.log_files import Log, find_logs
from audit_async.delivery.batch_sending import BatchSending, NotTaken
from audit_async.delivery.deliver_settings import SinkSettings
from audit_async.delivery.deliverable_record import OWN_SERVICE, DeliverableRecord, DeliveredLog, EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.delivery.delivery_status import DeliveryState, DeliveryStatus
from audit_async.delivery.idle_tails import IdleTails
from audit_async.delivery.position_file import DeliveredForm, Position, SetAside, SinkDirectory, StateUnusable
from audit_async.delivery.record_formats import Format
from audit_async.delivery.record_selection import Selection
from audit_async.delivery.sink_gate import SinkGate
from audit_async.delivery.stored_position import StoredPosition
from audit_async.errors import AuditError
from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.log_tail import LogTail, RecordsUnreadable

__all__ = ["DeliveryReport", "SinkDelivery"]

_logger: Final = logging.getLogger("audit_async")

#: How long a log waits whose next records can't be read, in seconds.
_UNREADABLE_RETRY_S: Final = 60.0
#: How long it waits the first time, in seconds, before it is called unreadable.
_LOOK_AGAIN_S: Final = 5.0

_STATES: Final = {
    Outcome.RETRY: DeliveryState.RETRYING,
    Outcome.UNAUTHORIZED: DeliveryState.UNAUTHORIZED,
    Outcome.MISCONFIGURED: DeliveryState.MISCONFIGURED,
    Outcome.REFUSED: DeliveryState.REFUSING,
}


#: In place of a problem that was reported: it was seen once.
_DOUBTED: Final = "doubted"
#: What a person can do once retention has taken records that were not delivered.
_REMEDY: Final = (
    "retention does not wait for deliveries: let it keep records for longer than a receiver may be down, and set the "
    "position with --replay-from"
)
_BROKE: Final = SendResult(outcome=Outcome.RETRY, reason="the connection broke; what may be lost with it is sent again")


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
        idle_tails: What keeps some files open.
        report: Called in the event loop with what belongs into the deliverer's own log.
        record_delivered: Records how far the sink has the log; returns whether it is recorded.
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
        idle_tails: IdleTails,
        report: Callable[[DeliveryReport], object],
        record_delivered: Callable[[Position], bool],
    ) -> None:
        self._log: Final = log
        self._source: Final = delivered
        self._settings: Final = settings
        self._format: Final = format
        self._selection: Final = selection
        self._gate: Final = gate
        self._report: Final = report
        self._record_delivered: Final = record_delivered
        self._at: Final = StoredPosition(directory, delivered, overlap_s=gate.sink.overlap_s, form=form_of(settings))
        self._idle_tails: Final = idle_tails
        self._tail: LogTail | None = None
        self._news = anyio.Event()
        self._has_news = False  #: whether something may be there that was not read, as far as was noticed
        self._acknowledged: Head | None = None  #: as the watch has seen it last
        self._sent: Head | None = None  #: up to where records were read and sent
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

    def is_done_with_gone_log(self) -> bool:
        """Return whether everything was delivered of a log that is not there any more; it is reported if not."""
        if not self.status.lag_records:
            return True
        self._stop(
            DeliveryState.UNREADABLE,
            f"{self._log.directory}: the log is gone, and {self.status.lag_records} of its records were not delivered",
        )
        return False

    async def settle(self, *, all_sent: bool) -> None:
        """Store the position at the end; with `all_sent` all that was sent has reached the receiver."""
        if self._is_broken:  # also if what was sent afterwards has arrived
            self._at.go_back()
            all_sent = False
        await anyio.to_thread.run_sync(lambda: self._at.store(all_arrived=all_sent))

    def notice(self, acknowledged: Head | None) -> None:
        """Take note of what is acknowledged, or that something has changed; in the event loop."""
        self._acknowledged = acknowledged
        if acknowledged is not None:
            self._show(acknowledged.seq)
        if acknowledged is None or acknowledged != self._sent:
            self._has_news = True
        self._news.set()

    def note_recorded(self, now: float) -> None:
        """Take note that `audit.delivered` was recorded of the present position; stored with the next one."""
        position = self._at.position
        self._at.change(recorded_at=now, recorded_seq=position.seq, recorded_delivered=position.delivered)

    # -- what is tried, and what follows from an error ---------------------------------------------------------------

    async def _attempt(self, *, once: bool) -> float:
        """Deliver until something happens; return how long to wait then."""
        try:
            await self._deliver(once=once)
        except NotTaken as not_taken:
            return self._wait(not_taken.result)
        except StateUnusable as error:
            self._stop(DeliveryState.STATE_UNUSABLE, str(error))
        except (AuditError, OSError) as error:
            if not once and not self._reported:  # perhaps its directory is just being removed
                self._reported = _DOUBTED
                self._close()
                return _LOOK_AGAIN_S
            self._stop(DeliveryState.UNREADABLE, str(error))
        except Exception as error:
            _logger.exception("%s to %s: an unexpected error; it is tried again", self._source.name, self.status.sink)
            self._stop(DeliveryState.STATE_UNUSABLE, type(error).__name__)
        return _UNREADABLE_RETRY_S

    @property
    def _is_broken(self) -> bool:
        """Whether what was sent since the stored position may be lost."""
        return self._gate.sink.breaks != self._breaks and self._at.may_lose

    def _wait(self, result: SendResult) -> float:
        self._close()
        is_broken = self._is_broken
        self._breaks = self._gate.sink.breaks
        if is_broken:
            self._at.go_back()
        if is_broken and result.outcome is Outcome.RETRY:
            self._gate.broke(self._breaks, result.reason)
            wait_s = self._gate.opens_in_s
        else:
            wait_s = self._gate.failed(result)
        state = _STATES[result.outcome]
        if self.status.state is not state:
            _logger.warning("%s to %s: %s: %s", self._source.name, self.status.sink, state.value, result.reason)
        self._set(state=state, problem=result.reason, failures=self.status.failures + 1)
        if state.needs_a_person and self._gate.is_news(state.value):
            self._report(DeliveryReport(state.name.lower(), result.reason, self._source))
        return wait_s

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
        self._has_news = True  # the rest is read when it is opened again
        if self._tail is not None:
            self._idle_tails.take(self._tail)
            self._tail.close()
            self._tail = None

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _open(self) -> LogTail:
        """Return the tail, at the place after the last record that was sent.

        Raises:
            RecordsUnreadable: Another log is in the directory.
        """
        if self._tail is None:
            tail = await anyio.to_thread.run_sync(lambda: LogTail(Path(self._log.directory), remedy=_REMEDY))
            tail.max_batch_bytes = max(tail.max_batch_bytes, self._settings.max_bytes)
            self._require_same(tail.log)
            self._sent = self._at.sent
            self._tail = tail  # closed from here on, whatever happens
            await anyio.to_thread.run_sync(tail.seek, self._sent)
        return self._tail

    def _require_same(self, log: Log) -> None:
        if log.log_id != self._log.log_id:
            raise RecordsUnreadable(f"{log.directory} holds another log by now, {log.log_id[:40]!a}")

    def _show(self, acknowledged_seq: int = -1) -> None:
        position = self._at.position
        seq = -1 if self._sent is None else self._sent.seq
        self._set(
            seq=seq,
            acknowledged_seq=max(acknowledged_seq, self.status.acknowledged_seq, seq),
            delivered=position.delivered,
            set_aside=position.set_aside,
        )

    async def _deliver(self, *, once: bool) -> None:
        """Deliver what is there; return never, or with `once` at the end."""
        await self._load()
        while True:
            if not once:
                await self._until_due()
            async with self._gate.admitted():
                if not once and self._gate.opens_in_s:  # another log has failed, meanwhile
                    continue
                self._require_open(once=once)
                self._has_news = False
                chunks = await self._read_next()
                for chunk in chunks:
                    await self._take(chunk)
                    self._show()
            if chunks:
                self._has_news = True
                continue
            await self._caught_up()
            if once:
                return

    async def _load(self) -> None:
        """Read the position. All is delivered if it is that of the record which was acknowledged last."""
        await anyio.to_thread.run_sync(self._at.load)
        if self._at.is_of_another_form:  # the settings were changed, and it would be recorded in their terms
            if not self._record_delivered(self._at.position):
                raise StateUnusable("the deliverer's own log does not take what was delivered by now")
            self.note_recorded(time.time())
        self._sent = self._at.sent
        self._show()
        if self._acknowledged is not None and self._acknowledged == self._sent:
            self._has_news = False
            await self._caught_up()

    async def _until_due(self) -> None:
        """Wait until something may have to be sent, and the receiver may be tried."""
        while not self._has_work():
            self._news = anyio.Event()
            with anyio.move_on_after(self._at.due_in_s()):
                await self._news.wait()
            if not self._has_work():
                await self._caught_up()
        while self._gate.opens_in_s:
            self._close()
            await anyio.sleep(self._gate.opens_in_s)

    def _has_work(self) -> bool:
        return self._has_news or self._is_broken

    async def _read_next(self) -> list[_Chunk]:
        tail = await self._open()
        self._idle_tails.take(tail)
        try:
            return await anyio.to_thread.run_sync(self._read, tail)
        finally:
            self._show(tail.known_seq)
            self._idle_tails.keep(tail)

    def _require_open(self, *, once: bool) -> None:
        """Raise `NotTaken` if something is to be sent again; with `once` also if the receiver failed another log."""
        if self._is_broken:
            raise NotTaken(_BROKE)
        failure = self._gate.failure
        if once and failure is not None and failure.outcome is not Outcome.REFUSED:
            raise NotTaken(failure)

    async def _caught_up(self) -> None:
        if self._at.is_due():
            await anyio.to_thread.run_sync(self._at.store)
        self._show()
        if self.status.state is not DeliveryState.CAUGHT_UP:
            self._set(state=DeliveryState.CAUGHT_UP, problem=None, waiting_since=None)
        self._reported = ""

    def _read(self, tail: LogTail) -> list[_Chunk]:
        """Return what comes next, ready to be sent; in a worker thread."""
        batch = tail.read()
        if batch is not None and batch.first_seq == 0:  # the first record of any log would fit
            self._require_same(find_logs(tail.log.directory)[0])
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
        """Send a chunk, and move the position over what the receiver has or refuses.

        Raises:
            NotTaken: It did not take all of it.
        """
        if not chunk.records:
            await self._move(chunk, len(chunk.records), {})
            return
        self._set(state=DeliveryState.DELIVERING, waiting_since=chunk.records[0].record.timestamp)
        sending = BatchSending(self._gate, chunk.records)
        try:
            await sending.run()
        except NotTaken:
            if sending.settled:
                await self._move(chunk, sending.settled, sending.refused)
            raise
        self._set(problem=None)
        await self._move(chunk, len(chunk.records), sending.refused)

    async def _move(self, chunk: _Chunk, count: int, refused: Mapping[int, str]) -> None:
        """Move the position over so many records of a chunk, or to its end, and store it."""
        done = chunk.records[:count]
        until = chunk.until if count == len(chunk.records) else _head_of(done[-1])
        entries = [self._aside(done[index].record, reason) for index, reason in sorted(refused.items())]
        if entries:  # before the position passes them
            await anyio.to_thread.run_sync(self._at.set_aside, entries)
        for entry in entries:
            _logger.error(
                "%s: the receiver of %s refuses record %d: %s", entry.log, self.status.sink, entry.seq, entry.reason
            )
            self._report(DeliveryReport("set_aside", entry.reason, self._source, entry.seq, entry.hash))
        self._sent = until
        of_itself = (self._source.service == OWN_SERVICE) * sum(
            one.record.event_type == "audit.delivered" for one in done
        )
        self._at.move(until, delivered=count - len(entries), set_aside=len(entries), of_itself=of_itself)
        if self._is_broken:
            raise NotTaken(_BROKE)
        if done or self._at.is_due():
            await anyio.to_thread.run_sync(self._at.store)

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


def form_of(settings: SinkSettings) -> DeliveredForm:
    """Return in which form a sink gets records."""
    return DeliveredForm(
        selected=bool(settings.select or settings.exclude), unsealed=settings.unseal, redacted=settings.redact
    )


def _head_of(encoded: EncodedRecord) -> Head:
    return Head(seq=encoded.record.seq, hash=encoded.record.hash)
