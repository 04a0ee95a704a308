"""One SQLite file of a key store: opened so that what is deleted is gone, and what is committed is durable.

- `journal_mode=PERSIST`: the journal keeps its blocks and is overwritten in place. Deleted or truncated, as the other
  modes do it, the pages in it would stay in freed blocks of the disk, which nobody can overwrite any more. A commit is
  durable: with `synchronous=FULL` the header's zeroing, which commits, is synced
  (https://www.sqlite.org/pragma.html#pragma_journal_mode).
- No WAL: it can't be emptied while another process reads.
- `secure_delete=ON`: what is deleted is overwritten in the file (https://www.sqlite.org/pragma.html#pragma_secure_delete).
  That does not reach copies of a row that SQLite left when it moved the row to another page, so rows that hold keys are
  only appended, and overwritten in place by as many bytes: they never move.
- `temp_store=MEMORY`: no temporary file outside of the store.

After a transaction that destroys something, the journal is overwritten, which has the pages as they were before. Until
that is done the file says so (`user_version`, which is part of the same transaction), so that the next change finishes
it: a process may be killed after its commit, and an error may come after it.
"""

from __future__ import annotations

import ctypes
import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from audit_async.privacy.store_directory import overwrite
from audit_async.privacy.store_failures import KeyStoreDamaged, KeyStoreRefused, KeyStoreUnavailable

_BUSY_TIMEOUT_S: Final = 10.0
_CACHE_KIB: Final = 16_384
_PRAGMAS: Final = (
    "trusted_schema=OFF",
    "auto_vacuum=NONE",  # which would move pages, and cut the file without overwriting what it cuts
    "secure_delete=ON",
    "temp_store=MEMORY",
    "synchronous=FULL",
    f"cache_size=-{_CACHE_KIB}",
)
#: The first version that overwrites a row in place, and knows every statement here.
_LEAST_VERSION: Final = (3, 24)
#: SQLite's primary result codes (https://www.sqlite.org/rescode.html), and what they mean for a writer.
_ERRNOS: Final = {
    sqlite3.SQLITE_BUSY: errno.EAGAIN,
    sqlite3.SQLITE_LOCKED: errno.EAGAIN,
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
#: The values of `user_version` (https://www.sqlite.org/pragma.html#pragma_user_version).
_SCRUBBED: Final = 0
_UNSCRUBBED: Final = 1


class SqliteFile:
    """A connection to one file, opened when it is needed, and again after an error of the disk."""

    def __init__(self, path: Path, *, journal_mode: str = "PERSIST") -> None:
        self.path = path
        self._journal_mode = journal_mode
        self._connection: sqlite3.Connection | None = None
        self._is_in_doubt = False  # a commit failed, and may have been done all the same

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection; a statement in it sees what was committed before.

        Raises:
            KeyStoreUnavailable: The file can't be read now.
            KeyStoreDamaged: It is no database, or a damaged one.
        """
        try:
            yield self._open()
        except sqlite3.Error as error:
            self.close()  # after an error of the disk its cache is not to be believed
            raise self._translated(error) from error

    @contextmanager
    def writing(self, *, destroys: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction, which is committed and durable at the end.

        The caller has the store's lock. An error may come after the commit: a second try finds what the first has
        changed, and makes it durable even if there is nothing left to change.

        Args:
            destroys: What is deleted or overwritten is gone from the journal as well when this returns.

        Raises:
            KeyStoreUnavailable: It was not done, or not all of it; try again.
            KeyStoreDamaged: It is no database, or a damaged one.
        """
        self._scrub_if_due()
        with self._transaction(_UNSCRUBBED if destroys else _SCRUBBED) as connection:
            yield connection
        if destroys:
            self._scrub()

    def finish(self) -> None:
        """Finish a change whose commit was done and whose call failed, or whose process was killed.

        The caller has the store's lock. A few microseconds if there is nothing to finish.
        """
        self._scrub_if_due()
        if self._is_in_doubt:
            with self._transaction(_SCRUBBED):
                pass  # commits: what is visible is durable from now on

    def is_scrubbed(self) -> bool:
        """Return whether nothing that was destroyed may still be in the journal."""
        with self.reading() as connection:
            return bool(connection.execute("PRAGMA user_version").fetchone()[0] == _SCRUBBED)

    @contextmanager
    def _transaction(self, user_version: int) -> Iterator[sqlite3.Connection]:
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                # Writes a page in any case. Without one SQLite would sync nothing, as in a second try that finds
                # everything stored by a first one whose last sync failed.
                connection.execute(f"PRAGMA user_version={user_version}")
                yield connection
                self._is_in_doubt = True
                connection.execute("COMMIT")
                self._is_in_doubt = False
            except BaseException:
                with suppress(sqlite3.Error):
                    if self._connection is connection and connection.in_transaction:  # no more so in a child
                        connection.execute("ROLLBACK")
                raise

    def _scrub_if_due(self) -> None:
        if not self.is_scrubbed():  # having read, SQLite has rolled back what a crash left: the journal is not needed
            self._scrub()

    def _scrub(self) -> None:
        """Overwrite the journal with zeros, durably. The caller has the store's lock, so nobody writes to it.

        A journal of zeros is none: SQLite rolls back only one whose first byte is not zero
        (https://www.sqlite.org/atomiccommit.html#_hot_rollback_journals).
        """
        overwrite(self.path.with_name(f"{self.path.name}-journal"))
        with self._transaction(_SCRUBBED):
            pass  # its journal has the file's first page alone, which holds no row

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def give_up(self) -> None:
        """Leave the connection to the parent that this process was forked from.

        It is never closed here, not even by the interpreter at its end: SQLite would roll back a transaction that the
        parent is in the middle of, in the file that both have open
        (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if sqlite3.sqlite_version_info < _LEAST_VERSION:
                raise KeyStoreRefused(
                    f"SQLite {sqlite3.sqlite_version} moves rows when it overwrites them, so keys could not be "
                    "destroyed; use an interpreter with SQLite 3.24 or later"
                )
            # rw: a file that is not there is an error, never a new and empty one
            uri = f"{self.path.as_uri()}?mode=rw"
            connection = sqlite3.connect(
                uri, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True
            )
            try:
                for pragma in _PRAGMAS:
                    connection.execute(f"PRAGMA {pragma}")
                connection.execute(f"PRAGMA journal_mode={self._journal_mode}")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _translated(self, error: sqlite3.Error) -> KeyStoreUnavailable | KeyStoreDamaged:
        code = getattr(error, "sqlite_errorcode", None)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        primary = code & 0xFF if isinstance(code, int) else None
        if primary in _DAMAGE or not isinstance(error, sqlite3.OperationalError):
            return KeyStoreDamaged(
                f"the key store's file {self.path} is damaged ({name}); restore the key store from its backup"
            )
        number = errno.EIO if primary is None else _ERRNOS.get(primary, errno.EIO)
        return KeyStoreUnavailable(number, f"the key store can't be used now: {error} ({name})", str(self.path))
