"""What was logged with a logging library, if it was chosen to be evidence."""

from __future__ import annotations

from typing import Annotated, Any

from audit_async.events.base import AuditEvent
from audit_async.events.personal import Personal


class LogRecorded(AuditEvent, tag="log.recorded"):
    """A record of a logging library; `occurred_at` is when it was logged.

    `exception` is the class of the exception that was logged with it, never its text or its traceback. `data` is what
    a structured logger was given besides the message: any JSON.
    """

    logger: str
    level: str
    message: Annotated[str, Personal()]
    exception: str | None = None
    data: Annotated[dict[str, Any] | None, Personal()] = None
