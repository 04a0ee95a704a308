"""What a key store is and how it is, as far as everybody who may open its directory may know: no key is needed."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Final

import msgspec

from audit_async.config.erasure_rules import ErasureRules
from audit_async.config.key_store_settings import Normalization
from audit_async.privacy.data_keys import date_of
from audit_async.privacy.main_file import MainFile
from audit_async.privacy.process_sessions import lagging_sessions
from audit_async.privacy.store_directory import MAIN, StoreDirectory, unavailable

_EVERY_EPOCH: Final = 1 << 62


class KeyStoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A key store at one moment.

    - `store_id`: its own id, which the logs that use it state.
    - `epoch`: how many erasures have begun.
    - `normalize`: how the ids of persons are normalised.
    - `master_key`: what its master key was called at its making or last rotation.
    - `has_escrow`: whether somebody else can open the keys of the days.
    - `days`, `first_day`, `last_day`: the UTC days that have keys.
    - `forgotten_before`: the keys of older days were destroyed.
    - `months`, `size_bytes`: the files.
    - `unfinished_erasures`: their ids; the next opening of their log completes them.
    - `rules`: what erasures have to wait for.
    - `waiting_erasures`: how many wait.
    - `backed_up_at`: when it was last copied by `copy_key_store`; of a copy, when it was made; None if never.
    - `holds`: each as log id and hold id; as long as there is one nothing is destroyed.
    - `sessions`: the logs that use the store now.
    """

    path: str
    store_id: str
    epoch: int
    normalize: Normalization
    master_key: str
    has_escrow: bool
    days: int
    first_day: date | None
    last_day: date | None
    forgotten_before: date | None
    months: int
    size_bytes: int
    unfinished_erasures: tuple[str, ...]
    rules: ErasureRules
    waiting_erasures: int
    backed_up_at: datetime | None
    holds: tuple[tuple[str, str], ...]
    sessions: tuple[str, ...]


def key_store_status(path: str | os.PathLike[str]) -> KeyStoreStatus:
    """Return how a key store is; blocks, opens no key.

    Args:
        path: Its directory.

    Raises:
        KeyStoreMissing: There is none.
        KeyStoreRefused: Its place can't be trusted with keys.
        KeyStoreDamaged: Its main file is damaged.
        KeyStoreUnavailable: It can't be read now.
    """
    directory = StoreDirectory(path)
    main = MainFile(directory.file(MAIN, required=True))
    try:
        with directory.locked():
            view, days = main.view(), main.days()
            try:
                sessions = lagging_sessions(directory.sessions(), _EVERY_EPOCH)
                size_bytes = _size_of(directory.path)
            except OSError as error:
                raise unavailable(error, directory.path) from error
            return KeyStoreStatus(
                path=str(directory.path),
                store_id=str(main.meta("store_id")),
                epoch=view.epoch,
                normalize=main.normalization(),
                master_key=str(main.meta("master_name")),
                has_escrow=main.escrow() is not None,
                days=len(days),
                first_day=date_of(days[0]) if days else None,
                last_day=date_of(days[-1]) if days else None,
                forgotten_before=date_of(view.forgotten_before) if view.forgotten_before else None,
                months=len(directory.months()),
                size_bytes=size_bytes,
                unfinished_erasures=tuple(row.erasure_id for row in main.erasures() if not row.ended),
                rules=view.rules,
                waiting_erasures=main.waiting_requests(),
                backed_up_at=main.backed_up_at(),
                holds=tuple((hold.log_id, hold.hold_id) for hold in main.holds()),
                sessions=tuple(sessions),
            )
    finally:
        main.file.close()
        directory.close()


def _size_of(directory: Path) -> int:
    size = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # SQLite's journals come and go
                size += entry.stat().st_size if entry.is_file() else 0
    return size
