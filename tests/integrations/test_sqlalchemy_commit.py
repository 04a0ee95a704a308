"""The relation of records to COMMIT: intents that are durable before it, and outcomes after it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from audit_async import AuditConfig, AuditLogger, AuditReader, Batched, Local
from audit_async.integrations.sqlalchemy import IntentNotDurable, audit_session, resolve_unfinished
from tests.integrations.orm_models import ALICE, WATCHED, AuditedSessions, Base, Item, marker, sqlite_engine
from tests.test_examples import run_example
from tests.trails import read_events
from tests.writer.hanging_disk import hanging_disk


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[AuditedSessions]:
    """Sessions on an empty database that record an intent before COMMIT."""
    with AuditedSessions.opened(tmp_path, relation="intent", marker=marker) as opened:
        yield opened


def commit_by(engine: Any, do_commit: Any) -> None:
    """Have an engine commit by this function, which gets the driver's connection."""
    engine.dialect.do_commit = do_commit


def test_intent_and_outcome_have_one_id(shop: AuditedSessions) -> None:
    """One record for each change, one that closes the intent and counts them, one with the outcome."""
    with shop.sessions.begin() as session:
        session.add_all([Item(name="a"), Item(name="b")])
        session.flush()
        session.execute(update(Item).values(name="c"))
    events = shop.new()
    assert [one["event_type"] for one in events] == [
        "resource.change_intended",
        "resource.change_intended",
        "resource.bulk_change_intended",
        "transaction.intended",
        "transaction.ended",
    ]
    assert len({one["transaction_id"] for one in events}) == 1
    assert [one.get("operation") for one in events[:3]] == ["create", "create", "update"]
    assert {name: events[3][name] for name in ("changes", "database", "marker")} == {
        "changes": 3,
        "database": "sqlite:///",
        "marker": "audit_transactions",
    }
    assert events[4]["outcome"] == "committed"
    with shop.sessions() as session:
        assert session.scalars(select(marker.c.transaction_id)).all() == [events[0]["transaction_id"]]


def test_the_intent_is_durable_before_commit_is_sent(shop: AuditedSessions) -> None:
    """When the driver is asked to commit, everything is acknowledged, and nothing of it is committed."""
    seen: list[tuple[int, int]] = []

    def do_commit(connection: Any) -> None:
        stats = shop.log.stats()
        seen.append((stats.durable, stats.waiting))
        connection.commit()

    commit_by(shop.engine, do_commit)
    with shop.sessions.begin() as session:
        session.add(Item(name="a"))
    assert seen == [(3, 0)]  # with `audit.log_opened`


def test_nothing_is_intended_that_is_rolled_back(shop: AuditedSessions) -> None:
    """Nor by a transaction that only reads."""
    with shop.sessions() as session:
        session.add(Item(name="a"))
        session.flush()
        session.rollback()
        session.get(Item, 1)
        session.commit()
    assert shop.new() == []


def test_a_commit_that_the_database_refuses_is_rolled_back(shop: AuditedSessions) -> None:
    """The server has answered, so the outcome is known, with the class of the error as the reason."""

    def refuse(_connection: Any) -> None:
        raise shop.engine.dialect.loaded_dbapi.IntegrityError("deferred constraint")

    commit_by(shop.engine, refuse)
    with pytest.raises(IntegrityError), shop.sessions.begin() as session:
        session.add(Item(name="a"))
    (ended,) = [one for one in shop.new() if one["event_type"] == "transaction.ended"]
    assert (ended["outcome"], ended["reason"]) == ("rolled_back", "IntegrityError")


@pytest.mark.parametrize("relation", ["after", "intent"])
def test_a_commit_whose_answer_is_lost_is_unknown(tmp_path: Path, relation: str) -> None:
    """COMMIT took effect, and the answer never came: what may be in the database is recorded, and not as committed."""
    with AuditedSessions.opened(tmp_path, relation=relation) as shop:

        def lose_the_answer(connection: Any) -> None:
            connection.commit()
            raise ConnectionResetError

        commit_by(shop.engine, lose_the_answer)
        with pytest.raises(ConnectionResetError), shop.sessions.begin() as session:
            session.add(Item(name="a"))
        events = shop.new()
    assert [one["event_type"] for one in events] == [
        "resource.change_intended", "transaction.intended", "transaction.ended"
    ]  # fmt: skip
    assert (events[2]["outcome"], events[2]["reason"]) == ("unknown", "ConnectionResetError")


def test_a_transaction_whose_intent_is_not_durable_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says so, the database has nothing, and the trail says that it was rolled back."""
    engine = sqlite_engine(tmp_path / "db")
    with AuditedSessions.opened(tmp_path / "log", engine, relation="intent", timeout_s=0.2) as shop:
        refused = pytest.raises(IntentNotDurable, match=r"rolled back.*not durable after 0\.2 s")
        with hanging_disk(monkeypatch), refused, shop.sessions.begin() as session:
            session.add(Item(name="a"))
        with shop.sessions.begin() as session:
            assert session.scalars(select(Item)).all() == []
            session.add(Item(name="b"))
        outcomes = [one["outcome"] for one in shop.new() if one["event_type"] == "transaction.ended"]
    assert outcomes == ["rolled_back", "committed"]


def test_with_record_loss_the_transaction_is_committed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded becomes durable later, and its outcome with it."""
    engine = sqlite_engine(tmp_path / "db")
    settings = {"relation": "intent", "timeout_s": 0.2, "on_failure": "record_loss"}
    with AuditedSessions.opened(tmp_path / "log", engine, **settings) as shop:
        with hanging_disk(monkeypatch), shop.sessions.begin() as session:
            session.add(Item(name="a"))
        with shop.sessions() as session:
            assert session.get_one(Item, 1).name == "a"
        assert shop.types() == ["resource.change_intended", "transaction.intended", "transaction.ended"]


@pytest.mark.parametrize("relation", ["after", "intent"])
def test_a_large_transaction_does_not_overflow_the_log(tmp_path: Path, relation: str) -> None:
    """More changes than the log's buffer holds: the commit waits for it in between."""
    config = AuditConfig(
        mode=Local(tmp_path), service_id="shop", buffer_events=1000, flush_mode=Batched(size=100, interval=1.0)
    )
    with AuditedSessions.opened(tmp_path, relation=relation, config=config) as shop:
        with shop.sessions.begin() as session:
            session.add_all([Item(name=str(number)) for number in range(2500)])
        assert len(shop.new()) == (2500 if relation == "after" else 2502)
        assert shop.log.stats().dropped == 0


@pytest.mark.parametrize("on_failure", ["refuse", "record_loss"])
def test_without_a_log_the_transaction_is_refused_or_counted(tmp_path: Path, on_failure: str) -> None:
    """No log is open: nothing can be durable."""
    with AuditedSessions.opened(tmp_path) as shop:
        shop.audit.stop()
        audit = audit_session(
            shop.sessions,
            WATCHED,
            audit=lambda: None,
            relation="intent",
            on_failure=on_failure,  # type: ignore[arg-type]
        )
        try:
            if on_failure == "refuse":
                with pytest.raises(IntentNotDurable, match="no open audit log"), shop.sessions.begin() as session:
                    session.add(Item(name="a"))
            else:
                with shop.sessions.begin() as session:
                    session.add(Item(name="a"))
            with shop.sessions() as session:
                assert len(session.scalars(select(Item)).all()) == (on_failure == "record_loss")
        finally:
            audit.stop()


def test_a_session_that_would_block_its_own_event_loop_is_refused(tmp_path: Path) -> None:
    """A blocking Session in the thread of the log's event loop can't wait: an error at once, not a deadlock."""
    engine = sqlite_engine(tmp_path / "db")

    async def main() -> None:
        async with AuditLogger(AuditConfig(mode=Local(tmp_path / "log"), service_id="shop")) as log:
            sessions = sessionmaker(engine)
            audit = audit_session(sessions, WATCHED, audit=log, relation="intent")
            with pytest.raises(IntentNotDurable, match="AsyncSession"), sessions.begin() as session:
                session.add(Item(name="a"))
            with sessions() as session:
                assert session.scalars(select(Item)).all() == []

            def in_a_thread() -> None:
                with sessions.begin() as session:
                    session.add(Item(name="b"))

            await asyncio.to_thread(in_a_thread)
            audit.stop()

    asyncio.run(main())
    engine.dispose()
    outcomes = [one["event"]["outcome"] for one in read_events(tmp_path / "log") if "outcome" in one["event"]]
    assert outcomes == ["rolled_back", "committed"]


# Asynchronous sessions.


@pytest.mark.parametrize("relation", ["after", "intent"])
@pytest.mark.parametrize("kind", ["sessionmaker", "class"])
@pytest.mark.asyncio
async def test_asynchronous_sessions_record_the_same(tmp_path: Path, relation: Any, kind: str) -> None:
    """On the loop that the log lives on, without a deadlock; other asynchronous sessions record nothing."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    class Own(AsyncSession):
        """A class of sessions."""

    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, class_=Own)
    async with AuditLogger(AuditConfig(mode=Local(tmp_path / "log"), service_id="shop")) as log:
        audit = audit_session(
            sessions if kind == "sessionmaker" else Own, WATCHED, audit=log, actor=ALICE, relation=relation
        )
        async with sessions.begin() as session:
            session.add(Item(name="a"))
            await session.flush()
            await session.execute(update(Item).values(name="b"))
        async with sessions() as session:
            session.add(Item(name="c"))
            await session.flush()
            await session.rollback()
        async with AsyncSession(engine) as session:
            session.add(Item(name="d"))
            await session.commit()
        audit.stop()
    await engine.dispose()
    found = [one["event"]["event_type"] for one in read_events(tmp_path / "log")]
    recorded = [one for one in found if not one.startswith("audit.")]
    assert recorded == (
        ["resource.created", "resource.bulk_changed"]
        if relation == "after"
        else [
            "resource.change_intended",
            "resource.bulk_change_intended",
            "transaction.intended",
            "transaction.ended",
        ]
    )


@pytest.mark.asyncio
async def test_a_cancelled_commit_is_unknown(tmp_path: Path) -> None:
    """The task is cancelled while COMMIT is on its way: nobody knows, and that is what is recorded."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine)
    async with AuditLogger(AuditConfig(mode=Local(tmp_path / "log"), service_id="shop")) as log:
        audit = audit_session(sessions, WATCHED, audit=log, relation="intent")

        def cancelled(_connection: Any) -> None:
            raise asyncio.CancelledError

        commit_by(engine.sync_engine, cancelled)
        with pytest.raises(asyncio.CancelledError):
            async with sessions.begin() as session:
                session.add(Item(name="a"))
        audit.stop()
    await engine.dispose()
    (ended,) = [one["event"] for one in read_events(tmp_path / "log") if "outcome" in one["event"]]
    assert ended["outcome"] == "unknown"


# What is unfinished, and its resolution by the marker.


@pytest.mark.asyncio
async def test_markers_say_what_became_of_a_transaction(tmp_path: Path) -> None:
    """A row that is there was committed; one that is not is inserted, so that a late transaction can't commit."""
    engine = sqlite_engine(tmp_path / "db")
    directory = tmp_path / "log"
    await asyncio.to_thread(_leave_unfinished, directory, engine)
    reader = AuditReader(directory)
    intents = [record.event async for record in reader.unfinished()]
    assert len(intents) == 3
    async with AuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as log:
        without = await resolve_unfinished(reader, log, engine)
        assert set(without.unresolved.values()) == {
            "with another marker table (audit_transactions)",
            "of another database",
        }
        found = await resolve_unfinished(reader, log, engine, marker=marker)
        await log.flush()
        assert str(found) == "1 committed, 1 rolled back, 1 unresolved (1 of another database)"
        assert [found.committed, found.rolled_back] == [[intents[0].transaction_id], [intents[1].transaction_id]]  # type: ignore[attr-defined]
        again = await resolve_unfinished(reader, log, engine, marker=marker, any_database=True)
        await log.flush()
        assert len(again.rolled_back) == 1
        assert [record async for record in reader.unfinished()] == []
    ended = [one["event"] for one in read_events(directory) if one["event"].get("found_by")]
    assert [(one["outcome"], one["found_by"]) for one in ended] == [
        ("committed", "marker"), ("rolled_back", "marker"), ("rolled_back", "marker")
    ]  # fmt: skip
    late = {"transaction_id": found.rolled_back[0], "at": datetime.now(UTC), "rolled_back": False}
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(marker.insert().values(late))
    engine.dispose()


def _leave_unfinished(directory: Path, engine: Any) -> None:
    """Leave three intents without a known outcome: one that was committed, one that was not, one elsewhere."""
    with AuditedSessions.opened(directory, engine, relation="intent", marker=marker) as shop:
        commit = engine.dialect.do_commit

        def commit_and_fail(connection: Any) -> None:
            commit(connection)
            raise ConnectionResetError

        def fail(_connection: Any) -> None:
            raise ConnectionResetError

        for do_commit in (commit_and_fail, fail):
            commit_by(engine, do_commit)
            with pytest.raises(ConnectionResetError), shop.sessions.begin() as session:
                session.add(Item(name="a"))
        commit_by(engine, commit)
        other = sqlite_engine()
        commit_by(other, fail)
        with pytest.raises(ConnectionResetError), shop.sessions(bind=other) as session:
            session.add(Item(name="a"))
            session.commit()
        other.dispose()


def test_the_example_records_intents_and_outcomes(tmp_path: Path) -> None:
    """Two transactions, each with its intent and outcome; a second start finds nothing unfinished."""
    for _ in range(2):
        ended = run_example("sqlalchemy_orders", tmp_path)
        assert (ended.returncode, ended.stdout) == (0, "after the last run: 0 committed, 0 rolled back, 0 unresolved\n")
    events = [one["event"] for one in read_events(tmp_path / "audit")]
    assert [one["outcome"] for one in events if "outcome" in one] == ["committed"] * 4
    states = [one["changes"]["state"] for one in events if one["event_type"] == "resource.change_intended"]
    assert states == [{"before": None, "after": "new"}, {"before": "new", "after": "paid"}] * 2
