"""Roles and API keys: who was given what, and from whom it was taken.

Never a whole key: a fingerprint, `key:` and the first 6 hex digits of its SHA-256.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from audit_async.events.base import ActorInfo, AuditEvent
from audit_async.events.personal import Personal


class RoleGranted(AuditEvent, tag="access.role_granted"):
    """A user was given a role, for everything or for one `scope`. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    role: str
    scope: str | None = None


class RoleRevoked(AuditEvent, tag="access.role_revoked"):
    """A role was taken from a user. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    role: str
    scope: str | None = None


class ApiKeyCreated(AuditEvent, tag="access.api_key_created"):
    """A key was issued."""

    actor: ActorInfo
    key_fingerprint: str
    scope: list[str]


class ApiKeyRotated(AuditEvent, tag="access.api_key_rotated"):
    """A key was replaced; the fingerprint is that of the new one."""

    actor: ActorInfo
    key_fingerprint: str
    scope: list[str]


class ApiKeyRevoked(AuditEvent, tag="access.api_key_revoked"):
    """A key was made invalid. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    key_fingerprint: str
    scope: list[str]
