"""Continuing the verification of one log from what was verified before: what is read again, and what is known then.

Not read again are the sealed segments whose manifest entries and files are those that were verified, and the records
before the last one that was. Everything else is read; and so is everything if a full pass is due, or if the log is not
the one that was verified, which is a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import LOG_FILE, MANIFEST_FILE
from audit_async._trail.log_files import Log, SegmentFile
from audit_async._verify.directory_survey import Survey
from audit_async._verify.findings import Observation, Observations
from audit_async._verify.judgement import CheckedSegment, Judged
from audit_async._verify.verified_before import LifeSoFar, Verified, VerifiedLog, digest_of, stamps_of
from audit_async._verify.verify_report import LogReport
from audit_async._verify.verify_scope import Part
from audit_async.events.recorded import recorded_time
from audit_async.status import Position


class Continuation:
    """One log's. Surveyed again, it is asked again."""

    def __init__(self, log: Log, verified: Verified, expected: Position | None) -> None:
        self._log: Final = log
        self._now: Final = recorded_time(verified.now)
        self._before: Final = verified.logs.get(log.name)
        self._why_full: Final = None if self._before is None else verified.why_full(self._before, expected)
        self._read_before: frozenset[str] = frozenset()
        self._stamps: dict[str, str] = {}  # of the files that hold the sealed segments, by the segments' names
        self._fits = False  # the manifest begins with the entries that were verified
        self._resumes = False  # not everything is read
        self._changed = 0  # segments that were verified, and are read again because their files have changed

    @property
    def head(self) -> Position | None:
        """The last record that was verified before."""
        return self._before.head if self._before is not None else None

    @property
    def life(self) -> LifeSoFar | None:
        """What the records that are not read again have stated; None if all are."""
        return self._before.life if self._before is not None and self._resumes else None

    def keep(self, read_before: frozenset[str]) -> None:
        """Keep the stamps of segments that are not read again though the log is surveyed again."""
        self._read_before = read_before

    def unchanged(self, entries: Sequence[SealedSegment]) -> frozenset[str]:
        """Return the sealed segments whose files need not be looked into, having looked at the files of all.

        Asked before any is read: what is changed from then on has another stamp the next time.
        """
        names = [entry.segment for entry in entries]
        stamps = dict(zip(names, stamps_of(self._log.directory, entries), strict=True))
        self._stamps = stamps | {name: self._stamps[name] for name in self._read_before & self._stamps.keys()}
        before = self._before
        self._fits = before is not None and before.has_entries(entries)
        if before is None or self._why_full is not None or not self._fits:
            return frozenset()
        return frozenset(
            [
                entry.segment
                for entry, stamp in zip(entries, before.stamps, strict=False)
                if entry.state in {"live", "archived"} and stamp and stamp == self._stamps[entry.segment]
            ]
        )

    def choose(self, survey: Survey, segments: Sequence[SegmentFile], observed: Observations) -> list[Part] | None:
        """Return what is to be read of the segments; None for everything."""
        before, self._resumes, self._changed = self._before, False, 0
        if before is None:
            return None
        is_known = survey.identity is None or survey.identity.log_id == before.log_id
        if not is_known:
            observed.add(Observation.BEFORE_OTHER_LOG, segment=LOG_FILE, when=before.verified_at)
        if not self._fits and survey.manifest in {"present", "missing"}:
            observed.add(Observation.BEFORE_OTHER_ENTRIES, segment=MANIFEST_FILE, when=before.verified_at)
        names = [segment.name for segment in segments]
        if self._why_full is not None or not is_known or not self._fits or before.segment not in names:
            return None
        self._resumes = True
        at = names.index(before.segment)
        again = [segment for segment in segments[:at] if segment.is_readable and segment.name not in survey.unchanged]
        self._changed = len(again)
        return [
            *[Part(segment, is_repeated=True) for segment in again],
            Part(segments[at], begin=before.offset, resumed_after=before.before_head),
            *[Part(segment) for segment in segments[at + 1 :]],
        ]

    def conclude(
        self, survey: Survey, checked: Sequence[CheckedSegment], judged: Judged, observed: Observations
    ) -> tuple[LogReport, VerifiedLog | None]:
        """Return the report with what was verified before, and what is verified now: None if something is wrong."""
        before, report = self._before, judged.report
        if before is not None and self._resumes:
            observed.add(
                Observation.VERIFIED_BEFORE,
                seq=before.head.seq,
                when=before.verified_at,
                full=before.full_at,
                changed=self._changed,
            )
            report = msgspec.structs.replace(report, verified_before=before.verified_at, last_full=before.full_at)
        else:
            report = msgspec.structs.replace(report, last_full=self._now)
            if self._why_full is not None:
                observed.add(Observation.FULL_PASS, why=self._why_full)
        last = next((each for each in reversed(checked) if each.is_new and each.verdict.extent.last is not None), None)
        if last is None or report.head is None or observed.found or observed.unreadable:
            return report, None
        extent, sealed = last.verdict.extent, survey.sealed
        stamps = dict(self._stamps)
        if last.segment.sealed is not None and last.segment.sealed.state != "live":
            stamps[last.segment.name] = ""  # not all of what is another file by now was read
        stamps |= {each.segment.name: "" for each in checked if each.verdict.is_closed}  # of these nothing was read
        assert extent.last is not None  # noqa: S101 - it was chosen for that
        now = VerifiedLog(
            log_id=report.log_id,
            head=report.head,
            prev_hash=extent.last.prev_hash,
            segment=last.segment.name,
            offset=extent.last_offset,
            verified_at=self._now,
            full_at=report.last_full or self._now,
            entries=len(sealed),
            entries_sha256=digest_of(sealed),
            stamps=tuple([stamps.get(entry.segment, "") for entry in sealed]),
            life=judged.life,
        )
        return report, now
