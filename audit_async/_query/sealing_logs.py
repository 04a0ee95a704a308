"""Which logs seal what callers record: asked before each question is recorded, so what was read once is not read again.

Nothing in a log's manifest says it; the first records of its sessions do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.recorded_members import read_said
from audit_async._query.segment_scan import Damage, last_seq_of, scan
from audit_async._trail.log_files import Log
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async.errors import AuditError

__all__ = ["SealingLogs", "seals"]

#: Of more logs nothing is remembered: those of pods that are long gone would add up.
_MOST_REMEMBERED: Final = 20_000


class _Stated(NamedTuple):
    """What the records of a segment say."""

    until: int = -1  #: the last that was read
    seals: bool = False
    is_stated: bool = False  #: whether a session says of itself whether it seals
    has_callers_record: bool = False

    @property
    def is_decisive(self) -> bool:
        """Whether older segments make no difference.

        A segment may say nothing: its first record comes once the one before was sealed, and callers' may precede it.
        """
        return self.seals or (self.is_stated and self.has_callers_record)


class SealingLogs:
    """Answers for any log, again and again: of a segment that grows only what is new is read. From any thread."""

    def __init__(self) -> None:
        # By directory and log id; of the segments that were read for the last answer. Whoever is later replaces it.
        self._stated: Final[dict[tuple[Path, str], dict[str, _Stated]]] = {}

    def __repr__(self) -> str:
        return f"<SealingLogs of {len(self._stated)} logs>"

    def includes(self, log: Log) -> bool:
        """Return whether the newest session that recorded something of a caller's seals; False if that can't be read.

        Or another session of the same segment: commands that only look after the log don't seal. Blocks.
        """
        before, now = self._stated.get((log.directory, log.log_id), {}), dict[str, _Stated]()
        stated = _Stated()
        try:
            for part in reversed(parts_of(log)):
                stated = now[part.name] = _read_on(part, before.get(part.name, _Stated()))
                if stated.is_decisive:
                    break
        except AuditError:
            return False
        if len(self._stated) >= _MOST_REMEMBERED:
            self._stated.clear()
        self._stated[log.directory, log.log_id] = now
        return stated.seals


def seals(log: Log) -> bool:
    """Return the same for a log that is asked about once."""
    return SealingLogs().includes(log)


def _read_on(part: Part, before: _Stated) -> _Stated:
    """Return what a segment says, of which `before` is known."""
    until = last_seq_of(part, Damage(skip=True))
    if until is None:
        return _Stated()
    if until < before.until:
        before = _Stated()  # another file of this name: an older copy was restored
    if until == before.until or before.seals:
        return before
    stated = _stated_sealing(part, before.until)
    if stated:
        return _Stated(until, seals=True, is_stated=True)
    return _Stated(
        until,
        is_stated=before.is_stated or stated is not None,
        has_callers_record=before.has_callers_record or _has_callers_record(part, before.until),
    )


def _stated_sealing(part: Part, after: int) -> bool | None:
    """Return whether a session says that it seals, or all that it does not; None if none says anything."""
    is_stated = None
    # A session that goes on from an older segment is stated by this one's first record.
    stated = Filter(AuditQuery(event_types=("audit.log_opened", "audit.segment_sealed")))
    # Read from the end unless most of it is known: a session that seals is in the newest records, if there is one.
    for found in scan(part, stated, Range(after), Damage(skip=True), newest_first=after < part.segment.first_seq):
        if found is not None:
            event = read_said(found.line).event
            if event.get("privacy") is not None or event.get("erasure_epoch") is not None:
                return True
            is_stated = False
    return is_stated


def _has_callers_record(part: Part, after: int) -> bool:
    for found in scan(part, Filter(AuditQuery()), Range(after), Damage(skip=True)):
        if found is not None and not str(read_said(found.line).event.get("event_type")).startswith("audit."):
            return True
    return False
