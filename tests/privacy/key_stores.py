"""Key stores for tests: made below a temporary directory, with a master key in a file."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

from audit_async.privacy import (
    KeyMaker,
    NewKey,
    SqliteKeyStore,
    Subject,
    create_key_store,
    new_master_key,
    open_key_store,
)
from audit_async.privacy.data_keys import day_number

ALICE, BOB = Subject("", "user", "alice"), Subject("", "user", "bob")
TODAY = day_number(datetime.now(UTC).date())


def make_store(tmp_path: Path, *, escrow: bytes | None = None) -> Path:
    """Make a key store with a master key, and with an escrow key if one is given; return its directory."""
    key = tmp_path / "master.key"
    key.write_bytes(new_master_key())
    key.chmod(0o600)
    create_key_store(tmp_path / "keys", f"file:{key}", escrow=escrow)
    return tmp_path / "keys"


def open_store(path: Path) -> SqliteKeyStore:
    """Open a store that `make_store` made."""
    return open_key_store(path, f"file:{path.parent / 'master.key'}")


def some_keys(
    store: SqliteKeyStore, subject: Subject, count: int, *, day: int | date = TODAY, epoch: int | None = None
) -> list[NewKey]:
    """Return new keys of a subject, that are not stored yet."""
    maker = KeyMaker()
    number = day if isinstance(day, int) else day_number(day)
    known = store.epoch() if epoch is None else epoch
    return [maker.make(store.pseudonym(subject), number, known) for _ in range(count)]


def wrapped_bytes(path: Path, key_ids: list[bytes]) -> list[bytes]:
    """Return what the store's files have of these keys: the wrapped bytes that a destruction has to remove."""
    import sqlite3  # noqa: PLC0415 - looks inside, on purpose

    found = []
    for file in path.glob("keys-*.db"):
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'key\\_%' ESCAPE '\\'"):
            rows = connection.execute(f"SELECT id, state FROM {table}")  # noqa: S608 - a table's name
            found += [bytes(state[1:]) for key_id, state in rows if key_id in set(key_ids)]
        connection.close()
    return found


def copies_in_files(path: Path, secrets: list[bytes]) -> dict[str, int]:
    """Return how often any of these byte strings is in any file below a directory, journals included."""
    counts = {}
    for directory, _, names in os.walk(path):
        for name in names:
            content = Path(directory, name).read_bytes()
            counts[name] = sum(content.count(secret) for secret in secrets)
    return {name: count for name, count in counts.items() if count}
