"""What may be asked of a trail: `AuditQuery`, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from audit_async.config.wording import unknown
from audit_async.errors import AuditError
from audit_async.events.recorded import recorded_time
from audit_async.events.registry import known_types

__all__ = ["AuditQuery", "InvalidQuery"]

#: Sequence numbers have at most 18 digits, as the names of segments do.
_SEQ_LIMIT: Final = 10**18


class InvalidQuery(AuditError, ValueError):
    """A question makes no sense as it is; raised before anything is read. `field` names the part that is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


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

    Both follow from the recorded JSON, so they hold for types that this process does not know, too. Texts are
    compared whole and case-sensitively, an integer with its decimal digits. A text is recorded in its harmless form;
    asked for as it was before, with an escape character in it, it is found all the same. One that was cut because it
    was longer than `max_field_chars` is found by its recorded beginning, with `text`.

    `event_types`: at least one of these, each a type or a pattern with `*` and `?`, such as `security.*`.
    `start`, `end`: aware; when it was emitted, `start` included, `end` not.
    `critical`: True for types that this process knows as critical, False for all others.
    `context`: each of these members is in the record's context, with this value.
    `text`: is contained, in this case, in a text of the event or of the context.
    `after_seq`: only records after this one; makes sense for one log.
    `limit`: no more records than this. `newest_first`: from the trail's end to its beginning.

    Raises `InvalidQuery` for a value that can't be meant, and for a keyword that there is not.
    """

    actor: str | None = None
    resource_id: str | None = None
    event_types: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    critical: bool | None = None
    context: dict[str, str] = {}
    text: str | None = None
    after_seq: int | None = None
    limit: int | None = None
    newest_first: bool = False

    def __post_init__(self) -> None:
        for field in ("actor", "resource_id", "text"):
            _require_text(field, getattr(self, field), or_none=True)
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
        context: object = self.context
        if not isinstance(context, Mapping):
            raise InvalidQuery("context", 'is no mapping of names to texts, such as {"tenant": "acme"}')
        for name, value in context.items():
            _require_text("context", name)
            if not isinstance(value, str):
                raise InvalidQuery("context", "has a value that is no text; give a number as its digits")
        msgspec.structs.force_setattr(self, "context", dict(context))
        _require_whole("after_seq", self.after_seq, -1)
        _require_whole("limit", self.limit, 1)

    def asked(self) -> dict[str, object]:
        """Return what was asked, without what was left open, as plain data: for `audit.log_accessed`."""
        asked: dict[str, object] = msgspec.to_builtins(self)
        return asked


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
