"""What is known of a record's genuineness, each statement with how it was observed; nothing is stated that was not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from audit_async._trail.log_files import Log, find_logs, list_segments
from audit_async._verify.signed_trail import TREE_DIRECTORY, policy_for, published_at
from audit_async.errors import AuditError
from audit_async.privacy.opening_sealed import FORGED, KEY_MISSING, SEALED, MemberOpened
from audit_async.reader import PlacedRecord
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import InvalidProof, LogForked, NotCovered, TransparencyError
from audit_async.tlog.proof import make_proof
from audit_async.tlog.signed_tree import CHECKPOINT_FILE

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = [
    "Checkpoints",
    "Statement",
    "chain_statements",
    "checkpoints_of",
    "ends_log",
    "policy_of_log",
    "sealed_statements",
    "signature_statements",
]

_NO_KEY: Final = "The checkpoint's signatures were not checked: the viewer has no key of this log."
#: Members that a statement names, and how much of a path.
_MOST_PATHS: Final = 5
_LONGEST_PATH: Final = 100

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
    is_inclusion: bool = False  #: an inclusion proof was made for it


class Checkpoints(NamedTuple):
    """What a log has published of its signed tree."""

    signed: SignedCheckpoint | None  #: None if the log publishes no checkpoint in its own directory
    signers: tuple[str, ...] = ()  #: keys of the log whose signatures were checked
    witnesses: tuple[
        tuple[str, datetime | None], ...
    ] = ()  #: whose cosignatures were checked, and when they were given
    unchecked: int = 0  #: signatures that nothing is known of, since there is no key for them here
    refused: str | None = None  #: why the checkpoint is not accepted
    unreadable: str | None = None  #: why it can't be read

    @property
    def size(self) -> int | None:
        """How many records the checkpoint is over."""
        return self.signed.checkpoint.size if self.signed is not None else None


def policy_of_log(log: Log, policy: Policy | None, base_dir: Path) -> Policy | None:
    """Return a policy with the log keys alone that are for this log, as verification chooses them; blocks."""
    if policy is None:
        return None
    return policy_for(policy, log, lambda: find_logs(base_dir))


def checkpoints_of(log: Log, policy: Policy | None) -> Checkpoints:
    """Return the log's newest published checkpoint and whose signatures it bears; blocks.

    Args:
        log: The log.
        policy: Whose signatures count for this log.
    """
    try:
        content = published_at(log.directory / TREE_DIRECTORY)(CHECKPOINT_FILE)
    except (AuditError, OSError) as error:
        return Checkpoints(None, unreadable=str(error))
    if content is None:
        return Checkpoints(None)
    try:
        signed = SignedCheckpoint.parse(content)
    except AuditError as error:
        return Checkpoints(None, refused=str(error))
    number = len(signed.note.signatures)
    if policy is None or all(one.key.name != signed.checkpoint.origin for one in policy.logs):
        return Checkpoints(signed, unchecked=number)
    try:
        verified = policy.verify(content)
    except TransparencyError as error:
        return Checkpoints(signed, refused=str(error))
    of_log = {one.key for one in policy.logs}
    signers = [one.key.name for one in verified.signatures if one.key in of_log]
    witnesses = [(one.key.name, _moment(one.timestamp)) for one in verified.signatures if one.key not in of_log]
    return Checkpoints(signed, tuple(signers), tuple(witnesses), max(0, number - len(verified.signatures)))


def chain_statements(placed: PlacedRecord, log: Log | None) -> Iterator[Statement]:
    """Yield what the record itself and its neighbours show; blocks."""
    # `AuditReader.record` raises `LogCorrupted` unless it is so.
    yield Statement("yes", "Hash checked", "The SHA-256 of the recorded line is the hash that it states.")
    if not placed.is_linked:
        yield Statement("no", "Not in the chain", "The record before or after it does not fit. Verify the log.")
    elif placed.previous is None and placed.record.seq > 0:
        text = "The record before it is not here any more, or is damaged. Verify the log."
        yield Statement("open", "Chain not checked backwards", text)
    elif placed.next is None and not (log is not None and ends_log(placed, log)):
        text = "No record after it could be read: it is the newest one, or that is damaged. Verify the log."
        yield Statement("open", "Chain not checked forwards", text)
    else:
        yield Statement("yes", "In the chain", f"{_backwards(placed)}; {_forwards(placed)}.")
    if log is not None:
        yield _storage(placed, log)


def _backwards(placed: PlacedRecord) -> str:
    if placed.previous is None:
        return "It is the first record"
    if placed.previous_is_kept:
        return "It names the hash that the manifest keeps of the record before, which is not here or can't be read"
    return "It names the hash of the record before"


def _forwards(placed: PlacedRecord) -> str:
    return "nothing comes after it in the log's files" if placed.next is None else "the record after it names its hash"


def signature_statements(placed: PlacedRecord, log: Log, policy: Policy | None) -> Iterator[Statement]:
    """Yield what the log's newest checkpoint shows of the record; blocks.

    Args:
        placed: The record.
        log: Its log.
        policy: Whose signatures count for this log.
    """
    found = checkpoints_of(log, policy)
    if found.refused is not None:
        yield Statement("no", "Checkpoint not accepted", found.refused)
        return
    if found.unreadable is not None:
        yield Statement("open", "Checkpoint not readable", found.unreadable)
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
        yield Statement("open", "After the last checkpoint", _not_covered(found))
        return
    except (LogForked, InvalidProof) as error:
        if found.signers:
            yield Statement("no", "Not what was signed", str(error))
        else:
            yield Statement("no", "Not in the published tree", f"{error}. {_NO_KEY}")
        return
    except (AuditError, OSError) as error:  # a collector has checkpoints and no tiles
        text = f"The tree's own files are not here, or can't be used, so verification has to show it: {error}"
        yield Statement("open", "Not compared with what was signed", text)
        return
    proven = (
        f"An inclusion proof leads from it to the checkpoint over {checkpoint.size:,} records of {checkpoint.origin}"
    )
    if not found.signers:
        yield Statement("open", "In a checkpoint", f"{proven}. {_NO_KEY}", is_inclusion=True)
        return
    title, text = f"Signed up to record {checkpoint.size - 1:,}", f"{proven}, signed by {_names(found.signers)}."
    yield Statement("yes", title, text, is_inclusion=True)
    yield _witnessed(found, policy)


def _not_covered(found: Checkpoints) -> str:
    text = f"The newest checkpoint is over {found.size or 0:,} records; until the next one only the chain protects it."
    return text if found.signers else f"{text} {_NO_KEY}"


def _witnessed(found: Checkpoints, policy: Policy | None) -> Statement:
    """Return what is known of cosignatures on a checkpoint that the log's own key has signed."""
    if found.witnesses:
        names = ", ".join(
            name if moment is None else f"{name} at {moment:%Y-%m-%d %H:%M:%S} UTC" for name, moment in found.witnesses
        )
        return Statement("yes", "Witnessed", f"The checkpoint is cosigned by {names}.")
    if policy is None or not policy.witnesses:
        return Statement("open", "Not witnessed", "The viewer's policy names no witness, so none was looked for.")
    return Statement("open", "Not witnessed", "No witness of the policy has cosigned the checkpoint.")


def sealed_statements(members: Sequence[MemberOpened]) -> Iterator[Statement]:
    """Yield what is known of the members that were recorded sealed, by what became of them."""
    states: dict[str, list[str]] = {}
    for member in members:
        path = ".".join(member.place)
        states.setdefault(member.shown, []).append(path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…")
    for shown, paths in states.items():
        names = (
            f"{', '.join(paths[:_MOST_PATHS])}{f' and {len(paths) - _MOST_PATHS} more' * (len(paths) > _MOST_PATHS)}"
        )
        if shown == "":
            yield Statement("info", "Opened", f"Recorded sealed, and opened with the viewer's key store: {names}.")
        elif shown == SEALED:
            yield Statement("info", "Sealed", f"The viewer has no key store that could open {names}.")
        elif shown == KEY_MISSING:
            text = f"The viewer's key store does not know the key, of another log's or a damaged store: {names}."
            yield Statement("open", "Key missing", text)
        elif shown == FORGED:
            text = f"The key is there, and these texts were not sealed with it for their place: {names}."
            yield Statement("no", "Forged", text)
        else:
            text = f"The key was destroyed on that day, as the viewer's key store has it: {names}."
            yield Statement("info", shown.strip("[]").capitalize(), text)


def ends_log(placed: PlacedRecord, log: Log) -> bool:
    """Return whether nothing comes after the record in the log's files; blocks."""
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
        return Statement(
            "info", "Segment not sealed", f"The manifest does not have {placed.segment} among the sealed ones."
        )
    where = "archived" if segment.sealed.state == "archived" else "sealed"
    encrypted = " The archive is encrypted." if segment.sealed.is_encrypted else ""
    text = f"{placed.segment} is {where}; the manifest has its SHA-256. Verification compares it.{encrypted}"
    return Statement("info", f"Segment {where}", text)


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _moment(timestamp: int | None) -> datetime | None:
    return datetime.fromtimestamp(timestamp, UTC) if timestamp is not None else None
