"""audit_async: an append-only, tamper-evident audit trail for asyncio services.

    async with AuditLogger(AuditConfig(mode=Local("./audit"), service_id="orders")) as audit:
        receipt = audit.emit(AuthFailure(reason="bad_password", ip="203.0.113.9", path="/login"))
        await receipt.durable()

The events stand in `audit_async.events`, the errors in `audit_async.errors`.
"""

from audit_async._version import __version__
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
from audit_async.events.base import ActorInfo, AuditEvent, AuthMethod, ResourceInfo
from audit_async.logger import AuditLogger, run
from audit_async.receipt import Receipt
from audit_async.safety.fingerprint import fingerprint_secret, fingerprint_token
from audit_async.safety.redaction import Redactor
from audit_async.status import Commit, Health, HealthStatus, Histogram, LoggerStats, Position
from audit_async.store import Hold
from audit_async.upkeep import RetentionOutcome, RetentionReport

__all__ = [
    "ActorInfo",
    "AuditConfig",
    "AuditError",
    "AuditEvent",
    "AuditLogger",
    "AuthMethod",
    "Batched",
    "BufferFull",
    "Commit",
    "ConfigError",
    "Disabled",
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
    "audit_context",
    "bind_context",
    "current_context",
    "fingerprint_secret",
    "fingerprint_token",
    "run",
    "unbind_context",
]
