"""What the flushes of a session change is recorded, before and after, as far as it is known."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from audit_async import ActorInfo
from audit_async.ambient import acting_as, use_audit
from audit_async.errors import ConfigError
from audit_async.events import Change, ResourceInfo, ResourceUpdated
from audit_async.integrations.sqlalchemy import audit_session, transaction_events
from audit_async.integrations.sqlalchemy.flush_changes import plain_value
from audit_async.sync import SyncAuditLogger
from tests.integrations.orm_models import (
    ALICE,
    WATCHED,
    AuditedSessions,
    Base,
    Cat,
    Dog,
    Item,
    Order,
    State,
    Tag,
    Unwatched,
    item_tags,
    sqlite_engine,
)
from tests.logs import ConfigFor, log_directory
from tests.trails import read_events


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[AuditedSessions]:
    """Sessions on an empty database that record after COMMIT."""
    with AuditedSessions.opened(tmp_path) as opened:
        yield opened


def changed(event: dict[str, Any]) -> dict[str, Any]:
    """Return the changes of an event, each as the pair of values; `...` for one that is left out."""
    return {
        name: (change.get("before", ...), change.get("after", ...)) for name, change in event.get("changes", {}).items()
    }


def test_a_new_object_is_recorded_with_its_values(shop: AuditedSessions) -> None:
    """All that is not NULL, also the key and what the server has set if the database returns it."""
    with shop.sessions.begin() as session:
        session.add(Item(name="cup", price=Decimal("2.50")))
        session.add(Unwatched(name="x"))
    (created,) = shop.new()
    assert created["event_type"] == "resource.created"
    assert created["resource"] == {"resource_type": "Item", "resource_id": "1"}
    assert changed(created) == {
        "id": (None, 1),
        "name": (None, "cup"),
        "price": (None, "2.50"),
        "state": (None, "OPEN"),
        "count": (None, 0),
        "made": (None, "by the server"),
    }


def test_a_changed_object_is_recorded_before_and_after(shop: AuditedSessions) -> None:
    """Only what has another value now, with what the mapper computes itself; no net change is no record."""
    with shop.sessions.begin() as session:
        session.add(Item(name="cup"))
    shop.new()
    with shop.sessions.begin() as session:
        item = session.get_one(Item, 1)
        item.name, item.state, item.price = "mug", State.PAID, item.price
    (updated,) = shop.new()
    assert updated["event_type"] == "resource.updated"
    touched = changed(updated).pop("touched")
    assert touched[0] is None
    assert len(touched[1]) == 8
    assert changed(updated) == {"name": ("cup", "mug"), "state": ("OPEN", "PAID"), "touched": touched}
    with shop.sessions.begin() as session:
        session.get_one(Item, 1).name = "mug"
    assert shop.new() == []


def test_an_old_value_that_is_not_loaded_is_left_out(shop: AuditedSessions) -> None:
    """An expired or deferred attribute is not loaded for the record, and nothing is guessed."""
    with shop.sessions() as session:
        session.add(Item(name="cup", note="n"))
        session.commit()
        shop.new()
        item = session.get_one(Item, 1)
        item.note = "m"  # deferred
        session.commit()  # which expires everything
        item.name = "mug"
        session.commit()
    noted, renamed = shop.new()
    assert changed(noted)["note"] == (..., "m")
    assert changed(renamed)["name"] == (..., "mug")


def test_a_value_that_the_database_computes_is_left_out(shop: AuditedSessions) -> None:
    """Of a SQL expression the old value is recorded, and the new one is not known."""
    with shop.sessions.begin() as session:
        session.add(Item(name="cup", count=3))
    shop.new()
    with shop.sessions.begin() as session:
        item = session.get_one(Item, 1)
        item.count = Item.count + 1
    (updated,) = shop.new()
    assert changed(updated)["count"] == (3, ...)


def test_a_deleted_object_is_recorded_with_its_last_values(shop: AuditedSessions) -> None:
    """As the database had them: what was set and never flushed was never there."""
    with shop.sessions.begin() as session:
        session.add(Item(name="cup"))
    shop.new()
    with shop.sessions.begin() as session:
        item = session.get_one(Item, 1)
        item.name = "never written"
        session.delete(item)
    (deleted,) = shop.new()
    assert deleted["event_type"] == "resource.deleted"
    assert changed(deleted)["name"] == ("cup", None)


def test_foreign_keys_orphans_and_versions_are_recorded(shop: AuditedSessions) -> None:
    """A child's key that only the flush sets, a child that is deleted because it lost its parent, a version number."""
    with shop.sessions.begin() as session:
        session.add(Order(customer="c", items=[Item(name="a"), Item(name="b")]))
    created = shop.new()
    assert [changed(one).get("order_id") for one in created] == [None, (None, 1), (None, 1)]
    with shop.sessions.begin() as session:
        order = session.get_one(Order, 1)
        order.customer = "d"
        del order.items[0]
    updated, orphan = shop.new()
    assert changed(updated) == {"customer": ("c", "d"), "version": (1, 2)}
    assert orphan["event_type"] == "resource.deleted"
    assert changed(orphan)["order_id"] == (1, None)


def test_links_of_a_many_to_many_relationship_are_recorded(shop: AuditedSessions) -> None:
    """By the keys of the objects that were added and removed, also if the collection is not loaded."""
    with shop.sessions.begin() as session:
        session.add(Item(name="cup", tags=[Tag(name="x"), Tag(name="y")]))
    assert changed(shop.new()[0])["tags.added"] == (..., ["1", "2"])
    with shop.sessions.begin() as session:
        item = session.get_one(Item, 1)
        item.tags.append(Tag(name="z"))
        item.tags.remove(session.get_one(Tag, 1))
    assert changed(shop.new()[0]) == {"tags.added": (..., ["3"]), "tags.removed": (["1"], ...)}
    with shop.sessions.begin() as session:
        session.delete(session.get_one(Item, 1))
    assert changed(shop.new()[0])["tags.removed"][0] == ["2", "3"]


def test_subclasses_are_recorded_under_their_own_names(shop: AuditedSessions) -> None:
    """In a joined table or in the base's, with the members of both."""
    with shop.sessions.begin() as session:
        session.add_all([Dog(name="rex", barks=3), Cat(name="tom")])
    dog, cat = shop.new()
    assert (dog["resource"]["resource_type"], cat["resource"]["resource_type"]) == ("Dog", "Cat")
    assert changed(dog) == {"id": (None, 1), "kind": (None, "dog"), "name": (None, "rex"), "barks": (None, 3)}
    with shop.sessions.begin() as session:
        session.get_one(Dog, 1).barks = 4
    assert changed(shop.new()[0]) == {"barks": (3, 4)}


def test_secrets_and_excluded_attributes_are_not_recorded(tmp_path: Path) -> None:
    """A password is redacted by its name; what is excluded is left out, in statements as well."""
    with AuditedSessions.opened(tmp_path, exclude={Item: ["note"]}) as shop:
        with shop.sessions.begin() as session:
            session.add(Item(name="cup", password="hunter2hunter2", note="private"))
            session.flush()
            session.execute(update(Item).where(Item.note == "private").values(note="other private", name="mug"))
        created, statement = shop.new()
    assert "hunter2" not in str(created)
    assert "private" not in str(created) + str(statement)
    assert statement["values"]["name"] == "mug"


def test_each_flush_is_recorded_in_its_order(shop: AuditedSessions) -> None:
    """Two flushes of one object are two records, and a statement between them comes between them."""
    with shop.sessions.begin() as session:
        item = Item(name="a")
        session.add(item)
        session.flush()
        session.execute(update(Item).values(count=7))
        item.name = "b"
    assert shop.types() == ["resource.created", "resource.bulk_changed", "resource.updated"]


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (2**63, str(2**63)),
        (-(2**70), str(-(2**70))),
        (7, 7),
        (float("nan"), "nan"),
        (Decimal("NaN"), "NaN"),
        (b"secret bytes", "<12 bytes>"),
        (datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),  # noqa: DTZ001 - as a column without a time zone has it
        (timedelta(minutes=1), 60.0),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (State.PAID, "PAID"),
        ({"a": [1, {2: b""}]}, {"a": [1, {"2": "<0 bytes>"}]}),
        (object(), "<builtins.object>"),
    ],
)
def test_a_value_of_any_type_is_recorded_or_described(value: object, recorded: object, config_for: ConfigFor) -> None:
    """What JSON has no place for is described, so that no value stops a transaction or loses its record."""
    config = config_for()
    with SyncAuditLogger(config) as log:
        change = Change(before=None, after=plain_value(value))
        resource = ResourceInfo(resource_type="T", resource_id="1")
        log.emit(ResourceUpdated(actor=ALICE, resource=resource, changes={"a": change}))
    (event,) = [one["event"] for one in read_events(log_directory(config)) if "changes" in one["event"]]
    assert event["changes"]["a"]["after"] == recorded


# What is not committed.


def test_nothing_of_a_rolled_back_transaction_is_recorded(shop: AuditedSessions) -> None:
    """Whether it is rolled back, closed, or ended by an error of the flush or of the application."""
    with shop.sessions() as session:
        session.add(Item(name="a"))
        session.flush()
        session.rollback()
        session.add(Item(name="b"))
        session.flush()
    with pytest.raises(IntegrityError), shop.sessions.begin() as session:
        session.add(Item(name="c"))
        session.flush()
        session.add(Item(id=1, name="d"))
        session.flush()
    with pytest.raises(ZeroDivisionError), shop.sessions.begin() as session:
        session.add(Item(name="e"))
        session.flush()
        raise ZeroDivisionError
    assert shop.new() == []


def test_a_rolled_back_savepoint_takes_its_own_changes_with_it(shop: AuditedSessions) -> None:
    """Also nested ones, one that is the first thing in its transaction, and one that a failed flush ends."""
    with shop.sessions.begin() as session:
        with session.begin_nested() as first:
            session.add(Item(name="gone"))
            session.flush()
            first.rollback()
        session.add(Item(id=10, name="kept"))
        session.flush()
        with session.begin_nested():
            session.add(Item(name="kept, too"))
            session.flush()
            with session.begin_nested() as inner:
                session.add(Item(name="gone"))
                session.flush()
                inner.rollback()
        with pytest.raises(IntegrityError), session.begin_nested():
            session.add(Item(id=10, name="gone"))
            session.flush()
        session.execute(update(Item).values(count=1))
    recorded = shop.new()
    assert [changed(one)["name"][1] for one in recorded[:-1]] == ["kept", "kept, too"]
    assert recorded[-1]["event_type"] == "resource.bulk_changed"


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_session_in_a_transaction_of_somebody_else_waits_for_that(tmp_path: Path, *, is_committed: bool) -> None:
    """The session's own commit commits nothing then; what counts is what the owner of the connection does."""
    with AuditedSessions.opened(tmp_path) as shop:
        with shop.engine.connect() as connection:
            outer = connection.begin()
            with shop.sessions(bind=connection) as session:
                session.add(Item(name="a"))
                session.commit()
                savepoint = connection.begin_nested()
                session.add(Item(name="b"))
                session.commit()
                savepoint.rollback()
            assert shop.new() == []
            (outer.commit if is_committed else outer.rollback)()
        recorded = shop.new()
    assert [changed(one)["name"][1] for one in recorded] == (["a"] if is_committed else [])


def test_in_autocommit_each_flush_is_recorded_at_once(tmp_path: Path) -> None:
    """A rollback takes nothing back there, so nothing is dropped for it."""
    engine = create_engine(f"sqlite:///{tmp_path}/db", isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(engine)
    with AuditedSessions.opened(tmp_path / "log", engine) as shop:
        with shop.sessions() as session:
            session.add(Item(name="a"))
            session.flush()
            session.rollback()
        assert shop.types() == ["resource.created"]
        with shop.sessions() as session:
            assert session.get_one(Item, 1).name == "a"
        shop.audit.stop()
        with pytest.raises(ConfigError, match="AUTOCOMMIT"):
            audit_session(shop.sessions, [Item], audit=shop.log, relation="intent")
            with shop.sessions() as session:
                session.get(Item, 1)


# Whose, where, and mistakes.


def test_the_actor_and_the_log_are_those_of_the_moment(tmp_path: Path) -> None:
    """Two lines: by default the log of `use_audit` and the actor of `acting_as`; `unknown` if nobody is known."""
    with AuditedSessions.opened(tmp_path) as shop:
        shop.audit.stop()
        audit = audit_session(shop.sessions, [Base])
        try:
            with use_audit(shop.log), shop.sessions.begin() as session:
                with acting_as(ActorInfo(user_id="bob")):
                    session.add(Item(name="a"))
                    session.flush()
                session.add(Item(name="b"))
            shop.log.flush(30)
        finally:
            audit.stop()
        recorded = [one["event"] for one in read_events(tmp_path) if one["event"]["event_type"] == "resource.created"]
    assert [one["actor"]["user_id"] for one in recorded] == ["bob", "unknown"]


def test_a_failing_actor_or_a_missing_log_does_not_stop_the_application(tmp_path: Path) -> None:
    """The change is committed; the actor is recorded as unknown; without a log an error is logged."""
    with AuditedSessions.opened(tmp_path) as shop:
        shop.audit.stop()
        audit = audit_session(shop.sessions, [Item], audit=shop.log, actor=lambda: ActorInfo(user_id=1 / 0))  # type: ignore[arg-type]
        with shop.sessions.begin() as session:
            session.add(Item(name="a"))
        assert shop.types() == ["resource.created"]
        audit.stop()
        audit = audit_session(shop.sessions, [Item], audit=lambda: None)
        with shop.sessions.begin() as session:
            session.add(Item(name="b"))
        audit.stop()
        assert shop.new() == []


def test_all_kinds_of_factories_can_be_given(tmp_path: Path) -> None:
    """A sessionmaker, a class of sessions, and a scoped session."""
    engine = sqlite_engine()

    class Own(Session):
        """A class of sessions."""

    with AuditedSessions.opened(tmp_path, engine) as shop:
        for factory in (sessionmaker(engine, class_=Own), Own, scoped_session(sessionmaker(engine))):
            audit = audit_session(factory, [Item], audit=shop.log)
            session: Any = factory(bind=engine) if factory is Own else factory()
            session.add(Item(name="a"))
            session.commit()
            session.close()
            assert shop.types() == ["resource.created"]
            audit.stop()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"models": []}, "models"),
        ({"models": [int]}, "no mapped class"),
        ({"models": ["Item"]}, "neither a class nor a table"),
        ({"audit": "log"}, "audit"),
        ({"relation": "before"}, "relation"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"marker": item_tags}, "marker"),
        ({"target": 3}, "target"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(settings: dict[str, Any], says: str) -> None:
    """The error names the argument, and nothing is listened to."""
    given: dict[str, Any] = {"target": sessionmaker(), "models": WATCHED, **settings}
    with pytest.raises(ConfigError, match=says):
        audit_session(given.pop("target"), given.pop("models"), **given)


def test_sessions_are_audited_once(shop: AuditedSessions) -> None:
    """A second registration, also of a base class, would record everything twice."""
    with pytest.raises(ConfigError, match="already"):
        audit_session(shop.sessions, [Item], audit=shop.log)
    with pytest.raises(ConfigError, match="already"):
        audit_session(Session, [Item], audit=shop.log)
    assert "Order, Item, Tag, Animal" in repr(shop.audit)


def test_a_session_that_nobody_closes_keeps_no_connection(tmp_path: Path) -> None:
    """It gives its connection back when it is collected, as without this library, and nothing is kept of it."""
    with AuditedSessions.opened(tmp_path, sqlite_engine(tmp_path / "db")) as shop:
        session = shop.sessions()
        session.add(Item(name="a"))
        session.flush()
        del session
        gc.collect()
        assert shop.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        assert not transaction_events._records
        assert shop.new() == []


def test_a_change_that_no_log_takes_is_counted_and_breaks_nothing(
    shop: AuditedSessions, caplog: pytest.LogCaptureFixture
) -> None:
    """It is committed already, so the loss is logged, and in the counters of the log that was closed."""
    shop.log.close()
    with shop.sessions.begin() as session:
        session.add(Item(name="cup"))
    assert shop.log.stats().dropped_by_type == {"resource.created": 1}
    assert "could not be recorded: LogClosed" in caplog.text
    with shop.sessions() as session:
        assert session.get(Item, 1) is not None


def test_changes_without_any_log_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """As in a process that opens no log: how many, and why."""
    engine = sqlite_engine()
    sessions = sessionmaker(engine)
    audit = audit_session(sessions, WATCHED, actor=ALICE)
    try:
        with sessions.begin() as session:
            session.add_all([Item(name="cup"), Item(name="pot")])
    finally:
        audit.stop()
        engine.dispose()
    assert "2 changes of the database are not recorded: there is no open audit log" in caplog.text
