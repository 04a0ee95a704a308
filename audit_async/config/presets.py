"""What each preset sets; which clause of which standard that follows from, `AuditConfig.preset` says."""

from __future__ import annotations

from typing import Final, Literal

from audit_async.config.flush_mode import Batched, Hybrid
from audit_async.config.overrides import Overrides
from audit_async.config.segments import RetentionPolicy, RotationPolicy
from audit_async.config.setting import GIB, MIB

#: The starting points that `AuditConfig.preset` knows.
PresetName = Literal["gdpr", "soc2", "iso27001", "hipaa", "pci_dss", "eu_ai_act", "throughput", "home_lab"]

PRESETS: Final[dict[str, Overrides]] = {
    # The presets of standards keep the flush mode Immediate: none of the standards tolerates a gap.
    "gdpr": {
        "retention": RetentionPolicy(min_retention_days=180, archive_after_days=90, delete_after_days=365),
    },
    "soc2": {
        "retention": RetentionPolicy(min_retention_days=365, archive_after_days=90, delete_after_days=455),
    },
    "iso27001": {
        "retention": RetentionPolicy(min_retention_days=1096, archive_after_days=90, delete_after_days=1096),
    },
    "hipaa": {
        "retention": RetentionPolicy(min_retention_days=2192, archive_after_days=90, delete_after_days=2555),
    },
    "pci_dss": {
        "retention": RetentionPolicy(min_retention_days=366, archive_after_days=92, delete_after_days=397),
    },
    "eu_ai_act": {
        "retention": RetentionPolicy(min_retention_days=184, archive_after_days=92, delete_after_days=731),
    },
    "throughput": {
        "flush_mode": Batched(size=10_000, interval=1.0),
        "rotation": RotationPolicy(max_bytes=1 * GIB),
        "buffer_events": 200_000,
        "buffer_bytes": 256 * MIB,
    },
    "home_lab": {
        "flush_mode": Hybrid(batch_size=100, batch_interval=5.0),
        "rotation": RotationPolicy(max_bytes=8 * MIB),
        "retention": RetentionPolicy(min_retention_days=7, archive_after_days=14, delete_after_days=90),
        "buffer_events": 1_000,
        "buffer_bytes": 1 * MIB,
        "low_disk_bytes": 16 * MIB,
    },
}
