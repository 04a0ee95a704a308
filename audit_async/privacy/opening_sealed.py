"""Opening sealed members of records, with the keys of a key store, and saying of the others why they stay closed.

A record is a JSON object, and its sealed members are texts in it, wherever they are: the key id is in the text, and
the associated data of the encryption names the place, so what was put into another member does not open. Nothing here
decides whether a record is genuine; the caller has checked its hash.

| shown | meaning |
| --- | --- |
| `[sealed]` | nobody gave a key store |
| `[erased 2026-11-28]` | the key was destroyed that day |
| `[key missing]` | the store never knew the key: it is another log's, older than the record, or damaged |
| `[forged]` | the key is there, and this text was not sealed under it for this place |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from time import monotonic
from typing import Final, NamedTuple

import msgspec

from audit_async.privacy.data_keys import key_id_bytes, key_id_text
from audit_async.privacy.key_store import Changes, Destroyed, KeyStore
from audit_async.privacy.sealed_text import (
    ERASED,
    FORGED,
    KEY_MISSING,
    SEALED,
    Cipher,
    Forged,
    Opened,
    SealedText,
    context_place,
    event_place,
    key_prefix,
    open_sealed,
    parse_sealed,
    unescape_plain,
)
from audit_async.privacy.store_failures import KeyStoreOutdated
from audit_async.privacy.subjects import Subject

__all__ = [
    "ERASED",
    "FORGED",
    "KEY_MISSING",
    "SEALED",
    "ClosedText",
    "MemberOpened",
    "OpenedRecord",
    "Opener",
    "sealed_members",
]

#: Whether such a text is sealed is not certain: only a key that the store knows says so.
_IN_DOUBT: Final = frozenset({SEALED, KEY_MISSING})

#: Keys that are kept, each with its cipher: 3 KiB.
_KEPT_KEYS: Final = 4096

#: How often it is looked whether one of them was destroyed meanwhile, in seconds: other processes may take a second.
_LOOK_EVERY_S: Final = 0.25

#: Where a member is: `event` or `context`, then the names from there, a position in a list as a decimal number.
Place = tuple[str, ...]


class SealedMember(NamedTuple):
    """A sealed text, and where in the record it is."""

    place: Place
    sealed: SealedText


class ClosedText(str):
    """What a person reads in place of a member that stays closed; a caller's own `[sealed]` is no such text."""

    __slots__ = ()


class MemberOpened(NamedTuple):
    """A sealed member after the attempt to open it."""

    place: Place
    opened: Opened | None  #: None if it stays closed
    shown: str = ""  #: why, for a person; empty if it is open


class OpenedRecord(NamedTuple):
    """The members of a record, with what could be opened in the clear."""

    event: dict[str, object]
    context: dict[str, object]
    members: tuple[MemberOpened, ...]  #: those that were sealed


class _EscapedText(NamedTuple):
    """A plain text that was recorded with `plain:` before it, since it looks sealed."""

    place: Place
    text: str


def sealed_members(event: dict[str, object], context: dict[str, object]) -> Iterator[SealedMember]:
    """Yield the sealed members of a record in the order in which they are recorded."""
    for member in _texts_like_sealed(event, context):
        if isinstance(member, SealedMember):
            yield member


def _texts_like_sealed(event: dict[str, object], context: dict[str, object]) -> Iterator[SealedMember | _EscapedText]:
    """Yield the sealed members and the escaped ones; without recursion, since a line may nest deeper than the stack."""
    waiting: list[tuple[Place, object]] = [(("context",), context), (("event",), event)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            if value.startswith("sealed:1:") and (sealed := parse_sealed(value)) is not None:
                yield SealedMember(place, sealed)
            elif value.startswith("plain:") and unescape_plain(value) != value:
                yield _EscapedText(place, value)
        elif isinstance(value, dict):
            waiting.extend([((*place, name), of) for name, of in reversed(value.items())])
        elif isinstance(value, list):
            waiting.extend([((*place, str(at)), of) for at, of in reversed([*enumerate(value)])])


class Opener:
    """Opens the sealed members of records. Used by one thread at a time; blocks for the key store's disk.

    Keys are kept for the records that come, and no longer than a fraction of a second after they were destroyed: one
    that delivers, or follows a log, runs for weeks.
    """

    def __init__(self, store: KeyStore | None, *, only: Collection[bytes] | None = None) -> None:
        """Take the keys of `store`; without one everything stays `[sealed]`, and so do others than `only` these ids."""
        self._store: Final = store
        self._only: Final = None if only is None else frozenset(map(key_id_text, only))
        self._ciphers: Final[dict[str, Cipher | Destroyed | None]] = {}
        self._destroyed: tuple[int, int, bytes | None] = (0, 0, None)  #: what the store said at the last look
        self._look_at_s = 0.0

    @property
    def has_keys(self) -> bool:
        """Whether there is a key store."""
        return self._store is not None

    def may_share_key(self, name: str, others: Collection[str]) -> bool:
        """Return whether the store may know somebody of this name by the same key as one of the others.

        It knows ids that differ in spelling alone by one key, if it normalises them.
        """
        if name in others or self._store is None:
            return True
        known = self._store.pseudonym(Subject("", "user", name))
        return any(self._store.pseudonym(Subject("", "user", other)) == known for other in others)

    def open(
        self,
        log_id: str,
        event: dict[str, object],
        context: dict[str, object],
        *,
        is_sealing: Callable[[], bool] = lambda: True,
        closed_as: Callable[[str], str] = str,
    ) -> OpenedRecord:
        """Return the members of a record, opened as far as there are keys.

        What can't be opened is replaced by the text that says why, or what `closed_as` makes of it. The given members
        are not changed.

        Args:
            log_id: The id of the log that the record is in.
            event: The recorded event, decoded, with its `event_type`.
            context: The recorded context; empty if there is none.
            is_sealing: Whether the record is of a session that seals. Asked only if that is in doubt: a session without
                privacy may have recorded a text that looks sealed, which is then left as it is.
            closed_as: Returns what takes the place of a closed member, given the text that says why it is closed.

        Raises:
            KeyStoreUnavailable: The store can't be read now.
            KeyStoreOutdated: The store is from a backup, and may open what was erased since.
        """
        texts = list(_texts_like_sealed(event, context))
        found = [member for member in texts if isinstance(member, SealedMember)]
        self._fetch(member.sealed.key_id for member in found)
        opened = [self._opened(log_id, event, member) for member in found]
        clear: dict[Place, object] = {
            one.place: unescape_plain(one.text) for one in texts if isinstance(one, _EscapedText)
        }
        if (clear or any(one.shown in _IN_DOUBT for one in opened)) and not is_sealing():
            clear.clear()
            opened = [one for one in opened if one.shown not in _IN_DOUBT]
        clear.update((one.place, _value_of(one, closed_as)) for one in opened)
        event, context = _replaced(event, ("event",), clear), _replaced(context, ("context",), clear)
        return OpenedRecord(event, context, tuple(opened))

    def _opened(self, log_id: str, event: dict[str, object], member: SealedMember) -> MemberOpened:
        place, sealed = member
        if self._store is None or (self._only is not None and sealed.key_id not in self._only):
            return MemberOpened(place, None, SEALED)
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            return MemberOpened(place, None, KEY_MISSING)
        if isinstance(cipher, Destroyed):
            return MemberOpened(place, None, ERASED.format(cipher.at))
        try:
            opened = open_sealed(sealed, cipher, associated_data(log_id, event, member))
            msgspec.json.decode(opened.text)
        except (Forged, msgspec.DecodeError):  # or sealed under the right key by something else than this library
            return MemberOpened(place, None, FORGED)
        return MemberOpened(place, opened)

    def _fetch(self, key_ids: Iterable[str]) -> None:
        """Take the keys with these ids out of the store, as far as they are not here."""
        ciphers, store = self._ciphers, self._store
        wanted = {text for text in key_ids if self._only is None or text in self._only}
        if store is None or not wanted:
            return
        self._drop_destroyed(store)
        missing = wanted - ciphers.keys()
        if not missing:
            return
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - needs the extra privacy

        if len(ciphers) + len(missing) > _KEPT_KEYS:
            ciphers.clear()
        _refuse_outdated(store.changes_since(0))
        by_id = {text: _bytes_of(text) for text in missing}
        keys = store.keys([key_id for key_id in by_id.values() if key_id is not None])
        for text, key_id in by_id.items():
            key = keys.get(key_id) if key_id is not None else None
            ciphers[text] = AESGCM(key) if isinstance(key, bytes) else key

    def _drop_destroyed(self, store: KeyStore) -> None:
        """Drop the kept keys if some were destroyed since the last look, which is not long ago.

        An erasure that has only begun counts, and so does its end: what was fetched in between is dropped then.
        """
        now = monotonic()
        if now < self._look_at_s:
            return
        changes = store.changes_since(self._destroyed[0])
        _refuse_outdated(changes)
        destroyed = changes.epoch, changes.forgotten_before, changes.erased_key
        if destroyed != self._destroyed:
            self._ciphers.clear()
            self._destroyed = destroyed
        self._look_at_s = now + _LOOK_EVERY_S


def _refuse_outdated(changes: Changes) -> None:
    """Refuse a store that came back from a backup as long as it may open what was erased since."""
    missing = changes.missing
    if missing:
        raise KeyStoreOutdated(
            f"the key store is from a backup, and has keys again that {missing} later erasure(s) had destroyed, so "
            "nothing is shown in the clear: open, for writing, each log that uses the key store once (start its "
            "service, or `audit-async retention run`); the logs that recorded these erasures destroy the keys again"
        )


def associated_data(log_id: str, event: dict[str, object], member: SealedMember) -> bytes:
    """Return the associated data of a sealed member: what says where its text belongs."""
    where, *path = member.place
    if where == "context":
        place = context_place(*path)
    else:
        event_type = event.get("event_type")
        place = event_place(event_type if isinstance(event_type, str) else "", path)
    return key_prefix(log_id, member.sealed.key_id) + place


def _bytes_of(text: str) -> bytes | None:
    try:
        return key_id_bytes(text)
    except ValueError:
        return None


def _value_of(member: MemberOpened, closed_as: Callable[[str], str]) -> object:
    if member.opened is None:
        return closed_as(member.shown)
    value: object = msgspec.json.decode(member.opened.text)
    return value


def _replaced(members: dict[str, object], place: Place, clear: dict[Place, object]) -> dict[str, object]:
    """Return a copy of an object with the values in `clear`, along their paths alone."""
    copy = dict(members)
    copies: dict[Place, dict[str, object] | list[object]] = {place: copy}
    for path, value in clear.items():
        if path[: len(place)] != place:
            continue
        inner: dict[str, object] | list[object] = copy
        for depth in range(len(place) + 1, len(path)):
            name = path[depth - 1]
            there = copies.get(path[:depth])
            if there is None:
                of = inner[int(name)] if isinstance(inner, list) else inner[name]
                there = copies[path[:depth]] = list(of) if isinstance(of, list) else dict(of)  # type: ignore[call-overload]
                _put(inner, name, there)
            inner = there
        _put(inner, path[-1], value)
    return copy


def _put(into: dict[str, object] | list[object], name: str, value: object) -> None:
    if isinstance(into, list):
        into[int(name)] = value
    else:
        into[name] = value
