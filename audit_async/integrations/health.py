"""Readiness: does the audit log take events, and do they become durable? For load balancers and orchestrators.

    ready, answer = readiness(audit)                                        # in an endpoint of your own
    app.add_route("/ready", ReadinessEndpoint(lambda: app.state.audit))     # Starlette, FastAPI; or any ASGI server

A service that must not act unrecorded takes no traffic while this says no. Use it for readiness, not for liveness: a
full disk is not repaired by killing the process, which still holds what the disk did not take.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgspec

from audit_async.errors import AuditError
from audit_async.integrations._endpoint import Endpoint, Scope
from audit_async.integrations._logger_source import LoggerSource, check_source, logger_from
from audit_async.status import HealthStatus
from audit_async.sync import SyncAuditLogger

__all__ = ["LoggerSource", "ReadinessEndpoint", "readiness"]

#: From here on the buffer takes critical events only.
_FULL: Final = 0.9


def readiness(audit: LoggerSource, *, details: bool = False) -> tuple[bool, dict[str, object]]:
    """Return whether the log is ready, and what to answer: cheap, from any thread.

    Args:
        audit: The logger, or a function that returns it and None while there is none.
        details: Add numbers, and the reason, which may name directories: for those who run the service.

    Returns:
        True if what is emitted now is taken and becomes durable. The answer is `{"status": ...}`, a word that gives
        nothing away to strangers: a `HealthStatus`, or `buffer_full` if only critical events are still taken. That the
        log's own verification has found something (`invalid`) is in the details alone.

    Raises:
        ConfigError: `audit` is something else.
    """
    logger = logger_from(check_source(audit))
    if logger is None:
        return False, {"status": HealthStatus.NOT_STARTED.value}
    if isinstance(logger, SyncAuditLogger):
        with suppress(AuditError, OSError):  # the health says it
            logger.open_in_child()  # or a worker that was forked and has recorded nothing yet would never be ready
    health = logger.health()
    full = health.ok and health.buffer_fill >= _FULL
    # Who changed the trail must not learn here that it was found; operators see it in `details`, and in the metrics.
    status = HealthStatus.OK if health.status is HealthStatus.INVALID and not details else health.status
    answer: dict[str, object] = {"status": "buffer_full" if full else status.value}
    if details:
        stats = logger.stats()
        answer |= {
            "reason": health.reason,
            "since": health.since,
            "durable_seq": health.durable_seq,
            "waiting_events": health.waiting_events,
            "buffer_fill": round(health.buffer_fill, 4),
            "dropped": stats.dropped,
            "verified_seq": health.verified_seq,
            "findings": health.findings,
            "since_sync_s": stats.since_sync_s,
            "free_bytes": stats.free_bytes,
        }
    return health.ok and not full, answer


class ReadinessEndpoint(Endpoint):
    """An ASGI application that answers GET and HEAD with `readiness`: 200 if the log is ready, otherwise 503.

    A route of Starlette or FastAPI (`app.add_route("/ready", ReadinessEndpoint(audit))`), a mount of any framework, or
    an application of its own.

    Args:
        audit: The logger, or a function that returns it and None while there is none.
        details: Answer with numbers and the reason as well. That belongs behind an authentication, or on a port that
            only operators reach.

    Raises:
        ConfigError: `audit` is something else.
    """

    def __init__(self, audit: LoggerSource, *, details: bool = False) -> None:
        self._source: Final = check_source(audit)
        self._details: Final = details

    def answer(self, _scope: Scope) -> tuple[int, str, bytes]:
        """Return status, content type and body."""
        ready, answer = readiness(self._source, details=self._details)
        return 200 if ready else 503, "application/json", msgspec.json.encode(answer)
