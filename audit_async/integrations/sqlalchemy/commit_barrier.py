"""The wait before COMMIT: an intent is durable, or the transaction does not commit.

A session of SQLAlchemy's asyncio extension runs this in a greenlet on the event loop's own thread. A blocking wait
would stop that for ever if the log lives on the same loop, so there the wait is an await.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection
from sqlalchemy.util import await_only

from audit_async.errors import AuditError
from audit_async.integrations._logger_source import AnyLogger
from audit_async.logger import AuditLogger

__all__ = ["IntentNotDurable", "make_durable"]


class IntentNotDurable(AuditError):
    """What a transaction is about to change could not be recorded in time, so it was rolled back."""


def make_durable(audit: AnyLogger, connection: Connection, timeout_s: float) -> None:
    """Return once everything that was emitted so far is on stable storage.

    Args:
        audit: The log.
        connection: The connection that is about to commit; if its driver is asynchronous, this awaits.
        timeout_s: How long that may take.

    Raises:
        IntentNotDurable: It takes longer, or this thread may not wait.
        WriteFailed, LogClosed: As `flush` does.
    """
    try:
        if connection.dialect.is_async:
            await_only(_flushed_in_time(audit, timeout_s))
        elif isinstance(audit, AuditLogger):
            _block(audit, timeout_s)
        else:
            audit.flush(timeout_s)
    except TimeoutError:
        raise IntentNotDurable(f"the records of what it changes are not durable after {timeout_s} s") from None
    except RuntimeError as error:
        raise IntentNotDurable(
            "an event loop runs in this thread, and a Session blocks it: use an AsyncSession, or run this in a thread"
        ) from error


async def _flushed_in_time(audit: AnyLogger, timeout_s: float) -> None:
    if isinstance(audit, AuditLogger):
        async with asyncio.timeout(timeout_s):
            await audit.flush()
    else:
        await asyncio.to_thread(audit.flush, timeout_s)


def _block(audit: AuditLogger, timeout_s: float) -> None:
    """Block this thread until a log that lives on another thread's event loop has made everything durable."""
    session = audit._session  # noqa: SLF001 - as `SyncAuditLogger` does: `flush` is for event loops only
    if session is not None:  # it is not disabled
        session.home.call_and_block(audit.flush, timeout_s)
