"""`AuditHandler`: chosen records of Python's `logging` become events of the audit trail.

    logging.getLogger().addHandler(AuditHandler(audit))
    log.info("invoice %s paid", 17, extra={"audit": InvoicePaid(...)})     # this event
    log.warning("role changed", extra={"audit": True})                     # a `log.recorded` event

An audit trail is no debugging log, so nothing else is taken unless a `threshold` says so. Logger levels come first, as
for each handler: a record that its logger does not let through is not seen here.

In `dictConfig`: `{"()": "audit_async.integrations.logging.AuditHandler", "audit": "ext://my_service.audit"}`, where
`my_service.audit` is the logger, or a function that returns it.

The handler never waits, so it needs no `QueueHandler`. It works behind one, too; but the listener's thread does not
have the context that was bound with `audit_context`, and the exception's class has to be read from the formatted text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from audit_async._redact.redactor import Redactor
from audit_async.errors import ConfigError
from audit_async.events.base import AuditEvent
from audit_async.events.log import LogRecorded
from audit_async.integrations._log_delivery import (
    LogDelivery,
    conversion,
    exception_name,
    is_converting,
    is_own,
    level_number,
)
from audit_async.integrations._logger_source import LoggerSource

__all__ = ["AuditHandler", "log_recorded"]


class AuditHandler(logging.Handler):
    """Turns chosen records into events of the trail; from any thread, from signal handlers, never waiting.

    `audit` is a logger, or a function that returns it and None while there is none. `threshold` is the level from
    which on every record is taken; None takes only those that carry `extra={"audit": ...}`: an event, True for a
    `log.recorded` event, False for none. `convert` decides instead of both where it is given: it returns a record's
    event, or None; several threads may be in it at once.

    Logging never fails because of it. Before the log is started and after it is closed, records are dropped: counted in
    `dropped`, and told on stderr once. What a full buffer refuses is counted and recorded by the log. An event that
    can't be recorded goes to `handleError`, as with each handler.

    The library's own records (`audit_async`) are not taken; nor is what `convert` logs itself, unless it carries an
    event.

    Raises `ConfigError` for a wrong `audit`, `threshold` or `convert`.
    """

    def __init__(
        self,
        audit: LoggerSource,
        *,
        threshold: int | str | None = None,
        convert: Callable[[logging.LogRecord], AuditEvent | None] | None = None,
        level: int | str = logging.NOTSET,
    ) -> None:
        super().__init__(level)
        if convert is not None and not callable(convert):
            raise ConfigError("convert", f"must be a function of a LogRecord, not {type(convert).__name__}")
        self._delivery: Final = LogDelivery(audit)
        self._threshold = None if threshold is None else level_number(threshold, "threshold")
        self._convert = convert

    @property
    def dropped(self) -> int:
        """How many chosen records there was no open log for."""
        return self._delivery.dropped

    def handle(self, record: logging.LogRecord) -> bool | logging.LogRecord:  # type: ignore[override]  # since 3.12
        """Take `record` where the filters let it pass, as each handler does, but without the handler's lock.

        Nothing here needs it. And a signal handler or a finalizer that logs while its thread is inside `emit` of the
        audit log would wait for it, while whoever holds it waits for the audit log.
        """
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Take `record` into the trail where it is chosen; `logging` calls this."""
        carried = getattr(record, "audit", None)
        if is_own(record.name) or (self._convert is None and not self._is_chosen(record, carried)):
            return
        try:
            event = self._event_of(record, carried)
            if event is not None:
                self._delivery.deliver(event)
        except Exception:  # noqa: BLE001 - as every handler: an error here belongs to handleError, not to the application
            self.handleError(record)

    def _is_chosen(self, record: logging.LogRecord, carried: object) -> bool:
        if isinstance(carried, AuditEvent | bool):
            return carried is not False
        return self._threshold is not None and record.levelno >= self._threshold

    def _event_of(self, record: logging.LogRecord, carried: object) -> AuditEvent | None:
        # While a conversion is under way in this thread, `convert` or a message's own __str__ logs, or a signal
        # handler interrupts it. An event that is there already needs no code of theirs, so it can't recurse.
        if isinstance(carried, AuditEvent) and (self._convert is None or is_converting()):
            return carried
        if is_converting():
            return None
        with conversion():
            return log_recorded(record, self._delivery.redactor) if self._convert is None else self._convert(record)


def log_recorded(record: logging.LogRecord, redactor: Redactor | None = None) -> LogRecorded:
    """Return the `log.recorded` event of a record: its message, and of an exception the class alone.

    What looks like a secret in the message is redacted, by the default rules where no `redactor` is given. A
    traceback, which may show values of variables, is never part of it, also where a `QueueHandler` has put it into the
    message.
    """
    message, exception = _without_traceback(record.getMessage())
    if record.exc_info and record.exc_info[0] is not None:
        exception = exception_name(record.exc_info[0])
    return LogRecorded(
        occurred_at=datetime.fromtimestamp(record.created, UTC),
        logger=record.name,
        level=record.levelname,
        message=(redactor or _redactor).redact_text(message),
        exception=exception,
    )


_redactor: Final = Redactor()

# What `logging` and `traceback` put in front of a traceback, a group's and a stack included.
_TRACEBACK: Final = re.compile(
    r"^[ |+]*(Traceback|Exception Group Traceback|Stack) \(most recent call last\):", re.MULTILINE
)
# The line that ends it: the only one that is not indented, `| ` aside.
_RAISED: Final = re.compile(r"^(?: *\| )?([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


def _without_traceback(message: str) -> tuple[str, str | None]:
    """Return a formatted message without the traceback behind it, and the class of the exception that it shows."""
    if "(most recent call last):" not in message:
        return message, None
    headers = list(_TRACEBACK.finditer(message))
    if not headers:
        return message, None
    # In a chain the last exception is the one that was logged; in a group the first.
    chain = [header for header in headers if header[1] != "Stack" and header[0][0] not in " |"]
    groups = [header for header in headers if header[1].startswith("Exception Group")]
    shown = (chain or groups[:1])[-1:]
    raised = _RAISED.search(message, shown[0].end()) if shown else None
    return message[: headers[0].start()].rstrip("\n"), raised[1] if raised else None
