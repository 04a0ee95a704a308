"""The table of erasure requests in the main file of a key store.

| column | value |
| --- | --- |
| `request_id` | its id |
| `subject` | the pseudonym of who is to be erased |
| `subject_mark`, `requester_mark` | keyed hashes of two names, to compare others with them |
| `requested_ms`, `not_before_ms` | when it was requested, and before when it is not executed: milliseconds since 1970 |
| `approval` | 0: it needs none; 1: anybody's; 2: a second person's |
| `is_approved` | somebody has approved it |
| `step`, `step_log`, `step_epoch` | the step that is not confirmed, the log that records it, and its epoch |
| `erasure_id` | the erasure that executes it |
| `keys` | how many keys the person had when it was requested |
| `texts` | who asked, why, and who did the last step, sealed |
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

__all__ = [
    "RequestRow",
    "bind",
    "count",
    "doubt_all",
    "insert",
    "is_there",
    "next_epoch",
    "prepare",
    "release",
    "remove",
    "remove_executed",
    "rows",
    "update",
]

NO_APPROVAL: Final = 0
ANY_APPROVAL: Final = 1
SECOND_PERSON: Final = 2

_COLUMNS: Final = (
    "request_id, subject, subject_mark, requester_mark, requested_ms, not_before_ms, approval, is_approved, step, "
    "step_log, step_epoch, erasure_id, keys, texts"
)


class RequestRow(NamedTuple):
    """A row of the table."""

    request_id: str
    subject: bytes
    subject_mark: bytes
    requester_mark: bytes
    requested_ms: int
    not_before_ms: int
    approval: int
    is_approved: int
    step: str | None
    step_log: str | None
    step_epoch: int
    erasure_id: str | None
    keys: int
    texts: bytes


def is_there(connection: sqlite3.Connection) -> bool:
    """Return whether the file has the table, and with it the second format."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    return row is not None and row[0] == 2


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of the second format, in a transaction."""
    if is_there(connection):
        return
    connection.execute(
        "CREATE TABLE requests (request_id TEXT PRIMARY KEY, subject BLOB, subject_mark BLOB, requester_mark BLOB, "
        "requested_ms INTEGER, not_before_ms INTEGER, approval INTEGER, is_approved INTEGER, step TEXT, step_log TEXT, "
        "step_epoch INTEGER, erasure_id TEXT, keys INTEGER, texts BLOB)"
    )
    connection.execute("CREATE TABLE erasures_before (erasure_id TEXT PRIMARY KEY, day INTEGER)")
    connection.execute("UPDATE meta SET value = 2 WHERE name = 'format'")


def next_epoch(connection: sqlite3.Connection) -> int:
    """Raise the store's epoch by one, and return it: a store from a backup does not know what was asked since."""
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
    return int(connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0])


def count(connection: sqlite3.Connection) -> int:
    """Return the number of requests."""
    return int(connection.execute("SELECT count(*) FROM requests").fetchone()[0])


def rows(connection: sqlite3.Connection) -> list[RequestRow]:
    """Return all requests, the oldest first; none if there is no table."""
    if not is_there(connection):
        return []
    found = connection.execute(f"SELECT {_COLUMNS} FROM requests ORDER BY requested_ms, request_id")  # noqa: S608 - names
    return [RequestRow(*row) for row in found]


def insert(connection: sqlite3.Connection, row: RequestRow) -> None:
    """Add a request."""
    connection.execute(f"INSERT INTO requests ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - names


def update(connection: sqlite3.Connection, row: RequestRow) -> None:
    """Put a row in place of the one with its id."""
    connection.execute("DELETE FROM requests WHERE request_id = ?", (row.request_id,))
    insert(connection, row)


def bind(connection: sqlite3.Connection, request_id: str, erasure_id: str) -> None:
    """Note which erasure executes a request."""
    connection.execute("UPDATE requests SET erasure_id = ? WHERE request_id = ?", (erasure_id, request_id))


def release(connection: sqlite3.Connection, erasure_id: str) -> None:
    """Note that an erasure does not execute its request after all."""
    connection.execute("UPDATE requests SET erasure_id = NULL WHERE erasure_id = ?", (erasure_id,))


def remove(connection: sqlite3.Connection, request_id: str) -> None:
    """Delete a request."""
    connection.execute("DELETE FROM requests WHERE request_id = ?", (request_id,))


def remove_executed(connection: sqlite3.Connection, erasure_id: str) -> None:
    """Delete the request that an erasure has executed."""
    connection.execute("DELETE FROM requests WHERE erasure_id = ?", (erasure_id,))


def doubt_all(connection: sqlite3.Connection) -> None:
    """Have every request approved again: the file is from a backup, and it may have been cancelled since."""
    if is_there(connection):
        connection.execute(
            "UPDATE requests SET is_approved = 0, approval = max(approval, ?) WHERE erasure_id IS NULL", (ANY_APPROVAL,)
        )
