"""Commands of a command line that somebody ran."""

from __future__ import annotations

from typing import Annotated, Any

from audit_async.events.base import ActorInfo, AuditEvent
from audit_async.events.personal import Personal


class CommandStarted(AuditEvent, tag="command.started"):
    """A command is about to run; what it did is in the `command.ended` of the same `run_id`, if it came so far."""

    actor: ActorInfo
    command: str
    run_id: str
    parameters: Annotated[dict[str, Any] | None, Personal("actor.user_id")] = None


class CommandEnded(AuditEvent, tag="command.ended"):
    """A command has run, with this exit status; `error` is the class of the exception that ended it, if one did."""

    actor: ActorInfo
    command: str
    run_id: str
    exit_status: int
    duration_ms: int
    parameters: Annotated[dict[str, Any] | None, Personal("actor.user_id")] = None
    error: str | None = None
