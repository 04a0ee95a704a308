"""A process whose system calls go wrong while it stores, erases, rotates and forgets.

Started by the fault tests under the shim: `python -m tests.privacy.faulty_key_store STORE OLD_KEY NEW_KEY`. A line on
stdout is written after a call returned, so whatever the parent reads was acknowledged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from audit_async.privacy import KeyStoreUnavailable, SqliteKeyStore, Subject, open_key_store
from audit_async.privacy.data_keys import date_of
from tests.privacy.key_stores import ALICE, BOB, TODAY, some_keys, wrapped_bytes

TRIES = 20
Answer = TypeVar("Answer")


def said(word: str, *values: bytes) -> None:
    """Tell the parent what was acknowledged, and of which bytes."""
    os.write(1, f"{word} {' '.join(value.hex() for value in values)}\n".encode())


def tried(call: Callable[[], Answer]) -> Answer:
    """Make a call as a writer does: again, as long as the store is unavailable."""
    for left in reversed(range(TRIES)):
        try:
            return call()
        except KeyStoreUnavailable as error:
            said(f"unavailable-{error.errno}")
            if not left:
                raise
    raise AssertionError


def store_some(store: SqliteKeyStore, subject: Subject, count: int, *, day: int = TODAY) -> list[bytes]:
    """Store keys, and say so."""
    keys = tried(lambda: some_keys(store, subject, count, day=day))
    session = tried(lambda: store.open_session("faulty/00"))
    assert tried(lambda: session.insert(keys)) == []
    said("stored", *(part for key in keys for part in (key.key_id, key.key)))
    session.close()
    return [key.key_id for key in keys]


def main() -> None:
    """Go through the life of a store."""
    path, old_key, new_key = sys.argv[1:]
    store = tried(lambda: open_key_store(path, old_key))
    past = store_some(store, ALICE, 3, day=TODAY - 40)
    alices = store_some(store, ALICE, 5)
    store_some(store, BOB, 40)
    said("wrapped", *wrapped_bytes(Path(path), past + alices))
    erasure = tried(lambda: store.begin_erasure(ALICE, "e1"))
    said("begun", *erasure.key_ids)
    tried(lambda: store.destroy(erasure.key_ids, erasure_id="e1"))
    said("destroyed", *erasure.key_ids)
    tried(lambda: store.end_erasure("e1"))
    tried(lambda: store.rotate_master_key(new_key))
    said("rotated")
    later = store_some(store, BOB, 3, day=TODAY - 30)
    said("wrapped-past", *wrapped_bytes(Path(path), later))
    tried(lambda: store.forget(date_of(TODAY - 20)))
    said("forgot", *later)
    store_some(store, BOB, 2, day=TODAY + 1)
    store.close()
    said("closed")


if __name__ == "__main__":
    main()
