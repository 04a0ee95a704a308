"""What came of a verification, as data: printed by the command line, stored as JSON, or examined by a program."""

from __future__ import annotations

import msgspec

from audit_async._verify.findings import Finding, Note, Unreadable
from audit_async.events.plain_data import PlainData
from audit_async.status import Position


class LogReport(PlainData, frozen=True, kw_only=True):
    """What was verified of one log."""

    log: str
    log_id: str
    head: Position | None  #: the last record that was verified; keep it elsewhere, as the next `expected_head`
    first_seq: int | None
    last_seq: int | None
    first_timestamp: str | None  #: RFC 3339, UTC
    last_timestamp: str | None
    records: int  #: that hold
    segments: int  #: that were read
    bytes: int  #: that were read, uncompressed
    sessions: int  #: openings of the log
    dropped: int  #: events that were refused and counted
    findings: int  #: also those that were not kept
    #: If records before `first_seq` were verified by an earlier verification and not read again: its time, RFC 3339.
    verified_before: str | None = None
    last_full: str | None = None  #: when everything was read the last time, if a state was given

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain data; its head has the names of its members."""
        return super().to_dict() | {"head": self.head._asdict() if self.head is not None else None}


class VerifyReport(PlainData, frozen=True, kw_only=True):
    """The outcome of a verification."""

    valid: bool  #: nothing was found in what was verified, and all of it could be read
    findings: tuple[Finding, ...]  #: in the order of the chain, log by log; at most `MOST_FINDINGS` a log
    notes: tuple[Note, ...]
    logs: tuple[LogReport, ...]
    unreadable: tuple[Unreadable, ...] = ()  #: what can't be read, and so was not verified

    def to_dict(self) -> dict[str, object]:
        """Return the report as `audit-async verify --json` prints it."""
        return super().to_dict() | {"logs": [log.to_dict() for log in self.logs]}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a verification is."""

    log: str  #: that is being read
    bytes_done: int  #: of all logs; the same bytes count twice if records are compared with signatures before
    bytes_total: int
    records: int  #: of all logs that are verified so far
