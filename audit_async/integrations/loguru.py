"""`AuditSink`: chosen messages of loguru become events of the audit trail.

    logger.add(AuditSink(audit))
    logger.bind(audit=True, subject="dana").info("role changed to {}", "admin")     # a `log.recorded` event
    logger.bind(audit=InvoicePaid(...)).info("invoice paid")                        # this event

An audit trail is no debugging log, so nothing else is taken unless a `threshold` says so. `logger.add` takes messages
from DEBUG on, unless its `level` says otherwise; that comes first.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Final

from audit_async._first_use import installed_by

with installed_by("audit-async[loguru]", __name__):
    from loguru import logger

from audit_async._sanitize.foreign_values import exception_name, plain
from audit_async.errors import ConfigError
from audit_async.events import AuditEvent, LogRecorded
from audit_async.integrations._log_delivery import LogDelivery, conversion, is_converting, is_own
from audit_async.integrations._logger_source import LoggerSource

if TYPE_CHECKING:
    from loguru import Message, Record

__all__ = ["AuditSink", "LoggerSource"]


class AuditSink:
    """A sink of loguru that turns chosen messages into events.

    A message whose logger has `audit` bound is taken: an event, True for a `log.recorded` event, False for none. A
    `log.recorded` event has what else is bound as its `data`; of what JSON has no place for, the name of its type
    alone. Of an exception it has the class, never the text or the traceback.

    It never raises, and never waits; from any thread. Whatever does not get into the trail the log counts as lost, and
    records; what no log is open for is counted in `dropped`, and by the log as soon as it is open, and reported on
    stderr once. It needs no `enqueue=True`; with that, what is bound with `audit_context` is not there, since another
    thread calls the sink.

    Args:
        audit: The logger, or a function that returns it and None while there is none.
        threshold: The level from which on every message is taken, a number or a name that loguru knows. Left out, only
            those with `audit`.

    Raises:
        ConfigError: A value is wrong.
    """

    def __init__(self, audit: LoggerSource, *, threshold: int | str | None = None) -> None:
        self._delivery: Final = LogDelivery(audit)
        self._threshold = None if threshold is None else _number_of(threshold)

    def __repr__(self) -> str:
        return f"<AuditSink threshold={self._threshold} dropped={self.dropped}>"

    @property
    def dropped(self) -> int:
        """How many chosen messages there was no open log for."""
        return self._delivery.dropped

    def __call__(self, message: Message) -> None:
        """Take a message into the trail if it is chosen; loguru calls this."""
        record = message.record
        self._delivery.take(lambda: self._event_of(record))

    def _event_of(self, record: Record) -> AuditEvent | None:
        carried = record["extra"].get("audit")
        if isinstance(carried, AuditEvent):
            return carried
        if is_converting() or carried is False or is_own(record["name"] or ""):
            return None
        if carried is not True and (self._threshold is None or record["level"].no < self._threshold):
            return None
        with conversion():
            raised = record["exception"]
            data = {name: plain(value) for name, value in record["extra"].items() if name != "audit"}
            return LogRecorded(
                occurred_at=record["time"].astimezone(UTC),
                logger=record["name"] or "",
                level=record["level"].name,
                message=self._delivery.redactor.redact_text(record["message"]),
                exception=None if raised is None or raised.type is None else exception_name(raised.type),
                data=data or None,
            )


def _number_of(level: int | str) -> int:
    given: object = level  # which is not what its annotation promises, if the caller made a mistake
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str):
        with suppress(ValueError):
            return logger.level(given).no
    raise ConfigError("threshold", f"{level!r} is no level of loguru; give a number, or a name such as 'ERROR'")
