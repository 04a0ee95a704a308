"""Making HTML of what a page has read: one environment for all templates, in which no text can be more than text.

Each text is escaped for HTML (`autoescape`), and what is not printable in it is shown as a visible escape, so that no
record can hide, reorder or imitate what is around it. A template can't forget either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import anyio.to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from audit_async._sanitize.readable_text import byte_size, count_of, json_line, visible
from audit_async.events.recorded import recorded_time
from audit_async.viewer.viewing import Viewing, root_of

__all__ = ["STATIC_DIRECTORY", "Query", "html_of", "render", "render_page", "url_for"]

_VIEWER: Final = Path(__file__).parents[1]
#: The files that are served as they are.
STATIC_DIRECTORY: Final = _VIEWER / "static"

#: Parameters of a URL: one value, several, or None for one that is left out.
Query = Mapping[str, "str | int | Iterable[str] | None"]


def url_for(request: Request, path: str, query: Query | None = None) -> str:
    """Return the URL of a path of the viewer, wherever it is mounted; the path is quoted."""
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        if value is None or value == "":
            continue
        pairs += [(name, str(value))] if isinstance(value, str | int) else [(name, one) for one in value]
    base = root_of(request) + quote(path, safe="/")
    return f"{base}?{urlencode(pairs)}" if pairs else base


def render(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """Return the page that a template makes of a few values."""
    return HTMLResponse(html_of(request, template, code=status, **values), status_code=status)


async def render_page(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """Return the page that a template makes of many values, in a worker thread."""
    return await anyio.to_thread.run_sync(lambda: render(request, template, status, **values))


def html_of(request: Request, template: str, **values: object) -> str:
    """Return what a template makes of these values."""
    viewing = getattr(request.state, "viewing", None)
    everything: dict[str, object] = {
        "url": lambda path, /, **query: url_for(request, path, query),
        "url_with": lambda path, query: url_for(request, path, query),
        "static": lambda name: url_for(request, f"/static/{name}", {"v": _digest_of(name)}),
        "here": request.url.path.removeprefix(root_of(request)),
        "person": None,
        "can_sign_out": False,
        "remarks": (),
        "csrf_token": "",
    }
    if isinstance(viewing, Viewing):
        everything |= {
            "person": viewing.person,
            "can_sign_out": viewing.can_sign_out,
            "remarks": viewing.remarks,
            "csrf_token": viewing.csrf_token,
        }
    return _ENVIRONMENT.get_template(template).render(everything | values)


@cache
def _digest_of(name: str) -> str:
    """Return what changes with a static file's content, so that a browser may keep the file for ever."""
    return hashlib.sha256((STATIC_DIRECTORY / name).read_bytes()).hexdigest()[:12]


def _shown(value: object) -> object:
    """Return what is put into a page for a value: no text of it has an invisible character."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return visible(value)
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"a template shows a {type(value).__name__}; give it a text")


def _time(value: datetime | str | None) -> Markup:
    """Return a moment as an element that says it exactly; in UTC, which a script may change to local time."""
    if value is None or value == "":
        return Markup('<span class="none">none</span>')
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        exact = recorded_time(moment)
    except (ValueError, OverflowError):
        return Markup("<span>{}</span>").format(visible(str(value)))
    text = f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{exact}" title="{exact}">{text}</time>').format(exact=exact, text=text)


def _sentence(text: str) -> str:
    """Return a message as a sentence: errors of a library begin with a small letter and have no end."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def _grouped(number: int) -> str:
    return f"{number:,}"


_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(_VIEWER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,  # else the file of a row is looked at for each row of a page
)
_ENVIRONMENT.filters |= {
    "time": _time,
    "grouped": _grouped,
    "bytes": byte_size,
    "count_of": count_of,
    "json_line": json_line,
    "sentence": _sentence,
    "visible": visible,
}
