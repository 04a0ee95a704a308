"""The sink that alerts come from: it puts rules to all records, and its alerts into the deliverer's own log.

A batch is accepted once its alerts are durable in that log and what was counted is durable here. So after a crash at
any point nothing is counted twice and no alert is missing; one that had been recorded already is looked for in the
deliverer's log, and not recorded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.recorded_members import Said, read_said
from audit_async._trail.log_files import TrailUnreadable
from audit_async._writer.receipts import Receipt
from audit_async.delivery.alerts.alert_engine import AlertEngine, Looked, ObservedRecord
from audit_async.delivery.alerts.alert_rules import read_rules, starter_rules
from audit_async.delivery.alerts.alert_state import JournalEntry, StateFiles
from audit_async.delivery.deliverable_record import OWN_SERVICE, DeliverableRecord, EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.errors import AuditError
from audit_async.events import AuditAlertRaised, AuditEvent
from audit_async.events.recorded import event_members
from audit_async.reader import AuditReader

__all__ = ["AlertSink"]


class AlertSink:
    """Puts rules to records. For one event loop; its methods may be called at the same time.

    Args:
        rules: The file with the rules; None for the starter set.
        state_directory: Where what was counted is kept; exists, and is this process's alone.
        record: Puts an event into the deliverer's own log.
        own_log: The base directory of that log, where alerts of before a crash are looked for.
        clock: What says the time.

    Raises:
        ConfigError: The rules are wrong.
        AlertStateUnusable: What was counted before can't be read.
    """

    overlap_s: float = 0.0
    breaks: int = 0

    def __init__(
        self,
        rules: Path | None,
        state_directory: Path,
        record: Callable[[AuditEvent], Receipt],
        own_log: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine: Final = AlertEngine(starter_rules() if rules is None else read_rules(rules))
        self._files: Final = StateFiles(state_directory)
        self._record: Final = record
        self._own_log: Final = own_log
        self._clock: Final = clock
        self._since: Final = clock()
        self._lock: Final = anyio.Lock()
        #: What was counted and is not stored yet, with the receipts of those of its alerts that are recorded.
        self._unsettled: list[tuple[Looked, list[Receipt]]] = []
        #: Logs whose first batch since the start is settled: no alert after it can have been recorded before.
        self._settled_logs: set[str] = set()
        self._files.load(self._engine.replay, self._engine.restore)

    def __repr__(self) -> str:
        return f"<AlertSink {self._engine!r} unsettled={len(self._unsettled)}>"

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Put the rules to records of one log; accepted once all that follows from them is durable.

        Args:
            batch: The records, in order.
        """
        if not batch:
            return SendResult(outcome=Outcome.ACCEPTED)
        async with self._lock:
            try:
                await self._settle()
                looked = await anyio.to_thread.run_sync(self._look, batch)
                self._unsettled.append((looked, []))
                await self._settle()
            except AuditError as error:
                return SendResult(outcome=Outcome.RETRY, reason=str(error))
            self._settled_logs.add(batch[0].record.log_id)
        return SendResult(outcome=Outcome.ACCEPTED)

    async def tick(self) -> None:
        """Look for logs that have fallen silent; called about once a second."""
        async with self._lock:
            self._unsettled.extend((looked, []) for looked in self._engine.silent(self._clock(), self._since))
            try:
                await self._settle()
            except AuditError:
                return  # tried again with the next batch, or the next tick

    async def finish(self) -> bool:
        """Close the files; everything that was accepted is durable."""
        async with self._lock:
            await anyio.to_thread.run_sync(self._files.close)
        return not self._unsettled

    def _look(self, batch: Sequence[EncodedRecord]) -> Looked:
        first = batch[0].record
        records = [ObservedRecord(one.seq, one.audit_id, one.timestamp, _said_by(one)) for one, _ in batch]
        return self._engine.look(first.log_id, first.log.name, records, self._clock())

    async def _settle(self) -> None:
        """Record the alerts of what was counted, then store it.

        Raises:
            AuditError: The log or the state can't be written; what is unsettled stays so.
        """
        while self._unsettled:
            looked, receipts = self._unsettled[0]
            if looked.alerts:
                looked.alerts[:] = await self._new(looked.alerts)
            while looked.alerts:
                receipts.append(self._record(looked.alerts[0]))
                del looked.alerts[0]
            for receipt in receipts:
                await receipt.durable()
            if looked.entry is not None:
                await anyio.to_thread.run_sync(self._store, looked.entry)
            del self._unsettled[0]

    def _store(self, entry: JournalEntry) -> None:
        self._files.append(entry)
        if self._files.is_due and len(self._unsettled) == 1:  # a snapshot has all that was counted
            self._files.store(self._engine.snapshot())

    async def _new(self, alerts: list[AuditAlertRaised]) -> list[AuditAlertRaised]:
        """Return the alerts that were not recorded before a crash."""
        log_id = alerts[0].log_id
        if self._own_log is None or log_id in self._settled_logs:
            return alerts
        recorded = await _recorded_alerts(self._own_log, log_id)
        return [alert for alert in alerts if alert.alert_id not in recorded]


def _said_by(record: DeliverableRecord) -> Said:
    """Return what a record says; its type alone if it nests deeper than can be read."""
    try:
        return read_said(record.line)
    except (msgspec.MsgspecError, RecursionError):
        return Said({"event_type": record.event_type}, {}, record.timestamp)


#: Alerts of one log that a crash may have left unanswered: those of one batch.
_MOST_RECORDED: Final = 10_000


async def _recorded_alerts(own_log: Path, log_id: str) -> set[object]:
    """Return the ids of the newest alerts of a log that the deliverer's own log has."""
    query = AuditQuery(
        event_types=("audit.alert_raised",), fields={"event.log_id": log_id}, limit=_MOST_RECORDED, newest_first=True
    )
    try:
        async with aclosing(AuditReader(own_log, service=OWN_SERVICE).query(query)) as records:
            return {event_members(record.event).get("alert_id") async for record in records}
    except TrailUnreadable:
        return set()  # it has no record yet
