"""One pass over the records of a period: what is counted, and which records are kept as examples, in bounded memory."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from audit_async._layout.manifest import read_manifest
from audit_async._query.record_summary import ShownRecord, details_of, result_of, target_of
from audit_async._query.recorded_members import FAILURE, OUTCOME_OF_TYPE, actors_of, outcomes_of
from audit_async._trail.log_files import Log
from audit_async.errors import LogCorrupted
from audit_async.events import AuditLogOpened, AuditSegmentDeleted, GenericEvent, Record
from audit_async.events.recorded import event_members, recorded_time
from audit_async.reports.report_document import Example, TypeCount
from audit_async.reports.topics import TOPIC_OF_TYPE

__all__ = ["Evidence", "TypeEvidence", "example_of", "reason_of"]

#: Event types that are counted one by one; a trail with more has types of its own making.
_MOST_TYPES: Final = 500
#: Others whose patterns are remembered, so that they are compared once.
_MOST_REMEMBERED: Final = 5000
#: All the other types.
OTHER_TYPES: Final = "(other types)"
#: Records that are kept of a type: the first ones and the last ones.
_FIRST: Final = 1
_LAST: Final = 2
#: Records that are kept of a type that belongs to a topic.
_LAST_OF_TOPIC: Final = 20
_LONGEST_TEXT: Final = 240
_LONGEST_NAME: Final = 120


class TypeEvidence:
    """What was counted of one event type, and the records that are kept of it.

    Args:
        event_type: The type; `OTHER_TYPES` if it is of several that are counted together.
        kept: Of the newest records.
        patterns: If it is of several types: the patterns that all of them fit, of those that are asked for.
    """

    def __init__(self, event_type: str, *, kept: int, patterns: frozenset[str] = frozenset()) -> None:
        self.event_type: Final = event_type
        self.patterns: Final = patterns
        self.records = 0
        self.failures = 0
        self.first_at = ""
        self.last_at = ""
        self.first: Final[list[Record]] = []
        self.last: Final[deque[Record]] = deque(maxlen=kept)

    def add(self, record: Record, *, failed: bool) -> None:
        """Count a record."""
        self.records += 1
        self.failures += failed
        timestamp = recorded_time(record.timestamp)
        self.first_at = min(self.first_at or timestamp, timestamp)
        self.last_at = max(self.last_at, timestamp)
        if len(self.first) < _FIRST:
            self.first.append(record)
        else:
            self.last.append(record)

    @property
    def kept(self) -> list[Record]:
        """The records that are kept, in the order in which they came."""
        return [*self.first, *self.last]

    def count(self) -> TypeCount:
        """Return what was counted."""
        return TypeCount(
            event_type=self.event_type,
            records=self.records,
            failures=self.failures,
            first=self.first_at,
            last=self.last_at,
        )


class Evidence:
    """What was seen of all records of the period that were verified before.

    Args:
        logs: The logs that are read.
        patterns: All patterns of event types that are asked for, so that types that are counted together fit the same.
        heads: The sequence number of each log's last verified record; newer ones are not counted.
    """

    def __init__(self, logs: Iterable[Log], patterns: Iterable[str], heads: Mapping[str, int]) -> None:
        self._fits: Final = {pattern: _compiled(pattern) for pattern in sorted({*patterns, "*"})}
        self._others: Final[dict[frozenset[str], TypeEvidence]] = {}
        self._other_of: Final[dict[str, TypeEvidence]] = {}  # by type, of the first ones
        self._logs: Final = {log.name: log for log in logs}
        self._heads: Final = heads
        self.unverified = 0  #: records of the period that are newer than these heads
        self._types: Final[dict[str, TypeEvidence]] = {}
        self.by_log: Final[Counter[str]] = Counter()
        self.records = 0
        #: The least age in days at which a record was deleted by retention.
        self.youngest_deleted_days: int | None = None
        self.deleted = 0  #: segments
        self.deleted_of_unknown_age = 0  #: of them
        self.refused = 0
        #: The least `min_retention_days` that an opening states, and how many of the openings state one.
        self.stated_min_days: int | None = None
        self.stating_openings = 0
        self._last_times: dict[str, dict[str, str]] = {}

    def add(self, record: Record) -> None:
        """Count a record, unless the verification has not come so far."""
        if not self.is_verified(record):
            self.unverified += 1
            return
        event_type = record.event.event_type
        self.records += 1
        self.by_log[record.log] += 1
        seen = self._types.get(event_type) or self._begin(event_type)
        seen.add(record, failed=_failed(record))
        if isinstance(record.event, AuditSegmentDeleted):
            self._add_deletion(record, record.event.segment)
        elif isinstance(record.event, AuditLogOpened):
            self._add_opening(record.event)
        elif TOPIC_OF_TYPE.get(event_type) == "refusals":
            self.refused += _number_of(record)

    def is_verified(self, record: Record) -> bool:
        """Return whether the verification has come as far as this record."""
        return record.seq <= self._heads.get(record.log, -1)

    def _begin(self, event_type: str) -> TypeEvidence:
        if len(self._types) >= _MOST_TYPES and event_type not in TOPIC_OF_TYPE:
            return self._other_of.get(event_type) or self._begin_other(event_type)
        kept = _LAST_OF_TOPIC - _FIRST if event_type in TOPIC_OF_TYPE else _LAST
        return self._types.setdefault(event_type, TypeEvidence(event_type, kept=kept))

    def _begin_other(self, event_type: str) -> TypeEvidence:
        fits = frozenset(pattern for pattern, matches in self._fits.items() if matches(event_type))
        other = self._others.setdefault(fits, TypeEvidence(OTHER_TYPES, kept=_LAST, patterns=fits))
        if len(self._other_of) < _MOST_REMEMBERED:
            self._other_of[event_type] = other
        return other

    def types_like(self, patterns: Iterable[str]) -> list[TypeEvidence]:
        """Return what was counted of each type that fits one of these patterns, the most frequent first."""
        wanted = tuple(patterns)
        matches = _compiled(*wanted)
        found = [seen for name, seen in self._types.items() if matches(name)]
        found += [seen for fits, seen in self._others.items() if not fits.isdisjoint(wanted)]
        return sorted(found, key=lambda seen: (-seen.records, seen.event_type))

    def _add_opening(self, opened: AuditLogOpened) -> None:
        days = opened.min_retention_days
        if days is not None:
            self.stating_openings += 1
            self.stated_min_days = days if self.stated_min_days is None else min(self.stated_min_days, days)

    def _add_deletion(self, record: Record, segment: str) -> None:
        self.deleted += 1
        if record.log not in self._last_times:
            log = self._logs.get(record.log)
            self._last_times[record.log] = dict(_last_times(log.directory)) if log is not None else {}
        last = self._last_times[record.log].get(segment)
        if last is None:
            self.deleted_of_unknown_age += 1
            return
        age = (record.timestamp - datetime.fromisoformat(last)).days
        known = self.youngest_deleted_days
        self.youngest_deleted_days = age if known is None else min(known, age)


def _last_times(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield each segment of a log's manifest with the time of its last record; nothing if it can't be read."""
    try:
        for entry in read_manifest(directory):
            yield entry.segment, entry.last_timestamp
    except (LogCorrupted, OSError):
        return  # the verification says so


def _compiled(*patterns: str) -> Callable[[str], object]:
    """Return what is true of a text that one of these patterns fits; false of any if there is none."""
    return re.compile("|".join(translate(pattern.replace("[", "[[]")) for pattern in patterns) or r"(?!)").match


def _number_of(record: Record) -> int:
    """Return how many events a record of a refusal counts."""
    members = event_members(record.event)
    for name in ("count", "records"):
        value = members.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return 0


#: Members without which a record of a known type says nothing of its outcome.
_OUTCOMES: Final = frozenset({"outcome", "result", "status", "completed"})


@lru_cache(maxsize=1024)
def _may_have_outcome(cls: type[msgspec.Struct]) -> bool:
    return cls is GenericEvent or not _OUTCOMES.isdisjoint(cls.__struct_fields__)


def _failed(record: Record) -> bool:
    """Return whether a record says that what it is about failed, as `AuditQuery.outcome` defines it."""
    event = record.event
    by_type = OUTCOME_OF_TYPE.get(event.event_type)
    if by_type is not None:
        return by_type == FAILURE
    return _may_have_outcome(type(event)) and FAILURE in outcomes_of(event_members(event))


def example_of(record: Record) -> Example:
    """Return what the report shows of a record; what is sealed is `[sealed]`."""
    event = ShownRecord.of(record, as_recorded=False).said.event
    return Example(
        log=record.log,
        seq=record.seq,
        audit_id=record.audit_id,
        hash=record.hash,
        timestamp=record.timestamp.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        event_type=_cut(record.event.event_type, _LONGEST_NAME),
        actor=_cut(next(actors_of(event), ""), _LONGEST_NAME),
        target=_cut(target_of(event), _LONGEST_NAME),
        outcome=_cut(" ".join(result_of(event)), _LONGEST_NAME),
        details=_cut("; ".join(details_of(event)), _LONGEST_TEXT),
    )


def reason_of(record: Record) -> str:
    """Return, after a colon, why a record says that something went wrong; empty if it gives no reason."""
    event = ShownRecord.of(record, as_recorded=False).said.event
    said = [event.get(name) for name in ("rule", "sink", "kind", "reason")]
    texts = [text for text in said if isinstance(text, str)]
    return _cut(f": {', '.join(texts)}", _LONGEST_TEXT).rstrip(".") if texts else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
