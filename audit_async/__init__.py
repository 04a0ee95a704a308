"""audit_async: an append-only, tamper-evident audit trail for asyncio services.

    async with AuditLogger(AuditConfig(mode=Local("./audit"), service_id="orders")) as audit:
        receipt = audit.emit(AuthFailure(reason="bad_password", ip="203.0.113.9", path="/login"))
        await receipt.durable()

The events are in `audit_async.events`, the errors in `audit_async.errors`.
"""

from typing import TYPE_CHECKING, Final

from audit_async._first_use import imported_at_first_use
from audit_async._version import __version__

if TYPE_CHECKING:
    from audit_async._layout.hold_file import Hold
    from audit_async._redact.fingerprint import fingerprint_secret, fingerprint_token
    from audit_async._redact.redactor import Redactor
    from audit_async._writer.erasure_report import ErasureReport
    from audit_async._writer.receipts import Receipt
    from audit_async._writer.upkeep import RetentionOutcome, RetentionReport
    from audit_async.ambient import acting_as, audited, current_actor, get_audit, set_audit, use_audit
    from audit_async.config import (
        AuditConfig,
        Batched,
        Disabled,
        Hybrid,
        Immediate,
        Local,
        Redaction,
        RetentionPolicy,
        RotationPolicy,
        Transparency,
    )
    from audit_async.context import audit_context, bind_context, current_context, unbind_context
    from audit_async.errors import (
        AuditError,
        BufferFull,
        ConfigError,
        InvalidEvent,
        LogClosed,
        LogCorrupted,
        LogLocked,
        RetentionRefused,
        WriteFailed,
    )
    from audit_async.events import ActorInfo, AuditEvent, AuthMethod, ResourceInfo
    from audit_async.logger import AuditLogger, run
    from audit_async.reader import AuditQuery, AuditReader
    from audit_async.status import Commit, Health, HealthStatus, Histogram, LoggerStats, Position

__all__ = [
    "ActorInfo",
    "AuditConfig",
    "AuditError",
    "AuditEvent",
    "AuditLogger",
    "AuditQuery",
    "AuditReader",
    "AuthMethod",
    "Batched",
    "BufferFull",
    "Commit",
    "ConfigError",
    "Disabled",
    "ErasureReport",
    "Health",
    "HealthStatus",
    "Histogram",
    "Hold",
    "Hybrid",
    "Immediate",
    "InvalidEvent",
    "Local",
    "LogClosed",
    "LogCorrupted",
    "LogLocked",
    "LoggerStats",
    "Position",
    "Receipt",
    "Redaction",
    "Redactor",
    "ResourceInfo",
    "RetentionOutcome",
    "RetentionPolicy",
    "RetentionRefused",
    "RetentionReport",
    "RotationPolicy",
    "Transparency",
    "WriteFailed",
    "__version__",
    "acting_as",
    "audit_context",
    "audited",
    "bind_context",
    "current_actor",
    "current_context",
    "fingerprint_secret",
    "fingerprint_token",
    "get_audit",
    "run",
    "set_audit",
    "unbind_context",
    "use_audit",
]

# Imported when it is first asked for: a command that only reads, or one of the processes that verify, starts in half
# the time without the writing half of the package.
_HOMES: Final = {
    "audit_async.ambient": (
        "acting_as",
        "audited",
        "current_actor",
        "get_audit",
        "set_audit",
        "use_audit",
    ),
    "audit_async.config": (
        "AuditConfig",
        "Batched",
        "Disabled",
        "Hybrid",
        "Immediate",
        "Local",
        "Redaction",
        "RetentionPolicy",
        "RotationPolicy",
        "Transparency",
    ),
    "audit_async.context": (
        "audit_context",
        "bind_context",
        "current_context",
        "unbind_context",
    ),
    "audit_async.errors": (
        "AuditError",
        "BufferFull",
        "ConfigError",
        "InvalidEvent",
        "LogClosed",
        "LogCorrupted",
        "LogLocked",
        "RetentionRefused",
        "WriteFailed",
    ),
    "audit_async.events.base": (
        "ActorInfo",
        "AuditEvent",
        "AuthMethod",
        "ResourceInfo",
    ),
    "audit_async.logger": (
        "AuditLogger",
        "run",
    ),
    "audit_async.reader": (
        "AuditQuery",
        "AuditReader",
    ),
    "audit_async._writer.receipts": ("Receipt",),
    "audit_async._redact.fingerprint": (
        "fingerprint_secret",
        "fingerprint_token",
    ),
    "audit_async._redact.redactor": ("Redactor",),
    "audit_async.status": (
        "Commit",
        "Health",
        "HealthStatus",
        "Histogram",
        "LoggerStats",
        "Position",
    ),
    "audit_async._layout.hold_file": ("Hold",),
    "audit_async._writer.erasure_report": ("ErasureReport",),
    "audit_async._writer.upkeep": (
        "RetentionOutcome",
        "RetentionReport",
    ),
}

if not TYPE_CHECKING:  # or a type checker would believe in every name
    __getattr__, __dir__ = imported_at_first_use(__name__, _HOMES)
