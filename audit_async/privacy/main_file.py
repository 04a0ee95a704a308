"""The main file of a key store: the wrapped keys of the days, erasures, holds, and who the store is.

| table | row |
| --- | --- |
| `meta` | name, value: who the store is, its epoch, what it has forgotten, its master key's name and canary |
| `wraps` | number, day (-1: the key of the pseudonyms), a wrapped key after its length (2), the same for escrow |
| `forgotten` | day, when it was forgotten in milliseconds since 1970, how many keys it had |
| `erasures` | erasure id, pseudonym, epoch, whether it was forced, whether it has ended |
| `erasures_before` | erasure id, day: only keys of earlier days are destroyed (format 2) |
| `requests` | see `request_table` (format 2) |
| `holds` | log id, hold id |

A row of `wraps` holds a key, so it is overwritten in place by as many bytes and never removed (see `sqlite_file`): a
forgotten day leaves zeros.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, cast, get_args

from audit_async.config.erasure_rules import ErasureRules
from audit_async.config.key_store_settings import Normalization
from audit_async.privacy import request_table
from audit_async.privacy.data_keys import date_of
from audit_async.privacy.key_store import HeldBy
from audit_async.privacy.master_key import LONGEST_WRAPPED, EscrowKey, EscrowRecipient, MasterKey
from audit_async.privacy.sqlite_file import SqliteFile
from audit_async.privacy.store_failures import KeyStoreDamaged, MasterKeyError

FORMATS: Final = (1, 2)  # the second has rules or requests of erasures, which a reader of the first would not obey
PSEUDONYMS: Final = -1  # the "day" whose key makes the pseudonyms

_KEY_BYTES: Final = 32
_LONGEST_ESCROWED: Final = 512  # RSA with 4096 bits
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE wraps (n INTEGER PRIMARY KEY, day INTEGER UNIQUE, wrapped BLOB, escrowed BLOB);
CREATE TABLE forgotten (day INTEGER PRIMARY KEY, at_ms INTEGER, keys INTEGER);
CREATE TABLE erasures (erasure_id TEXT PRIMARY KEY, subject BLOB, epoch INTEGER, forced INTEGER, ended INTEGER);
CREATE TABLE holds (log_id TEXT, hold_id TEXT, PRIMARY KEY (log_id, hold_id)) WITHOUT ROWID;
"""


class View(NamedTuple):
    """What the main file said when it was looked at: all that a commit needs to know."""

    epoch: int
    purged_epoch: int  #: erasures up to this epoch are no longer known one by one
    forgotten_before: int
    erased: dict[bytes, int]  #: pseudonym to the epoch of its latest erasure that destroys all keys
    erased_before: dict[bytes, tuple[int, int]]  #: of its latest other erasure: its epoch, and the day
    forgotten: dict[int, int]  #: day to the time in milliseconds
    master_version: int
    erased_key: bytes | None  #: one that was destroyed last
    missing: frozenset[int]  #: epochs of erasures that are to be done again by a log that records them
    missing_keys: frozenset[bytes]  #: keys that are to be destroyed again by a log that records their erasure
    rules: ErasureRules
    has_requests: bool


class WrapRow(NamedTuple):
    """A row of `wraps`."""

    day: int
    wrapped: bytes
    escrowed: bytes


class ErasureRow(NamedTuple):
    """An erasure that has begun."""

    erasure_id: str
    subject: bytes
    epoch: int
    forced: bool
    ended: bool
    before: int | None  #: only keys of days before this one are destroyed


class MainFile:
    """The main file; the caller has the store's lock if it writes."""

    def __init__(self, path: Path) -> None:
        self.file = SqliteFile(path)
        self._view: tuple[sqlite3.Connection, int, View] | None = None

    # -- what it says ---------------------------------------------------------------------------------------------

    def view(self) -> View:
        """Return what every commit looks at; a few microseconds if nothing was written since."""
        with self.file.reading() as connection:
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            # Each connection counts from the same number, so a number of one says nothing about another.
            if self._view is None or self._view[0] is not connection or self._view[1] != version:
                self._view = connection, version, _read_view(connection)
            return self._view[2]

    def meta(self, name: str) -> object:
        """Return a value of the table `meta`; None if there is none."""
        with self.file.reading() as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            return None if row is None else row[0]

    def wrapped(self, day: int) -> bytes | None:
        """Return a day's wrapped key; None if there is none, or none any more."""
        with self.file.reading() as connection:
            row = connection.execute("SELECT wrapped FROM wraps WHERE day = ?", (day,)).fetchone()
            return None if row is None else _unpadded(row[0])

    def days(self) -> list[int]:
        """Return the days that have a key, the oldest first."""
        with self.file.reading() as connection:
            rows = connection.execute("SELECT day, wrapped FROM wraps WHERE day >= 0 ORDER BY day")
            return [day for day, wrapped in rows if _unpadded(wrapped) is not None]

    def erasures(self) -> list[ErasureRow]:
        """Return the erasures that the store still knows, in their order."""
        with self.file.reading() as connection:
            before = _days_before(connection)
            rows = connection.execute("SELECT erasure_id, subject, epoch, forced, ended FROM erasures ORDER BY epoch")
            return [ErasureRow(row[0], row[1], row[2], bool(row[3]), bool(row[4]), before.get(row[0])) for row in rows]

    def forgotten_keys(self, days: Container[int]) -> dict[int, int]:
        """Return how many data keys each of these days had, if it was forgotten; the oldest first."""
        with self.file.reading() as connection:
            rows = connection.execute("SELECT day, keys FROM forgotten ORDER BY day")
            return {day: keys for day, keys in rows if day in days}

    def holds(self) -> list[HeldBy]:
        """Return the holds in force."""
        with self.file.reading() as connection:
            return [HeldBy(*row) for row in connection.execute("SELECT log_id, hold_id FROM holds ORDER BY 1, 2")]

    def waiting_requests(self) -> int:
        """Return how many erasures wait."""
        with self.file.reading() as connection:
            return sum(row.step != "cancelled" for row in request_table.rows(connection))

    def backed_up_at(self) -> datetime | None:
        """Return when the newest copy was made; None if there is none that is known."""
        at_s = self.meta("backed_up_s")
        return datetime.fromtimestamp(at_s, UTC) if isinstance(at_s, int) else None

    def normalization(self) -> Normalization:
        """Return how the ids of persons are normalised."""
        form = self.meta("normalize")
        for known in get_args(Normalization):
            if form == known:
                return cast("Normalization", known)
        raise KeyStoreDamaged(f"{self.file.path} normalises ids in a way that this version does not know; upgrade")

    # -- changes --------------------------------------------------------------------------------------------------

    def add_day(self, day: int, key: bytes, master: MasterKey) -> None:
        """Store a day's new key, wrapped."""
        row = wrap_row(day, key, master, self.escrow())
        with self.file.writing() as connection:
            _append_wrap(connection, row)
        self._view = None

    @contextmanager
    def changing(self, *, destroys: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction, as `SqliteFile.writing` does."""
        with self.file.writing(destroys=destroys) as connection:
            self._view = None
            yield connection

    def begin_erasure(
        self, erasure_id: str, subject: bytes, *, forced: bool, before: int | None = None, request_id: str | None = None
    ) -> int:
        """Begin an erasure, and return its epoch; that of an id that has begun is what it was.

        Args:
            erasure_id: Its id.
            subject: Who, as a pseudonym.
            forced: Also under a legal hold.
            before: Only keys of days before this one are destroyed; None for all.
            request_id: The request that it executes.
        """
        with self.changing() as connection:
            row = connection.execute("SELECT epoch FROM erasures WHERE erasure_id = ?", (erasure_id,)).fetchone()
            if row is not None:
                return int(row[0])
            epoch = _number(connection, "epoch") + 1
            _set(connection, "epoch", epoch)
            connection.execute("INSERT INTO erasures VALUES (?, ?, ?, ?, 0)", (erasure_id, subject, epoch, forced))
            if before is not None:
                request_table.prepare(connection)
                connection.execute("INSERT INTO erasures_before VALUES (?, ?)", (erasure_id, before))
            if request_id is not None:
                request_table.bind(connection, request_id, erasure_id)
            return epoch

    def end_erasure(self, erasure_id: str) -> None:
        """Note that an erasure has ended, and forget the request that it has executed."""
        has_requests = self.view().has_requests
        with self.changing(destroys=has_requests) as connection:
            connection.execute("UPDATE erasures SET ended = 1 WHERE erasure_id = ?", (erasure_id,))
            if has_requests:
                request_table.remove_executed(connection, erasure_id)

    def purge_erasures(self, up_to_epoch: int) -> None:
        """Forget whom the ended erasures up to an epoch were about."""
        with self.file.writing(destroys=True) as connection:
            self._view = None
            last = connection.execute(
                "SELECT max(epoch) FROM erasures WHERE ended = 1 AND epoch <= ?", (up_to_epoch,)
            ).fetchone()[0]
            if last is None:
                return
            if request_table.is_there(connection):
                connection.execute(
                    "DELETE FROM erasures_before WHERE erasure_id IN "
                    "(SELECT erasure_id FROM erasures WHERE ended = 1 AND epoch <= ?)",
                    (up_to_epoch,),
                )
            connection.execute("DELETE FROM erasures WHERE ended = 1 AND epoch <= ?", (up_to_epoch,))
            _set(connection, "purged_epoch", max(last, _number(connection, "purged_epoch")))

    def catch_up(
        self, epoch: int, *, missing: frozenset[int], found: frozenset[int], missing_keys: frozenset[bytes]
    ) -> None:
        """Raise the epoch to at least this; who had a cache before drops all of it. Note what is missing.

        What is found while the epoch is raised is noted as well: another log that is opened at the same time, and has
        seen the old epoch, may take it for missing afterwards.
        """
        with self.file.writing() as connection:
            self._view = None
            meta = dict(connection.execute("SELECT name, value FROM meta"))
            now = int(meta["epoch"])
            if epoch > now:
                _set(connection, "epoch", epoch)
                _set(connection, "purged_epoch", epoch)
                request_table.doubt_all(connection)
            known = _numbers(meta.get("found")) | {number for number in found if number > now}
            left = (_numbers(meta.get("missing")) | missing) - found - known
            _set(connection, "found", " ".join(map(str, sorted(known))))
            _set(connection, "missing", " ".join(map(str, sorted(left))))
            _set(connection, "missing_keys", " ".join(sorted(key_id.hex() for key_id in missing_keys)))

    def accept_missing(self) -> None:
        """Note that nothing is missing."""
        with self.file.writing() as connection:
            self._view = None
            _set(connection, "missing", "")
            _set(connection, "missing_keys", "")

    def set_erased_key(self, key_id: bytes) -> None:
        """Note a key that was destroyed just now."""
        with self.file.writing() as connection:
            self._view = None
            _set(connection, "erased_key", key_id)

    def keep_unrecorded(self, log_id: str, text: str) -> None:
        """Keep what a log has to record at its next opening; nothing if the text is empty."""
        with self.changing() as connection:
            if text:
                _set(connection, f"unrecorded {log_id}", text)
            else:
                connection.execute("DELETE FROM meta WHERE name = ?", (f"unrecorded {log_id}",))

    def set_backed_up(self) -> None:
        """Note that a copy was made just now."""
        with self.changing() as connection:
            _set(connection, "backed_up_s", int(time.time()))

    def lower_epoch(self, epoch: int) -> None:
        """Say an older epoch, in a copy that may hold keys which were destroyed since, and requests that have ended."""
        with self.changing() as connection:
            _set(connection, "epoch", epoch)
            request_table.doubt_all(connection)

    def forget(self, before: int, counts: dict[int, int]) -> None:
        """Destroy the keys of the days before one, and note how many data keys each had."""
        now_ms = time.time_ns() // 1_000_000
        with self.file.writing(destroys=True) as connection:
            self._view = None
            for day, keys in counts.items():
                connection.execute(
                    "UPDATE wraps SET wrapped = ?, escrowed = ? WHERE day = ?",
                    (_padded(None, LONGEST_WRAPPED), _padded(None, _LONGEST_ESCROWED), day),
                )
                connection.execute("INSERT OR IGNORE INTO forgotten VALUES (?, ?, ?)", (day, now_ms, keys))
            _set(connection, "forgotten_before", max(before, _number(connection, "forgotten_before")))

    def set_rules(self, rules: ErasureRules) -> None:
        """Put rules of erasures in force."""
        with self.changing() as connection:
            request_table.prepare(connection)
            _set(connection, "rule_delay_s", rules.delay_s)
            _set(connection, "rule_not_before_days", rules.not_before_days)
            _set(connection, "rule_two_person", int(rules.two_person))

    def set_hold(self, log_id: str, hold_id: str) -> None:
        """Copy a hold."""
        with self.file.writing() as connection:
            connection.execute("INSERT OR IGNORE INTO holds VALUES (?, ?)", (log_id, hold_id))

    def lift_hold(self, log_id: str, hold_id: str) -> None:
        """Remove a hold."""
        with self.file.writing() as connection:
            connection.execute("DELETE FROM holds WHERE log_id = ? AND hold_id = ?", (log_id, hold_id))

    # -- the master key -------------------------------------------------------------------------------------------

    def salt(self) -> bytes:
        """Return the salt of a passphrase."""
        salt = self.meta("salt")
        if not isinstance(salt, bytes):
            raise KeyStoreDamaged(f"{self.file.path} has no salt; restore the key store from its backup")
        return salt

    def unwrap(self, day: int, master: MasterKey) -> bytes | None:
        """Return a day's key; None if there is none, or none any more."""
        wrapped = self.wrapped(day)
        return None if wrapped is None else master.unwrap(wrapped, _purpose(day))

    def pseudonym_key(self, master: MasterKey) -> bytes:
        """Return the key of the pseudonyms; raises `MasterKeyError` if the master key is not this store's."""
        key = self.unwrap(PSEUDONYMS, master)
        if key is None:
            raise KeyStoreDamaged(f"{self.file.path} has no pseudonym key; restore the key store from its backup")
        if not self.is_pseudonym_key(key):  # what a KMS returns is checked as well
            raise MasterKeyError(f"{master.name} is not the master key of the key store {self.file.path.parent}")
        return key

    def is_pseudonym_key(self, key: bytes) -> bool:
        """Return whether this is the key of the pseudonyms, by the store's canary."""
        canary = self.meta("canary")
        return isinstance(canary, bytes) and hmac.compare_digest(_canary_of(key), canary)

    def escrow(self) -> EscrowRecipient | None:
        """Return who else can open the keys of the days; None if nobody can."""
        pem = self.meta("escrow")
        return EscrowRecipient(pem) if isinstance(pem, bytes) else None

    def unwrap_by_escrow(self, day: int, escrow: EscrowKey) -> bytes | None:
        """Return a day's key by the escrow key; None if there is none, or it was not escrowed."""
        with self.file.reading() as connection:
            row = connection.execute("SELECT escrowed FROM wraps WHERE day = ?", (day,)).fetchone()
        escrowed = None if row is None else _unpadded(row[0])
        return None if escrowed is None else escrow.unwrap(escrowed)

    def rewrap(self, rows: list[WrapRow], master_name: str, salt: bytes) -> int:
        """Put other wraps in the place of these days' in one transaction; return the master key's new version.

        The old wraps are overwritten, so that with the old master key nothing of this file can be opened.
        """
        with self.file.writing(destroys=True) as connection:
            self._view = None
            connection.executemany(
                "UPDATE wraps SET wrapped = ?, escrowed = ? WHERE day = ?",
                [(row.wrapped, row.escrowed, row.day) for row in rows],
            )
            version = _number(connection, "master_version") + 1
            _set(connection, "salt", salt)
            _set(connection, "master_name", master_name)
            _set(connection, "master_version", version)
        return version


def wrap_row(day: int, key: bytes, master: MasterKey, recipient: EscrowRecipient | None) -> WrapRow:
    """Return what the file has of a day's key."""
    escrowed = None if recipient is None else recipient.wrap(key)
    wrapped = master.wrap(key, _purpose(day))
    return WrapRow(day, _padded(wrapped, LONGEST_WRAPPED), _padded(escrowed, _LONGEST_ESCROWED))


def create_main_file(
    path: Path, master: MasterKey, salt: bytes, *, normalize: Normalization, escrow: bytes | None
) -> None:
    """Fill the main file of a new store.

    Args:
        path: An empty file that has another name yet, so a crash leaves no half of a store.
        master: The master key.
        salt: Of its passphrase, random in any case.
        normalize: How the ids of persons are normalised.
        escrow: The public key of the escrow recipient as PEM, if there is one.
    """
    key = os.urandom(_KEY_BYTES)
    recipient = None if escrow is None else EscrowRecipient(escrow)
    row = wrap_row(PSEUDONYMS, key, master, recipient)
    file = SqliteFile(path, journal_mode="MEMORY")
    with file.reading() as connection:
        connection.executescript(_SCHEMA)
    with file.writing() as connection:
        values: dict[str, object] = {
            "format": FORMATS[0],
            "store_id": os.urandom(16).hex(),
            "epoch": 0,
            "purged_epoch": 0,
            "forgotten_before": 0,
            "master_version": 1,
            "master_name": master.name,
            "salt": salt,
            "canary": _canary_of(key),
            "escrow": escrow,
            "normalize": normalize,
        }
        for name, value in values.items():
            _set(connection, name, value)
        _append_wrap(connection, row)
    file.close()


def _read_view(connection: sqlite3.Connection) -> View:
    connection.execute("BEGIN")  # one moment for all of it
    try:
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        before = _days_before(connection)
        erased: dict[bytes, int] = {}
        erased_before: dict[bytes, tuple[int, int]] = {}
        for erasure_id, subject, epoch in connection.execute(
            "SELECT erasure_id, subject, epoch FROM erasures ORDER BY epoch"  # the latest counts
        ):
            if erasure_id in before:
                erased_before[subject] = epoch, before[erasure_id]
            else:
                erased[subject] = epoch
        has_requests = request_table.is_there(connection) and request_table.count(connection) > 0
        forgotten = dict(connection.execute("SELECT day, at_ms FROM forgotten"))
    finally:
        connection.execute("COMMIT")
    return View(
        meta["epoch"],
        meta["purged_epoch"],
        meta["forgotten_before"],
        erased,
        erased_before,
        forgotten,
        meta["master_version"],
        meta.get("erased_key"),
        _numbers(meta.get("missing")),
        frozenset(map(bytes.fromhex, meta.get("missing_keys", "").split())),
        ErasureRules(
            delay_s=meta.get("rule_delay_s", 0),
            not_before_days=meta.get("rule_not_before_days", 0),
            two_person=bool(meta.get("rule_two_person", 0)),
        ),
        has_requests,
    )


def _days_before(connection: sqlite3.Connection) -> dict[str, int]:
    if not request_table.is_there(connection):
        return {}
    return dict(connection.execute("SELECT erasure_id, day FROM erasures_before"))


def _numbers(text: str | None) -> frozenset[int]:
    return frozenset(map(int, (text or "").split()))


def _number(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])


def _set(connection: sqlite3.Connection, name: str, value: object) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _append_wrap(connection: sqlite3.Connection, row: WrapRow) -> None:
    connection.execute("INSERT INTO wraps (day, wrapped, escrowed) VALUES (?, ?, ?)", row)


def _padded(data: bytes | None, room: int) -> bytes:
    data = data or b""
    return (len(data).to_bytes(2, "big") + data).ljust(room + 2, b"\0")


def _unpadded(slot: bytes) -> bytes | None:
    length = int.from_bytes(slot[:2], "big")
    return slot[2 : 2 + length] if length else None


def _purpose(day: int) -> str:
    return "audit-async pseudonyms" if day == PSEUDONYMS else f"audit-async day {date_of(day).isoformat()}"


def _canary_of(key: bytes) -> bytes:
    return hmac.digest(key, b"audit-async canary 1", "sha256")
