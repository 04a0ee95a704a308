"""Which answers are more than a request: refusals become the events that security teams look for.

401 is `auth.failure`, 403 `authz.denied`, 429 `security.rate_limit_exceeded`, and a path that climbs out is
`security.path_traversal_attempt`, however it was answered. Such an event takes the place of the `http.request`; what it
has no member for is recorded in its context, as `http_method`, `http_status` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from audit_async.events import (
    ActorInfo,
    AuditEvent,
    AuthFailure,
    AuthorizationDenied,
    PathTraversalAttempt,
    RateLimitExceeded,
    ResourceInfo,
)
from audit_async.integrations._http.actor import ANONYMOUS, UNKNOWN, nobody

__all__ = ["INCIDENT_STATUSES", "UNKNOWN_ADDRESS", "Incident"]

_TYPES: Final = {401: "auth.failure", 403: "authz.denied", 429: "security.rate_limit_exceeded"}
INCIDENT_STATUSES: Final = frozenset(_TYPES)

#: The address of a peer that has none, as on a UNIX socket, in events that must name one; RFC 7239's word for it.
UNKNOWN_ADDRESS: Final = "unknown"

_LIMIT_HEADERS: Final = (b"ratelimit-limit", b"x-ratelimit-limit")
_NUMBER: Final = re.compile(rb"\s*+(\d{1,9})")
_WINDOW: Final = re.compile(rb";\s*+w=(\d{1,9})")


class Incident(NamedTuple):
    """A request that amounts to a security event: its path climbs, or its status is one of `INCIDENT_STATUSES`."""

    climbs: bool
    status: int | None
    method: str
    path: str
    route: str | None
    ip: str | None
    response_headers: Iterable[tuple[bytes, bytes]]

    @staticmethod
    def type_of(status: int | None, *, climbs: bool) -> str:
        """Return the type of the security event that a request amounts to."""
        return "security.path_traversal_attempt" if climbs else _TYPES[status or 0]

    def event(self, actor: ActorInfo | None, *, actor_is_known: bool) -> AuditEvent:
        """Return the security event.

        Args:
            actor: Who asked; None if nobody was authenticated, or it is not known who asked.
            actor_is_known: False if it is not known who asked, so that None does not mean an anonymous request.
        """
        if not self.climbs:
            if self.status == 401:
                user = actor.user_id if actor is not None else None
                ip = self.ip or UNKNOWN_ADDRESS
                return AuthFailure(attempted_user=user, reason="http_401", ip=ip, path=self.path)
            if self.status == 429:
                limit, window_seconds = _limit_stated(self.response_headers)
                return RateLimitExceeded(
                    ip=self.ip or UNKNOWN_ADDRESS,
                    endpoint=self.route or self.path,
                    limit=limit,
                    window_seconds=window_seconds,
                )
        who = actor or nobody(ANONYMOUS if actor_is_known else UNKNOWN, self.ip)
        if self.climbs:
            return PathTraversalAttempt(actor=who, attempted_path=self.path, endpoint=self.route or self.path)
        resource = ResourceInfo(resource_type="path", resource_id=self.path)
        return AuthorizationDenied(actor=who, resource=resource, action=self.method, reason="http_403")


def _limit_stated(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int | None, int | None]:
    """Return the limit and its window in seconds, as the answer's `RateLimit-*` headers state; None if they don't.

    Both the single `RateLimit-Limit` of the older drafts and `RateLimit-Policy` are understood
    (https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/).
    """
    stated = {name.lower(): value for name, value in headers}
    limit = window = None
    for name in _LIMIT_HEADERS:
        if name in stated:
            limit = limit or _NUMBER.match(stated[name])
            window = window or _WINDOW.search(stated[name])
    if b"ratelimit-policy" in stated:
        limit = limit or _NUMBER.match(stated[b"ratelimit-policy"])
        window = window or _WINDOW.search(stated[b"ratelimit-policy"])
    return int(limit[1]) if limit else None, int(window[1]) if window else None
