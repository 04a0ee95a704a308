"""HTML elements in which every text is harmless: escaped for HTML, and with nothing invisible in it."""

from __future__ import annotations

from html import escape
from typing import Final

from audit_async._sanitize.readable_text import visible

__all__ = ["Html", "element", "joined", "table"]

_VOID: Final = frozenset({"meta", "br", "hr", "col"})


class Html(str):
    """HTML that was made here; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | None) -> Html:
    """Return an element with these children, texts among them; a trailing `_` of an attribute's name is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(visible(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Html:
    """Return these children one after the other; None is nothing."""
    return Html("".join(child if isinstance(child, Html) else escape(visible(child)) for child in children if child))


def table(head: list[str], rows: list[list[str]], **attributes: str) -> Html:
    """Return a table with a head, whose cells are texts or elements."""
    cells = [element("th", text, scope="col") for text in head]
    body = [element("tr", *[element("td", cell) for cell in row]) for row in rows]
    return element("table", element("thead", element("tr", *cells)), element("tbody", *body), **attributes)
