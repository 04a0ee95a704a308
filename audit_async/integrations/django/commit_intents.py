"""Recording before COMMIT what a transaction is about to change, durable, and after it what became of it.

Asked for by `AUDIT_COMMIT`. The order is the promise: the changes, then one `transaction.intended`, all on stable
storage; then COMMIT; then `transaction.ended`. A process that is killed leaves an intent without an end, which the
command `audit_resolve` resolves by asking PostgreSQL what became of the transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal

from django.db import DatabaseError, connections, transaction

from audit_async.ambient import get_audit
from audit_async.events import (
    AuditEvent,
    BulkChanged,
    BulkChangeIntended,
    ResourceChangeIntended,
    ResourceCreated,
    ResourceDeleted,
    ResourceUpdated,
    TransactionEnded,
    TransactionIntended,
)
from audit_async.events.resources import Operation
from audit_async.integrations.django.django_settings import commit_settings
from audit_async.integrations.django.process_log import lose_event, make_durable, record_event
from audit_async.status import describe_error

__all__ = ["Intent", "IntentNotDurable", "database_name", "intend", "is_intended", "own_transaction"]

_OPERATIONS: Final[dict[type[AuditEvent], Operation]] = {
    ResourceCreated: "create",
    ResourceUpdated: "update",
    ResourceDeleted: "delete",
}


class IntentNotDurable(DatabaseError):
    """What a transaction is about to change could not be recorded in time, so it was rolled back.

    One of Django's errors of databases, since Django ends a transaction that raises another one at COMMIT wrongly.
    """


class Intent:
    """The recorded intent of one transaction whose COMMIT is next."""

    def __init__(self, ended: TransactionEnded, connection: Any) -> None:
        self._ended: Final = ended
        self._connection: Final = connection

    def committed(self) -> None:
        """Record that the transaction is committed."""
        record_event(self._ended)

    def failed(self, error: BaseException) -> None:
        """Record what is known after a COMMIT that raised an error."""
        connection = self._connection
        # PostgreSQL has rolled back what it refuses to commit. Others may have left the transaction open.
        refused = isinstance(error, DatabaseError) and connection.vendor == "postgresql" and connection.is_usable()
        self.end("rolled_back" if refused else "unknown", error)

    def end(self, outcome: Literal["rolled_back", "unknown"], error: BaseException) -> None:
        """Record that the transaction is not known to be committed, and why."""
        ended = self._ended
        record_event(
            TransactionEnded(
                actor=ended.actor,
                transaction_id=ended.transaction_id,
                outcome=outcome,
                reason=type(error).__name__,
            )
        )


def is_intended(event: AuditEvent) -> bool:
    """Return whether an event is one of those that are recorded before COMMIT: a change of rows."""
    return isinstance(event, BulkChanged) or type(event) in _OPERATIONS


_NOTHING: Final = nullcontext()


def own_transaction(using: str) -> AbstractContextManager[None]:
    """Open a transaction around a statement that would commit itself, if intents are asked for."""
    if commit_settings().relation == "after":
        return _NOTHING
    connection = connections[using]
    if connection.in_atomic_block or not connection.get_autocommit():
        return _NOTHING
    own: AbstractContextManager[None] = transaction.atomic(using=using)
    return own


def intend(connection: Any, events: Sequence[AuditEvent]) -> Intent | None:
    """Record what a connection is about to commit, durably; None if that is not asked for, or there is nothing.

    Raises:
        IntentNotDurable: That could not be done, and `on_failure` is `refuse`. The transaction is rolled back.
    """
    settings = commit_settings()
    changes = [event for event in events if is_intended(event)]
    if settings.relation == "after" or not changes:
        return None
    last: Any = changes[-1]
    actor = last.actor
    ended = TransactionEnded(actor=actor, transaction_id=secrets.token_hex(16), outcome="committed")
    intent = Intent(ended, connection)
    try:
        audit = get_audit()
        for event in changes:
            audit.emit(_intended(event, ended.transaction_id))
        audit.emit(
            TransactionIntended(
                actor=actor,
                transaction_id=ended.transaction_id,
                changes=len(changes),
                database=database_name(connection),
                xid=_transaction_number(connection),
            )
        )
        make_durable(audit, settings.timeout_s)
    except Exception as error:
        if settings.on_failure == "record_loss":
            lose_event("transaction.intended", error)
            return intent
        connection.rollback()
        intent.end("rolled_back", error)
        raise IntentNotDurable(
            "the transaction was rolled back, since what it changes could not be recorded before: "
            f"{describe_error(error)}"
        ) from error
    return intent


def _intended(event: Any, transaction_id: str) -> AuditEvent:
    if isinstance(event, BulkChanged):
        return BulkChangeIntended(
            actor=event.actor,
            transaction_id=transaction_id,
            resource_type=event.resource_type,
            operation=event.operation,
            criteria=event.criteria,
            parameters=event.parameters,
            values=event.values,
            rows=event.rows,
            resource_ids=event.resource_ids,
        )
    return ResourceChangeIntended(
        actor=event.actor,
        transaction_id=transaction_id,
        operation=_OPERATIONS[type(event)],
        resource=event.resource,
        changes=event.changes,
    )


def database_name(connection: Any) -> str:
    """Return which database a connection leads to, without user and password."""
    settings = connection.settings_dict
    host, port = str(settings.get("HOST") or ""), settings.get("PORT")
    return f"{connection.vendor}://{host}{f':{port}' if port else ''}/{settings.get('NAME') or ''}"


def _transaction_number(connection: Any) -> str | None:
    """Return PostgreSQL's id of the transaction under way; None in another database."""
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id_if_assigned()::text")
        (number,) = cursor.fetchone()
    return None if number is None else str(number)
