"""From the verdicts on a log's segments to the report on the log: what links them, what they tell, what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import MANIFEST_FILE
from audit_async._query.audit_query import recorded_time
from audit_async._trail.log_files import SegmentFile
from audit_async._verify.directory_survey import Survey
from audit_async._verify.repeated_ids import IdRun
from audit_async._verify.segment_check import CLOCK_TOLERANCE_S, Edge, Told, Verdict, seconds_back
from audit_async._verify.verify_report import LogReport, Notebook
from audit_async._verify.verify_scope import Everything, Scope, SeqRange, TimeRange
from audit_async.status import Position

#: Openings whose audit_ids are remembered: far more than any log has, and bounded all the same.
_MOST_OPENINGS: Final = 100_000

_PLAIN: Final = re.compile(r"[ -~]{1,200}")


class Read(NamedTuple):
    """A segment that was read, and what came of it."""

    segment: SegmentFile
    verdict: Verdict


def judge(
    survey: Survey,
    reads: Sequence[Read],
    notebook: Notebook,
    *,
    scope: Scope,
    expected: Position | None,
    manifest_now: Mapping[str, SealedSegment] | None,
) -> LogReport:
    """Judge what was read of a log; `manifest_now` was read after it, None where it is damaged."""
    judgement = _Judgement(survey, reads, scope, notebook)
    judgement.check_edges()
    judgement.check_audit_ids()
    judgement.tell_of_life()
    if manifest_now is not None:
        judgement.check_seals(manifest_now)
    judgement.check_retention()
    judgement.note_what_is_not_here()
    judgement.check_expected(expected)
    return judgement.report()


class _Judgement:
    """One log's judgement."""

    def __init__(self, survey: Survey, reads: Sequence[Read], scope: Scope, notebook: Notebook) -> None:
        self._survey = survey
        self._reads = reads
        self._scope = scope
        self._notebook = notebook
        self._told = [told for read in reads for told in read.verdict.told]
        self._sessions = self._dropped = 0
        first = [read.verdict.first for read in reads if read.verdict.first is not None]
        last = [read.verdict.last for read in reads if read.verdict.last is not None]
        self._first: Edge | None = first[0] if first else None
        self._last: Edge | None = last[-1] if last else None

    def check_edges(self) -> None:
        """Take over what was found in the segments, and look at what lies between them."""
        notebook = self._notebook
        before = ""
        for segment, verdict in self._reads:
            for spot in verdict.spots:
                notebook.find(
                    spot.kind,
                    spot.reason,
                    segment=segment.name,
                    line=spot.line,
                    seq=spot.seq,
                    byte_offset=spot.offset,
                )
            notebook.count_more(verdict.more_spots)
            if verdict.first is not None and verdict.last is not None:
                self._note_clock(verdict.first.seq, seconds_back(before, verdict.first.timestamp))
                before = verdict.last.timestamp
            for step in verdict.clock:
                self._note_clock(step.seq, step.seconds)
            notebook.count_more_notes("clock", verdict.more_clock)

    def _note_clock(self, seq: int, seconds: float) -> None:
        if seconds > CLOCK_TOLERANCE_S:
            self._notebook.note("clock", f"the clock was set back by {seconds:.3f} s before this record", seq)

    def check_audit_ids(self) -> None:
        """Look for audit_ids that stand in two segments."""
        openings: dict[str, IdRun] = {}
        for segment, verdict in self._reads:
            for run in verdict.id_runs:
                known = openings.get(run.prefix)
                if known is None:
                    if len(openings) < _MOST_OPENINGS:
                        # A copy: a verdict is judged again where the log is surveyed again.
                        openings[run.prefix] = IdRun(run.prefix, run.first, run.last, list(run.missing))
                elif known.merge(run) is not None:
                    reason = "an audit_id in it was given to a record before"
                    self._notebook.find("audit_id", reason, segment=segment.name)

    def tell_of_life(self) -> None:
        """Note what the log's own records tell: how its sessions ended, what was dropped, recovered, damaged."""
        notebook = self._notebook
        open_since: int | None = None
        for told in self._told:
            match told.type:
                case "audit.log_opened":
                    self._sessions += 1
                    self._note_unclean(open_since)
                    open_since = told.seq
                case "audit.log_closed":
                    open_since = None
                case "audit.events_dropped":
                    self._dropped += _number(told, "count")
                    text = f"{_number(told, 'count')} events were refused because the buffer was full"
                    notebook.note("dropped", text, told.seq)
                case "audit.log_recovered":
                    text = f"after a crash {_number(told, 'torn_bytes')} bytes were put aside ({_text(told, 'reason')})"
                    notebook.note("recovered", text, told.seq)
                case "audit.segment_damaged":
                    text = f"{_text(told, 'segment')} was changed under the writer: {_text(told, 'reason')}"
                    notebook.note("damaged", text, told.seq)
        for segment, verdict in self._reads:
            if verdict.more_told:
                notebook.note("more", f"{segment.name}: {verdict.more_told} more audit.* records were not looked at")
        writer = self._survey.writer
        if writer is not None:
            notebook.note("in_use", f"process {writer} is writing the log: its newest records are still to come")
        elif self._reads and self._reads[-1].segment is self._survey.segments[-1]:
            self._note_unclean(open_since)

    def _note_unclean(self, open_since: int | None) -> None:
        if open_since is not None:
            text = "the session that begins here has no audit.log_closed: it was not shut down in order"
            self._notebook.note("unclean_end", text, open_since)

    def check_seals(self, manifest: Mapping[str, SealedSegment]) -> None:
        """Compare the manifest with what the chain tells of each sealed segment."""
        seals = [told for told in self._told if told.type == "audit.segment_sealed"]
        if seals and not manifest:
            reason = f"it is missing, though the chain tells of {len(seals)} sealed segments"
            self._notebook.find("manifest", reason, segment=MANIFEST_FILE, seq=seals[0].seq)
            return
        for told in seals:
            entry = manifest.get(str(told.event.get("segment")))
            if entry is None:
                reason = "it has no entry for a segment of which the chain tells that it was sealed"
                self._notebook.find("manifest", reason, segment=MANIFEST_FILE, seq=told.seq)
            elif any(told.event.get(name) != getattr(entry, name) for name in _SEALED_MEMBERS):
                reason = "its entry is not what the chain tells of the sealed segment"
                self._notebook.find("manifest", reason, segment=entry.segment, seq=told.seq)

    def check_retention(self) -> None:
        """Tell of what was deleted, and find what the chain does not tell of."""
        notebook = self._notebook
        archives: dict[str, set[str]] = {}
        for tells_of in self._told:
            if tells_of.type == "audit.segment_archived":
                sums = archives.setdefault(str(tells_of.event.get("segment")), set())
                sums.add(str(tells_of.event.get("archive_sha256")))
        for segment, verdict in self._reads:
            known = archives.get(segment.name)
            if known and verdict.archive_sha256 and verdict.archive_sha256 not in known:
                notebook.find("segment", "its archive is not the file that the chain tells of", segment=segment.name)
        deleted = [entry for entry in self._survey.sealed if entry.state == "deleted"]
        if not deleted:
            return
        records = sum(entry.records for entry in deleted)
        last = deleted[-1]
        text = f"{records} records up to seq {last.last_seq} in {len(deleted)} segments were deleted by retention"
        notebook.note("deleted", text, deleted[0].first_seq)
        # What tells of an older deletion may have been deleted itself.
        tells = {told.event.get("segment"): told for told in self._told if told.type == "audit.segment_deleted"}
        for entry in deleted:
            told = tells.get(entry.segment)
            if told is not None and any(told.event.get(name) != getattr(entry, name) for name in _DELETED_MEMBERS):
                reason = "its entry is not what the chain tells of the deleted segment"
                notebook.find("manifest", reason, segment=entry.segment, seq=told.seq)
        if isinstance(self._scope, Everything) and last.segment not in tells:
            reason = "the manifest says that it was deleted, but the chain does not tell of it"
            notebook.find("manifest", reason, segment=last.segment, seq=last.first_seq)

    def note_what_is_not_here(self) -> None:
        """Say where the log has nothing of the part that was to be verified: what was read lies nearest to it."""
        first, last = self._first, self._last
        match self._scope:
            case SeqRange(begin, end):
                asked = f"seq {begin}" if begin == end else f"seq {begin} to {end}"
                is_here = first is not None and last is not None and first.seq <= end and begin <= last.seq
            case TimeRange(start, stop):
                asked = "the time asked for"
                is_here = any(
                    _reaches_into(read.verdict, recorded_time(start), recorded_time(stop)) for read in self._reads
                )
            case _:
                return
        if not is_here:
            verified = (
                "nothing" if first is None or last is None else f"only seq {first.seq} to {last.seq}, nearest to it,"
            )
            text = f"no record of {asked} is in the log; {verified} was verified"
            self._notebook.note("not_here", text)

    def check_expected(self, expected: Position | None) -> None:
        """Compare the chain with a head that was kept elsewhere."""
        notebook = self._notebook
        if expected is None:
            text = (
                "no expected head was given: whether newest records were cut off, or the whole chain was written anew, "
                "can't be seen without one or a signature; keep the head of this report elsewhere"
            )
            notebook.note("truncation_unseen", text)
            return
        seq, hash_ = expected
        found = next((read.verdict.watched[seq] for read in self._reads if seq in read.verdict.watched), None)
        gone = next((entry for entry in self._survey.sealed if entry.first_seq <= seq <= entry.last_seq), None)
        if found is None and gone is not None and seq == gone.last_seq:
            found = gone.hash
        if found is not None:
            if found != hash_:
                notebook.find(
                    "head", "the record has another hash than the expected head: it was written anew", seq=seq
                )
            return
        end = self._last.seq if self._last is not None else None
        if end is not None and end > seq and (gone is not None or not isinstance(self._scope, Everything)):
            notebook.note("head_not_covered", "the expected head is not in the part that was verified", seq)
        elif end is not None and end > seq:
            notebook.find("head", "no record that holds stands in the place of the expected head", seq=seq)
        else:
            reason = (
                f"the chain ends {'before it begins' if end is None else f'with seq {end}'}: newest records are missing"
            )
            notebook.find("head", reason, seq=seq)

    def report(self) -> LogReport:
        """Return the figures."""
        first, last = self._first, self._last
        verdicts = [read.verdict for read in self._reads]
        return LogReport(
            log=self._survey.log.name,
            log_id=self._survey.log.log_id,
            head=Position(last.seq, last.hash) if last is not None else None,
            first_seq=first.seq if first is not None else None,
            last_seq=last.seq if last is not None else None,
            first_timestamp=first.timestamp if first is not None else None,
            last_timestamp=last.timestamp if last is not None else None,
            records=sum(verdict.records for verdict in verdicts),
            segments=len(verdicts),
            bytes=sum(verdict.bytes for verdict in verdicts),
            sessions=self._sessions,
            dropped=self._dropped,
            findings=self._notebook.found,
        )


_SEALED_MEMBERS: Final = ("first_seq", "last_seq", "records", "bytes", "sha256")
_DELETED_MEMBERS: Final = ("first_seq", "last_seq", "sha256", "hash")


def _reaches_into(verdict: Verdict, start: str, end: str) -> bool:
    """Return whether a segment may hold a record of that time: certainly not is said of a clock that only went on."""
    if verdict.clock or verdict.first is None or verdict.last is None:
        return bool(verdict.clock)
    return verdict.first.timestamp <= end and start <= verdict.last.timestamp


def _number(told: Told, member: str) -> int:
    value = told.event.get(member)
    return value if isinstance(value, int) else 0


def _text(told: Told, member: str) -> str:
    """Return a text that the library has recorded; nothing of it where it can't have."""
    value = told.event.get(member)
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else "no reason given"
