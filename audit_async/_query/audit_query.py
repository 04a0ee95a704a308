"""What may be asked of a trail: `AuditQuery`, checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from fnmatch import translate
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

import msgspec

from audit_async.config.wording import unknown
from audit_async.errors import AuditError
from audit_async.events.recorded import recorded_time
from audit_async.events.registry import known_types

__all__ = ["AuditQuery", "Glob", "InvalidQuery"]

#: Sequence numbers have at most 18 digits, as the names of segments do.
_SEQ_LIMIT: Final = 10**18
#: Most dots in the path of a member; each possible place of it is looked at.
_MOST_DOTS: Final = 16


class InvalidQuery(AuditError, ValueError):
    """A question makes no sense as it is; raised before anything is read. `field` names the part that is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class Glob(msgspec.Struct, frozen=True):
    """A pattern for a whole text: `*` is any characters or none, `?` any one, everything else is itself.

    `[*]`, `[?]` and `[[]` are the characters `*`, `?` and `[` (as `glob.escape` writes them); any other `[` is itself.
    `/` and `.` are characters like others, and case counts.

    Args:
        pattern: The pattern, such as `svc-*`.

    Raises:
        InvalidQuery: If the pattern is empty or no text.
    """

    pattern: str

    def __post_init__(self) -> None:
        _require_text("pattern", self.pattern)

    def pieces(self) -> Iterator[str | None]:
        """Yield the literal texts between the wildcards, perhaps empty, and None for each wildcard."""
        literal = ""
        for token in _GLOB_TOKENS.findall(self.pattern):
            if token in {"*", "?"}:
                yield literal
                yield None
                literal = ""
            else:
                literal += token[1] if len(token) == 3 else token
        yield literal

    def regex(self) -> str:
        """Return a regular expression that a whole text has to match; its time is bounded by text times pattern."""
        return translate(_GLOB_TOKENS.sub(lambda found: "[[]" if found[0] == "[" else found[0], self.pattern))


_GLOB_TOKENS: Final = re.compile(r"\[[*?[]\]|.", re.DOTALL)

#: Statuses as they may be asked for: `404`, `5xx`, `400-499`.
_STATUSES: Final = re.compile(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?|([1-9])xx", re.ASCII | re.IGNORECASE)


def statuses_asked(status: int | str) -> frozenset[str]:
    """Return the digits of all statuses that are asked for; raises `InvalidQuery`."""
    found: set[str] = set()
    for part in str(status).replace(" ", "").split(","):
        match = _STATUSES.fullmatch(part)
        if match is None:
            raise InvalidQuery(
                "status", "is none such as 404, 5xx or 400-499, or several of them with commas between them"
            )
        first, last, hundreds = match.groups()
        low, high = (int(hundreds) * 100, int(hundreds) * 100 + 99) if hundreds else (int(first), int(last or first))
        if low > high:
            raise InvalidQuery("status", "is a range that ends before it begins")
        found.update(map(str, range(low, high + 1)))
    return frozenset(found)


class _QueryMeta(msgspec.StructMeta):
    """Refuses a keyword that no query has, by the name that was meant."""

    if not TYPE_CHECKING:  # a type checker knows the keywords

        def __call__(self, *arguments: object, **members: object) -> object:
            for name in members:
                if name not in self.__struct_fields__:
                    raise InvalidQuery(name, unknown("part of a query", name, self.__struct_fields__))
            return super().__call__(*arguments, **members)


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, metaclass=_QueryMeta):
    """Which records are wanted: those that fulfil all that is given; one without members wants every record.

    `actor`: who did it, or tried to. That is the member `actor` of the event (its `user_id` if it is an object);
    in an event without `actor`, its `user_id` and `actor_id`; and in every event `attempted_user`, `requester`,
    `set_by` and `lifted_by`.

    `resource_id`: what it was done to, or with. That is `resource_id` and `parent_id` of the member `resource`; every
    other member of the event itself whose name ends in `_id` (`customer_id`, `pool_id`, `worker_id`, an `invoice_id` of
    your own); and `subject`, `model_ref` and `segment`.

    `ip`: an address, or a network such as `203.0.113.0/24`: the event's member `ip`, and the `ip` of its `actor`. An
    address is found as it is given, in its canonical and in its full spelling, and an IPv4 address also as
    `::ffff:203.0.113.9`, which a socket for both versions gives.

    `path`: the event's member `path`, `route`, `endpoint` or `attempted_path`.

    `status`: the event's member `status`: a number, `"5xx"`, `"400-499"`, or several with commas, `"401,403,5xx"`.

    `outcome`: how it ended, if the record says so: the event's member `outcome`; its `result` (the `status` of it if it
    is an object: `success`, `failure`, `partial_success`); `completed` in an `http.request` or `http.websocket_closed`
    without `outcome`, which is how they record it. Besides, `failure` finds `auth.failure`, `authz.denied`,
    `user.mfa_failed`, `seal.verification_failed`, `vram.allocation_failed`, and requests and WebSockets with a status
    from 400 to 599 or the outcome `failed`; `success` finds `auth.success`, `authz.granted`, `seal.verified`, and
    requests and WebSockets that are `completed` with a status below 400. A record that says
    neither has no outcome: it is not guessed.

    `fields`: by the path of a member, its value, such as `{"event.actor.user_id": "alice"}`; all must hold. A path is
    the names of the members with dots between them, beginning in the event (`event.` may be left out) or with
    `context.`; a member's own name may have dots, too. In a list a whole number is a position from 0, and any other
    name, or the path's end, means each of its elements. A text is given as it is; an integer, a fraction, `true`,
    `false` and `null` as Python's `json` writes them (`8.5`, `1e-07`). Several values for one path, in a tuple, must
    all be there.

    All of it follows from the recorded JSON, so it holds for types that this process does not know, too. Texts are
    compared whole and case-sensitively, an integer with its decimal digits; `actor`, `resource_id` and `path` may be a
    `Glob`. A text is recorded in its harmless form; asked for as it was before, with an escape character in it, it is
    found all the same. One that was cut because it was longer than `max_field_chars` is found by its recorded
    beginning, with `text`.

    `event_types`: at least one of these, each a type or a pattern with `*` and `?`, such as `security.*`.
    `start`, `end`: aware; when it was emitted, `start` included, `end` not.
    `critical`: True for types that this process knows as critical, False for all others.
    `context`: each of these members is in the record's context, with this value.
    `text`: is contained, in this case, in a text of the event or of the context.
    `after_seq`: only records after this one; makes sense for one log.
    `limit`: no more records than this. `newest_first`: from the trail's end to its beginning.

    Raises `InvalidQuery` for a value that can't be meant, and for a keyword that there is not.
    """

    actor: str | Glob | None = None
    resource_id: str | Glob | None = None
    ip: str | None = None
    path: str | Glob | None = None
    status: int | str | None = None
    outcome: str | None = None
    event_types: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    critical: bool | None = None
    context: dict[str, str] = {}
    fields: dict[str, str | tuple[str, ...]] = {}
    text: str | None = None
    after_seq: int | None = None
    limit: int | None = None
    newest_first: bool = False

    def __post_init__(self) -> None:
        for field in ("actor", "resource_id", "path"):
            if not isinstance(getattr(self, field), Glob):
                _require_text(field, getattr(self, field), or_none=True)
        for field in ("ip", "outcome", "text"):
            _require_text(field, getattr(self, field), or_none=True)
        _require_address(self.ip)
        _require_status(self.status)
        types: object = self.event_types
        if not isinstance(types, list | tuple | set | frozenset):
            raise InvalidQuery("event_types", 'is not a tuple of types or patterns, such as ("security.*",)')
        for event_type in types:
            _require_text("event_types", event_type)
            _require_no_class(event_type)
        msgspec.structs.force_setattr(self, "event_types", tuple(types))
        for field in ("start", "end"):
            _require_aware(field, getattr(self, field))
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise InvalidQuery("end", "is not later than start, so no record lies between them")
        for field, or_none in (("critical", True), ("newest_first", False)):
            value = getattr(self, field)
            if not isinstance(value, bool) and not (or_none and value is None):
                raise InvalidQuery(field, "is neither True nor False")
        msgspec.structs.force_setattr(self, "context", _checked_context(self.context))
        msgspec.structs.force_setattr(self, "fields", _checked_fields(self.fields))
        _require_whole("after_seq", self.after_seq, -1)
        _require_whole("limit", self.limit, 1)

    def asked(self) -> dict[str, object]:
        """Return what was asked, without what was left open, as plain data: for `audit.log_accessed`."""
        asked: dict[str, object] = msgspec.to_builtins(self)
        return asked


def _checked_context(context: object) -> dict[str, str]:
    """Return what was given as `context`, as a dictionary of its own; raises `InvalidQuery`."""
    if not isinstance(context, Mapping):
        raise InvalidQuery("context", 'is no mapping of names to texts, such as {"tenant": "acme"}')
    for name, value in context.items():
        _require_text("context", name)
        if not isinstance(value, str):
            raise InvalidQuery("context", "has a value that is no text; give a number as its digits")
    return dict(context)


def _checked_fields(fields: object) -> dict[str, str | tuple[str, ...]]:
    """Return what was given as `fields`, as a dictionary of its own; raises `InvalidQuery`."""
    if not isinstance(fields, Mapping):
        raise InvalidQuery("fields", 'is no mapping of paths to texts, such as {"actor.user_id": "alice"}')
    checked: dict[str, str | tuple[str, ...]] = {}
    for path, value in fields.items():
        _require_text("fields", path)
        if path.count(".") > _MOST_DOTS:
            raise InvalidQuery("fields", f"has a path with more than {_MOST_DOTS} dots")
        values = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
        if not values or not all(isinstance(one, str) for one in values):
            raise InvalidQuery(
                "fields", "has a value that is no text; give a number as its digits, or true, false, null"
            )
        checked[path] = values[0] if len(values) == 1 else values
    return checked


def _require_address(ip: str | None) -> None:
    """Refuse what looks like a network and is none. Anything else may have been recorded as an address."""
    if ip is not None and "/" in ip:
        try:
            ip_network(ip, strict=False)
        except ValueError:
            raise InvalidQuery("ip", "is neither an address nor a network such as 203.0.113.0/24") from None


def _require_status(status: object) -> None:
    if status is None:
        return
    if not isinstance(status, int | str) or isinstance(status, bool):
        raise InvalidQuery("status", f"is a {type(status).__name__}, neither a number nor a text such as 5xx")
    statuses_asked(status)


def _require_text(field: str, value: object, *, or_none: bool = False) -> None:
    if value is None and or_none:
        return
    if not isinstance(value, str):
        raise InvalidQuery(field, f"is a {type(value).__name__}, not a text")
    if not value:
        raise InvalidQuery(field, "is empty; leave it out to ask for any")


def _require_no_class(event_type: str) -> None:
    """Refuse the name of an event's class: records have its type, so it would find nothing."""
    if not event_type[:1].isupper():
        return
    types = known_types()
    tags = [tag for tag, cls in types.items() if cls.__name__ == event_type]
    if tags and event_type not in types:
        raise InvalidQuery("event_types", f"{event_type} is an event's class, and its type is {tags[0]!a}; give that")


def _require_aware(field: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidQuery(field, "is not a datetime with a time zone, as datetime.now(UTC) gives")
    try:
        recorded_time(value)
    except OverflowError:
        raise InvalidQuery(field, "lies outside the years 1 to 9999 in UTC") from None


def _require_whole(field: str, value: object, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _SEQ_LIMIT:
        raise InvalidQuery(field, f"is not a whole number from {least} on")
