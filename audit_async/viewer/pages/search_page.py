"""Finding records: the search, its counts and histogram, the trail of one name, and new records as they come."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from audit_async.events import Record
from audit_async.events.registry import known_types
from audit_async.reader import AuditQuery, InvalidQuery
from audit_async.viewer.pages.asked import SINGLE, Asked, asked_query
from audit_async.viewer.pages.event_stream import EventStream
from audit_async.viewer.pages.histogram_chart import Chart, chart_of
from audit_async.viewer.pages.match_counts import MatchCounts, count_matches
from audit_async.viewer.pages.readable import Summary, summary_of
from audit_async.viewer.pages.rendering import html_of, render_page, url_for
from audit_async.viewer.viewing import Viewing, viewing_of

__all__ = ["home", "live", "new_records", "search", "search_counts", "trail_of"]

#: Names that are listed of each kind.
_MOST_NAMES: Final = 8

#: How the reason of a refusal begins if the field is its subject.
_PREDICATES: Final = ("is ", "has ", "must ", "can't ", "takes ", "needs ")

#: What a search asks of time with one click.
_PERIODS: Final = (("1 h", "1h"), ("24 h", "24h"), ("7 days", "7d"), ("30 days", "30d"), ("any", None))


class Facet(NamedTuple):
    """The most frequent names of one kind among the matches."""

    title: str
    parameter: str
    names: list[tuple[str, int]]


class Counted(NamedTuple):
    """What was counted, as it is shown."""

    matches: MatchCounts
    chart: Chart | None
    facets: list[Facet]


async def home(request: Request) -> Response:
    """Lead to the records, or to what the person may see instead."""
    place = "/records" if viewing_of(request).person.may("see_records") else "/logs"
    return RedirectResponse(url_for(request, place), status_code=303)


async def search(request: Request) -> Response:
    """Show the newest records that are asked for, and the way to the older ones."""
    viewing = viewing_of(request)
    try:
        asked = asked_query(request.query_params)
    except InvalidQuery as error:
        return await _refused(request, error)
    cursor = request.query_params.get("cursor") or None
    try:
        page = await viewing.reader.only(service=asked.service, log=asked.log).page(asked.query, cursor)
    except InvalidQuery as error:
        return await _refused(request, error, asked)
    counts = None
    if request.query_params.get("counts"):
        counts = await _counted(request, viewing, asked)
    return await render_page(
        request,
        "search.html",
        asked=asked,
        error=None,
        periods=_PERIODS,
        records=[summary_of(record) for record in page.records],
        cursor=page.cursor,
        is_first=cursor is None,
        counts=counts,
        types=_known_types(),
    )


async def search_counts(request: Request) -> Response:
    """Show how many matches there are of what, and when: for the search page, which does not wait for it."""
    asked = asked_query(request.query_params)
    counts = await _counted(request, viewing_of(request), asked)
    return await render_page(request, "counts.html", asked=asked, counts=counts)


async def trail_of(request: Request) -> Response:
    """Show everything that is recorded of one actor, one resource, or one request, the newest first."""
    kinds = {"actor": "Actor", "resource": "Resource", "request_id": "Request"}
    given = [name for name in kinds if request.query_params.get(name)]
    if not given:
        return RedirectResponse(url_for(request, "/records"), status_code=303)
    if len(given) > 1:
        raise InvalidQuery("trail", f"is of one of these: {', '.join(kinds)}")
    name, value = given[0], request.query_params[given[0]]
    asked = asked_query(request.query_params)
    query = asked.query
    if name == "request_id":
        query = msgspec.structs.replace(query, context={**query.context, "request_id": value})
    cursor = request.query_params.get("cursor") or None
    page = await viewing_of(request).reader.only(service=asked.service, log=asked.log).page(query, cursor)
    records = [summary_of(record) for record in page.records]
    return await render_page(
        request,
        "trail.html",
        kind=kinds[name],
        name=name,
        value=value,
        asked=asked,
        days=_by_day(records),
        number=len(records),
        cursor=page.cursor,
        is_first=cursor is None,
    )


async def live(request: Request) -> Response:
    """Show the newest records, and others as they come."""
    asked = asked_query(request.query_params)
    page = (
        await viewing_of(request)
        .reader.only(service=asked.service, log=asked.log)
        .page(msgspec.structs.replace(asked.query, newest_first=True))
    )
    return await render_page(
        request, "live.html", asked=asked, records=[summary_of(record) for record in page.records], types=_known_types()
    )


async def new_records(request: Request) -> Response:
    """Stream records as they come: `text/event-stream`, each event a row of the table."""
    asked = asked_query(request.query_params)
    query = msgspec.structs.replace(asked.query, newest_first=False, limit=None)
    reader = viewing_of(request).reader.only(service=asked.service, log=asked.log)

    async def row_of(record: Record) -> str:
        return html_of(request, "row.html", one=summary_of(record), is_new=True)

    return EventStream(reader.follow(query=query), row_of, viewing_of(request).is_still_let_in)


async def _counted(request: Request, viewing: Viewing, asked: Asked) -> Counted:
    """Count the matches; the chart's links lead to the search."""
    counts = await count_matches(viewing.reader.only(service=asked.service, log=asked.log), asked.query)

    def span_url(start: str, end: str) -> str:
        return url_for(request, "/records", asked.with_(since=start, until=end, cursor=None))

    histogram = counts.histogram(asked.query)
    chart = chart_of(histogram, span_url) if histogram is not None else None
    facets = [
        Facet("Type", "type", _top(counts.types)),
        Facet("Actor", "actor", _top(counts.actors)),
        Facet("Service", "service", _top(counts.services)),
        Facet("Outcome", "outcome", _top(counts.outcomes)),
        Facet("Status", "status", _top(counts.statuses)),
    ]
    return Counted(counts, chart, [facet for facet in facets if facet.names])


def _top(counter: Counter[str]) -> list[tuple[str, int]]:
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return [(name, count) for name, count in ranked if name][:_MOST_NAMES]


def _by_day(records: list[Summary]) -> list[tuple[str, list[Summary]]]:
    """Return records in groups of the same day, UTC."""
    return [
        (day, list(of_day)) for day, of_day in groupby(records, key=lambda one: f"{one.record.timestamp:%A, %-d %B %Y}")
    ]


def _known_types() -> list[str]:
    return sorted(known_types())


async def _refused(request: Request, error: InvalidQuery, asked: Asked | None = None) -> Response:
    """Show the search with what is wrong with it."""
    values = {name: value for name, value in request.query_params.items() if name in SINGLE}
    empty = Asked(query=AuditQuery(), values=values, service=None, log=None, is_oldest_first=False)
    return await render_page(
        request,
        "search.html",
        status=400,
        asked=asked or empty,
        error=f"{error.field} {error.reason}"
        if error.reason.startswith(_PREDICATES)
        else f"{error.field}: {error.reason}",
        periods=_PERIODS,
        records=[],
        cursor=None,
        is_first=True,
        counts=None,
        types=_known_types(),
    )
