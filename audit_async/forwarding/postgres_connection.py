"""Connections to a PostgreSQL server: from a URL, with what an audit trail needs, and errors that hold no secret."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final

import anyio
import psycopg
from psycopg import AsyncConnection, conninfo
from psycopg.rows import TupleRow

from audit_async.errors import ConfigError
from audit_async.forwarding.sink_errors import RecordTooLarge, SinkError, SinkFull, SinkRefused, SinkUnavailable

__all__ = ["Connection", "Server"]

_URL_FORM: Final = "postgres://ROLE@HOST/DATABASE?passfile=FILE"
_CONNECT_TIMEOUT_S: Final = 10
_INTERRUPT_TIMEOUT_S: Final = 2.0
#: SQLSTATEs of the functions in postgres_schema.sql, and of PostgreSQL, by what they mean for a forwarder; of others
#: the class decides. https://www.postgresql.org/docs/current/errcodes-appendix.html
_ERRORS: Final[dict[str, type[SinkError]]] = {
    "AU001": SinkRefused,
    "AU002": SinkFull,
    "AU003": RecordTooLarge,
    "25006": SinkUnavailable,  # read only: a standby, or a server that is being switched over
    "53100": SinkFull,  # the server's disk
    "55P03": SinkUnavailable,  # a lock was not to be had in time
}
_ERROR_CLASSES: Final[dict[str, type[SinkError]]] = {
    "08": SinkUnavailable,  # connection
    "40": SinkUnavailable,  # rolled back: serialization, deadlock
    "53": SinkUnavailable,  # resources
    "54": RecordTooLarge,  # a limit of the program
    "57": SinkUnavailable,  # an operator intervened: shutdown, cancelled
    "58": SinkUnavailable,  # the server's operating system: an I/O error
}


class Server:
    """A PostgreSQL server as a URL names it, and how to connect to it.

    A URL is what libpq takes: several hosts, `service`, `passfile`, `sslmode` and the rest. What matters for a trail
    has other defaults here: a host that is not this machine has to prove its name by TLS, of several hosts the
    primary is taken, and a connection that is dead is noticed.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        """Take the URL apart; nothing is connected. Raises `ConfigError`, which never repeats the URL."""
        if not url.startswith(("postgres://", "postgresql://")):
            raise ConfigError("url", f"a PostgreSQL engine is written {_URL_FORM}")
        try:
            given = conninfo.conninfo_to_dict(url)
        except (psycopg.Error, UnicodeError):
            given = None
        if given is None or _is_cut_wrongly(url, given):
            # Not libpq's own message, which repeats what it could not read: that may be the password.
            raise ConfigError("url", f"libpq can't read this URL; write {_URL_FORM}, special characters as %XX")
        defaults: dict[str, object] = {
            "application_name": "audit-async",
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "target_session_attrs": "primary",
        }
        if not _is_this_machine(given) and "service" not in given:
            defaults["sslmode"] = "verify-full"
            defaults["sslrootcert"] = "system"
            if "sslrootcert" in given or "sslmode" in given:
                del defaults["sslrootcert"]
        self._parameters: Final = {**defaults, **given, "client_encoding": "UTF8"}
        self._timeout_s: Final = timeout_s

    def __repr__(self) -> str:
        return f"<Server {self.shown}>"

    @property
    def shown(self) -> str:
        """The server without any secret: role, host and database."""
        at = self._parameters
        role = f"{at['user']}@" if "user" in at else ""
        port = f":{at['port']}" if "port" in at else ""
        host = at.get("host") or at.get("hostaddr") or (f"service={at['service']}" if "service" in at else "")
        return f"postgres://{role}{host}{port}/{at.get('dbname') or ''}"

    @property
    def place(self) -> dict[str, str]:
        """What another role needs to get to the same database: host, port, database, TLS settings."""
        wanted = ("host", "hostaddr", "port", "dbname", "sslmode", "sslrootcert", "target_session_attrs")
        default = {"sslmode": "verify-full", "sslrootcert": "system", "target_session_attrs": "primary"}
        return {
            name: str(self._parameters[name])
            for name in wanted
            if self._parameters.get(name) is not None and default.get(name) != self._parameters[name]
        }

    async def connect(self, *, warnings_are_errors: bool = True) -> Connection:
        """Connect. Raises `SinkUnavailable`."""
        with self.naming_errors(), anyio.fail_after(self._timeout_s):
            connection = await AsyncConnection.connect(
                conninfo.make_conninfo("", **self._parameters),  # type: ignore[arg-type]  # its values are objects
                autocommit=True,
            )
        return Connection(self, connection, self._timeout_s, warnings_are_errors=warnings_are_errors)

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Turn what psycopg raises into this package's errors, with what the server said but none of the values."""
        try:
            yield
        except TimeoutError:
            raise SinkUnavailable(f"{self.shown}: no answer within {self._timeout_s:g} s") from None
        except psycopg.Error as error:
            raise self._named(error) from None
        except OSError as error:
            raise SinkUnavailable(f"{self.shown}: {error.strerror or error}") from None

    def _named(self, error: psycopg.Error) -> SinkError:
        state = error.sqlstate or ""
        kind = _ERRORS.get(state) or _ERROR_CLASSES.get(state[:2])
        if not state:
            # No answer of the server: libpq's own words about the connection, which hold no password.
            return SinkUnavailable(f"{self.shown}: {' '.join(str(error).split())}")
        said = error.diag.message_primary or state
        hint = f"; {error.diag.message_hint}" if error.diag.message_hint else ""
        code = "" if state.startswith("AU") else f" (SQLSTATE {state})"
        if state in {"3F000", "42883", "42P01"}:
            hint = "; make or update the engine with: audit-async engine init"
        return (kind or SinkRefused)(f"{self.shown}: {said}{code}{hint}")


class Connection:
    """One connection; after any error it is of no use and is closed."""

    def __init__(
        self, server: Server, connection: AsyncConnection[TupleRow], timeout_s: float, *, warnings_are_errors: bool
    ) -> None:
        self.server: Final = server
        self._connection: Final = connection
        self._timeout_s: Final = timeout_s
        self._warnings: list[str] = []
        if warnings_are_errors:
            connection.add_notice_handler(self._keep_warning)

    @property
    def raw(self) -> AsyncConnection[TupleRow]:
        """The connection of psycopg itself."""
        return self._connection

    async def execute(self, query: str, parameters: Sequence[object] | None = None) -> list[TupleRow]:
        """Run a statement and return its rows, if it has any.

        Raises `SinkUnavailable` also if the server warns: a commit that did not wait for its standbys ends with a
        warning and no error. https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION
        """
        self._warnings.clear()
        with self.server.naming_errors():
            rows = await self._answer(query.encode(), parameters)
        if self._warnings:
            raise SinkUnavailable(f"{self.server.shown}: the server warned: {self._warnings[0]}")
        return rows

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Run the block in one transaction."""
        with self.server.naming_errors():
            async with self._connection.transaction():
                yield

    async def aclose(self) -> None:
        """Close it."""
        with contextlib.suppress(psycopg.Error, OSError):
            await self._connection.close()

    async def _answer(self, query: bytes, parameters: Sequence[object] | None) -> list[TupleRow]:
        """Return the rows of a statement; raises `TimeoutError` if it was interrupted for taking too long.

        A statement is never left alone: if the caller is cancelled or the time is up, the server is asked to give it
        up. Otherwise a commit that waits for a standby that is gone would keep a process of the server, at each try.
        """
        answered, late = anyio.Event(), False
        outcome: list[TupleRow] | psycopg.Error | None = None

        async def interrupt(answering: anyio.CancelScope) -> None:
            nonlocal late
            try:
                await anyio.sleep(self._timeout_s)
                late = True
            finally:
                if not answered.is_set():
                    with anyio.move_on_after(_INTERRUPT_TIMEOUT_S, shield=True):
                        with contextlib.suppress(psycopg.Error, OSError):
                            await self._connection.cancel_safe(timeout=_INTERRUPT_TIMEOUT_S)
                        await answered.wait()
                    answering.cancel()

        async with anyio.create_task_group() as group:
            with anyio.CancelScope(shield=True) as answering:
                group.start_soon(interrupt, answering)
                try:
                    cursor = await self._connection.execute(query, parameters)
                    outcome = await cursor.fetchall() if cursor.description is not None else []
                except psycopg.Error as error:
                    outcome = error
                answered.set()
            group.cancel_scope.cancel()
        if late or outcome is None:
            raise TimeoutError
        if isinstance(outcome, psycopg.Error):
            raise outcome
        return outcome

    def _keep_warning(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "")


def _is_cut_wrongly(url: str, given: Mapping[str, object]) -> bool:
    """Return whether `@` or `/` in a password that is not written as %XX has become a part of the host or the database.

    Either would be shown in messages, in the status and in records.
    """
    authority, _, rest = url.partition("://")[2].partition("/")
    ports = str(given.get("port") or "").split(",")
    return (
        authority.count("@") > 1
        or "@" in rest.partition("?")[0]
        or not all(port == "" or (port.isascii() and port.isdigit()) for port in ports)
    )


def _is_this_machine(given: Mapping[str, object]) -> bool:
    """Return whether every host of a URL is this machine: a socket's directory, or a loopback address."""
    hosts = str(given.get("hostaddr") or given.get("host") or "").split(",")
    return all(host == "" or host.startswith(("/", "@")) or host == "localhost" or _is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
