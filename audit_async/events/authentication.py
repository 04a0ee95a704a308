"""Who got in, who did not, and what became of tokens.

Never a whole token: a fingerprint, `token:` and the first 6 hex digits of its SHA-256.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from audit_async.events.base import ActorInfo, AuditEvent, AuthMethod, IPAddress, require_aware
from audit_async.events.personal import Personal


class AuthSuccess(AuditEvent, tag="auth.success"):
    """An actor proved its identity."""

    actor: ActorInfo
    method: AuthMethod
    path: Annotated[str, Personal("actor.user_id", when="path")]


class AuthFailure(AuditEvent, tag="auth.failure"):
    """Somebody tried to log in and could not. Critical.

    `known` says whether the service has such a user. What strangers type is not attributed to the user whose name it
    may be: only with `known=True` is the record personal to `attempted_user`.
    """

    critical: ClassVar[bool] = True

    attempted_user: Annotated[str | None, Personal("attempted_user", confirmed_by="known")] = None
    reason: str
    ip: Annotated[IPAddress, Personal("attempted_user")]
    path: Annotated[str, Personal("attempted_user", when="path")]
    known: bool | None = None


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
