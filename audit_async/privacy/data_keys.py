"""The keys that seal members: how they are made, and what their ids say.

A key id is 16 bytes, 22 letters of base64url in a record, and no secret:

| bytes | meaning |
| --- | --- |
| 2 | the UTC day that the key is for, in days since 1970-01-01, big-endian |
| 8 | random, drawn at each opening of a log and in each process |
| 6 | a counter from 0, big-endian |

So an id is unique without a look-up, and says itself in which month's file its key is and by which day's key it is
wrapped. What it reveals, the day and the order of first use, the records reveal as well.
"""

from __future__ import annotations

import base64
import os
from binascii import Error as NotBase64
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

from audit_async.privacy.store_failures import KeyStoreForked

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16

_FIRST_DAY: Final = date(1970, 1, 1)
_LAST_DAY: Final = 0xFFFF  # 2149-06-06


class NewKey(NamedTuple):
    """A data key that is in use in this process and not yet in the key store."""

    key_id: bytes
    subject: bytes  #: the subject's pseudonym
    key: bytes
    epoch: int  #: the erasure epoch that its maker knew: an erasure of the subject since then refuses it

    def __repr__(self) -> str:
        return f"NewKey({key_id_text(self.key_id)}, epoch={self.epoch})"


class KeyMaker:
    """Makes data keys for one opening of a log in one process.

    Touches no disk and takes no lock. One thread at a time, or the caller's lock: two threads must not draw one number.
    """

    __slots__ = ("_made", "_pid", "_prefix")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._prefix = os.urandom(8)
        self._made = 0

    def make(self, subject: bytes, day: int, epoch: int) -> NewKey:
        """Return a new key.

        Args:
            subject: The subject's pseudonym (`KeyStore.pseudonym`).
            day: The UTC day that it is for, in days since 1970-01-01.
            epoch: The erasure epoch that the caller knows.

        Raises:
            KeyStoreForked: This process was forked from the one that made this maker; make another.
        """
        if os.getpid() != self._pid:  # parent and child would give one id to two keys
            raise KeyStoreForked("a KeyMaker belongs to the process that made it; make another after a fork")
        number = self._made
        self._made = number + 1
        key_id = day.to_bytes(2, "big") + self._prefix + number.to_bytes(6, "big")
        return NewKey(key_id, subject, os.urandom(KEY_BYTES), epoch)

    def __repr__(self) -> str:
        return f"<KeyMaker {self._made} keys made>"


def key_id_text(key_id: bytes) -> str:
    """Return a key id as records have it: 22 letters of base64url."""
    return base64.urlsafe_b64encode(key_id)[:22].decode("ascii")


def key_id_bytes(text: str) -> bytes:
    """Return the key id of its text; raises `ValueError` if it is none."""
    try:
        key_id = base64.b64decode(text + "==", b"-_", validate=True) if len(text) == 22 else b""
    except (NotBase64, ValueError):
        key_id = b""
    if len(key_id) != KEY_ID_BYTES or key_id_text(key_id) != text:
        raise ValueError("a key id is 22 letters of base64url")
    return key_id


def day_of(key_id: bytes) -> int:
    """Return the UTC day that a key is for, in days since 1970-01-01."""
    return int.from_bytes(key_id[:2], "big")


def day_number(day: date) -> int:
    """Return a UTC day as key ids have it: days since 1970-01-01, held to what two bytes can say."""
    return min(max((day - _FIRST_DAY).days, 0), _LAST_DAY)


def date_of(day: int) -> date:
    """Return the date of a day as key ids have it."""
    return _FIRST_DAY + timedelta(days=day)


def today() -> int:
    """Return the UTC day now."""
    return day_number(datetime.now(UTC).date())
