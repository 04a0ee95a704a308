"""A record as people read it: its members one below the other, what changed as a table, and names that lead on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from audit_async._query.record_summary import details_of, is_critical, result_of, target_of, without_sealed
from audit_async._query.recorded_members import (
    FAILURE,
    PATHS,
    RESOURCE,
    SUCCESS,
    actors_of,
    ips_of,
    is_resource,
    outcomes_of,
    resources_of,
    type_of,
)
from audit_async._sanitize.readable_text import json_line
from audit_async.events import Record
from audit_async.events.recorded import event_members
from audit_async.privacy.opening_sealed import ClosedText

__all__ = [
    "Change", "Member", "Summary", "changes_of", "members_of", "summary_of", "without_changes",
]  # fmt: skip

#: Deeper members are shown as JSON.
_DEEPEST: Final = 4
#: Members of one object, or elements of one list, that are shown one by one; the raw line has all.
_MOST_SHOWN: Final = 200


#: So much of a name is shown among others.
_LONGEST_NAME: Final = 256


class Summary(NamedTuple):
    """A record among others."""

    record: Record
    event_type: str
    is_critical: bool
    actor: str
    resource: str  #: the id that a search by resource finds; empty if the target is none
    target: str
    result: str
    tone: str  #: `good`, `bad` or empty
    details: str

    @property
    def is_actor_known(self) -> bool:
        """Whether there is a name that a search finds: not if it stays sealed, or is cut."""
        return 0 < len(self.actor) <= _LONGEST_NAME and not isinstance(self.actor, ClosedText)


class Member(NamedTuple):
    """A member and its value."""

    name: str
    path: str  #: as `AuditQuery.fields` names it
    text: str  #: of a value without members
    kind: str  #: `text`, `time`, `code` (numbers, true, null, JSON), `closed` (sealed or erased), `group`
    members: tuple[Member, ...] = ()  #: of a group
    search: tuple[str, str] | None = None  #: the parameter and the value of a search for all records with this value


class Change(NamedTuple):
    """What a member was, and what it became; None if the record does not say."""

    name: str
    before: str | None
    after: str | None


def summary_of(record: Record, event: dict[str, object] | None = None) -> Summary:
    """Return what a table of records shows; of `event` if given, which has a `ClosedText` for what stays sealed."""
    event = without_sealed(event_members(record.event)) if event is None else event
    outcomes = set(outcomes_of(event))
    target = target_of(event)
    resource = next((one for one in resources_of(event) if one and target.endswith(one)), "")
    return Summary(
        record=record,
        event_type=_cut(type_of(event)),
        is_critical=is_critical(type_of(event)),
        actor=_cut(next(actors_of(event), "")),
        resource=resource if len(resource) <= _LONGEST_NAME else "",
        target=_cut(target),
        result=" ".join(result_of(event)),
        tone="bad" if FAILURE in outcomes else "good" if SUCCESS in outcomes else "",
        details=" · ".join(details_of(event))[:400],
    )


def _cut(text: str) -> str:
    """Return as much of a text as a table has room for; the record's own page has all of it."""
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def changes_of(event: dict[str, object]) -> list[Change]:
    """Return what an event says to have changed: its `changes`, or the differences of its `before` and `after`."""
    changes = event.get("changes")
    if isinstance(changes, dict) and changes and all(map(_is_change, changes.values())):
        return [_change(str(name), of) for name, of in changes.items()][:_MOST_SHOWN]
    before, after = event.get("before"), event.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        names = dict.fromkeys([*before, *after])
        found = [Change(str(name), _side(before, name), _side(after, name)) for name in names]
        return [change for change in found if change.before != change.after][:_MOST_SHOWN]
    return []


def without_changes(event: dict[str, object]) -> dict[str, object]:
    """Return the members that `changes_of` does not show."""
    if not changes_of(event):
        return event
    shown = {"changes"} if event.get("changes") else {"before", "after"}
    return {name: value for name, value in event.items() if name not in shown}


def members_of(value: dict[str, object], path: str) -> tuple[Member, ...]:
    """Return the members of an event or a context below a path, in the order of the record.

    Args:
        value: As a person reads it, with a `ClosedText` in place of what stays sealed.
        path: Its own path.
    """
    return tuple(_members(value, path, 0))


def addresses_of(record: Record) -> list[str]:
    """Return the addresses that an event names."""
    return list(dict.fromkeys(ips_of(event_members(record.event))))


def _members(value: dict[str, object], path: str, depth: int) -> Iterator[Member]:
    for at, (name, of) in enumerate(value.items()):
        if at == _MOST_SHOWN:
            yield Member("…", path, f"{len(value) - at:,} more; the recorded line has them", "code")
            return
        yield _member(str(name), of, f"{path}.{name}", depth)


def _member(name: str, value: object, path: str, depth: int) -> Member:
    if isinstance(value, ClosedText):
        return Member(name, path, value, "closed")
    if isinstance(value, dict) and value and depth < _DEEPEST:
        return Member(name, path, "", "group", tuple(_members(value, path, depth + 1)))
    if isinstance(value, list) and depth < _DEEPEST and any(isinstance(one, dict | list | ClosedText) for one in value):
        numbered = {str(at): one for at, one in enumerate(value)}
        return Member(name, path, "", "group", tuple(_members(numbered, path, depth + 1)))
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return Member(name, path, ", ".join(map(str, value)), "text")
    if isinstance(value, str):
        return Member(name, path, value, _kind_of(value), search=_search_for(name, value, path))
    text = json_line(value)
    return Member(name, path, text, "code", search=_search_for(name, text, path))


def _kind_of(text: str) -> str:
    is_time = 20 <= len(text) <= 32 and text[4:5] == "-" and text[10:11] == "T" and text.endswith("Z")
    return "time" if is_time else "text"


def _search_for(name: str, value: str, path: str) -> tuple[str, str] | None:
    """Return how to find the records with the same value; None for what nobody looks for again."""
    if not value or len(value) > 200 or "\n" in value:
        return None
    if path in {"event.actor.user_id", "event.actor", "event.user_id", "event.actor_id", "event.attempted_user"}:
        return "actor", value
    if name == "ip":
        return "ip", value
    if path.startswith("context."):
        return "context", f"{path.removeprefix('context.')}={value}"
    if path.count(".") == 1 and name in PATHS:
        return "path", value
    if (path.count(".") == 1 and is_resource(name)) or (path.startswith("event.resource.") and name in RESOURCE):
        return "resource", value
    if path.count(".") <= 3 and name not in {"event_type", "reason", "timestamp"}:
        return "field", f"{path}={value}"
    return None


def _is_change(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and value.keys() <= {"before", "after"}


def _change(name: str, value: object) -> Change:
    assert isinstance(value, dict)  # noqa: S101 - `_is_change` says so
    return Change(name, _side(value, "before"), _side(value, "after"))


def _side(value: dict[str, object], side: str) -> str | None:
    if side not in value:
        return None
    found = value[side]
    return found if isinstance(found, str) else json_line(found)
