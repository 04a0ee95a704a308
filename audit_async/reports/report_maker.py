"""Making a report: the trail is verified, read once for the period, and judged by the controls of a framework."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import anyio.to_thread

from audit_async._layout.holds_in_force import find_holds
from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async._sanitize.readable_text import count_of
from audit_async._trail.log_files import Log, TrailUnreadable, list_segments
from audit_async._verify.findings import Unreadable
from audit_async._verify.verify_report import Progress, VerifyReport
from audit_async._version import __version__
from audit_async.config import RetentionPolicy
from audit_async.errors import LogCorrupted
from audit_async.events import Record
from audit_async.logger import AuditLogger
from audit_async.reader import AuditReader
from audit_async.reports.assessment import Findings, concerns_of, control_reports, general_limits, topic_reports
from audit_async.reports.framework import Framework, RetentionClause, load_framework
from audit_async.reports.period_coverage import name_of_period, not_counted
from audit_async.reports.report_document import (
    FORMAT,
    FrameworkFacts,
    LogFacts,
    Making,
    Period,
    Report,
    RetentionFacts,
    VerificationFacts,
)
from audit_async.reports.trail_evidence import Evidence
from audit_async.status import Position

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = ["make_report"]

#: Findings, notes and pieces that can't be read that a report lists, of each; all of them are judged.
_MOST_FINDINGS: Final = 500
#: Unfinished intents that a report lists.
_MOST_INTENTS: Final = 100
_RECORDS_A_TIME: Final = 1000
_DAY_S: Final = 86_400


async def make_report(
    reader: AuditReader,
    framework: str | os.PathLike[str] | Framework,
    *,
    audit: AuditLogger,
    accessed_by: str,
    since: datetime | None = None,
    until: datetime | None = None,
    expected_heads: Mapping[str, Position] | None = None,
    policy: Policy | None = None,
    known_checkpoints: Mapping[str, bytes] | None = None,
    published: str | os.PathLike[str] | None = None,
    retention: RetentionPolicy | None = None,
    viewer_url: str | None = None,
    processes: int | None = None,
    verifying: Callable[[Progress], None] | None = None,
    reading: Callable[[int], None] | None = None,
) -> Report:
    """Return what the trail shows, control by control, for the records of a period; and what it can't show.

    All logs of the reader are verified, whole; then the records of the period are read once, in memory that does not
    grow with their number. If changes were recorded before their commit, their outcomes are looked up in two more
    readings of these records alone. What was asked is recorded by `audit` (`audit.log_accessed`), and
    `write_report` records the files.

    Args:
        reader: Reads the logs. If it has a key store, what is sealed is in the clear in the report, which no erasure
            reaches; without one it stays sealed.
        framework: A name from `framework_names()`, the path of a TOML file, or a `Framework`.
        audit: A running logger, of another log than those that a service has open.
        accessed_by: Who makes the report.
        since: The period's begin, aware; None for the trail's.
        until: The period's end, not included, aware; None for the trail's.
        expected_heads: As for `AuditReader.verify`.
        policy: As for `AuditReader.verify`: whose signatures count.
        known_checkpoints: As for `AuditReader.verify`.
        published: As for `AuditReader.verify`.
        retention: What the service is configured with, to compare with what the framework asks for.
        viewer_url: Where a viewer of these logs is, such as `https://audit.example/trail`; the examples link to it.
        processes: As for `AuditReader.verify`.
        verifying: Called on the event loop, now and then, while the logs are verified.
        reading: Called on the event loop, now and then, with the number of records that were read.

    Raises:
        ConfigError: There is no such framework, or its file is wrong.
        InvalidQuery: The period makes no sense, or links can't begin with `viewer_url`.
        TrailUnreadable: There is no log, or a directory can't be read. What can't be read of a log is in the report.
    """
    chosen = framework if isinstance(framework, Framework) else load_framework(framework)
    period = AuditQuery(start=since, end=until)
    viewer = _viewer_of(viewer_url) if viewer_url is not None else None
    logs = await anyio.to_thread.run_sync(reader.logs)
    verified = await reader.verify(
        expected_heads=expected_heads,
        policy=policy,
        known_checkpoints=known_checkpoints,
        published=published,
        skip_encrypted=False,
        processes=processes,
        progress=verifying,
    )
    patterns = [pattern for control in chosen.controls for pattern in control.events]
    evidence = Evidence(logs, patterns, {log.log: log.head.seq for log in verified.logs if log.head is not None})
    was_read = await _read_all(reader, period, evidence, audit=audit, accessed_by=accessed_by, reading=reading)
    facts = await anyio.to_thread.run_sync(_log_facts, logs, verified, evidence)
    missing = not_counted(verified, period, was_read.ended_early, was_read.left_out)
    found = Findings(
        verified=verified,
        verification=_verification(
            verified, was_read.ended_early, signatures=policy is not None, heads=len(expected_heads or {})
        ),
        retention=_retention(chosen, evidence, verified, retention, name_of_period(missing)),
        intents=was_read.intents,
        holds=tuple(log.holds_in_force for log in facts),
        not_counted=missing,
    )
    made = Making(
        at=_shown(datetime.now(UTC).replace(microsecond=0)),
        by=accessed_by,
        library_version=__version__,
        place=str(reader.base_dir.absolute()),
        unsealed=reader.opens_sealed,
        viewer_url=viewer,
    )
    return _assembled(chosen, made, period, evidence=evidence, found=found, logs=facts)


class _Reading(NamedTuple):
    """How the reading of the period's records went, besides what the evidence has."""

    left_out: dict[str, str]  #: logs of which no record can be read, with the reason
    ended_early: str | None = None  #: why
    intents: tuple[Sequence[Record], int] = ((), 0)  #: without an outcome: the first of them, and how many


async def _read_all(
    reader: AuditReader,
    period: AuditQuery,
    evidence: Evidence,
    *,
    audit: AuditLogger,
    accessed_by: str,
    reading: Callable[[int], None] | None,
) -> _Reading:
    """Read the records of the period; a log that can't be read at all hides no other."""
    logs = await anyio.to_thread.run_sync(reader.logs)
    left_out = await anyio.to_thread.run_sync(_unreadable_logs, logs)
    if len(left_out) == len(logs):
        return _Reading(left_out, "no log can be read")
    rest = reader._without(left_out)  # noqa: SLF001 - the reader's own way to leave logs out
    try:
        await _read(rest, period, evidence, audit=audit, accessed_by=accessed_by, reading=reading)
        return _Reading(left_out, intents=await _unfinished(rest, period, evidence))
    except (LogCorrupted, TrailUnreadable) as error:
        return _Reading(left_out, str(error))


def _unreadable_logs(logs: Sequence[Log]) -> dict[str, str]:
    """Return the logs whose segments can't even be listed, each with the reason."""
    reasons = dict[str, str]()
    for log in logs:
        try:
            list_segments(log)
        except (LogCorrupted, TrailUnreadable) as error:
            reasons[log.name] = str(error)
    return reasons


def _viewer_of(url: str) -> str:
    """Return what the links to a viewer begin with; raises `InvalidQuery`, without the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not url.isascii() or not url.isprintable() or any(letter in url for letter in " @?#"):
        raise InvalidQuery(
            "viewer_url", "is no address such as https://audit.example/trail, without user, query and fragment"
        )
    return url.rstrip("/")


def _assembled(
    framework: Framework,
    made: Making,
    period: AuditQuery,
    *,
    evidence: Evidence,
    found: Findings,
    logs: tuple[LogFacts, ...],
) -> Report:
    times = [seen for seen in evidence.types_like(["*"]) if seen.records]
    return Report(
        format=FORMAT,
        framework=FrameworkFacts(
            id=framework.id,
            name=framework.name,
            version=framework.version,
            source=framework.source,
            about=framework.about,
        ),
        made=made,
        period=Period(
            since=_shown(period.start) if period.start else None, until=_shown(period.end) if period.end else None
        ),
        records=evidence.records,
        first_record=min((seen.first_at for seen in times), default=None),
        last_record=max((seen.last_at for seen in times), default=None),
        verification=found.verification,
        retention=found.retention,
        concerns=concerns_of(evidence, found),
        not_counted=found.not_counted,
        controls=control_reports(framework, evidence, found),
        topics=topic_reports(evidence, found),
        cannot_show=(*general_limits(evidence, found), *_limits_of_period(period, logs, made)),
        logs=logs,
    )


def _limits_of_period(period: AuditQuery, logs: Sequence[LogFacts], made: Making) -> list[str]:
    """Return what the period asks for that the trail can't have yet, or does not have yet."""
    said = list[str]()
    firsts = [log.first_timestamp for log in logs if log.first_timestamp]
    if period.start is not None and firsts and datetime.fromisoformat(min(firsts)) > period.start:
        said.append(f"Anything from before {min(firsts)}: no older record is there that can be read.")
    if period.end is not None and period.end > datetime.fromisoformat(made.at):
        said.append(f"What is recorded after {made.at}: the period was not over when the report was made.")
    return said


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


async def _read(
    reader: AuditReader,
    period: AuditQuery,
    evidence: Evidence,
    *,
    audit: AuditLogger,
    accessed_by: str,
    reading: Callable[[int], None] | None,
) -> None:
    """Add the records of the period to the evidence."""
    query = reader.query(period, audit=audit, accessed_by=accessed_by, on_damage="skip")
    async with aclosing(query) as records:
        async for record in records:
            evidence.add(record)
            if reading is not None and evidence.records % _RECORDS_A_TIME == 0:
                reading(evidence.records)


async def _unfinished(reader: AuditReader, period: AuditQuery, evidence: Evidence) -> tuple[Sequence[Record], int]:
    """Return the intents of the period without an outcome, the first ones, and how many there are."""
    kept, number = list[Record](), 0
    if not any(seen.records for seen in evidence.types_like(["transaction.intended"])):
        return kept, number
    async for record in _closing(reader.unfinished(period, on_damage="skip")):
        if evidence.is_verified(record):
            number += 1
            if len(kept) < _MOST_INTENTS:
                kept.append(record)
    return kept, number


async def _closing(records: AsyncIterator[Record]) -> AsyncIterator[Record]:
    async with aclosing(records) as open_records:  # type: ignore[type-var]  # all of the reader's are generators
        async for record in open_records:
            yield record


def _verification(report: VerifyReport, unread: str | None, *, signatures: bool, heads: int) -> VerificationFacts:
    unreadable = report.unreadable
    if unread is not None:
        unreadable += (Unreadable(log="", file="", reason=f"records of the period could not be read: {unread}"),)
    return VerificationFacts(
        valid=report.valid and unread is None,
        records=sum(log.records for log in report.logs),
        signatures_checked=signatures,
        expected_heads=heads,
        findings=report.findings[:_MOST_FINDINGS],
        more_findings=max(sum(log.findings for log in report.logs), len(report.findings))
        - min(len(report.findings), _MOST_FINDINGS),
        unreadable=unreadable[:_MOST_FINDINGS],
        more_unreadable=max(0, len(unreadable) - _MOST_FINDINGS),
        notes=report.notes[:_MOST_FINDINGS],
        more_notes=max(0, len(report.notes) - _MOST_FINDINGS),
    )


def _retention(
    framework: Framework,
    evidence: Evidence,
    verified: VerifyReport,
    configured: RetentionPolicy | None,
    period: str,
) -> RetentionFacts:
    clause = framework.retention
    oldest = min((log.first_timestamp for log in verified.logs if log.first_timestamp), default=None)
    age = int((datetime.now(UTC) - datetime.fromisoformat(oldest)).total_seconds() // _DAY_S) if oldest else None
    least = configured.min_retention_days if configured is not None else None
    said = list[str]()
    if clause.days is None:
        said.append(f"{clause.clause} gives no number of days.")
    stated = evidence.stated_min_days
    if stated is not None:
        openings = count_of(evidence.stating_openings, "opening")
        said.append(f"{openings} of {period} with a policy that keeps records for {count_of(stated, 'day')} at least.")
    if least is not None:
        said.append(f"The configuration that was given keeps records for {count_of(least, 'day')} at least.")
    known = [days for days in (stated, least) if days is not None]
    if not known:
        said.append(f"No opening of {period} states a retention policy, and no configuration was given.")
    elif clause.days is not None:
        verdict = "meets" if min(known) >= clause.days else "is SHORTER than"
        said.append(f"A minimum of {min(known):,} days {verdict} the {clause.days:,} days of {clause.clause}.")
    said += _deletions(evidence, clause, period)
    if age is not None and clause.days is not None and age < clause.days:
        said.append(
            f"The oldest record that can be read is {count_of(age, 'day')} old, so the trail does not span "
            f"{clause.days:,} days."
        )
    return RetentionFacts(
        clause=clause.clause,
        says=clause.says,
        required_days=clause.days,
        stated_min_days=stated,
        configured_min_days=least,
        configured_delete_after_days=configured.delete_after_days if configured is not None else None,
        oldest_record=oldest,
        oldest_age_days=age,
        deleted_segments=evidence.deleted,
        youngest_deleted_days=evidence.youngest_deleted_days,
        assessment=tuple(said),
    )


def _deletions(evidence: Evidence, clause: RetentionClause, period: str) -> list[str]:
    """Return what the records of the period say of segments that retention has deleted."""
    if not evidence.deleted:
        return [f"No record of {period} says that retention has deleted anything."]
    said = [f"{count_of(evidence.deleted, 'segment')} deleted in {period}."]
    youngest, unknown = evidence.youngest_deleted_days, evidence.deleted_of_unknown_age
    if youngest is not None:
        said.append(f"The youngest record in them was {count_of(youngest, 'day')} old when it was deleted.")
        if clause.days is not None and youngest < clause.days:
            said.append(f"Records were deleted EARLIER than the {clause.days:,} days of {clause.clause}.")
    if unknown:
        said.append(
            f"How old the records of {count_of(unknown, 'segment')} were can't be said: the manifest has no entry of "
            "them any more, or can't be read."
        )
    return said


def _log_facts(logs: Sequence[Log], report: VerifyReport, evidence: Evidence) -> tuple[LogFacts, ...]:
    holds = {log.name: _holds_of(log) for log in logs}
    return tuple(
        LogFacts(
            log=log.log,
            log_id=log.log_id,
            head_seq=log.head.seq if log.head is not None else None,
            head_hash=log.head.hash if log.head is not None else None,
            first_timestamp=log.first_timestamp,
            last_timestamp=log.last_timestamp,
            verified_records=log.records,
            segments=log.segments,
            sessions=log.sessions,
            dropped=log.dropped,
            records_in_period=evidence.by_log[log.log],
            holds_in_force=holds.get(log.log),
        )
        for log in report.logs
    )


def _holds_of(log: Log) -> int | None:
    try:
        return len(find_holds(log.directory))
    except (LogCorrupted, OSError):
        return None
