"""Verifying a trail: which segments are read, in which order and by whom, and when to look again.

A log is surveyed first (`directory_survey`), then its segments are checked, in any order and in several processes
(`segment_check`, `worker_pool`), then all of it is judged (`judgement`). Only what the manifest does not have is read
in the chain's order, since each such file is linked to the one before by what is read there: usually that is the
active segment.

A running writer seals, archives and deletes meanwhile. So a finding counts only when the manifest is still the one
that the survey saw; otherwise the log is surveyed again, and what was sealed and found good is not read twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import anyio.to_thread
import msgspec

from audit_async._chain import START, Head
from audit_async._layout.lock_file import read_acknowledged
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._trail.log_files import Log, SegmentFile, manifest_stamp, why_unreadable
from audit_async._trail.worker_pool import processes_for, run_in_thread, run_tasks
from audit_async._trail.worker_process import Advance
from audit_async._verify.continuation import Continuation
from audit_async._verify.directory_survey import Survey, survey_log
from audit_async._verify.findings import Observation, Observations
from audit_async._verify.judgement import CheckedSegment, judge
from audit_async._verify.same_log import ComparedLog, compare_logs
from audit_async._verify.segment_check import check_segment
from audit_async._verify.segment_verdict import IdentityTexts, SegmentTask, SegmentVerdict
from audit_async._verify.verified_before import Verified, VerifiedLog
from audit_async._verify.verify_report import LogReport, Progress, VerifyReport
from audit_async._verify.verify_scope import Everything, Part, Scope, select
from audit_async._verify.void_copies import are_void_copies, zeros_from
from audit_async.errors import ConfigError, LogCorrupted
from audit_async.status import Position

#: Surveys of a log on which something is found while its manifest changes; the last one's findings are kept.
_MOST_SURVEYS: Final = 10

_HASH: Final = re.compile(r"[0-9a-f]{64}")


async def verify_trail(
    logs: Sequence[Log],
    scope: Scope | None = None,
    *,
    expected_heads: Mapping[str, Position] | None = None,
    verified: Verified | None = None,
    skip_encrypted: bool = False,
    processes: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> VerifyReport:
    """Verify logs, or a part of each, and return the report.

    Memory does not grow with the trail. May be cancelled.

    Args:
        logs: The logs.
        scope: The part of each that is verified; None for everything.
        expected_heads: Positions kept elsewhere, by the log's name: only they, or signatures, show that newest records
            were cut off or that a chain was rewritten.
        verified: What was verified before and need not be read again; only with the scope `Everything`. Afterwards it
            has the new state of each log in which nothing was found.
        skip_encrypted: Encrypted archives that the logs' identities don't open make a note, and the report is valid.
        processes: How many share the work. None for one per core, if there is enough to do; 1 for a worker thread.
            The report is the same with any number.
        progress: Called on the event loop.

    Raises:
        ConfigError: An expected head is none.

    What is wrong with a trail is in the report, and so is what can't be read of it.
    """
    expected = _checked(expected_heads or {})
    checks = [
        _LogCheck(log, scope or Everything(), expected.get(log.name), verified, skip_encrypted=skip_encrypted)
        for log in logs
    ]
    for check in checks:
        await anyio.to_thread.run_sync(check.look)
    counter = _Counter(sum(check.bytes for check in checks), progress)
    tasks = [(check, task) for check in checks for task in check.first_tasks()]
    sizes = [check.sizes[task.segment] - task.begin for check, task in tasks]
    count = processes_for(sum(sizes), processes)
    verdicts = await run_tasks(check_segment, [task for _, task in tasks], sizes, count, counter.advance)
    for (check, task), verdict in zip(tasks, verdicts, strict=True):
        check.verdicts[task] = verdict
    reports: list[LogReport] = []
    observations: list[Observations] = []
    for check in checks:
        counter.log = check.log.name
        observed, report = await check.conclude(counter.advance)
        observations.append(observed)
        reports.append(report)
    compared = [
        ComparedLog(check.log, check.identity, report.head, observed)
        for check, report, observed in zip(checks, reports, observations, strict=True)
    ]
    await anyio.to_thread.run_sync(compare_logs, compared)
    reports = [
        msgspec.structs.replace(report, findings=observed.found)
        for report, observed in zip(reports, observations, strict=True)
    ]
    if verified is not None:
        verified.logs |= {
            check.log.name: check.now_verified
            for check, observed in zip(checks, observations, strict=True)
            if check.now_verified is not None and not observed.found
        }
    observations += _absent({log.name for log in logs}, expected, verified)
    counter.finish()
    return report_of(observations, reports)


def _absent(names: set[str], expected: Mapping[str, Position], verified: Verified | None) -> Iterator[Observations]:
    """Yield what there is to say of logs that should be there and are not."""
    known = verified.logs if verified is not None else {}
    for name in sorted((expected.keys() | known.keys()) - names):
        absent = Observations(log=name)
        if name in expected:
            absent.add(Observation.HEAD_OF_NO_LOG, seq=expected[name].seq)
        else:
            absent.add(Observation.BEFORE_NO_LOG, seq=known[name].head.seq, when=known[name].verified_at)
        yield absent


def _checked(expected_heads: Mapping[str, Position]) -> dict[str, Position]:
    for name, (seq, hash_) in expected_heads.items():
        if seq < 0 or not _HASH.fullmatch(hash_):
            raise ConfigError("expected_heads", f"{name}: give a sequence number and a hash of 64 hex digits")
    return dict(expected_heads)


class _Counter:
    """Adds up what is done, and reports it."""

    def __init__(self, total: int, progress: Callable[[Progress], None] | None) -> None:
        self.log = ""
        self._total = total
        self._done = self._records = 0
        self._progress = progress

    def advance(self, bytes_: int, records: int) -> None:
        self._records += records
        self._done = min(self._done + bytes_, self._total)
        if self._progress is not None:
            done = Progress(log=self.log, bytes_done=self._done, bytes_total=self._total, records=self._records)
            self._progress(done)

    def finish(self) -> None:
        self.advance(self._total - self._done, 0)


class _LogCheck:
    """The verification of one log."""

    def __init__(
        self, log: Log, scope: Scope, expected: Position | None, verified: Verified | None, *, skip_encrypted: bool
    ) -> None:
        self.log: Final = log
        self.verdicts: dict[SegmentTask, SegmentVerdict] = {}
        self.now_verified: VerifiedLog | None = None  #: if nothing is wrong, and a state was given
        self._scope: Final = scope
        self._continuation: Final = None if verified is None else Continuation(log, verified, expected)
        known = None if self._continuation is None else self._continuation.head
        self._expected: Final = [head for head in (expected, known) if head is not None]
        self._skip_encrypted: Final = skip_encrypted
        self._observed = Observations(log=log.name)
        self._survey: Survey
        self._parts: list[Part] = []

    # -- surveying -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Survey the log and choose what to read; in a worker thread."""
        self._observed = observed = Observations(log=self.log.name)
        continuation = self._continuation
        if continuation is None:
            self._survey = survey_log(self.log, observed)
        else:
            continuation.keep(frozenset(task.segment for task in self.verdicts))
            self._survey = survey_log(self.log, observed, continuation.unchanged)
        self._segments = segments = [] if self._survey.manifest == "unlisted" else self._in_place()
        self.sizes = {segment.name: self._size(segment) for segment in segments}
        parts = None if continuation is None else continuation.choose(self._survey, segments, observed)
        try:
            self._parts = select(segments, self._scope) if parts is None else parts
        except (OSError, LogCorrupted):  # reading it all says what is wrong
            self._parts = [Part(segment) for segment in segments]

    @property
    def bytes(self) -> int:
        """The bytes that are to be read."""
        return sum(max(0, self.sizes[part.segment.name] - part.begin) for part in self._parts)

    @property
    def identity(self) -> Identity | None:
        """What log.json says; None if it can't be read or understood."""
        return self._survey.identity

    def _size(self, segment: SegmentFile) -> int:
        if segment.sealed is not None:
            return segment.sealed.bytes if segment.is_readable else 0
        return self._survey.sizes.get(segment.name, 0)

    def _in_place(self) -> list[SegmentFile]:
        """Return the segments without the files that can't be part of the chain, which are findings."""
        survey = self._survey
        placed = [segment for segment in survey.segments if segment.sealed is not None]
        due = self._sealed_head.seq + 1
        for segment in survey.unsealed:
            repeated = placed and segment.first_seq == placed[-1].first_seq
            if segment.first_seq < due or repeated:
                self._observed.add(
                    Observation.SEGMENT_IN_THE_PAST,
                    segment=segment.name,
                    seq=due,
                    first_seq=segment.first_seq,
                    last_seq=due - 1,
                )
            else:
                placed.append(segment)
        if survey.sealed and not any(survey.sizes.get(segment.name) for segment in placed if segment.sealed is None):
            self._observed.add(Observation.SEGMENT_AFTER_MISSING, segment=survey.sealed[-1].segment, seq=due)
        elif not placed and survey.writer is None:
            self._add_no_segment()
        return placed

    def _add_no_segment(self) -> None:
        """Say that everything was removed only if the lock shows that there was something."""
        try:
            acknowledged = read_acknowledged(self._survey.log.directory)
        except (OSError, LogCorrupted):
            acknowledged = None
        if acknowledged is None:
            self._observed.add(Observation.NO_RECORD, seq=0)
        else:
            self._observed.add(Observation.NO_SEGMENT, seq=0, until=acknowledged.seq)

    @property
    def _sealed_head(self) -> Head:
        sealed = self._survey.sealed
        return sealed[-1].head if sealed else START

    # -- reading -------------------------------------------------------------------------------------------------

    def first_tasks(self) -> list[SegmentTask]:
        """Return what can be read in any order: the sealed segments, and the first of the others."""
        tasks = []
        for index, part in enumerate(self._parts):
            if part.segment.is_readable:
                tasks.append(self._task(index, self._sealed_head))
            if part.segment.sealed is None:
                break
        return tasks

    def _task(self, index: int, before: Head | None) -> SegmentTask:
        """Return the task for a part; `before` is the chain's head that it should follow, if it is not sealed."""
        part = self._parts[index]
        segment = part.segment
        following = self._parts[index + 1].segment if index + 1 < len(self._parts) else None
        sealed = segment.sealed
        end: int | None = None
        if sealed is not None:
            before = Head(sealed.first_seq - 1, sealed.prev_hash.encode())
            end = sealed.bytes if self._survey.sizes.get(segment.name, 0) > sealed.bytes else None
        if part.resumed_after is not None:
            before = part.resumed_after
        elif before is not None and (part.begin or before.seq + 1 != segment.first_seq):
            before = None
        return SegmentTask(
            log=self.log.name,
            directory=str(self.log.directory),
            service_id=self.identity.service_id if self.identity is not None else "",
            segment=segment.name,
            sealed=sealed,
            after=(before.seq, before.hash.decode()) if before is not None else None,
            begin=part.begin,
            end=end,
            until_seq=following.first_seq if sealed is None and following is not None else None,
            is_last=sealed is None and following is None,
            identities=IdentityTexts(self.log.identities.texts if self.log.identities is not None else ()),
            watched=tuple(head.seq for head in self._expected),
            resumes=part.resumed_after is not None,
        )

    async def conclude(self, advance: Advance) -> tuple[Observations, LogReport]:
        """Read what is left and judge; survey again for as long as the manifest changes under a finding."""
        for _ in range(_MOST_SURVEYS - 1):
            report = await self._read_and_judge(advance)
            if not self._observed.found or not await anyio.to_thread.run_sync(self._has_moved_on):
                return self._observed, report
            self.verdicts = {
                task: verdict for task, verdict in self.verdicts.items() if task.sealed is not None and verdict.is_sound
            }
            await anyio.to_thread.run_sync(self.look)
        report = await self._read_and_judge(advance)
        return self._observed, report

    def _has_moved_on(self) -> bool:
        try:
            return manifest_stamp(self.log) != self._survey.stamp
        except OSError:
            return False

    async def _read_and_judge(self, advance: Advance) -> LogReport:
        checked: list[CheckedSegment] = []
        before: Head | None = self._sealed_head
        for index, part in enumerate(self._parts):
            segment = part.segment
            if not segment.is_readable:
                continue
            task = self._task(index, before)
            verdict = self.verdicts.get(task)
            if verdict is None:
                (verdict,) = await run_in_thread(check_segment, [task], advance)
                self.verdicts[task] = verdict
            is_part = part.begin > 0 or part.resumed_after is not None
            checked.append(CheckedSegment(segment, verdict, is_part, not part.is_repeated))
            if verdict.is_missing and not self._observed.has_finding_of(segment.name):  # such as a missing archive
                self._observed.add(Observation.SEGMENT_MISSING, segment=segment.name, seq=segment.first_seq)
            if segment.sealed is None:
                if before is not None and not part.begin:
                    self._find_gap(before, segment)
                before = verdict.extent.last.head if verdict.extent.last is not None else before
                if verdict.observed.unreadable:
                    before = None  # what it holds is not known
        return await anyio.to_thread.run_sync(self._judge, checked)

    def _find_gap(self, before: Head, segment: SegmentFile) -> None:
        is_first = segment is self._survey.unsealed[0]
        if before.seq + 1 < segment.first_seq and not (is_first and self._is_beginning_unknown):
            self._observed.add(
                Observation.RECORDS_MISSING, segment=segment.name, seq=before.seq + 1, until=segment.first_seq - 1
            )

    @property
    def _is_beginning_unknown(self) -> bool:
        """True if older segments may have been archived or deleted, and the manifest does not say so."""
        return self._survey.manifest in {"damaged", "unreadable"}

    # -- judging -------------------------------------------------------------------------------------------------

    def _judge(self, checked: Sequence[CheckedSegment]) -> LogReport:
        manifest_now: dict[str, SealedSegment] | None
        try:
            # Decoded again only if it was replaced: with 20,000 segments that takes as long as reading hundreds.
            is_known = self._survey.manifest == "present" and not self._has_moved_on()
            entries = self._survey.sealed if is_known else read_manifest(self.log.directory)
            manifest_now = {entry.segment: entry for entry in entries}
        except (LogCorrupted, OSError):
            manifest_now = None
        self._check_ends(checked)
        continuation = self._continuation
        judged = judge(
            self._survey,
            checked,
            self._observed,
            scope=self._scope,
            expected=self._expected,
            life=None if continuation is None else continuation.life,
            manifest_now=manifest_now,
            skip_encrypted=self._skip_encrypted,
        )
        if continuation is None:
            return judged.report
        report, self.now_verified = continuation.conclude(self._survey, checked, judged, self._observed)
        return report

    def _check_ends(self, checked: Sequence[CheckedSegment]) -> None:
        """Judge what comes after the records of a segment: torn by a crash, void copies, or put there by somebody."""
        # Of the last segment nothing counts from where a crash has torn it: its copies may have more.
        void_at = {
            segment.name: verdict.end.torn_at if verdict.end.void_at is None else verdict.end.void_at
            for segment, verdict, _, _ in checked
        }
        ends = {name: at for name, at in void_at.items() if at is not None}
        lasts = [each.verdict.extent.last for each in checked if each.verdict.extent.last is not None]
        head = lasts[-1].head if lasts else START
        places = {segment.name: place for place, segment in enumerate(self._segments)}
        for segment, verdict, _, _ in checked:
            extent, end, name = verdict.extent, verdict.end, segment.name
            if end.torn_at is not None and self._survey.writer is None:
                due = extent.last.seq + 1 if extent.last is not None else None
                self._observed.add(Observation.TORN_TAIL, seq=due, name=name, at=end.torn_at, reason=end.torn_reason)
            at, sealed = end.void_at, segment.sealed
            is_longer = sealed is not None and self._survey.sizes.get(name, 0) > sealed.bytes
            if sealed is not None and is_longer and not extent.converted:
                at = sealed.bytes
            if at is None:
                continue
            following = [other for other in self._segments[places[segment.name] + 1 :] if other.is_readable]
            try:
                void = are_void_copies(segment, at, head, following, ends)
            except FileNotFoundError:  # of one that follows, which is a finding of its own
                void = False
            except OSError as error:
                self._observed.add(Observation.UNREADABLE, segment=name, reason=why_unreadable(error))
                continue
            if sealed is not None and void and (zeros := zeros_from(segment, at)):
                self._observed.add(
                    Observation.ZEROS_AFTER_RECORDS,
                    segment=name,
                    line=extent.lines + 1,
                    byte_offset=at,
                    count=zeros,
                )
            elif void:
                self._observed.add(Observation.VOID_COPIES, seq=segment.first_seq, name=name, at=at)
            else:
                self._observed.add(Observation.BYTES_AFTER_RECORDS, segment=name, line=extent.lines + 1, byte_offset=at)


def report_of(observations: Sequence[Observations], logs: Sequence[LogReport]) -> VerifyReport:
    """Return the report on all logs."""
    observations = [observed.complete() for observed in observations]
    findings = tuple([finding for observed in observations for finding in observed.findings])
    notes = tuple([note for observed in observations for note in observed.notes])
    unreadable = tuple([piece for observed in observations for piece in observed.unreadable])
    valid = not findings and not unreadable
    return VerifyReport(valid=valid, findings=findings, notes=notes, logs=tuple(logs), unreadable=unreadable)
