"""Which page is shown for which error: what was refused, why, and what to do; nothing of what may not be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from audit_async._export.export_file import ExportFailed
from audit_async._query.audit_query import InvalidQuery
from audit_async._query.lookup import RecordNotFound
from audit_async._trail.log_files import TrailUnreadable
from audit_async.errors import AuditError, LogCorrupted
from audit_async.viewer.embed_links import LinkRefused
from audit_async.viewer.pages.rendering import render
from audit_async.viewer.people import NotPermitted
from audit_async.viewer.request_limits import SearchTookTooLong, TooManySearches
from audit_async.viewer.scoped_reader import NoLogToSee
from audit_async.viewer.view_log import AccessNotRecorded
from audit_async.viewer.viewing import Viewing

__all__ = ["EXCEPTION_HANDLERS"]

#: By the class of the error: status, title, and what to do.
_PAGES: Final[dict[type[AuditError], tuple[int, str, str]]] = {
    InvalidQuery: (400, "This can't be searched for", "Change the search."),
    LinkRefused: (403, "This link is not good", "Load the page again that it is part of."),
    NotPermitted: (403, "Not permitted", "Ask whoever keeps the roles of this viewer."),
    RecordNotFound: (404, "No such record", "It was never recorded, is not here any more, or not for you to see."),
    NoLogToSee: (404, "No log to show", "Choose other logs, or ask whoever keeps the trail."),
    TrailUnreadable: (503, "This can't be read here", "Ask whoever keeps the trail."),
    ExportFailed: (409, "This can't be exported", "Change the search, or export another format."),
    LogCorrupted: (500, "The log is damaged here", "Verify the trail: audit-async verify."),
    TooManySearches: (429, "Too many searches", "Wait a moment, and load the page again."),
    SearchTookTooLong: (503, "The search took too long", "Ask for a shorter time, or for less."),
    AccessNotRecorded: (503, "Nothing can be shown now", "What is shown has to be recorded first."),
    AuditError: (409, "This can't be shown", "Ask whoever keeps the trail."),
}
#: Errors whose text is about the request alone. Others may name files, and what a tenant shares with others.
_SAID_TO_ALL: Final = (InvalidQuery, LinkRefused, NotPermitted, RecordNotFound, SearchTookTooLong, TooManySearches)


async def _audit_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AuditError)  # noqa: S101 - what it is registered for
    status, title, what_to_do = next(page for cls, page in _PAGES.items() if isinstance(error, cls))
    viewing = getattr(request.state, "viewing", None)
    is_of_the_house = isinstance(viewing, Viewing) and viewing.person.tenant is None
    reason = str(error) if is_of_the_house or isinstance(error, _SAID_TO_ALL) else ""
    if isinstance(error, RecordNotFound):  # which says what the title does
        reason = ""
    return render(request, "error.html", status, title=title, reason=reason, what_to_do=what_to_do)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    phrase = HTTPStatus(error.status_code).phrase
    reason = "" if error.detail == phrase else error.detail
    response = render(request, "error.html", error.status_code, title=phrase, reason=reason, what_to_do="")
    response.headers.update(error.headers or {})
    return response


async def _any_error(request: Request, _: Exception) -> Response:
    return render(request, "error.html", 500, title="The viewer failed", reason="", what_to_do="Look at its log.")


EXCEPTION_HANDLERS: Final[Mapping[Any, Callable[[Request, Exception], Any]]] = {
    AuditError: _audit_error,
    HTTPException: _http_error,
    Exception: _any_error,
}
