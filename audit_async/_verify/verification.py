"""Verifying a trail: which segments are read, in which order and by whom, and when to look again.

A log is surveyed first, then its segments are checked, in any order and in several processes (`segment_check`,
`parallel`), then all of it is judged (`judgement`). Only what the manifest does not have is read in the chain's
order, since each such file is linked to the one before by what is read there: usually that is the active segment.

A running writer seals, archives and deletes meanwhile. So a finding counts only when the manifest is still the one
that the survey saw; otherwise the log is surveyed again, and what was sealed and found good is not read twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import anyio.to_thread

from audit_async._chain import START, Head
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._trail.log_files import Log, SegmentFile, manifest_stamp
from audit_async._verify.directory_survey import Survey, survey_log
from audit_async._verify.judgement import Read, judge
from audit_async._verify.segment_check import Task, Verdict
from audit_async._verify.verify_report import Finding, LogReport, Notebook, Progress, VerifyReport
from audit_async._verify.verify_scope import Everything, Part, Scope, select
from audit_async._verify.void_copies import are_void_copies
from audit_async._verify.worker_pool import Advance, check_in_thread, processes_for, run_tasks
from audit_async.errors import ConfigError, LogCorrupted
from audit_async.status import Position

#: Surveys of a log on which something is found while its manifest changes; the last one's findings stand.
_MOST_SURVEYS: Final = 10

_HASH: Final = re.compile(r"[0-9a-f]{64}")


async def verify_trail(
    logs: Sequence[Log],
    scope: Scope | None = None,
    *,
    expected_heads: Mapping[str, Position] | None = None,
    processes: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> VerifyReport:
    """Verify logs, or the part of each that `scope` names (None: everything), and return the report.

    `expected_heads` are positions kept elsewhere, by the log's name: only they, or signatures, show that newest
    records were cut off or that a chain was written anew. `processes` share the work (None: one a core, where there
    is enough to do; 1: a worker thread); the report is the same with any number. `progress` is called on the event
    loop. Memory does not grow with the trail. May be cancelled.

    Raises `ConfigError` for an expected head that is none, `TrailUnreadable` where a log's directory can't be read;
    everything else that is wrong with a trail is in the report.
    """
    expected = _checked(expected_heads or {})
    checks = [_LogCheck(log, scope or Everything(), expected.get(log.name)) for log in logs]
    for check in checks:
        await anyio.to_thread.run_sync(check.look)
    counter = _Counter(sum(check.bytes for check in checks), progress)
    tasks = [(check, task) for check in checks for task in check.first_tasks()]
    sizes = [check.sizes[task.segment] - task.begin for check, task in tasks]
    count = processes_for(sum(sizes), processes)
    verdicts = await run_tasks([task for _, task in tasks], sizes, count, counter.advance)
    for (check, task), verdict in zip(tasks, verdicts, strict=True):
        check.verdicts[task] = verdict
    reports: list[LogReport] = []
    findings: list[Finding] = []
    notes = []
    for check in checks:
        counter.log = check.log.name
        notebook, report = await check.conclude(counter.advance)
        findings += notebook.findings
        notes += notebook.notes
        reports.append(report)
    for name in sorted(expected.keys() - {log.name for log in logs}):
        reason = "there is no such log, though a head of it is expected"
        findings.append(Finding(log=name, kind="head", reason=reason, seq=expected[name].seq))
    counter.finish()
    return VerifyReport(valid=not findings, findings=tuple(findings), notes=tuple(notes), logs=tuple(reports))


def _checked(expected_heads: Mapping[str, Position]) -> dict[str, Position]:
    for name, (seq, hash_) in expected_heads.items():
        if seq < 0 or not _HASH.fullmatch(hash_):
            raise ConfigError("expected_heads", f"{name}: give a sequence number and a hash of 64 hex digits")
    return dict(expected_heads)


class _Counter:
    """Adds up what is done, and tells of it."""

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

    def __init__(self, log: Log, scope: Scope, expected: Position | None) -> None:
        self.log: Final = log
        self.verdicts: dict[Task, Verdict] = {}
        self._scope: Final = scope
        self._expected: Final = expected
        self._notebook = Notebook(log.name)
        self._survey: Survey
        self._parts: list[Part] = []

    # -- looking -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Survey the log and choose what to read; in a worker thread."""
        self._notebook = Notebook(self.log.name)
        self._survey = survey_log(self.log, self._notebook)
        segments = self._in_place()
        try:
            self._parts = select(segments, self._scope)
        except (OSError, LogCorrupted):  # reading it all says what is wrong
            self._parts = [Part(segment) for segment in segments]
        self.sizes = {segment.name: self._size(segment) for segment in segments}

    @property
    def bytes(self) -> int:
        """The bytes that are to be read."""
        return sum(self.sizes[part.segment.name] - part.begin for part in self._parts)

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
                reason = f"it begins with seq {segment.first_seq}, where the chain is past {due - 1}"
                self._notebook.find("segment", reason, segment=segment.name, seq=due)
            else:
                placed.append(segment)
        if survey.sealed and not any(survey.sizes.get(segment.name) for segment in placed if segment.sealed is None):
            reason = "the segment that follows this one is missing or empty"
            self._notebook.find("segment", reason, segment=survey.sealed[-1].segment, seq=due)
        elif not placed and survey.writer is None:
            self._notebook.find("segment", "the log holds no segment: what it held was removed", seq=0)
        return placed

    @property
    def _sealed_head(self) -> Head:
        sealed = self._survey.sealed
        return sealed[-1].head if sealed else START

    # -- reading -------------------------------------------------------------------------------------------------

    def first_tasks(self) -> list[Task]:
        """Return what can be read in any order: the sealed segments, and the first of the others."""
        tasks = []
        for index, part in enumerate(self._parts):
            if part.segment.is_readable:
                tasks.append(self._task(index, self._sealed_head))
            if part.segment.sealed is None:
                break
        return tasks

    def _task(self, index: int, before: Head | None) -> Task:
        """Return the task for a part; `before` is the chain's head that it should follow, where it is not sealed."""
        segment, begin = self._parts[index].segment, self._parts[index].begin
        following = self._parts[index + 1].segment if index + 1 < len(self._parts) else None
        sealed = segment.sealed
        end: int | None = None
        if sealed is not None:
            before = Head(sealed.first_seq - 1, sealed.prev_hash.encode())
            end = sealed.bytes if self._survey.sizes.get(segment.name, 0) > sealed.bytes else None
        if before is not None and (begin or before.seq + 1 != segment.first_seq):
            before = None
        return Task(
            directory=str(self.log.directory),
            service_id=self._survey.service_id,
            segment=segment.name,
            sealed=sealed,
            after=(before.seq, before.hash.decode()) if before is not None else None,
            begin=begin,
            end=end,
            until_seq=following.first_seq if sealed is None and following is not None else None,
            is_last=sealed is None and following is None,
            watched=(self._expected.seq,) if self._expected is not None else (),
        )

    async def conclude(self, advance: Advance) -> tuple[Notebook, LogReport]:
        """Read what is left and judge; look again for as long as the manifest changes under a finding."""
        for _ in range(_MOST_SURVEYS - 1):
            report = await self._read_and_judge(advance)
            if not self._notebook.found or not await anyio.to_thread.run_sync(self._has_moved_on):
                return self._notebook, report
            self.verdicts = {
                task: verdict
                for task, verdict in self.verdicts.items()
                if task.sealed is not None and not (verdict.gone or verdict.spots)
            }
            await anyio.to_thread.run_sync(self.look)
        return self._notebook, await self._read_and_judge(advance)

    def _has_moved_on(self) -> bool:
        return manifest_stamp(self.log) != self._survey.stamp

    async def _read_and_judge(self, advance: Advance) -> LogReport:
        reads: list[Read] = []
        before: Head | None = self._sealed_head
        for index, (segment, begin) in enumerate((part.segment, part.begin) for part in self._parts):
            if not segment.is_readable:
                continue
            task = self._task(index, before)
            verdict = self.verdicts.get(task)
            if verdict is None:
                (verdict,) = await check_in_thread([task], advance)
                self.verdicts[task] = verdict
            reads.append(Read(segment, verdict))
            if verdict.gone:
                self._notebook.find("segment", "the segment is missing", segment=segment.name, seq=segment.first_seq)
            if segment.sealed is None:
                if before is not None and not begin:
                    self._find_gap(before, segment)
                before = Head(verdict.last.seq, verdict.last.hash.encode()) if verdict.last is not None else before
        return await anyio.to_thread.run_sync(self._judge, reads)

    def _find_gap(self, before: Head, segment: SegmentFile) -> None:
        is_first = segment is self._survey.unsealed[0]
        if before.seq + 1 < segment.first_seq and not (is_first and self._survey.manifest == "damaged"):
            reason = f"records from seq {before.seq + 1} to {segment.first_seq - 1} are missing before this segment"
            self._notebook.find("sequence", reason, segment=segment.name, seq=before.seq + 1)

    # -- judging -------------------------------------------------------------------------------------------------

    def _judge(self, reads: Sequence[Read]) -> LogReport:
        manifest_now: dict[str, SealedSegment] | None
        try:
            manifest_now = {entry.segment: entry for entry in read_manifest(self.log.directory)}
        except (LogCorrupted, OSError):
            manifest_now = None
        self._check_ends(reads)
        return judge(
            self._survey,
            reads,
            self._notebook,
            scope=self._scope,
            expected=self._expected,
            manifest_now=manifest_now,
        )

    def _check_ends(self, reads: Sequence[Read]) -> None:
        """Judge what stands behind the records of a segment: torn by a crash, void copies, or put there by somebody."""
        ends = {read.segment.name: read.verdict.void_at for read in reads if read.verdict.void_at is not None}
        last = next((read.verdict.last for read in reversed(reads) if read.verdict.last is not None), None)
        head = Head(last.seq, last.hash.encode()) if last is not None else START
        for position, (segment, verdict) in enumerate(reads):
            if verdict.torn_at is not None and self._survey.writer is None:
                text = f"{segment.name} ends torn at byte {verdict.torn_at} ({verdict.torn}); the next opening mends it"
                self._notebook.note("torn_tail", text, verdict.last.seq + 1 if verdict.last is not None else None)
            at, sealed = verdict.void_at, segment.sealed
            if sealed is not None and self._survey.sizes.get(segment.name, 0) > sealed.bytes:
                at = sealed.bytes
            if at is None:
                continue
            following = [read.segment for read in reads[position + 1 :]]
            try:
                void = are_void_copies(segment, at, head, following, ends)
            except OSError:
                void = False
            if void:
                text = f"{segment.name} ends with copies of later records, from byte {at} on: a sync failed there"
                self._notebook.note("void_copies", text, segment.first_seq)
            else:
                reason = "behind its records stand bytes that are no copies of the segments that follow"
                self._notebook.find("segment", reason, segment=segment.name, line=verdict.lines + 1, byte_offset=at)
