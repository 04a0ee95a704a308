"""What is known of a record's genuineness, each statement with how it was observed; nothing is stated that was not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from audit_async._trail.log_files import Log, list_segments
from audit_async._verify.signed_trail import TREE_DIRECTORY, published_at
from audit_async.errors import AuditError
from audit_async.reader import PlacedRecord
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import (
    InvalidProof,
    InvalidSignature,
    LogForked,
    NotCovered,
    QuorumNotMet,
    TransparencyError,
)
from audit_async.tlog.proof import make_proof
from audit_async.tlog.signed_tree import CHECKPOINT_FILE

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = ["Checkpoints", "Statement", "chain_statements", "checkpoints_of", "signature_statements"]

#: - `yes`: it was checked, and holds
#: - `no`: it was checked, and does not hold
#: - `open`: it could not be checked
#: - `info`: a fact that proves nothing
State = Literal["yes", "no", "open", "info"]


class Statement(NamedTuple):
    """One thing that is known, or not known, of a record."""

    state: State
    title: str
    text: str


class Checkpoints(NamedTuple):
    """What a log has published of its signed tree."""

    signed: SignedCheckpoint | None  #: None if the log publishes no checkpoint in its own directory
    signers: tuple[str, ...]  #: keys of the log whose signatures were checked
    witnesses: tuple[tuple[str, datetime | None], ...]  #: whose cosignatures were checked, and when they were given
    unchecked: int  #: signatures that nothing is known of, since there is no key for them here
    failure: str | None  #: why the checkpoint is not accepted, or can't be read

    @property
    def size(self) -> int | None:
        """How many records the checkpoint is over."""
        return self.signed.checkpoint.size if self.signed is not None else None


def checkpoints_of(log: Log, policy: Policy | None) -> Checkpoints:
    """Return the log's newest published checkpoint and whose signatures it bears; blocks."""
    try:
        content = published_at(log.directory / TREE_DIRECTORY)(CHECKPOINT_FILE)
        if content is None:
            return Checkpoints(None, (), (), 0, None)
        signed = SignedCheckpoint.parse(content)
    except (AuditError, OSError) as error:
        return Checkpoints(None, (), (), 0, str(error))
    number = len(signed.note.signatures)
    if policy is None or all(one.key.name != signed.checkpoint.origin for one in policy.logs):
        return Checkpoints(signed, (), (), number, None)
    try:
        verified = policy.verify(content)
    except (InvalidSignature, QuorumNotMet, TransparencyError) as error:
        return Checkpoints(signed, (), (), number, str(error))
    of_log = {one.key for one in policy.logs}
    signers = [one.key.name for one in verified.signatures if one.key in of_log]
    witnesses = [(one.key.name, _moment(one.timestamp)) for one in verified.signatures if one.key not in of_log]
    unchecked = max(0, number - len(verified.signatures))
    return Checkpoints(signed, tuple(signers), tuple(witnesses), unchecked, None)


def chain_statements(placed: PlacedRecord, log: Log | None) -> Iterator[Statement]:
    """Yield what the record itself and its neighbours show; blocks."""
    # `AuditReader.record` raises `LogCorrupted` unless it is so.
    yield Statement("yes", "Hash checked", "The SHA-256 of the recorded line is the hash that it states.")
    if not placed.is_linked:
        yield Statement("no", "Not in the chain", "The record before or after it does not fit. Verify the log.")
    elif placed.previous is None and placed.record.seq > 0:
        text = "The record before it is not here any more, or is damaged. Verify the log."
        yield Statement("open", "Chain not checked backwards", text)
    elif placed.next is None and not (log is not None and _ends_log(placed, log)):
        text = "No record after it could be read: it is the newest one, or that is damaged. Verify the log."
        yield Statement("open", "Chain not checked forwards", text)
    else:
        before = "It is the first record" if placed.previous is None else "It names the hash of the record before"
        after = "it is the newest record" if placed.next is None else "the record after it names its hash"
        yield Statement("yes", "In the chain", f"{before}; {after}.")
    if log is not None:
        yield _storage(placed, log)


def signature_statements(placed: PlacedRecord, log: Log, policy: Policy | None) -> Iterator[Statement]:
    """Yield what the log's newest checkpoint shows of the record; blocks."""
    found = checkpoints_of(log, policy)
    if found.failure is not None:
        yield Statement("no", "Checkpoint not accepted", found.failure)
        return
    if found.signed is None:
        yield Statement(
            "open", "Not signed", "The log publishes no checkpoint here; only its chain protects the record."
        )
        return
    checkpoint, record = found.signed.checkpoint, placed.record
    try:
        source = published_at(log.directory / TREE_DIRECTORY)
        make_proof(source, found.signed, index=record.seq, record_hash=bytes.fromhex(record.hash))
    except NotCovered:
        text = (
            f"The newest checkpoint is over {checkpoint.size:,} records; until the next one only the chain protects it."
        )
        yield Statement("open", "After the last checkpoint", text)
        return
    except (LogForked, InvalidProof) as error:
        yield Statement("no", "Not what was signed", str(error))
        return
    except (AuditError, OSError) as error:  # a collector has checkpoints and no tiles
        text = f"The tree's own files are not here, or can't be used, so verification has to show it: {error}"
        yield Statement("open", "Not compared with what was signed", text)
        return
    proven = (
        f"An inclusion proof leads from it to the checkpoint over {checkpoint.size:,} records of {checkpoint.origin}"
    )
    if found.signers:
        yield Statement(
            "yes", f"Signed up to record {checkpoint.size - 1:,}", f"{proven}, signed by {_names(found.signers)}."
        )
    else:
        yield Statement(
            "open", "In a checkpoint", f"{proven}. Its signature was not checked: the viewer has no key of this log."
        )
    if found.witnesses:
        names = _names([name for name, _ in found.witnesses])
        yield Statement("yes", "Witnessed", f"Cosigned by {names}.")
    elif policy is not None:
        yield Statement("open", "Not witnessed", "No witness of the policy has cosigned the checkpoint.")


def _ends_log(placed: PlacedRecord, log: Log) -> bool:
    """Return whether nothing comes after the record in the log's files."""
    try:
        last = list_segments(log)[-1]
        size = last.path.stat().st_size
    except (AuditError, OSError, IndexError):
        return False
    return last.name == placed.segment and size == placed.byte_offset + len(placed.line)


def _storage(placed: PlacedRecord, log: Log) -> Statement:
    try:
        segment = next(one for one in list_segments(log) if one.name == placed.segment)
    except (AuditError, OSError, StopIteration):
        return Statement("open", "Segment not listed", f"The manifest could not be read for {placed.segment}.")
    if segment.sealed is None:
        return Statement("info", "Segment still open", f"{placed.segment} is not sealed yet.")
    where = "archived" if segment.sealed.state == "archived" else "sealed"
    encrypted = " The archive is encrypted." if segment.sealed.is_encrypted else ""
    text = f"{placed.segment} is {where}; the manifest has its SHA-256. Verification compares it.{encrypted}"
    return Statement("info", f"Segment {where}", text)


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _moment(timestamp: int | None) -> datetime | None:
    return datetime.fromtimestamp(timestamp, UTC) if timestamp is not None else None
