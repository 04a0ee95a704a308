"""Checking one signature over one message: nothing else verifies with `cryptography`.

Imported when the first signature is checked, so that formats can be read without the extra `tlog`.
"""

from __future__ import annotations

from typing import Final

try:
    from cryptography.exceptions import InvalidSignature as _WrongSignature
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ModuleNotFoundError as error:
    raise ImportError(
        "checking a signature needs the package cryptography; run: pip install 'audit-async[tlog]'", name=__name__
    ) from error

try:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
except ImportError:  # an older release
    MLDSA44PublicKey = None  # type: ignore[assignment, misc]  # so that only who needs it asks for a newer one

from audit_async.tlog.failures import InvalidSignature

#: False if the release of `cryptography` that is installed does not know ML-DSA-44.
KNOWS_ML_DSA_44: Final = MLDSA44PublicKey is not None


def check_ed25519(name: str, public_key: bytes, signature: bytes, message: bytes) -> None:
    """Return if `signature` is one of `message` by the Ed25519 key of `name`; raises `InvalidSignature` if not."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (_WrongSignature, ValueError):
        raise _wrong(name) from None


def check_ml_dsa_44(name: str, public_key: bytes, signature: bytes, message: bytes) -> None:
    """Return if `signature` is one of `message` by the ML-DSA-44 key of `name`; raises `InvalidSignature` if not."""
    try:
        MLDSA44PublicKey.from_public_bytes(public_key).verify(signature, message)
    except UnsupportedAlgorithm:
        raise InvalidSignature(f"the key of {name} is ML-DSA-44, which this cryptography can't verify") from None
    except (_WrongSignature, ValueError):
        raise _wrong(name) from None


def _wrong(name: str) -> InvalidSignature:
    return InvalidSignature(f"the signature by {name} is wrong: the text or the key is another")
