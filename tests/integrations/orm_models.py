"""Mapped classes that the tests of SQLAlchemy share, and a log with sessions that record in it."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Column, Engine, ForeignKey, Table, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker

from audit_async import ActorInfo, AuditConfig, Local
from audit_async.integrations.sqlalchemy import SessionAudit, audit_session, marker_table
from audit_async.sync import SyncAuditLogger
from tests.trails import read_events

ALICE = ActorInfo(user_id="alice")


class Base(DeclarativeBase):
    """All mapped classes."""


class State(enum.Enum):
    """What a column may be."""

    OPEN = "o"
    PAID = "p"


item_tags = Table(
    "item_tags",
    Base.metadata,
    Column("item_id", ForeignKey("items.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


class Tag(Base):
    """What items have many of."""

    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Item(Base):
    """A row with every kind of column."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    name: Mapped[str]
    password: Mapped[str | None]
    state: Mapped[State] = mapped_column(default=State.OPEN)
    price: Mapped[Decimal | None]
    count: Mapped[int] = mapped_column(default=0)
    note: Mapped[str | None] = mapped_column(deferred=True)
    made: Mapped[str | None] = mapped_column(server_default=text("'by the server'"))
    touched: Mapped[str | None] = mapped_column(onupdate=lambda: secrets.token_hex(4))
    tags: Mapped[list[Tag]] = relationship(secondary=item_tags)


class Order(Base):
    """A versioned row, the parent of items."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    version: Mapped[int] = mapped_column(nullable=False)
    items: Mapped[list[Item]] = relationship(cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's


class Animal(Base):
    """The base of a hierarchy in joined tables and in one table."""

    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    collar: Mapped[str | None]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012 - SQLAlchemy's


class Dog(Animal):
    """In a table of its own, joined."""

    __tablename__ = "dogs"
    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
    barks: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012 - SQLAlchemy's


class Cat(Animal):
    """In its base's table."""

    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012 - SQLAlchemy's


class Unwatched(Base):
    """A class that is not registered in most tests."""

    __tablename__ = "unwatched"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


WATCHED = (Order, Item, Tag, Animal)
marker = marker_table(Base.metadata)


def sqlite_engine(path: Path | None = None) -> Engine:
    """Return an engine of SQLite whose transactions and savepoints are real ones, with all tables.

    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-transactions
    """
    engine = create_engine("sqlite://" if path is None else f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def no_implicit_transactions(connection: Any, _entry: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(engine)
    return engine


class AuditedSessions:
    """A factory of sessions, and what they have recorded."""

    def __init__(
        self, directory: Path, engine: Engine, log: SyncAuditLogger, sessions: Any, audit: SessionAudit
    ) -> None:
        self.directory = directory
        self.engine = engine
        self.log = log
        self.sessions = sessions
        self.audit = audit
        self._seen = 0

    def new(self) -> list[dict[str, Any]]:
        """Return the events that were recorded since the last call, without the actor."""
        self.log.flush(30)
        recorded = [
            record["event"]
            for record in read_events(self.directory)
            if not record["event"]["event_type"].startswith("audit.")
        ]
        found, self._seen = recorded[self._seen :], len(recorded)
        return [{name: value for name, value in one.items() if name != "actor"} for one in found]

    def types(self) -> list[str]:
        """Return the types of the new events."""
        return [one["event_type"] for one in self.new()]

    @classmethod
    @contextmanager
    def opened(cls, directory: Path, engine: Engine | None = None, **settings: Any) -> Iterator[Self]:
        """Open a log and a factory of sessions, and close them."""
        engine = engine or sqlite_engine()
        models = settings.pop("models", WATCHED)
        sessions = settings.pop("sessions", None) or sessionmaker(engine)
        config = settings.pop("config", None) or AuditConfig(mode=Local(directory), service_id="shop")
        with SyncAuditLogger(config) as log:
            audit = audit_session(sessions, models, audit=log, actor=ALICE, **settings)
            try:
                yield cls(directory, engine, log, sessions, audit)
            finally:
                audit.stop()
                engine.dispose()
