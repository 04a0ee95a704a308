"""Where an integration finds its logger: it is given one, or a function that returns the one of the moment."""

from __future__ import annotations

from collections.abc import Callable

from audit_async.ambient import AnyLogger
from audit_async.config import AuditConfig
from audit_async.errors import ConfigError

__all__ = ["AnyLogger", "LoggerSource", "check_source", "logger_from", "shown"]

#: A logger, or a function that returns it, and None while there is none: what is configured at import time comes
#: before the logger that the service's life span opens.
LoggerSource = AnyLogger | Callable[[], AnyLogger | None]


def check_source(source: LoggerSource) -> LoggerSource:
    """Return `source`; raises `ConfigError` if it is neither a logger nor a function."""
    given: object = source  # which is not what its annotation promises, if the caller made a mistake
    if callable(given) and not isinstance(given, type):
        return source
    if isinstance(given, AnyLogger):
        return source
    raise ConfigError(
        "audit", f"must be an AuditLogger, a SyncAuditLogger, or a function that returns one, not {shown(source)}"
    )


def logger_from(source: LoggerSource) -> AnyLogger | None:
    """Return the logger of the moment, None if there is none yet."""
    return source if isinstance(source, AnyLogger) else source()


def shown(value: object) -> str:
    """Return what a wrong value is, and what to do about the usual mistakes; never the value itself."""
    if isinstance(value, AuditConfig):
        return "an AuditConfig: open a logger with it, `async with AuditLogger(config) as audit`, and give that"
    if isinstance(value, type):
        return f"the class {value.__name__}: give an instance"
    return f"a {type(value).__name__}"
