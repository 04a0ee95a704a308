"""The options that say which records are wanted, the same for every command that reads records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async.cli.arguments import parse_time

__all__ = [
    "Actor",
    "AfterSeq",
    "Context",
    "Critical",
    "Limit",
    "NewestFirst",
    "Resource",
    "Since",
    "Text",
    "Types",
    "Until",
    "build_query",
]

Actor = Annotated[str | None, typer.Option("--actor", metavar="NAME", help="Who did it, or tried to.")]
Resource = Annotated[str | None, typer.Option("--resource", metavar="ID", help="What it was done to.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="An event type or a pattern such as 'security.*'; may be repeated."),
]
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
Critical = Annotated[
    bool | None, typer.Option("--critical/--not-critical", show_default=False, help="Only critical events, or none.")
]
Context = Annotated[
    list[str] | None,
    typer.Option("--context", metavar="NAME=VALUE", help="What stands in the record's context; may be repeated."),
]
Text = Annotated[str | None, typer.Option("--text", metavar="TEXT", help="What stands somewhere in a text of it.")]
AfterSeq = Annotated[
    int | None, typer.Option("--after-seq", metavar="SEQ", help="Only what stands behind, in one log.")
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="No more records than this.")]
NewestFirst = Annotated[bool, typer.Option("--newest-first", help="From the trail's end to its beginning.")]


def build_query(
    *,
    actor: str | None = None,
    resource: str | None = None,
    types: Sequence[str] | None = None,
    since: str | None = None,
    until: str | None = None,
    critical: bool | None = None,
    context: Sequence[str] | None = None,
    text: str | None = None,
    after_seq: int | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> AuditQuery:
    """Return the query that the options say; raises `typer.BadParameter`."""
    now = datetime.now(UTC)
    start = parse_time(since, "--since", now=now)
    end = parse_time(until, "--until", now=now, end_of_day=True)
    if start is not None and end is not None and start >= end:
        raise typer.BadParameter("--until is not later than --since, so no record lies between them")
    try:
        return AuditQuery(
            actor=actor,
            resource_id=resource,
            event_types=tuple(types or ()),
            start=start,
            end=end,
            critical=critical,
            context=dict(map(_name_and_value, context or ())),
            text=text,
            after_seq=after_seq,
            limit=limit,
            newest_first=newest_first,
        )
    except InvalidQuery as error:
        option = _OPTIONS.get(error.field, error.field.replace("_", "-"))
        raise typer.BadParameter(f"--{option} {error.reason}") from None


_OPTIONS = {"resource_id": "resource", "event_types": "type", "start": "since", "end": "until"}


def _name_and_value(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise typer.BadParameter(f"--context: {text[:80]!a} is not NAME=VALUE")
    return name, value
