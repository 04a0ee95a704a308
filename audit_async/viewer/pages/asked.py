"""What a URL asks for: the parameters of a search, named as the options of the command line are, and their query.

Every view has a URL that stays: a relative time (`24h`) is kept as it was written in the form, and is an absolute one
in the links to further pages, so that these continue the same question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.datastructures import QueryParams

from audit_async._query.asked_times import time_of
from audit_async.events.recorded import recorded_time
from audit_async.reader import AuditQuery, Glob, InvalidQuery

__all__ = ["PAGE_SIZE", "Asked", "asked_query"]

#: Records on a page.
PAGE_SIZE: Final = 50
#: One parameter is not longer; nor are there more than this of them.
_MOST_CHARS: Final = 2000
_MOST_PARAMETERS: Final = 60
#: Parameters that may be given once, in the order of the form, and what a person calls them.
SINGLE: Final = {
    "text": "contains",
    "actor": "actor",
    "resource": "resource",
    "ip": "address",
    "path": "path",
    "status": "status",
    "outcome": "outcome",
    "service": "service",
    "log": "log",
    "since": "since",
    "until": "until",
    "critical": "critical",
}
#: And those that may be repeated.
REPEATED: Final = {"type": "type", "context": "context", "field": "member"}
_GLOBS: Final = ("actor", "resource", "path")
_MEMBERS: Final = {"resource": "resource_id"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A search, as a URL has it."""

    query: AuditQuery  #: of a page, newest first unless asked otherwise
    values: Mapping[str, str | tuple[str, ...]]  #: as they were given; nothing that was empty
    service: str | None
    log: str | None
    is_oldest_first: bool

    @property
    def absolute(self) -> dict[str, str | tuple[str, ...]]:
        """The parameters of a link that asks the same at any time."""
        moments = {"since": self.query.start, "until": self.query.end}
        return {
            name: recorded_time(moment) if (moment := moments.get(name)) is not None else value
            for name, value in self.values.items()
        }

    def with_(self, **changes: str | None) -> dict[str, str | tuple[str, ...]]:
        """Return the parameters with some of them set, or left out if None."""
        values = {name: value for name, value in self.absolute.items() if name not in changes}
        return values | {name: value for name, value in changes.items() if value is not None}

    def with_type(self, event_type: str) -> dict[str, str | tuple[str, ...]]:
        """Return the parameters with one type."""
        return {name: value for name, value in self.absolute.items() if name != "type"} | {"type": (event_type,)}

    def without(self, name: str, value: str) -> dict[str, str | tuple[str, ...]]:
        """Return the parameters without this one."""
        values = dict(self.values)
        given = values.pop(name, ())
        if not isinstance(given, str) and (others := tuple(one for one in given if one != value)):
            values[name] = others
        return values

    @property
    def chips(self) -> list[tuple[str, str, str]]:
        """What is asked for, one by one: the parameter, what a person calls it, its value."""
        pairs: list[tuple[str, str, str]] = []
        for name, value in self.values.items():
            title = SINGLE.get(name) or REPEATED.get(name)
            if title is not None:
                pairs += [(name, title, one) for one in ([value] if isinstance(value, str) else value)]
        return pairs


def asked_query(params: QueryParams) -> Asked:
    """Return what the parameters of a URL ask for.

    Those that are empty count as not given; unknown ones are passed over. Raises `InvalidQuery`, whose field is the
    parameter.
    """
    pairs = params.multi_items()
    if len(pairs) > _MOST_PARAMETERS or any(len(value) > _MOST_CHARS for _, value in pairs):
        raise InvalidQuery(
            "search", f"has more than {_MOST_PARAMETERS} parts, or one of more than {_MOST_CHARS} characters"
        )
    values: dict[str, str | tuple[str, ...]] = {}
    for name in SINGLE:
        given = [value.strip() for value in params.getlist(name) if value.strip()]
        if len(given) > 1:
            raise InvalidQuery(name, "is given more than once")
        if given:
            values[name] = given[0]
    for name in REPEATED:
        if several := tuple(dict.fromkeys(value.strip() for value in params.getlist(name) if value.strip())):
            values[name] = several
    if is_oldest_first := params.get("order") == "oldest":
        values["order"] = "oldest"
    return Asked(
        query=_query_of(values, newest_first=not is_oldest_first),
        values=values,
        service=_text(values, "service"),
        log=_text(values, "log"),
        is_oldest_first=is_oldest_first,
    )


def _query_of(values: Mapping[str, str | tuple[str, ...]], *, newest_first: bool) -> AuditQuery:
    now = datetime.now(UTC)
    members: dict[str, object] = {}
    for name in ("text", "actor", "resource", "ip", "path", "status", "outcome"):
        if (value := _text(values, name)) is not None:
            is_pattern = name in _GLOBS and not {"*", "?"}.isdisjoint(value)
            members[_MEMBERS.get(name, name)] = Glob(value) if is_pattern else value
    start, end = (_moment(values, name, now=now) for name in ("since", "until"))
    if start is not None and end is not None and start >= end:
        raise InvalidQuery("until", "is not later than since, so no record lies between them")
    critical = _text(values, "critical")
    if critical not in {None, "yes", "no"}:
        raise InvalidQuery("critical", "is neither yes nor no")
    return AuditQuery(
        **members,  # type: ignore[arg-type]  # texts and patterns, by the names of the query's members
        event_types=_texts(values, "type"),
        start=start,
        end=end,
        critical=None if critical is None else critical == "yes",
        context=dict(map(_pair_of("context"), _texts(values, "context"))),
        fields=_fields(_texts(values, "field")),
        limit=PAGE_SIZE,
        newest_first=newest_first,
    )


def _text(values: Mapping[str, str | tuple[str, ...]], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) else None


def _texts(values: Mapping[str, str | tuple[str, ...]], name: str) -> tuple[str, ...]:
    value = values.get(name, ())
    return (value,) if isinstance(value, str) else value


def _moment(values: Mapping[str, str | tuple[str, ...]], name: str, *, now: datetime) -> datetime | None:
    text = _text(values, name)
    if text is None:
        return None
    try:
        moment = time_of(text, now=now, end_of_day=name == "until")
        recorded_time(moment)
    except (ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, ValueError) else "is not within the years 1 to 9999"
        raise InvalidQuery(name, reason) from None
    return moment


def _fields(given: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    fields: dict[str, str | tuple[str, ...]] = {}
    for name, value in map(_pair_of("field"), given):
        earlier = fields.get(name, ())
        fields[name] = (*((earlier,) if isinstance(earlier, str) else earlier), value)
    return fields


def _pair_of(parameter: str) -> Callable[[str], tuple[str, str]]:
    def split(text: str) -> tuple[str, str]:
        name, found, value = text.partition("=")
        if not found or not name:
            raise InvalidQuery(parameter, "is not NAME=VALUE")
        return name, value

    return split
