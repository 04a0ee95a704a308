"""Comparing a log with what was signed of it: its records must lead to the root of every checkpoint that is known.

`verification` shows that a chain fits together; this shows that it is the chain that was there when a checkpoint was
signed. Checkpoints come from the log's publication, from its own chain (`audit.checkpoint`), and from elsewhere, if one
was kept there. Tiles are not needed and not trusted, except for records that retention has deleted or that can't be
read here, such as those in an archive that no identity opens: their published hashes are used instead, which a signed
root confirms. Memory grows neither with the trail nor with the number of its checkpoints.

A record's hash is taken from its line here; whether the line hashes to it is judged by `verification`, and
`signed_trail` does both for several logs. Needs the extra `tlog`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from audit_async._layout.names import ARCHIVE
from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage, last_seq_of, scan
from audit_async._trail.log_files import (
    Log,
    SegmentFile,
    TrailUnreadable,
    list_segments,
    manifest_stamp,
    why_unreadable,
)
from audit_async._trail.record_hashes import RecordHashes
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async._verify.findings import Observation, Observations
from audit_async.errors import LogCorrupted
from audit_async.events import AuditEvent, decode_record
from audit_async.events.lifecycle import AuditCheckpoint, AuditSigningKeysChanged
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint, VerifiedCheckpoint
from audit_async.tlog.commitments import Commitments
from audit_async.tlog.failures import InvalidSignature, LogForked, Malformed, QuorumNotMet, TilesDamaged
from audit_async.tlog.merkle import HASH_SIZE, RightEdge, leaf_hash, leaf_hashes
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


class _Absent(NamedTuple):
    """Records that can't be read here; what is published has their hashes."""

    segment: SegmentFile
    begin: int
    end: int  #: excluded
    error: OSError | None  #: why they can't be read; None if retention deleted them, or they are lost

    @property
    def file(self) -> str:
        """The file they are in, relative to the log's directory."""
        sealed = self.segment.sealed
        is_archived = sealed is not None and self.segment.is_archived
        return f"{ARCHIVE}/{sealed.archive_file}" if sealed is not None and is_archived else self.segment.name


class _NotCompared(Exception):
    """From some record on the tree can't be built: neither the records nor their published hashes can be read."""

    def __init__(self, absent: _Absent, at: int, reason: str) -> None:
        super().__init__(reason)
        self.absent = absent
        self.at = at


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

    What is wrong with the log is in the result, and so is what can't be read of it.
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
        is_sound = not result.observed.found and not result.observed.unreadable
        if is_sound or _stamp(log) == stamp:
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
        self._unread: list[_Absent] = []  # what can't be read, so far
        # Segments that could not be searched for what the chain records, by name: their first record, and why.
        self._unsearched: dict[str, tuple[int, str]] = {}

    def run(self) -> SignedHeads:
        """Read what is published, then the records: there are never fewer records than were signed before."""
        self._read_published()
        heads = self._heads()
        try:
            self._compare(heads)
        except LogCorrupted as error:
            self._observed.add(Observation.CHECKPOINT_NOT_COMPARED, seq=error.seq, reason=error.reason)
        except TilesDamaged as error:
            self._observed.add(Observation.CHECKPOINT_TILES_DAMAGED, reason=error)
        except FileNotFoundError:
            self._observed.add(Observation.CHECKPOINT_NOT_COMPARED, reason="a segment is missing")
        except (TrailUnreadable, OSError) as error:
            reason = why_unreadable(error) if isinstance(error, OSError) else str(error)
            self._observed.add(Observation.CHECKPOINT_UNREADABLE, seq=self._compared, reason=reason)
        else:
            self._note_accepted(self._records)
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

    def _compare(self, heads: Sequence[Head]) -> None:
        """Build the tree from the records, and compare its root at each size that was signed."""
        self._records = until = _records_in(self._log)
        try:
            self._compare_roots(heads)
        except _NotCompared as error:
            until = error.at
            self._observed.add(Observation.CHECKPOINT_UNREADABLE, segment=error.absent.file, seq=error.at, reason=error)
        self._report_unsearched(until)
        for head in heads:
            if head.size > self._records:
                self._observed.add(Observation.HISTORY_SHORTER, seq=self._records, place=head.place, size=head.size)
        if self._published is not None and not self._published.checkpoint.size:
            self._is_held = True

    def _compare_roots(self, heads: Sequence[Head]) -> None:
        """Compare as far as the tree can be built; raises `_NotCompared` if that is not to its end."""
        edge = RightEdge()
        recorded = self._recorded_heads()
        pending = next(recorded, None)
        held = 0
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

    def _find_misfit(self, head: Head, held: int, *, is_known: bool) -> None:
        if not is_known:
            self._misfits += 1
            if self._misfits > _MOST_MISFITS:
                self._observed.found += 1  # counted, not kept
                return
        since = f"; those up to {held} are" if held else ""
        if unread := self._unread_before(head.size):
            since += (
                f" (of {unread} of them, which can't be read here, the published hashes; these may be what differs)"
            )
        self._observed.add(Observation.HISTORY_OTHER_ROOT, seq=held, size=head.size, place=head.place, since=since)

    def _leaves(self, records: int) -> Iterator[list[bytes]]:
        """Yield the leaf hashes of all records in pieces; those of records that can't be read as they are published.

        Raises `_NotCompared` at the first record of which neither can be read.
        """
        at = 0
        hashes: RecordHashes | None = None
        segments = list_segments(self._log)
        begins = [segment.first_seq for segment in segments]
        for segment, following in zip(segments, [*begins, records][1:], strict=True):
            end = min(following, records)
            error: OSError | None = None
            try:
                while at < end and segment.is_readable:
                    # One reader as long as nothing is left out: it checks that each record links to the one before.
                    hashes = hashes or RecordHashes(self._log, at - 1)
                    piece = hashes.read(end - 1, _PIECE)
                    at += len(piece)
                    yield leaf_hashes(piece)
            except FileNotFoundError:
                raise
            except OSError as unreadable:
                error = unreadable
            if at < end:
                hashes = None
                absent = _Absent(segment, at, end, error)
                if error is not None:
                    self._unread.append(absent)
                yield from self._published_leaves(absent)
                at = end

    def _published_leaves(self, absent: _Absent) -> Iterator[list[bytes]]:
        """Yield the published leaf hashes of records that can't be read, and compare the manifest with them."""
        size = self._published.checkpoint.size if self._published is not None else 0
        covered = absent.end <= size
        if not covered and absent.error is None:
            reason = f"records up to seq {absent.end - 1} were deleted, and no accepted checkpoint covers them"
            raise LogCorrupted(self._log.name, None, absent.begin, reason)
        reader = TileReader(size, self._read_file)
        at, until = absent.begin, min(absent.end, size)
        while at < until:
            tile, first = divmod(at, TILE_WIDTH)
            try:
                content = reader.content(0, tile)[first * HASH_SIZE : (first + until - at) * HASH_SIZE]
            except TilesDamaged as error:
                if absent.error is None:
                    raise
                reason = f"{why_unreadable(absent.error)}; and their published hashes are damaged ({error})"
                raise _NotCompared(absent, at, reason) from error
            leaves = [content[place : place + HASH_SIZE] for place in range(0, len(content), HASH_SIZE)]
            self._compare_with_manifest(absent.segment, at, leaves)
            yield leaves
            at += len(leaves)
        if not covered and absent.error is not None:
            reason = f"{why_unreadable(absent.error)}; and no accepted checkpoint covers them"
            raise _NotCompared(absent, at, reason)

    def _compare_with_manifest(self, segment: SegmentFile, begin: int, leaves: Sequence[bytes]) -> None:
        """Compare what the manifest says of a segment's last record, if its leaf is among these, with the leaf."""
        entry = segment.sealed
        if entry is None or not begin <= entry.last_seq < begin + len(leaves):
            return
        if leaf_hash(bytes.fromhex(entry.hash)) != leaves[entry.last_seq - begin]:
            self._observed.add(Observation.HISTORY_OTHER_ENTRY, segment=segment.name, seq=entry.last_seq)

    def _unread_before(self, size: int) -> int:
        """Return how many records below `size` can't be read, as far as was seen so far."""
        return sum(max(0, min(absent.end, size) - absent.begin) for absent in self._unread)

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
                is_undecided = isinstance(error, InvalidSignature) and self._may_record_keys_after(seq)
                what = (
                    Observation.CHECKPOINT_RECORD_UNDECIDED if is_undecided else Observation.CHECKPOINT_RECORD_REFUSED
                )
                self._observed.add(what, seq=seq, reason=error)
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
            damage = Damage(skip=True)
            why: str | None = None
            try:
                for found in scan(part, wanted, Range(), damage):
                    if found is None:
                        self._tick(self._compared, self._records)
                        continue
                    event = decode_record(found.line).event
                    if isinstance(event, kind):
                        yield found.seq, event
            except TrailUnreadable as error:
                why = str(error)
            if (why := why or damage.not_searched) is not None:
                self._unsearched[part.segment.name] = (part.segment.first_seq, why)

    def _may_record_keys_after(self, seq: int) -> bool:
        """Return whether a later segment, which may record a change of the keys, could not be searched for one."""
        return any(first_seq > seq for first_seq, _ in self._unsearched.values())

    def _report_unsearched(self, until: int) -> None:
        """Report segments before `until` that were not searched for checkpoints, though their records were read."""
        unread = {absent.segment.name for absent in self._unread}
        for name, (seq, why) in self._unsearched.items():
            if seq < until and name not in unread:
                self._observed.add(Observation.CHECKPOINT_UNREADABLE, segment=name, seq=seq, reason=why)

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
        signer = signers[0].key.name
        if unread := self._unread_before(size):
            self._observed.add(Observation.SIGNED_IN_PART, size=size, signer=signer, witnesses=cosigned, unread=unread)
        else:
            self._observed.add(Observation.SIGNED, size=size, signer=signer, witnesses=cosigned)
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
    except OSError:  # reading the log says why
        return None


def cosigned_at(timestamp: int) -> str:
    """Return the time of a cosignature, POSIX seconds by the witness's clock, as RFC 3339."""
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):  # a time that no calendar here has
        return f"{timestamp} s after 1970"
