"""The pages of the viewer: each reads what it shows through the reader of its request."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from audit_async._query.audit_query import AuditQuery
from audit_async.viewer.pages.rendering import render
from audit_async.viewer.viewing import viewing_of

__all__ = ["page_routes", "static_app"]

_STATIC: Final = Path(__file__).parents[1] / "static"


def page_routes() -> list[Route]:
    """Return the routes of all pages, each with the name that `permissions` knows."""
    return [Route("/", _home, name="home"), Route("/records", _newest, name="records")]


def static_app() -> StaticFiles:
    """Return what serves style sheets and scripts, for whom nobody has to sign in."""
    return StaticFiles(directory=_STATIC)


async def _home(request: Request) -> Response:
    return RedirectResponse(viewing_of(request).link("/records"), 303)


async def _newest(request: Request) -> Response:
    viewing = viewing_of(request)
    page = await viewing.reader.page(AuditQuery(newest_first=True), request.query_params.get("cursor"))
    return render(request, "records.html", records=page.records, cursor=page.cursor, remarks=viewing.remarks)
