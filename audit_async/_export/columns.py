"""The columns of exported records: what CSV, Parquet and SQL show, and from which members of the record it comes.

A column never says what the record does not: it is null if the member is absent, or of another type. The whole event
and context are next to them as the JSON that was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from audit_async._chain.record_check import Members
from audit_async._export.record_blocks import RecordBlock
from audit_async._query.recorded_members import (
    FAILURE,
    SUCCESS,
    actors_of,
    as_text,
    is_resource,
    outcomes_of,
    paths_of,
    read_all_said,
    resources_of,
    type_of,
)

__all__ = ["COLUMNS", "Column", "columns_of"]


class Column(NamedTuple):
    """The name and type of a column."""

    name: str
    type: Literal["int64", "text", "time", "json"]
    may_be_null: bool = False
    repeats: bool = False  #: few values, each in many records


#: In the order of a table. `actor`, `resource`, `ip`, `path` and `outcome` are the first that a query finds it under.
COLUMNS: Final = (
    Column("seq", "int64"),
    Column("log", "text", repeats=True),
    Column("audit_id", "text"),
    Column("timestamp", "time", may_be_null=True),
    Column("service_id", "text", repeats=True),
    Column("instance", "text", repeats=True),
    Column("event_type", "text", repeats=True),
    Column("actor", "text", may_be_null=True, repeats=True),
    Column("resource", "text", may_be_null=True),
    Column("ip", "text", may_be_null=True, repeats=True),
    Column("method", "text", may_be_null=True, repeats=True),
    Column("path", "text", may_be_null=True, repeats=True),
    Column("status", "int64", may_be_null=True),
    Column("outcome", "text", may_be_null=True, repeats=True),
    Column("request_id", "text", may_be_null=True),
    Column("trace_id", "text", may_be_null=True),
    Column("tenant", "text", may_be_null=True, repeats=True),
    Column("event", "json"),
    Column("context", "json", may_be_null=True),
    Column("prev_hash", "text"),
    Column("hash", "text"),
)

#: Values of a column of each type; a time is the text that was recorded, and JSON is in UTF-8.
Values = Sequence[Any]


_decode_members: Final[Callable[[bytes], list[Members]]] = msgspec.json.Decoder(Members).decode_lines


def columns_of(block: RecordBlock) -> dict[str, Values]:
    """Return the columns of records that were checked, by name, in the order of `COLUMNS`."""
    data = b"".join(block.lines)
    records = block.records if block.records is not None else _decode_members(data)
    said = read_all_said(data)
    events = [one.event for one in said]
    shapes = [_shapes.get(names) or _new_shape(names) for names in map(tuple, events)]
    contexts = [one.context for one in said]
    values: tuple[Values, ...] = (
        [record.seq for record in records],
        [name for log, count in block.sources for name in [log.name] * count],
        [record.audit_id for record in records],
        [record.timestamp for record in records],
        [record.service_id for record in records],
        [name for log, count in block.sources for name in [log.instance] * count],
        list(map(type_of, events)),
        list(map(_actor_of, events, shapes)),
        list(map(_resource_of, events, shapes)),
        list(map(_ip_of, events, shapes)),
        [as_text(event["method"]) if "method" in event else None for event in events],
        [_first(event, shape.paths) if shape.paths else None for event, shape in zip(events, shapes, strict=True)],
        [_status_of(event["status"]) if "status" in event else None for event in events],
        [_outcome_of(event) for event in events],
        [as_text(context.get("request_id")) if context else None for context in contexts],
        [as_text(context.get("trace_id")) if context else None for context in contexts],
        list(map(_tenant_of, events, contexts)),
        [record.event for record in records],
        [record.context or None for record in records],
        [record.prev_hash for record in records],
        [record.hash for record in records],
    )
    return {column.name: of_column for column, of_column in zip(COLUMNS, values, strict=True)}


# -- what an event says -------------------------------------------------------------------------------------------
# The hot path of exporting tables: what a query finds a record under is asked for by the few members that matter, which
# are the same for all events with the same members. A test compares it with what the query itself decides.


class _Shape(NamedTuple):
    """Which of an event's members say what; it is known for the names of all its members."""

    has_actor: bool
    actors: tuple[str, ...]  #: members that name who acts, after `actor`, in the order in which they count
    has_resource: bool
    resources: tuple[str, ...]  #: the same of the resource, after `resource`
    paths: tuple[str, ...]


_shapes: Final[dict[tuple[str, ...], _Shape]] = {}
_MOST_SHAPES: Final = 4096


def _new_shape(names: tuple[str, ...]) -> _Shape:
    """Return the shape of events with these members, and keep it."""
    actor: dict[str, object] = {"actor": None} if "actor" in names else {}
    # Those that count only if there is no `actor` come before those that always count.
    actors = [name for name in names if any(actors_of({**actor, name: "x"} if name != "actor" else actor))]
    actors.sort(key=lambda name: any(actors_of({"actor": None, name: "x"})))
    shape = _Shape(
        "actor" in names,
        tuple(actors),
        "resource" in names,
        tuple(filter(is_resource, names)),
        tuple(name for name in names if any(paths_of({name: "x"}))),
    )
    if len(_shapes) >= _MOST_SHAPES:
        _shapes.clear()  # free-form members can have any name
    _shapes[names] = shape
    return shape


def _first(event: dict[str, object], members: Iterable[str]) -> str | None:
    """Return the first text, or integer's digits, among members; None if there is none."""
    for member in members:
        value = event[member]
        if value.__class__ is str:
            return value
        if (text := as_text(value)) is not None:
            return text
    return None


def _actor_of(event: dict[str, object], shape: _Shape) -> str | None:
    if shape.has_actor:
        actor = event["actor"]
        named = actor.get("user_id") if actor.__class__ is dict else actor
        if named.__class__ is str or (named := as_text(named)) is not None:
            return named
    return _first(event, shape.actors) if shape.actors else None


def _resource_of(event: dict[str, object], shape: _Shape) -> str | None:
    if shape.has_resource and (on := next(resources_of({"resource": event["resource"]}), None)) is not None:
        return on
    return _first(event, shape.resources) if shape.resources else None


def _ip_of(event: dict[str, object], shape: _Shape) -> str | None:
    if "ip" in event and (address := as_text(event["ip"])) is not None:
        return address
    if shape.has_actor and (actor := event["actor"]).__class__ is dict and "ip" in actor:
        return as_text(actor["ip"])
    return None


def _status_of(status: object) -> int | None:
    if isinstance(status, int) and not isinstance(status, bool) and -(1 << 63) <= status < 1 << 63:
        return status
    return None


def _outcome_of(event: dict[str, object]) -> str | None:
    """Return `success` or `failure` if the record says so in any way, else what it says, such as `cancelled`."""
    get = event.get
    result, status = get("result"), get("status")
    # Nothing but these decides, and of a status only an integer; the values are few, so each is asked for once.
    key = (
        get("event_type"),
        get("outcome"),
        result.get("status") if result.__class__ is dict else result,
        status if status.__class__ is int else None,
    )
    try:
        return _outcomes[key]  # one step: another thread may empty it at any moment
    except KeyError:
        pass
    except TypeError:  # a list or an object
        return _first_outcome(key)
    if len(_outcomes) >= _MOST_SHAPES:
        _outcomes.clear()
    outcome = _outcomes[key] = _first_outcome(key)
    return outcome


def _first_outcome(said: Iterable[object]) -> str | None:
    outcomes = list(outcomes_of(dict(zip(("event_type", "outcome", "result", "status"), said, strict=True))))
    return next((one for one in outcomes if one in {SUCCESS, FAILURE}), outcomes[0] if outcomes else None)


_outcomes: Final[dict[tuple[object, ...], str | None]] = {}


def _tenant_of(event: dict[str, object], context: dict[str, object]) -> str | None:
    """Return the tenant of the context, else that of the actor."""
    if context and (tenant := as_text(context.get("tenant"))) is not None:
        return tenant
    actor = event.get("actor")
    return as_text(actor.get("tenant")) if actor.__class__ is dict and "tenant" in actor else None
