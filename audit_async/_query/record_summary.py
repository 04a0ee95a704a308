"""What a person sees of a record among others: what it was done to, how it ended, and what else it says."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from audit_async._query.recorded_members import COMPLETED, Said, actors_of, as_text, is_resource, outcomes_of
from audit_async._sanitize.readable_text import json_line
from audit_async.events import Record
from audit_async.events.recorded import event_members
from audit_async.events.registry import known_types
from audit_async.privacy.sealed_text import SEALED, is_sealed

__all__ = ["ShownRecord", "details_of", "is_critical", "result_of", "target_of", "without_sealed"]


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


@lru_cache(maxsize=1024)
def is_critical(event_type: str) -> bool:
    """Return whether this process knows the type as critical."""
    cls = known_types().get(event_type)
    return cls is not None and cls.critical


#: An event was about its resource, or else about the first of these that it has, or about what names a resource.
_TARGETS: Final = ("path", "attempted_path", "endpoint", "route")
#: Members that say nothing more than their columns do.
_IN_COLUMNS: Final = frozenset({"event_type", "reduced"})
#: Members that are the result, if they are a text or a number.
_IN_RESULT: Final = frozenset({"status", "outcome", "result"})


def target_of(event: dict[str, object]) -> str:
    """Return what an event was about; empty if it does not say it."""
    return _target(event)[0]


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


def result_of(event: dict[str, object]) -> tuple[str, ...]:
    """Return the status if there is one, and the outcome as it is recorded; else what the type says."""
    recorded = [as_text(event.get("status"))]
    recorded += [text for text in (as_text(event.get("outcome")), _of_result(event)) if text != COMPLETED]
    return tuple(text for text in recorded if text is not None) or tuple(outcomes_of(event))[:1]


def _of_result(event: dict[str, object]) -> str | None:
    result = event.get("result")
    return as_text(result.get("status") if isinstance(result, dict) else result)


def details_of(event: dict[str, object]) -> tuple[str, ...]:
    """Return what an event says besides what the columns show, as `name=value`, and changes as `before -> after`."""
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
    details = dict.fromkeys([*first, *own, *of_actor])  # the address of a request and of its actor are one
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
