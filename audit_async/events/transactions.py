"""Changes that are recorded before a database's COMMIT, and what became of the transaction.

What one transaction is about to change comes first, a record for each object and each bulk statement; then one
`transaction.intended`, durable before COMMIT; and after it `transaction.ended`. All have the same `transaction_id`. An
intent that has no end was cut off: by a crash, or by a COMMIT that never answered. A change whose transaction has no
`transaction.intended` never reached COMMIT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from audit_async.events.base import ActorInfo, AuditEvent, ResourceInfo
from audit_async.events.personal import Personal
from audit_async.events.resources import Changes, Operation


class ResourceChangeIntended(AuditEvent, tag="resource.change_intended"):
    """A transaction is about to commit what it did to a resource."""

    actor: ActorInfo
    transaction_id: str
    operation: Operation
    resource: ResourceInfo
    changes: Annotated[Changes | None, Personal("resource.resource_id", when="resource")] = None


class BulkChangeIntended(AuditEvent, tag="resource.bulk_change_intended"):
    """A transaction is about to commit what one statement did to any number of resources; see `BulkChanged`."""

    actor: ActorInfo
    transaction_id: str
    resource_type: str
    operation: Operation
    criteria: str | None = None
    parameters: Annotated[Mapping[str, Any] | None, Personal()] = None
    values: Annotated[Mapping[str, Any] | None, Personal()] = None
    rows: int | None = None
    resource_ids: Annotated[list[str] | None, Personal()] = None


class TransactionIntended(AuditEvent, tag="transaction.intended"):
    """A transaction is about to be committed, and so many records before this one say what it changes.

    Args:
        actor: Who changes it.
        transaction_id: What joins the records of one transaction; random.
        changes: How many records with this id come before.
        database: Which database, without user and password.
        xid: PostgreSQL's id of the transaction, by which it says later what became of it.
        marker: The table that has a row of this transaction if it was committed.
    """

    actor: ActorInfo
    transaction_id: str
    changes: int
    database: str | None = None
    xid: str | None = None
    marker: str | None = None


class TransactionEnded(AuditEvent, tag="transaction.ended"):
    """What became of a transaction that was intended.

    Args:
        transaction_id: As in `transaction.intended`.
        outcome: `committed`, `rolled_back`, or `unknown` if COMMIT was sent and its answer never came.
        actor: Who changed it; left out by those who found out later.
        reason: The class of the error because of which it was not committed, or is not known to be.
        found_by: How it was found out afterwards: `pg_xact_status` or `marker`.
    """

    transaction_id: str
    outcome: Literal["committed", "rolled_back", "unknown"]
    actor: ActorInfo | None = None
    reason: str | None = None
    found_by: str | None = None
