"""The project set up in this process, and a database of its own for each test."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import django
import psycopg

# Django reads its settings once, by the environment, and writes its time zone there: neither is for the processes that
# other tests start from here, such as Celery's workers, which set up Django if they find its settings.
_BEFORE = {name: os.environ.get(name) for name in ("DJANGO_SETTINGS_MODULE", "TZ")}
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.integrations.django_site.site_settings"
django.setup()
for _name, _value in _BEFORE.items():
    os.environ.pop(_name, None)
    if _value is not None:
        os.environ[_name] = _value
time.tzset()

from django.core.management import call_command  # noqa: E402 - after the set-up
from django.db import connections  # noqa: E402 - as above

from tests.forwarding.postgres_server import PostgresServer  # noqa: E402 - as above


def use_database(alias: str, settings: dict[str, Any]) -> None:
    """Have an alias mean another database from now on, in every thread."""
    if hasattr(connections._connections, alias):
        connections[alias].close()
        del connections[alias]
    configured = connections.settings[alias]
    configured.update(settings)


@contextmanager
def fresh_databases(directory: Path, templates: Path, server: PostgresServer | None) -> Iterator[None]:
    """Make databases with empty tables, `default` on the server if there is one, and `other` on SQLite.

    Args:
        directory: Where the files are.
        templates: Where the databases are that these are copied from; migrations take longer than most tests.
        server: The PostgreSQL server.
    """
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "USER": "", "HOST": "", "PORT": "", "OPTIONS": {"timeout": 30}}
    template = templates / "template.sqlite3"
    if not template.exists():
        use_database("other", {**sqlite, "NAME": str(template)})
        call_command("migrate", database="other", run_syncdb=True, verbosity=0)
        connections["other"].close()
    for alias in ("default", "other"):
        shutil.copy(template, directory / f"{alias}.sqlite3")
        use_database(alias, {**sqlite, "NAME": str(directory / f"{alias}.sqlite3")})
    with _on_server(server) if server is not None else nullcontext():
        try:
            yield
        finally:
            for alias in ("default", "other"):
                connections[alias].close()


@contextmanager
def _on_server(server: PostgresServer) -> Iterator[None]:
    """Have `default` mean a database of its own on a PostgreSQL server."""
    engine = "django.db.backends.postgresql"
    place = {
        "ENGINE": engine,
        "HOST": str(server.directory),
        "PORT": str(server.port),
        "USER": "postgres",
        "OPTIONS": {},
    }
    with psycopg.connect(server.admin_url("template1"), autocommit=True) as admin:
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = 'shop_template'").fetchone() is None:
            admin.execute("CREATE DATABASE shop_template")
            use_database("default", {**place, "NAME": "shop_template"})
            call_command("migrate", database="default", run_syncdb=True, verbosity=0)
            connections["default"].close()
        admin.execute("CREATE DATABASE shop TEMPLATE shop_template")
        use_database("default", {**place, "NAME": "shop"})
        try:
            yield
        finally:
            connections["default"].close()
            admin.execute("DROP DATABASE shop WITH (FORCE)")
