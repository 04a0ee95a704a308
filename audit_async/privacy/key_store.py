"""What a key store does for a log, whatever keeps the keys.

A key store holds the keys of sealed members, outside the trail. A log registers with it (`open_session`), stores new
keys before the records that need them (`KeySession.insert`), and looks now and then whether somebody was erased
(`epoch`, `changes_since`). An erasure goes through these calls, so that nothing is destroyed without a record, and no
key outlives it:

1. `begin_erasure`      from here on no key is stored that the subject was given before
2. the caller makes `audit.erasure_started` durable, with the key ids
3. `destroy`            the keys are gone; durable on return
4. `lagging`            which processes may still hold one of them in memory
5. the caller records `audit.subject_erased`
6. `end_erasure`        the store forgets whom it was about

Opening completes an erasure that has no end (`unfinished_erasures`): from step 3 on if step 2 is in the chain, else
with step 6.

Every call blocks, may be made by any thread of the process that opened the store, and may raise `KeyStoreUnavailable`,
which is worth another try. `pseudonym` is pure CPU and may be called on an event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from audit_async.privacy.data_keys import NewKey
from audit_async.privacy.subjects import Subject

if TYPE_CHECKING:
    from audit_async.privacy.erasure_requests import ErasureRequests


class Destroyed(NamedTuple):
    """The state of a key that there was: destroyed, and when."""

    at: datetime


class Changes(NamedTuple):
    """What was destroyed since an epoch.

    Args:
        epoch: The epoch up to which this says it.
        subjects: The pseudonyms of those who were erased; None if the store no longer knows: drop every cached key.
        forgotten_before: Keys of days before this one are gone (days since 1970-01-01).
        erased_key: One of the keys that were destroyed last, so that a log can state it: a store in which it is alive
            came back from a backup.
        missing: How many erasures a store from a backup no longer knows that no log has done again yet: until there is
            none, nothing is to be opened by this store.
    """

    epoch: int
    subjects: frozenset[bytes] | None
    forgotten_before: int
    erased_key: bytes | None = None
    missing: int = 0


class Erasure(NamedTuple):
    """An erasure that has begun, and the keys that it is going to destroy."""

    erasure_id: str
    epoch: int
    key_ids: list[bytes]


class Forgotten(NamedTuple):
    """A day whose keys were destroyed, and how many there were."""

    day: date
    keys: int


class HeldBy(NamedTuple):
    """A legal hold that the store knows of: nothing is destroyed while there is one."""

    log_id: str
    hold_id: str


class KeySession(Protocol):
    """A log of this process, registered in the key store until it is closed or its process is dead."""

    def insert(self, keys: Sequence[NewKey]) -> list[bytes]:
        """Store new keys; they are on stable storage when this returns.

        May be repeated with the same keys after a failure.

        Args:
            keys: Any number of them, for any days.

        Returns:
            The ids of the keys that were refused, and are destroyed: their subject was erased, or their day was
            forgotten, since they were made.

        Raises:
            KeyStoreUnavailable: Perhaps some were stored; try again.
            MasterKeyError: The key of a new day can't be wrapped: the master key was rotated, and this process has
                the old one.
        """

    def passed(self, epoch: int) -> None:
        """Say that this process holds no key any more that was destroyed up to this epoch, and makes none.

        Only after every key that was made under an older epoch went to `insert`: once all have passed, the store
        forgets whom the erasure was about, and refuses whatever was made before it.
        """

    def close(self) -> None:
        """End the registration; safe to call twice."""


class KeyStore(Protocol):
    """The keys of sealed members; see the module."""

    @property
    def store_id(self) -> str:
        """The store's own id, made once: 32 hex digits. A log that states it notices another store."""

    @property
    def requests(self) -> ErasureRequests:
        """The erasures that wait, and the rules for them."""

    def pseudonym(self, subject: Subject) -> bytes:
        """Return what the store knows a subject by. Pure CPU."""

    def epoch(self) -> int:
        """Return the number of erasures that have begun; cheap, for each commit."""

    def changes_since(self, epoch: int) -> Changes:
        """Return who was erased after that epoch."""

    def open_session(self, name: str) -> KeySession:
        """Register a log of this process; `name` is what messages call it, such as `orders/00`."""

    def find(self, subject: Subject) -> list[bytes]:
        """Return the ids of a subject's keys, the oldest day first."""

    def keys(self, key_ids: Iterable[bytes]) -> dict[bytes, bytes | Destroyed]:
        """Return the keys with these ids, or when they were destroyed.

        An id that the store never knew, or whose key is damaged there, is absent.
        """

    def begin_erasure(self, subject: Subject, erasure_id: str, *, force: bool = False) -> Erasure:
        """Begin to erase a subject: from now on no key is stored that was made for it before.

        Nothing is destroyed yet. With the id of an erasure that has begun, the same is returned again.

        Args:
            subject: Who.
            erasure_id: The erasure's id, unique for ever.
            force: Also if a legal hold is in force.

        Raises:
            ErasureRefused: A hold is in force, the rules of the store ask for a request, or some of the keys are too
                young for them; or the subject is `UNATTRIBUTED`.
        """

    def destroy(self, key_ids: Iterable[bytes], *, erasure_id: str, force: bool = False) -> int:
        """Destroy keys; they are gone from stable storage when this returns. May be repeated.

        An id that the store does not know is noted as destroyed, so that a restored store learns it.

        Args:
            key_ids: Which; as the chain's `audit.erasure_started` lists them.
            erasure_id: The erasure; one that was begun with force needs none here.
            force: Also if a legal hold is in force.

        Returns:
            How many were alive.

        Raises:
            ErasureRefused: A hold is in force; it may have been set after the erasure began.
        """

    def lagging(self, epoch: int) -> list[str]:
        """Return the names of living sessions that have not said `passed` for this epoch."""

    def end_erasure(self, erasure_id: str) -> None:
        """Forget whom an erasure was about, now or, if a session lags, as soon as it does not."""

    def unfinished_erasures(self) -> list[str]:
        """Return the ids of the erasures that have begun and not ended."""

    def resume_erasure(self, erasure_id: str) -> Erasure | None:
        """Return an erasure that has begun and not ended, with the keys that its subject has now; None if unknown.

        The keys come in the order of `begin_erasure`; those that were made since are the last.
        """

    def catch_up(
        self, epoch: int, *, missing: Iterable[int] = (), alive: Iterable[bytes] = (), found: Iterable[int] = ()
    ) -> None:
        """Raise the epoch of a store that came back from a backup to the one that the chain states.

        Args:
            epoch: The epoch that a log states.
            missing: The epochs of erasures whose keys could not be destroyed again, since no log that could be read
                records them. `changes_since` counts them until they are found.
            alive: Keys that a log states as destroyed, and of which it is not known what else was destroyed with them;
                counted until they are destroyed.
            found: The epochs of erasures whose keys were destroyed again.
        """

    def forget(self, before: date, *, force: bool = False) -> list[Forgotten]:
        """Destroy all keys of the UTC days before a date; durable on return. May be repeated.

        Returns:
            The days that were forgotten, also by a call of this store object that failed after it had forgotten them.

        Raises:
            ErasureRefused: A legal hold is in force, or the rules say that these keys are too young.
        """

    def set_hold(self, log_id: str, hold_id: str) -> None:
        """Copy a legal hold into the store: nothing is destroyed until it is lifted. Safe to repeat."""

    def lift_hold(self, log_id: str, hold_id: str) -> None:
        """Lift a legal hold; safe to repeat."""

    def holds(self) -> list[HeldBy]:
        """Return the holds in force."""

    def keep_unrecorded(self, log_id: str, counts: Sequence[tuple[int, int, Sequence[str]]]) -> None:
        """Keep what a log could not record of erasures before it was closed, in place of what is kept; durable.

        Args:
            log_id: The log, whose next opening records it.
            counts: Of each erasure epoch the number of records, and the ids of keys that were never stored.
        """

    def unrecorded(self, log_id: str) -> list[tuple[int, int, list[str]]]:
        """Return what is kept for a log, as `keep_unrecorded` takes it."""

    def close(self) -> None:
        """Close the store and forget its keys; safe to call twice."""
