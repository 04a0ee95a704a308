"""What only an open log can do, and the errors if it is not open, or not configured for it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

from audit_async._writer.buffer import Buffer, State
from audit_async._writer.session import Session
from audit_async._writer.upkeep import Upkeep
from audit_async.errors import ConfigError, LogClosed

if TYPE_CHECKING:  # they need the extras `tlog` and `privacy`
    from audit_async._writer.checkpoint_task import CheckpointLog
    from audit_async._writer.erasures import Erasures

__all__ = ["checkpoints_of", "erasures_of", "on_its_loop", "upkeep_of"]

_T = TypeVar("_T")


def checkpoints_of(session: Session | None, buffer: Buffer) -> CheckpointLog:
    """Return what signs; raises `LogClosed`, and `ConfigError` for a log without `Transparency`."""
    if session is None or buffer.state is not State.OPEN:
        raise LogClosed("the audit log is not open, so it signs nothing")
    if session.checkpoints is None:
        raise ConfigError("transparency", "is left out, so this log signs no checkpoints and proves nothing")
    return session.checkpoints


def upkeep_of(session: Session | None, buffer: Buffer) -> Upkeep:
    """Return what archives, deletes and holds; raises `LogClosed`."""
    if session is None or buffer.state is not State.OPEN:
        raise LogClosed("the audit log is not open, so nothing can be said of what it keeps")
    return session.upkeep


def erasures_of(session: Session | None, buffer: Buffer) -> Erasures:
    """Return what erases; raises `LogClosed`, and `ConfigError` for a log without `Privacy`."""
    if session is None or buffer.state is not State.OPEN:
        raise LogClosed("the audit log is not open, so nobody can be erased by it")
    if session.erasures is None:
        raise ConfigError("privacy", "is left out, so this log seals nothing, and nobody can be erased from it")
    return session.erasures


async def on_its_loop(session: Session | None, call: Callable[[], Coroutine[None, None, _T]]) -> _T:
    """Await `call()` on the log's own loop, from whichever loop."""
    return await (call() if session is None or session.home.is_here else session.home.call(call))
