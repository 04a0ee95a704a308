"""What of a period a report does not count: what can't be read, is damaged or missing, or was deleted by retention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from audit_async._query.audit_query import AuditQuery
from audit_async._sanitize.readable_text import count_of
from audit_async._verify.verify_report import VerifyReport

__all__ = ["name_of_period", "not_counted"]

#: Pieces and logs that are named; the verification's own list has more.
_MOST_NAMED: Final = 20
#: Findings about records that are not there as they were written.
_RECORDS_LOST: Final = frozenset({"record", "segment", "sequence", "head", "history"})


def not_counted(
    verified: VerifyReport, period: AuditQuery, unread: str | None, left_out: Mapping[str, str]
) -> tuple[str, ...]:
    """Return what may belong to the period and was not counted, each in a sentence; nothing if all was counted.

    Args:
        verified: The verification of the whole trail, which reads everything that the report reads.
        period: Of which time records are counted.
        unread: Why the reading of the period's records ended early; None if it did not.
        left_out: Logs of which no record could be read, with the reason.
    """
    said = list[str]()
    if unread is not None:
        said.append(f"Reading of the period's records ended early: {unread}")
    said += [f"No record of {name} can be read: {reason}" for name, reason in left_out.items()]
    said += [f"Can't be read: {piece.log}, {piece.file}: {piece.reason}." for piece in verified.unreadable]
    said += _deleted(verified, period)
    if len(said) > _MOST_NAMED:
        said[_MOST_NAMED:] = [f"And {len(said) - _MOST_NAMED:,} more, which audit-async verify --json lists."]
    lost = Counter(finding.kind for finding in verified.findings if finding.kind in _RECORDS_LOST)
    if lost:
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in sorted(lost.items()))
        findings = count_of(lost.total(), "finding")
        said.append(f"Records that are damaged or missing, or not those that were written: {findings} ({kinds}).")
    return tuple(said)


def name_of_period(missing: Sequence[str]) -> str:
    """Return what sentences call that which was counted, if so much was not."""
    return "the readable part of the period" if missing else "the period"


def _deleted(verified: VerifyReport, period: AuditQuery) -> list[str]:
    """Return which logs may have had records of the period that retention has deleted: those that began in it."""
    firsts = {log.log: log.first_timestamp for log in verified.logs}
    said = list[str]()
    for note in verified.notes:
        if note.kind != "deleted":
            continue
        first = firsts.get(note.log)
        if period.start is not None and first is not None and datetime.fromisoformat(first) <= period.start:
            continue  # what was deleted is of before the period
        rest = f"; its oldest record is now of {first[:19].replace('T', ' ')} UTC" if first else ""
        said.append(f"Deleted: {note.log}: {note.text}{rest}.")
    return said
