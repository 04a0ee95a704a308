"""Statements that the unit of work does not know of are recorded as what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from audit_async.integrations.sqlalchemy import bulk_statements
from tests.integrations.orm_models import AuditedSessions, Base, Dog, Item, Tag, Unwatched, item_tags


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[AuditedSessions]:
    """Sessions on a database with three items."""
    with AuditedSessions.opened(tmp_path) as opened:
        with opened.sessions.begin() as session:
            session.add_all([Item(name=name, count=1) for name in ("a", "b", "c")])
        opened.new()
        yield opened


def test_an_update_is_recorded_with_criteria_values_and_rows(shop: AuditedSessions) -> None:
    """The criteria as text with names, their values by these names, what was set, and how many rows."""
    with shop.sessions.begin() as session:
        session.execute(
            update(Item).where(Item.name.in_(["a", "b"]), Item.count > 0).values(count=Item.count + 1, made="now")
        )
    (event,) = shop.new()
    touched = event["values"].pop("touched")
    assert len(touched) == 8
    assert event == {
        "event_type": "resource.bulk_changed",
        "resource_type": "Item",
        "operation": "update",
        "criteria": "items.name IN :name_1 AND items.count > :count_1",
        "parameters": {"name_1": ["a", "b"], "count_1": 0},
        "values": {"made": "now"},
        "rows": 2,
    }


def test_keys_are_recorded_if_that_is_asked_for(tmp_path: Path) -> None:
    """Those that the criteria select just before; none if the statement has changed another number of rows."""
    with AuditedSessions.opened(tmp_path, keys=True, models=[Item]) as shop:
        with shop.sessions.begin() as session:
            session.add_all([Item(name=name) for name in ("a", "b", "c")])
        shop.new()
        with shop.sessions.begin() as session:
            session.execute(update(Item).where(Item.name == bindparam("given")), {"given": "b", "count": 5})
            session.execute(delete(Item).where(Item.name.in_(["a", "c"])))
            session.execute(insert(Item), [{"name": str(number)} for number in range(1001)])
            session.execute(update(Item).values(count=2))
        events = shop.new()
        assert [one.get("resource_ids") for one in events] == [["2"], ["1", "3"], None, None]
        assert [one["rows"] for one in events] == [1, 2, 1001, 1002]


def test_a_delete_is_recorded_with_criteria_and_rows(shop: AuditedSessions) -> None:
    """In any of its forms: a statement, a legacy query, one without criteria."""
    with shop.sessions.begin() as session:
        session.execute(delete(Item).where(Item.name == bindparam("given")), {"given": "a"})
        session.query(Item).filter(Item.name == "b").delete()
        session.execute(delete(Item))
    events = shop.new()
    assert [(one["operation"], one["rows"]) for one in events] == [("delete", 1)] * 3
    assert events[0]["parameters"] == {"given": "a"}
    assert "criteria" not in events[2]


def test_inserts_are_recorded_with_their_number_and_keys(shop: AuditedSessions) -> None:
    """Many rows as one statement; keys if they were given, or if the database returns the one."""
    with shop.sessions.begin() as session:
        session.execute(insert(Item), [{"name": "d"}, {"name": "e"}])
        session.execute(insert(Item), [{"id": 70, "name": "f"}, {"id": 71, "name": "g"}])
        session.execute(insert(Item).values(name="h"))
        session.execute(insert(Tag).from_select(["name"], select(Item.name)))
        session.scalars(insert(Item).returning(Item), [{"name": "i"}, {"name": "j"}]).all()
    events = shop.new()
    assert [one["operation"] for one in events] == ["create"] * 5
    assert [one.get("rows") for one in events] == [2, 2, 1, 8, 2]
    assert [one.get("resource_ids") for one in events[:4]] == [None, ["70", "71"], ["72"], None]
    assert events[2]["values"]["name"] == "h"


def test_a_row_count_that_is_not_known_is_left_out(shop: AuditedSessions) -> None:
    """How many of many rows an INSERT passes over because of a conflict, nobody says."""
    with shop.sessions.begin() as session:
        rows = [
            {"id": 1, "name": "x", "state": "OPEN", "count": 0},
            {"id": 90, "name": "x", "state": "OPEN", "count": 0},
        ]
        session.execute(sqlite_insert(Item).on_conflict_do_nothing(), rows)
    (event,) = shop.new()
    assert "rows" not in event
    assert event["resource_ids"] == ["1", "90"]


def test_the_bulk_operations_of_the_session_are_recorded(shop: AuditedSessions) -> None:
    """`bulk_save_objects`, `bulk_insert_mappings`, `bulk_update_mappings`, and the UPDATE by primary keys."""
    with shop.sessions.begin() as session:
        session.bulk_save_objects([Item(name="d"), Item(name="e")])
        session.bulk_insert_mappings(Item, [{"name": "f"}])
        session.bulk_update_mappings(Item, [{"id": 1, "name": "m"}, {"id": 2, "name": "n"}])
        session.execute(update(Item), [{"id": 1, "name": "o"}, {"id": 2, "name": "p"}])
    events = shop.new()
    assert [(one["operation"], one["rows"]) for one in events] == [
        ("create", 2), ("create", 1), ("update", 2), ("update", 2)
    ]  # fmt: skip
    assert [one.get("resource_ids") for one in events[2:]] == [["1", "2"]] * 2


def test_core_statements_on_the_session_s_connection_are_recorded(shop: AuditedSessions) -> None:
    """By the session or by its connection; of a table that is not registered, or as text, nothing is seen."""
    with shop.sessions.begin() as session:
        items = Base.metadata.tables["items"]
        session.execute(items.update().values(name="x"))
        session.connection().execute(items.delete())
        session.execute(insert(Unwatched), [{"name": "x"}])
        session.execute(text("INSERT INTO items (name, state, count) VALUES ('raw', 'OPEN', 0)"))
    assert [(one["resource_type"], one["operation"], one["rows"]) for one in shop.new()] == [
        ("Item", "update", 3), ("Item", "delete", 3)
    ]  # fmt: skip


def test_a_statement_on_a_subclass_has_its_name(shop: AuditedSessions) -> None:
    """Though the row is in two tables."""
    with shop.sessions.begin() as session:
        session.add(Dog(name="rex", barks=1))
        session.flush()
        session.execute(update(Dog).where(Dog.barks == 1).values(barks=2))
    assert [one.get("resource_type") for one in shop.new()][1:] == ["Dog"]


def test_a_table_without_a_class_can_be_registered(tmp_path: Path) -> None:
    """Such as that of a many-to-many relationship."""
    with AuditedSessions.opened(tmp_path, models=[item_tags]) as shop:
        with shop.sessions.begin() as session:
            session.add(Item(name="a", tags=[Tag(name="t")]))
            session.flush()
            session.execute(item_tags.delete().where(item_tags.c.item_id == 1))
        events = shop.new()
    assert [(one["resource_type"], one["operation"]) for one in events] == [
        ("item_tags", "create"), ("item_tags", "delete")
    ]  # fmt: skip


def test_statements_of_a_rolled_back_transaction_are_not_recorded(shop: AuditedSessions) -> None:
    """Nor those of a savepoint, nor one that failed."""
    with shop.sessions() as session:
        session.execute(delete(Item))
        session.rollback()
        session.execute(update(Item).values(name="x"))
        with session.begin_nested() as savepoint:
            session.execute(delete(Item))
            savepoint.rollback()
        session.commit()
    assert [one["operation"] for one in shop.new()] == ["update"]


def test_secrets_in_criteria_and_values_are_redacted(shop: AuditedSessions) -> None:
    """A parameter that has the name of a secret column is none of the record's."""
    with shop.sessions.begin() as session:
        session.execute(update(Item).where(Item.password == "hunter2hunter2").values(password="hunter3hunter3"))
    (event,) = shop.new()
    assert "hunter" not in str(event)
    assert "password" in event["criteria"]


def test_no_secret_and_nothing_excluded_is_in_the_criteria(tmp_path: Path) -> None:
    """Whatever the parameter is called, and in criteria that the application has written as text."""
    key = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
    with AuditedSessions.opened(tmp_path, exclude={Item: ["note"]}) as shop:
        with shop.sessions.begin() as session:
            statement = delete(Item).where(Item.note == bindparam("given"), Item.name == "a", text(f"made <> '{key}'"))
            session.execute(statement, {"given": "private"})
            session.execute(update(Item).where(func.lower(Item.note) == "private").values(note="private", name="b"))
        first, second = shop.new()
    assert "private" not in str([first, second])
    assert key not in first["criteria"]
    assert first["parameters"] == {"name_1": "a"}
    assert second["values"]["name"] == "b"


def test_a_statement_that_can_t_be_described_is_counted(shop: AuditedSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's statement goes on, and the log says that something is missing."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bulk_statements, "_rows", fail)
    with shop.sessions.begin() as session:
        session.execute(delete(Item))
    assert shop.new() == []
    assert shop.log.stats().dropped_by_type == {"resource.bulk_changed": 1}
