"""One record: what it says, what is known of its genuineness, and its place in the chain."""

from __future__ import annotations

from typing import NamedTuple

import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from audit_async._query.record_summary import without_sealed
from audit_async._trail.log_files import Log
from audit_async.events.recorded import event_members
from audit_async.events.registry import known_types
from audit_async.reader import PlacedRecord
from audit_async.viewer.pages.proof_state import Statement, chain_statements, signature_statements
from audit_async.viewer.pages.readable import (
    Member,
    changes_of,
    closed_in,
    members_of,
    sealed_paths,
    summary_of,
    without_changes,
)
from audit_async.viewer.pages.rendering import render_page, url_for
from audit_async.viewer.viewing import Viewing, viewing_of

__all__ = ["record_by_id", "show_record"]


class _Related(NamedTuple):
    """A trail that the record is part of."""

    title: str
    name: str
    value: str


async def record_by_id(request: Request) -> Response:
    """Lead from an `audit_id` to the record's own address."""
    placed = await viewing_of(request).reader.record(audit_id=request.path_params["audit_id"])
    record = placed.record
    return RedirectResponse(url_for(request, f"/logs/{record.log}/records/{record.seq}"), status_code=303)


async def show_record(request: Request) -> Response:
    """Show a record."""
    viewing = viewing_of(request)
    log, seq = request.path_params["log"], request.path_params["seq"]
    placed = await viewing.reader.record(seq, log=log)
    record, event = placed.record, without_sealed(event_members(placed.record.event))
    context = without_sealed(record.context)
    statements = await anyio.to_thread.run_sync(_statements, viewing, placed)
    event_class = known_types().get(str(event.get("event_type", "")))
    shown = {name: value for name, value in without_changes(event).items() if name != "event_type"}
    line = msgspec.json.decode(placed.line)
    sealed = sealed_paths(line.get("event"), "event") | sealed_paths(line.get("context"), "context")
    members, context_members = members_of(shown, "event", sealed), members_of(context, "context", sealed)
    if closed := closed_in((*members, *context_members)):
        statements.append(_closed(closed))
    return await render_page(
        request,
        "record.html",
        placed=placed,
        record=record,
        summary=summary_of(record),
        meaning=_first_sentence(event_class.__doc__) if event_class is not None else "",
        changes=changes_of(event),
        members=members,
        context=context_members,
        statements=statements,
        related=_related(placed, context),
        raw=placed.line.decode("utf-8", "backslashreplace").rstrip("\n"),
    )


def _statements(viewing: Viewing, placed: PlacedRecord) -> list[Statement]:
    log = _whole_log(viewing, placed.record.log)
    statements = list(chain_statements(placed, log))
    if log is not None:
        statements += signature_statements(placed, log, viewing.policy)
    return statements


def _whole_log(viewing: Viewing, name: str) -> Log | None:
    """Return the log if the person may see all of it: only then is there more to be said than of the record."""
    if not viewing.person.may("see_logs"):
        return None
    return next((log for log in viewing.reader.logs() if log.name == name), None)


def _closed(members: list[Member]) -> Statement:
    states = sorted({member.text for member in members})
    names = ", ".join(member.path for member in members[:5])
    more = f" and {len(members) - 5} more" if len(members) > 5 else ""
    return Statement("info", "Sealed members", f"{', '.join(states)}: {names}{more}.")


def _related(placed: PlacedRecord, context: dict[str, object]) -> list[_Related]:
    summary = summary_of(placed.record)
    related = []
    if summary.actor:
        related.append(_Related("Everything by", "actor", summary.actor))
    if summary.resource:
        related.append(_Related("Everything about", "resource", summary.resource))
    if isinstance(request_id := context.get("request_id"), str) and request_id:
        related.append(_Related("The same request", "request_id", request_id))
    return related


def _first_sentence(docstring: str | None) -> str:
    first = (docstring or "").strip().split("\n\n")[0].replace("\n", " ")
    sentence, dot, _ = " ".join(first.replace("`", "").split()).partition(". ")
    return sentence + dot.rstrip()
