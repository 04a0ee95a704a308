"""One request of one person: what pages get, whatever way the person was let in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from audit_async.config import RetentionPolicy
from audit_async.viewer.people import Person
from audit_async.viewer.scoped_reader import ScopedReader

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = ["Viewing", "form_of", "link_to", "root_of", "viewing_of"]

_MOST_FORM_BYTES: Final = 16 << 10
_MOST_FORM_FIELDS: Final = 50


@dataclass(frozen=True, kw_only=True)
class Viewing:
    """One request of one person."""

    person: Person
    reader: ScopedReader  #: narrowed to what the person may see; records what it is asked for
    csrf_token: str  #: for the hidden field `csrf_token` of each form
    root: str  #: what each link begins with
    can_sign_out: bool  #: whether the viewer itself keeps the session, and so can end it
    base_dir: Path
    #: Whether the request would still be let in, as the same person: an answer without an end asks again and again.
    is_still_let_in: Callable[[], Awaitable[bool]]
    policy: Policy | None = None  #: whose signatures count; None if nobody said
    retention: RetentionPolicy | None = None  #: of the services; None if nobody said
    remarks: list[str] = field(default_factory=list)  #: what the page has to say of its answer, such as damage

    def link(self, path: str, params: Mapping[str, str] | None = None) -> str:
        """Return the URL of a page of the viewer, as this person reaches it."""
        return link_to(self.root, path, params)


def viewing_of(request: Request) -> Viewing:
    """Return what a request may see; the foundation has put it there before any page is asked."""
    viewing = request.state.viewing
    assert isinstance(viewing, Viewing)  # noqa: S101 - a route that is not guarded is a mistake of this package
    return viewing


def root_of(request: Request) -> str:
    """Return what links begin with, also for a page that needs no sign-in."""
    root = request.scope.get("root_path", "")
    return root if isinstance(root, str) else ""


def link_to(root: str, path: str, params: Mapping[str, str] | None = None) -> str:
    """Return the URL of `path` below a root."""
    return f"{root}{path}?{urlencode(params)}" if params else f"{root}{path}"


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of an urlencoded form, the last of each name.

    Raises:
        HTTPException: It is larger than the viewer's forms can be (413), or is none (400).
    """
    if isinstance(known := getattr(request.state, "form", None), dict):
        return known
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_FORM_BYTES:
            raise HTTPException(413, "The form is larger than any form of the viewer.")
    try:
        fields = parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=_MOST_FORM_FIELDS)
    except ValueError:
        raise HTTPException(400, "The form can't be read.") from None
    form = dict(fields)
    request.state.form = form
    return form
