"""The master key: where it comes from, and what it wraps.

It wraps the key of each UTC day and the key of the pseudonyms, never a data key: so a KMS is asked once a day, and a
rotation rewraps one key for each day. Wrapping is AES-256-GCM (NIST SP 800-38D) with a random nonce and the purpose as
associated data, so that no wrapped key can be put in another's place. A passphrase becomes a key by scrypt (RFC 7914).
"""

from __future__ import annotations

import base64
import errno
import os
from binascii import Error as NotBase64
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from audit_async.config.key_store_settings import ExternalMasterKey, MasterKeySource, split_master_key_source
from audit_async.config.transparency import SecretSource
from audit_async.privacy.store_failures import KeyStoreUnavailable, MasterKeyError
from audit_async.tlog.failures import KeyUnavailable
from audit_async.tlog.signing_keys import place_of_secret, read_secret

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
#: OWASP's recommendation for scrypt: 128 MiB, some 0.3 s
#: (https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#scrypt).
_SCRYPT_COST: Final = 1 << 17
_SHORTEST_PASSPHRASE: Final = 12
_LEAST_RSA_BITS: Final = 3072
#: A wrapped key has this much room in the store; those of the known KMS have up to 512 bytes.
LONGEST_WRAPPED: Final = 1000


class MasterKey(Protocol):
    """What wraps the keys of the days."""

    @property
    def name(self) -> str:
        """Where it comes from, for messages."""

    def wrap(self, key: bytes, purpose: str) -> bytes:
        """Return a key of 32 bytes wrapped for a purpose. Raises `KeyStoreUnavailable`."""

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        """Return the key. Raises `MasterKeyError` if this key did not wrap it, `KeyStoreUnavailable`."""


def load_master_key(source: MasterKeySource, salt: bytes) -> MasterKey:
    """Return the master key of a source.

    Args:
        source: Where it comes from.
        salt: The key store's salt, for a passphrase.

    Raises:
        MasterKeyError: It is not there, others can read it, or it is no key; the message names the source.
        ConfigError: The source names no place.
    """
    if isinstance(source, ExternalMasterKey):
        return _External(source)
    place, is_passphrase = split_master_key_source(source)
    name = place_of_secret(place)
    try:
        secret = read_secret(place)
    except KeyUnavailable as error:
        raise MasterKeyError(f"the master key: {error}") from error
    if is_passphrase:
        passphrase = secret.rstrip(b"\r\n")
        if len(passphrase) < _SHORTEST_PASSPHRASE:
            raise MasterKeyError(f"the passphrase in {name} is shorter than {_SHORTEST_PASSPHRASE} bytes")
        return _Local(Scrypt(salt=salt, length=_KEY_BYTES, n=_SCRYPT_COST, r=8, p=1).derive(passphrase), name)
    return _Local(_parsed(secret, name), name)


def new_master_key() -> bytes:
    """Return a new master key as a file has it: base64 and a line end."""
    return base64.b64encode(os.urandom(_KEY_BYTES)) + b"\n"


class _Local:
    """A master key in this process's memory."""

    def __init__(self, key: bytes, name: str) -> None:
        self.name = name
        self._cipher = AESGCM(key)

    def wrap(self, key: bytes, purpose: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, purpose.encode())

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError):
            raise _other_key(self.name) from None


class _External:
    """A master key in a KMS or HSM."""

    def __init__(self, key: ExternalMasterKey) -> None:
        self.name = key.name
        self._key = key

    def wrap(self, key: bytes, purpose: str) -> bytes:
        return self._asked("wrap", key, purpose)

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        key = self._asked("unwrap", wrapped, purpose)
        if len(key) != _KEY_BYTES:
            raise _other_key(self.name)
        return key

    def _asked(self, what: str, data: bytes, purpose: str) -> bytes:
        function = self._key.wrap if what == "wrap" else self._key.unwrap
        try:
            answer: object = function(data, purpose)
        except Exception as error:
            # Only the class: what a client says may quote its request.
            raise KeyStoreUnavailable(
                errno.EAGAIN, f"the master key {self.name} could not {what} a key: {type(error).__name__}"
            ) from error
        if not isinstance(answer, bytes) or not 0 < len(answer) <= LONGEST_WRAPPED:
            raise MasterKeyError(
                f"{what} of the master key {self.name} returned no bytes, or more than {LONGEST_WRAPPED} of them"
            )
        return answer


class EscrowRecipient:
    """Who can open the keys of the days if the master key is lost: an RSA key whose private half is kept elsewhere.

    RSA-OAEP with SHA-256 (RFC 8017). Anyone with the private half and a copy of the key store can read what is sealed.
    """

    def __init__(self, pem: bytes) -> None:
        """Take a public key.

        Args:
            pem: An RSA public key of 3072 bits or more, as PEM.

        Raises:
            MasterKeyError: It is none.
        """
        try:
            key: object = load_pem_public_key(pem)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, rsa.RSAPublicKey) or not _LEAST_RSA_BITS <= key.key_size <= 4096:
            raise MasterKeyError(f"an escrow key is an RSA public key of {_LEAST_RSA_BITS} to 4096 bits in PEM")
        self._key = key

    def wrap(self, key: bytes) -> bytes:
        """Return a key that only the recipient can unwrap."""
        return self._key.encrypt(key, _OAEP)


class EscrowKey:
    """The private half of an escrow key: unwraps what the master key wrapped as well."""

    def __init__(self, source: SecretSource) -> None:
        """Read a private key (PEM without a passphrase). Raises `MasterKeyError`."""
        self.name = place_of_secret(source)
        try:
            key: object = load_pem_private_key(read_secret(source), None)
        except KeyUnavailable as error:
            raise MasterKeyError(f"the escrow key: {error}") from error
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise MasterKeyError(f"{self.name} holds no RSA private key in PEM without a passphrase")
        self._key = key

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the key; raises `MasterKeyError` if it was wrapped for somebody else."""
        try:
            return self._key.decrypt(wrapped, _OAEP)
        except ValueError:
            raise MasterKeyError(f"{self.name} is not the escrow key of this key store") from None


_OAEP: Final = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)


def _other_key(name: str) -> MasterKeyError:
    return MasterKeyError(
        f"{name} is not the master key of this key store; it may have been rotated, or the key store is another's"
    )


def _parsed(secret: bytes, name: str) -> bytes:
    """Return the 32 bytes that a secret holds: raw, as hex, or as base64 of either alphabet."""
    if len(secret) == _KEY_BYTES:
        return secret
    text = secret.strip()
    key = b""
    try:
        if len(text) == 2 * _KEY_BYTES:
            key = bytes.fromhex(text.decode("ascii"))
        else:
            key = base64.b64decode(
                text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4), validate=True
            )
    except (NotBase64, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise MasterKeyError(
            f"{name} holds no master key: 32 bytes, raw, as hex or as base64; make one with: audit-async keystore init"
        )
    return key
