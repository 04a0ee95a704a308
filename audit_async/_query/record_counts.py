"""How many records there are of which type, by whom, at which hour: counted in bounded memory, a segment at a time.

An index does not help: it holds no names, so that nothing of a trail can be read from it. All records are read, by
several processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from audit_async._query.recorded_members import Said, actors_of, read_said_lines, type_of
from audit_async._query.term_index import IndexTask, sealed_lines
from audit_async._trail.worker_process import Advance
from audit_async.events.registry import known_types
from audit_async.privacy.sealed_text import is_sealed

#: At most twice as many different names are counted at a time: 60 MB of them.
_KEPT: Final = 150_000
#: For an event that names no actor; no recorded name has parentheses around it.
NO_ACTOR: Final = "(nobody)"
#: The length of the beginning of a sealed text that ends with its key's id.
_TO_KEY_ID: Final = len("sealed:1:") + 22


class Frequencies:
    """How often each name came, in bounded memory.

    When there are too many names, the rarest are put together into `others`. From then on a rare name that comes
    again is counted from zero, so a count may be too low by at most `uncertain`; it is exact as long as that is 0. The
    sum of all counts and `others` is always exact.
    """

    def __init__(self, *, kept: int = _KEPT) -> None:
        self._kept = kept
        self._counts: Counter[str] = Counter()
        self.others = 0
        self.uncertain = 0

    def add(self, name: str) -> None:
        """Count a name."""
        self.add_all({name: 1})

    def add_all(self, counts: Mapping[str, int]) -> None:
        """Count names as often as is said."""
        self._counts.update(counts)
        if len(self._counts) > 2 * self._kept:
            self._forget_the_rarest()

    def _forget_the_rarest(self) -> None:
        ranked = self._counts.most_common()
        forgotten = ranked[self._kept :]
        self.others += sum(count for _, count in forgotten)
        self.uncertain += forgotten[0][1]
        self._counts = Counter(dict(ranked[: self._kept]))

    def top(self, number: int) -> tuple[list[tuple[str, int]], int]:
        """Return the most frequent names, equal ones by name, and the sum of all the others."""
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return ranked[:number], self.others + sum(count for _, count in ranked[number:])


def _count(counts: dict[str, int], names: Iterable[str]) -> None:
    """Count names into what JSON can hold, which a `Counter` is not for msgspec."""
    for name, count in Counter(names).items():
        counts[name] = counts.get(name, 0) + count


def _actor_of(record: Said) -> str:
    """Return who acts, as `sealed:1:<key id>` if that is sealed: each ciphertext of a person is another text."""
    actor = next(actors_of(record.event), NO_ACTOR)
    return actor[:_TO_KEY_ID] if is_sealed(actor) else actor


class SegmentCounts(msgspec.Struct):
    """What was counted in one segment; it travels between processes as JSON."""

    is_sound: bool = True  #: False if its content is not what was sealed; then nothing else counts
    records: int = 0
    types: dict[str, int] = {}
    actors: dict[str, int] = {}
    hours: list[int] = msgspec.field(default_factory=lambda: [0] * 24)
    first: str = ""  #: the earliest timestamp
    last: str = ""  #: the latest

    def add(self, records: Sequence[Said]) -> None:
        """Count some records."""
        if not records:
            return
        times = [record.timestamp for record in records]
        self.records += len(records)
        _count(self.types, [type_of(record.event) for record in records])
        _count(self.actors, [_actor_of(record) for record in records])
        for hour, count in Counter([time[11:13] for time in times]).items():
            self.hours[int(hour) % 24] += count
        self.first = min(self.first or times[0], *times)
        self.last = max(self.last, *times)


def count_segment(task: IndexTask, advance: Advance | None = None) -> SegmentCounts:
    """Count a sealed segment; its content is compared with what was sealed. `advance` is as for `index_segment`."""
    counts, digest = SegmentCounts(), sha256()
    try:
        for chunk in sealed_lines(task.part):
            digest.update(chunk.data)
            records = read_said_lines(chunk.data)
            counts.add(records)
            if advance is not None:
                advance(len(chunk.data), len(records))
    except (msgspec.MsgspecError, OSError, RecursionError, ValueError):
        return SegmentCounts(is_sound=False)
    return counts if digest.hexdigest() == task.sealed.sha256 else SegmentCounts(is_sound=False)


class Tally:
    """What was counted in all segments of several logs."""

    def __init__(self, logs: Iterable[str]) -> None:
        self.by_log: Final = Counter(dict.fromkeys(logs, 0))
        self.types: Final = Frequencies()
        self.actors: Final = Frequencies()
        self.hours: Final = [0] * 24
        self.critical = 0
        self.first = ""
        self.last = ""
        self._critical_types = frozenset(tag for tag, cls in known_types().items() if cls.critical)

    def add(self, log: str, counts: SegmentCounts) -> None:
        """Add what was counted in a segment of a log, or in a part of it."""
        if not counts.records:
            return
        self.by_log[log] += counts.records
        self.types.add_all(counts.types)
        self.actors.add_all(counts.actors)
        self.hours[:] = map(sum, zip(self.hours, counts.hours, strict=True))
        self.critical += sum(count for tag, count in counts.types.items() if tag in self._critical_types)
        self.first = min(self.first or counts.first, counts.first)
        self.last = max(self.last, counts.last)
