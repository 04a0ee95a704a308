"""What a verification found, as data: it is printed by the command line, stored as JSON, or looked at by a program.

Nothing in a report is text of an event. Positions are those of the uncompressed segment: lines from 1, bytes from 0.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import msgspec

from audit_async.status import Position

#: Findings that are kept of one log; the rest is counted.
MOST_FINDINGS: Final = 1000
#: Notes of one kind that are kept of one log.
MOST_NOTES: Final = 100

#: - `record`: a line was changed, or is no record of this log
#: - `sequence`: records were removed, inserted, repeated or moved
#: - `link`: `prev_hash` is not the hash of the record before
#: - `audit_id`: one that was given before
#: - `segment`: a file is missing, unreadable, foreign, misnamed, or not what was sealed
#: - `checksum`: a `.sha256` file is missing or not what the manifest says
#: - `manifest`, `identity`: manifest.json or log.json is damaged, or not what the chain says and the records are of
#: - `head`: the chain does not hold the record of an expected head: its end was cut off, or it was written anew
#: - `checkpoint`, `history`: a signed checkpoint does not hold, or the records are not those that were signed
FindingKind = Literal[
    "record", "sequence", "link", "audit_id", "segment", "checksum", "manifest", "identity", "head",
    "checkpoint", "history",
]  # fmt: skip

#: - `unclean_end`: a session has no `audit.log_closed`
#: - `in_use`: a writer has the log
#: - `dropped`: events were refused because the buffer was full, and counted
#: - `recovered`: a crash left a torn tail, which was put aside
#: - `torn_tail`: a crash left one that the next opening will put aside
#: - `void_copies`: copies of later records, left by a failed fsync, which the next opening will put aside
#: - `leftover`: a file of a segment that is archived or deleted, which the next opening removes
#: - `damaged`: the writer saw that somebody changed or removed a segment under it
#: - `clock`: a record's timestamp is more than a second before that of the record before it
#: - `deleted`: records that retention deleted; their hashes stand in the manifest
#: - `not_here`: the log has no record in the part that was to be verified
#: - `head_not_covered`: the expected head is not in the part that was verified
#: - `truncation_unseen`: what no chain can show without an expected head or signatures
#: - `signed`, `not_signed`: how far the records are those that a key has signed; there is no key for the log
#: - `behind_checkpoint`: records behind the last checkpoint, which only the chain protects
#: - `publication_behind`, `log_absent`: an old checkpoint is published; none of a log that there is a key for
#: - `more`: findings or notes that were counted and not kept
NoteKind = Literal[
    "unclean_end", "in_use", "dropped", "recovered", "torn_tail", "void_copies", "leftover", "damaged", "clock",
    "deleted", "not_here", "head_not_covered", "truncation_unseen", "signed", "not_signed", "behind_checkpoint",
    "publication_behind", "log_absent", "more",
]  # fmt: skip


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written."""

    log: str  #: `orders/00`
    kind: FindingKind
    reason: str
    segment: str | None = None  #: file name, relative to the log's directory
    line: int | None = None  #: from 1
    seq: int | None = None  #: that was due there
    byte_offset: int | None = None  #: of the line's first byte


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What an auditor must know though the chain holds."""

    log: str
    kind: NoteKind
    text: str
    seq: int | None = None


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
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


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a verification."""

    valid: bool  #: nothing was found in what was verified
    findings: tuple[Finding, ...]  #: in the order of the chain, log by log; at most `MOST_FINDINGS` a log
    notes: tuple[Note, ...]
    logs: tuple[LogReport, ...]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a verification is."""

    log: str  #: that is being read
    bytes_done: int  #: of all logs; twice the same bytes, where records are compared with signatures before
    bytes_total: int
    records: int  #: of all logs that are verified so far


class Notebook:
    """Collects what is found in one log, and keeps no more of it than a reader can use."""

    def __init__(self, log: str) -> None:
        self.log: Final = log
        self.found = 0  #: findings, also those that were not kept
        self._findings: list[Finding] = []
        self._notes: list[Note] = []
        self._counts: Counter[NoteKind] = Counter()

    def find(
        self,
        kind: FindingKind,
        reason: str,
        *,
        segment: str | None = None,
        line: int | None = None,
        seq: int | None = None,
        byte_offset: int | None = None,
    ) -> None:
        """Take down a finding."""
        self.found += 1
        if len(self._findings) < MOST_FINDINGS:
            self._findings.append(
                Finding(
                    log=self.log, kind=kind, reason=reason, segment=segment, line=line, seq=seq, byte_offset=byte_offset
                )
            )

    def count_more(self, findings: int) -> None:
        """Count findings that somebody else did not keep."""
        self.found += findings

    def note(self, kind: NoteKind, text: str, seq: int | None = None) -> None:
        """Take down a note."""
        self._counts[kind] += 1
        if self._counts[kind] <= MOST_NOTES:
            self._notes.append(Note(log=self.log, kind=kind, text=text, seq=seq))

    def count_more_notes(self, kind: NoteKind, notes: int) -> None:
        """Count notes that somebody else did not keep."""
        self._counts[kind] += notes

    @property
    def findings(self) -> list[Finding]:
        """The findings that were kept, in the order in which they came."""
        return self._findings

    @property
    def notes(self) -> list[Note]:
        """The notes that were kept, and how many of what were not."""
        more = [(kind, count - MOST_NOTES) for kind, count in self._counts.items() if count > MOST_NOTES]
        texts = [f"{count} more notes of the kind {kind!r} were counted and not kept" for kind, count in more]
        if self.found > len(self._findings):
            texts.append(f"{self.found - len(self._findings)} more findings were counted and not kept")
        return [*self._notes, *(Note(log=self.log, kind="more", text=text) for text in texts)]
