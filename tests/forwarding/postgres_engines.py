"""An engine in a database of its own, and the sinks of its hosts and collectors."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import anyio
import psycopg
from psycopg import conninfo, sql

from audit_async.forwarding import PostgresSink
from audit_async.forwarding.engine_admin import CheckedSetting, Granted, Kind, Limits
from audit_async.forwarding.postgres_engine import PostgresEngine

TENANT = "acme"


class EngineOfTest:
    """The engine of a tenant, as its administrator has it."""

    def __init__(self, admin_url: str, directory: Path, tenant: str = TENANT) -> None:
        self.admin_url = admin_url
        self.tenant = tenant
        self.schema = f"audit_{tenant}"
        self.engine = PostgresEngine(admin_url, tenant=tenant)
        self._directory = directory
        self._files = itertools.count()
        self._urls: dict[str, str] = {}

    async def granted(self, name: str, kind: Kind = "host", limits: Limits | None = None) -> Granted:
        """Give rights to a host or collector."""
        file = self._directory / f"{self.tenant}-{name}-{next(self._files)}.pgpass"
        return await self.engine.grant(name, kind=kind, secret_file=file, limits=limits or Limits())

    def loopback(self, granted: Granted) -> str:
        """Return the URL of a grant by TCP, which asks for the password; the socket of the tests doesn't."""
        at = conninfo.conninfo_to_dict(granted.url)
        return f"postgres://{granted.account}@127.0.0.1:{at['port']}/{at['dbname']}?passfile={granted.files[0]}"

    async def sink(
        self, name: str = "web-1", kind: Kind = "host", limits: Limits | None = None, **settings: Any
    ) -> PostgresSink:
        """Return the sink of a host or collector, after giving it the rights if it has none."""
        return PostgresSink(await self.url(name, kind, limits), tenant=self.tenant, **settings)

    async def url(self, name: str = "web-1", kind: Kind = "host", limits: Limits | None = None) -> str:
        """Return the URL of a host or collector, after giving it the rights if it has none."""
        if name not in self._urls or limits is not None:
            self._urls[name] = self.loopback(await self.granted(name, kind, limits))
        return self._urls[name]

    async def wrong(self) -> set[str]:
        """Return the names of what a check finds wrong; each says how to put it right."""
        found = [one for one in await self.engine.check() if one.verdict == "wrong"]
        assert all(one.fix for one in found)
        return {one.name for one in found}

    async def looked_at(self, name: str) -> CheckedSetting:
        """Return one finding of a check."""
        [found] = [one for one in await self.engine.check() if one.name == name]
        return found

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the superuser; `SCHEMA` in them is the engine's. Return the rows of the last one."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(sql.SQL(statement.replace("SCHEMA.", f'"{self.schema}".')))
            return cursor.fetchall() if cursor.description is not None else []

    async def until_nobody_is_connected(self) -> None:
        """Wait until no process of the server works for a host or a collector."""
        with anyio.fail_after(60):
            while self.run("SELECT FROM pg_stat_activity WHERE usename LIKE 'audit_%'"):
                await anyio.sleep(0.02)


def run_as(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run a statement as a host does that has its password and `psql`."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.SQL(statement), parameters or None)
        return cursor.fetchall() if cursor.description is not None else []
