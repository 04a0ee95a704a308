"""The accounts of the people who use a service: made, changed, locked, and how they prove who they are.

`subject` is the user id of the account; the actor may be the same person, or an administrator.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from audit_async.events.base import ActorInfo, AuditEvent
from audit_async.events.personal import Personal
from audit_async.events.resources import Changes


class UserCreated(AuditEvent, tag="user.created"):
    """An account was created."""

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]


class UserDeleted(AuditEvent, tag="user.deleted"):
    """An account was deleted."""

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]


class UserRestored(AuditEvent, tag="user.restored"):
    """An account that was deleted is there again."""

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]


class UserUpdated(AuditEvent, tag="user.updated"):
    """An account was changed; `changes` says from what to what, by member."""

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    changes: Annotated[Changes, Personal("subject")]


class PasswordChanged(AuditEvent, tag="user.password_changed"):
    """A password was changed by somebody who knew the old one. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    method: str | None = None


class PasswordReset(AuditEvent, tag="user.password_reset"):
    """A password was replaced without the old one: by an administrator, or `method` such as `email`. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    method: str | None = None


class MfaEnabled(AuditEvent, tag="user.mfa_enabled"):
    """A further factor is asked for from now on; `method` is one such as `totp` or `webauthn`. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    method: str


class MfaDisabled(AuditEvent, tag="user.mfa_disabled"):
    """A further factor is asked for no more. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    method: str


class MfaFailed(AuditEvent, tag="user.mfa_failed"):
    """A further factor was asked for, and what came was wrong. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    method: str


class AccountLocked(AuditEvent, tag="user.locked"):
    """An account can't be used any more; without an actor the service locked it by a rule. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo | None = None
    subject: Annotated[str, Personal("subject")]
    reason: str


class AccountUnlocked(AuditEvent, tag="user.unlocked"):
    """An account can be used again."""

    actor: ActorInfo | None = None
    subject: Annotated[str, Personal("subject")]
    reason: str
