"""Signing in with a token that the terminal shows, for one person on one machine."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Final

from audit_async.viewer.people import Person, SignedIn

__all__ = ["TokenSignIn"]


class TokenSignIn:
    """A token that is good once. Whoever can read the terminal may use it; the next one is shown there at once.

    Args:
        person: Who signs in with it, and what they may see.
        show: Called with each token, the first when this is made, the next when one was used.
    """

    def __init__(self, person: Person, show: Callable[[str], None]) -> None:
        self.person: Final = person
        self._show: Final = show
        self._token = secrets.token_urlsafe(32)
        show(self._token)

    def __repr__(self) -> str:
        return f"<TokenSignIn of {self.person.role} {self.person.name!a}>"  # never the token

    def exchange(self, token: str) -> SignedIn | None:
        """Return who it is if the token is the right one, which is then used up."""
        if not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token.encode()):
            return None
        self._token = secrets.token_urlsafe(32)
        self._show(self._token)
        return SignedIn(self.person.name)
