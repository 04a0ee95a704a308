"""From a logging library into the trail: what the `logging` handler and the structlog processor share.

Three promises are kept here. A failure of the log is never raised into the code that logs. Nothing recurses: what this
library logs itself is not taken, nor what is logged while a record is being converted. And nothing is lost unnoticed:
what could not be taken is counted, here and by the audit log, and reported on stderr once per cause, since a logging
library is no place to report that logging fails.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from audit_async._redact.redactor import Redactor
from audit_async.config import Redaction
from audit_async.errors import BufferFull, ConfigError, LogClosed, WriteFailed
from audit_async.events import AuditEvent
from audit_async.integrations._logger_source import AnyLogger, LoggerSource, check_source, logger_from
from audit_async.status import describe_error

__all__ = [
    "LogDelivery",
    "conversion",
    "is_converting",
    "is_own",
    "level_number",
    "report",
]

_OWN_LOGGER: Final = "audit_async"


class LogDelivery:
    """Hands the events of one handler, or processor, to the audit log. From any thread."""

    def __init__(self, source: LoggerSource) -> None:
        self.dropped = 0  #: events that no log was open for; the next log that is open counts them, too
        self._source = check_source(source)
        self._reported: str | None = None
        self._redactor = Redactor()
        self._redaction: Redaction | None = None  # what the redactor was made of, if it is not the default one
        self._lock = threading.RLock()  # a signal handler may log while its thread holds it
        self._uncounted: Counter[str] = Counter()  # what no log was open for and none has counted, by type

    @property
    def redactor(self) -> Redactor:
        """What takes secrets out of messages: as the log is configured, or by default if there is none yet."""
        audit = logger_from(self._source)
        if audit is not None and audit.config.redaction is not self._redaction:
            self._redactor, self._redaction = Redactor(audit.config.redaction), audit.config.redaction
        return self._redactor

    def take(self, event_of_entry: Callable[[], AuditEvent | None]) -> None:
        """Deliver what the function makes of an entry, if it makes an event; never raises, and counts what fails."""
        try:
            event = event_of_entry()
        except Exception as error:  # noqa: BLE001 - a trail must not break what it watches
            self.lose("log.recorded", "conversion_failed")
            report(f"a log entry can't be recorded: {describe_error(error)}")
            return
        if event is not None:
            try:
                self.deliver(event)
            except Exception as error:  # noqa: BLE001 - as above; it is counted already
                report(f"a log entry can't be recorded: {describe_error(error)}")

    def deliver(self, event: AuditEvent) -> None:
        """Emit `event`, or count it as lost if no log is open; raises `InvalidEvent` only, which is counted as well."""
        audit = logger_from(self._source)
        if audit is None:
            self._drop(event.event_type, "there is no audit log yet")
            return
        try:
            audit.emit(event)
        except BufferFull:
            return  # the log has counted it, and will record the count
        except (LogClosed, WriteFailed) as error:
            self._drop(event.event_type, describe_error(error))
        except Exception:
            self.lose(event.event_type, "invalid_event")
            raise
        else:
            self._reported = None
            if self._uncounted:
                self._count_earlier(audit)

    def lose(self, event_type: str, reason: str) -> None:
        """Let the log count an event that can't be recorded; if there is none, the next one does."""
        audit = logger_from(self._source)
        if audit is not None:
            audit.count_lost(event_type, reason)
            return
        with self._lock:
            self._uncounted[event_type] += 1

    def _count_earlier(self, audit: AnyLogger) -> None:
        """Let the log that is open now count, and record, what no log was open for before."""
        with self._lock:
            uncounted, self._uncounted = self._uncounted, Counter()
        for event_type in uncounted.elements():
            audit.count_lost(event_type, "no_open_log")

    def _drop(self, event_type: str, why: str) -> None:
        with self._lock:
            self.dropped += 1
            self._uncounted[event_type] += 1
            reported, self._reported = self._reported, why
        if reported != why:
            report(f"log records that were chosen for the audit trail are dropped: {why}")


def report(text: str) -> None:
    """Write a line to stderr, if there is one; never raises."""
    with suppress(Exception):  # stderr may be None, closed or full, and there is no other place to report it
        sys.stderr.write(f"audit-async: {text}\n")


def is_own(logger_name: str) -> bool:
    """True for a logger of this library: its warnings about the log must not go into the log."""
    return logger_name == _OWN_LOGGER or logger_name.startswith(f"{_OWN_LOGGER}.")


class _Conversion(threading.local):
    under_way = False


_conversion: Final = _Conversion()


@contextmanager
def conversion() -> Iterator[None]:
    """Mark that this thread turns a record into an event, which runs code that may log in its turn."""
    _conversion.under_way = True
    try:
        yield
    finally:
        _conversion.under_way = False


def is_converting() -> bool:
    """True while this thread is inside `conversion`."""
    return _conversion.under_way


def level_number(level: int | str, field: str) -> int:
    """Return a level of `logging` as its number; raises `ConfigError` for a name that it does not know."""
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else None
    if number is None:
        raise ConfigError(field, f"{level!r} is no level of logging; give a number, or a name such as 'ERROR'")
    return number
