"""What was logged with a logging library, if it was chosen to be evidence."""

from __future__ import annotations

from typing import Any

from audit_async.events.base import AuditEvent


class LogRecorded(AuditEvent, tag="log.recorded"):
    """A record of a logging library; `occurred_at` is when it was logged.

    `exception` is the class of the exception that was logged with it, never its text or its traceback. `data` is what
    a structured logger was given besides the message: any JSON.
    """

    logger: str
    level: str
    message: str
    exception: str | None = None
    data: dict[str, Any] | None = None
