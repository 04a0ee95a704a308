"""A copy of a key store while services use it, by SQLite's backup (https://www.sqlite.org/backup.html).

Taken after the copy of the trail, so that every key id in that copy has its key in this one, and kept elsewhere, since
both together can be read. The months come first and the main file last, so that every key has its day's key. If
somebody was erased meanwhile, the copy still has some of his keys: it says the epoch of before, so the log that opens
it after a restore sees from its chain that it is old, and destroys them again.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final, NamedTuple

from audit_async.privacy.main_file import MainFile
from audit_async.privacy.sqlite_file import SqliteFile
from audit_async.privacy.store_directory import MAIN, StoreDirectory, create_directory
from audit_async.privacy.store_failures import KeyStoreRefused, KeyStoreUnavailable

_log: Final = logging.getLogger("audit_async")

_HALF: Final = f"{MAIN}.new"


class StoreCopy(NamedTuple):
    """What was copied."""

    files: int
    size_bytes: int
    epoch: int


def copy_key_store(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> StoreCopy:
    """Copy a key store; durable on return, and an interrupted copy has no main file, so it can't be opened.

    Needs no master key, and the copy is worth nothing without it.

    Args:
        path: The store's directory.
        target: A new directory, or an empty one.

    Raises:
        KeyStoreMissing: There is no store.
        KeyStoreRefused: The target has files, or one of the two can't be trusted with keys.
        KeyStoreUnavailable: The store can't be read, or the copy can't be written: another one is being made there.
    """
    source = StoreDirectory(path)
    main = MainFile(source.file(MAIN, required=True))
    copy = create_directory(target)
    try:
        with copy.locked():  # of two at once the second would mix its files with those of the first
            if copy.file(MAIN).exists() or copy.months():
                raise KeyStoreRefused(f"{copy.path} has a key store already; name a new directory")
            epoch = main.view().epoch
            sizes = [_copied(source.month_file(month), copy, f"keys-{month}.db") for month in source.months()]
            sizes.append(_copied(source.file(MAIN), copy, _HALF))
            half = MainFile(copy.path / _HALF)
            half.lower_epoch(epoch)
            half.set_backed_up()
            half.file.close()
            copy.publish(_HALF, MAIN)
        if source.was_used:  # a copy is itself copied in a drill, which is to change nothing in it
            _note(source, main)
    finally:
        main.file.close()
        source.close()
        copy.close()
    return StoreCopy(len(sizes), sum(sizes), epoch)


def _note(source: StoreDirectory, main: MainFile) -> None:
    """Note in the store that there is a copy, for `doctor`; the copy is good without that."""
    try:
        with source.locked():
            main.file.finish()
            main.set_backed_up()
    except KeyStoreUnavailable as error:  # such as a store on a file system that is read-only by now
        _log.warning("the copy of the key store %s is complete, and not noted in the store: %s", source.path, error)


def _copied(path: Path, copy: StoreDirectory, name: str) -> int:
    copy.create(name)
    source, target = SqliteFile(path), SqliteFile(copy.path / name, journal_mode="MEMORY")
    try:
        with source.reading() as from_, target.reading() as to:
            from_.backup(to)
    finally:
        source.close()
        target.close()
    return os.stat(copy.path / name).st_size
