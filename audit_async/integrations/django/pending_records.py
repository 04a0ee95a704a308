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
from audit_async.integrations.django.commit_intents import intend, is_intended
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
    """One event, to be emitted after COMMIT with what was bound as the change was made.

    Without an event it is there to learn what becomes of a transaction.
    """

    __slots__ = ("__weakref__", "_context", "event", "outcome")

    #: Django names a callback by this if it raises; this one does not.
    __qualname__: Final = "audit_async.PendingRecord"

    def __init__(self, event: AuditEvent | None, outcome: WriteOutcome) -> None:
        self.event: Final = event
        self.outcome: Final = outcome
        self._context: Final[Context | None] = None if event is None else copy_context()

    def __call__(self) -> None:
        """Emit the event; raises nothing."""
        if not self.outcome.is_committed:
            self.outcome.is_committed = True
            if self._context is not None and self.event is not None:
                self._context.run(record_event, self.event)


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
    pending = PendingRecord(event, outcome)
    outcome.waits_for(pending)
    # As on_commit does, which refuses this in a transaction that the application manages by hand.
    connection.run_on_commit.append((set(connection.savepoint_ids), pending, True))
    return outcome


def watch_commits() -> None:
    """Have every connection of this process emit what waits for its commit; done once."""
    original = BaseDatabaseWrapper.commit
    if getattr(original, "is_audited", False):
        return

    @functools.wraps(original)
    def commit(self: Any) -> None:
        ours = [entry[1] for entry in self.run_on_commit if isinstance(entry[1], PendingRecord)]
        if not ours:
            original(self)
            return
        intent = intend(self, [pending.event for pending in ours if pending.event is not None])
        try:
            original(self)
        except BaseException as error:
            if intent is not None:
                intent.failed(error)
            raise
        self.run_on_commit = [entry for entry in self.run_on_commit if not isinstance(entry[1], PendingRecord)]
        for pending in ours:
            if intent is not None and pending.event is not None and is_intended(pending.event):
                pending.outcome.is_committed = True
            else:
                pending()
        if intent is not None:
            intent.committed()

    commit.is_audited = True  # type: ignore[attr-defined]  # a mark for the next call
    BaseDatabaseWrapper.commit = commit
