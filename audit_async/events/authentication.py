"""Who got in, who did not, and what became of tokens.

Never a whole token: a fingerprint, `token:` and the first 6 hex digits of its SHA-256.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from audit_async.events.base import ActorInfo, AuditEvent, AuthMethod, IPAddress, require_aware


class AuthSuccess(AuditEvent, tag="auth.success"):
    """An actor proved its identity."""

    actor: ActorInfo
    method: AuthMethod
    path: str


class AuthFailure(AuditEvent, tag="auth.failure"):
    """Somebody tried to log in and could not. Critical."""

    critical: ClassVar[bool] = True

    attempted_user: str | None = None
    reason: str
    ip: IPAddress
    path: str


class TokenCreated(AuditEvent, tag="token.created"):
    """A token was issued; `expires_at` is an aware datetime."""

    actor: ActorInfo
    token_fingerprint: str
    scope: list[str]
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        AuditEvent.__post_init__(self)
        require_aware(self, "expires_at")


class TokenRevoked(AuditEvent, tag="token.revoked"):
    """A token was made invalid before its time. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    token_fingerprint: str
    reason: str
