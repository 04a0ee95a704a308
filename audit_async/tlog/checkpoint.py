"""Checkpoints: what a log says of its tree, and signs. Source: https://c2sp.org/tlog-checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from audit_async.tlog.failures import InvalidSignature, Malformed
from audit_async.tlog.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE
from audit_async.tlog.notes import (
    Note,
    VerifiedSignature,
    VerifierKey,
    check_text,
    decode_base64,
    encode_base64,
    parse_decimal,
    parse_note,
    verify_note,
)


class Checkpoint(NamedTuple):
    """A tree head: the log called `origin` has `size` leaves, and their tree this root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()  #: opaque lines; this library reads them, and writes none

    def text(self) -> str:
        """Return the text of the note; raises `Malformed` for an origin or extension that would break its lines."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        if any(not line or "\n" in line for line in lines):
            raise Malformed("checkpoint", "its origin and each extension must be one line that is not empty")
        text = "".join([line + "\n" for line in lines])
        check_text(text, what="checkpoint")
        return text

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Return what a note's text says; raises `Malformed`."""
        check_text(text, what="checkpoint")
        lines = text.split("\n")[:-1]
        if len(lines) < 3 or not all(lines):
            raise Malformed("checkpoint", "it has at least three lines, and none of them is empty")
        origin, size, root, *extensions = lines
        decoded = decode_base64(root, what="checkpoint")
        if len(decoded) != HASH_SIZE:
            raise Malformed("checkpoint", f"its root has {HASH_SIZE} bytes, not {len(decoded)}")
        checkpoint = cls(origin, parse_decimal(size, what="checkpoint", maximum=MAX_SIZE), decoded, tuple(extensions))
        if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
            raise Malformed("checkpoint", "a log without records has the root of the empty tree")
        return checkpoint


class SignedCheckpoint(NamedTuple):
    """A checkpoint and the note that bears its signatures."""

    checkpoint: Checkpoint
    note: Note

    @classmethod
    def parse(cls, content: bytes) -> SignedCheckpoint:
        """Return what a note says, nothing of it verified; raises `Malformed`."""
        note = parse_note(content, what="checkpoint")
        return cls(Checkpoint.parse(note.text), note)

    def encode(self) -> bytes:
        """Return the note as it is published."""
        return self.note.encode()


def verify_checkpoint(content: bytes, keys: Sequence[VerifierKey], *, origin: str | None = None) -> VerifiedCheckpoint:
    """Return a log's checkpoint that one of its `keys` has signed.

    `origin` is the log that is meant; left out, the checkpoint must be of the log that one of the keys that signed it
    is named after, so that the key of one log can't speak for another. Raises `Malformed` and `InvalidSignature`.
    """
    signed = SignedCheckpoint.parse(content)
    signatures = verify_note(signed.note, keys)
    said = signed.checkpoint.origin
    expected = {signature.key.name for signature in signatures} if origin is None else {origin}
    if said not in expected:
        names = " or ".join(sorted(expected))
        raise InvalidSignature(f"the checkpoint is of the log {said[:200]!a}, and {names} was expected")
    return VerifiedCheckpoint(signed.checkpoint, signed.note, signatures)


class VerifiedCheckpoint(NamedTuple):
    """A checkpoint whose signatures were checked."""

    checkpoint: Checkpoint
    note: Note
    signatures: tuple[VerifiedSignature, ...]  #: of the keys that were trusted, one each
