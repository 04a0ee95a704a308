"""Background jobs: what a worker ran, for whom, and how it ended."""

from __future__ import annotations

from typing import Annotated, Any

from audit_async.events.base import ActorInfo, AuditEvent, AuditResult
from audit_async.events.personal import Personal


class JobEnded(AuditEvent, tag="job.ended"):
    """A run of a background job has ended; each attempt of a job that is retried is a run.

    `actor` is on whose behalf the job was asked for. `duration_ms` is left out if the job did not run, or the process
    that ran it is gone.
    """

    actor: ActorInfo | None = None
    job: str
    job_id: str
    attempt: int
    result: AuditResult
    queue: str | None = None
    duration_ms: int | None = None
    arguments: Annotated[dict[str, Any] | None, Personal()] = None
