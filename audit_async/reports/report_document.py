"""The report as data: what its JSON holds, and what the page shows; the page is made of nothing else.

A member that is None, or a list that is empty, says that there is nothing of it. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from audit_async._verify.findings import Finding, Note, Unreadable
from audit_async.events.plain_data import PlainData

__all__ = [
    "ControlReport",
    "Example",
    "FrameworkFacts",
    "LogFacts",
    "Making",
    "Period",
    "Report",
    "RetentionFacts",
    "TopicReport",
    "TypeCount",
    "VerificationFacts",
    "decode_report",
    "encode_report",
    "report_schema",
]

#: Of the document's format; a member that is added does not change it.
FORMAT: Final = 1


class Example(PlainData, frozen=True, kw_only=True):
    """A record, named so that it can be found and proven, and what it says in short."""

    log: str
    seq: int
    audit_id: str
    hash: str
    timestamp: str
    event_type: str
    actor: str  #: empty if the record names nobody; `[sealed]` if it is sealed
    target: str  #: what it was about; empty if it does not say it
    outcome: str  #: empty if it does not say it
    details: str  #: the rest, cut if it is long


class TypeCount(PlainData, frozen=True, kw_only=True):
    """How many records of one type are in the period."""

    event_type: str
    records: int
    failures: int  #: of them that say so, as `AuditQuery.outcome` defines it
    first: str
    last: str


class ControlReport(PlainData, frozen=True, kw_only=True):
    """What the trail shows for one control, and what it can't show."""

    id: str
    title: str
    asks: str
    event_types: tuple[str, ...]  #: types and patterns that speak for it
    topics: tuple[str, ...]  #: names of topics that speak for it
    records: int  #: of these types, in the period
    shows: tuple[str, ...]  #: sentences
    cannot_show: tuple[str, ...]  #: sentences
    types: tuple[TypeCount, ...]  #: the most frequent first
    more_types: int  #: that are counted in `records` and not listed
    examples: tuple[Example, ...]


class TopicReport(PlainData, frozen=True, kw_only=True):
    """What the trail shows about itself, whatever the framework."""

    name: str
    title: str
    records: int  #: of its event types, in the period
    shows: tuple[str, ...]  #: sentences
    concerns: tuple[str, ...]  #: those of them that need an auditor's attention
    cannot_show: str
    types: tuple[TypeCount, ...]
    entries: tuple[Example, ...]  #: its records, the newest ones of each type
    more_entries: int  #: records that are counted and not listed


class LogFacts(PlainData, frozen=True, kw_only=True):
    """One log: how far it was verified, and how much of it is in the period."""

    log: str
    log_id: str
    head_seq: int | None
    head_hash: str | None
    first_timestamp: str | None
    last_timestamp: str | None
    verified_records: int
    segments: int
    sessions: int
    dropped: int  #: events that the log had to refuse
    records_in_period: int
    holds_in_force: int | None  #: when the report was made; None if that can't be read


class VerificationFacts(PlainData, frozen=True, kw_only=True):
    """The outcome of the verification of everything that is in the logs, not only of the period."""

    valid: bool
    records: int  #: that hold
    signatures_checked: bool
    expected_heads: int  #: that were kept elsewhere and given
    findings: tuple[Finding, ...]
    more_findings: int  #: that are not listed
    unreadable: tuple[Unreadable, ...]
    more_unreadable: int
    notes: tuple[Note, ...]
    more_notes: int


class RetentionFacts(PlainData, frozen=True, kw_only=True):
    """For how long records are kept: what is asked for, what is configured, what is seen."""

    clause: str
    says: str
    required_days: int | None
    stated_min_days: int | None  #: the least that an opening of the period states; None if none states any
    configured_min_days: int | None  #: None if no configuration was given
    configured_delete_after_days: int | None
    oldest_record: str | None  #: that is still there
    oldest_age_days: int | None
    deleted_segments: int  #: in the period
    youngest_deleted_days: int | None  #: the least age at which a record was deleted
    assessment: tuple[str, ...]  #: sentences


class Period(PlainData, frozen=True, kw_only=True):
    """What time the records are of; None is open."""

    since: str | None  #: included
    until: str | None  #: not included


class FrameworkFacts(PlainData, frozen=True, kw_only=True):
    """The framework whose controls are gone through."""

    id: str
    name: str
    version: str
    source: str
    about: str


class Making(PlainData, frozen=True, kw_only=True):
    """How the report was made."""

    at: str
    by: str
    library_version: str
    place: str  #: the directory that was read
    unsealed: bool  #: what is sealed in the trail is in the clear in this report
    viewer_url: str | None  #: links to records begin with it


class Report(PlainData, frozen=True, kw_only=True):
    """A report: control by control what a trail shows, and what it can't."""

    format: int
    framework: FrameworkFacts
    made: Making
    period: Period
    records: int  #: in the period
    first_record: str | None
    last_record: str | None
    verification: VerificationFacts
    retention: RetentionFacts
    concerns: tuple[str, ...]  #: what an auditor should look at first
    #: What may belong to the period and is not counted: it can't be read, is damaged or missing, or was deleted.
    not_counted: tuple[str, ...]
    controls: tuple[ControlReport, ...]
    topics: tuple[TopicReport, ...]
    cannot_show: tuple[str, ...]  #: what holds for all controls
    logs: tuple[LogFacts, ...]


def encode_report(report: Report) -> bytes:
    """Return the report as JSON, indented, in UTF-8, with a line feed at its end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def decode_report(content: bytes) -> Report:
    """Return the report that JSON holds; raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    return msgspec.json.decode(content, type=Report)


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the machine-readable report."""
    schema = msgspec.json.schema(Report)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "audit-async report"} | schema
