"""What every answer of the viewer carries: nothing of another origin runs, frames, reads or keeps it.

https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["EMBED_PREFIX", "ResponseHeaders", "path_below_root"]

EMBED_PREFIX: Final = "/embed/"
_STATIC_PREFIX: Final = "/static/"
_A_YEAR_S: Final = 365 * 24 * 3600

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
)
_FEATURES: Final = "camera=(), microphone=(), geolocation=(), payment=(), usb=(), display-capture=()"


class ResponseHeaders:
    """Adds the headers to each answer of an application."""

    def __init__(self, app: ASGIApp, *, embed_origins: Sequence[str] = (), https: bool = False) -> None:
        self._app: Final = app
        self._https: Final = https
        self._policy: Final = _POLICY.format(ancestors="'none'")
        self._embed_policy: Final = _POLICY.format(ancestors=" ".join(embed_origins) or "'none'")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = path_below_root(scope)
        is_embed = path.startswith(EMBED_PREFIX)
        is_static = path.startswith(_STATIC_PREFIX)
        is_secure = self._https or scope["scheme"] == "https"
        has_version = b"v=" in scope.get("query_string", b"")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._embed_policy if is_embed else self._policy
                headers["X-Content-Type-Options"] = "nosniff"
                # A form's Origin would be null without one. The address in a frame is itself the right to see it.
                headers["Referrer-Policy"] = "no-referrer" if is_embed else "same-origin"
                headers["Permissions-Policy"] = _FEATURES
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["X-Robots-Tag"] = "noindex, nofollow"
                if not is_embed:
                    headers["X-Frame-Options"] = "DENY"
                is_kept = is_static and has_version and message["status"] == 200
                headers["Cache-Control"] = f"public, max-age={_A_YEAR_S}, immutable" if is_kept else "no-store"
                if is_secure:
                    headers["Strict-Transport-Security"] = f"max-age={_A_YEAR_S}"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def path_below_root(scope: Scope) -> str:
    """Return the path of a request below the place at which the viewer is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path
