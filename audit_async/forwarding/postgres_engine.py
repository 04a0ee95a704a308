"""Preparing a PostgreSQL engine, and giving rights to it.

All of it is done in one transaction each, so an engine is never half prepared. Who runs it needs to be a superuser, or
a role that may create roles and, in the database, schemas. Passwords are made here, reach the server as SCRAM verifiers
only, and are written to a new file that only its owner can read.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from anyio import to_thread

from audit_async._durable import disk
from audit_async.errors import ConfigError
from audit_async.forwarding.engine_admin import CheckedSetting, ConfirmedSeq, Granted, Kind, Limits, Trimmed
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.postgres_checks import check_engine
from audit_async.forwarding.postgres_connection import Connection, Server
from audit_async.forwarding.postgres_schema import (
    LARGE_OBJECTS,
    OLDEST_SERVER,
    SCHEMA_VERSION,
    names_of,
    quoted,
    quoted_text,
    schema_sql,
)
from audit_async.forwarding.sink_errors import SinkRefused

__all__ = ["PostgresEngine"]

#: Days that have a partition before they begin; an append makes the day's if there is none all the same.
_DAYS_AHEAD: Final = 7
#: A login of the engine is a forwarder or a collector, each with a few connections.
_CONNECTIONS: Final = 20
_NO_POWER: Final = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
#: An engine that trims sooner can't bridge a long week-end without its collector.
_LEAST_DAYS: Final = 1


class PostgresEngine:
    """The engine of one tenant in a PostgreSQL database, for its administrator.

    Args:
        url: as `PostgresSink` takes it; the role needs the right to create roles, and schemas in the database.
        tenant: whose engine it is; each has a schema and roles of its own.
    """

    def __init__(self, url: str, *, tenant: str) -> None:
        self._names: Final = names_of(tenant)
        self._server: Final = Server(url)

    def __repr__(self) -> str:
        return f"<PostgresEngine {self._server.shown} tenant={self._names.tenant!r}>"

    async def init(self) -> list[str]:
        """Make the schema, its owner and its groups, or bring them up to date; return what was done.

        What this release makes otherwise is corrected: functions, owner, rights of others on the schema.

        Raises:
            SinkRefused: the database is not UTF-8, the server too old, or the schema of a newer release.
            SinkUnavailable: no answer.
        """
        done: list[str] = []
        async with self._connected() as connection:
            await self._refuse_unfit(connection)
            async with connection.transaction():
                # Two at a time would each make half of it.
                await connection.execute(f"SELECT pg_advisory_xact_lock(hashtext({quoted_text(self._names.schema)}))")
                await self._make_groups(connection, done)
                async with self._as_owner(connection):
                    await connection.execute(schema_sql(self._names))
                    await self._choose_compression(connection)
                    for ahead in range(_DAYS_AHEAD + 1):
                        await connection.execute(
                            f"SELECT {quoted(self._names.schema)}.make_day(%s)", (_today() + timedelta(days=ahead),)
                        )
                done.append(f"schema {self._names.schema}: version {SCHEMA_VERSION}")
            await self._close_database(connection, done)
        return done

    async def check(self) -> list[CheckedSetting]:
        """Look at everything that a trail depends on, and return it; nothing is changed.

        Raises:
            SinkUnavailable: no answer.
        """
        async with self._connected() as connection:
            return await check_engine(connection, self._names, lambda: self._reading_as_owner(connection))

    async def grant(self, name: str, *, kind: Kind, secret_file: Path, limits: Limits) -> Granted:
        """Give a host the right to write its own logs, or a collector the right to read and confirm those of all.

        Called again it makes a new password, and the one before is void.

        Args:
            name: the host, as its logs name it, or the collector.
            kind: which of the two.
            secret_file: a new file for the password, in the format of libpq's `passfile`.
            limits: how much a host may store.

        Raises:
            ConfigError: the file is there already, or the name is too long for a role.
            SinkRefused: there is no engine yet, or this role may not give rights to it.
        """
        role = self._names.role_of(name, kind)
        password = secrets.token_urlsafe(32)
        await to_thread.run_sync(_write_secret, secret_file, f"*:*:*:{role}:{password}\n")
        try:
            await self._grant(name, kind, role, password, limits)
        except BaseException:
            _remove(secret_file)
            raise
        return Granted(
            name=name, kind=kind, account=role, url=self._url_of(role, secret_file), files=[str(secret_file)]
        )

    async def _grant(self, name: str, kind: Kind, role: str, password: str, limits: Limits) -> None:
        group = self._names.hosts if kind == "host" else self._names.collectors
        async with self._connected() as connection:
            await self._require_engine(connection)
            # The server gets a verifier, so the password is in no log of it and in no list of what it is doing.
            verifier = connection.raw.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
            async with connection.transaction():
                login = f"LOGIN CONNECTION LIMIT {_CONNECTIONS} PASSWORD {quoted_text(verifier.decode())}"
                await _put_role(connection, role, login)
                await connection.execute(f"GRANT {quoted(group)} TO {quoted(role)}")
                if kind == "host":
                    async with self._as_owner(connection):
                        await connection.execute(
                            f"INSERT INTO {quoted(self._names.schema)}.writers "
                            "(role, host, max_bytes_per_day, max_logs) VALUES (%s, %s, %s, %s) "
                            "ON CONFLICT (role) DO UPDATE SET max_bytes_per_day = excluded.max_bytes_per_day, "
                            "max_logs = excluded.max_logs",
                            (role, name, limits.max_bytes_per_day, limits.max_logs),
                        )

    async def revoke(self, name: str, *, kind: Kind) -> list[str]:
        """Take a host's or collector's rights away and end its sessions; what it has stored stays.

        Raises:
            ConfigError: it has no rights.
        """
        role = self._names.role_of(name, kind)
        async with self._connected() as connection:
            await self._require_engine(connection)
            async with connection.transaction():
                if not await _has_role(connection, role):
                    raise ConfigError("name", f"{kind} {name!a} has no rights that could be taken away")
                await connection.execute(f"ALTER ROLE {quoted(role)} NOLOGIN PASSWORD NULL")
                for group in (self._names.hosts, self._names.collectors):
                    if await _is_member(connection, role, group):
                        await connection.execute(f"REVOKE {quoted(group)} FROM {quoted(role)}")
                if kind == "host":
                    async with self._as_owner(connection):
                        await connection.execute(
                            f"DELETE FROM {quoted(self._names.schema)}.writers WHERE role = %s",
                            (role,),
                        )
            # After the commit: before it, a session that was ended could come back.
            async with connection.transaction(), _member_of(connection, role):
                ended = await connection.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s", (role,)
                )
        return [f"role {role} can't log in any more", f"{ended[0][0]} of its sessions were ended"]

    async def trim(self, *, keep_days: int, confirmed: ConfirmedSeq, dry_run: bool = False) -> list[Trimmed]:
        """Drop the days that are older than `keep_days`, if the collector has confirmed every record in them.

        The heads stay, so no log can be begun again. A day that can't be dropped is returned with the reason.

        Args:
            keep_days: how many days before today stay in any case.
            confirmed: judges a confirmation and returns up to which record it is believed.
            dry_run: only return what would be dropped.
        """
        if keep_days < _LEAST_DAYS:
            raise ConfigError("keep_days", f"{keep_days} is too few; at least {_LEAST_DAYS}")
        schema = quoted(self._names.schema)
        trimmed = []
        async with self._connected() as connection:
            await self._require_engine(connection)
            seqs = await self._confirmed_seqs(connection, confirmed)
            async with connection.transaction(), self._as_owner(connection):
                days = await connection.execute(
                    f"SELECT day FROM {schema}.days WHERE trimmed_at IS NULL AND day < %s ORDER BY day",
                    (_today() - timedelta(days=keep_days),),
                )
            for (day,) in days:
                async with connection.transaction(), self._as_owner(connection):
                    trimmed.append(await self._trim_day(connection, day, seqs, dry_run=dry_run))
        return trimmed

    async def aclose(self) -> None:
        """Nothing is kept open between the calls."""

    async def _trim_day(self, connection: Connection, day: date, seqs: dict[int, int], *, dry_run: bool) -> Trimmed:
        schema, partition = quoted(self._names.schema), quoted(f"batches_{day:%Y%m%d}")
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        trimmed = await connection.execute(
            f"SELECT trimmed_at IS NOT NULL FROM {schema}.days WHERE day = %s FOR UPDATE", (day,)
        )
        if trimmed == [(True,)]:
            return Trimmed(day=str(day), batches=0, dropped=False, reason="another run has dropped it meanwhile")
        [(there,)] = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{schema}.{partition}",))
        if not there:
            reason = "its partition is missing; see: audit-async engine check"
            return Trimmed(day=str(day), batches=0, dropped=False, reason=reason)
        found = await connection.execute(
            f"SELECT b.log_key, h.host, h.service, h.instance, max(b.last_seq), count(*) "
            f"FROM {schema}.batches b JOIN {schema}.heads h USING (log_key) WHERE b.received_day = %s "
            f"GROUP BY 1, 2, 3, 4 ORDER BY 1",
            (day,),
        )
        count = sum(row[5] for row in found)
        reason = ""
        for key, host, service, instance, last_seq, _ in found:
            if seqs.get(key, -1) < last_seq:
                have = f"up to record {seqs[key]}" if key in seqs else "nothing"
                reason = f"of {host}/{service}/{instance} the collector has confirmed {have}, record {last_seq} is due"
                break
        if not reason and not dry_run:
            await connection.execute(f"ALTER TABLE {schema}.batches DETACH PARTITION {schema}.{partition}")
            await connection.execute(f"DROP TABLE {schema}.{partition}")
            await connection.execute(f"UPDATE {schema}.days SET trimmed_at = now() WHERE day = %s", (day,))
        return Trimmed(day=str(day), batches=count, dropped=not reason and not dry_run, reason=reason)

    async def _confirmed_seqs(self, connection: Connection, confirmed: ConfirmedSeq) -> dict[int, int]:
        schema = quoted(self._names.schema)
        async with connection.transaction(), self._as_owner(connection):
            rows = await connection.execute(
                f"SELECT h.log_key, h.service, h.host, h.instance, h.log_id, c.confirmation "
                f"FROM {schema}.heads h JOIN {schema}.confirmations c USING (log_id, service, host, instance)"
            )
        seqs = {}
        for key, service, host, instance, log_id, confirmation in rows:
            log = LogIdentity(tenant=self._names.tenant, service=service, host=host, instance=instance, log_id=log_id)
            seq = await confirmed(log, bytes(confirmation))
            if seq is not None:
                seqs[key] = seq
        return seqs

    async def _require_engine(self, connection: Connection) -> None:
        if not await _has_schema(connection, self._names.schema):
            raise SinkRefused(f"{self._server.shown}: the tenant has no engine; make it with: audit-async engine init")

    async def _refuse_unfit(self, connection: Connection) -> None:
        [(number, encoding)] = await connection.execute(
            "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')"
        )
        if number < OLDEST_SERVER * 10_000:
            raise SinkRefused(f"{self._server.shown}: the server is older than PostgreSQL {OLDEST_SERVER}")
        if encoding != "UTF8":
            raise SinkRefused(
                f"{self._server.shown}: the database is {encoding}; make one with: CREATE DATABASE ... ENCODING 'UTF8'"
            )
        if await _has_schema(connection, self._names.schema):
            async with self._reading_as_owner(connection):
                rows = await connection.execute(
                    "SELECT to_regclass(%s) IS NOT NULL", (f"{quoted(self._names.schema)}.about",)
                )
                if rows[0][0]:
                    about = await connection.execute(f"SELECT schema_version FROM {quoted(self._names.schema)}.about")
                    if about and about[0][0] > SCHEMA_VERSION:
                        raise SinkRefused(
                            f"{self._server.shown}: the engine has schema version {about[0][0]}, this release makes "
                            f"{SCHEMA_VERSION}; update audit-async"
                        )

    async def _make_groups(self, connection: Connection, done: list[str]) -> None:
        roles = (self._names.owner, self._names.hosts, self._names.collectors)
        made = [role for role in roles if await _put_role(connection, role, "NOLOGIN")]
        done.extend(f"role {role}: made" for role in made)
        if not await _has_schema(connection, self._names.schema):
            async with _member_of(connection, self._names.owner):
                await connection.execute(
                    f"CREATE SCHEMA {quoted(self._names.schema)} AUTHORIZATION {quoted(self._names.owner)}"
                )
            done.append(f"schema {self._names.schema}: made")

    async def _choose_compression(self, connection: Connection) -> None:
        """Let lines be compressed by LZ4 if the server has it: fewer bytes to sync, and cheaper than pglz."""
        await connection.execute(
            f"""
            DO $do$ BEGIN
                IF EXISTS (
                    SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
                ) THEN
                    ALTER TABLE {quoted(self._names.schema)}.batches ALTER COLUMN lines SET COMPRESSION lz4;
                ELSE
                    ALTER TABLE {quoted(self._names.schema)}.batches ALTER COLUMN lines SET STORAGE EXTERNAL;
                END IF;
            END $do$
            """
        )

    async def _close_database(self, connection: Connection, done: list[str]) -> None:
        """Take from everybody what lets a host fill the disk past its allowance, as far as this role may."""
        [(database, may, superuser)] = await connection.execute(
            "SELECT current_database(), pg_has_role(d.datdba, 'USAGE'), r.rolsuper FROM pg_database d, pg_roles r "
            "WHERE d.datname = current_database() AND r.rolname = current_user"
        )
        if may:
            groups = f"{quoted(self._names.hosts)}, {quoted(self._names.collectors)}"
            await connection.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")
            await connection.execute(f"GRANT CONNECT ON DATABASE {quoted(database)} TO {groups}")
            await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            done.append(f"database {database}: only hosts and collectors connect, and make nothing of their own")
        if superuser:
            for function in LARGE_OBJECTS:
                await connection.execute(f"REVOKE EXECUTE ON FUNCTION pg_catalog.{function} FROM PUBLIC")

    def _url_of(self, role: str, secret_file: Path) -> str:
        place = self._server.place
        database = quote(place.pop("dbname", ""), safe="")
        host = place.get("host", "")
        port = place.get("port", "")
        at = ""
        if host and "," not in host and not host.startswith(("/", "@")):
            at = f"[{host}]" if ":" in host else host
            at += f":{port}" if port else ""
            del place["host"]
            place.pop("port", None)
        options = urlencode({**place, "passfile": str(secret_file.absolute())}, safe="/:")
        return f"postgres://{quote(role, safe='')}@{at}/{database}?{options}"

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        connection = await self._server.connect(warnings_are_errors=False)
        try:
            yield connection
        finally:
            await connection.aclose()

    @contextlib.asynccontextmanager
    async def _as_owner(self, connection: Connection) -> AsyncIterator[None]:
        """Run the block, which is in a transaction, as the schema's owner."""
        async with _member_of(connection, self._names.owner):
            await connection.execute(f"SET LOCAL ROLE {quoted(self._names.owner)}")
            yield
            await connection.execute("SET LOCAL ROLE NONE")

    @contextlib.asynccontextmanager
    async def _reading_as_owner(self, connection: Connection) -> AsyncIterator[None]:
        """Run the block in a transaction as the owner, if there is one."""
        async with connection.transaction():
            if await _has_role(connection, self._names.owner):
                async with self._as_owner(connection):
                    yield
            else:
                yield


async def _put_role(connection: Connection, role: str, login: str) -> bool:
    """Make a role that can do nothing, or correct one; return whether it was made."""
    if await _has_role(connection, role):
        # Only a superuser may name the other attributes of a role that exists, whatever their values.
        attributes = _NO_POWER if await _is_superuser(connection) else ""
        await connection.execute(f"ALTER ROLE {quoted(role)} {login} {attributes}")
        return False
    await connection.execute(f"CREATE ROLE {quoted(role)} {login} {_NO_POWER}")
    return True


async def _is_superuser(connection: Connection) -> bool:
    [(superuser,)] = await connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    return bool(superuser)


@contextlib.asynccontextmanager
async def _member_of(connection: Connection, role: str) -> AsyncIterator[None]:
    """Let this session act for a role within the transaction; nobody else ever sees it as a member."""
    if await _is_superuser(connection):
        yield
        return
    await connection.execute(f"GRANT {quoted(role)} TO CURRENT_USER")
    yield
    await connection.execute(f"REVOKE {quoted(role)} FROM CURRENT_USER")


async def _has_role(connection: Connection, role: str) -> bool:
    return bool(await connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)))


async def _has_schema(connection: Connection, schema: str) -> bool:
    return bool(await connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)))


async def _is_member(connection: Connection, role: str, group: str) -> bool:
    return bool(
        await connection.execute(
            "SELECT FROM pg_auth_members WHERE roleid = to_regrole(%s) AND member = to_regrole(%s)",
            (quoted(group), quoted(role)),
        )
    )


def _today() -> date:
    return datetime.now(UTC).date()


def _remove(path: Path) -> None:
    """Delete a file that was made for nothing."""
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(str(path), dir_fd=None)


def _write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read. Raises `ConfigError` if there is one already."""
    try:
        fd = disk.create_file(str(path), dir_fd=None)
    except FileExistsError:
        raise ConfigError("secret_file", f"{path} is there already; name a new file") from None
    except OSError as error:
        raise ConfigError("secret_file", f"{path} can't be made: {error.strerror}") from None
    try:
        disk.write_at(fd, text.encode(), 0)
        disk.sync_data(fd)
    finally:
        disk.close(fd)
