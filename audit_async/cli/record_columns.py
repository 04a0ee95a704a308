"""What a column of a table of records shows: a named part of each record, or any member by its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from audit_async._query.recorded_members import (
    COMPLETED,
    FAILURE,
    SUCCESS,
    MemberPath,
    Said,
    actors_of,
    as_text,
    ips_of,
    is_resource,
    outcomes_of,
    paths_of,
    resources_of,
    type_of,
)
from audit_async.cli.terminal import Style, json_line
from audit_async.events import Record
from audit_async.events.recorded import event_members, recorded_time
from audit_async.events.registry import known_types
from audit_async.privacy.sealed_text import SEALED, is_sealed

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


class ShownRecord(NamedTuple):
    """A record, and what it says as plain data."""

    record: Record
    said: Said

    @classmethod
    def of(cls, record: Record, *, as_recorded: bool) -> ShownRecord:
        """Take a record apart; a person reads `[sealed]` in place of a sealed text, unless it is wanted as recorded."""
        event, context = event_members(record.event), record.context
        if as_recorded:
            return cls(record, Said(event, context))
        return cls(record, Said(without_sealed(event), without_sealed(context)))


def without_sealed(members: dict[str, object]) -> dict[str, object]:
    """Return members with `[sealed]` in place of each sealed text, at the depths that are shown in full."""
    return {name: _readable(value) for name, value in members.items()}


def _readable(value: object, depth: int = 0) -> object:
    if isinstance(value, str):
        return SEALED if is_sealed(value) else value
    if depth > _DEEPEST:
        return value
    if isinstance(value, dict):
        return {name: _readable(of, depth + 1) for name, of in value.items()}
    if isinstance(value, list):
        return [_readable(of, depth + 1) for of in value]
    return value


#: Deeper members are shown as they are recorded, as JSON.
_DEEPEST: Final = 4


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
    return "red" if _is_critical(type_of(shown.said.event)) else "cyan"


@lru_cache(maxsize=1024)
def _is_critical(event_type: str) -> bool:
    cls = known_types().get(event_type)
    return cls is not None and cls.critical


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

#: An event was about its resource, or else about the first of these that it has, or about what names a resource.
_TARGETS: Final = ("path", "attempted_path", "endpoint", "route")
#: Members that say nothing more than their columns do.
_IN_COLUMNS: Final = frozenset({"event_type", "reduced"})
#: Members that are the result, if they are a text or a number.
_IN_RESULT: Final = frozenset({"status", "outcome", "result"})


def _target(event: dict[str, object]) -> tuple[str, frozenset[str]]:
    """Return what an event was about, and the members that say so; both are empty if it does not say it."""
    resource = event.get("resource")
    holder = resource if isinstance(resource, dict) else event
    if (named := as_text(holder.get("resource_id"))) is not None:
        kind = as_text(holder.get("resource_type"))
        return (named if kind is None else f"{kind}/{named}"), frozenset({"resource", "resource_type", "resource_id"})
    for member in _TARGETS:
        if (path := as_text(event.get(member))) is not None:
            method = as_text(event.get("method")) if member == "path" else None
            is_request = method is not None and method.isupper()
            return (f"{method} {path}" if is_request else path), frozenset(
                {member, "method"} if is_request else {member}
            )
    for member, value in event.items():
        if is_resource(member) and (named := as_text(value)) is not None:
            return named, frozenset({member})
    return "", frozenset()


def _target_of(shown: ShownRecord) -> Sequence[object]:
    target, _ = _target(shown.said.event)
    return (target,) if target else ()


def _result_of(shown: ShownRecord) -> Sequence[object]:
    """Return the status if there is one, and the outcome as it is recorded; else what the type says."""
    event = shown.said.event
    recorded = [as_text(event.get("status"))]
    recorded += [text for text in (as_text(event.get("outcome")), _of_result(event)) if text != COMPLETED]
    return tuple(text for text in recorded if text is not None) or tuple(outcomes_of(event))[:1]


def _of_result(event: dict[str, object]) -> str | None:
    result = event.get("result")
    return as_text(result.get("status") if isinstance(result, dict) else result)


def _result_style(shown: ShownRecord) -> Style:
    outcomes = set(outcomes_of(shown.said.event))
    return "red" if FAILURE in outcomes else "green" if SUCCESS in outcomes else ""


def _details(shown: ShownRecord) -> Sequence[object]:
    """Return what an event says besides what the columns show, as `name=value`, and changes as `before -> after`."""
    event = shown.said.event
    actor = next(actors_of(event), None)
    _, of_target = _target(event)
    first, own, of_actor = list[str](), list[str](), list[str]()
    for name, value in event.items():
        if name in _IN_COLUMNS or name in of_target or value == actor:
            continue
        if name in _IN_RESULT and as_text(value) is not None:
            continue
        if name == "changes" and isinstance(value, dict):
            first += [_change(inner, of) for inner, of in value.items()]
        elif name == "actor" and isinstance(value, dict):
            of_actor += [f"{inner}={_short(of)}" for inner, of in value.items() if of != actor or inner != "user_id"]
        elif name == "result" and isinstance(value, dict):
            stated = _of_result(event)
            own += [f"{inner}={_short(of)}" for inner, of in value.items() if of != stated or inner != "status"]
        else:
            own.append(f"{name}={_short(value)}")
    # What is asked for most comes first, since a terminal shows the beginning.
    details = [*first, *own, *of_actor]
    return tuple(sorted(details, key=lambda text: 0 if text in first else 1 if text.startswith("ip=") else 2))


def _change(name: str, value: object) -> str:
    if isinstance(value, dict) and value and value.keys() <= {"before", "after"}:
        before, after = (_short(value[side]) if side in value else "-" for side in ("before", "after"))
        return f"{name}: {before} -> {after}"
    return f"changes.{name}={_short(value)}"


def _short(value: object) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else f'"{value}"'
    return json_line(value)


#: A record's place among several logs.
PLACE: Final = RecordColumn("log:seq", lambda shown: (f"{shown.record.log}:{shown.record.seq}",))
CLOCK: Final = RecordColumn("time", lambda shown: (f"{shown.record.timestamp:%H:%M:%S}",))
TARGET: Final = RecordColumn("target", _target_of)
RESULT: Final = RecordColumn("result", _result_of, style=_result_style)
DETAILS: Final = RecordColumn("details", _details, between="  ")
