"""The fields of a flat schema (ECS, CEF) that members of events have, whatever the type of the event is.

A member means the same in every type of event, so one table by the member's name is enough. The first member that has a
value of the right form for a field wins: the actor's own address before the request's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from audit_async._query.recorded_members import outcomes_of
from audit_async.delivery.siem_formats.ocsf_members import valid_address

__all__ = ["FieldRule", "address", "field_values", "number", "outcome_of", "text"]


class FieldRule(NamedTuple):
    """One field, the members that may be its value, and what takes them."""

    field: str
    members: tuple[str, ...]  #: a member of the event, or of an object in it: `actor.user_id`
    take: Callable[[object], object]  #: return the field's value, None if a value has not its form


def text(value: object) -> object:
    """Take a text that is not empty."""
    return value if isinstance(value, str) and value else None


def number(value: object) -> object:
    """Take a whole number of 64 bits."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def address(value: object) -> object:
    """Take an IP address."""
    return value if isinstance(value, str) and valid_address(value) else None


def field_values(event: Mapping[str, object], rules: Iterable[FieldRule]) -> Iterator[tuple[str, object]]:
    """Yield the fields of an event with their values, in the order of the rules."""
    for field, members, take in rules:
        for member in members:
            outer, _, inner = member.partition(".")
            value = event.get(outer)
            if inner:
                value = value.get(inner) if isinstance(value, dict) else None
            if value is not None and (taken := take(value)) is not None:
                yield field, taken
                break


_OUTCOMES: Final = {
    "success": "success",
    "completed": "success",
    "committed": "success",
    "failure": "failure",
    "failed": "failure",
    "rolled_back": "failure",
}


def outcome_of(event: dict[str, object]) -> str:
    """Return `success` or `failure` if the record says how it ended, as the query understands it; else `unknown`."""
    found = {_OUTCOMES.get(outcome) for outcome in outcomes_of(event)}
    return "failure" if "failure" in found else "success" if "success" in found else "unknown"
