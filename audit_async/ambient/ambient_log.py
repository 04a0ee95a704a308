"""Which log code that is given none writes to: that of the current context, otherwise that of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from audit_async.config import AuditConfig
from audit_async.errors import ConfigError
from audit_async.logger import AuditLogger
from audit_async.sync import SyncAuditLogger

__all__ = [
    "AnyLogger",
    "AuditSource",
    "audit_here",
    "audit_if_set",
    "check_audit_source",
    "get_audit",
    "set_audit",
    "set_stand_in",
    "stand_in",
    "use_audit",
]

#: Both have `emit`, `health`, `stats`, `count_lost` and `config`; what waits is awaited in one and blocks in the other.
AnyLogger = AuditLogger | SyncAuditLogger

#: A log, or a function that returns it: one that is opened at its first use, or in each process by itself.
AuditSource = AuditLogger | SyncAuditLogger | Callable[[], AuditLogger | SyncAuditLogger]

#: What `use_audit` has set here, None if nothing. For integrations, which set it for each request.
audit_here: Final[ContextVar[AuditSource | None]] = ContextVar("audit_here", default=None)

_of_process: AuditSource | None = None
_stand_in: AnyLogger | None = None


def get_audit() -> AnyLogger:
    """Return the log of the moment: the one that `use_audit` has set here, otherwise the one of `set_audit`.

    The web middlewares set the log of their application for each request, so handlers and whatever they call get that
    one. From any thread; it costs 0.2 us. Takes no argument, so it can be a dependency of FastAPI as it is.

    Returns:
        An `AuditLogger` or a `SyncAuditLogger`, whichever was set; `emit` is the same for both.

    Raises:
        ConfigError: None was set, neither here nor for the process.
        Exception: Whatever a function that was set as the log raises.
    """
    audit = audit_if_set()
    if audit is None:
        raise ConfigError(
            "audit",
            "no audit log is set here: call set_audit(audit) once as the process starts, or run this inside "
            "`with use_audit(audit)` or a request that an audit middleware serves",
        )
    return audit


def audit_if_set() -> AnyLogger | None:
    """Return what `get_audit` does, and None if none was set."""
    source = audit_here.get() or _stand_in or _of_process
    return source if source is None or isinstance(source, AuditLogger | SyncAuditLogger) else source()


def stand_in() -> AnyLogger | None:
    """Return the log that takes the place of those that integrations open by themselves, None if there is none."""
    return _stand_in


def set_stand_in(audit: AnyLogger | None) -> AnyLogger | None:
    """Have a log take the place of the process's, and of those that integrations open; return the one before.

    For tests of applications whose log is configured at import.
    """
    global _stand_in
    before, _stand_in = _stand_in, audit
    return before


def set_audit(audit: AuditSource | None) -> AuditSource | None:
    """Set the log that `get_audit` returns in the whole process, in every thread and task that has no log of its own.

    Opens and closes nothing. A forked child inherits what is set: a `SyncAuditLogger` opens a log of the child's own
    at its first event, an `AuditLogger` refuses. From any thread.

    Args:
        audit: The log, or a function without arguments that returns it; None to take it away.

    Returns:
        What was set before, so that it can be set again; None if nothing was.

    Raises:
        ConfigError: `audit` is something else.
    """
    global _of_process
    checked = None if audit is None else check_audit_source(audit)
    before, _of_process = _of_process, checked
    return before


@contextmanager
def use_audit(audit: AuditSource) -> Iterator[None]:
    """Have `get_audit` return this log inside the `with` block, and in the tasks that are started there.

    As `audit_context`, it reaches threads that are entered by `asyncio.to_thread` or `anyio.to_thread.run_sync`, and no
    bare `threading.Thread`. It opens and closes nothing.

    Args:
        audit: As for `set_audit`.

    Raises:
        ConfigError: `audit` is something else.
    """
    token = audit_here.set(check_audit_source(audit))
    try:
        yield
    finally:
        audit_here.reset(token)


def check_audit_source(audit: AuditSource) -> AuditSource:
    """Return `audit`; raises `ConfigError` if it is neither a log nor a function."""
    given: object = audit  # which is not what its annotation promises, if the caller made a mistake
    if isinstance(given, AuditLogger | SyncAuditLogger) or (callable(given) and not isinstance(given, type)):
        return audit
    what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    if isinstance(given, AuditConfig):
        what += ": make a log of it, AuditLogger(config) or SyncAuditLogger(config)"
    raise ConfigError("audit", f"must be an AuditLogger, a SyncAuditLogger or a function that returns one, not {what}")
