"""What a recorded event says: who acted, on what, from where, with which outcome, and what is at a member path.

Everything follows from the recorded JSON alone, so it holds for types that this process does not know, too, and an
index that was built by another process gives the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

#: Members of an event whose text says who did it, or tried to.
ACTING: Final = frozenset({"attempted_user", "requester", "set_by", "lifted_by"})
#: The same in an event that has no `actor`.
ACTING_WITHOUT_ACTOR: Final = frozenset({"user_id", "actor_id"})
#: Members of an event, besides those that end in `_id`, that say what it was done to.
_ACTED_ON: Final = frozenset({"subject", "model_ref", "segment"})
#: The same of its `resource`.
RESOURCE: Final = frozenset({"resource_id", "parent_id"})
#: Members of an event that hold the path of a request.
PATHS: Final = frozenset({"path", "route", "endpoint", "attempted_path"})

SUCCESS: Final = "success"
FAILURE: Final = "failure"
#: An `outcome` that is left out of these types is this one, their default (`HttpOutcome.COMPLETED`).
COMPLETED: Final = "completed"
TYPES_WITH_DEFAULT_OUTCOME: Final = frozenset({"http.request", "http.websocket_closed"})
#: The `outcome` of these that is a failure whatever the status is: the application raised.
HTTP_FAILED: Final = "failed"
#: Types that say by their name how it ended.
OUTCOME_OF_TYPE: Final = {
    "auth.success": SUCCESS,
    "authz.granted": SUCCESS,
    "seal.verified": SUCCESS,
    "auth.failure": FAILURE,
    "authz.denied": FAILURE,
    "user.mfa_failed": FAILURE,
    "seal.verification_failed": FAILURE,
    "vram.allocation_failed": FAILURE,
}


class Said(msgspec.Struct):
    """What a line says, as far as a query may ask for it."""

    event: dict[str, object]
    context: dict[str, object] = {}
    timestamp: str = ""


#: Decode what a line says; raises as msgspec does.
read_said: Final[Callable[[bytes], Said]] = msgspec.json.Decoder(Said).decode
#: The same of many whole lines.
read_said_lines: Final[Callable[[bytes], list[Said]]] = msgspec.json.Decoder(Said).decode_lines
#: The same of several lines at once.
read_all_said: Final[Callable[[bytes], list[Said]]] = msgspec.json.Decoder(Said).decode_lines


def type_of(event: dict[str, object]) -> str:
    """Return an event's type; empty if it has none."""
    event_type = event.get("event_type")
    return event_type if isinstance(event_type, str) else ""


def actors_of(event: dict[str, object]) -> Iterator[str]:
    """Yield the names of those who act in an event, as `AuditQuery` defines it."""
    # Asked of every record that is indexed: most name an actor in one way or in none.
    if "actor" in event:
        actor = event["actor"]
        if (named := as_text(actor.get("user_id") if isinstance(actor, dict) else actor)) is not None:
            yield named
    elif not ACTING_WITHOUT_ACTOR.isdisjoint(event):
        yield from _texts_of(event, ACTING_WITHOUT_ACTOR)
    if not ACTING.isdisjoint(event):
        yield from _texts_of(event, ACTING)


def resources_of(event: dict[str, object]) -> Iterator[str]:
    """Yield what an event was done to or with, as `AuditQuery` defines it."""
    resource = event.get("resource")
    if isinstance(resource, dict):
        yield from _texts_of(resource, RESOURCE)
    for member, value in event.items():
        if is_resource(member) and (named := as_text(value)) is not None:
            yield named


def is_resource(member: str) -> bool:
    """Return whether a member of an event says, by its name, what it was done to or with."""
    return member.endswith("_id") or member in _ACTED_ON


def ips_of(event: dict[str, object]) -> Iterator[str]:
    """Yield the addresses that an event names: its `ip`, and that of its `actor`."""
    if "ip" in event and (address := as_text(event["ip"])) is not None:
        yield address
    actor = event.get("actor")
    if isinstance(actor, dict) and (address := as_text(actor.get("ip"))) is not None:
        yield address


def paths_of(event: dict[str, object]) -> Iterator[str]:
    """Yield the paths that an event names: `path`, `route`, `endpoint`, `attempted_path`."""
    if not PATHS.isdisjoint(event):
        yield from _texts_of(event, PATHS)


def statuses_of(event: dict[str, object]) -> Iterator[str]:
    """Yield the digits of an event's `status`."""
    if "status" in event and (status := as_text(event["status"])) is not None:
        yield status


def outcomes_of(event: dict[str, object]) -> Iterator[str]:
    """Yield how it ended, as far as the record says so; the same may come twice. `AuditQuery` defines it."""
    event_type = type_of(event)
    if (stated := OUTCOME_OF_TYPE.get(event_type)) is not None:
        yield stated
    outcome = event.get("outcome")
    if outcome is None and event_type in TYPES_WITH_DEFAULT_OUTCOME:
        outcome = COMPLETED
    result = event.get("result")
    for text in (outcome, result.get("status") if isinstance(result, dict) else result):
        if isinstance(text, str):
            yield text
    if event_type in TYPES_WITH_DEFAULT_OUTCOME:
        status = event.get("status")
        if outcome == HTTP_FAILED or (isinstance(status, int) and 400 <= status < 600):
            yield FAILURE
        elif outcome == COMPLETED and isinstance(status, int) and 100 <= status < 400:
            yield SUCCESS


def _texts_of(members: dict[str, object], wanted: frozenset[str]) -> Iterator[str]:
    for member, value in members.items():
        if member in wanted and (named := as_text(value)) is not None:
            yield named


def as_text(value: object) -> str | None:
    """Return a text, or an integer's digits; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64:
        return str(value)
    return None


def texts_in(values: Iterable[object]) -> Iterator[str]:
    """Yield every text at any depth, without recursion: a line may nest deeper than the stack is."""
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


class MemberPath(NamedTuple):
    """The path of a member: `event.actor.user_id`, `changes.email.after`, `context.tenant`, `data_types.0`.

    The names of the members on the way, with dots between them, from the event on unless the first is `context` (or
    `event`). A member's own name may have dots in it. In a list a whole number is a position, from 0; any other name,
    and the path's end, mean each of the list's elements.
    """

    in_context: bool
    names: tuple[str, ...]

    @classmethod
    def parse(cls, path: str) -> MemberPath:
        """Return the path that a text says."""
        first, dot, rest = path.partition(".")
        if dot and first in {"event", "context"}:
            return cls(first == "context", tuple(rest.split(".")))
        return cls(False, tuple(path.split(".")))

    def values(self, said: Said) -> Iterator[object]:
        """Yield what is at this path: texts, numbers, booleans, None and objects."""
        names = self.names
        waiting: list[tuple[object, int]] = [(said.context if self.in_context else said.event, 0)]
        while waiting:
            value, at = waiting.pop()
            if isinstance(value, list):
                if at < len(names) and names[at].isdecimal():
                    position = int(names[at])
                    waiting.extend((element, at + 1) for element in value[position : position + 1])
                else:
                    waiting.extend((element, at) for element in reversed(value))
            elif at == len(names):
                yield value
            elif isinstance(value, dict):
                for end in range(at + 1, len(names) + 1):
                    name = ".".join(names[at:end])
                    if name in value:
                        waiting.append((value[name], end))


def as_json_text(value: object) -> str | None:
    """Return a text as it is, and a number, true, false or null as Python's `json` has it; None for anything else."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return None
