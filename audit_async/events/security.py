"""Security incidents: what looked like an attack, or broke a rule."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from audit_async.errors import InvalidEvent
from audit_async.events.base import ActorInfo, AuditEvent, IPAddress
from audit_async.events.personal import Personal


class RateLimitExceeded(AuditEvent, tag="security.rate_limit_exceeded"):
    """More requests came than are allowed in a window of `window_seconds`; what is not known is left out."""

    ip: Annotated[IPAddress, Personal()]
    endpoint: Annotated[str, Personal(when="path")]
    limit: int | None = None
    actual: int | None = None
    window_seconds: int | None = None


class PathTraversalAttempt(AuditEvent, tag="security.path_traversal_attempt"):
    """A path pointed out of where it may point. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    attempted_path: Annotated[str, Personal("actor.user_id", when="path")]
    endpoint: Annotated[str, Personal("actor.user_id", when="path")]


class InvalidTokenUsed(AuditEvent, tag="security.invalid_token_used"):
    """A token was shown that is none; only its beginning is recorded. Critical."""

    critical: ClassVar[bool] = True

    ip: Annotated[IPAddress, Personal()]
    token_prefix: str
    endpoint: Annotated[str, Personal(when="path")]


class PolicyViolation(AuditEvent, tag="security.policy_violation"):
    """A worker broke a policy. Critical."""

    critical: ClassVar[bool] = True

    policy: str
    violation: str
    details: str
    severity: str
    worker_id: str
    action_taken: str


class SuspiciousActivity(AuditEvent, tag="security.suspicious_activity"):
    """An actor did something unusual; `risk_score` is 0 to 100, and anything else raises `InvalidEvent`. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    activity_type: str
    details: Annotated[str, Personal("actor.user_id")]
    risk_score: Annotated[int, Meta(ge=0, le=100)]

    def __post_init__(self) -> None:
        AuditEvent.__post_init__(self)
        if not 0 <= self.risk_score <= 100:
            raise InvalidEvent(self.event_type, "risk_score", "is outside 0 to 100; scale it to that range")


class IntegrityViolation(AuditEvent, tag="security.integrity_violation"):
    """A resource is not what it should be. Critical."""

    critical: ClassVar[bool] = True

    resource_type: str
    resource_id: Annotated[str, Personal("resource_id", when="resource")]
    expected_hash: str
    actual_hash: str
    severity: str
    action_taken: str
    worker_id: str | None = None


class ResourceLimitViolation(AuditEvent, tag="security.resource_limit_violation"):
    """A limit was passed; both values are in the unit of the limit. Critical."""

    critical: ClassVar[bool] = True

    resource_type: str
    limit_type: str
    limit_value: int
    actual_value: int
    severity: str
    action_taken: str
    worker_id: str | None = None
