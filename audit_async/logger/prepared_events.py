"""The way into a log for integrations that encode an event themselves: `Intake.emit_prepared`."""

from __future__ import annotations

from audit_async._writer.intake import Intake
from audit_async.logger.audit_logger import OWN_EMIT, AuditLogger

__all__ = ["OWN_EMIT", "intake_of"]


def intake_of(audit: object) -> Intake | None:
    """Return the intake of a log that takes events of an event loop's thread; None for any other."""
    return audit._intake if type(audit) is AuditLogger else None  # noqa: SLF001 - this module is the logger's own
