"""`AuditHandler`: chosen records of Python's `logging` become events of the audit trail.

    logging.getLogger().addHandler(AuditHandler(audit))
    log.info("invoice %s paid", 17, extra={"audit": InvoicePaid(...)})     # this event
    log.warning("role changed", extra={"audit": True})                     # a `log.recorded` event

An audit trail is no debugging log, so nothing else is taken unless a `threshold` says so. Logger levels come first, as
for each handler: a record that its logger does not let through is not seen here.

    log = AuditLoggerAdapter(logging.getLogger("orders"), {"worker": 3})     # keeps `extra`, which others replace

In `dictConfig`: `{"()": "audit_async.integrations.logging.AuditHandler", "audit": "ext://my_service.audit"}`, where
`my_service.audit` is the logger, or a function that returns it.

The handler never waits, so it needs no `QueueHandler`. It works after one, too; but the listener's thread does not have
the context that was bound with `audit_context`, and the exception's class has to be read from the formatted text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Final

from audit_async._redact.redactor import Redactor
from audit_async._sanitize.foreign_values import exception_name, plain
from audit_async.errors import ConfigError
from audit_async.events import AuditEvent, LogRecorded
from audit_async.integrations._log_delivery import (
    LogDelivery,
    conversion,
    is_converting,
    is_own,
    level_number,
)
from audit_async.integrations._logger_source import LoggerSource

__all__ = ["AuditHandler", "AuditLoggerAdapter", "LoggerSource", "log_recorded"]

#: What every record of `logging` has; anything else came by `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"audit", "message", "asctime", "taskName"}


class AuditHandler(logging.Handler):
    """Turns chosen records into events of the trail; from any thread, from signal handlers, never waiting.

    A record that carries `extra={"audit": ...}` is taken: an event, True for a `log.recorded` event, False for none.
    What else `extra` holds is the `data` of a `log.recorded` event.

    Logging never fails because of it. Whatever does not get into the trail the log counts as lost, and records;
    what no log is open for is counted in `dropped`, and by the log as soon as it is open, and reported on stderr once.
    An event that can't be recorded goes to `handleError`, as with each handler.

    The library's own records (`audit_async`) are not taken; nor is what `convert` logs itself, unless it carries an
    event.

    Args:
        audit: The logger, or a function that returns it and None while there is none.
        threshold: The level from which on every record is taken. Left out, only those that carry `audit`.
        convert: Decides instead of both: returns a record's event, or None. Several threads may be in it at once.
        level: The level of the handler itself, as each handler has it.

    Raises:
        ConfigError: A value is wrong.
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
            raise ConfigError("convert", f"must be a function of a LogRecord, not a {type(convert).__name__}")
        self._delivery: Final = LogDelivery(audit)
        self._threshold = None if threshold is None else level_number(threshold, "threshold")
        self._convert = convert

    @property
    def dropped(self) -> int:
        """How many chosen records there was no open log for."""
        return self._delivery.dropped

    def handle(self, record: logging.LogRecord) -> bool | logging.LogRecord:  # type: ignore[override]  # since 3.12
        """Take `record` if the filters let it pass, as each handler does, but without the handler's lock.

        Nothing here needs it. And a signal handler or a finalizer that logs while its thread is inside `emit` of the
        audit log would wait for it, while whoever holds it waits for the audit log.
        """
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Take `record` into the trail if it is chosen; `logging` calls this."""
        carried = getattr(record, "audit", None)
        if is_own(record.name) or (self._convert is None and not self._is_chosen(record, carried)):
            return
        try:
            event = self._event_of(record, carried)
        except Exception:  # noqa: BLE001 - as every handler: an error here belongs to handleError, not to the application
            self._delivery.lose("log.recorded", "conversion_failed")
            self.handleError(record)
            return
        if event is not None:
            try:
                self._delivery.deliver(event)
            except Exception:  # noqa: BLE001 - as above; it is counted already
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


class AuditLoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    """A `LoggerAdapter` that adds its own `extra` to that of each call.

    The one of `logging` replaces what a call gives by its own, so that `extra={"audit": ...}` never arrives, unless it
    has `merge_extra=True` (Python 3.13). What a call gives wins here.

        log = AuditLoggerAdapter(logging.getLogger("orders"), {"worker": 3})
        log.warning("role changed", extra={"audit": True})

    Args:
        logger: The logger that takes the records.
        extra: What each record has besides what its call gives.
    """

    def __init__(self, logger: logging.Logger, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(logger, dict(extra or {}))

    def process(self, msg: object, kwargs: MutableMapping[str, object]) -> tuple[object, MutableMapping[str, object]]:
        """Return the message and the arguments of a call with both extras; `logging` calls this."""
        given = kwargs.get("extra")
        kwargs["extra"] = {**(self.extra or {}), **(given if isinstance(given, Mapping) else {})}
        return msg, kwargs


def log_recorded(record: logging.LogRecord, redactor: Redactor | None = None) -> LogRecorded:
    """Return the `log.recorded` event of a record.

    A traceback, which may show values of variables, is never part of it, even if a `QueueHandler` has put it into the
    message.

    Args:
        record: The record.
        redactor: Takes what looks like a secret out of the message; by default by the default rules.

    Returns:
        An event with the message, of an exception the class alone, and what came by `extra` as `data`.
    """
    message, exception = _without_traceback(record.getMessage())
    if record.exc_info and record.exc_info[0] is not None:
        exception = exception_name(record.exc_info[0])
    data = {name: plain(value) for name, value in vars(record).items() if name not in _STANDARD and name[:1] != "_"}
    return LogRecorded(
        occurred_at=datetime.fromtimestamp(record.created, UTC),
        logger=record.name,
        level=record.levelname,
        message=(redactor or _redactor).redact_text(message),
        exception=exception,
        data=data or None,
    )


_redactor: Final = Redactor()

# What `logging` and `traceback` put in front of a traceback, a group's and a stack included.
_TRACEBACK: Final = re.compile(
    r"^[ |+]*+(Traceback|Exception Group Traceback|Stack) \(most recent call last\):", re.MULTILINE
)
# The line that ends it: the only one that is not indented, `| ` aside.
_RAISED: Final = re.compile(r"^(?: *+\| )?+([A-Za-z_][\w.]*+)(?::|$)", re.MULTILINE)


def _without_traceback(message: str) -> tuple[str, str | None]:
    """Return a formatted message without the traceback after it, and the class of the exception that it shows."""
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
