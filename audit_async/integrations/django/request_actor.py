"""Who acts: the user of the request that is being served, or whoever a command or a task says it acts as.

The request is in a context variable, which Django carries from the loop into threads and back. So `async` views, the
threads of their queries and what a view calls all see it, each its own.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from django.http import HttpRequest as DjangoRequest
from django.utils.functional import LazyObject, empty

from audit_async.ambient import current_actor
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo, AuthMethod
from audit_async.integrations._http.actor import ANONYMOUS, UNKNOWN, identity_of, nobody
from audit_async.integrations._http.exchange import Arrival, Exchange
from audit_async.integrations._http.recorder import Recorder
from audit_async.integrations._http.request_policy import Rule

__all__ = [
    "ServedRequest",
    "acting_now",
    "actor_of",
    "refusal_is_recorded",
    "request_here",
    "served_of",
    "user_of",
]


class ServedRequest(NamedTuple):
    """A request that the middleware serves, and what is known of it so far."""

    recorder: Recorder[DjangoRequest]
    exchange: Exchange
    request: DjangoRequest
    ip: str | None  #: the client's address, by the trusted proxies
    send_request_id: bool

    @property
    def arrival(self) -> Arrival:
        """What came with the request."""
        return self.exchange.arrival


request_here: Final[ContextVar[ServedRequest | None]] = ContextVar("audit_django_request", default=None)

#: Where the middleware leaves it in the request.
_SERVED: Final = "_audit_served"


def keep_served(served: ServedRequest) -> None:
    """Leave in the request what `actor_of` needs."""
    setattr(served.request, _SERVED, served)


def served_of(request: object) -> ServedRequest | None:
    """Return what the middleware left in a request, also if a framework has wrapped the request; None without one."""
    served = getattr(request, _SERVED, None)
    return served if isinstance(served, ServedRequest) else None


def refusal_is_recorded(request: DjangoRequest | None) -> None:
    """Have an answer 401 to a request be an `http.request`: its `auth.failure` is recorded, and says who was tried.

    Args:
        request: The request; None for the one that is being served, if there is one.
    """
    served = served_of(request) or request_here.get()
    if served is None:
        return
    exchange = served.exchange
    rule = exchange.plan.rule_for(_UNAUTHORIZED)
    if rule.security:
        own = Rule(rule.path, level=rule.level, status=_UNAUTHORIZED, security=False)
        exchange.plan = exchange.plan._replace(rules=(own, *exchange.plan.rules))


_UNAUTHORIZED: Final = 401


def actor_of(request: DjangoRequest) -> ActorInfo:
    """Return who asks, exactly as the record of the request names the actor: for the application's own events.

    Loads the user if the view has not; so in `async` code call it after `await request.auser()`.

    Args:
        request: A request that `AuditMiddleware` serves.

    Returns:
        The actor; `anonymous`, with its address, if nobody is authenticated.

    Raises:
        ConfigError: The request is not served by an `AuditMiddleware`.
        Exception: Whatever the actor hook raises.
    """
    served = served_of(request)
    if served is None:
        raise ConfigError(
            "MIDDLEWARE",
            "the request is not served by AuditMiddleware: put 'audit_async.integrations.django.AuditMiddleware' first",
        )
    return actor_of_served(served)


def actor_of_served(served: ServedRequest) -> ActorInfo:
    """Return who makes the request; see `actor_of`."""
    _load_user(served.request)
    return served.recorder.actor_of(served.arrival, served.request)


def acting_now() -> ActorInfo:
    """Return who acts here, for a record of what is being done: raises nothing.

    `current_actor()`: what `acting_as` names, otherwise the user of the request that is served here, who is loaded for
    it if the view has not. `anonymous` if a request is served and nobody is authenticated; `unknown` if there is no
    request either, or the actor can't be found out.
    """
    try:
        return current_actor() or nobody(UNKNOWN, None)
    except Exception:  # noqa: BLE001 - the user's row, or the application's hook; the change is recorded all the same
        served = request_here.get()
        return nobody(UNKNOWN, None if served is None else address_of(served.request))


def address_of(request: DjangoRequest | None) -> str | None:
    """Return the address that a request came from, by the trusted proxies; None if it is not known."""
    served = None if request is None else served_of(request)
    if served is not None:
        return served.ip
    return None if request is None else request.META.get("REMOTE_ADDR") or None


def user_of(request: DjangoRequest) -> ActorInfo | str | None:
    """Return the user that a request was found to come from; loads nobody, and so costs no query.

    The default `actor` hook. `auth_method` is `session` if Django's own middleware took the user from the session.

    Args:
        request: The request, once it was served.

    Returns:
        The actor, or the user's name; None if nobody is authenticated, or nothing has asked for the user.
    """
    cached = [getattr(request, name, None) for name in ("_cached_user", "_acached_user")]
    from_session = [user for user in cached if user is not None]
    user: Any = getattr(request, "user", None)
    if isinstance(user, LazyObject):
        user = user._wrapped
        if user is empty:
            user = from_session[0] if from_session else None
    name = name_of_user(user)
    if name is None:
        return None
    if any(user is each for each in from_session):
        return ActorInfo(user_id=name, auth_method=AuthMethod.SESSION)
    return name


def name_of_user(user: Any) -> str | None:
    """Return what a user logs in with, as text; None if it is nobody."""
    if user is None or getattr(user, "is_authenticated", True) is False:
        return None
    get_username = getattr(user, "get_username", None)
    name = get_username() if callable(get_username) else None
    return str(name) if name else identity_of(user)


def actor_for_user(user: Any, request: DjangoRequest | None) -> ActorInfo:
    """Return a certain user as the actor of a request, as a log-in or log-out names it."""
    name, ip = name_of_user(user), address_of(request)
    if name is None:
        return nobody(ANONYMOUS, ip)
    return ActorInfo(user_id=name, ip=ip)


def _load_user(request: DjangoRequest) -> None:
    """Have Django load the user of a request, unless it has; in an event loop that can't be done here."""
    user = getattr(request, "user", None)
    if isinstance(user, LazyObject) and user._wrapped is empty:
        if asyncio._get_running_loop() is not None:
            return
        bool(user)
