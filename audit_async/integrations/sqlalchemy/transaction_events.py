"""What SQLAlchemy reports of a transaction, and to whose record it belongs.

It does so at three places, and all three are needed: the mapper reports each object of a flush; the session, when its
transaction begins and ends; the engine, each statement and savepoint, and the moment before COMMIT.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, event

from audit_async.errors import ConfigError
from audit_async.integrations.sqlalchemy.bulk_statements import BulkStatement, Dml, selected_keys
from audit_async.integrations.sqlalchemy.flush_changes import FlushedObject
from audit_async.integrations.sqlalchemy.transaction_record import TransactionRecord
from audit_async.status import describe_error

if TYPE_CHECKING:
    from sqlalchemy.engine import CursorResult, ExceptionContext
    from sqlalchemy.orm import InstanceState, Mapper, Session, SessionTransaction
    from sqlalchemy.pool import ConnectionPoolEntry

    from audit_async.integrations.sqlalchemy.session_audit import SessionAudit

__all__ = ["listen_to_mapper", "listen_to_sessions"]

_log = logging.getLogger("audit_async")

#: Where a session, and a connection in its pool, keep what belongs to their transaction.
_KEY: Final = "audit_async.sqlalchemy"


def listen_to_sessions(target: Any, audit: SessionAudit) -> tuple[tuple[str, Callable[..., None]], ...]:  # noqa: ANN401 - what SQLAlchemy's events take
    """Follow the transactions of all sessions of `target`; return the names of the events and their listeners."""

    def record_of(session: Session) -> TransactionRecord:
        record: TransactionRecord | None = session.info.get(_KEY)
        if record is None:
            record = session.info[_KEY] = TransactionRecord(audit)
        return record

    def after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
        _after_begin(record_of(session), connection)

    # Functions of this call's own: SQLAlchemy 2.0 can't remove one that listens to a class and to a subclass of it.
    listeners: tuple[tuple[str, Callable[..., None]], ...] = (
        ("after_begin", after_begin),
        ("after_flush", lambda session, _context: _after_flush(session)),
        ("after_commit", lambda session: _after_commit(session)),  # noqa: PLW0108 - as said
        ("after_soft_rollback", lambda session, _transaction: _after_soft_rollback(session)),
        ("after_transaction_end", lambda session, ended: _after_transaction_end(session, ended)),  # noqa: PLW0108
    )
    for name, listener in listeners:
        event.listen(target, name, listener)
    return listeners


def _after_begin(record: TransactionRecord, connection: Connection) -> None:
    if connection in record.connections:
        return  # a savepoint
    record.connections.add(connection)
    record.is_autocommit = _is_autocommit(connection)
    if record.is_autocommit and record.audit.relation == "intent":
        raise ConfigError(
            "relation",
            "is 'intent', and this connection is in AUTOCOMMIT, which has no moment before COMMIT; use 'after', or "
            "another isolation level",
        )
    _records.setdefault(connection, []).append(record)
    _listen_to_engine(connection.engine)


def _after_flush(session: Session) -> None:
    record: TransactionRecord | None = session.info.get(_KEY)
    if record is not None:
        record.end_flush()


def _after_commit(session: Session) -> None:
    record: TransactionRecord | None = session.info.get(_KEY)
    if record is None:
        return
    if session.in_nested_transaction():
        return  # a savepoint is released
    if any(connection.in_transaction() for connection in record.connections):
        _hand_over(record)
    else:
        record.committed()


def _after_soft_rollback(session: Session) -> None:
    record: TransactionRecord | None = session.info.get(_KEY)
    if record is not None:
        record.flush = None  # it has failed, if there was one


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is not None:
        return
    record: TransactionRecord | None = session.info.pop(_KEY, None)
    if record is None or record.is_handed_over:
        return
    record.not_committed()  # does nothing if it is recorded as committed
    _forget(record)


def _forget(record: TransactionRecord) -> None:
    for connection in record.connections:
        records = _records.get(connection, [])
        if record in records:
            records.remove(record)
        if not records:
            _records.pop(connection, None)


def _hand_over(record: TransactionRecord) -> None:
    """Leave a record to whoever has begun the transaction that the session has only taken part in."""
    record.is_handed_over = True
    for connection in record.connections:
        if record.has_changes and connection.in_transaction():
            # With the connection in the pool, where it is found when that has its connection back.
            connection.info.setdefault(_KEY, []).append(record)


# What the mapper reports, of all classes of all factories.

_mapped: Final[WeakSet[type[Any]]] = WeakSet()


def listen_to_mapper(model: type[Any]) -> None:
    """Follow what flushes do to the objects of a class and its subclasses, also of those that are yet to be defined."""
    if model not in _mapped:
        _mapped.add(model)
        for name, listener in (
            ("before_insert", _before_insert),
            ("before_update", _before_update),
            ("before_delete", _before_delete),
        ):
            event.listen(model, name, listener, raw=True, propagate=True)


def _before_insert(mapper: Mapper[Any], _connection: Connection, state: InstanceState[Any]) -> None:
    _take("create", mapper, state)


def _before_update(mapper: Mapper[Any], _connection: Connection, state: InstanceState[Any]) -> None:
    _take("update", mapper, state)


def _before_delete(mapper: Mapper[Any], _connection: Connection, state: InstanceState[Any]) -> None:
    _take("delete", mapper, state)


def _take(operation: Literal["create", "update", "delete"], mapper: Mapper[Any], state: InstanceState[Any]) -> None:
    session = state.session
    if session is None:
        return
    record: TransactionRecord | None = session.info.get(_KEY)
    plan = record.audit.plan(mapper) if record is not None else None
    if record is not None and plan is not None:
        if record.flush is None:
            record.flush = {}
        record.flush[state] = FlushedObject(operation, state, plan)


# What the engine reports.

_engines: Final[WeakSet[Engine]] = WeakSet()
#: The transactions under way on a connection: of sessions, and those that sessions took part in.
_records: Final[WeakKeyDictionary[Connection, list[TransactionRecord]]] = WeakKeyDictionary()


def _listen_to_engine(engine: Engine) -> None:
    if engine not in _engines:
        _engines.add(engine)
        for name, listener in (
            ("before_execute", _before_execute),
            ("after_execute", _after_execute),
            ("begin", _after_engine_begin),
            ("commit", _before_engine_commit),
            ("prepare_twophase", _before_prepare),
            ("commit_twophase", _before_prepared_commit),
            ("rollback_twophase", _before_prepared_rollback),
            ("rollback", _before_engine_rollback),
            ("savepoint", _before_savepoint),
            ("release_savepoint", _before_savepoint_release),
            ("rollback_savepoint", _before_savepoint_rollback),
            ("handle_error", _after_error),
            ("checkin", _after_checkin),
        ):
            event.listen(engine, name, listener)


def _before_execute(
    connection: Connection,
    statement: object,
    rows: list[Mapping[str, Any]],
    row: Mapping[str, Any],
    _options: Mapping[str, Any],
) -> None:
    record = _recording(connection)
    if record is not None and record.audit.keys:
        record.selected = None
        plan = record.audit.statement_plan(statement)
        if plan is not None:
            record.selected = selected_keys(connection, cast("Dml", statement), plan, rows or ([row] if row else []))


def _after_execute(
    connection: Connection,
    statement: object,
    rows: list[Mapping[str, Any]],
    row: Mapping[str, Any],
    _options: Mapping[str, Any],
    result: CursorResult[Any],
) -> None:
    record = _recording(connection)
    plan = record.audit.statement_plan(statement) if record is not None else None
    if record is None or plan is None:
        return
    sent = rows or ([row] if row else [])
    try:
        change = BulkStatement.of(cast("Dml", statement), plan, sent, result, connection, selected=record.selected)
        record.add([change.redacted(record.audit.redactor)])
    except Exception as error:  # noqa: BLE001 - a construct that is not understood; its effect stays
        record.audit.count_lost("resource.bulk_changed", "not_understood")
        _log.error("a statement could not be recorded: %s", describe_error(error))


def _recording(connection: Connection) -> TransactionRecord | None:
    """Return the record that a statement belongs to; None if it is a flush's, which is recorded by object."""
    for record in reversed(_records.get(connection, ())):
        if not record.is_handed_over:
            return record if record.flush is None else None
    return None


def _before_engine_commit(connection: Connection) -> None:
    for record in _records.get(connection, ()):
        record.before_commit(connection)


def _before_prepare(connection: Connection, _transaction_id: object) -> None:
    for record in _records.get(connection, ()):
        record.before_commit(connection, is_prepared=True)


def _before_prepared_commit(connection: Connection, _transaction_id: object, _is_prepared: bool) -> None:
    for record in _records.get(connection, ()):
        record.before_commit(connection)


def _before_prepared_rollback(connection: Connection, _transaction_id: object, is_prepared: bool) -> None:
    for record in _records.get(connection, ()):
        if is_prepared:
            record.before_prepared_rollback()


def _before_engine_rollback(connection: Connection) -> None:
    for record in _handed_over(connection, pop=True):
        record.not_committed()


def _before_savepoint(connection: Connection, name: str | None) -> None:
    name = name or _next_savepoint(connection)
    for record in _records.get(connection, ()):
        record.set_mark(name)


def _next_savepoint(connection: Connection) -> str:
    """Return the name that the connection is about to give a savepoint, which its event does not say yet."""
    number: int = connection._Connection__savepoint_seq  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public has it
    return f"sa_savepoint_{number + 1}"


def _before_savepoint_release(connection: Connection, name: str, _context: None) -> None:
    for record in _records.get(connection, ()):
        record.forget_mark(name)


def _before_savepoint_rollback(connection: Connection, name: str, _context: None) -> None:
    for record in _records.get(connection, ()):
        record.roll_back_to(name)


def _after_error(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None:
        return
    error = context.original_exception
    is_answer = context.sqlalchemy_exception is not None and not context.is_disconnect
    for record in _records.get(connection, ()):
        record.commit_failed(error, is_answer=is_answer and _is_certain(error, connection.dialect.name))


def _after_engine_begin(connection: Connection) -> None:
    for record in _handed_over(connection, pop=True):
        record.settle()


def _after_checkin(_dbapi_connection: object, entry: ConnectionPoolEntry) -> None:
    for record in entry.info.pop(_KEY, ()):
        _forget(record)
        record.settle()


def _handed_over(connection: Connection, *, pop: bool = False) -> list[TransactionRecord]:
    records = [record for record in _records.get(connection, ()) if record.is_handed_over]
    if pop and records:
        connection.info.pop(_KEY, None)
        for record in records:
            _forget(record)
    return records


def _is_certain(error: BaseException, database: str) -> bool:
    """Return whether an error that was the answer to COMMIT says that nothing was committed.

    An answer of PostgreSQL always has a state (https://www.postgresql.org/docs/current/errcodes-appendix.html).
    """
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if not isinstance(state, str):
        return database != "postgresql"
    # 08: the connection failed. 57P: the server is shutting down. 40003: the server itself does not know.
    return state[:2] != "08" and state[:3] != "57P" and state != "40003"


def _is_autocommit(connection: Connection) -> bool:
    level = connection.get_execution_options().get("isolation_level")
    if level is None:  # it is the engine's
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    return level == "AUTOCOMMIT"
