"""Delivering a trail to the systems that people have: SIEMs, syslog, OpenTelemetry, files, webhooks.

`Deliverer(read_deliver_settings("deliver.toml")).run()` delivers until it is cancelled; the command `audit-async
deliver` does the same as a process of its own, which is how it is meant to run next to services.

At least once: how far a sink has a log is stored after the receiver's answer, so a record may come twice, and its
`audit_id` is the key. Nothing is taken from the service that records: a deliverer only reads the trail. Bringing a
trail to an engine outside the host, as evidence and exactly once, is another thing: `audit_async.forwarding`.
"""

from __future__ import annotations

from audit_async.delivery.copy_check import CopyCheck, CopyFinding, check_copies
from audit_async.delivery.deliver_settings import (
    AlertSettings,
    DeliverSettings,
    FileSettings,
    HttpSettings,
    OtlpSettings,
    SinkSettings,
    StdoutSettings,
    SyslogSettings,
    read_deliver_settings,
)
from audit_async.delivery.deliverable_record import DeliverableRecord, DeliveredLog, EncodedRecord
from audit_async.delivery.deliverer import Deliverer
from audit_async.delivery.delivery_sink import DeliverySink, Outcome, SendResult
from audit_async.delivery.delivery_status import DeliveryState, DeliveryStatus
from audit_async.delivery.http_signature import verify_signature
from audit_async.delivery.position_file import DelivererRuns, StateUnusable
from audit_async.delivery.record_formats import Format

__all__ = [
    "AlertSettings",
    "CopyCheck",
    "CopyFinding",
    "DeliverSettings",
    "DeliverableRecord",
    "DeliveredLog",
    "Deliverer",
    "DelivererRuns",
    "DeliverySink",
    "DeliveryState",
    "DeliveryStatus",
    "EncodedRecord",
    "FileSettings",
    "Format",
    "HttpSettings",
    "OtlpSettings",
    "Outcome",
    "SendResult",
    "SinkSettings",
    "StateUnusable",
    "StdoutSettings",
    "SyslogSettings",
    "check_copies",
    "read_deliver_settings",
    "verify_signature",
]
