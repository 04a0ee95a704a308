"""What a column of a table of records shows: a named part of each record, or any member by its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from audit_async._query.record_summary import ShownRecord, details_of, is_critical, result_of, target_of, without_sealed
from audit_async._query.recorded_members import (
    FAILURE,
    SUCCESS,
    MemberPath,
    actors_of,
    ips_of,
    outcomes_of,
    paths_of,
    resources_of,
    type_of,
)
from audit_async.cli.terminal import Style, json_line
from audit_async.events.recorded import recorded_time

__all__ = [
    "CLOCK",
    "DETAILS",
    "NAMED",
    "PLACE",
    "RESULT",
    "TARGET",
    "RecordColumn",
    "ShownRecord",
    "columns_named",
    "shared_widths",
    "without_sealed",
]


def _plain_style(shown: ShownRecord) -> Style:  # noqa: ARG001 - the same for every record
    return ""


class RecordColumn(NamedTuple):
    """One column."""

    title: str
    values: Callable[[ShownRecord], Sequence[object]]  #: what a record has there; empty if nothing
    width: int | None = None  #: what its values need; None if nothing is known of them
    right: bool = False  #: numbers
    style: Callable[[ShownRecord], Style] = _plain_style
    between: str = ", "  #: several values

    def text(self, shown: ShownRecord, most: int | None = None) -> str:
        """Return what a person sees of a record in this column, of each value at most so much; empty if nothing."""
        return self.between.join(cut(_text_of(value), most) for value in self.values(shown))

    def plain(self, shown: ShownRecord) -> object:
        """Return the same for a program: the value, a list if there are several, None if there is none."""
        values = list(self.values(shown))
        return values if len(values) > 1 else values[0] if values else None


def cut(text: str, most: int | None) -> str:
    """Return a text, cut to so many characters; None cuts nothing."""
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def _text_of(value: object) -> str:
    """Return a text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else json_line(value)


def _own(name: str) -> Callable[[ShownRecord], Sequence[object]]:
    return lambda shown: (getattr(shown.record, name),)


def _named(values_of: Callable[[dict[str, object]], Iterator[str]]) -> Callable[[ShownRecord], Sequence[object]]:
    return lambda shown: tuple(dict.fromkeys(values_of(shown.said.event)))


def _status(shown: ShownRecord) -> Sequence[object]:
    status = shown.said.event.get("status")
    return () if status is None else (status,)


def _type_style(shown: ShownRecord) -> Style:
    return "red" if is_critical(type_of(shown.said.event)) else "cyan"


#: Columns by the names that they are asked for with; the names of filters mean what the filters look at.
NAMED: Final[dict[str, RecordColumn]] = {
    column.title: column
    for column in (
        RecordColumn("time", lambda shown: (f"{shown.record.timestamp:%Y-%m-%d %H:%M:%S}",), 19),
        RecordColumn("timestamp", lambda shown: (recorded_time(shown.record.timestamp),), 27),
        RecordColumn("log", _own("log"), 16),
        RecordColumn("seq", _own("seq"), 9, right=True),
        RecordColumn("audit_id", _own("audit_id"), 20),
        RecordColumn("service_id", _own("service_id"), 12),
        RecordColumn("type", lambda shown: (type_of(shown.said.event),), 26, style=_type_style),
        RecordColumn("actor", _named(actors_of), 14),
        RecordColumn("resource", _named(resources_of), 16),
        RecordColumn("ip", _named(ips_of), 15),
        RecordColumn("path", _named(paths_of), 20),
        RecordColumn("status", _status, 6, right=True),
        RecordColumn("outcome", _named(outcomes_of), 10),
        RecordColumn("prev_hash", _own("prev_hash"), 64),
        RecordColumn("hash", _own("hash"), 64),
    )
}


def columns_named(names: Sequence[str]) -> list[RecordColumn]:
    """Return the columns of these names: those of `NAMED`, and members of the event or the context by their path."""
    return [NAMED.get(name) or _member(name) for name in names]


def _member(path: str) -> RecordColumn:
    wanted = MemberPath.parse(path)
    return RecordColumn(path, lambda shown: tuple(wanted.values(shown.said)))


def shared_widths(columns: Sequence[RecordColumn], width: int) -> list[int]:
    """Return how wide each column is on a terminal, so that all fit if they can.

    Times, addresses and numbers are never cut for the others' sake; what is left is shared by those.
    """
    room = max(width - 2 * (len(columns) - 1), _LEAST_COLUMN * len(columns))
    wished = [column.width or 2 * _LEAST_COLUMN for column in columns]
    pairs = list(zip(columns, wished, strict=True))
    fixed = sum(wish for column, wish in pairs if column.title in _NOT_CUT)
    left, others = room - fixed, sum(wished) - fixed
    if left < _LEAST_COLUMN * sum(column.title not in _NOT_CUT for column in columns):
        return [max(_LEAST_COLUMN, room * wish // sum(wished)) for wish in wished]
    unknown = sum(column.width is None for column in columns)
    if unknown and left >= others:  # nothing is cut: what is over is for those of which nothing is known
        return [wish + (column.width is None) * ((left - others) // unknown) for column, wish in pairs]
    return [wish if column.title in _NOT_CUT else max(_LEAST_COLUMN, left * wish // others) for column, wish in pairs]


_NOT_CUT: Final = frozenset({"time", "timestamp", "seq", "ip", "status"})
#: A column of which nothing is known gets at least so much.
_LEAST_COLUMN: Final = 8


# -- the columns if none are asked for ----------------------------------------------------------------------------


def _target_of(shown: ShownRecord) -> Sequence[object]:
    target = target_of(shown.said.event)
    return (target,) if target else ()


def _result_of(shown: ShownRecord) -> Sequence[object]:
    return result_of(shown.said.event)


def _details(shown: ShownRecord) -> Sequence[object]:
    return details_of(shown.said.event)


def _result_style(shown: ShownRecord) -> Style:
    outcomes = set(outcomes_of(shown.said.event))
    return "red" if FAILURE in outcomes else "green" if SUCCESS in outcomes else ""


#: A record's place among several logs.
PLACE: Final = RecordColumn("log:seq", lambda shown: (f"{shown.record.log}:{shown.record.seq}",))
CLOCK: Final = RecordColumn("time", lambda shown: (f"{shown.record.timestamp:%H:%M:%S}",))
TARGET: Final = RecordColumn("target", _target_of)
RESULT: Final = RecordColumn("result", _result_of, style=_result_style)
DETAILS: Final = RecordColumn("details", _details, between="  ")
