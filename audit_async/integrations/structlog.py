"""`AuditProcessor`: chosen entries of structlog become events of the audit trail.

    structlog.configure(processors=[merge_contextvars, add_log_level, AuditProcessor(audit), ..., JSONRenderer()])
    log.info("role_changed", audit=True, subject="dana", role="admin")      # a `log.recorded` event with its data
    log.info("invoice_paid", audit=InvoicePaid(...))                        # this event

Put it after what adds to the entry, and before what renders it or turns `exc_info` into text. The entry goes on to the
next processor as it came. With structlog's asynchronous loggers the processors run in a thread, which is fine here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Final

from audit_async._redact.redactor import Redactor
from audit_async._sanitize.foreign_values import exception_name, plain
from audit_async.events import AuditEvent, LogRecorded
from audit_async.integrations._log_delivery import (
    LogDelivery,
    conversion,
    is_converting,
    is_own,
    level_number,
)
from audit_async.integrations._logger_source import LoggerSource

__all__ = ["AuditProcessor", "LoggerSource"]

#: Members of an entry that are not data: what the event has elsewhere, and text that holds tracebacks.
_NO_DATA: Final = {"audit", "event", "level", "logger", "exc_info", "exception", "stack", "stack_info"}

#: What structlog and `logging` call a level that has another name in `logging`.
_ALIASES: Final = {"exception": "ERROR", "msg": "INFO", "log": "INFO"}


class AuditProcessor:
    """A structlog processor that turns chosen entries into events, and passes each entry on unchanged.

    An entry with a member `audit` is taken: an event, True for a `log.recorded` event, False for none. A `log.recorded`
    event has the entry's other members as its `data`; of what JSON has no place for, the name of its type alone.

    It never raises, and never waits; from any thread. Whatever does not get into the trail the log counts as lost, and
    records; what no log is open for is counted in `dropped`, and by the log as soon as it is open, and reported on
    stderr once. The library's own records (`audit_async`) are not taken.

    Args:
        audit: The logger, or a function that returns it and None while there is none.
        threshold: The level from which on every entry is taken. Left out, only those with a member `audit`.

    Raises:
        ConfigError: A value is wrong.
    """

    def __init__(self, audit: LoggerSource, *, threshold: int | str | None = None) -> None:
        self._delivery: Final = LogDelivery(audit)
        self._threshold = None if threshold is None else level_number(threshold, "threshold")

    def __repr__(self) -> str:
        return f"<AuditProcessor threshold={self._threshold} dropped={self.dropped}>"

    @property
    def dropped(self) -> int:
        """How many chosen entries there was no open log for."""
        return self._delivery.dropped

    def __call__(
        self, logger: object, method_name: str, event_dict: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        """Take the entry into the trail if it is chosen; return it as it is."""
        self._delivery.take(lambda: self._event_of(logger, method_name, event_dict))
        return event_dict

    def _event_of(self, logger: object, method_name: str, entry: Mapping[str, object]) -> AuditEvent | None:
        carried = entry.get("audit")
        if isinstance(carried, AuditEvent):
            return carried
        if is_converting() or carried is False or (carried is not True and self._threshold is None):
            return None
        with conversion():
            name, level = _name_of(logger, entry), str(entry.get("level") or method_name)
            if is_own(name):
                return None
            if carried is not True and (self._threshold is None or _number_of(level) < self._threshold):
                return None
            return _log_recorded(name, level, entry, self._delivery.redactor)


def _name_of(logger: object, entry: Mapping[str, object]) -> str:
    """Return the logger's name: structlog's own loggers have none, its wrappers of `logging` do."""
    name = entry.get("logger")
    if name is None:
        # `_record` is there if ProcessorFormatter passes on a record of `logging`, whose logger is not given.
        name = getattr(entry.get("_record"), "name", None) or getattr(logger, "name", None)
    return name if isinstance(name, str) else ""


def _number_of(level: str) -> int:
    try:
        return level_number(_ALIASES.get(level.lower(), level), "level")
    except ValueError:
        return 0  # a level of the application's own, which no threshold can mean


def _log_recorded(name: str, level: str, entry: Mapping[str, object], redactor: Redactor) -> LogRecorded:
    data = {key: plain(value) for key, value in entry.items() if key not in _NO_DATA and not key.startswith("_")}
    return LogRecorded(
        logger=name,
        level=_ALIASES.get(level.lower(), level).upper(),
        message=redactor.redact_text(str(entry.get("event", ""))),
        exception=_exception_of(entry.get("exc_info")),
        data=data or None,
    )


def _exception_of(exc_info: object) -> str | None:
    """Return the class of what is logged as an exception: itself, a triple, or True for the current one."""
    if isinstance(exc_info, BaseException):
        return exception_name(type(exc_info))
    given: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None = None
    if isinstance(exc_info, tuple):
        given = exc_info
    elif exc_info:
        given = sys.exc_info()
    return exception_name(given[0]) if given and given[0] is not None else None
