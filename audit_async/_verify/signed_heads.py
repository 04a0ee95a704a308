"""Comparing a log with what was signed of it: its records must lead to the root of every checkpoint that is known.

`verification` shows that a chain fits together; this shows that it is the chain that was there when a checkpoint was
signed. Checkpoints come from the log's publication, from its own chain (`audit.checkpoint`), and from elsewhere, if one
was kept there. Tiles are not needed and not trusted, except for records that retention has deleted: their published
hashes are used instead, which a signed root confirms. Memory grows neither with the trail nor with the number of its
checkpoints.

A record's hash is taken from its line here; whether the line hashes to it is judged by `verification`, and
`signed_trail` does both for several logs. Needs the extra `tlog`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage, last_seq_of, scan
from audit_async._trail.log_files import Log, list_segments, manifest_stamp, unreadable
from audit_async._trail.record_hashes import RecordHashes
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async._verify.findings import Observation, Observations
from audit_async.errors import LogCorrupted
from audit_async.events import AuditEvent, decode_record
from audit_async.events.lifecycle import AuditCheckpoint, AuditSigningKeysChanged
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint, VerifiedCheckpoint
from audit_async.tlog.commitments import Commitments
from audit_async.tlog.failures import InvalidSignature, LogForked, Malformed, QuorumNotMet, TilesDamaged
from audit_async.tlog.merkle import HASH_SIZE, RightEdge, leaf_hashes
from audit_async.tlog.notes import VerifierKey, verify_note
from audit_async.tlog.policy import Policy
from audit_async.tlog.signed_tree import CHECKPOINT_FILE
from audit_async.tlog.tiles import TILE_WIDTH, FileReader, TileReader

__all__ = ["SignedHeads", "check_signed_heads", "cosigned_at"]

#: Comparisons of a log with findings while its manifest changes; the last one's findings are kept.
_MOST_ATTEMPTS: Final = 10
#: Hashes that are compared at a time; a few megabytes.
_PIECE: Final = 1 << 16
#: Checkpoints of the chain that don't fit and are reported one by one; in a tail that was rewritten there are many.
_MOST_MISFITS: Final = 10

_PUBLISHED: Final = "the published checkpoint"

_Event = TypeVar("_Event", bound=AuditEvent)


class Head(NamedTuple):
    """A size and root that the records must lead to, and the words that name its source."""

    size: int
    root: bytes
    place: str


class SignedHeads(NamedTuple):
    """What came of one log."""

    observed: Observations
    origin: str | None  #: of the published checkpoint, if that was accepted
    is_held: bool  #: the published checkpoint was accepted, and the records lead to it


def check_signed_heads(
    log: Log,
    policy: Policy,
    published: FileReader,
    *,
    origins: Sequence[str] | None = None,
    known: Sequence[tuple[Checkpoint, str]] = (),
    tick: Callable[[int, int], None] = lambda _done, _records: None,
) -> SignedHeads:
    """Compare one log with its checkpoints; blocks, and needs no lock.

    Args:
        log: The log.
        policy: Whose signatures count.
        published: Reads what the log publishes.
        origins: The names under which it may sign. None allows all of the policy's; none at all means that it has no
            key and nothing is checked.
        known: Checkpoints that were kept elsewhere, and where; those of other names are left out.
        tick: Called every few megabytes with the number of records that are compared so far and of all that there
            are; may raise to end this. If the log is read again, it counts from the beginning.

    Raises:
        SourceFailed: What is published can't be read.
        TrailUnreadable: The log can't be read. What is wrong with it is in the result.
    """
    accepted = tuple([key.key.name for key in policy.logs]) if origins is None else tuple(origins)
    if not accepted:
        observed = Observations(log=log.name)
        observed.add(Observation.NOT_SIGNED)
        return SignedHeads(observed, None, is_held=False)
    result: SignedHeads
    for _ in range(_MOST_ATTEMPTS):
        # A running writer archives and deletes meanwhile: a finding counts while the manifest is still the same.
        stamp = _stamp(log)
        result = _Check(log, policy, published, origins=accepted, known=known, tick=tick).run()
        if not result.observed.found or _stamp(log) == stamp:
            break
    return result


class _Check:
    """One comparison of one log."""

    def __init__(
        self,
        log: Log,
        policy: Policy,
        published: FileReader,
        *,
        origins: tuple[str, ...],
        known: Sequence[tuple[Checkpoint, str]],
        tick: Callable[[int, int], None],
    ) -> None:
        self._log = log
        self._policy = policy
        self._read_file = published
        self._origins = origins
        self._tick = tick
        self._records = self._compared = 0
        self._observed = Observations(log=log.name)
        self._published: VerifiedCheckpoint | None = None
        self._known = [(checkpoint, place) for checkpoint, place in known if checkpoint.origin in origins]
        self._is_held = False
        self._largest_recorded = 0
        self._misfits = 0

    def run(self) -> SignedHeads:
        """Read what is published, then the records: there are never fewer records than were signed before."""
        self._read_published()
        heads = self._heads()
        try:
            records = self._compare(heads)
        except LogCorrupted as error:
            self._observed.add(Observation.CHECKPOINT_NOT_COMPARED, seq=error.seq, reason=error.reason)
        except TilesDamaged as error:
            self._observed.add(Observation.CHECKPOINT_TILES_DAMAGED, reason=error)
        except FileNotFoundError:
            self._observed.add(Observation.CHECKPOINT_NOT_COMPARED, reason="a segment is missing")
        except OSError as error:
            raise unreadable(self._log.directory, error) from error
        else:
            self._note_accepted(records)
        origin = self._published.checkpoint.origin if self._published is not None else None
        return SignedHeads(self._observed.complete(), origin, is_held=self._is_held)

    def _read_published(self) -> None:
        content = self._read_file(CHECKPOINT_FILE)
        if content is None:
            self._observed.add(Observation.CHECKPOINT_MISSING)
            return
        try:
            said = SignedCheckpoint.parse(content).checkpoint.origin
            # The key of one log must not speak for another one whose key the policy has, too.
            origin = said if said in self._origins else self._origins[0]
            self._published = self._policy.verify(content, origin=origin)
        except (Malformed, InvalidSignature, QuorumNotMet) as error:
            self._observed.add(Observation.CHECKPOINT_REFUSED, reason=error)

    def _heads(self) -> list[Head]:
        """Return what is known from outside of the chain; two that contradict each other need no records for it."""
        named = list(self._known)
        if self._published is not None:
            named.append((self._published.checkpoint, _PUBLISHED))
        commitments: dict[str, Commitments] = {}
        for checkpoint, place in named:
            try:
                commitments.setdefault(checkpoint.origin, Commitments()).add(checkpoint, place)
            except LogForked as error:
                self._observed.add(Observation.HISTORY_FORKED, reason=error)
        return sorted([Head(checkpoint.size, checkpoint.root, place) for checkpoint, place in named])

    # -- records and roots -------------------------------------------------------------------------------------------

    def _compare(self, heads: Sequence[Head]) -> int:
        """Build the tree from the records, and compare its root at each size that was signed; return their number."""
        edge = RightEdge()
        recorded = self._recorded_heads()
        pending = next(recorded, None)
        held = 0
        self._records = _records_in(self._log)
        for piece in self._leaves(self._records):
            leaves, reach = piece, edge.size + len(piece)
            due = [head for head in heads if edge.size < head.size <= reach]
            while pending is not None and pending.size <= reach:
                due.append(pending)
                pending = next(recorded, None)
            for head in sorted(due):
                at = head.size - edge.size
                edge.append(leaves[:at])
                leaves = leaves[at:]
                if edge.root() == head.root:
                    held = head.size
                    self._is_held |= head.place == _PUBLISHED
                else:
                    self._find_misfit(head, held, is_known=head in heads)
            edge.append(leaves)
            self._compared = edge.size
            self._tick(self._compared, self._records)
        for head in heads:
            if head.size > edge.size:
                self._observed.add(Observation.HISTORY_SHORTER, seq=edge.size, place=head.place, size=head.size)
        if self._published is not None and not self._published.checkpoint.size:
            self._is_held = True
        return edge.size

    def _find_misfit(self, head: Head, held: int, *, is_known: bool) -> None:
        if not is_known:
            self._misfits += 1
            if self._misfits > _MOST_MISFITS:
                self._observed.found += 1  # counted, not kept
                return
        since = f"; those up to {held} are" if held else ""
        self._observed.add(Observation.HISTORY_OTHER_ROOT, seq=held, size=head.size, place=head.place, since=since)

    def _leaves(self, records: int) -> Iterator[list[bytes]]:
        """Yield the leaf hashes of all records in pieces; those of records that are gone as they are published."""
        gone = [
            (segment.first_seq, segment.sealed.last_seq + 1)
            for segment in list_segments(self._log)
            if segment.sealed is not None and not segment.is_readable
        ]
        at = 0
        for begin, end in [*gone, (records, records)]:
            hashes = RecordHashes(self._log, at - 1)
            while at < begin:
                piece = hashes.read(begin - 1, _PIECE)
                at += len(piece)
                yield leaf_hashes(piece)
            for leaves in self._published_leaves(begin, end) if begin < end else ():
                at += len(leaves)
                yield leaves

    def _published_leaves(self, begin: int, end: int) -> Iterator[list[bytes]]:
        size = self._published.checkpoint.size if self._published is not None else 0
        if end > size:
            reason = f"records up to seq {end - 1} were deleted, and no accepted checkpoint covers them"
            raise LogCorrupted(self._log.name, None, begin, reason)
        reader = TileReader(size, self._read_file)
        at = begin
        while at < end:
            tile, first = divmod(at, TILE_WIDTH)
            content = reader.content(0, tile)[first * HASH_SIZE : (first + end - at) * HASH_SIZE]
            leaves = [content[place : place + HASH_SIZE] for place in range(0, len(content), HASH_SIZE)]
            yield leaves
            at += len(leaves)

    # -- what the chain records --------------------------------------------------------------------------------------

    def _recorded_heads(self) -> Iterator[Head]:
        """Yield the checkpoints that the chain records, in the order of their sizes, each checked by itself.

        They are recorded before witnesses have cosigned them, so only the log's own signature is demanded.
        """
        keys = self._signing_keys()
        for seq, event in self._events(AuditCheckpoint):
            try:
                signed = SignedCheckpoint.parse(event.note.encode())
                checkpoint = signed.checkpoint
                if checkpoint.origin in keys:
                    verify_note(signed.note, keys[checkpoint.origin])
            except (Malformed, InvalidSignature, UnicodeError) as error:
                self._observed.add(Observation.CHECKPOINT_RECORD_REFUSED, seq=seq, reason=error)
                continue
            if (event.size, event.root) != (checkpoint.size, checkpoint.root.hex()):
                self._observed.add(Observation.CHECKPOINT_RECORD_OTHER, seq=seq)
            if checkpoint.size > seq:
                self._observed.add(Observation.HISTORY_FROM_THE_FUTURE, seq=seq, size=checkpoint.size)
            elif checkpoint.size < self._largest_recorded:
                self._observed.add(Observation.HISTORY_WENT_BACK, seq=seq, size=checkpoint.size)
            else:
                self._largest_recorded = checkpoint.size
                yield Head(checkpoint.size, checkpoint.root, f"the checkpoint in record {seq}")

    def _signing_keys(self) -> dict[str, list[VerifierKey]]:
        """Return the keys that may have signed what the chain records: the policy's, and those that it records.

        The chain's word is enough for a key that was retired: the records that say so lead to a root that a key of
        the policy has signed, or there is a finding.
        """
        keys: dict[str, list[VerifierKey]] = {origin: [] for origin in self._origins}
        for entry in self._policy.logs:
            if entry.key.name in keys:
                keys[entry.key.name].append(entry.key)
        for _, event in self._events(AuditSigningKeysChanged):
            for vkey in (*event.retired, *event.added):
                try:
                    key = VerifierKey.parse(vkey)
                except Malformed:
                    continue  # then what it has signed is not accepted
                if key not in keys.get(key.name, [key]):
                    keys[key.name].append(key)
        return keys

    def _events(self, kind: type[_Event]) -> Iterator[tuple[int, _Event]]:
        """Yield the events of one type and their places; what is damaged is found by `verify_trail`."""
        wanted = Filter(AuditQuery(event_types=(kind.__struct_config__.tag,)))  # type: ignore[arg-type]  # a text
        for part in parts_of(self._log):
            for found in scan(part, wanted, Range(), Damage(skip=True)):
                if found is None:
                    self._tick(self._compared, self._records)
                    continue
                event = decode_record(found.line).event
                if isinstance(event, kind):
                    yield found.seq, event

    # -- what else to know -------------------------------------------------------------------------------------------

    def _note_accepted(self, records: int) -> None:
        """Note what was accepted, and what it can't show."""
        if self._published is None or not self._is_held:
            return
        size = self._published.checkpoint.size
        signers = [signature for signature in self._published.signatures if signature.timestamp is None]
        witnesses = [
            f"{signature.key.name} at {cosigned_at(signature.timestamp)}"
            for signature in self._published.signatures
            if signature.timestamp is not None
        ]
        cosigned = f", cosigned by {', '.join(witnesses)}" if witnesses else ""
        self._observed.add(Observation.SIGNED, size=size, signer=signers[0].key.name, witnesses=cosigned)
        self._observed.add(Observation.AFTER_CHECKPOINT, seq=size, records=records - size)
        newest = max([self._largest_recorded, *[checkpoint.size for checkpoint, _ in self._known]])
        if newest > size:
            self._observed.add(Observation.PUBLICATION_OLD, size=size, newest=newest)


def _records_in(log: Log) -> int:
    """Return how many records a log has, or had, by its last one."""
    until_seq: int | None = None
    for segment in reversed(list_segments(log)):
        if segment.sealed is not None:
            return segment.sealed.last_seq + 1
        last = last_seq_of(Part(segment, until_seq), Damage(skip=True))
        if last is not None:
            return last + 1
        until_seq = segment.first_seq
    return 0


def _stamp(log: Log) -> tuple[int, int, int] | None:
    try:
        return manifest_stamp(log)
    except OSError as error:
        raise unreadable(log.directory, error) from error


def cosigned_at(timestamp: int) -> str:
    """Return the time of a cosignature, POSIX seconds by the witness's clock, as RFC 3339."""
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):  # a time that no calendar here has
        return f"{timestamp} s after 1970"
