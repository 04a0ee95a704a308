"""The options that say which records are wanted, the same for every command that reads records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from audit_async._query.audit_query import AuditQuery, Glob, InvalidQuery
from audit_async.cli.arguments import parse_time
from audit_async.cli.event_types import recorded_type

__all__ = ["EventFilters", "Filters", "PeriodFilters", "Since", "Until"]

Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="2026-11-23T04:35:12Z, 2026-11-23, or an age such as 90s, 30m, 24h, 7d, 2w. Without a zone it is UTC.",
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only what is older; a date is that whole day.")
]


@dataclass(frozen=True, kw_only=True)
class EventFilters:
    """What the event and its context must say."""

    actor: Annotated[
        str | None,
        typer.Option(
            "--actor",
            metavar="NAME",
            help="Who did it, or tried to. In NAME, ID and PATH '*' is any text and '?' any character; '[*]' is a '*'.",
        ),
    ] = None
    resource: Annotated[str | None, typer.Option("--resource", metavar="ID", help="What it was done to.")] = None
    ip: Annotated[
        str | None, typer.Option("--ip", metavar="ADDRESS", help="From this address, or network: 203.0.113.0/24.")
    ] = None
    path: Annotated[
        str | None, typer.Option("--path", metavar="PATH", help="The path, route or endpoint of a request.")
    ] = None
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="HTTP status: 404, 5xx, 400-499, or several: 401,403,5xx."),
    ] = None
    outcome: Annotated[
        str | None,
        typer.Option(
            "--outcome", metavar="OUTCOME", help="How it ended, if the record says so: success, failure, cancelled ..."
        ),
    ] = None
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="An event type, a pattern such as 'security.*', or an event's class; may be repeated.",
        ),
    ] = None
    critical: Annotated[
        bool | None,
        typer.Option("--critical/--not-critical", show_default=False, help="Only critical events, or none."),
    ] = None
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="NAME=VALUE", help="What the record's context holds; may be repeated."),
    ] = None
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="PATH=VALUE",
            help="The value of a member: actor.role=admin, changes.email.after=x@y.z, context.tenant=acme; "
            "may be repeated, and all must hold.",
        ),
    ] = None
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="What some text of the event or context contains.")
    ] = None

    def query(self) -> AuditQuery:
        """Return the query that the options say; raises `typer.BadParameter`."""
        try:
            return AuditQuery(**self._members())
        except InvalidQuery as error:
            option = _OPTIONS.get(error.field, error.field.replace("_", "-"))
            raise typer.BadParameter(f"--{option} {error.reason}") from None

    def _members(self) -> dict[str, Any]:
        """Return the members of the query."""
        return {
            "actor": _text_or_pattern(self.actor),
            "resource_id": _text_or_pattern(self.resource),
            "ip": self.ip,
            "path": _text_or_pattern(self.path),
            "status": self.status,
            "outcome": self.outcome,
            "event_types": tuple(map(recorded_type, self.types or ())),
            "critical": self.critical,
            "context": _context(self.context or ()),
            "fields": _fields(self.fields or ()),
            "text": self.text,
        }


@dataclass(frozen=True, kw_only=True)
class PeriodFilters(EventFilters):
    """The same within a period of time."""

    since: Since = None
    until: Until = None

    def _members(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        start = parse_time(self.since, "--since", now=now)
        end = parse_time(self.until, "--until", now=now, end_of_day=True)
        if start is not None and end is not None and start >= end:
            raise typer.BadParameter("--until is not later than --since, so no record lies between them")
        return {**super()._members(), "start": start, "end": end}


@dataclass(frozen=True, kw_only=True)
class Filters(PeriodFilters):
    """All of it, and how many records in which order."""

    after_seq: Annotated[
        int | None, typer.Option("--after-seq", metavar="SEQ", help="Only later records than this one, in one log.")
    ] = None
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="No more records than this.")] = None
    newest_first: Annotated[bool, typer.Option("--newest-first", help="From the trail's end to its beginning.")] = False

    def _members(self) -> dict[str, Any]:
        return {
            **super()._members(),
            "after_seq": self.after_seq,
            "limit": self.limit,
            "newest_first": self.newest_first,
        }


_OPTIONS = {"resource_id": "resource", "event_types": "type", "start": "since", "end": "until", "fields": "field"}


def _text_or_pattern(text: str | None) -> str | Glob | None:
    """Return a text with a wildcard in it as a pattern, any other as it is."""
    return Glob(text) if text is not None and not {"*", "?"}.isdisjoint(text) else text


def _context(options: Iterable[str]) -> dict[str, str]:
    context: dict[str, str] = {}
    for name, value in (_name_and_value("--context", option) for option in options):
        if context.setdefault(name, value) != value:
            raise typer.BadParameter(f"--context: {name[:80]!a} is given twice, and can't have both values")
    return context


def _fields(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    fields: dict[str, tuple[str, ...]] = {}
    for path, value in (_name_and_value("--field", option) for option in options):
        fields[path] = (*fields.get(path, ()), value)
    return fields


def _name_and_value(option: str, text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise typer.BadParameter(f"{option}: {text[:80]!a} is not NAME=VALUE")
    return name, value
