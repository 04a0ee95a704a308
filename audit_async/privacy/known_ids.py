"""Which key ids a key store knows, without its master key: for those who verify a trail and must open nothing of it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from audit_async.privacy.data_keys import day_of
from audit_async.privacy.main_file import MainFile
from audit_async.privacy.month_file import MonthFile
from audit_async.privacy.store_directory import MAIN, StoreDirectory, month_of

__all__ = ["KnownIds"]

_LIVE = b"\x01"


class KnownIds:
    """The key ids that one key store has, or has destroyed. Used by one thread at a time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a key store; close it.

        Args:
            path: Its directory.

        Raises:
            KeyStoreMissing, KeyStoreRefused, KeyStoreDamaged, KeyStoreUnavailable: As `open_key_store` raises them.
        """
        self._directory = StoreDirectory(path)
        self._main = MainFile(self._directory.file(MAIN, required=True))
        self._months: dict[str, MonthFile] = {}

    @property
    def store_id(self) -> str:
        """The store's own id."""
        return str(self._main.meta("store_id"))

    @property
    def epoch(self) -> int:
        """The number of erasures, and requests, that the store has seen."""
        return self._main.view().epoch

    def unknown(self, key_ids: Iterable[bytes]) -> set[bytes]:
        """Return which of these the store neither has nor has destroyed: what is sealed under them is lost.

        A key whose day's key is gone, though the day was not forgotten, can't be opened any more, and counts as well.
        """
        view, days = self._main.view(), set(self._main.days())
        missing: set[bytes] = set()
        by_month: dict[str, list[bytes]] = {}
        for key_id in key_ids:
            day = day_of(key_id)
            if day >= view.forgotten_before:
                by_month.setdefault(month_of(day), []).append(key_id)
            elif day not in view.forgotten:
                missing.add(key_id)
        for month, group in by_month.items():
            states = self._month(month).states(group) if month in self._directory.months() else {}
            missing.update(
                key_id
                for key_id in group
                if (state := states.get(key_id)) is None or (state[:1] == _LIVE and day_of(key_id) not in days)
            )
        return missing

    def _month(self, month: str) -> MonthFile:
        file = self._months.get(month)
        if file is None:
            if len(self._months) >= 6:  # files that stay open
                self._months.pop(next(iter(self._months))).file.close()
            file = self._months[month] = MonthFile(self._directory.month_file(month))
        return file

    def close(self) -> None:
        """Close the files; safe to call twice."""
        for month in self._months.values():
            month.file.close()
        self._months.clear()
        self._main.file.close()
        self._directory.close()
