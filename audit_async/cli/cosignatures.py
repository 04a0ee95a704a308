"""Which witnesses have cosigned a checkpoint, as commands show it. Needs the extra `tlog`."""

from __future__ import annotations

import msgspec

from audit_async._verify.signed_heads import cosigned_at
from audit_async.tlog.checkpoint import VerifiedCheckpoint

__all__ = ["Cosigned", "cosigned_by"]


class Cosigned(msgspec.Struct, frozen=True, kw_only=True):
    """A witness that the policy knows, and when it has cosigned."""

    name: str
    time: str


def cosigned_by(verified: VerifiedCheckpoint) -> list[Cosigned]:
    """Return which known witnesses have cosigned a checkpoint, and when by their clocks."""
    return [
        Cosigned(name=signature.key.name, time=cosigned_at(signature.timestamp))
        for signature in verified.signatures
        if signature.timestamp is not None
    ]
