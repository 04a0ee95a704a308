"""Recording what forwarding has found, in a log of this process."""

from __future__ import annotations

from audit_async._writer.receipts import Receipt
from audit_async.events import AuditEvent, AuditForwardingProblem
from audit_async.forwarding import ShippingFinding
from audit_async.logger.audit_logger import AuditLogger

__all__ = ["record_finding", "record_own"]


def record_finding(logger: AuditLogger, finding: ShippingFinding) -> Receipt:
    """Put a finding into the chain; never waits. Raises as `AuditLogger.emit` does."""
    engine = finding.engine
    event = AuditForwardingProblem(
        log=f"{finding.log.service}/{finding.log.instance}",
        log_id=finding.log.log_id,
        kind=finding.kind,
        reason=finding.reason,
        engine_seq=None if engine is None else engine.seq,
        engine_hash=None if engine is None else engine.hash,
    )
    return record_own(logger, event)


def record_own(logger: AuditLogger, event: AuditEvent) -> Receipt:
    """Put one of the library's own events into the chain, which `emit` refuses; never waits."""
    return logger._intake.emit_on_record(event)  # noqa: SLF001 - the two are one room
