"""Keys for the tests of reading, and texts sealed under them, without a store on a disk."""

from __future__ import annotations

import os
from typing import cast

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async.privacy import Changes, Destroyed, KeyMaker, KeyStore, NewKey, Subject, key_id_text
from audit_async.privacy.opening_sealed import Opener
from audit_async.privacy.sealed_text import RANDOM_BYTES, key_prefix, seal_text
from audit_async.privacy.subjects import pseudonym_of

LOG_ID = "0123456789abcdef0123456789abcdef"


class KnownKeys:
    """What reading asks of a key store; it counts the keys that it is asked for."""

    def __init__(self) -> None:
        self.maker = KeyMaker()
        self.known: dict[bytes, bytes | Destroyed] = {}
        self.asked: list[bytes] = []

    def keys(self, key_ids: list[bytes]) -> dict[bytes, bytes | Destroyed]:
        """Return the keys that are known."""
        self.asked += key_ids
        return {key_id: self.known[key_id] for key_id in key_ids if key_id in self.known}

    def changes_since(self, epoch: int) -> Changes:
        """Return that nobody was erased."""
        return Changes(epoch, frozenset(), 0)

    def pseudonym(self, subject: Subject) -> bytes:
        """Return what a person is known by."""
        return pseudonym_of(subject, bytes(32))

    def seal(self, value: object, place: bytes, *, log_id: str = LOG_ID, store: bool = True) -> str:
        """Return a value sealed under a key of its own."""
        made = self.maker.make(bytes(16), 20_000, 0)
        if store:
            self.known[made.key_id] = made.key
        return self.seal_with(made, value, place, log_id)

    def seal_with(self, key: NewKey, value: object, place: bytes, log_id: str) -> str:
        """Return a value sealed under this key."""
        text = key_id_text(key.key_id)
        associated = key_prefix(log_id, text) + place
        return seal_text(AESGCM(key.key), text, associated, msgspec.json.encode(value), os.urandom(RANDOM_BYTES))

    @property
    def store(self) -> KeyStore:
        """These keys as a store."""
        return cast("KeyStore", self)

    def opener(self) -> Opener:
        """Return what opens with these keys."""
        return Opener(self.store)
