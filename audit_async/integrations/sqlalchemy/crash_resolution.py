"""What became of a transaction whose outcome is not recorded: asked of the database itself.

PostgreSQL remembers for a long time what became of a transaction: its id is in the intent, and `pg_xact_status` answers
(https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT). In any other database a row of a
marker table says it, which the transaction itself has inserted: if it is there, the transaction was committed. If it is
not, the row is inserted now, as a sign that the transaction was not committed; one that is still under way somewhere
conflicts with that row, so it has to wait for it or fail.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Boolean, Column, Connection, DateTime, Engine, MetaData, String, Table, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from audit_async.errors import ConfigError
from audit_async.events import TransactionEnded, TransactionIntended

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # needs greenlet, which synchronous services need not have

    from audit_async.integrations._logger_source import AnyLogger
    from audit_async.reader import AuditReader

__all__ = [
    "Resolution",
    "check_marker",
    "database_name",
    "leave_marker",
    "marker_table",
    "resolve_unfinished",
    "transaction_number",
]

#: The first version of PostgreSQL whose functions have these names.
_XACT_FUNCTIONS: Final = (13,)
_MARKER_COLUMNS: Final = frozenset({"transaction_id", "at", "rolled_back"})


def marker_table(metadata: MetaData, name: str = "audit_transactions") -> Table:
    """Return the table whose rows say which transactions were committed; it is created with the others of `metadata`.

    A row is needed until the outcome of its transaction is recorded; older ones, by `at`, may be deleted.

    Args:
        metadata: Where your tables are.
        name: The table's name.
    """
    return Table(
        name,
        metadata,
        Column("transaction_id", String(32), primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False),
        Column("rolled_back", Boolean(create_constraint=False), nullable=False),
    )


def check_marker(marker: object) -> Table | None:
    """Return the marker table; raises `ConfigError` if that is something else."""
    if marker is None:
        return None
    if not isinstance(marker, Table) or not set(marker.c.keys()) >= _MARKER_COLUMNS:
        raise ConfigError("marker", "is no marker table; give what marker_table(metadata) returns")
    return marker


def leave_marker(connection: Connection, marker: Table, transaction_id: str) -> None:
    """Insert the row that says that the transaction was committed, in the transaction itself."""
    connection.execute(insert(marker).values(transaction_id=transaction_id, at=datetime.now(UTC), rolled_back=False))


def transaction_number(connection: Connection) -> str | None:
    """Return PostgreSQL's id of the transaction under way; None in another database."""
    if connection.dialect.name != "postgresql":
        return None
    function = "pg_current_xact_id_if_assigned" if _is_recent(connection) else "txid_current_if_assigned"
    number = connection.exec_driver_sql(f"SELECT {function}()::text").scalar()
    return None if number is None else str(number)


def database_name(engine: Engine) -> str:
    """Return which database an engine leads to, without user, password and options."""
    url = engine.url
    host = f"{url.host or ''}{f':{url.port}' if url.port else ''}"
    return f"{engine.dialect.name}://{host}/{url.database or ''}"


@dataclass
class Resolution:
    """What `resolve_unfinished` has found out.

    Args:
        committed: Ids of transactions that were committed.
        rolled_back: Ids of transactions that were not.
        unresolved: Ids of those of which nothing is known, each with the reason.
    """

    committed: list[str] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    unresolved: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = Counter(self.unresolved.values())
        why = f" ({', '.join(f'{number} {reason}' for reason, number in reasons.items())})" if reasons else ""
        return (
            f"{len(self.committed)} committed, {len(self.rolled_back)} rolled back, "
            f"{len(self.unresolved)} unresolved{why}"
        )


async def resolve_unfinished(
    reader: AuditReader,
    audit: AnyLogger,
    engine: Engine | AsyncEngine,
    *,
    marker: Table | None = None,
    any_database: bool = False,
) -> Resolution:
    """Find out what became of the transactions that are unfinished in a trail, and record it.

    For each `transaction.intended` without an outcome, or with the outcome `unknown`, the database is asked, and a
    `transaction.ended` that names what was asked (`found_by`) is emitted. What is not known, since the transaction is
    still under way or the database has forgotten it, stays as it is. May run at any time, also next to services that
    record intents of their own; at best right after their start.

    Args:
        reader: The trail, with all logs of the services that use the database.
        audit: The log that the outcomes are recorded in.
        engine: The database.
        marker: The marker table, if the sessions have one.
        any_database: Ask this database also about intents that name another one: it has moved since.

    Returns:
        What was found out.

    Raises:
        TrailUnreadable: The trail can't be read.
        ConfigError: `marker` is no marker table.
        sqlalchemy.exc.SQLAlchemyError: The database can't be asked.
    """
    check_marker(marker)
    name = database_name(engine if isinstance(engine, Engine) else engine.sync_engine)
    resolution = Resolution()
    async for record in reader.unfinished():
        intent = record.event
        if not isinstance(intent, TransactionIntended):  # of a form that this release does not know
            continue
        if intent.database != name and not any_database:
            resolution.unresolved[intent.transaction_id] = "of another database"
            continue
        if isinstance(engine, Engine):
            answer = await asyncio.to_thread(_ask_engine, engine, intent, marker)
        else:
            async with engine.connect() as connection:
                answer = await connection.run_sync(_ask, intent, marker)
        if answer.outcome == "unknown":
            resolution.unresolved[intent.transaction_id] = answer.source
            continue
        audit.emit(
            TransactionEnded(transaction_id=intent.transaction_id, outcome=answer.outcome, found_by=answer.source)
        )
        found = resolution.committed if answer.outcome == "committed" else resolution.rolled_back
        found.append(intent.transaction_id)
    return resolution


@dataclass(frozen=True)
class _Answer:
    """What the database says, and what in it says so; the reason if it says nothing."""

    outcome: Literal["committed", "rolled_back", "unknown"]
    source: str


def _ask_engine(engine: Engine, intent: TransactionIntended, marker: Table | None) -> _Answer:
    with engine.connect() as connection:
        return _ask(connection, intent, marker)


def _ask(connection: Connection, intent: TransactionIntended, marker: Table | None) -> _Answer:
    if intent.xid is not None and connection.dialect.name == "postgresql":
        answer = _ask_postgresql(connection, intent.xid)
        if answer.outcome != "unknown" or intent.marker is None:
            return answer
    if intent.marker is None:
        return _Answer("unknown", "without a marker")
    if marker is None or marker.name != intent.marker:
        return _Answer("unknown", f"with another marker table ({intent.marker})")
    return _ask_marker(connection, intent.transaction_id, marker)


def _ask_postgresql(connection: Connection, number: str) -> _Answer:
    function, kind = ("pg_xact_status", "xid8") if _is_recent(connection) else ("txid_status", "bigint")
    try:
        status = connection.exec_driver_sql(f"SELECT {function}('{int(number)}'::{kind})").scalar()
    except DBAPIError:  # an id that this database has not given out yet
        connection.rollback()
        return _Answer("unknown", "unknown to the database")
    connection.rollback()
    if status == "committed":
        return _Answer("committed", "pg_xact_status")
    if status == "aborted":
        return _Answer("rolled_back", "pg_xact_status")
    return _Answer("unknown", "still under way" if status else "forgotten by the database")


def _ask_marker(connection: Connection, transaction_id: str, marker: Table) -> _Answer:
    row = {"transaction_id": transaction_id, "at": datetime.now(UTC), "rolled_back": True}
    try:
        connection.execute(insert(marker).values(row))
        connection.commit()
    except IntegrityError:
        connection.rollback()
        asked = select(marker.c.rolled_back).where(marker.c.transaction_id == transaction_id)
        was_rolled_back: Any = connection.execute(asked).scalar_one_or_none()
        connection.rollback()
        if was_rolled_back is None:
            return _Answer("unknown", "with a marker that was deleted meanwhile")
        return _Answer("rolled_back" if was_rolled_back else "committed", "marker")
    except DBAPIError as error:  # such as SQLite's "database is locked": somebody is in the middle of it
        connection.rollback()
        return _Answer("unknown", f"with a marker table that can't be written ({type(error.orig).__name__})")
    return _Answer("rolled_back", "marker")


def _is_recent(connection: Connection) -> bool:
    version: tuple[int, ...] = getattr(connection.dialect, "server_version_info", None) or _XACT_FUNCTIONS
    return version >= _XACT_FUNCTIONS
