"""What the tests of the transparency log share: the definition of RFC 6962, a log to publish, a cosigner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.merkle import HashReader
from audit_async.tlog.notes import Note, Signature, SignatureType, VerifierKey, cosigned_message
from audit_async.tlog.signed_tree import SignedTree
from audit_async.tlog.signing_keys import Signer
from audit_async.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, Tile

ORIGIN = "host.example/orders/00"


# -- RFC 6962 section 2.1, word for word; slow, and right by inspection ---------------------------------------------


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH(D[n])."""
    n = len(leaves)
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(n)
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def proof(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n])."""
    return _subproof(m, leaves, complete=True)


def _subproof(m: int, leaves: Sequence[bytes], *, complete: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if complete else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*_subproof(m, leaves[:k], complete=complete), mth(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], complete=False), mth(leaves[:k])]


def reader_of(leaves: Sequence[bytes]) -> HashReader:
    """Return a hash reader that computes each subtree from the definition."""

    def read(level: int, index: int) -> bytes:
        begin, end = index << level, (index + 1) << level
        assert end <= len(leaves), "a hash of a subtree that is not complete was asked for"
        return mth(leaves[begin:end])

    return read


# -- a log ------------------------------------------------------------------------------------------------------------


def records(count: int, *, salt: str = "") -> list[bytes]:
    """Return the hashes of that many records; another salt is another history."""
    return [sha256(f"{salt}{number}".encode()).digest() for number in range(count)]


def signer(seed: int = 1, origin: str = ORIGIN) -> Signer:
    """Return a log's signer, the same for the same seed."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return Signer(VerifierKey.of(origin, private.public_key().public_bytes_raw()), private.sign)


def sign(checkpoint: Checkpoint, *signers: Signer) -> SignedCheckpoint:
    """Sign a checkpoint, without an event loop; by `signer()` where nobody is named."""
    text, signatures = checkpoint.text(), []
    for one in signers or (signer(),):
        value = one.sign(text.encode())
        assert isinstance(value, bytes)
        signatures.append(Signature(one.key.name, one.key.key_id, value))
    return SignedCheckpoint(checkpoint, Note(text, tuple(signatures)))


def open_publisher(directory: Path, log: Sequence[bytes], **settings: object) -> SignedTree:
    """Open the tree of a log that has these records."""
    arguments = {"origin": ORIGIN, "keys": [signer().key], "record_hash": log.__getitem__} | settings
    return SignedTree.open(directory, records=len(log), **arguments)  # type: ignore[arg-type]  # each test names settings that exist


def publish(publisher: SignedTree, log: Sequence[bytes]) -> SignedCheckpoint:
    """Append what is new of a log, sign it and publish it."""
    publisher.append(log[publisher.size :])
    signed = sign(publisher.prepare())
    assert publisher.publish(signed)
    return signed


def publish_all(directory: Path, log: Sequence[bytes], **settings: object) -> SignedCheckpoint:
    """Open a log, publish a checkpoint of all its records, and close it."""
    publisher = open_publisher(directory, log, **settings)
    try:
        return publish(publisher, log)
    finally:
        publisher.close()


class Cosigner:
    """A witness's key, without the witness."""

    def __init__(self, seed: int, name: str = "") -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([100 + seed]) * 32)
        public = self._private.public_key().public_bytes_raw()
        self.key = VerifierKey.of(name or f"witness.example/w{seed}", public, SignatureType.COSIGNATURE)

    def cosign(self, text: str, timestamp: int = 1_795_348_800) -> Signature:
        """Return the cosignature of a checkpoint's text."""
        value = timestamp.to_bytes(8, "big") + self._private.sign(cosigned_message(text, timestamp))
        return Signature(self.key.name, self.key.key_id, value)


def cosigned(signed: SignedCheckpoint, *cosigners: Cosigner) -> SignedCheckpoint:
    """Return the checkpoint with their cosignatures."""
    text = signed.note.text
    return SignedCheckpoint(signed.checkpoint, signed.note.with_signatures([one.cosign(text) for one in cosigners]))


def partial_tiles(size: int) -> Iterator[Tile]:
    """Give the partial tiles, and the partial bundle, of a tree of `size` leaves."""
    if size % TILE_WIDTH:
        yield Tile(None, size // TILE_WIDTH, size % TILE_WIDTH)
    level = 0
    while count := size >> (TILE_HEIGHT * level):
        if count % TILE_WIDTH:
            yield Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)
        level += 1


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return the bundle of these entries: each with its length, two bytes big-endian, before it."""
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])
