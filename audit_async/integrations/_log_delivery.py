"""From a logging library into the trail: what the `logging` handler and the structlog processor share.

Three promises are kept here. What the log's state is to blame for is never raised into the code that logs. Nothing
recurses: what this library logs itself is not taken, nor what is logged while a record is being converted. And nothing
is lost in silence: what could not be taken is counted, and told on stderr once a cause, since a logging library is no
place to report that logging fails.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from audit_async._redact.redactor import Redactor
from audit_async.config import Redaction
from audit_async.errors import BufferFull, ConfigError, LogClosed, WriteFailed
from audit_async.events.base import AuditEvent
from audit_async.integrations._logger_source import LoggerSource, check_source, logger_from
from audit_async.status import describe_error

_OWN_LOGGER: Final = "audit_async"


class LogDelivery:
    """Hands the events of one handler, or processor, to the audit log. From any thread."""

    def __init__(self, source: LoggerSource) -> None:
        self.dropped = 0  #: events that no log was open for; refusals of a full buffer are counted by the log itself
        self._source = check_source(source)
        self._told: str | None = None
        self._redactor = Redactor()
        self._redaction: Redaction | None = None  # what the redactor was made of, where it is not the default one
        self._lock = threading.RLock()  # a signal handler may log while its thread holds it

    @property
    def redactor(self) -> Redactor:
        """What takes secrets out of messages: as the log is configured, or by default where there is none yet."""
        audit = logger_from(self._source)
        if audit is not None and audit.config.redaction is not self._redaction:
            self._redactor, self._redaction = Redactor(audit.config.redaction), audit.config.redaction
        return self._redactor

    def deliver(self, event: AuditEvent) -> None:
        """Emit `event`, or count it as dropped where no log is open; raises `InvalidEvent` only."""
        audit = logger_from(self._source)
        if audit is None:
            self._drop("there is no audit log yet")
            return
        try:
            audit.emit(event)
        except BufferFull:
            return  # the log has counted it, and will record the count
        except (LogClosed, WriteFailed) as error:
            self._drop(describe_error(error))
        else:
            self._told = None

    def _drop(self, why: str) -> None:
        with self._lock:
            self.dropped += 1
            told, self._told = self._told, why
        if told != why:
            tell(f"log records that were chosen for the audit trail are dropped: {why}")


def tell(text: str) -> None:
    """Write a line to stderr, where there is one; never raises."""
    with suppress(Exception):  # stderr may be None, closed or full, and there is no other place to tell
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


def exception_name(cls: type[BaseException]) -> str:
    """Return an exception class's name, with its module where that is not `builtins`."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def level_number(level: int | str, field: str) -> int:
    """Return a level of `logging` as its number; raises `ConfigError` for a name that it does not know."""
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else None
    if number is None:
        raise ConfigError(field, f"{level!r} is no level of logging; give a number, or a name such as 'ERROR'")
    return number
