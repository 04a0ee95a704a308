"""The pages of the viewer: each reads what its request asks for, and gives a template what it shows.

A page gets a `Viewing`: who looks, and readers of what that person may see. It can't read anything else. Signing in,
recording who saw what, limits and headers are the foundation's, `audit_async.viewer`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from audit_async.viewer.pages.log_pages import list_logs, show_holds, show_log
from audit_async.viewer.pages.record_page import record_by_id, show_record
from audit_async.viewer.pages.rendering import STATIC_DIRECTORY, render
from audit_async.viewer.pages.search_page import home, live, new_records, search, search_counts, trail_of
from audit_async.viewer.pages.verification_page import VerificationPage

__all__ = ["page_routes", "static_app"]


def page_routes() -> list[Route]:
    """Return the routes of all pages; each of them needs a `Viewing`. Only one of them is not a GET."""
    verification = VerificationPage()
    return [
        Route("/", home, name="home"),
        Route("/records", search, name="records"),
        Route("/records/counts", search_counts, name="record_counts"),
        Route("/records/live", live, name="live"),
        Route("/records/stream", new_records, name="stream"),
        Route("/trail", trail_of, name="trail"),
        Route("/audit-ids/{audit_id}", record_by_id, name="audit_id"),
        Route("/logs", list_logs, name="logs"),
        Route("/logs/{log:path}/records/{seq:int}", show_record, name="record"),
        Route("/logs/{log:path}", show_log, name="log"),
        Route("/verification", verification.show, name="verification"),
        Route("/verification", verification.start, methods=["POST"], name="start_verification"),
        Route("/holds", show_holds, name="holds"),
        Route("/help", _help, name="help"),
    ]


def static_app() -> StaticFiles:
    """Return the application that serves style sheets and scripts, which needs nobody to be signed in."""
    return StaticFiles(directory=STATIC_DIRECTORY)


async def _help(request: Request) -> Response:
    """Show what can be done, and the keys for it."""
    return render(request, "help.html")
