"""Keys before records: what the disk thread does with the key store around each commit of a log that seals.

A record whose key is lost can never be read again. So the keys that it needs are on stable storage before its bytes are
handed to the operating system, in every flush mode. If the key store refuses, for a full disk or a master key that is
away, the batch is kept and tried again, as if the log's own disk were full; nothing is acknowledged meanwhile.

The other way round, somebody may be erased by another process at any moment. The store's epoch is looked at before and
after each commit, and once a second if there is none. Keys that are gone are dropped, so what is emitted from then on
is sealed under new ones; and of what was on its way, sealed under a key that was destroyed before the record was
durable, the number is counted and recorded (`audit.erased_in_flight`).
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from audit_async._chain import Batch
from audit_async._store.log_store import Committed
from audit_async._writer.stated_erasures import StatedErasures
from audit_async.errors import AuditError
from audit_async.privacy.data_keys import key_id_text
from audit_async.privacy.key_store import Destroyed, KeySession, KeyStore
from audit_async.privacy.sealer import Sealer, sealed_ids

_log: Final = logging.getLogger("audit_async")

#: Keys that are gone are looked for in records for so long after the last find; events are not on their way longer.
_LOOK_FOR_S: Final = 60.0
_LOOK_FOR_COMMITS: Final = 100

#: How many key ids a record lists.
_MOST_IDS: Final = 1000

Write = Callable[..., Committed]


class ErasedInFlight(NamedTuple):
    """Records that were durable only after a key of theirs was destroyed."""

    epoch: int
    records: int
    key_ids: tuple[str, ...]  #: those that were never stored


class KeyCommits:
    """The key store's half of commits. Owned by the disk thread, but for what is marked."""

    def __init__(self, store: KeyStore, session: KeySession, sealer: Sealer, *, log_id: str, owns_store: bool) -> None:
        self.erased: Final[deque[ErasedInFlight]] = deque()  #: to be recorded; appended here, taken in the loop
        self.stated: Final = StatedErasures()  #: owned by the loop's thread
        self.store: Final = store
        self._log_id: Final = log_id
        self._owns_store: Final = owns_store  # one that the application has given is its own to close
        self._session: Final = session
        self._sealer: Final = sealer
        self._kept: Final[deque[Batch]] = deque()  # not handed to the log's store yet, since keys are missing
        self._undurable: Final[deque[Batch]] = deque()  # handed to it, and not known to be durable
        self._gone: Final[set[str]] = set()  # keys that were destroyed lately: records on their way may need them
        self._to_pass: int | None = None  # an epoch whose keys are dropped, and that is still to be said to the store
        self._look_until = 0.0
        self._commits_to_look = 0

    def commit(self, batch: Batch | None, *, sync: bool, write: Write) -> Committed:
        """Store what is missing of keys, then hand the batch, and any that was kept, to the log's store.

        Raises `OSError` if either is not possible now; then the batch is kept, here or in the log's store.
        """
        if batch is not None:
            self._kept.append(batch)
        self.look()
        committed: Committed | None = None
        while self._kept or committed is None:
            next_batch = self._kept.popleft() if self._kept else None
            if next_batch is not None:  # from here on the log's store has it, also if it raises
                self._undurable.append(next_batch)
                self._count([next_batch], self._gone)
            done = write(next_batch, sync=sync and not self._kept)
            committed = done if committed is None else _merged(committed, done)
        self._commits_to_look -= 1
        try:
            if self.store.epoch() != self._sealer.epoch:  # it is not known which came first
                self.look()
        except OSError:
            return committed  # the next commit looks at these records again
        while self._undurable and self._undurable[0].head.seq <= committed.synced.seq:
            self._undurable.popleft()
        return committed

    def look(self) -> None:
        """Take notice of erasures, and store the keys that are not stored; raises `OSError` if that can't be done."""
        try:
            self._drop_erased()
            self._store_keys()
            if self._to_pass is not None:  # only now: a key that was made before the erasure may have been among them
                self._session.passed(self._to_pass)
                self._to_pass = None
        except OSError:
            raise
        except AuditError as error:  # a master key that is away or was rotated: it may come back, records may not
            raise OSError(errno.EACCES, f"the keys of this log can't be stored: {error}") from error

    def _drop_erased(self) -> None:
        """Use the keys of those who were erased no more, if the epoch has changed."""
        known = self._sealer.epoch
        if self.store.epoch() == known:
            return
        self._sealer.look_at_day()  # an erasure that keeps young keys names nobody: older ones are not held for long
        changes = self.store.changes_since(known)
        dropped = self._sealer.drop(changes.subjects, changes.forgotten_before, changes.epoch)
        self._to_pass = changes.epoch
        if changes.subjects is None:  # the store does not know any more who it was: see which keys are still there
            found = self.store.keys([key.new.key_id for key in dropped])
            dropped = [key for key in dropped if isinstance(found.get(key.new.key_id), Destroyed)]
        self._are_gone({key.key_id for key in dropped})

    def _store_keys(self) -> None:
        keys = self._sealer.unstored()
        if not keys:
            return
        refused = self._session.insert([key.new for key in keys])
        self._sealer.stored(keys)
        if refused:
            self._are_gone(self._sealer.drop_refused(refused))
            self.erased.append(ErasedInFlight(self._sealer.epoch, 0, tuple(map(key_id_text, refused))))

    def _are_gone(self, key_ids: set[str]) -> None:
        self._gone.update(key_ids)
        self._look_until = time.monotonic() + _LOOK_FOR_S
        self._commits_to_look = _LOOK_FOR_COMMITS
        self._count(self._undurable, key_ids)

    def _count(self, batches: Iterable[Batch], gone: set[str]) -> None:
        """Count the records that are not durable yet and are sealed under keys that are gone."""
        if not gone:
            return
        if self._commits_to_look <= 0 and time.monotonic() > self._look_until:
            self._gone.clear()
            return
        records = sum(not gone.isdisjoint(sealed_ids(line)) for batch in batches for line in batch.lines)
        if records:
            self._look_until = time.monotonic() + _LOOK_FOR_S
            self._commits_to_look = _LOOK_FOR_COMMITS
            self.erased.append(ErasedInFlight(self._sealer.epoch, records, ()))

    def take_erased(self) -> ErasedInFlight:
        """Return what is to be recorded next, of one epoch as much as one record takes; in the loop's thread."""
        first = self.erased.popleft()
        records, key_ids = first.records, first.key_ids
        while self.erased and self.erased[0].epoch == first.epoch and len(key_ids) < _MOST_IDS:
            more = self.erased.popleft()
            records, key_ids = records + more.records, key_ids + more.key_ids
        if len(key_ids) > _MOST_IDS:
            self.erased.appendleft(ErasedInFlight(first.epoch, 0, key_ids[_MOST_IDS:]))
        return ErasedInFlight(first.epoch, records, key_ids[:_MOST_IDS])

    def close(self) -> None:
        """Leave the key store, which keeps what was found too late for this chain; safe to call twice."""
        if self.erased:
            left: list[ErasedInFlight] = []
            while self.erased:
                left.append(self.take_erased())
            try:
                self.store.keep_unrecorded(self._log_id, [*self.store.unrecorded(self._log_id), *left])
            except (AuditError, OSError, ValueError) as error:  # the last: the application has closed its store
                _log.warning(
                    "%d records were sealed under keys that were destroyed before they were durable, and this "
                    "could not be kept for the next opening to record: %s",
                    sum(erased.records for erased in left),
                    error,
                )
        self._session.close()
        if self._owns_store:
            self.store.close()


def _merged(first: Committed, second: Committed) -> Committed:
    return second._replace(
        sealed=first.sealed + second.sealed,
        damaged=first.damaged + second.damaged,
        sealing_error=second.sealing_error or first.sealing_error,
    )
