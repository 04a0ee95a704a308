"""Signing keys: from every place that they may come from, never readable by others, never in an error."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from audit_async.config.transparency import ExternalKey
from audit_async.tlog import signing_keys as keys
from audit_async.tlog.checkpoint import Checkpoint, verify_checkpoint
from audit_async.tlog.failures import KeyUnavailable, SigningFailed
from audit_async.tlog.merkle import EMPTY_ROOT
from tests.tlog.trees import ORIGIN

PASSPHRASE = b"correct horse"
CHECKPOINT = Checkpoint(ORIGIN, 0, EMPTY_ROOT)


def verifies(signer: keys.Signer) -> bool:
    """Return whether what the signer signs is verified by its key alone."""
    signed = anyio.run(keys.sign_checkpoint, CHECKPOINT, [signer])
    return verify_checkpoint(signed.encode(), [signer.key]).checkpoint == CHECKPOINT


def public_key(pem: bytes, passphrase: bytes | None = None) -> bytes:
    """Return the public half."""
    private = load_pem_private_key(pem, passphrase)
    assert isinstance(private, Ed25519PrivateKey)
    return private.public_key().public_bytes_raw()


def test_a_key_in_a_file(tmp_path: Path) -> None:
    """A new key is written once, for its owner alone, and signs under the log's origin."""
    path, pem = tmp_path / "key.pem", keys.new_key()
    keys.write_key(path, pem)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(KeyUnavailable, match="never overwritten"):
        keys.write_key(path, keys.new_key())
    assert path.read_bytes() == pem
    signer = keys.load_signer(path, origin=ORIGIN)
    assert (signer.key.name, signer.key.public_key) == (ORIGIN, public_key(pem))
    assert verifies(signer)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    """A key file that group or others have any right to is not used; the error names the command that mends it."""
    path = tmp_path / "key.pem"
    keys.write_key(path, keys.new_key())
    path.chmod(mode)
    with pytest.raises(KeyUnavailable, match=f"mode {mode:04o}.*chmod 600 {path}"):
        keys.load_signer(path, origin=ORIGIN)


def test_a_key_with_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passphrase comes from a secret of its own; without it, or with another, there is no key."""
    path, secret = tmp_path / "key.pem", tmp_path / "passphrase"
    pem = keys.new_key(PASSPHRASE)
    assert b"ENCRYPTED" in pem
    keys.write_key(path, pem)
    keys.write_key(secret, PASSPHRASE + b"\n")
    assert verifies(keys.load_signer(path, origin=ORIGIN, passphrase=secret))
    monkeypatch.setenv("LOG_PASSPHRASE", PASSPHRASE.decode())
    assert verifies(keys.load_signer(str(path), origin=ORIGIN, passphrase="env:LOG_PASSPHRASE"))
    monkeypatch.setenv("LOG_PASSPHRASE", "wrong secret")
    with pytest.raises(KeyUnavailable, match="passphrase is wrong") as wrong:
        keys.load_signer(path, origin=ORIGIN, passphrase="env:LOG_PASSPHRASE")
    assert "secret" not in str(wrong.value)
    with pytest.raises(KeyUnavailable, match="configure where its passphrase comes from"):
        keys.load_signer(path, origin=ORIGIN)


def test_a_passphrase_does_not_disturb_keys_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One passphrase may be configured for several keys of which some have none."""
    keys.write_key(tmp_path / "key.pem", keys.new_key())
    monkeypatch.setenv("LOG_PASSPHRASE", "unused")
    assert verifies(keys.load_signer(tmp_path / "key.pem", origin=ORIGIN, passphrase="env:LOG_PASSPHRASE"))


def test_a_key_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credential:NAME` is the file that systemd put into $CREDENTIALS_DIRECTORY, with whatever mode it gave it."""
    pem = keys.new_key()
    (tmp_path / "log.key").write_bytes(pem)
    (tmp_path / "log.key").chmod(0o440)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(KeyUnavailable, match=r"LoadCredential=log\.key"):
        keys.load_signer("credential:log.key", origin=ORIGIN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert keys.load_signer("credential:log.key", origin=ORIGIN).key.public_key == public_key(pem)
    for name in ("", "..", "../log.key", "a/b"):
        with pytest.raises(KeyUnavailable, match="file name without directories"):
            keys.load_signer(f"credential:{name}", origin=ORIGIN)
    with pytest.raises(KeyUnavailable, match="credential other can't be read: No such file"):
        keys.load_signer("credential:other", origin=ORIGIN)


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`env:VARIABLE` is the PEM itself."""
    pem = keys.new_key()
    monkeypatch.setenv("LOG_KEY", pem.decode())
    assert keys.load_signer("env:LOG_KEY", origin=ORIGIN).key.public_key == public_key(pem)
    monkeypatch.setenv("LOG_KEY", "")
    with pytest.raises(KeyUnavailable, match="LOG_KEY is not set, or empty"):
        keys.load_signer("env:LOG_KEY", origin=ORIGIN)


@pytest.mark.parametrize(
    "source", ["hunter2", "correct horse hunter2", "-----BEGIN PRIVATE KEY-----\nhunter2/\n", f"hunter2/{'A' * 35}="]
)
def test_a_secret_that_was_given_in_place_of_its_source_is_not_quoted(source: str) -> None:
    """It is taken for a path that is not there; neither the message nor what it is caused by names it."""
    with pytest.raises(KeyUnavailable, match=r"not shown.*give the file's full path, env:NAME") as caught:
        keys.read_secret(source)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_is_no_key_is_refused_without_being_quoted(tmp_path: Path) -> None:
    """A file that holds something else is named, and nothing of its content."""
    path = tmp_path / "key.pem"
    keys.write_key(path, b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    with pytest.raises(KeyUnavailable, match="no private key in PEM") as caught:
        keys.load_signer(path, origin=ORIGIN)
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.__cause__ is None
    other = tmp_path / "ec.pem"
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keys.write_key(other, pem)
    with pytest.raises(KeyUnavailable, match="not an Ed25519 key"):
        keys.load_signer(other, origin=ORIGIN)
    with pytest.raises(KeyUnavailable, match="not a regular file"):
        keys.load_signer(tmp_path, origin=ORIGIN)
    with pytest.raises(KeyUnavailable, match="No such file"):
        keys.load_signer(tmp_path / "none", origin=ORIGIN)
    with pytest.raises(KeyUnavailable, match="No such file"):
        keys.write_key(tmp_path / "none" / "key.pem", pem)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(KeyUnavailable, match="not a regular file"):
        keys.load_signer(tmp_path / "fifo", origin=ORIGIN)


@pytest.mark.anyio
async def test_a_key_that_stays_elsewhere() -> None:
    """A function, asynchronous or blocking, signs in the key's place, as a KMS or HSM does."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()

    async def kms(message: bytes) -> bytes:
        await anyio.lowlevel.checkpoint()
        return private.sign(message)

    class Hsm:
        async def __call__(self, message: bytes) -> bytes:
            return private.sign(message)

    def returns_an_awaitable(message: bytes) -> Awaitable[bytes]:
        return kms(message)

    for sign in (kms, Hsm(), private.sign, returns_an_awaitable):
        signer = keys.load_signer(ExternalKey(public_key=public, sign=sign), origin=ORIGIN)
        signed = await keys.sign_checkpoint(CHECKPOINT, [signer])
        assert verify_checkpoint(signed.encode(), [signer.key]).checkpoint == CHECKPOINT


@pytest.mark.anyio
async def test_a_signer_that_answers_wrong_is_found_out_before_anybody_sees_it() -> None:
    """A signature by another key, of another text, of the wrong type, or an exception: nothing is published."""
    private, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()

    def fails(_: bytes) -> bytes:
        raise OSError("the HSM is gone")

    for sign in (other.sign, lambda _: private.sign(b"another text"), lambda _: b"", lambda _: "text", fails):
        signer = keys.load_signer(ExternalKey(public_key=public, sign=sign), origin=ORIGIN)  # type: ignore[arg-type]  # one returns no bytes, on purpose
        with pytest.raises(SigningFailed):
            await keys.sign_checkpoint(CHECKPOINT, [signer])


def test_several_keys_all_sign(tmp_path: Path) -> None:
    """While a key is changed, new and old sign each checkpoint, and whoever knows either of them verifies it."""
    for name in ("new.pem", "old.pem"):
        keys.write_key(tmp_path / name, keys.new_key())
    paths = [tmp_path / "new.pem", tmp_path / "old.pem"]
    signers = keys.load_signers(paths, origin=ORIGIN)
    signed = anyio.run(keys.sign_checkpoint, CHECKPOINT, signers)
    for signer in signers:
        assert verify_checkpoint(signed.encode(), [signer.key]).checkpoint == CHECKPOINT
    with pytest.raises(KeyUnavailable, match="configured twice"):
        keys.load_signers([paths[0], paths[0]], origin=ORIGIN)
