"""`AuditProcessor`: chosen entries of structlog become events of the audit trail.

    structlog.configure(processors=[merge_contextvars, add_log_level, AuditProcessor(audit), ..., JSONRenderer()])
    log.info("role_changed", audit=True, subject="dana", role="admin")      # a `log.recorded` event with its data
    log.info("invoice_paid", audit=InvoicePaid(...))                        # this event

Put it behind what adds to the entry, and before what renders it or turns `exc_info` into text. The entry goes on to the
next processor as it came. With structlog's asynchronous loggers the processors run in a thread, which is fine here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Final

import msgspec

from audit_async._redact.redactor import Redactor
from audit_async.events.base import AuditEvent
from audit_async.events.log import LogRecorded
from audit_async.integrations._log_delivery import (
    LogDelivery,
    conversion,
    exception_name,
    is_converting,
    is_own,
    level_number,
    tell,
)
from audit_async.integrations._logger_source import LoggerSource
from audit_async.status import describe_error

__all__ = ["AuditProcessor"]

#: Members of an entry that are not data: what the event has elsewhere, and text that holds tracebacks.
_NO_DATA: Final = {"audit", "event", "level", "logger", "exc_info", "exception", "stack", "stack_info"}

#: What structlog and `logging` call a level, where `logging` has no such name.
_ALIASES: Final = {"exception": "ERROR", "msg": "INFO", "log": "INFO"}


class AuditProcessor:
    """A structlog processor that turns chosen entries into events, and gives each entry on unchanged.

    `audit` is a logger, or a function that returns it and None while there is none. `threshold` is the level from
    which on every entry is taken; None takes only those with a member `audit`: an event, True for a `log.recorded`
    event, False for none. Such an event has the entry's other members as its `data`; what JSON has no place for is
    there by the name of its type alone.

    It never raises, and never waits; from any thread. Without an open log, entries are dropped: counted in `dropped`,
    and told on stderr once. What a full buffer refuses is counted and recorded by the log; an event that can't be
    recorded is told on stderr. The library's own records (`audit_async`) are not taken.
    """

    def __init__(self, audit: LoggerSource, *, threshold: int | str | None = None) -> None:
        self._delivery: Final = LogDelivery(audit)
        self._threshold = None if threshold is None else level_number(threshold, "threshold")

    @property
    def dropped(self) -> int:
        """How many chosen entries there was no open log for."""
        return self._delivery.dropped

    def __call__(
        self, logger: object, method_name: str, event_dict: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        """Take the entry into the trail where it is chosen; return it as it is."""
        try:
            event = self._event_of(logger, method_name, event_dict)
            if event is not None:
                self._delivery.deliver(event)
        except Exception as error:  # noqa: BLE001 - a trail must not break what it watches
            tell(f"a log entry can't be recorded: {describe_error(error)}")
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
        # `_record` is there where ProcessorFormatter passes on a record of `logging`, whose logger is not given.
        name = getattr(entry.get("_record"), "name", None) or getattr(logger, "name", None)
    return name if isinstance(name, str) else ""


def _number_of(level: str) -> int:
    try:
        return level_number(_ALIASES.get(level.lower(), level), "level")
    except ValueError:
        return 0  # a level of the application's own, which no threshold can mean


def _log_recorded(name: str, level: str, entry: Mapping[str, object], redactor: Redactor) -> LogRecorded:
    data = {key: _plain(value) for key, value in entry.items() if key not in _NO_DATA and not key.startswith("_")}
    return LogRecorded(
        logger=name,
        level=_ALIASES.get(level.lower(), level).upper(),
        message=redactor.redact_text(str(entry.get("event", ""))),
        exception=_exception_of(entry.get("exc_info")),
        data=data or None,
    )


def _plain(value: object) -> object:
    try:
        # Bytes stay bytes: in base64 nobody would find a secret that is in them.
        return msgspec.to_builtins(
            value, builtin_types=(bytes, bytearray, memoryview), str_keys=True, enc_hook=_type_of
        )
    except Exception:  # noqa: BLE001 - data that contains itself, or whose own code raises: the event counts for more
        return _type_of(value)


def _type_of(value: object) -> str:
    """Stand in for a value that JSON has no place for: its repr may show anything, its type does not."""
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


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
