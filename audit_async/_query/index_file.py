"""The file that an index is kept in: its place, its tables, and when it has to be made again."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit_async._layout.names import INDEX_FILE
from audit_async._trail.log_files import Log

#: Changed with anything that makes an older index answer differently, such as what counts as an actor.
_SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x61756978
_SCHEMA: Final = """
CREATE TABLE log (log_id TEXT NOT NULL, salt BLOB NOT NULL, byte_order TEXT NOT NULL);
CREATE TABLE segments (first_seq INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, file_bytes INTEGER, ctime_ns INTEGER,
    earliest TEXT NOT NULL, latest TEXT NOT NULL, has_terms INTEGER NOT NULL);
CREATE TABLE types (first_seq INTEGER, tag TEXT, PRIMARY KEY (first_seq, tag)) WITHOUT ROWID;
CREATE TABLE postings (term INTEGER, first_seq INTEGER, part INTEGER, offsets BLOB,
    PRIMARY KEY (term, first_seq, part)) WITHOUT ROWID;
"""
_LOG_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_BUSY_S: Final = 2.0


class IndexWrong(Exception):
    """What the index says is not so; it has to be dropped."""


#: What may be raised while an index is asked: the query goes on without it, see `LogIndex.give_up`.
INDEX_FAILED: Final = (IndexWrong, sqlite3.Error)


def places(log: Log) -> Iterator[Path]:
    """Yield the places where the index of a log may be; none for a log without an id."""
    if not _LOG_ID.fullmatch(log.log_id):
        return
    with suppress(OSError):
        # Not in the directory of somebody else, who could neither use nor remove it, root being who asks.
        is_own = not hasattr(os, "geteuid") or os.stat(log.directory).st_uid == os.geteuid()
        if is_own and os.access(log.directory, os.W_OK):
            yield log.directory / INDEX_FILE
    with suppress(OSError, RuntimeError):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audit-async"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield cache / f"{log.log_id}.sqlite3"


def open_database(path: Path, log_id: str) -> sqlite3.Connection:
    """Open the file, and make the tables in a new one; raises `IndexWrong` for one that doesn't fit."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    os.close(os.open(path, flags, 0o600))  # SQLite itself would make it readable for others
    database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA secure_delete = ON")
        if _kind_of(database) == (0, 0):
            database.execute("BEGIN IMMEDIATE")
            if _kind_of(database) == (0, 0):  # no other process has made them meanwhile
                for statement in _SCHEMA.split(";")[:-1]:
                    database.execute(statement)
                database.execute("INSERT INTO log VALUES (?, ?, ?)", (log_id, os.urandom(16), sys.byteorder))
                database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            database.execute("COMMIT")
        is_ours = _kind_of(database) == (_APPLICATION_ID, _SCHEMA_VERSION)
        if not is_ours or database.execute("SELECT log_id, byte_order FROM log").fetchall() != [
            (log_id, sys.byteorder)
        ]:
            raise IndexWrong
    except BaseException:
        database.close()
        raise
    return database


def _kind_of(database: sqlite3.Connection) -> tuple[int, int]:
    ((application,), (version,)) = (
        database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    return application, version


def is_broken(error: Exception) -> bool:
    """True if an index is at fault, and not the disk or another reader that is writing to it."""
    if isinstance(error, sqlite3.Error):
        # An extended code has the primary one in its lowest byte. A table that is missing is an SQLITE_ERROR.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
    return isinstance(error, IndexWrong | ValueError | TypeError)


def remove(path: Path) -> None:
    """Remove an index, so that it is made again; not while it is being written."""
    # If there is a journal, another process is writing; SQLite would roll it back into the next file of that name.
    if not path.with_name(f"{path.name}-journal").exists():
        with suppress(OSError):
            os.unlink(path)
