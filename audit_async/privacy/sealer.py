"""Sealing: the personal members of an event are encrypted under the keys of their subjects, in `emit`.

Nothing is read for it. Somebody who was not seen today gets a fresh key with a fresh id, which the disk thread stores
before the records that need it (`audit_async._writer.key_commits`); so a subject has a key for each session of a log,
each UTC day, and more if the cache has forgotten him. Erasing him destroys all of them.

A key belongs to one opening in one process. A child that is forked drops them all, since two processes that go on with
one cipher are a risk that no nonce should have to bear.

Any thread may seal. Who owns what: everything shared is owned by one lock; the disk thread takes what is to be stored.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from threading import RLock
from time import time_ns
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async._sanitize.plain_json import encode_plain
from audit_async._sanitize.reductions import Reductions
from audit_async.config import Privacy
from audit_async.privacy.data_keys import KeyMaker, NewKey, day_of, key_id_text
from audit_async.privacy.key_store import KeyStore
from audit_async.privacy.personal_plan import Found, Plan, Target, rendered_path
from audit_async.privacy.sealed_text import (
    RANDOM_BYTES,
    context_place,
    escape_all,
    event_place,
    key_prefix,
    seal_text,
)
from audit_async.privacy.subjects import UNATTRIBUTED, Subject

__all__ = ["SEALED_WORD", "Sealer", "SealingKey", "sealed_ids"]

#: A key seals no more texts than this: a random nonce of 96 bits is safe up to 2^32 of them (SP 800-38D, 8.3).
_MOST_TEXTS: Final = 1 << 28
_RANDOM_POOL: Final = 4096
_DAY_NS: Final = 86_400_000_000_000
#: A plain text with this in it may have to be escaped.
SEALED_WORD: Final = "sealed:"

# Where a text of a record begins: its quotation mark never follows a backslash.
_SEALED_ID: Final = re.compile(rb'(?<!\\)"sealed:1:([A-Za-z0-9_-]{22}):')
#: Of a reduction's path: what follows the path of the member that it is in.
_DEEPER: Final = tuple(".[{@+")
_CUT_PATH: Final = re.compile(r".{183}~[0-9a-f]{16}")


class SealingKey:
    """A key that this process seals with."""

    __slots__ = ("cipher", "key_id", "new", "prefix", "subject", "texts_left")

    def __init__(self, new: NewKey, subject: Subject, log_id: str) -> None:
        self.new: Final = new
        self.subject: Final = subject
        self.key_id: Final = key_id_text(new.key_id)
        self.cipher: Final = AESGCM(new.key)
        self.prefix: Final = key_prefix(log_id, self.key_id)
        self.texts_left = _MOST_TEXTS

    def __repr__(self) -> str:
        return f"<SealingKey {self.key_id}>"


class _Unstored:
    """A key that is in no key store yet, and how many texts of events that may still be refused need it."""

    __slots__ = ("is_needed", "key", "texts")

    def __init__(self, key: SealingKey) -> None:
        self.key: Final = key
        self.texts = 0
        self.is_needed = False  # whatever is refused


class Sealer:
    """Seals for one opening of a log. Any thread may call it.

    Args:
        settings: What is sealed.
        store: Gives the pseudonyms of subjects; nothing else of it is used here.
        log_id: The log's, which is in the associated data of all that is sealed.
        epoch: The key store's erasure epoch.
        changed: Called, with the lock held, when keys were dropped: texts that were sealed for later use are no more.
    """

    def __init__(
        self, settings: Privacy, store: KeyStore, log_id: str, *, epoch: int, changed: Callable[[], object]
    ) -> None:
        self._most_keys: Final = settings.cached_subjects
        self._bindings: Final = settings.personal_bindings()
        self._places: Final = {name: context_place(name) for name in self._bindings}
        self._tenant_binding: Final = settings.tenant_binding
        self._pseudonym: Final = store.pseudonym
        self._log_id: Final = log_id
        self._changed: Final = changed
        self._lock = RLock()  # re-entrant: a signal handler or a finalizer may emit while its thread seals
        self._keys: Final[dict[tuple[str, str, str], SealingKey]] = {}
        self._unstored: Final[dict[str, _Unstored]] = {}
        self._maker = KeyMaker()
        self._epoch = epoch
        self._day = -1
        self._pid: Final = os.getpid()
        self._random, self._random_used = b"", 0
        _sealers.add(self)

    def __repr__(self) -> str:
        return f"<Sealer epoch={self._epoch} keys={len(self._keys)} unstored={len(self._unstored)}>"

    # Sealing.

    def seal_event(
        self, plan: Plan, data: dict[str, Any], reductions: Reductions | None, context: Mapping[str, object] | None
    ) -> None:
        """Seal the personal members of an event, in its plain data.

        Args:
            plan: What is personal in the event's class.
            data: The event, harmless.
            reductions: What was cut of it; the digests of what is personal are sealed as well.
            context: What is bound for the task that emits it.

        `look_at_day` was called before.
        """
        found, targets = plan.found(data), plan.targets(data)
        if not found and not targets:
            return
        tenant = self._tenant(context)
        if reductions is not None and reductions.entries:
            targets += _digests(data, found, targets, reductions)
        count = len(targets)
        for _, _, texts, _ in found:
            count += len(texts)
        # Loops, not comprehensions and `zip`, each of which costs a tenth of sealing a text (python -m bench privacy).
        keys: list[SealingKey] = []
        with self._lock:
            random = self._take_random(RANDOM_BYTES * count)
            for _, _, texts, whose in found:
                keys.append(self._key_of(tenant, whose, len(texts)))
            if targets:
                keys += [self._key_of(tenant, target.whose, 1) for target in targets]
        at = used = 0
        for _, container, texts, _ in found:
            key = keys[used]
            used += 1
            cipher, key_id, prefix = key.cipher, key.key_id, key.prefix
            for name, place, value in texts:
                end = at + RANDOM_BYTES
                container[name] = seal_text(cipher, key_id, prefix + place, encode_plain(value), random[at:end])
                at = end
        for target in targets:
            key = keys[used]
            used += 1
            end = at + RANDOM_BYTES
            associated = key.prefix + (target.place or event_place(plan.event_type, target.path))
            target.container[target.key] = seal_text(
                key.cipher, key.key_id, associated, encode_plain(target.value), random[at:end]
            )
            at = end

    def is_concerned(self, context: Mapping[str, object]) -> bool:
        """Return whether a value that is bound has to be sealed, or escaped."""
        return not self._bindings.keys().isdisjoint(context) or any(
            isinstance(value, str) and SEALED_WORD in value for value in context.values()
        )

    def seal_context(self, shown: dict[str, object], values: Mapping[str, object], reductions: Reductions) -> None:
        """Seal the personal values of a context, and escape the others.

        The text is kept and recorded with every event under the binding, so its keys are needed whatever is refused.

        Args:
            shown: The values, harmless; changed here.
            values: As they were bound: they name the tenant.
            reductions: What was cut of them.
        """
        tenant = self._tenant(values)
        for name, value in shown.items():
            if name not in self._bindings:
                shown[name] = escape_all(value)
                continue
            if value is None:
                continue
            kind = self._bindings[name]
            whose = (kind, value) if kind and isinstance(value, str) and value else None
            with self._lock:
                self._look_at_day()
                key = self._key_of(tenant, whose, 1, is_needed=True)
            entry = reductions.entries.get(name)
            shown[name] = self._seal_one(key, self._places[name], escape_all(value))
            if entry is not None:
                entry["sha256"] = self._seal_one(key, context_place("reduced", name, "sha256"), entry["sha256"])

    @staticmethod
    def _seal_one(key: SealingKey, place: bytes, value: object) -> str:
        return seal_text(key.cipher, key.key_id, key.prefix + place, encode_plain(value), os.urandom(RANDOM_BYTES))

    def _tenant(self, context: Mapping[str, object] | None) -> str:
        if self._tenant_binding is None or context is None:
            return ""
        tenant = context.get(self._tenant_binding)
        return "" if tenant is None else str(tenant)

    def look_at_day(self) -> None:
        """Drop all keys, and what was sealed for later use, if another day has begun."""
        if time_ns() // _DAY_NS != self._day:
            with self._lock:
                self._look_at_day()

    # Keys and random bytes, with the lock held.

    def _take_random(self, size: int) -> bytes:
        """Return bytes of the system's randomness that were never used: a system call takes as long as sealing a text.

        Those that are left are one reason why a forked child may go on with nothing of this.
        """
        if os.getpid() != self._pid:  # forked by something that Python does not notice
            self.forked()
        begin, end = self._random_used, self._random_used + size
        if end > len(self._random):
            self._random = os.urandom(max(_RANDOM_POOL, size))
            begin, end = 0, size
        self._random_used = end
        return self._random[begin:end]

    def _look_at_day(self) -> None:
        """Drop all keys if another day has begun; also if the clock was set back."""
        day = time_ns() // _DAY_NS
        if day != self._day:
            self._day = day
            self._keys.clear()
            self._changed()

    def _key_of(self, tenant: str, whose: tuple[str, str] | None, texts: int, *, is_needed: bool = False) -> SealingKey:
        """Return the key of a subject, a new one if there is none; counted as needed by so many texts more.

        With `is_needed` it is stored whatever is refused.
        """
        subject: tuple[str, str, str] = UNATTRIBUTED if whose is None else (tenant, *whose)  # equals the `Subject`
        key = self._keys.get(subject)
        if key is None or key.texts_left <= 0:
            subject = Subject(*subject)
            new = self._maker.make(self._pseudonym(subject), self._day, self._epoch)
            key = SealingKey(new, subject, self._log_id)
            if len(self._keys) >= self._most_keys:
                del self._keys[next(iter(self._keys))]  # the oldest; he gets another one if he comes again
            self._keys[subject] = key
            self._unstored[key.key_id] = _Unstored(key)
        key.texts_left -= texts
        unstored = self._unstored.get(key.key_id)
        if unstored is not None:
            unstored.texts += texts
            unstored.is_needed = unstored.is_needed or is_needed
        return key

    def refused(self, encoded: bytes) -> None:
        """Note that an event is not recorded after all: keys that nothing else needs are not stored."""
        with self._lock:
            for key_id in _SEALED_ID.findall(encoded):
                unstored = self._unstored.get(key_id.decode())
                if unstored is None:
                    continue
                unstored.texts -= 1
                if unstored.texts <= 0 and not unstored.is_needed:
                    del self._unstored[unstored.key.key_id]
                    if self._keys.get(unstored.key.subject) is unstored.key:
                        del self._keys[unstored.key.subject]

    # For the disk thread.

    @property
    def epoch(self) -> int:
        """The erasure epoch up to which no destroyed key is in use here."""
        return self._epoch

    def unstored(self) -> list[SealingKey]:
        """Return the keys that must be stored before anything more is written."""
        with self._lock:
            return [unstored.key for unstored in self._unstored.values()]

    def stored(self, keys: Iterable[SealingKey]) -> None:
        """Note that keys are in the key store, or were refused by it."""
        with self._lock:
            for key in keys:
                self._unstored.pop(key.key_id, None)

    def drop(self, subjects: frozenset[bytes] | None, forgotten_before: int, epoch: int) -> list[SealingKey]:
        """Use the keys of these subjects, all keys if None, and those of forgotten days no more; return them.

        What is unstored of them stays so: the key store refuses what was made before the erasure.
        """
        with self._lock:
            dropped = {
                subject: key
                for subject, key in self._keys.items()
                if subjects is None or key.new.subject in subjects or day_of(key.new.key_id) < forgotten_before
            }
            for subject in dropped:
                del self._keys[subject]
            self._epoch = epoch
            self._changed()
            return list(dropped.values())

    def drop_refused(self, key_ids: Iterable[bytes]) -> set[str]:
        """Use keys no more that the key store has refused; return their ids as records have them."""
        refused = {key_id_text(key_id) for key_id in key_ids}
        with self._lock:
            for subject, key in list(self._keys.items()):
                if key.key_id in refused:
                    del self._keys[subject]
            self._changed()
        return refused

    def forked(self) -> None:
        """Drop every key in a forked child, before anything is sealed there."""
        self._lock = RLock()  # the parent's may be held by a thread that is not here
        self._keys.clear()
        self._unstored.clear()
        self._random, self._random_used = b"", 0


_sealers: Final[weakref.WeakSet[Sealer]] = weakref.WeakSet()


def _drop_all_keys() -> None:
    for sealer in list(_sealers):
        sealer.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all_keys)


def sealed_ids(recorded: bytes) -> set[str]:
    """Return the ids of the keys that a record, or an event of one, is sealed under."""
    return {key_id.decode() for key_id in _SEALED_ID.findall(recorded)}


def _digests(data: dict[str, Any], found: list[Found], targets: list[Target], reductions: Reductions) -> list[Target]:
    """Return the digests to be sealed: of what was cut of personal texts, which a dictionary would find again."""
    owners = [(rendered_path(data, target.path[: target.own_steps]), target.whose) for target in targets]
    for names, _, texts, whose in found:
        owners += [(rendered_path(data, (*names, name)), whose) for name, _, _ in texts]
    digests: list[Target] = []
    for path, entry in reductions.entries.items():
        owned = [whose for own, whose in owners if path == own or (path.startswith(own) and path[len(own)] in _DEEPER)]
        if owned or _CUT_PATH.fullmatch(path):
            owner = owned[0] if owned else None
            digests.append(Target(entry, "sha256", entry["sha256"], ("reduced", path, "sha256"), owner))
    return digests
