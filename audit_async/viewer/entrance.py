"""Who a request comes from, by whichever way of signing in the viewer was given."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request

from audit_async.errors import ConfigError
from audit_async.viewer.oidc_sign_in import OidcSignIn
from audit_async.viewer.people import Person, SignedIn
from audit_async.viewer.proxy_sign_in import ProxySignIn
from audit_async.viewer.role_file import Roles
from audit_async.viewer.token_sign_in import TokenSignIn
from audit_async.viewer.web_sessions import COOKIE, WebSessions

__all__ = ["Entrance", "PersonOf", "SignIn"]

#: What an application that mounts the viewer gives: who a request is from, None for nobody.
PersonOf = Callable[[Request], Person | Awaitable[Person | None] | None]

SignIn = TokenSignIn | ProxySignIn | OidcSignIn | PersonOf


class Entrance:
    """Knows the person of each request, and whether a form is that person's own."""

    def __init__(self, sign_in: SignIn, roles: Roles | None, *, https: bool) -> None:
        """Take the way to sign in, and the roles of the people that it names.

        Raises:
            ConfigError: Roles are missing, or of no use.
        """
        if not isinstance(sign_in, TokenSignIn | ProxySignIn | OidcSignIn) and not callable(sign_in):
            raise ConfigError("sign_in", "must be TokenSignIn, ProxySignIn, OidcSignIn, or a function of the request")
        if isinstance(sign_in, ProxySignIn | OidcSignIn) and roles is None:
            raise ConfigError("roles", "are missing: the sign-in only knows names; give Roles.from_file(...)")
        if isinstance(sign_in, TokenSignIn) and roles is not None:
            raise ConfigError("roles", "are of no use: a token is one person's, whose role it has")
        self.sign_in: Final = sign_in
        self.sessions: Final = WebSessions()
        self.https: Final = https
        self._roles: Final = roles

    async def person_of(self, request: Request, *, is_use: bool = True) -> Person | None:
        """Return who a request is from, None for nobody and for somebody without a role.

        Args:
            request: The request.
            is_use: Whether the session lasts longer by it; not so if an answer that is under way asks again.
        """
        sign_in = self.sign_in
        if isinstance(sign_in, TokenSignIn | OidcSignIn):
            session = self.sessions.find(request.cookies.get(COOKIE), is_use=is_use)
            return self.person_named(session.who) if session is not None else None
        if isinstance(sign_in, ProxySignIn):
            who = sign_in.signed_in(request)
            return self.person_named(who) if who is not None else None
        found = sign_in(request)
        return await found if inspect.isawaitable(found) else found

    def person_named(self, who: SignedIn) -> Person | None:
        """Return the person that somebody is who has signed in; None if nothing gives a role."""
        if isinstance(self.sign_in, TokenSignIn):
            return self.sign_in.person
        return self._roles.person(who) if self._roles is not None else None

    @property
    def methods(self) -> tuple[str, ...]:
        """What the sign-in page offers."""
        if isinstance(self.sign_in, TokenSignIn):
            return ("token",)
        return ("oidc",) if isinstance(self.sign_in, OidcSignIn) else ()

    def rate_key(self, request: Request) -> str:
        """Return whose requests are counted together: an address, or, if a proxy asks, the person that it names."""
        if isinstance(self.sign_in, ProxySignIn) and (who := self.sign_in.signed_in(request)) is not None:
            return f"person {who.name}"
        return request.client.host if request.client is not None else ""

    def is_secure(self, request: Request) -> bool:
        """Return whether the browser talks TLS."""
        return self.https or request.url.scheme == "https"

    def csrf_token(self, request: Request, person: Person | None) -> str:
        """Return the token for the forms of a page."""
        return self.sessions.csrf_token(self._csrf_subject(request, person))

    def is_csrf_token(self, request: Request, person: Person | None, token: str) -> bool:
        """Return whether a form is one of that person's pages."""
        return self.sessions.is_csrf_token(self._csrf_subject(request, person), token)

    def _csrf_subject(self, request: Request, person: Person | None) -> str:
        cookie = request.cookies.get(COOKIE) if isinstance(self.sign_in, TokenSignIn | OidcSignIn) else None
        if cookie is not None and person is not None:
            return f"session {cookie}"
        return f"person {person.name}" if person is not None else "nobody"
