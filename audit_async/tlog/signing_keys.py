"""Signing keys: made, stored, found again, and used; Ed25519 only.

A key is a PKCS #8 PEM file that only its owner can read, with or without a passphrase, or stays in a KMS or HSM that
is asked for each signature. Every signature is checked before it leaves this module: a signer that answers with
something else is found out here, not by the first reader of the log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from inspect import isawaitable, iscoroutinefunction
from pathlib import Path
from typing import Final, NamedTuple

from anyio import to_thread
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from audit_async._durable import disk
from audit_async.config import ExternalKey, KeySource, SecretSource, SignFunction
from audit_async.config.transparency import is_secret_itself, secret_kind
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.failures import InvalidSignature, KeyUnavailable, SigningFailed
from audit_async.tlog.notes import Note, Signature, SignatureType, VerifierKey, cosigned_message

_LARGEST_PEM: Final = 64 * 1024


class Signer(NamedTuple):
    """A key that can sign, under the name that it signs with."""

    key: VerifierKey
    sign: SignFunction


def new_key(passphrase: bytes | None = None) -> bytes:
    """Return a new Ed25519 key as PKCS #8 PEM, encrypted if there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def write_key(path: str | os.PathLike[str], pem: bytes) -> None:
    """Write a key to a new file, mode 0600, durable on return; raises `KeyUnavailable` if the name is taken."""
    target = Path(os.path.abspath(path))
    try:
        directory = disk.open_directory(str(target.parent), follow=True)
    except OSError as error:
        raise KeyUnavailable(f"no key can be written to {target.parent}: {error.strerror}") from error
    try:
        fd = disk.create_file(target.name, dir_fd=directory)
        try:
            disk.write_at(fd, pem, 0)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.sync_directory(directory)
    except FileExistsError:
        raise KeyUnavailable(f"{target} is there already, and a key is never overwritten; name another file") from None
    except OSError as error:
        raise KeyUnavailable(f"the key could not be written to {target}: {error.strerror}") from error
    finally:
        disk.close(directory)


def load_signer(source: KeySource, *, origin: str, passphrase: SecretSource | None = None) -> Signer:
    """Return the signer for one key, under the log's origin as its name.

    Args:
        source: A path, `credential:NAME`, `env:VARIABLE`, or an `ExternalKey`.
        origin: The log's name.
        passphrase: The source of the passphrase, if the key is encrypted.

    Raises:
        KeyUnavailable: It can't be used; the message names the place and what to do, never what was found there.
    """
    if isinstance(source, ExternalKey):
        return Signer(VerifierKey.of(origin, source.public_key), source.sign)
    secret = None if passphrase is None else read_secret(passphrase).rstrip(b"\r\n")
    where = place_of_secret(source)
    private = _private_key(read_secret(source), secret, where)
    return Signer(VerifierKey.of(origin, private.public_key().public_bytes_raw()), private.sign)


def load_signers(
    sources: Iterable[KeySource], *, origin: str, passphrase: SecretSource | None = None
) -> tuple[Signer, ...]:
    """Return a signer for each key; raises `KeyUnavailable`, also if one key is given twice. See `load_signer`."""
    signers = tuple([load_signer(source, origin=origin, passphrase=passphrase) for source in sources])
    if len({signer.key.public_key for signer in signers}) < len(signers):
        raise KeyUnavailable("one key is configured twice; a rotation names the new key and the old one")
    return signers


def read_secret(source: SecretSource) -> bytes:
    """Return the content of a secret; raises `KeyUnavailable`.

    A file that others can read is refused. systemd's credentials are not: their directory is the unit's own, and
    systemd sets their modes.
    """
    kind, name = secret_kind(source)
    where = place_of_secret(source)
    if kind == "env":
        value = os.environ.get(name)
        if not value:
            raise KeyUnavailable(f"{where} is not set, or empty")
        return value.encode(errors="surrogateescape")
    path = name
    if kind == "credential":
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise KeyUnavailable(f"{where}: $CREDENTIALS_DIRECTORY is not set; add LoadCredential={name}:… to the unit")
        if not name or name in {".", ".."} or "/" in name:
            raise KeyUnavailable(f"{where}: a credential's name is a file name without directories")
        path = os.path.join(directory, name)
    return _read_private_file(path, where, only_owner=kind == "file")


async def sign_checkpoint(checkpoint: Checkpoint, signers: Sequence[Signer]) -> SignedCheckpoint:
    """Return the checkpoint signed by every signer, in their order.

    May be cancelled; it has no timeout of its own.

    Raises:
        SigningFailed: One of them fails, or returns something that is no signature by its key.
    """
    return SignedCheckpoint(checkpoint, await signed_note(checkpoint.text(), signers))


async def signed_note(text: str, signers: Sequence[Signer]) -> Note:
    """Return a text signed by every signer, in their order. As `sign_checkpoint`, for a text of any kind."""
    signatures = []
    for signer in signers:
        signature = Signature(signer.key.name, signer.key.key_id, await _signature(signer, text.encode()))
        try:
            signer.key.verify(text, signature)
        except InvalidSignature:
            raise SigningFailed(f"what the signer of {signer.key} returned is no signature by that key") from None
        signatures.append(signature)
    return Note(text, tuple(signatures))


def cosigner_key(key: VerifierKey) -> VerifierKey:
    """Return the verifier key under which the owner of a signing key cosigns; a witness's, for a policy."""
    return VerifierKey.of(key.name, key.public_key, SignatureType.COSIGNATURE)


async def cosign_note(note: Note, signer: Signer, *, timestamp: int) -> Note:
    """Return a checkpoint's note with a cosignature added to the signatures that it bears.

    Source: https://c2sp.org/tlog-cosignature.

    Args:
        note: What was signed; that it may be cosigned is for the caller to know.
        signer: The key, under the cosigner's name.
        timestamp: POSIX seconds.

    Raises:
        SigningFailed: The signer fails, or returns something that is no signature by its key.
    """
    key = cosigner_key(signer.key)
    value = await _signature(signer, cosigned_message(note.text, timestamp))
    signature = Signature(key.name, key.key_id, timestamp.to_bytes(8, "big") + value)
    try:
        key.verify(note.text, signature)
    except InvalidSignature:
        raise SigningFailed(f"what the signer of {key} returned is no cosignature by that key") from None
    return note.with_signatures([signature])


async def _signature(signer: Signer, message: bytes) -> bytes:
    sign = signer.sign
    try:
        if iscoroutinefunction(sign) or iscoroutinefunction(getattr(sign, "__call__", None)):  # noqa: B004 - not "is it callable"
            answer = sign(message)
        else:
            answer = await to_thread.run_sync(sign, message, abandon_on_cancel=True)
        if isawaitable(answer):
            answer = await answer
    except Exception as error:
        raise SigningFailed(f"the signer of {signer.key} failed: {type(error).__name__}") from error
    if not isinstance(answer, bytes):
        raise SigningFailed(f"the signer of {signer.key} returned {type(answer).__name__}, and a signature is bytes")
    return answer


def _private_key(pem: bytes, passphrase: bytes | None, where: str) -> Ed25519PrivateKey:
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise KeyUnavailable(f"{where}: the key is encrypted; configure where its passphrase comes from")
    try:
        # A passphrase may be configured for several keys of which some have none.
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        reason = "the passphrase is wrong, or the PEM is damaged" if encrypted else "no private key in PEM"
        raise KeyUnavailable(f"{where}: {reason}") from None  # what the parser says may quote the content
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnavailable(f"{where}: not an Ed25519 key; make one with: audit-async keys new --out key.pem")
    return key


def _read_private_file(path: str, where: str, *, only_owner: bool) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not hang us
    try:
        file = os.open(path, flags)  # links are followed: secrets are often mounted as such
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no path of a file"
        if is_secret_itself(path) or not any(mark in path for mark in "/."):
            # It may be the secret, given instead of its place. The error of the system would name it as well.
            raise KeyUnavailable(
                f"the file that is named for a secret (not shown, since the name may be the secret) can't be read: "
                f"{reason}; give the file's full path, env:NAME or credential:NAME"
            ) from None
        raise KeyUnavailable(f"{where} can't be read: {reason}") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise KeyUnavailable(f"{where} is not a regular file")
        if only_owner and status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise KeyUnavailable(f"{where} has mode {mode:04o}, so others can read it; run: chmod 600 {path}")
        return disk.read_at(file, _LARGEST_PEM, 0)
    finally:
        disk.close(file)


def place_of_secret(source: SecretSource) -> str:
    """Return what messages call the source of a secret; never what is in it."""
    kind, name = secret_kind(source)
    return {"env": f"the environment variable {name}", "credential": f"the credential {name}", "file": name}[kind]
