"""The log of this process: made of the settings, and opened by the first event, whichever server or command it is.

Each process has a chain of its own. A worker that is forked opens its own at its first event.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from time import monotonic
from typing import Final

from audit_async.ambient import AnyLogger, get_audit
from audit_async.errors import AuditError, BufferFull, InvalidEvent, LogClosed, WriteFailed
from audit_async.events import AuditEvent
from audit_async.integrations.django.django_settings import log_config
from audit_async.status import describe_error
from audit_async.sync import SyncAuditLogger

__all__ = ["lose_event", "make_durable", "open_log", "record_event"]

_log = logging.getLogger("audit_async")

#: How long a log that can't be opened is left alone: each change would try it again.
_RETRY_S: Final = 5.0
_REASONS: Final = ((InvalidEvent, "invalid_event"), (LogClosed, "log_closed"), (WriteFailed, "write_failed"))


class _ProcessLog:
    """The log that the settings describe, once it is open. Any thread may ask."""

    def __init__(self) -> None:
        self.renew()
        self.log: SyncAuditLogger | None = None
        self.is_losing = False  #: something was lost since an event was recorded, and that is in the application's log

    def renew(self) -> None:
        """Begin again in a forked child, which may have been forked while another thread opened the log."""
        # Re-entrant: a signal handler, or what logs while the log is opened, may record in the thread that holds it.
        self._lock = threading.RLock()
        self._is_opening = False
        self._failed: Exception | None = None
        self._failed_s = 0.0
        self._lost: Counter[tuple[str, str]] = Counter()

    def opened(self) -> SyncAuditLogger:
        """Return the log, after opening it; raises what opening it raised, for some seconds without trying again.

        Raises `LogClosed` as well, if this call interrupts the one of its thread that opens the log.
        """
        log = self.log
        if log is not None:
            return log
        with self._lock:
            if self.log is None:
                if self._is_opening:
                    raise LogClosed(
                        "the audit log of this process is being opened by the call that this one interrupts"
                    )
                if self._failed is not None and monotonic() < self._failed_s + _RETRY_S:
                    raise self._failed
                self._is_opening = True
                try:
                    return self._open()
                finally:
                    self._is_opening = False
            return self.log

    def _open(self) -> SyncAuditLogger:
        """Open the log, and let it count what was lost before; the caller has the lock."""
        try:
            log = SyncAuditLogger(log_config())
            log.start(blocks_event_loop=True)
        except (AuditError, OSError) as error:
            self._failed, self._failed_s = error, monotonic()
            raise
        self.log = log  # from here on nothing is added to what was lost before
        for (event_type, reason), count in self._lost.items():
            for _ in range(count):
                log.count_lost(event_type, reason)
        self._lost.clear()
        return log

    def count_lost(self, event_type: str, reason: str) -> None:
        """Count an event that is in no trail, for the log of this process once it is open."""
        with self._lock:
            if self.log is None:
                self._lost[event_type, reason] += 1
            else:  # it was opened meanwhile
                self.log.count_lost(event_type, reason)


_process: Final = _ProcessLog()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_process.renew)


def open_log() -> SyncAuditLogger:
    """Return the log of this process as the settings describe it, after opening it if this is the first to ask.

    `get_audit` returns this one, unless the application or a test has set another. Its `emit` may be called from any
    thread and in `async` code.

    Raises:
        ConfigError: The settings are wrong.
        AuditError, OSError: As `SyncAuditLogger.start` does.
    """
    return _process.opened()


def make_durable(audit: AnyLogger, timeout_s: float) -> None:
    """Return once all that was emitted so far is on stable storage. Blocks this thread, which runs no event loop.

    Raises:
        TimeoutError: It takes longer.
        RuntimeError: An event loop runs in this thread.
        WriteFailed, LogClosed: As `flush` does.
    """
    if isinstance(audit, SyncAuditLogger):
        audit.flush(timeout_s)
    else:  # the application's own; its loop is in another thread
        asyncio.run(asyncio.wait_for(audit.flush(), timeout_s))


def record_event(event: AuditEvent) -> bool:
    """Emit an event, and return whether the log has taken it; raises nothing.

    What can't be recorded is counted, and reported in the log `audit_async` once.
    """
    try:
        get_audit().emit(event)
    except Exception as error:  # noqa: BLE001 - whatever it is, the application has done its part
        lose_event(event.event_type, error)
        return False
    _process.is_losing = False
    return True


def lose_event(event_type: str, error: Exception) -> None:
    """Count an event that could not be recorded, and report the first until one is recorded again."""
    if not isinstance(error, BufferFull):  # which the log has counted
        reason = next((word for kind, word in _REASONS if isinstance(error, kind)), "internal_error")
        try:
            get_audit().count_lost(event_type, reason)
        except Exception:  # noqa: BLE001 - there is no log, so it is counted until there is one
            _process.count_lost(event_type, reason)
    if not _process.is_losing:
        _process.is_losing = True
        defect = None if isinstance(error, AuditError) else error
        _log.error(
            "changes are made and not recorded; logged once until one is: %s", describe_error(error), exc_info=defect
        )
