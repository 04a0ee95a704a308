"""`audit_session`: the sessions of a session factory record what they change; of which classes, and how, is here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Table, event, inspect
from sqlalchemy.orm import Mapper, Session, scoped_session, sessionmaker

from audit_async._redact.redactor import Redactor
from audit_async.ambient import current_actor, get_audit
from audit_async.config import Redaction
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo
from audit_async.integrations._logger_source import AnyLogger, LoggerSource, check_source, logger_from
from audit_async.integrations.sqlalchemy.bulk_statements import StatementPlan, statement_table
from audit_async.integrations.sqlalchemy.crash_resolution import check_marker
from audit_async.integrations.sqlalchemy.flush_changes import MapperPlan
from audit_async.integrations.sqlalchemy.transaction_events import listen_to_mapper, listen_to_sessions
from audit_async.status import describe_error

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

    from audit_async.ambient.ambient_actor import ActorSource

    #: What makes sessions.
    SessionTarget = (
        type[Session | AsyncSession]
        | sessionmaker[Any]
        | async_sessionmaker[Any]
        | scoped_session[Any]
        | async_scoped_session[Any]
    )

__all__ = ["SessionAudit", "audit_session"]

_log = logging.getLogger("audit_async")

#: Who did it, if nobody says who.
_UNKNOWN: Final = ActorInfo(user_id="unknown")


def audit_session(
    target: SessionTarget,
    models: Iterable[type[Any] | Table],
    *,
    audit: LoggerSource = get_audit,
    actor: ActorSource = current_actor,
    exclude: Mapping[type[Any], Collection[str]] | None = None,
    keys: bool = False,
    relation: Literal["after", "intent"] = "after",
    on_failure: Literal["refuse", "record_loss"] = "refuse",
    timeout_s: float = 10.0,
    marker: Table | None = None,
) -> SessionAudit:
    """Record what the sessions of a session factory change.

    From now on each object of `models` that a flush creates, changes or deletes is a `resource.created`, `.updated` or
    `.deleted` with the values before and after, and each other INSERT, UPDATE or DELETE of SQLAlchemy's on their
    tables a `resource.bulk_changed`. Of SQL that is given as text nothing is seen. Nothing that is rolled back is
    recorded as committed. May be called from any thread, before the sessions are used.

    Args:
        target: A `sessionmaker`, `async_sessionmaker`, `scoped_session`, or a class of sessions.
        models: Mapped classes, whose subclasses are included, a declarative base for all its classes, and tables that
            no class is mapped to, such as those of many-to-many relationships.
        audit: The log, or a function that returns it; by default the one of `set_audit` or of the request.
        actor: Who makes the changes, or a function that returns it, which is asked at each flush; by default the actor
            of the request, or of `acting_as`. If nobody is known, the `user_id` is `unknown`.
        exclude: Attributes that are never recorded, by class: secrets, and what is large.
        keys: Before each UPDATE and DELETE statement, select and lock the primary keys of its rows, up to 1,000,
            for the record: a query more for each such statement.
        relation: `after`: changes are recorded after COMMIT, and a process that is killed between the two loses them.
            `intent`: they are recorded, durably, before COMMIT (`transaction.intended`), and its outcome after it
            (`transaction.ended`).
        on_failure: With `intent`, if it can't be made durable: `refuse` rolls the transaction back and raises
            `IntentNotDurable`; `record_loss` commits all the same, and the log counts the loss.
        timeout_s: With `intent`, how many seconds a COMMIT waits for it.
        marker: With `intent`, the table of `marker_table`, if what a crash leaves open is to be resolved in another
            database than PostgreSQL; see `resolve_unfinished`.

    Returns:
        What `stop()` ends it with.

    Raises:
        ConfigError: An argument is wrong, or the sessions record their changes already.
    """
    settings = SessionAudit(
        models,
        audit=audit,
        actor=actor,
        exclude=exclude or {},
        keys=keys,
        relation=relation,
        on_failure=on_failure,
        timeout_s=timeout_s,
        marker=check_marker(marker),
    )
    settings.listen(_sync_target(target))
    return settings


class SessionAudit:
    """What is recorded of the sessions of one factory, and how; `audit_session` makes one."""

    def __init__(
        self,
        models: Iterable[type[Any] | Table],
        *,
        audit: LoggerSource,
        actor: ActorSource,
        exclude: Mapping[type[Any], Collection[str]],
        keys: bool,
        relation: Literal["after", "intent"],
        on_failure: Literal["refuse", "record_loss"],
        timeout_s: float,
        marker: Table | None,
    ) -> None:
        given = (models,) if isinstance(models, type | Table) else tuple(models)
        self._models: Final = tuple(_checked_model(model) for model in given if isinstance(model, type))
        self._tables: Final = tuple(_checked_table(table) for table in given if not isinstance(table, type))
        if not given:
            raise ConfigError("models", "is empty; give the mapped classes whose changes are to be recorded")
        for name, value, choices in (
            ("relation", relation, ("after", "intent")),
            ("on_failure", on_failure, ("refuse", "record_loss")),
        ):
            if value not in choices:
                raise ConfigError(name, f"give {choices[0]!r} or {choices[1]!r}")
        if not timeout_s > 0:
            raise ConfigError("timeout_s", "must be more than 0 seconds")
        self._audit: Final = check_source(audit)
        self._actor: Final = actor
        self._exclude: Final = {cls: frozenset(names) for cls, names in exclude.items()}
        self.keys: Final = keys
        self.relation: Final = relation
        self.on_failure: Final = on_failure
        self.timeout_s: Final = timeout_s
        self.marker: Final = marker
        self._plans: Final[WeakKeyDictionary[Mapper[Any], MapperPlan | None]] = WeakKeyDictionary()
        self._statement_plans: Final[dict[tuple[Table, Any], StatementPlan | None]] = {}
        self._redactor = Redactor()
        self._redaction: Redaction | None = None  # what it was made of, None for the default
        self._target: Any = None
        self._listeners: tuple[tuple[str, Callable[..., None]], ...] = ()

    def __repr__(self) -> str:
        names = [model.__name__ for model in self._models] + [table.name for table in self._tables]
        return f"<SessionAudit {self.relation} of {', '.join(names)}{'' if self._target else ' stopped'}>"

    def listen(self, target: Any) -> None:  # noqa: ANN401 - what SQLAlchemy's events take
        """Begin to record what the sessions of `target` change."""
        if any(_overlap(target, other) for other in _audited):
            raise ConfigError("target", "its sessions record their changes already; call audit_session once")
        self._listeners = listen_to_sessions(target, self)
        for model in self._models:
            listen_to_mapper(model)
        self._target = target
        _audited.add(_class_of(target))

    def stop(self) -> None:
        """Record nothing any more of sessions that begin now; may be called again."""
        if self._target is not None:
            for name, listener in self._listeners:
                event.remove(self._target, name, listener)
            _audited.discard(_class_of(self._target))
            self._target = None

    # What a transaction asks.

    def logger(self) -> AnyLogger | None:
        """Return the log of the moment, None if there is none."""
        try:
            return logger_from(self._audit)
        except ConfigError:  # `get_audit` has none
            return None

    @property
    def redactor(self) -> Redactor:
        """What takes secrets out of texts, as the log is configured; the log itself does it in mappings only."""
        audit = self.logger()
        redaction = audit.config.redaction if audit is not None else None
        if redaction is not self._redaction:
            self._redactor, self._redaction = Redactor(redaction), redaction
        return self._redactor

    def actor(self) -> ActorInfo:
        """Return who makes the changes."""
        source = self._actor
        try:
            actor = source if isinstance(source, ActorInfo) else source()
        except Exception as error:  # noqa: BLE001 - whatever the application raises; its transaction goes on
            _log.error("the actor of a change of the database is not known: %s", describe_error(error))
            actor = None
        return _UNKNOWN if actor is None else actor

    def count_lost(self, event_type: str, reason: str) -> None:
        """Let the log count what could not be recorded."""
        audit = self.logger()
        if audit is None:
            _log.error("a change of the database is not recorded (%s): there is no open audit log", event_type)
        else:
            audit.count_lost(event_type, reason)

    def plan(self, mapper: Mapper[Any]) -> MapperPlan | None:
        """Return what is recorded of a class's objects; None if nothing is."""
        try:
            return self._plans[mapper]
        except KeyError:
            is_wanted = issubclass(mapper.class_, self._models)
            plan = self._plans[mapper] = MapperPlan(mapper, self._excluded(mapper.class_)) if is_wanted else None
            return plan

    def statement_plan(self, statement: Any) -> StatementPlan | None:  # noqa: ANN401 - whatever is executed
        """Return what is recorded of a statement; None if nothing is."""
        table = statement_table(statement)
        if table is None:
            return None
        entity = statement.entity_description.get("entity")
        try:
            return self._statement_plans[table, entity]
        except KeyError:
            plan = self._statement_plans[table, entity] = self._plan_of_table(table, entity)
            return plan

    def _plan_of_table(self, table: Table, entity: type[Any] | None) -> StatementPlan | None:
        mapper: Mapper[Any] | None = inspect(entity, raiseerr=False) if entity is not None else None
        if mapper is None:
            mapper = next((one for one in self._mappers() if one.local_table is table and not one.single), None)
        keys = tuple(column.key for column in table.primary_key)
        if mapper is None or not issubclass(mapper.class_, self._models):
            if table not in self._tables:
                return None
            return StatementPlan(table.name, {column.key: column.key for column in table.c}, frozenset(), keys)
        excluded = self._excluded(mapper.class_)
        names = {
            column.key: attribute.key for attribute in mapper.column_attrs for column in attribute.columns
            if isinstance(getattr(column, "table", None), Table)
        }  # fmt: skip
        recorded = {key: name for key, name in names.items() if name not in excluded}
        return StatementPlan(mapper.class_.__name__, recorded, frozenset(names.keys() - recorded.keys()), keys)

    def _mappers(self) -> Iterator[Mapper[Any]]:
        waiting: list[type[Any]] = list(self._models)
        while waiting:
            cls = waiting.pop()
            waiting.extend(cls.__subclasses__())
            mapper = inspect(cls, raiseerr=False)
            if isinstance(mapper, Mapper):
                yield mapper

    def _excluded(self, cls: type[Any]) -> frozenset[str]:
        return frozenset().union(*(names for model, names in self._exclude.items() if issubclass(cls, model)))


_audited: Final[WeakSet[type[Session]]] = WeakSet()


def _sync_target(target: object) -> Any:  # noqa: ANN401 - what SQLAlchemy's events take
    """Return what events are listened for at; asynchronous sessions have a class of their own for that from now on."""
    own: type[Session]
    extension = sys.modules.get("sqlalchemy.ext.asyncio")  # not imported for this: it needs greenlet
    if extension is not None:
        if isinstance(target, extension.async_scoped_session):
            target = target.session_factory
        if isinstance(target, extension.async_sessionmaker):
            cls = target.kw.get("sync_session_class") or target.class_.sync_session_class
            own = type(cls.__name__, (cls,), {})
            target.configure(sync_session_class=own)
            return own
        if isinstance(target, type) and issubclass(target, extension.AsyncSession):
            asynchronous: Any = target
            if asynchronous is extension.AsyncSession:
                raise ConfigError("target", "is the class of all asynchronous sessions; give your async_sessionmaker")
            cls = asynchronous.sync_session_class
            own = asynchronous.sync_session_class = type(cls.__name__, (cls,), {})
            return own
    if isinstance(target, sessionmaker | scoped_session) or (isinstance(target, type) and issubclass(target, Session)):
        return target
    raise ConfigError("target", f"must be what makes sessions, such as a sessionmaker, not a {type(target).__name__}")


def _class_of(target: Any) -> type[Session]:  # noqa: ANN401 - what SQLAlchemy's events take
    if isinstance(target, scoped_session):
        target = target.session_factory
    cls: type[Session] = target.class_ if isinstance(target, sessionmaker) else target
    return cls


def _overlap(target: Any, other: type[Session]) -> bool:  # noqa: ANN401 - what SQLAlchemy's events take
    cls = _class_of(target)
    return issubclass(cls, other) or issubclass(other, cls)


def _checked_model(model: type[Any]) -> type[Any]:
    if model is object or (not hasattr(model, "metadata") and inspect(model, raiseerr=False) is None):
        raise ConfigError("models", f"has {model.__name__}, which is no mapped class and no declarative base")
    return model


def _checked_table(table: object) -> Table:
    if not isinstance(table, Table):
        raise ConfigError("models", f"has a {type(table).__name__}, which is neither a class nor a table")
    return table
