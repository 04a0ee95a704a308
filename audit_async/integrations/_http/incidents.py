"""Which answers are more than a request: refusals become the events that security people look for.

401 is `auth.failure`, 403 `authz.denied`, 429 `security.rate_limit_exceeded`, and a path that climbs out is
`security.path_traversal_attempt`, however it was answered. Such an event takes the place of the `http.request`; what it
has no member for is recorded in its context, as `http_method`, `http_status` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from audit_async.events.authentication import AuthFailure
from audit_async.events.authorization import AuthorizationDenied
from audit_async.events.base import ActorInfo, AuditEvent, AuthMethod, ResourceInfo
from audit_async.events.security import PathTraversalAttempt, RateLimitExceeded
from audit_async.integrations._http.actor import ANONYMOUS

__all__ = ["INCIDENT_STATUSES", "UNKNOWN_ADDRESS", "incident"]

INCIDENT_STATUSES: Final = frozenset({401, 403, 429})

#: The address of a peer that has none, in events that must name one.
UNKNOWN_ADDRESS: Final = "unknown"

_LIMIT_HEADERS: Final = (b"ratelimit-limit", b"x-ratelimit-limit")
_NUMBER: Final = re.compile(rb"\s*(\d{1,9})")
_WINDOW: Final = re.compile(rb";\s*w=(\d{1,9})")


def incident(
    *,
    climbs: bool,
    status: int | None,
    method: str,
    path: str,
    route: str | None,
    actor: ActorInfo | None,
    ip: str | None,
    response_headers: Iterable[tuple[bytes, bytes]],
) -> AuditEvent:
    """Return the security event that a request amounts to: its path climbs, or it is one of `INCIDENT_STATUSES`."""
    if climbs:
        return PathTraversalAttempt(actor=actor or _nobody(ip), attempted_path=path, endpoint=route or path)
    if status == 401:
        user = actor.user_id if actor is not None else None
        return AuthFailure(attempted_user=user, reason="http_401", ip=ip or UNKNOWN_ADDRESS, path=path)
    if status == 403:
        resource = ResourceInfo(resource_type="path", resource_id=path)
        return AuthorizationDenied(actor=actor or _nobody(ip), resource=resource, action=method, reason="http_403")
    limit, window_seconds = _rate_limit_told(response_headers)
    return RateLimitExceeded(
        ip=ip or UNKNOWN_ADDRESS, endpoint=route or path, limit=limit, actual=0, window_seconds=window_seconds
    )


def _nobody(ip: str | None) -> ActorInfo:
    return ActorInfo(user_id=ANONYMOUS, ip=ip, auth_method=AuthMethod.INTERNAL)


def _rate_limit_told(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Return the limit and its window in seconds, as the answer's `RateLimit-*` headers tell; 0 for what they don't."""
    told = {name.lower(): value for name, value in headers}
    limit = window = None
    for name in _LIMIT_HEADERS:
        if name in told:
            limit = limit or _NUMBER.match(told[name])
            window = window or _WINDOW.search(told[name])
    if b"ratelimit-policy" in told:
        limit = limit or _NUMBER.match(told[b"ratelimit-policy"])
        window = window or _WINDOW.search(told[b"ratelimit-policy"])
    return int(limit[1]) if limit else 0, int(window[1]) if window else 0
