"""The PostgreSQL engine as a sink: every call is one function of `postgres_schema.sql`, in one round trip.

The server decides who may do what, and whether a batch follows the head that it has; nothing here is trusted by it. An
append is one statement in a transaction of its own, so it is durable when it returns, on the synchronous standbys as
well if there are any.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc
from psycopg.rows import TupleRow

from audit_async.errors import ConfigError
from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.postgres_connection import Connection, Server
from audit_async.forwarding.postgres_schema import MAX_VALUE_BYTES, SCHEMA_VERSION, names_of, quoted
from audit_async.forwarding.sink_errors import HeadMoved, RecordTooLarge, SinkRefused, SinkUnavailable

__all__ = ["PostgresSink"]

_logger: Final = logging.getLogger(__name__)

_NO_HASH: Final = "0" * 64
#: Batches that a reader holds at a time, each of 512 KiB or one large record.
_PAGE: Final = 4

# Says what the server is and makes this session's commits wait for the disk, whatever the role's or the database's
# settings are. `remote_apply` waits longer than `on` and is left alone.
_BEGIN_SESSION: Final = """
    SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
        current_setting('fsync'), current_setting('full_page_writes'), pg_catalog.pg_is_in_recovery(), version, tenant
    FROM {schema}.schema_version()
"""


class PostgresSink:
    """A tenant's logs in a PostgreSQL database, which `audit-async engine init` has prepared.

    May be used by several tasks of one event loop at a time; each call takes a connection of its own, up to
    `max_connections`. Needs the extra `postgres`, and asyncio (uvloop included).

    Args:
        url: where the database is, as libpq writes it: `postgres://ROLE@HOST/DATABASE?passfile=FILE`. A host that is
            not this machine has to prove its name by TLS, unless `sslmode` says otherwise.
        tenant: the tenant whose schema it is.
        timeout_s: seconds after which a call is given up and raises `SinkUnavailable`. What it asked for may have been
            done all the same, as after any lost answer: the head shows it.
        max_connections: how many calls may be under way.

    Raises:
        ConfigError: the URL or the tenant's name is not usable. The message does not repeat the URL.
    """

    def __init__(self, url: str, *, tenant: str, timeout_s: float = 30.0, max_connections: int = 4) -> None:
        if timeout_s <= 0:
            raise ConfigError("timeout_s", f"{timeout_s!r} is no time; give seconds, such as 30")
        if max_connections < 1:
            raise ConfigError("max_connections", f"{max_connections!r} is too few; at least 1")
        self._names: Final = names_of(tenant)
        self._server: Final = Server(url, timeout_s=timeout_s)
        self._schema: Final = quoted(self._names.schema)
        self._free: Final = anyio.Semaphore(max_connections)
        self._idle: Final[list[Connection]] = []
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._idle)} idle connections"
        return f"<PostgresSink {self._server.shown} tenant={self._names.tenant!r} {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def head(self, log: LogIdentity) -> Head | None:
        """Return the last record of a log that the engine has, None if it does not have the log.

        Raises:
            SinkUnavailable: no answer, or a synchronous standby does not have it yet.
            SinkRefused: this role has no right to the log, or the engine is not as it has to be.
        """
        [(seq, hash_)] = await self._call("head", "%s, %s, %s, %s", self._of(log))
        return _head(seq, hash_)

    async def append(self, log: LogIdentity, batch: Batch, *, after: Head | None, resume: bytes | None = None) -> None:
        """Store a batch if the log's head is still `after`; durable when it returns.

        Args:
            log: whose records they are.
            batch: the next records.
            after: the head that they follow; None for record 0.
            resume: the collector's confirmation of `after`, if the engine does not have the log.

        Raises:
            HeadMoved: the head is another one, `actual`; nothing was stored.
            SinkUnavailable: no answer; whether the batch is stored is seen by the head.
            SinkFull: the server's disk or this host's allowance is used up.
            SinkRefused: this role has no right to the log, or the batch does not follow `after`.
            RecordTooLarge: the batch has more than 64 MiB.
        """
        if len(batch.lines) > MAX_VALUE_BYTES:
            raise RecordTooLarge(
                f"{self._server.shown}: record {batch.first_seq} has {len(batch.lines):,} bytes, "
                f"at most {MAX_VALUE_BYTES:,} are taken"
            )
        following = (-1, _NO_HASH) if after is None else (after.seq, after.hash)
        declared = (batch.first_seq, batch.last_seq, batch.prev, batch.last_hash, batch.lines, resume)
        [(appended, seq, hash_)] = await self._call(
            "append", "%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %b, %b", (*self._of(log), *following, *declared)
        )
        if not appended:
            raise HeadMoved(_head(seq, hash_))

    async def describe(self, log: LogIdentity, document: bytes) -> None:
        """Store a log's `log.json`, once; durable when it returns. The same bytes again change nothing.

        Args:
            log: whose description it is.
            document: what the host's `log.json` holds.

        Raises:
            SinkUnavailable: no answer.
            SinkFull: this host has as many logs as it may.
            SinkRefused: another description is stored, this one is too long, or this role has no right to the log.
        """
        await self._call("describe", "%s, %s, %s, %s, %b", (*self._of(log), document))

    async def description(self, log: LogIdentity) -> bytes | None:
        """Return the log's `log.json`, None if nobody has stored it yet."""
        [(document,)] = await self._call("description", "%s, %s, %s, %s", self._of(log))
        return None if document is None else bytes(document)

    async def repeat_head(self, log: LogIdentity) -> None:
        """Show that the log's host is there, with nothing new.

        Raises:
            HeadMoved: the engine does not have the log.
        """
        [(known,)] = await self._call("repeat_head", "%s, %s, %s, %s", self._of(log))
        if not known:
            raise HeadMoved(None)

    async def heard_at(self, log: LogIdentity) -> datetime | None:
        """Return when the log's host last appended or repeated its head; for collectors only."""
        [(at,)] = await self._call("heard_at", "%s, %s, %s, %s", self._of(log))
        return None if at is None else at.astimezone(UTC)

    async def read(self, log: LogIdentity, after: Head | None) -> AsyncIterator[Batch]:
        """Yield what the engine holds of a log after a record, in order; whole batches, the first one cut if need be.

        What was trimmed is missing: then the first batch begins later than `after` ends.
        """
        at = -1 if after is None else after.seq
        while True:
            rows = await self._call("read_after", "%s, %s, %s, %s, %s, %s", (*self._of(log), at, _PAGE))
            for first_seq, last_seq, prev, last_hash, lines in rows:
                batch = Batch(first_seq=first_seq, last_seq=last_seq, prev=prev, last_hash=last_hash, lines=lines)
                yield batch if first_seq > at else batch.rest_after(at)
                at = last_seq
            if len(rows) < _PAGE:
                return

    async def logs(self) -> list[LogIdentity]:
        """Return the tenant's logs; for collectors only.

        A log whose host has given it an unusable name is left out, with a warning: it must not keep the others away.
        """
        logs = []
        for service, host, instance, log_id in await self._call("logs", "", ()):
            try:
                log = LogIdentity(
                    tenant=self._names.tenant, service=service, host=host, instance=instance, log_id=log_id
                )
            except ConfigError as error:
                _logger.warning("%s: a log of host %a is left out: %s", self._server.shown, host, error)
            else:
                logs.append(log)
        return logs

    async def confirm(self, log: LogIdentity, confirmation: bytes) -> None:
        """Store the collector's newest signed confirmation in the place of the one before; for collectors only."""
        await self._call("confirm", "%s, %s, %s, %s, %b", (*self._of(log), confirmation))

    async def confirmation(self, log: LogIdentity) -> bytes | None:
        """Return the collector's newest signed confirmation, None if there is none."""
        [(confirmation,)] = await self._call("confirmation", "%s, %s, %s, %s", self._of(log))
        return None if confirmation is None else bytes(confirmation)

    async def aclose(self) -> None:
        """Close the connections; calls that are under way close theirs at their end."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    def _of(self, log: LogIdentity) -> tuple[str, str, str, str]:
        if log.tenant != self._names.tenant:
            raise SinkRefused(
                f"{self._server.shown}: this is the engine of tenant {self._names.tenant!r}, not of {log}"
            )
        return (log.service, log.host, log.instance, log.log_id)

    async def _call(self, function: str, placeholders: str, parameters: Sequence[object]) -> list[TupleRow]:
        async with self._connection() as connection:
            return await connection.execute(
                f"SELECT * FROM {self._schema}.{function}({placeholders})",
                parameters,
            )

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; it is kept for the next call only if nothing went wrong with it."""
        async with self._free:
            if self._closed:
                raise SinkUnavailable(f"{self._server.shown}: the sink is closed")
            connection = self._idle.pop() if self._idle else await self._connected()
            try:
                yield connection
            except BaseException:
                await connection.aclose()
                raise
            if self._closed:
                await connection.aclose()
            else:
                self._idle.append(connection)

    async def _connected(self) -> Connection:
        connection = await self._server.connect()
        try:
            begin = _BEGIN_SESSION.format(schema=self._schema)
            [(_, fsync, full_page_writes, standby, version, tenant)] = await connection.execute(begin)
            shown = self._server.shown
            for name, value in (("fsync", fsync), ("full_page_writes", full_page_writes)):
                if value != "on":
                    raise SinkRefused(f"{shown}: {name} is {value}: a power cut would lose what is stored; set it on")
            if standby:
                raise SinkUnavailable(f"{shown}: this is a standby; nothing can be stored there until it is promoted")
            if version != SCHEMA_VERSION:
                remedy = "update it with: audit-async engine init" if version < SCHEMA_VERSION else "update audit-async"
                raise SinkRefused(f"{shown}: the engine has schema version {version}, not {SCHEMA_VERSION}; {remedy}")
            if tenant != self._names.tenant:
                raise SinkRefused(f"{shown}: this is the engine of tenant {tenant!r}")
        except BaseException:
            await connection.aclose()
            raise
        return connection


def _head(seq: int, hash_: str) -> Head | None:
    return None if seq < 0 else Head(seq=seq, hash=hash_)
