"""From the verdicts on a log's segments to the report on it: what links them, what they record, what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from audit_async._layout.chain_holds import ChainHolds
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, CHECKSUM, MANIFEST_FILE
from audit_async._layout.regular_files import read_bounded
from audit_async._trail.log_files import SegmentFile, why_unreadable
from audit_async._verify.directory_survey import Survey
from audit_async._verify.findings import Observation, Observations
from audit_async._verify.hold_check import check_hold, read_holds
from audit_async._verify.segment_check import note_clock
from audit_async._verify.segment_verdict import Extent, LifecycleRecord, RecordPlace, SegmentVerdict
from audit_async._verify.verified_before import LifeSoFar, newest_runs
from audit_async._verify.verify_report import LogReport
from audit_async._verify.verify_scope import Everything, Scope, SeqRange, TimeRange
from audit_async.errors import LogCorrupted
from audit_async.events.recorded import recorded_time
from audit_async.status import Position

#: Openings whose audit_ids are remembered: far more than any log has, and bounded all the same.
_MOST_OPENINGS: Final = 100_000

_PLAIN: Final = re.compile(r"[ -~]{1,200}")


class CheckedSegment(NamedTuple):
    """A segment that was read, and the verdict on it."""

    segment: SegmentFile
    verdict: SegmentVerdict
    is_part: bool = False  #: not all of it was read
    is_new: bool = True  #: what it states is not part of what was verified before


class Judged(NamedTuple):
    """The report on a log, and what its records have stated, for the verification after this one."""

    report: LogReport
    life: LifeSoFar


def judge(
    survey: Survey,
    checked: Sequence[CheckedSegment],
    observed: Observations,
    *,
    scope: Scope,
    expected: Sequence[Position],
    life: LifeSoFar | None,
    manifest_now: Mapping[str, SealedSegment] | None,
    skip_encrypted: bool = False,
) -> Judged:
    """Judge what was read of a log.

    Args:
        survey: Its directory.
        checked: What was read.
        observed: Gets what is found and noted.
        scope: What was to be read.
        expected: Heads that the chain must hold.
        life: What records that were not read have stated, because they were verified before; None if there are none.
        manifest_now: The manifest as it was after the reading; None if it is damaged.
        skip_encrypted: What is encrypted, and was not opened, is a note.
    """
    judgement = _Judgement(survey, checked, scope, observed, life)
    judgement.take_over()
    judgement.check_line_ends()
    judgement.check_unsealed_checksums()
    judgement.check_audit_ids()
    judgement.note_life()
    if manifest_now is not None:
        judgement.check_seals(manifest_now)
    judgement.check_retention()
    judgement.check_hold()
    judgement.note_what_is_not_here()
    judgement.check_expected(expected)
    judgement.state_encrypted(skip=skip_encrypted)
    return Judged(judgement.report(), judgement.life_so_far())


class _Judgement:
    """One log's judgement."""

    def __init__(
        self,
        survey: Survey,
        checked: Sequence[CheckedSegment],
        scope: Scope,
        observed: Observations,
        life: LifeSoFar | None,
    ) -> None:
        self._survey = survey
        self._checked = checked
        self._new = new = [(segment, verdict) for segment, verdict, _, is_new in checked if is_new]
        self._scope = scope
        self._observed = observed
        self._resumes = life is not None
        self._life = life = life or LifeSoFar()
        self._open_since = life.open_since
        self._lifecycle = [record for _, verdict in new for record in verdict.facts.lifecycle]
        self._holds = ChainHolds()
        self._holds.in_force = {hold.id: hold for hold in life.holds}
        self._holds.lifted = dict(life.holds_lifted)
        read_holds(self._holds, self._lifecycle)
        self._openings = {run.prefix: run.copy() for run in life.id_runs}
        self._sessions = self._dropped = 0
        first = [verdict.extent.first for _, verdict in new if verdict.extent.first is not None]
        last = [verdict.extent.last for _, verdict in new if verdict.extent.last is not None]
        self._first: RecordPlace | None = first[0] if first else None
        self._last: RecordPlace | None = last[-1] if last else None

    def take_over(self) -> None:
        """Take over what was observed in the segments, and compare the clocks on both sides of a boundary."""
        before = ""
        for checked in self._checked:
            first, last = checked.verdict.extent.first, checked.verdict.extent.last
            if checked.is_new and first is not None and last is not None:
                note_clock(self._observed, before, first.timestamp, first.seq)
                before = last.timestamp
            self._observed.merge(checked.verdict.observed)

    def check_line_ends(self) -> None:
        """Find files that were converted to CR LF: one finding for one cause."""
        names = [checked.segment.name for checked in self._checked if checked.verdict.extent.converted]
        names += self._survey.converted
        if names:
            self._observed.add(Observation.SEGMENT_CONVERTED, segment=names[0], files=len(names))

    def check_unsealed_checksums(self) -> None:
        """Compare the checksum files of segments without an entry, which an older manifest does not have."""
        for segment, verdict, is_part, _ in self._checked:
            name = segment.name + CHECKSUM
            if segment.sealed is not None or is_part or not verdict.is_sound:
                continue
            if verdict.extent.is_cut_short or verdict.extent.converted:
                continue  # what comes after its records is judged elsewhere
            expected = f"{verdict.extent.sha256}  {segment.name}\n".encode()
            try:
                if read_bounded(self._survey.log.directory / name) != expected:
                    self._observed.add(Observation.CHECKSUM_OTHER, segment=name, seq=segment.first_seq)
            except LogCorrupted as error:
                self._observed.add(Observation.CHECKSUM_NOT_A_FILE, segment=name, reason=error.reason)
            except FileNotFoundError:
                continue  # it has none yet
            except OSError as error:
                self._observed.add(Observation.UNREADABLE, segment=name, reason=why_unreadable(error))

    def check_audit_ids(self) -> None:
        """Find audit_ids that are in two segments."""
        openings = self._openings
        for segment, verdict in self._new:
            for run in verdict.facts.id_runs:
                known = openings.get(run.prefix)
                if known is None:
                    if len(openings) < _MOST_OPENINGS:
                        # A copy: a verdict is judged again if the log is surveyed again.
                        openings[run.prefix] = run.copy()
                elif known.merge(run) is not None:
                    self._observed.add(Observation.AUDIT_ID_REPEATED_LATER, segment=segment.name)

    def note_life(self) -> None:
        """Note what the log's own records say: how its sessions ended, what was dropped, recovered, damaged."""
        observed = self._observed
        for record in self._lifecycle:
            seq = record.seq
            match record.type:
                case "audit.log_opened":
                    self._sessions += 1
                    self._note_unclean(self._open_since)
                    self._open_since = seq
                case "audit.log_closed":
                    self._open_since = None
                case "audit.events_dropped":
                    count = record.number("count")
                    self._dropped += count
                    observed.add(Observation.DROPPED, seq=seq, count=count)
                case "audit.log_recovered":
                    reason = _text(record, "reason")
                    observed.add(Observation.RECOVERED, seq=seq, count=record.number("torn_bytes"), reason=reason)
                case "audit.segment_damaged":
                    name, reason = _text(record, "segment"), _text(record, "reason")
                    observed.add(Observation.SEGMENT_CHANGED, seq=seq, name=name, reason=reason)
        for segment, verdict in self._new:
            if verdict.facts.more_lifecycle:
                observed.add(Observation.MORE_LIFECYCLE, name=segment.name, count=verdict.facts.more_lifecycle)
        writer = self._survey.writer
        if writer is not None:
            observed.add(Observation.IN_USE, pid=writer)
        elif self._is_end_read and self._open_since is not None:
            observed.add(Observation.NO_END, seq=self._open_since)

    @property
    def _is_end_read(self) -> bool:
        """True if the newest segment was read."""
        if not self._checked or self._checked[-1].segment is not self._survey.segments[-1]:
            return False
        return not self._checked[-1].verdict.observed.unreadable

    def _note_unclean(self, open_since: int | None) -> None:
        if open_since is not None:
            self._observed.add(Observation.UNCLEAN_END, seq=open_since)

    def check_seals(self, manifest: Mapping[str, SealedSegment]) -> None:
        """Compare the manifest with what the chain records of each sealed segment."""
        observed = self._observed
        unsealed = {segment.name for segment in self._survey.unsealed}
        here = {
            segment.name: verdict.extent
            for segment, verdict, is_part, _ in self._checked
            if verdict.is_sound and not is_part
        }
        older: list[LifecycleRecord] = []
        for record in self._lifecycle:
            if record.type != "audit.segment_sealed":
                continue
            name = str(record.event.get("segment"))
            entry = manifest.get(name)
            if entry is None:
                # In a copy the manifest may be older than the segments next to it; then they are all there.
                if name in unsealed and (name not in here or _is_what_was_sealed(record, here[name])):
                    older.append(record)
                else:
                    observed.add(Observation.MANIFEST_ENTRY_MISSING, segment=MANIFEST_FILE, seq=record.seq)
            elif _differ(record, entry, _SEALED_MEMBERS):
                observed.add(Observation.MANIFEST_SEAL_WRONG, segment=entry.segment, seq=record.seq)
        if older:
            observed.add(Observation.MANIFEST_OLDER, seq=older[0].seq, count=len(older))

    def check_retention(self) -> None:
        """Note what was deleted, and find what the chain does not record."""
        observed = self._observed
        archives: dict[str, set[str]] = {}
        for record in self._lifecycle:
            if record.type == "audit.segment_archived":
                sums = archives.setdefault(str(record.event.get("segment")), set())
                sums.add(str(record.event.get("archive_sha256")))
        for segment, verdict, _, _ in self._checked:
            known, sha256 = archives.get(segment.name), verdict.extent.archive_sha256
            if known and sha256 and sha256 not in known:
                observed.add(Observation.ARCHIVE_NOT_RECORDED, segment=segment.name)
        deleted = [entry for entry in self._survey.sealed if entry.state == "deleted"]
        if not deleted:
            return
        last = deleted[-1]
        observed.add(
            Observation.DELETED,
            seq=deleted[0].first_seq,
            records=sum(entry.records for entry in deleted),
            until=last.last_seq,
            segments=len(deleted),
        )
        # What recorded an older deletion may have been deleted itself.
        deletions = {
            record.event.get("segment"): record for record in self._lifecycle if record.type == "audit.segment_deleted"
        }
        for entry in deleted:
            recorded = deletions.get(entry.segment)
            if recorded is not None and _differ(recorded, entry, _DELETED_MEMBERS):
                observed.add(Observation.MANIFEST_DELETION_WRONG, segment=entry.segment, seq=recorded.seq)
        if self._resumes:
            for entry in deleted:
                if entry.last_seq > self._life.deleted_through and entry.segment not in deletions:
                    observed.add(Observation.DELETION_UNRECORDED, segment=entry.segment, seq=entry.first_seq)
        elif self._is_complete and last.segment not in deletions:
            observed.add(Observation.MANIFEST_DELETION_UNRECORDED, segment=last.segment, seq=last.first_seq)

    def check_hold(self) -> None:
        """Compare hold.json with the chain, if its end was read: nothing after it can have lifted a hold."""
        # At a collector there is no hold.json: that file is the host's.
        if self._is_end_read and not self._observed.unreadable and self._survey.log.collected is None:
            check_hold(self._survey.log.directory, self._holds, self._observed)

    def note_what_is_not_here(self) -> None:
        """Note that the log has nothing of the part that was to be verified: what was read is nearest to it."""
        first, last = self._first, self._last
        match self._scope:
            case SeqRange(begin, end):
                asked = f"seq {begin}" if begin == end else f"seq {begin} to {end}"
                is_here = first is not None and last is not None and first.seq <= end and begin <= last.seq
            case TimeRange(start, stop):
                asked = "the time asked for"
                is_here = any(
                    _reaches_into(verdict, recorded_time(start), recorded_time(stop)) for _, verdict in self._new
                )
            case _:
                return
        if not is_here:
            verified = (
                "nothing" if first is None or last is None else f"only seq {first.seq} to {last.seq}, nearest to it,"
            )
            self._observed.add(Observation.NOT_HERE, asked=asked, verified=verified)

    def check_expected(self, expected: Sequence[Position]) -> None:
        """Compare the chain with heads that were kept elsewhere."""
        if not expected:
            self._observed.add(Observation.TRUNCATION_UNSEEN)
        for head in dict.fromkeys(expected):
            self._check_head(head)

    def _check_head(self, head: Position) -> None:
        observed, (seq, hash_) = self._observed, head
        found = next((verdict.facts.hashes[seq] for _, verdict in self._new if seq in verdict.facts.hashes), None)
        gone = next((entry for entry in self._survey.sealed if entry.first_seq <= seq <= entry.last_seq), None)
        if found is None and gone is not None and seq == gone.last_seq:
            found = gone.hash
        if found is not None:
            if found != hash_:
                observed.add(Observation.HEAD_OTHER_HASH, seq=seq)
            return
        end = self._last.seq if self._last is not None else None
        # What was verified before is older than any expected head, or everything is read.
        is_covered = self._is_complete and gone is None
        if not is_covered and (observed.unreadable or (end is not None and end > seq)):
            observed.add(Observation.HEAD_NOT_COVERED, seq=seq)
        elif end is not None and end > seq:
            observed.add(Observation.HEAD_RECORD_BAD, seq=seq)
        else:
            where = "before it begins" if end is None else f"with seq {end}"
            observed.add(Observation.HEAD_MISSING, seq=seq, where=where)

    def state_encrypted(self, *, skip: bool) -> None:
        """State, last of all, what was not verified because it is encrypted."""
        closed = [each.segment.sealed for each in self._checked if each.verdict.is_closed and each.segment.sealed]
        if closed:
            self._observed.add(
                Observation.ENCRYPTED_SKIPPED if skip else Observation.ENCRYPTED,
                segment=f"{ARCHIVE}/{closed[0].archive_file}",
                seq=closed[0].first_seq,
                segments=len(closed),
                records=sum(entry.records for entry in closed),
                until=closed[-1].last_seq,
            )

    @property
    def _is_complete(self) -> bool:
        """True if all of the log was to be verified, and could be read."""
        is_closed = any(each.verdict.is_closed for each in self._checked)
        return isinstance(self._scope, Everything) and not self._observed.unreadable and not is_closed

    def report(self) -> LogReport:
        """Return the figures."""
        first, last = self._first, self._last
        extents = [checked.verdict.extent for checked in self._checked]
        return LogReport(
            log=self._survey.log.name,
            log_id=self._survey.log.log_id,
            head=Position(last.seq, last.hash) if last is not None else None,
            first_seq=first.seq if first is not None else None,
            last_seq=last.seq if last is not None else None,
            first_timestamp=first.timestamp if first is not None else None,
            last_timestamp=last.timestamp if last is not None else None,
            records=sum(extent.records for extent in extents),
            segments=len(extents),
            bytes=sum(extent.bytes for extent in extents),
            sessions=self._sessions,
            dropped=self._dropped,
            findings=self._observed.found,
        )

    def life_so_far(self) -> LifeSoFar:
        """Return what the records up to the last one have stated."""
        recorded = [record.number("last_seq") for record in self._lifecycle if record.type == "audit.segment_deleted"]
        # What recorded an older deletion may have been deleted itself.
        deleted = [entry.last_seq for entry in self._survey.sealed if entry.state == "deleted"]
        return LifeSoFar(
            open_since=self._open_since,
            deleted_through=max([self._life.deleted_through, *recorded, *deleted]),
            holds=tuple(self._holds.in_force.values()),
            holds_lifted=self._holds.lifted,
            id_runs=newest_runs(list(self._openings.values())),
        )


_SEALED_MEMBERS: Final = ("first_seq", "last_seq", "records", "bytes", "sha256")
_DELETED_MEMBERS: Final = ("first_seq", "last_seq", "sha256", "hash")


def _is_what_was_sealed(record: LifecycleRecord, extent: Extent) -> bool:
    """Return whether a segment without an entry is what the chain records of its seal."""
    first, last = extent.first, extent.last
    if first is None or last is None:
        return False
    read = (first.seq, last.seq, extent.records, extent.bytes, extent.sha256)
    return tuple(record.event.get(name) for name in _SEALED_MEMBERS) == read


def _differ(record: LifecycleRecord, entry: SealedSegment, members: Sequence[str]) -> bool:
    return any(record.event.get(name) != getattr(entry, name) for name in members)


def _reaches_into(verdict: SegmentVerdict, start: str, end: str) -> bool:
    """Return whether a segment may hold a record of that time; certainly not only if the clock always went on."""
    first, last = verdict.extent.first, verdict.extent.last
    if verdict.facts.clock_went_back or first is None or last is None:
        return verdict.facts.clock_went_back
    return first.timestamp <= end and start <= last.timestamp


def _text(record: LifecycleRecord, member: str) -> str:
    """Return a text that the library has recorded; nothing of one that it can't have."""
    value = record.event.get(member)
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else "no reason given"
