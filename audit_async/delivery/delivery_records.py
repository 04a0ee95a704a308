"""What a deliverer records of its work, in a log of its own: services hold theirs, and no log has two writers.

That log is delivered like the others, so nothing here may follow from its own records: `audit.delivered` is recorded
at most once an hour for each sink and log, and only if something else was delivered since.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from audit_async._writer.receipts import Receipt
from audit_async.delivery.deliver_settings import SinkSettings
from audit_async.delivery.deliverable_record import OWN_SERVICE
from audit_async.delivery.position_file import DeliveredForm, Position
from audit_async.delivery.sink_delivery import DeliveryReport, SinkDelivery
from audit_async.errors import AuditError
from audit_async.events import AuditDelivered, AuditDeliveryProblem, AuditEvent
from audit_async.logger import AuditLogger
from audit_async.logger.forwarding_records import record_own

__all__ = ["DeliveryRecords"]

_logger: Final = logging.getLogger("audit_async")
_EVERY_S: Final = 3600.0


class DeliveryRecords:
    """The own log of a deliverer. For its event loop.

    Args:
        audit: The log, open.
    """

    def __init__(self, audit: AuditLogger) -> None:
        self._audit: Final = audit

    def __repr__(self) -> str:
        return f"<DeliveryRecords in {self._audit.directory}>"

    @property
    def directory(self) -> Path | None:
        """The log's directory; None if the log is disabled."""
        return self._audit.directory

    def record(self, event: AuditEvent) -> Receipt:
        """Put an event into the chain; never waits. Raises as `AuditLogger.emit` does."""
        return record_own(self._audit, event)

    def reporter(self, sink: str) -> Callable[[DeliveryReport], None]:
        """Return what records the problems of one sink."""

        def report(problem: DeliveryReport) -> None:
            if problem.kind == "set_aside" and problem.log.service == OWN_SERVICE:
                return  # the record of it would be set aside as well, and so on
            self._record(
                AuditDeliveryProblem(
                    sink=sink,
                    kind=problem.kind,
                    reason=problem.reason,
                    log=problem.log.name,
                    log_id=problem.log.log_id,
                    seq=problem.seq,
                    hash=problem.hash,
                )
            )

        return report

    def record_progress(self, deliveries: Iterable[tuple[SinkSettings, SinkDelivery]]) -> None:
        """Record how far each sink has each log, if it is time to, and if something was delivered since."""
        now = time.time()
        for settings, delivery in deliveries:
            position = delivery.position
            if 0 <= now - position.recorded_at < _EVERY_S:  # a clock that was set back keeps nothing from being said
                continue
            if position.is_unrecorded and self.delivered(settings.name)(position):
                delivery.note_recorded(now)

    def delivered(self, sink: str) -> Callable[[Position], bool]:
        """Return what records how far one sink has a log, in the form that the position names."""

        def record(position: Position) -> bool:
            form = position.form or DeliveredForm()
            return self._record(
                AuditDelivered(
                    sink=sink,
                    log=position.log,
                    log_id=position.log_id,
                    seq=position.seq,
                    hash=position.hash,
                    records=position.delivered - position.recorded_delivered,
                    set_aside=position.set_aside or None,
                    selected=form.selected or None,
                    unsealed=form.unsealed or None,
                    redacted=list(form.redacted) or None,
                )
            )

        return record

    def _record(self, event: AuditEvent) -> bool:
        try:
            record_own(self._audit, event)
        except AuditError as error:
            _logger.warning("the deliverer's own log does not take %s: %s", event.event_type, error)
            return False
        return True
