"""What one transaction changed, until it is known what became of it: the states between the first change and the end.

The order is the promise. `after`: COMMIT, then the records; a process that is killed between the two has committed
something that is not recorded. `intent`: the records of what is intended, durable; then COMMIT; then its outcome. A
process that is killed leaves an intent without an outcome, which `crash_resolution` resolves.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from weakref import WeakSet

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from audit_async.errors import AuditError, BufferFull, InvalidEvent, LogClosed, WriteFailed
from audit_async.events import (
    ActorInfo,
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
from audit_async.integrations._logger_source import AnyLogger
from audit_async.integrations.sqlalchemy.bulk_statements import BulkStatement
from audit_async.integrations.sqlalchemy.commit_barrier import IntentNotDurable, make_durable
from audit_async.integrations.sqlalchemy.crash_resolution import database_name, leave_marker, transaction_number
from audit_async.integrations.sqlalchemy.flush_changes import FlushedObject, ObjectChange
from audit_async.status import describe_error

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState

    from audit_async.integrations.sqlalchemy.session_audit import SessionAudit

__all__ = ["TransactionRecord"]

_log = logging.getLogger("audit_async")

#: After so many records at once the log is waited for: a fraction of what its buffer holds.
_BURST: Final = 500

_COMMITTED: Final[dict[Operation, type[ResourceCreated | ResourceUpdated | ResourceDeleted]]] = {
    "create": ResourceCreated,
    "update": ResourceUpdated,
    "delete": ResourceDeleted,
}


class _State(Enum):
    """OPEN -> COMMIT_SENT -> ENDED; with two phases PREPARED is between the first two; any may be followed by ENDED."""

    OPEN = "open"
    PREPARED = "prepared"
    COMMIT_SENT = "commit sent"
    ENDED = "ended"


class _Failure(NamedTuple):
    """Why a COMMIT did not succeed."""

    error: str  #: its class
    is_answer: bool  #: the server has said so, and the connection still works


class _Entry(NamedTuple):
    """One change, and who made it."""

    actor: ActorInfo
    change: ObjectChange | BulkStatement


class TransactionRecord:
    """The changes of one transaction of one session, in their order. Used by the session's thread, as that is."""

    def __init__(self, audit: SessionAudit) -> None:
        self.audit: Final = audit
        self.connections: Final[WeakSet[Connection]] = WeakSet()  # a session that nobody closes must not keep them
        #: The objects of a flush that is under way.
        self.flush: dict[InstanceState[object], FlushedObject] | None = None
        self.selected: list[str] | None = None  #: the keys of the rows of the statement that is being executed
        self.is_autocommit = False  #: each statement is committed by itself
        self.is_handed_over = False  #: the session has ended, and somebody else will commit
        self._entries: list[_Entry] = []
        self._marks: dict[str, int] = {}  #: how much had changed before each savepoint
        self._state = _State.OPEN
        self._is_rolled_back = False  #: with two phases: after PREPARE
        self._failure: _Failure | None = None
        self._transaction_id: str | None = None  #: of the intent that is recorded

    def __repr__(self) -> str:
        return f"<TransactionRecord {self._state.value} changes={len(self._entries)}>"

    @property
    def has_changes(self) -> bool:
        """Whether anything was changed."""
        return bool(self._entries)

    # What was changed.

    def end_flush(self) -> None:
        """Take what the flush did, now that it has succeeded."""
        flushed, self.flush = self.flush, None
        if flushed:
            found = [change for one in flushed.values() if (change := one.change()) is not None]
            if found:
                self.add(found)

    def add(self, changes: list[ObjectChange] | list[BulkStatement]) -> None:
        """Take changes that the database has accepted in this transaction."""
        actor = self.audit.actor()
        self._entries.extend(_Entry(actor, change) for change in changes)
        if self.is_autocommit:
            self._record_changes()

    def set_mark(self, savepoint: str) -> None:
        """Remember what was changed before a savepoint."""
        self._marks[savepoint] = len(self._entries)

    def forget_mark(self, savepoint: str) -> None:
        """Keep what was changed since the savepoint, which is released."""
        self._marks.pop(savepoint, None)

    def roll_back_to(self, savepoint: str) -> None:
        """Drop what was changed since the savepoint: everything, if it is older than this record."""
        del self._entries[self._marks.pop(savepoint, 0) :]

    # Its end.

    def before_commit(self, connection: Connection, *, is_prepared: bool = False) -> None:
        """Record the intent, if that is asked for, before COMMIT, or PREPARE, is sent on one of the connections.

        Raises:
            IntentNotDurable: The intent could not be made durable, and `on_failure` is `refuse`.
        """
        if self._state is _State.ENDED or not self._entries:
            return
        if self._state is _State.OPEN and self.audit.relation == "intent":
            self._intend(connection, is_prepared=is_prepared)
        if not is_prepared:
            self._state = _State.COMMIT_SENT
        elif self._state is _State.OPEN:
            self._state = _State.PREPARED

    def before_prepared_rollback(self) -> None:
        """Note that what is prepared is about to be rolled back."""
        self._is_rolled_back = self._state is _State.PREPARED

    def commit_failed(self, error: BaseException, *, is_answer: bool) -> None:
        """Remember why what was sent to end the transaction did not succeed; the first error is what counts."""
        if self._failure is not None:
            return
        if self._state is _State.COMMIT_SENT:
            # Of several databases another one may have committed.
            self._failure = _Failure(type(error).__name__, is_answer and len(self.connections) == 1)
        elif self._state is _State.PREPARED:
            # A transaction that could not be prepared is rolled back; one that could not be rolled back stays prepared.
            self._failure = _Failure(type(error).__name__, is_answer and not self._is_rolled_back)

    def committed(self) -> None:
        """Record what the transaction changed, which is committed."""
        if self._state is _State.ENDED:
            return
        self._state = _State.ENDED
        if self._transaction_id is not None:
            self._record_end("committed")
        else:
            self._record_changes()

    def not_committed(self) -> None:
        """Record what became of the transaction, which has ended without a COMMIT that succeeded."""
        state, self._state = self._state, _State.ENDED
        if state is _State.OPEN:
            self._entries.clear()
        elif state in {_State.PREPARED, _State.COMMIT_SENT}:
            failure = self._failure or _Failure("", is_answer=self._is_rolled_back)
            if failure.is_answer and self._transaction_id is None:
                self._entries.clear()
                return
            if self._transaction_id is None and not self._record_belated_intent():
                return
            self._record_end("rolled_back" if failure.is_answer else "unknown", failure.error or None)

    def settle(self) -> None:
        """Record the end of a transaction that somebody else has ended: committed if its COMMIT raised no error."""
        if self._state is _State.COMMIT_SENT and self._failure is None:
            self.committed()
        else:
            self.not_committed()

    def _intend(self, connection: Connection, *, is_prepared: bool) -> None:
        audit = self.audit.logger()
        number = transaction_number(connection)
        try:
            if audit is None:
                raise IntentNotDurable("there is no open audit log")
            self._record_intent(audit, connection, number)
            make_durable(audit, connection, self.audit.timeout_s)
        except (AuditError, OSError) as error:
            self._not_intended(connection, error, is_prepared=is_prepared)

    def _not_intended(self, connection: Connection, error: Exception, *, is_prepared: bool) -> None:
        """Roll back, or go on without an intent, as `on_failure` says."""
        is_complete = isinstance(error, IntentNotDurable) and self._transaction_id is not None
        if self.audit.on_failure == "record_loss":
            if not is_complete:  # what is complete becomes durable yet, unless the process dies before
                self._transaction_id = None
                self.audit.count_lost("transaction.intended", "not_recorded")
            _log.warning("a transaction is committed though its intent is not durable: %s", describe_error(error))
            return
        if not is_prepared:  # of what could not be prepared the session rolls everything back by itself
            connection.dialect.do_rollback(connection.connection)
        self._state = _State.ENDED
        if self._transaction_id is not None:  # some of it may be on the disk, or get there yet
            self._record_end("rolled_back", type(error).__name__)
        raise IntentNotDurable(
            f"the transaction was rolled back, since what it changes could not be recorded before: {error}"
        ) from error

    def _record_intent(self, audit: AnyLogger, connection: Connection | None, number: str | None) -> None:
        """Emit what is intended; without a connection, what was intended and may be committed."""
        transaction_id = secrets.token_hex(16)
        marker = self.audit.marker if connection is not None else None
        if connection is not None and marker is not None:
            leave_marker(connection, marker, transaction_id)
        self._transaction_id = transaction_id
        for number_so_far, entry in enumerate(self._entries, 1):
            audit.emit(_intended(entry, transaction_id))
            if number_so_far % _BURST == 0:
                self._make_room(audit)
        known = connection or next(iter(self.connections), None)
        audit.emit(
            TransactionIntended(
                actor=self._entries[-1].actor,
                transaction_id=transaction_id,
                changes=len(self._entries),
                database=database_name(known.engine) if known is not None else None,
                xid=number,
                marker=marker.name if marker is not None else None,
            )
        )

    def _record_belated_intent(self) -> bool:
        """Record the changes that may be in the database, of which nothing is recorded yet; False if that fails."""
        audit = self.audit.logger()
        try:
            if audit is not None:
                self._record_intent(audit, None, None)
                return True
            reason = "no_open_log"
        except AuditError as error:
            reason = "not_recorded"
            _log.error("a transaction whose COMMIT had no answer could not be recorded: %s", describe_error(error))
        self.audit.count_lost("transaction.intended", reason)
        return False

    def _record_end(self, outcome: Literal["committed", "rolled_back", "unknown"], reason: str | None = None) -> None:
        assert self._transaction_id is not None  # noqa: S101 - there is an intent
        actor = self._entries[-1].actor
        self._entries.clear()
        self._emit(TransactionEnded(actor=actor, transaction_id=self._transaction_id, outcome=outcome, reason=reason))

    def _record_changes(self) -> None:
        entries, self._entries = self._entries, []
        if entries and self.audit.logger() is None:
            _log.error("%d changes of the database are not recorded: there is no open audit log", len(entries))
            return
        for number_so_far, entry in enumerate(entries, 1):
            self._emit(_committed(entry))
            if number_so_far % _BURST == 0:
                self._make_room(self.audit.logger())

    def _make_room(self, audit: AnyLogger | None) -> None:
        """Wait for the log to write, so that a large transaction does not fill its buffer; go on if that can't be."""
        connection = next(iter(self.connections), None)
        if audit is not None and connection is not None:
            with suppress(AuditError, OSError, SQLAlchemyError):
                make_durable(audit, connection, self.audit.timeout_s)

    def _emit(self, event: AuditEvent) -> None:
        """Emit what is true already: whatever prevents it is counted as a loss and logged, and not raised."""
        audit = self.audit.logger()
        if audit is None:
            self.audit.count_lost(event.event_type, "no_open_log")
            return
        try:
            audit.emit(event)
        except BufferFull:
            return  # the log has counted it
        except InvalidEvent as error:
            self.audit.count_lost(event.event_type, "invalid_event")
            _log.error("a change of the database could not be recorded: %s", describe_error(error))
        except (LogClosed, WriteFailed) as error:
            self.audit.count_lost(event.event_type, "log_closed")
            _log.error("a change of the database could not be recorded: %s", describe_error(error))


def _committed(entry: _Entry) -> AuditEvent:
    change = entry.change
    if isinstance(change, ObjectChange):
        event = _COMMITTED[change.operation]
        return event(actor=entry.actor, resource=change.resource, changes=change.changes or None)
    return BulkChanged(actor=entry.actor, **change._asdict())


def _intended(entry: _Entry, transaction_id: str) -> AuditEvent:
    change = entry.change
    if isinstance(change, ObjectChange):
        return ResourceChangeIntended(
            actor=entry.actor,
            transaction_id=transaction_id,
            operation=change.operation,
            resource=change.resource,
            changes=change.changes or None,
        )
    return BulkChangeIntended(actor=entry.actor, transaction_id=transaction_id, **change._asdict())
