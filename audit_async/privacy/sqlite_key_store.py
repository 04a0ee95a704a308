"""The key store of one host: SQLite files in a directory outside the trail, for any number of processes.

Two kinds of step need an order between two files, which the store's lock gives (`store_directory`): keys are inserted
after it was read, under the lock, that nobody erased their subject; and an erasure begins under the lock, so what it
finds in the months' files is everything that was ever stored for the subject before.

A step that destroys is durable, and overwritten in the journals, when its call returns. Killed in between, or failed
after its commit, it is finished: an erasure by the next opening of its log, forgetting by the next call, and what is
left in a journal by the next change of the file, whichever process makes it (see `sqlite_file`).
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async.config.key_store_settings import MasterKeySource, Normalization
from audit_async.privacy.data_keys import NewKey, date_of, day_number, day_of
from audit_async.privacy.key_store import Changes, Destroyed, Erasure, Forgotten, HeldBy
from audit_async.privacy.main_file import FORMATS, PSEUDONYMS, MainFile, View, WrapRow, wrap_row
from audit_async.privacy.master_key import EscrowRecipient, MasterKey, load_master_key
from audit_async.privacy.month_file import MonthFile, opened
from audit_async.privacy.process_sessions import RegisteredSession, lagging_sessions
from audit_async.privacy.sqlite_requests import SqliteErasureRequests
from audit_async.privacy.store_directory import MAIN, StoreDirectory, month_of, overwrite, remove, unavailable
from audit_async.privacy.store_failures import (
    ErasureRefused,
    KeyStoreDamaged,
    KeyStoreForked,
    KeyStoreRefused,
    KeyStoreUnavailable,
    MasterKeyError,
)
from audit_async.privacy.subjects import UNATTRIBUTED, Subject, pseudonym_of

_OPEN_MONTHS: Final = 6  # files that stay open; each is two descriptors while it is written to
_DAY_KEYS: Final = 400  # in memory; a reader of several years asks again
#: How many keys one transaction destroys: other processes wait for it.
_DESTROYED_AT_ONCE: Final = 20_000

_stores: Final[weakref.WeakSet[SqliteKeyStore]] = weakref.WeakSet()


class SqliteKeyStore:
    """A key store in a directory of this host; see `KeyStore` for what the calls promise."""

    def __init__(
        self, directory: StoreDirectory, master_key: MasterKeySource, *, normalize: Normalization | None = None
    ) -> None:
        self._directory = directory
        self._source = master_key
        self._next_source: MasterKeySource | None = None  # of a rotation that has begun and not returned
        self._lock = threading.RLock()
        self._main = MainFile(directory.file(MAIN, required=True))
        try:
            self._normalize = self._require_known(normalize)
            self._master_version = self._main.view().master_version
            self._master: MasterKey = load_master_key(master_key, self._main.salt())
            self._pseudonym_key = self._main.pseudonym_key(self._master)
            self._store_id = str(self._main.meta("store_id"))
            self._finish_at_opening()
        except BaseException:
            self._main.file.close()
            raise
        self._months: dict[str, MonthFile] = {}
        self._day_keys: dict[int, AESGCM] = {}
        self._unreported: set[int] = set()  # days that a call of `forget` may have forgotten before it failed
        self._sessions: list[SqliteSession] = []
        self._state = "open"
        self._requests = SqliteErasureRequests(
            self._main,
            self._pseudonym_key,
            pseudonym=self.pseudonym,
            used=self._used,
            changed=self._changed,
            find=self._find,
            refuse_if_held=self._refuse_if_held,
        )
        _stores.add(self)

    @property
    def store_id(self) -> str:
        """The store's own id, made once."""
        return self._store_id

    @property
    def requests(self) -> SqliteErasureRequests:
        """The erasures that wait, and the rules for them."""
        return self._requests

    def pseudonym(self, subject: Subject) -> bytes:
        """Return what the store knows a subject by."""
        return pseudonym_of(subject, self._pseudonym_key, self._normalize)

    # -- looked at by those who write --------------------------------------------------------------------------------

    def epoch(self) -> int:
        """Return the number of erasures that have begun."""
        with self._used():
            return self._main.view().epoch

    def changes_since(self, epoch: int) -> Changes:
        """Return who was erased after that epoch."""
        with self._used():
            view = self._main.view()
        subjects = None
        if epoch >= view.purged_epoch:
            subjects = frozenset(subject for subject, erased_at in view.erased.items() if erased_at > epoch)
        missing = max(len(view.missing), len(view.missing_keys))  # one erasure may be known by both
        return Changes(view.epoch, subjects, view.forgotten_before, view.erased_key, missing)

    def open_session(self, name: str) -> SqliteSession:
        """Register a log of this process."""
        with self._changed():
            directory = self._directory.sessions()
            epoch = self._main.view().epoch
            try:
                lagging_sessions(directory, 0)  # removes the files of the dead
                session = SqliteSession(self, RegisteredSession(directory, name, epoch))
            except OSError as error:
                raise unavailable(error, directory) from error
            self._sessions.append(session)
            return session

    def insert(self, keys: Sequence[NewKey]) -> list[bytes]:
        """Store new keys; see `KeySession.insert`."""
        if not keys:
            return []
        with self._changed():
            view = self._main.view()
            unique = {key.key_id: key for key in keys}
            gone = {key_id for key_id in unique if day_of(key_id) < view.forgotten_before}
            stored = [key for key in unique.values() if day_of(key.key_id) >= view.forgotten_before]
            refused = frozenset(key.key_id for key in stored if view.erased.get(key.subject, -1) > key.epoch)
            for key in stored if view.erased_before else ():
                erased_at, before = view.erased_before.get(key.subject, (-1, 0))
                if erased_at > key.epoch and day_of(key.key_id) < before:
                    refused |= {key.key_id}
            if view.purged_epoch:
                # Whom those erasures were about is forgotten, and no session held a key from before them.
                refused |= frozenset(key.key_id for key in stored if key.epoch < view.purged_epoch)
            gone |= refused
            by_month: dict[str, list[NewKey]] = {}
            for key in stored:
                by_month.setdefault(month_of(day_of(key.key_id)), []).append(key)
            for month, group in by_month.items():
                day_keys = {day: self._day_key_for_writing(day) for day in {day_of(key.key_id) for key in group}}
                gone.update(self._month(month).insert(group, refused, day_keys))
        return [key_id for key_id in unique if key_id in gone]

    # -- looked up by those who read ---------------------------------------------------------------------------------

    def find(self, subject: Subject) -> list[bytes]:
        """Return the ids of a subject's keys, the oldest day first."""
        pseudonym = self.pseudonym(subject)
        with self._used():
            return self._find(pseudonym)

    def keys(self, key_ids: Iterable[bytes]) -> dict[bytes, bytes | Destroyed]:
        """Return the keys with these ids, or when they were destroyed."""
        wanted = dict.fromkeys(key_ids)
        with self._used():
            try:
                return self._keys(wanted)
            except KeyStoreDamaged:
                # Another process may have forgotten the month while we read it; if it did, the view says so now.
                self._close_months()
                return self._keys(wanted)

    # -- erasure ----------------------------------------------------------------------------------------------------

    def begin_erasure(self, subject: Subject, erasure_id: str, *, force: bool = False) -> Erasure:
        """Begin to erase a subject."""
        if subject == UNATTRIBUTED:
            raise ErasureRefused("members of nobody in particular can't be erased; they are forgotten by age")
        pseudonym = self.pseudonym(subject)
        with self._changed():
            if not force:
                self._refuse_if_held("erased")
            key_ids = self._find(pseudonym)
            before = self._refuse_if_ruled(key_ids)
            epoch = self._main.begin_erasure(erasure_id, pseudonym, forced=force, before=before)
            return Erasure(erasure_id, epoch, key_ids)

    def _refuse_if_ruled(self, key_ids: list[bytes]) -> int | None:
        """Refuse what has to be requested; return the first day whose keys are kept in any case, None if there is none.

        Raises `ErasureRefused`.
        """
        rules = self._main.view().rules
        if rules.need_request:
            raise ErasureRefused(
                "by the rules of this key store an erasure is requested first, and waits: call request_erasure, or "
                "audit-async erase --request"
            )
        first_kept = self._requests.first_kept_day(rules)
        if first_kept is not None and (young := [key_id for key_id in key_ids if day_of(key_id) >= first_kept]):
            possible = date_of(max(map(day_of, young)) + 1 + rules.not_before_days)
            raise ErasureRefused(
                f"{len(young)} of the person's keys are younger than {rules.not_before_days} days, before which this "
                f"key store destroys none: try again from {possible} on, or request the erasure, which waits for that"
            )
        return first_kept

    def destroy(self, key_ids: Iterable[bytes], *, erasure_id: str, force: bool = False) -> int:
        """Destroy keys."""
        by_month: dict[str, list[bytes]] = {}
        for key_id in dict.fromkeys(key_ids):
            by_month.setdefault(month_of(day_of(key_id)), []).append(key_id)
        alive = 0
        last: bytes | None = None
        for month, group in sorted(by_month.items()):
            last = group[-1]
            for at in range(0, len(group), _DESTROYED_AT_ONCE):
                with self._changed():
                    forced = force or any(row.forced for row in self._main.erasures() if row.erasure_id == erasure_id)
                    if not forced:
                        self._refuse_if_held("destroyed")
                    before = self._main.view().forgotten_before
                    chunk = [key_id for key_id in group[at : at + _DESTROYED_AT_ONCE] if day_of(key_id) >= before]
                    if chunk:
                        alive += self._month(month).destroy(chunk)
        if last is not None:
            with self._changed():
                self._main.set_erased_key(last)
        return alive

    def lagging(self, epoch: int) -> list[str]:
        """Return the names of living sessions that have not passed an epoch."""
        with self._changed():
            return self._lagging(epoch)

    def end_erasure(self, erasure_id: str) -> None:
        """Forget whom an erasure was about, as soon as no session lags."""
        with self._changed():
            self._main.end_erasure(erasure_id)
            for row in reversed(self._main.erasures()):  # who has passed an epoch has passed those before it
                if row.ended and not self._lagging(row.epoch):
                    self._main.purge_erasures(row.epoch)
                    break

    def unfinished_erasures(self) -> list[str]:
        """Return the ids of the erasures that have begun and not ended."""
        with self._used():
            return [row.erasure_id for row in self._main.erasures() if not row.ended]

    def resume_erasure(self, erasure_id: str) -> Erasure | None:
        """Return an erasure that has begun and not ended, with the keys that its subject has now."""
        with self._changed():
            for row in self._main.erasures():
                if row.erasure_id == erasure_id and not row.ended:
                    key_ids = self._find(row.subject)
                    if row.before is not None:
                        key_ids = [key_id for key_id in key_ids if day_of(key_id) < row.before]
                    return Erasure(erasure_id, row.epoch, key_ids)
        return None

    def catch_up(
        self, epoch: int, *, missing: Iterable[int] = (), alive: Iterable[bytes] = (), found: Iterable[int] = ()
    ) -> None:
        """Raise the epoch of a store that came back from a backup."""
        with self._changed():
            view = self._main.view()
            wanted = view.missing_keys.union(alive)
            states = self._keys(wanted)
            self._main.catch_up(
                epoch,
                missing=frozenset(missing),
                found=frozenset(found),
                missing_keys=frozenset(key_id for key_id in wanted if not isinstance(states.get(key_id), Destroyed)),
            )

    def accept_missing(self) -> int:
        """Open what is sealed again, although this store from a backup may open what was erased since.

        For logs that are gone for good, with the only records of those erasures. Destroys what is known of them.

        Returns:
            How many erasures, at least, were missing.
        """
        with self._changed():
            missing = self.changes_since(0).missing
            view = self._main.view()
            self.destroy(view.missing_keys, erasure_id="", force=True)
            self._main.accept_missing()
        return missing

    def forget(self, before: date, *, force: bool = False) -> list[Forgotten]:
        """Destroy all keys of the UTC days before a date.

        A call that is repeated after a failure also returns the days that the one before has forgotten.
        """
        limit = day_number(before)
        with self._changed():
            if not force:
                self._refuse_if_held("forgotten")
                first_kept = self._requests.first_kept_day(self._main.view().rules)
                if first_kept is not None and limit > first_kept:
                    raise ErasureRefused(
                        f"keys from {date_of(first_kept)} on can't be forgotten yet: by the rules of this key store "
                        "none is destroyed so early"
                    )
            counts = {day: self._count(day) for day in self._main.days() if day < limit}
            self._unreported.update(counts)
            for day in counts:
                self._day_keys.pop(day, None)
            if counts or limit > self._main.view().forgotten_before:
                self._main.forget(limit, counts)  # from here on nothing of these days can be opened
            view = self._main.view()
            self._remove_forgotten(view)
            forgotten = self._main.forgotten_keys(self._unreported)
            self._unreported.clear()
        return [Forgotten(date_of(day), keys) for day, keys in forgotten.items()]

    # -- holds --------------------------------------------------------------------------------------------------------

    def set_hold(self, log_id: str, hold_id: str) -> None:
        """Copy a legal hold into the store."""
        with self._changed():
            self._main.set_hold(log_id, hold_id)

    def lift_hold(self, log_id: str, hold_id: str) -> None:
        """Lift a legal hold."""
        with self._changed():
            self._main.lift_hold(log_id, hold_id)

    def holds(self) -> list[HeldBy]:
        """Return the holds in force."""
        with self._used():
            return self._main.holds()

    # -- what a log has to record ------------------------------------------------------------------------------------

    def keep_unrecorded(self, log_id: str, counts: Sequence[tuple[int, int, Sequence[str]]]) -> None:
        """Keep what a log could not record of erasures before it was closed."""
        with self._changed():
            self._main.keep_unrecorded(log_id, json.dumps(counts) if counts else "")

    def unrecorded(self, log_id: str) -> list[tuple[int, int, list[str]]]:
        """Return what is kept for a log."""
        with self._used():
            kept = self._main.meta(f"unrecorded {log_id}")
        return [(epoch, records, key_ids) for epoch, records, key_ids in json.loads(kept)] if kept else []  # type: ignore[arg-type]

    # -- the master key ----------------------------------------------------------------------------------------------

    def rotate_master_key(self, new: MasterKeySource) -> int:
        """Wrap the keys of all days by another master key; the data keys stay as they are.

        One transaction: after a crash, and after an error, the store has the old master key or the new one, as
        `audit-async keystore status` shows. The same call again does what is left to do. Services that run go on;
        before they wrap the key of the next day they read their source again, which has to have the new key by then.

        Args:
            new: The source of the new master key.

        Returns:
            The number of days.

        Raises:
            MasterKeyError: The new key is not there, or is none; or the store is under a third key.
            KeyStoreUnavailable: It failed, before the rotation or after it: call this again with the same key. The old
                copies of the wrapped keys may still be in the store's journal until a call returns.
        """
        salt = os.urandom(16)
        master = load_master_key(new, salt)
        with self._changed():
            self._next_source = new
            if self._follow_rotation():
                return len(self._main.days())  # a call before this one has rotated, and failed after that
        with self._used():  # a KMS takes its time: not under the lock that other processes wait for
            escrow = self._main.escrow()
            ready = {day: self._rewrapped(day, master, escrow) for day in (PSEUDONYMS, *self._main.days())}
            with self._directory.locked():
                self._follow_rotation()
                for day in self._main.days():
                    if day not in ready:
                        ready[day] = self._rewrapped(day, master, escrow)
                living = {PSEUDONYMS, *self._main.days()}
                version = self._main.rewrap([row for row in ready.values() if row.day in living], master.name, salt)
            self._source, self._master, self._master_version = new, master, version
            self._next_source = None
            return len(living) - 1

    def _rewrapped(self, day: int, master: MasterKey, escrow: EscrowRecipient | None) -> WrapRow:
        key = self._main.unwrap(day, self._master)
        if key is None:
            raise KeyStoreUnavailable(errno.EAGAIN, "a day was forgotten during the rotation; rotate again")
        return wrap_row(day, key, master, escrow)

    # -- the store itself ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the store and its sessions, and forget its keys."""
        with self._lock:
            if self._state != "open":
                return
            self._state = "closed"
            for session in list(self._sessions):
                session.close()
            self._close_months()
            self._main.file.close()
            self._directory.close()
            self._day_keys.clear()

    def __repr__(self) -> str:
        return f"<SqliteKeyStore {str(self._directory.path)!r} {self._state}>"

    def forked(self) -> None:
        """Give up everything in a child: connections and locks are the parent's."""
        self._state = "forked"
        self._lock = threading.RLock()  # another thread of the parent may have had it
        self._main.file.give_up()
        for month in self._months.values():
            month.file.give_up()
        for session in self._sessions:
            session.give_up()
        self._directory.close()
        self._day_keys.clear()

    def discard(self, session: SqliteSession) -> None:
        """Leave a session that is closed out of what `close` closes."""
        with self._lock:
            if session in self._sessions:
                self._sessions.remove(session)

    def _require_known(self, normalize: Normalization | None) -> Normalization:
        """Return how ids are normalised; raises if the format is unknown, or they were to be normalised otherwise."""
        if self._main.meta("format") not in FORMATS:
            raise KeyStoreDamaged(f"{self._main.file.path} has a format that this version does not know; upgrade")
        known = self._main.normalization()
        if normalize is not None and normalize != known:
            raise KeyStoreRefused(
                f"the key store {self._directory.path} was made with normalize={known!r}, and {normalize!r} would give "
                "a person other keys; leave it out"
            )
        return known

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Keep the other threads out."""
        with self._lock:
            if self._state == "forked":
                raise KeyStoreForked("this key store was opened before a fork; open it again in the child")
            if self._state == "closed":
                raise ValueError("this key store is closed")
            yield

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """Keep the other threads and the other processes out; first finish what a change before has left."""
        with self._used(), self._directory.locked():
            self._main.file.finish()
            yield

    def _finish_at_opening(self) -> None:
        """Overwrite what a process that was killed has left in the journal, or leave it to the next change."""
        if not self._main.file.is_scrubbed():
            with suppress(KeyStoreUnavailable), self._directory.locked(timeout_s=1.0):
                self._main.file.finish()

    def _month(self, month: str, *, make: bool = True) -> MonthFile:
        """Return a month's file, opened; made if it is not there unless not `make`."""
        path = self._directory.month_file(month)
        file = self._months.pop(month, None)
        if not path.exists():
            if file is not None:
                file.file.close()
                file = None
            if make:
                self._directory.create(path.name)
        if file is None:
            file = MonthFile(path)
        self._months[month] = file  # the newest is the last
        while len(self._months) > _OPEN_MONTHS:
            self._months.pop(next(iter(self._months))).file.close()
        return file

    def _close_months(self) -> None:
        for month in self._months.values():
            month.file.close()
        self._months.clear()

    def _day_key(self, day: int) -> AESGCM | None:
        """Return a day's key; None if there is none."""
        cipher = self._day_keys.get(day)
        if cipher is None:
            self._follow_rotation()
            key = self._main.unwrap(day, self._master)
            if key is None:
                return None
            cipher = self._remember(day, key)
        return cipher

    def _day_key_for_writing(self, day: int) -> AESGCM:
        cipher = self._day_key(day)
        if cipher is None:
            key = AESGCM.generate_key(256)
            self._main.add_day(day, key, self._master)
            cipher = self._remember(day, key)
        return cipher

    def _remember(self, day: int, key: bytes) -> AESGCM:
        while len(self._day_keys) >= _DAY_KEYS:
            del self._day_keys[next(iter(self._day_keys))]
        cipher = self._day_keys[day] = AESGCM(key)
        return cipher

    def _follow_rotation(self) -> bool:
        """Read the master key again if it was rotated: no key may be wrapped by the old one.

        By another process, or by a call of this one that has failed after its commit: then the key is that call's.

        Returns:
            Whether the store is under the key of that call.

        Raises:
            MasterKeyError: The source has another key.
        """
        version = self._main.view().master_version
        if version == self._master_version:
            return False
        try:
            self._adopt(self._source, version)
        except MasterKeyError:
            if self._next_source is None:
                raise
            self._adopt(self._next_source, version)
            self._source, self._next_source = self._next_source, None
            return True
        return False

    def _adopt(self, source: MasterKeySource, version: int) -> None:
        master = load_master_key(source, self._main.salt())
        self._main.pseudonym_key(master)
        self._master, self._master_version = master, version

    def _find(self, pseudonym: bytes) -> list[bytes]:
        before = self._main.view().forgotten_before
        found: list[bytes] = []
        for month in self._directory.months():
            if month < month_of(before):
                continue
            file = self._month(month, make=False)
            found += [key_id for key_id in file.find(pseudonym) if day_of(key_id) >= before]
        return found

    def _keys(self, key_ids: Iterable[bytes]) -> dict[bytes, bytes | Destroyed]:
        view = self._main.view()
        found: dict[bytes, bytes | Destroyed] = {}
        by_month: dict[str, list[bytes]] = {}
        for key_id in key_ids:
            day = day_of(key_id)
            if day >= view.forgotten_before:
                by_month.setdefault(month_of(day), []).append(key_id)
            elif day in view.forgotten:
                found[key_id] = Destroyed(datetime.fromtimestamp(view.forgotten[day] / 1000, UTC))
        there = set(self._directory.months())
        for month, group in by_month.items():
            if month in there:
                for key_id, state in self._month(month, make=False).states(group).items():
                    key = opened(state, key_id, self._day_key)
                    if key is not None:
                        found[key_id] = key
        return found

    def _count(self, day: int) -> int:
        month = month_of(day)
        return self._month(month, make=False).count(day) if month in self._directory.months() else 0

    def _remove_forgotten(self, view: View) -> None:
        """Remove what is left of forgotten days: their tables, and whole months."""
        limit = month_of(view.forgotten_before)
        for month in self._directory.months():
            if month > limit:
                break
            if month < limit:
                self._remove_month(month)
                continue
            file = self._month(month, make=False)
            if gone := [day for day in file.days() if day < view.forgotten_before]:
                file.drop(gone)
            else:
                file.file.finish()

    def _remove_month(self, month: str) -> None:
        file = self._months.pop(month, None)
        if file is not None:
            file.file.close()
        path = self._directory.month_file(month)
        journal = path.with_name(f"{path.name}-journal")
        for part in (path, journal):
            overwrite(part)
        for part in (journal, path):  # the file last: it is what the next call looks for
            remove(part)

    def _refuse_if_held(self, what: str) -> None:
        holds = tuple(self._main.holds())
        if holds:
            named = ", ".join(f"{hold.hold_id} of log {hold.log_id}" for hold in holds[:5])
            raise ErasureRefused(
                f"no key can be {what}: {len(holds)} legal hold(s) are in force: {named}; lift them first", holds=holds
            )

    def _lagging(self, epoch: int) -> list[str]:
        directory = self._directory.sessions()
        try:
            return lagging_sessions(directory, epoch)
        except OSError as error:
            raise unavailable(error, directory) from error


class SqliteSession:
    """A log of this process in a `SqliteKeyStore`; see `KeySession`."""

    def __init__(self, store: SqliteKeyStore, registered: RegisteredSession) -> None:
        self._store = store
        self._registered = registered

    def insert(self, keys: Sequence[NewKey]) -> list[bytes]:
        """Store new keys; durable on return."""
        if not self._registered.is_open:
            raise ValueError("this session of the key store is closed")
        return self._store.insert(keys)

    def passed(self, epoch: int) -> None:
        """Say that this process holds no key any more that was destroyed up to this epoch."""
        try:
            self._registered.passed(epoch)
        except OSError as error:
            raise KeyStoreUnavailable(error.errno, f"the key store: {error.strerror}", error.filename) from error

    def close(self) -> None:
        """End the registration."""
        self._registered.close()
        self._store.discard(self)

    def give_up(self) -> None:
        """Leave the registration to the parent."""
        self._registered.give_up()

    def __repr__(self) -> str:
        return f"<SqliteSession {self._registered.name!r} {'open' if self._registered.is_open else 'closed'}>"


def open_key_store(
    path: str | os.PathLike[str],
    master_key: MasterKeySource,
    *,
    normalize: Normalization | None = None,
    trail: str | os.PathLike[str] | None = None,
) -> SqliteKeyStore:
    """Open the key store in a directory.

    Blocks; a passphrase takes some 0.3 s. Several processes and several logs may have it open.

    Args:
        path: Its directory, which belongs to this process's account and to which nobody else has access.
        master_key: The source of the master key.
        normalize: How ids are normalised, if it is to be compared with what the store was made with.
        trail: The base directory of the trail, which must not hold the store.

    Returns:
        The store; close it.

    Raises:
        KeyStoreMissing: There is none; it is never made silently.
        KeyStoreRefused: Its place can't be trusted with keys, or it normalises ids in another way.
        KeyStoreDamaged: A file of it is damaged.
        MasterKeyError: The master key is not there, or is not this store's.
        KeyStoreUnavailable: It can't be read now.
        ConfigError: The source of the master key names no place.
    """
    return SqliteKeyStore(StoreDirectory(path, trail=trail), master_key, normalize=normalize)


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store.forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
