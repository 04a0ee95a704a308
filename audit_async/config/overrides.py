"""The settings of `AuditConfig` by name, each optional: as a preset sets them, and as a caller replaces them."""

from __future__ import annotations

from typing import Literal, TypedDict

from audit_async.config.flush_mode import FlushMode
from audit_async.config.forward_settings import Forward
from audit_async.config.mode import Mode
from audit_async.config.privacy_settings import Privacy
from audit_async.config.redaction import Redaction
from audit_async.config.segments import RetentionPolicy, RotationPolicy
from audit_async.config.transparency import Transparency
from audit_async.config.verification_settings import Verification


class Overrides(TypedDict, total=False):
    """The settings of `AuditConfig` by name, each optional."""

    mode: Mode
    service_id: str
    flush_mode: FlushMode
    rotation: RotationPolicy
    retention: RetentionPolicy
    instance: str | None
    buffer_events: int
    buffer_bytes: int
    on_unsafe: Literal["escape", "reject"]
    max_field_chars: int
    max_event_bytes: int
    redaction: Redaction
    transparency: Transparency | None
    verification: Verification | None
    privacy: Privacy | None
    forward: Forward | None
    drain_timeout: float
    handle_signals: bool
    allow_insecure_dir: bool
    low_disk_bytes: int
