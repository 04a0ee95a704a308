"""The data keys of one UTC month, wrapped, in one SQLite file with three tables a day.

| table | row |
| --- | --- |
| `key_20260` | number, key id, pseudonym, 61 bytes: the wrapped key, or when it was destroyed |
| `id_20260` | key id, number |
| `subject_20260` | pseudonym, number; of living keys only |

The number in a table's name is the day. A key is wrapped by its day's key: 1, nonce (12), AES-256-GCM ciphertext and
tag (48), with the key id as associated data. Destroyed it is 0, the time in milliseconds since 1970 (8, big-endian),
zeros: as many bytes, since a row of `key_…` must not move (see `sqlite_file`). Only the indexes have rows in between.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async.privacy.data_keys import NewKey, day_of
from audit_async.privacy.key_store import Destroyed
from audit_async.privacy.sqlite_file import SqliteFile

_LIVE: Final = b"\x01"
_DEAD: Final = b"\x00"
_NONCE_BYTES: Final = 12
_STATE_BYTES: Final = 61
_NOBODY: Final = bytes(16)
_CHUNK: Final = 500  # ids in one statement
_TABLE: Final = re.compile(r"key_([0-9]{1,5})", re.ASCII)
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)


class MonthFile:
    """One month's keys; the caller has the store's lock if it writes."""

    def __init__(self, path: Path) -> None:
        self.file = SqliteFile(path)

    def days(self) -> list[int]:
        """Return the days that have keys here."""
        with self.file.reading() as connection:
            return sorted(_days(connection))

    def insert(self, keys: Sequence[NewKey], refused: frozenset[bytes], day_keys: dict[int, AESGCM]) -> list[bytes]:
        """Store keys, in one transaction; return the ids of those that were destroyed before.

        Args:
            keys: The new keys, of this month.
            refused: The ids of those that are not to be stored, and are noted as destroyed.
            day_keys: The key of each day that occurs.
        """
        destroyed: list[bytes] = []
        dead = _dead_state()
        with self.file.writing() as connection:
            for day, group in _by_day(keys):
                known = dict(_rows_of(connection, day, [key.key_id for key in group]))
                cipher = day_keys[day]
                rows = []
                for key in group:
                    state = known.get(key.key_id)
                    if state is not None:  # the same call once more, after an error that came too late
                        if state[:1] == _DEAD:
                            destroyed.append(key.key_id)
                    elif key.key_id in refused:
                        rows.append((key.key_id, _NOBODY, dead))
                    else:
                        rows.append((key.key_id, key.subject, _wrapped(key, cipher)))
                _append(connection, day, rows)
        return destroyed

    def find(self, subject: bytes) -> list[bytes]:
        """Return the ids of a subject's living keys, the oldest day first."""
        found: list[bytes] = []
        with self.file.reading() as connection:
            for day in sorted(_days(connection)):
                rows = connection.execute(
                    f"SELECT id FROM subject_{day} JOIN key_{day} USING (n) WHERE subject_{day}.subject = ? ORDER BY n",  # noqa: S608 - a number
                    (subject,),
                )
                found.extend(row[0] for row in rows)
        return found

    def states(self, key_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what the file has of each key id that it knows."""
        found: dict[bytes, bytes] = {}
        with self.file.reading() as connection:
            for day, group in _ids_by_day(key_ids):
                found.update(_rows_of(connection, day, group))
        return found

    def destroy(self, key_ids: Sequence[bytes]) -> int:
        """Destroy keys, note those that were never known, and overwrite the journal; return how many were alive."""
        alive = 0
        dead = _dead_state()
        with self.file.writing(destroys=True) as connection:
            for day, group in _ids_by_day(dict.fromkeys(key_ids)):
                _make_tables(connection, day)
                rows = [
                    row
                    for chunk in _chunks(group)
                    for row in connection.execute(
                        f"SELECT n, key_{day}.id, subject, state FROM id_{day} JOIN key_{day} USING (n) "  # noqa: S608 - a number
                        f"WHERE id_{day}.id IN ({_marks(chunk)})",
                        chunk,
                    )
                ]
                live = [row for row in rows if row[3][:1] == _LIVE]
                connection.executemany(
                    f"UPDATE key_{day} SET subject = ?, state = ? WHERE n = ?",  # noqa: S608 - a number
                    [(_NOBODY, dead, row[0]) for row in live],
                )
                connection.executemany(
                    f"DELETE FROM subject_{day} WHERE subject = ? AND n = ?",  # noqa: S608 - a number
                    [(row[2], row[0]) for row in live],
                )
                known = {row[1] for row in rows}
                _append(connection, day, [(key_id, _NOBODY, dead) for key_id in group if key_id not in known])
                alive += len(live)
        return alive

    def count(self, day: int) -> int:
        """Return how many living keys a day has."""
        with self.file.reading() as connection:
            if day not in _days(connection):
                return 0
            row = connection.execute(f"SELECT count(*) FROM subject_{day}").fetchone()  # noqa: S608 - a number
            return int(row[0])

    def drop(self, days: Iterable[int]) -> None:
        """Remove everything about some days, overwritten with zeros."""
        with self.file.writing(destroys=True) as connection:
            for day in days:
                for table in ("key", "id", "subject"):
                    connection.execute(f"DROP TABLE IF EXISTS {table}_{day}")


def opened(state: bytes, key_id: bytes, day_key: Callable[[int], AESGCM | None]) -> bytes | Destroyed | None:
    """Return the key of a row, when it was destroyed, or None if the row is damaged or its day's key is missing.

    Args:
        state: What the file has.
        key_id: The key's id.
        day_key: Returns the key of a day, None if it is not in the store; asked for living keys only.
    """
    if len(state) == _STATE_BYTES and state[:1] == _DEAD:
        return Destroyed(_EPOCH_START + timedelta(milliseconds=int.from_bytes(state[1:9], "big")))
    cipher = day_key(day_of(key_id)) if state[:1] == _LIVE else None
    if cipher is None:
        return None
    try:
        return cipher.decrypt(state[1 : 1 + _NONCE_BYTES], state[1 + _NONCE_BYTES :], key_id)
    except (InvalidTag, ValueError):
        return None


def _wrapped(key: NewKey, cipher: AESGCM) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return _LIVE + nonce + cipher.encrypt(nonce, key.key, key.key_id)


def _dead_state() -> bytes:
    now_ms = (datetime.now(UTC) - _EPOCH_START) // timedelta(milliseconds=1)
    return (_DEAD + now_ms.to_bytes(8, "big")).ljust(_STATE_BYTES, b"\0")


def _days(connection: sqlite3.Connection) -> set[int]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {int(match[1]) for row in names if (match := _TABLE.fullmatch(row[0]))}


def _make_tables(connection: sqlite3.Connection, day: int) -> None:
    if day in _days(connection):
        return
    connection.execute(f"CREATE TABLE key_{day} (n INTEGER PRIMARY KEY, id BLOB, subject BLOB, state BLOB)")
    connection.execute(f"CREATE TABLE id_{day} (id BLOB PRIMARY KEY, n INTEGER) WITHOUT ROWID")
    connection.execute(f"CREATE TABLE subject_{day} (subject BLOB, n INTEGER, PRIMARY KEY (subject, n)) WITHOUT ROWID")


def _append(connection: sqlite3.Connection, day: int, rows: Sequence[tuple[bytes, bytes, bytes]]) -> None:
    """Add rows (key id, pseudonym, state) after all that are there."""
    if not rows:
        return
    _make_tables(connection, day)
    last = connection.execute(f"SELECT max(n) FROM key_{day}").fetchone()[0] or 0  # noqa: S608 - a number
    numbered = list(enumerate(rows, last + 1))
    connection.executemany(
        f"INSERT INTO key_{day} VALUES (?, ?, ?, ?)",  # noqa: S608 - a number
        [(n, *row) for n, row in numbered],
    )
    # In the indexes' order: neighbours on one page are written together.
    connection.executemany(
        f"INSERT INTO id_{day} VALUES (?, ?)",  # noqa: S608 - a number
        sorted((row[0], n) for n, row in numbered),
    )
    connection.executemany(
        f"INSERT INTO subject_{day} VALUES (?, ?)",  # noqa: S608 - a number
        sorted((row[1], n) for n, row in numbered if row[2][:1] == _LIVE),
    )


def _rows_of(connection: sqlite3.Connection, day: int, key_ids: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key id and the state of each of these ids that is known."""
    if day not in _days(connection):
        return
    for chunk in _chunks(key_ids):
        yield from connection.execute(
            f"SELECT key_{day}.id, state FROM id_{day} JOIN key_{day} USING (n) WHERE id_{day}.id IN ({_marks(chunk)})",  # noqa: S608 - a number
            chunk,
        )


def _chunks(key_ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(key_ids), _CHUNK):
        yield key_ids[at : at + _CHUNK]


def _marks(chunk: Sequence[bytes]) -> str:
    return ",".join("?" * len(chunk))


def _by_day(keys: Iterable[NewKey]) -> Iterator[tuple[int, list[NewKey]]]:
    groups: dict[int, list[NewKey]] = {}
    for key in keys:
        groups.setdefault(day_of(key.key_id), []).append(key)
    yield from groups.items()


def _ids_by_day(key_ids: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    groups: dict[int, list[bytes]] = {}
    for key_id in key_ids:
        groups.setdefault(day_of(key_id), []).append(key_id)
    yield from groups.items()
