"""A Django project under real servers, and requests that don't stop when SIGTERM comes."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.forwarding.postgres_server import PostgresServer, programs
from tests.integrations.servers import Visitors, serving
from tests.trails import check_trail, logs_below, read_events

SITE = "tests.integrations.django_site"
GUNICORN = ["gunicorn", f"{SITE}.wsgi:application", "--bind", "127.0.0.1:0", "--workers", "2"]
UVICORN = ["uvicorn", f"{SITE}.asgi:application", "--port", "0", "--no-access-log"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer | None]:
    """A PostgreSQL server, None if this machine has none."""
    if programs() is None:
        yield None
        return
    made = PostgresServer.made()
    made.start()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def environment(
    request: pytest.FixtureRequest, tmp_path: Path, server: PostgresServer | None
) -> Iterator[dict[str, str]]:
    """The environment of a project with an empty database, of the kind that the test asks for."""
    env = {"SITE_DIRECTORY": str(tmp_path), "DJANGO_SETTINGS_MODULE": f"{SITE}.site_settings"}
    if request.param == "sqlite":
        _migrate(env)
        yield env
        return
    if server is None:
        pytest.skip("there is no PostgreSQL here")
    env["SITE_POSTGRES"] = f"{server.directory}:{server.port}"
    with server.database("shop"):
        _migrate(env)
        yield env


def _migrate(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
    subprocess.run(command, env=os.environ | environment, check=True, timeout=120)


def rows(environment: dict[str, str], server: PostgresServer | None) -> list[tuple[str, str]]:
    """Return the key and the note of each order that the database holds."""
    question = "SELECT id, note FROM django_site_order"
    if "SITE_POSTGRES" in environment:
        assert server is not None
        with psycopg.connect(server.admin_url("shop")) as there:
            return [(str(key), note) for key, note in there.execute(question)]
    here = sqlite3.connect(Path(environment["SITE_DIRECTORY"]) / "shop.sqlite3")
    try:
        return [(str(key), note) for key, note in here.execute(question)]
    finally:
        here.close()


@pytest.mark.parametrize(
    ("environment", "command", "logs"),
    [
        pytest.param("postgresql", [*GUNICORN, "--worker-class", "sync"], 2, id="gunicorn-sync"),
        pytest.param(
            "sqlite", [*GUNICORN, "--worker-class", "gthread", "--threads", "3", "--preload"], 3, id="preload"
        ),
        pytest.param("postgresql", UVICORN, 1, id="uvicorn"),
    ],
    indirect=["environment"],
)
def test_each_committed_change_is_recorded_once(
    tmp_path: Path, environment: dict[str, str], server: PostgresServer | None, command: list[str], logs: int
) -> None:
    """SIGTERM under load: the rows in the database are those of the trail, and the answered requests are among them."""
    with serving(tmp_path, command, environment=environment) as served:
        with Visitors(served.address) as visitors:
            visitors.wait_for(80, served)
            status = served.stop(signal.SIGTERM)
        assert status in {0, -signal.SIGTERM}, served.said()
        assert not re.search("Traceback|not recorded", served.said()), served.said()
    directories = logs_below(tmp_path / "audit")
    assert len(directories) <= logs
    for directory in directories:
        check_trail(directory)
        assert read_events(directory)[-1]["event"]["event_type"] == "audit.log_closed"
    events = [record["event"] for record in read_events(tmp_path / "audit")]
    made = [event for event in events if event["event_type"] == "resource.created"]
    recorded = [(event["resource"]["resource_id"], event["changes"]["note"]["after"]) for event in made]
    assert sorted(recorded) == sorted(rows(environment, server))
    assert set(map(str, visitors.answered)) <= {note for _key, note in recorded}
    asked = Counter(event["path"].rpartition("/")[2] for event in events if event["event_type"] == "http.request")
    assert set(map(str, visitors.answered)) <= set(asked)
    assert max(asked.values()) == 1
