"""Fingerprints: names for secrets, so that a trail can tell one from another and hold none of them."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from audit_async.errors import ConfigError

__all__ = ["MIN_KEY_BYTES", "fingerprint_secret", "fingerprint_token"]

#: The shortest key of `fingerprint_secret`: NIST SP 800-107 asks for 112 bits in an HMAC's key, and 128 are usual.
MIN_KEY_BYTES: Final = 16

_TOKEN_DIGITS: Final = 6
_SECRET_DIGITS: Final = 16


def fingerprint_token(token: str | bytes) -> str:
    """Return `token:` and the first 6 hex digits of the token's SHA-256 (a text's as UTF-8): `token:a3f2c1`.

    For tokens that can't be guessed, of 80 random bits and more: with the token its records can be found, and not the
    other way. It is no unique key: of some 5,000 tokens two are likely to share one. A short secret, or one that people
    made, can be found by trying the likely ones: use `fingerprint_secret` for those.

    Args:
        token: The token; of a text the bytes in UTF-8 count.
    """
    return f"token:{sha256(_as_bytes(token)).hexdigest()[:_TOKEN_DIGITS]}"


def fingerprint_secret(secret: str | bytes, *, key: str | bytes) -> str:
    """Return `secret:` and the first 16 hex digits of the HMAC-SHA256 of a secret that could be guessed.

    For PINs, codes, card numbers, passwords: without the key, trying all of them reveals nothing. 64 bits distinguish
    some billions of secrets.

    Args:
        secret: The secret.
        key: At least 16 random bytes, kept outside the trail; with another key a secret has another fingerprint.

    Raises:
        ConfigError: If the key is shorter.
    """
    key_bytes = _as_bytes(key)
    if len(key_bytes) < MIN_KEY_BYTES:
        raise ConfigError(
            "key",
            f"has {len(key_bytes)} bytes; give at least {MIN_KEY_BYTES} random ones, as secrets.token_bytes(32) does",
        )
    return f"secret:{hmac.digest(key_bytes, _as_bytes(secret), 'sha256').hex()[:_SECRET_DIGITS]}"


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
