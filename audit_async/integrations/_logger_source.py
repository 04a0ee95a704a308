"""Where an integration finds its logger: it is given one, or a function that returns the one of the moment."""

from __future__ import annotations

from collections.abc import Callable

from audit_async.errors import ConfigError
from audit_async.logger import AuditLogger

#: A logger, or a function that returns it, and None while there is none: what is configured at import time comes
#: before the logger that the service's life span opens.
LoggerSource = AuditLogger | Callable[[], AuditLogger | None]


def check_source(source: LoggerSource) -> LoggerSource:
    """Return `source`; raises `ConfigError` where it is neither a logger nor a function."""
    if isinstance(source, AuditLogger) or callable(source):
        return source
    raise ConfigError("audit", f"must be an AuditLogger or a function that returns one, not {type(source).__name__}")


def logger_from(source: LoggerSource) -> AuditLogger | None:
    """Return the logger of the moment, None where there is none yet."""
    return source if isinstance(source, AuditLogger) else source()
