"""Who asked: what a framework's authentication left behind, made an `ActorInfo`.

A framework says who somebody is, not how he proved it. So the method is taken from what the request showed: an
`Authorization` header, an API key's header, a client certificate; a session's cookie counts as a bearer's token, since
whoever bears it is let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from audit_async.events.base import ActorInfo, AuthMethod

__all__ = ["ANONYMOUS", "actor_named", "identity_of", "method_shown"]

#: The `user_id` of somebody who did not say, or could not prove, who he is.
ANONYMOUS: Final = "anonymous"

_API_KEY_HEADERS: Final = frozenset({b"x-api-key", b"api-key", b"apikey"})
_API_KEY_SCHEMES: Final = frozenset({b"apikey", b"api-key", b"token"})


def identity_of(user: object) -> str | None:
    """Return the name of a framework's user object; None where there is none, or he is not authenticated.

    Understands a text or a number, a mapping, and objects with one of `identity`, `user_id`, `id`, `sub`,
    `display_name` or `username`, such as Starlette's `BaseUser`, whose `is_authenticated` is heeded.
    """
    if user is None or getattr(user, "is_authenticated", True) is False:
        return None
    if isinstance(user, str | int) and not isinstance(user, bool):
        return str(user) or None
    for name in ("identity", "user_id", "id", "sub", "display_name", "username"):
        try:
            value = user.get(name) if isinstance(user, Mapping) else getattr(user, name, None)
        except NotImplementedError:  # Starlette's BaseUser, where a subclass leaves one of them out
            continue
        if value is not None and value != "":
            return str(value)
    return None


def method_shown(headers: Mapping[bytes, bytes], *, certificate: bool = False) -> AuthMethod:
    """Return how a request that was let in proved whose it is, by its headers (names in lower case)."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme = authorization.partition(b" ")[0].lower()
        return AuthMethod.API_KEY if scheme in _API_KEY_SCHEMES else AuthMethod.BEARER_TOKEN
    if not _API_KEY_HEADERS.isdisjoint(headers):
        return AuthMethod.API_KEY
    if certificate:
        return AuthMethod.M_TLS
    return AuthMethod.BEARER_TOKEN if b"cookie" in headers else AuthMethod.INTERNAL


def actor_named(
    user_id: str, headers: Mapping[bytes, bytes], ip: str | None, *, certificate: bool = False
) -> ActorInfo:
    """Return the actor of that name, with the address and the method of his request."""
    return ActorInfo(user_id=user_id, ip=ip, auth_method=method_shown(headers, certificate=certificate))
