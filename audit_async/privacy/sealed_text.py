"""The format of a sealed member, version 1: `sealed:1:<key id>:<nonce, ciphertext, tag>:<commitment>`.

A personal member is recorded as such a text, made before anything is hashed, so a record is complete for ever and
legible for as long as its key exists. docs/format.md describes the format for other languages, docs/vectors/sealed.json
has examples.

- AES-256-GCM (NIST SP 800-38D) with a random nonce. What is encrypted is `salt(16) || text || 0x80 || 0x00…` up to a
  multiple of 16 bytes (ISO/IEC 7816-4 padding), so that a length says little. `text` is the JSON of the member.
- The associated data names the place, so a ciphertext is valid in its log and at its member alone.
- The commitment is a SHA-256 over place, salt and text. AES-GCM lets whoever knows two keys make one ciphertext that
  opens as two texts (https://eprint.iacr.org/2019/016); with the commitment it can't. It also lets one member be
  disclosed without its key: whoever gets salt and text checks them with SHA-256 alone.

Nothing here knows keys by subject, or files.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final, NamedTuple, Protocol

from audit_async.errors import AuditError

__all__ = [
    "ERASED",
    "FORGED",
    "KEY_MISSING",
    "RANDOM_BYTES",
    "SEALED",
    "Forged",
    "Opened",
    "SealedText",
    "context_place",
    "escape_all",
    "escape_members",
    "escape_plain",
    "event_place",
    "is_sealed",
    "key_prefix",
    "open_sealed",
    "parse_sealed",
    "seal_text",
    "unescape_plain",
    "verify_disclosure",
]

# What a reader shows in place of a sealed text that stays closed; see docs/format.md.
SEALED: Final = "[sealed]"
ERASED: Final = "[erased {:%Y-%m-%d}]"  #: with the time when the key was destroyed
KEY_MISSING: Final = "[key missing]"
FORGED: Final = "[forged]"

#: What `seal_text` needs of the system's randomness: a nonce and a salt.
RANDOM_BYTES: Final = 28

_NONCE: Final = 12
_SALT: Final = 16
_TAG: Final = 16
_BLOCK: Final = 16
_COMMITTED: Final = 43  # letters of base64url, without the padding
_VERSION: Final = b"1"
_base64: Final = binascii.b2a_base64
_COMMITMENT: Final = b"audit-async sealed 1\x00"

_SEALED: Final = re.compile(r"sealed:1:([A-Za-z0-9_-]{22}):([A-Za-z0-9_-]{80,}):([A-Za-z0-9_-]{43})")
_TO_ESCAPE: Final = re.compile(r"(?:plain:)*+sealed:")
_ESCAPED: Final = re.compile(r"plain:(?:plain:)*+sealed:")
# Padding by length modulo 16; at least one byte.
_PADDING: Final = tuple(b"\x80" + bytes((_BLOCK - 1 - length) % _BLOCK) for length in range(_BLOCK))
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


class Cipher(Protocol):
    """AES-256-GCM under one key: `AESGCM` of `cryptography`."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Return the ciphertext with its tag."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Return the plain text; raises if the tag does not fit."""
        ...


class Forged(AuditError, ValueError):
    """A text has the form of a sealed one, and was not sealed under this key for this place."""


class SealedText(NamedTuple):
    """The parts of a sealed text."""

    key_id: str  #: 22 characters
    nonce: bytes
    ciphertext: bytes  #: with its tag
    commitment: bytes


class Opened(NamedTuple):
    """What a sealed text held; both together disclose it to somebody who has no key."""

    salt: bytes
    text: bytes  #: the JSON of the member


# Places.


def key_prefix(log_id: str, key_id: str) -> bytes:
    """Return the part of the associated data that is the same for all that one key seals in one log."""
    return _prefixed(_VERSION) + _prefixed(log_id.encode()) + _prefixed(key_id.encode())


def event_place(event_type: str, path: Iterable[str]) -> bytes:
    """Return the part of the associated data that names a member of an event.

    Args:
        event_type: The event's type.
        path: Its members' names from the event inwards; a place in a list is a decimal number from 0.
    """
    parts = b"".join([_prefixed(part.encode()) for part in path])
    return _prefixed(b"event") + _prefixed(event_type.encode()) + _prefixed(parts)


def context_place(*path: str) -> bytes:
    """Return the part of the associated data that names a value of a record's context."""
    parts = b"".join([_prefixed(part.encode()) for part in path])
    return _prefixed(b"context") + _prefixed(b"") + _prefixed(parts)


def _prefixed(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


# Sealing and opening.


def seal_text(cipher: Cipher, key_id: str, associated: bytes, text: bytes, random: bytes) -> str:
    """Return the sealed form of a text.

    Args:
        cipher: AES-256-GCM under the key that `key_id` names.
        key_id: The key's name in records, 22 characters.
        associated: `key_prefix` followed by the place.
        text: The JSON of what is sealed.
        random: `RANDOM_BYTES` of the system's randomness, never used before.
    """
    nonce = random[:_NONCE]
    opening = random[_NONCE:] + text
    ciphertext = cipher.encrypt(nonce, opening + _PADDING[len(text) % _BLOCK], associated)
    commitment = sha256(_COMMITMENT + associated + opening).digest()
    body = _base64(nonce + ciphertext, newline=False).rstrip(b"=")
    parts = b"%b:%b" % (body, _base64(commitment, newline=False)[:_COMMITTED])
    return f"sealed:1:{key_id}:{parts.translate(_URL_SAFE).decode()}"


def is_sealed(text: str) -> bool:
    """Return whether a recorded text has the form of a sealed one; in a log that seals, no other text has it."""
    return text.startswith("sealed:1:") and _SEALED.fullmatch(text) is not None


def parse_sealed(text: str) -> SealedText | None:
    """Return the parts of a sealed text, None if it is none."""
    found = _SEALED.fullmatch(text)
    if found is None:
        return None
    key_id, body, committed = found.groups()
    sealed, commitment = _decoded(body), _decoded(committed)
    if sealed is None or commitment is None or (len(sealed) - _NONCE) % _BLOCK or len(sealed) < _NONCE + 3 * _BLOCK:
        return None
    return SealedText(key_id, sealed[:_NONCE], sealed[_NONCE:], commitment)


def open_sealed(sealed: SealedText, cipher: Cipher, associated: bytes) -> Opened:
    """Return what a sealed text holds.

    Raises:
        Forged: It was not sealed under this key, for this place, or its commitment is to another text.
    """
    try:
        padded = cipher.decrypt(sealed.nonce, sealed.ciphertext, associated)
    except Exception as error:
        raise Forged("this text was not sealed under this key for this member of this log") from error
    opening = padded.rstrip(b"\x00")
    if not opening.endswith(b"\x80") or len(opening) <= _SALT or len(padded) - len(opening) >= _BLOCK:
        raise Forged("this text was sealed by something that does not keep to the format")
    opened = Opened(opening[:_SALT], opening[_SALT:-1])
    if not verify_disclosure(sealed, opened, associated):
        raise Forged("this text opens to another one than it commits to")
    return opened


def verify_disclosure(sealed: SealedText, opened: Opened, associated: bytes) -> bool:
    """Return whether salt and text are what was sealed; needs no key."""
    commitment = sha256(_COMMITMENT + associated + opened.salt + opened.text).digest()
    return len(opened.salt) == _SALT and compare_digest(commitment, sealed.commitment)


def _decoded(text: str) -> bytes | None:
    """Return the bytes of base64url without padding; None unless it is their only form."""
    encoded = text.encode().translate(_FROM_URL_SAFE)
    try:
        decoded = binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)
    except binascii.Error:
        return None
    return decoded if binascii.b2a_base64(decoded, newline=False).rstrip(b"=") == encoded else None


# Plain texts that look sealed.


def escape_plain(text: str) -> str:
    """Return how a plain text is recorded in a log that seals: one that would pass for sealed begins with `plain:`."""
    return f"plain:{text}" if _TO_ESCAPE.match(text) else text


def escape_all(value: object) -> Any:  # noqa: ANN401 - plain JSON data
    """Return plain data in which no text looks sealed."""
    if isinstance(value, str):
        return escape_plain(value)
    if isinstance(value, dict):
        return {escape_plain(key): escape_all(member) for key, member in value.items()}
    if isinstance(value, list):
        return [escape_all(member) for member in value]
    return value


def escape_members(data: dict[str, Any]) -> None:
    """Escape the members of an event, in its plain data, but for its type."""
    for name, value in data.items():
        if name != "event_type":
            data[name] = escape_all(value)


def unescape_plain(text: str) -> str:
    """Return the plain text that was recorded so."""
    return text.removeprefix("plain:") if _ESCAPED.match(text) else text
