"""What is refused before anybody is asked who they are: other hosts, other sites, other methods, too many requests."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import ceil
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from audit_async.viewer.request_limits import RateLimit
from audit_async.viewer.response_headers import EMBED_PREFIX, path_below_root

__all__ = ["LOOPBACK_HOSTS", "RequestChecks", "is_same_origin"]

#: A name of another site that resolves to this machine is not among them (DNS rebinding).
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
_LONGEST_QUERY: Final = 8 << 10


class RequestChecks:
    """Refuses what no page of the viewer would send."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None,
        rate: RateLimit,
        rate_key: Callable[[Request], str],
    ) -> None:
        """Take the names in the header Host that are served; None for a place that checks them itself."""
        self._app: Final = app
        self._hosts: Final = frozenset(host.lower() for host in hosts) if hosts is not None else None
        self._rate: Final = rate
        self._rate_key: Final = rate_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        request = Request(scope)
        refusal = self._refusal(request)
        await (refusal if refusal is not None else self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> PlainTextResponse | None:
        if request.method not in _METHODS:
            return _refused(405, "The viewer only reads: GET and HEAD.", Allow="GET, HEAD, POST")
        if self._hosts is not None and _host_name(request.headers.get("host", "")) not in self._hosts:
            return _refused(400, "This host name is not served here. Name it with --public-url or --allow-host.")
        if len(request.url.query) > _LONGEST_QUERY:
            return _refused(414, "The query is longer than any page of the viewer makes it.")
        if _is_cross_site(request):
            return _refused(403, "Another site may not use the viewer.")
        if wait_s := self._rate.take(self._rate_key(request)):
            return _refused(429, "Too many requests; wait a moment.", **{"Retry-After": str(ceil(wait_s))})
        return None


def _refused(status: int, text: str, **headers: str) -> PlainTextResponse:
    return PlainTextResponse(f"{text}\n", status, headers)


def _host_name(host: str) -> str:
    """Return the name in a header Host, without the port."""
    name, _, port = host.lower().rpartition(":")
    return name if name and port.isdecimal() else host.lower()


def _is_cross_site(request: Request) -> bool:
    """Return whether a page of another site has sent this, other than as a link that somebody followed.

    https://www.w3.org/TR/fetch-metadata/ - a browser that sends none of it is judged by Origin and cookies alone.
    """
    if request.headers.get("sec-fetch-site", "none") in {"same-origin", "none"}:
        return False
    if request.method == "POST" or request.headers.get("sec-fetch-mode") != "navigate":
        return True
    is_framed = request.headers.get("sec-fetch-dest") != "document"
    return is_framed and not path_below_root(request.scope).startswith(EMBED_PREFIX)


def is_same_origin(request: Request, *, https: bool) -> bool:
    """Return whether a POST comes from a page of this viewer, as far as its header Origin says."""
    origin = request.headers.get("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    scheme = "https" if https else request.url.scheme
    return parts.scheme == scheme and parts.netloc.lower() == request.headers.get("host", "").lower()
