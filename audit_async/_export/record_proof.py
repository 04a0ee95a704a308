"""The evidence that one record is in a log: an inclusion proof against the newest checkpoint of that log.

Needs the extra `tlog`. https://c2sp.org/tlog-proof
"""

from __future__ import annotations

from audit_async._query.lookup import PlacedRecord
from audit_async.errors import AuditError
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import NotCovered
from audit_async.tlog.proof import TlogProof, make_proof
from audit_async.tlog.signed_tree import CHECKPOINT_FILE
from audit_async.tlog.tiles import FileReader

__all__ = ["NoProof", "proof_of"]


class NoProof(AuditError):
    """No checkpoint covers a record; the message says why and what to do."""


def proof_of(placed: PlacedRecord, source: FileReader) -> tuple[TlogProof, SignedCheckpoint]:
    """Return the proof of a record, and the checkpoint that it leads to; blocks.

    Args:
        placed: The record.
        source: What the log has published.

    Raises:
        NoProof: The log publishes no checkpoint there, or none that covers the record yet.
        InconsistentLog: The record is not the one that was signed.
        Malformed, TilesDamaged, SourceFailed: What the log has published is damaged, or can't be read.
    """
    record = placed.record
    content = source(CHECKPOINT_FILE)
    if content is None:
        raise NoProof(
            f"{record.log} publishes no checkpoint there: it signs none yet, or publishes elsewhere; say where with "
            "--published"
        )
    signed = SignedCheckpoint.parse(content)
    try:
        proof = make_proof(source, signed, index=record.seq, record_hash=bytes.fromhex(record.hash))
    except NotCovered:
        raise NoProof(
            f"record {record.seq} of {record.log} is not covered yet: the last checkpoint is over the first "
            f"{signed.checkpoint.size} records. Wait for the next one, or have the service make one: "
            "`await audit.checkpoint()`"
        ) from None
    return proof, signed
