"""When actors were logged in, and when one of them acted as somebody else."""

from __future__ import annotations

from typing import Annotated, ClassVar

from audit_async.events.base import ActorInfo, AuditEvent, AuthMethod
from audit_async.events.personal import Personal


class SessionStarted(AuditEvent, tag="session.started"):
    """A session began; `method` is how the identity was proved, if that is known."""

    actor: ActorInfo
    method: AuthMethod | None = None
    reason: str | None = None


class SessionEnded(AuditEvent, tag="session.ended"):
    """A session ended: by a log-out, or for the `reason` given; `method` is how it began, if that is known."""

    actor: ActorInfo
    method: AuthMethod | None = None
    reason: str | None = None


class ImpersonationStarted(AuditEvent, tag="session.impersonation_started"):
    """An actor acts as the user `subject` from now on. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    reason: str


class ImpersonationEnded(AuditEvent, tag="session.impersonation_ended"):
    """An actor acts as the user `subject` no more."""

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    reason: str
