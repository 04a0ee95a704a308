"""On whose behalf code runs: the actor that whatever called it has authenticated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Final

from audit_async.errors import ConfigError
from audit_async.events import ActorInfo

__all__ = ["ActorSource", "acting_as", "actor_here", "bind_actor", "current_actor", "unbind_actor"]

#: An actor, or a function that returns it and None if nobody is known: asked only when an event needs the actor, so
#: that a request which records nothing pays for no look-up of its user.
ActorSource = ActorInfo | Callable[[], ActorInfo | None]

#: What is bound here, None if nothing. For integrations, which set it for each request.
actor_here: Final[ContextVar[ActorSource | None]] = ContextVar("audit_actor", default=None)


def current_actor() -> ActorInfo | None:
    """Return on whose behalf the code runs; None if that is not known. It is never guessed.

    In a request that an audit middleware serves it is the actor that the record of the request names.

    Raises:
        Exception: Whatever a function that was bound as the actor raises.
    """
    source = actor_here.get()
    return source if source is None or isinstance(source, ActorInfo) else source()


@contextmanager
def acting_as(actor: ActorSource) -> Iterator[None]:
    """Have `current_actor` return this actor inside the `with` block, and in the tasks that are started there.

    It reaches the threads that `audit_context` reaches.

    Args:
        actor: The actor, or a function that returns it, or None, each time that it is asked.

    Raises:
        ConfigError: `actor` is something else.
    """
    token = bind_actor(actor)
    try:
        yield
    finally:
        unbind_actor(token)


def bind_actor(actor: ActorSource | None) -> Token[ActorSource | None]:
    """Have `current_actor` return this actor from here on, as `acting_as` does; return what `unbind_actor` takes.

    For hooks that are called before and after something, and can't be a `with` block.

    Args:
        actor: As for `acting_as`; None for no known actor.

    Raises:
        ConfigError: `actor` is something else.
    """
    given: object = actor  # which is not what its annotation promises, if the caller made a mistake
    if given is None or isinstance(given, ActorInfo) or (callable(given) and not isinstance(given, type)):
        return actor_here.set(actor)
    raise ConfigError(
        "actor", f"must be an ActorInfo, or a function that returns one or None, not a {type(given).__name__}"
    )


def unbind_actor(token: Token[ActorSource | None]) -> None:
    """Bring back the actor that was bound before `bind_actor` returned `token`.

    Once for each token, and in the task or thread that bound: otherwise it raises what `ContextVar.reset` does.
    """
    actor_here.reset(token)
