"""One record: what it says, what is known of its genuineness, and its place in the chain."""

from __future__ import annotations

from typing import NamedTuple

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from audit_async._trail.log_files import Log
from audit_async.events.registry import known_types
from audit_async.privacy.opening_sealed import ClosedText
from audit_async.viewer.pages.proof_state import (
    Statement,
    chain_statements,
    ends_log,
    policy_of_log,
    sealed_statements,
    signature_statements,
)
from audit_async.viewer.pages.readable import Summary, changes_of, members_of, summary_of, without_changes
from audit_async.viewer.pages.rendering import render_page, url_for
from audit_async.viewer.scoped_reader import SeenRecord
from audit_async.viewer.viewing import Viewing, viewing_of

__all__ = ["record_by_id", "show_record"]


class _Known(NamedTuple):
    """What is known of a record besides what it says."""

    statements: list[Statement]
    is_newest: bool  #: nothing comes after it in the log's files
    has_proof: bool  #: a checkpoint covers it; true to a tenant, to whom that is not shown


class _Related(NamedTuple):
    """A trail that the record is part of."""

    title: str
    name: str
    value: str


async def record_by_id(request: Request) -> Response:
    """Lead from an `audit_id` to the record's own address."""
    seen = await viewing_of(request).reader.record(audit_id=request.path_params["audit_id"], place_only=True)
    record = seen.placed.record
    return RedirectResponse(url_for(request, f"/logs/{record.log}/records/{record.seq}"), status_code=303)


async def show_record(request: Request) -> Response:
    """Show a record."""
    viewing = viewing_of(request)
    log, seq = request.path_params["log"], request.path_params["seq"]
    seen = await viewing.reader.record(seq, log=log)
    placed, record, event, context = seen.placed, seen.placed.record, seen.opened.event, seen.opened.context
    known = await anyio.to_thread.run_sync(_known_of, viewing, seen)
    event_class = known_types().get(str(event.get("event_type", "")))
    shown = {name: value for name, value in without_changes(event).items() if name != "event_type"}
    summary = summary_of(record, event)
    return await render_page(
        request,
        "record.html",
        placed=placed,
        record=record,
        summary=summary,
        meaning=_first_sentence(event_class.__doc__) if event_class is not None else "",
        changes=changes_of(event),
        members=members_of(shown, "event"),
        context=members_of(context, "context"),
        statements=known.statements,
        is_newest=known.is_newest,
        has_proof=known.has_proof,
        related=_related(summary, context),
        raw=placed.line.decode("utf-8", "backslashreplace").rstrip("\n"),
    )


def _known_of(viewing: Viewing, seen: SeenRecord) -> _Known:
    """Return what is known of a record; blocks."""
    placed = seen.placed
    log = _whole_log(viewing, placed.record.log)
    statements = list(chain_statements(placed, log))
    if log is not None:
        statements += signature_statements(placed, log, policy_of_log(log, viewing.policy, viewing.base_dir))
    statements += sealed_statements(seen.opened.members)
    is_newest = placed.next is None and log is not None and ends_log(placed, log)
    return _Known(statements, is_newest, has_proof=log is None or any(one.is_inclusion for one in statements))


def _whole_log(viewing: Viewing, name: str) -> Log | None:
    """Return the log if the person may see all of it: only then is there more to be said than of the record."""
    if not viewing.person.may("see_logs"):
        return None
    return next((log for log in viewing.reader.logs() if log.name == name), None)


def _related(summary: Summary, context: dict[str, object]) -> list[_Related]:
    """Return the trails that a record is part of; what stays sealed leads to none."""
    found = [
        _Related("Everything by", "actor", summary.actor if summary.is_actor_known else ""),
        _Related("Everything about", "resource", summary.resource),
    ]
    if isinstance(request_id := context.get("request_id"), str):
        found.append(_Related("The same request", "request_id", request_id))
    return [one for one in found if one.value and not isinstance(one.value, ClosedText)]


def _first_sentence(docstring: str | None) -> str:
    first = (docstring or "").strip().split("\n\n")[0].replace("\n", " ")
    sentence, dot, _ = " ".join(first.replace("`", "").split()).partition(". ")
    return sentence + dot.rstrip()
