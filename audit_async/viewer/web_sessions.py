"""Sessions of the browser, kept in memory; a cookie holds a random number and nothing else.

They end with the process, so a restart signs everybody out.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from audit_async.viewer.people import SignedIn
from audit_async.viewer.viewing import root_of

__all__ = ["COOKIE", "WebSession", "WebSessions"]

COOKIE: Final = "audit_view"


class WebSession(msgspec.Struct):
    """One browser that has signed in."""

    who: SignedIn
    begun_s: float
    used_s: float


class WebSessions:
    """All sessions, at most so many; the one that was used longest ago makes room for another."""

    def __init__(
        self,
        *,
        idle_s: float = 3600.0,
        lifetime_s: float = 12 * 3600.0,
        most: int = 10_000,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._idle_s: Final = idle_s
        self._lifetime_s: Final = lifetime_s
        self._most: Final = most
        self._now: Final = now
        # By the digest of the number, so that no memory dump and no timing of the look-up shows a cookie.
        self._sessions: Final[OrderedDict[bytes, WebSession]] = OrderedDict()
        self._csrf_key: Final = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, who: SignedIn) -> str:
        """Begin a session; return the number for its cookie."""
        number, now = secrets.token_urlsafe(32), self._now()
        self._sessions[_digest(number)] = WebSession(who, now, now)
        while len(self._sessions) > self._most:
            self._sessions.popitem(last=False)
        return number

    def find(self, number: str | None, *, is_use: bool = True) -> WebSession | None:
        """Return the session of a cookie, None if there is none any more; a use of it makes it last."""
        if not number:
            return None
        key, now = _digest(number), self._now()
        session = self._sessions.get(key)
        if session is None:
            return None
        if now - session.used_s > self._idle_s or now - session.begun_s > self._lifetime_s:
            del self._sessions[key]
            return None
        if is_use:
            session.used_s = now
            self._sessions.move_to_end(key)
        return session

    def end(self, number: str | None) -> None:
        """End the session of a cookie."""
        if number:
            self._sessions.pop(_digest(number), None)

    def csrf_token(self, subject: str) -> str:
        """Return the token for the forms of a session, by its number, or of a person who has none, by name."""
        return hmac.new(self._csrf_key, subject.encode("utf-8", "surrogatepass"), sha256).hexdigest()

    def is_csrf_token(self, subject: str, token: str) -> bool:
        """Return whether a form came with the token of its session."""
        return hmac.compare_digest(self.csrf_token(subject).encode(), token.encode("utf-8", "surrogatepass"))


def set_cookie(
    response: Response, request: Request, name: str, value: str, *, secure: bool, is_strict: bool = True
) -> None:
    """Set a cookie that scripts and other sites never get; it lasts as long as the browser."""
    same_site: Literal["strict", "lax"] = "strict" if is_strict else "lax"
    response.set_cookie(name, value, path=root_of(request) or "/", secure=secure, httponly=True, samesite=same_site)


def drop_cookie(response: Response, request: Request, name: str, *, secure: bool) -> None:
    """Remove a cookie."""
    response.delete_cookie(name, path=root_of(request) or "/", secure=secure, httponly=True, samesite="strict")


def _digest(number: str) -> bytes:
    return sha256(number.encode("utf-8", "surrogatepass")).digest()
