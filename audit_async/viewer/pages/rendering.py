"""Filling templates: every value is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from audit_async.viewer.viewing import Viewing, root_of

__all__ = ["render"]

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=True, undefined=StrictUndefined
)


def render(request: Request, template: str, status: int = 200, **values: object) -> Response:
    """Return a page; the template knows the request's `viewing`, None before signing in, and `root`."""
    viewing = getattr(request.state, "viewing", None)
    known: Viewing | None = viewing if isinstance(viewing, Viewing) else None
    text = _TEMPLATES.get_template(template).render(viewing=known, root=root_of(request), **values)
    return HTMLResponse(text, status)
