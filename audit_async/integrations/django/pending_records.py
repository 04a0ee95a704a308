"""Changes that wait for the COMMIT of their transaction; what is rolled back is dropped, and never recorded.

A change joins the callbacks of Django's `transaction.on_commit`, which drops those of a savepoint that is rolled back.
They are called by `commit` itself, once the database has committed, and before any callback of the application, whose
error would keep the later ones from being called.
"""

from __future__ import annotations

import functools
import weakref
from contextvars import Context, copy_context
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from audit_async.events import AuditEvent
from audit_async.integrations.django.process_log import record_event

__all__ = ["PendingRecord", "WriteOutcome", "record_after_commit", "watch_commits"]


class WriteOutcome:
    """Whether what was written still holds: not if its savepoint or transaction was rolled back."""

    __slots__ = ("_pending", "is_committed")

    def __init__(self) -> None:
        self.is_committed = False
        self._pending: weakref.ref[PendingRecord] | None = None

    def waits_for(self, pending: PendingRecord) -> None:
        """Follow a record: only the connection refers to it, until it is called or dropped."""
        self._pending = weakref.ref(pending)

    @property
    def is_rolled_back(self) -> bool:
        """True once the connection has dropped the record without having called it."""
        return not self.is_committed and self._pending is not None and self._pending() is None


class PendingRecord:
    """One event, to be emitted after COMMIT with what was bound as the change was made."""

    __slots__ = ("__weakref__", "_context", "_event", "_outcome")

    #: Django names a callback by this if it raises; this one does not.
    __qualname__: Final = "audit_async.PendingRecord"

    def __init__(self, event: AuditEvent, outcome: WriteOutcome) -> None:
        self._event: Final = event
        self._outcome: Final = outcome
        self._context: Final[Context] = copy_context()

    def __call__(self) -> None:
        """Emit the event; raises nothing."""
        if not self._outcome.is_committed:
            self._outcome.is_committed = True
            self._context.run(record_event, self._event)


def record_after_commit(event: AuditEvent | None, using: str) -> WriteOutcome:
    """Record an event once the transaction that is open on a database is committed; at once if none is.

    Args:
        event: The event; None if there is nothing to record, and only the outcome matters.
        using: The alias of the database.

    Returns:
        What becomes of the transaction.
    """
    connection = connections[using]
    outcome = WriteOutcome()
    if not connection.in_atomic_block and connection.get_autocommit():
        outcome.is_committed = True
        if event is not None:
            record_event(event)
        return outcome
    pending = _Nothing(outcome) if event is None else PendingRecord(event, outcome)
    outcome.waits_for(pending)
    # As on_commit does, which refuses this in a transaction that the application manages by hand.
    connection.run_on_commit.append((set(connection.savepoint_ids), pending, True))
    return outcome


class _Nothing(PendingRecord):
    """In the place of a record, to learn what becomes of a transaction."""

    __slots__ = ()

    def __init__(self, outcome: WriteOutcome) -> None:
        self._outcome: Final = outcome  # type: ignore[misc]  # the slot of the base class

    def __call__(self) -> None:
        self._outcome.is_committed = True


def watch_commits() -> None:
    """Have every connection of this process emit what waits for its commit; done once."""
    original = BaseDatabaseWrapper.commit
    if getattr(original, "is_audited", False):
        return

    @functools.wraps(original)
    def commit(self: Any) -> None:
        original(self)
        _emit_committed(self)

    commit.is_audited = True  # type: ignore[attr-defined]  # a mark for the next call
    BaseDatabaseWrapper.commit = commit


def _emit_committed(connection: Any) -> None:
    waiting = connection.run_on_commit
    if not waiting:
        return
    ours = [entry[1] for entry in waiting if isinstance(entry[1], PendingRecord)]
    if ours:
        connection.run_on_commit = [entry for entry in waiting if not isinstance(entry[1], PendingRecord)]
        for pending in ours:
            pending()
