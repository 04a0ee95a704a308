"""Who asked: what a framework's authentication found out, as an `ActorInfo`.

A framework says who somebody is, and not how the identity was proved. So the method is recorded only if the request
showed exactly one credential of a known kind: a second one, or a cookie, which may be a session's or say that somebody
likes dark pages, leaves open which of them counted, and then `auth_method` is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from audit_async.events import ActorInfo, AuthMethod

__all__ = ["ANONYMOUS", "UNKNOWN", "actor_named", "identity_of", "method_shown", "nobody"]

#: The `user_id` of an actor who was not authenticated, in events that must name one.
ANONYMOUS: Final = "anonymous"
#: The `user_id` of an actor of whom it is not known who it is, since the application's actor hook failed.
UNKNOWN: Final = "unknown"

#: Where the identity of a user is looked for, in this order: by name first, so that a search for the name finds it.
IDENTITY_NAMES: Final = ("username", "identity", "user_id", "sub", "id", "email", "display_name")

_API_KEY_HEADERS: Final = (b"x-api-key", b"api-key", b"apikey")
_SCHEMES: Final = {
    b"bearer": AuthMethod.BEARER_TOKEN,
    b"basic": AuthMethod.BASIC,
    b"apikey": AuthMethod.API_KEY,
    b"api-key": AuthMethod.API_KEY,
    b"token": AuthMethod.API_KEY,
}


def identity_of(user: object) -> str | None:
    """Return the name of a framework's user object; None if there is none, or the user is not authenticated.

    Understands a text or a number, a mapping such as a token's claims, and objects, by the first of `username`,
    `identity`, `user_id`, `sub`, `id`, `email` and `display_name` that they have. `is_authenticated`, as Starlette's
    and Django's users have it, is heeded.
    """
    if user is None or getattr(user, "is_authenticated", True) is False:
        return None
    if isinstance(user, str | int) and not isinstance(user, bool):
        return str(user) or None
    is_mapping = isinstance(user, Mapping)
    for name in IDENTITY_NAMES:
        try:
            value = user.get(name) if is_mapping else getattr(user, name, None)  # type: ignore[attr-defined]
        except NotImplementedError:  # Starlette's BaseUser, if a subclass leaves one of them out
            continue
        if value is not None and value != "":
            return str(value)
    return None


def method_shown(headers: Mapping[bytes, bytes], *, certificate: bool = False) -> AuthMethod | None:
    """Return how a request that was let in proved whose it is; None if its headers don't say so for certain.

    Args:
        headers: By name in lower case.
        certificate: Whether the client showed a TLS certificate.
    """
    authorization = headers.get(b"authorization")
    api_key = any(name in headers for name in _API_KEY_HEADERS)
    if (authorization is not None) + api_key + certificate != 1 or b"cookie" in headers:
        return None
    if authorization is not None:
        return _SCHEMES.get(authorization.partition(b" ")[0].lower())
    return AuthMethod.API_KEY if api_key else AuthMethod.M_TLS


def actor_named(
    user_id: str, headers: Mapping[bytes, bytes], ip: str | None, *, certificate: bool = False
) -> ActorInfo:
    """Return the actor of that name, with the address of its request, and the method if the request shows it."""
    return ActorInfo(user_id=user_id, ip=ip, auth_method=method_shown(headers, certificate=certificate))


def nobody(user_id: str, ip: str | None) -> ActorInfo:
    """Return an actor without a name of its own: `ANONYMOUS` or `UNKNOWN`."""
    return ActorInfo(user_id=user_id, ip=ip)
