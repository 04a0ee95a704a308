"""Evidence for one record that needs nothing else: a `.tlog-proof` file, made from a log, verified without it.

Source: https://c2sp.org/tlog-proof.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint, VerifiedCheckpoint
from audit_async.tlog.failures import InvalidProof, LogForked, Malformed, NotCovered
from audit_async.tlog.merkle import HASH_SIZE, MAX_SIZE, inclusion_proof, leaf_hash, verify_inclusion
from audit_async.tlog.notes import decode_base64, encode_base64, parse_decimal
from audit_async.tlog.policy import Policy
from audit_async.tlog.tiles import TILE_WIDTH, FileReader, TileReader

FILE_ENDING: Final = ".tlog-proof"

_HEADER: Final = "c2sp.org/tlog-proof@v1"
_MAX_HASHES: Final = 63
_MAX_PROOF_BYTES: Final = 2 << 20


class TlogProof(NamedTuple):
    """That the log had a certain record at `leaf_index` when the checkpoint was signed."""

    leaf_index: int
    hashes: tuple[bytes, ...]  #: the inclusion proof, the leaf's sibling first
    checkpoint: bytes  #: the signed note, as the log published it
    extra: bytes | None = None  #: unauthenticated; this library writes none

    def encode(self) -> bytes:
        """Return the file's content."""
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines.append(f"index {self.leaf_index}")
        lines += [encode_base64(value) for value in self.hashes]
        return "".join([line + "\n" for line in lines]).encode() + b"\n" + self.checkpoint

    @classmethod
    def parse(cls, content: bytes) -> TlogProof:
        """Return what a file says, nothing of it verified; raises `Malformed`."""
        if len(content) > _MAX_PROOF_BYTES:
            raise Malformed("tlog-proof", f"longer than {_MAX_PROOF_BYTES} bytes")
        head, blank, checkpoint = content.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise Malformed("tlog-proof", "characters other than ASCII before the checkpoint") from None
        if not blank:
            raise Malformed("tlog-proof", "no empty line before the checkpoint")
        if lines.pop(0) != _HEADER:
            raise Malformed("tlog-proof", f"the first line is not {_HEADER}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "), what="tlog-proof")
        if not lines or not lines[0].startswith("index "):
            raise Malformed("tlog-proof", "no line with the index")
        index = parse_decimal(lines.pop(0).removeprefix("index "), what="tlog-proof", maximum=MAX_SIZE)
        if len(lines) > _MAX_HASHES:
            raise Malformed("tlog-proof", f"{len(lines)} hashes, and no log is so large")
        hashes = tuple([decode_base64(line, what="tlog-proof") for line in lines])
        if any(len(value) != HASH_SIZE for value in hashes):
            raise Malformed("tlog-proof", f"a hash that has not {HASH_SIZE} bytes")
        SignedCheckpoint.parse(checkpoint)
        return cls(index, hashes, checkpoint, extra)


def make_proof(read_file: FileReader, signed: SignedCheckpoint, *, index: int, record_hash: bytes) -> TlogProof:
    """Return the evidence that the record with this hash is in the tree of a checkpoint, from a log's published files.

    What is returned verifies, except for the checkpoint's signatures, which are not checked here.

    Args:
        read_file: Reads a published file.
        signed: The checkpoint to prove it against.
        index: The record's `seq`.
        record_hash: The record's `hash`, 32 bytes.

    Raises:
        NotCovered: The checkpoint was signed before the record was written.
        LogForked: Another record is at `index`.
        TilesDamaged: A published file is missing or damaged.
    """
    checkpoint = signed.checkpoint
    if not 0 <= index < checkpoint.size:
        raise NotCovered(f"record {index} is not in the checkpoint of size {checkpoint.size}; take a later one")
    reader = TileReader(checkpoint.size, read_file)
    leaf, hashes = leaf_hash(record_hash), inclusion_proof(index, checkpoint.size, reader)
    try:
        verify_inclusion(index, checkpoint.size, leaf, checkpoint.root, hashes)
    except InvalidProof as error:
        tile, at = divmod(index, TILE_WIDTH)
        reader.hashes(0, tile)
        reader.check(checkpoint.root)
        if reader.hashes(0, tile)[at] == leaf:
            raise
        raise LogForked(
            f"record {index} of {checkpoint.origin} is not the one that was signed: the record was changed",
            evidence=(signed.encode(),),
        ) from error
    return TlogProof(index, tuple(hashes), signed.encode())


def verify_proof(proof: TlogProof, *, index: int, record_hash: bytes, policy: Policy) -> VerifiedCheckpoint:
    """Check, offline, that a log which the policy accepts had the record with this hash at `index`.

    Args:
        proof: The evidence; its `extra` is not taken into account.
        index: The record's own `seq`.
        record_hash: Its `hash`, computed from the record's bytes and not taken on trust.
        policy: Whose signatures count.

    Returns:
        The checkpoint that shows it, with the times of its cosignatures.

    Raises:
        InvalidProof: The proof is for another record, or does not lead to the signed root.
        InvalidSignature, QuorumNotMet, Malformed: The policy does not accept its checkpoint.
    """
    verified = policy.verify(proof.checkpoint)
    check_inclusion(proof, verified.checkpoint, index=index, record_hash=record_hash)
    return verified


def check_inclusion(proof: TlogProof, checkpoint: Checkpoint, *, index: int, record_hash: bytes) -> None:
    """Check that a proof leads from the record with this hash at `index` to a checkpoint's root.

    For many proofs against one checkpoint, whose signatures the caller has verified; the proof's own is not looked at.

    Raises:
        InvalidProof: It does not, or is for another record.
    """
    if proof.leaf_index != index:
        raise InvalidProof(f"the proof is for record {proof.leaf_index}, and this is record {index}")
    verify_inclusion(index, checkpoint.size, leaf_hash(record_hash), checkpoint.root, proof.hashes)
