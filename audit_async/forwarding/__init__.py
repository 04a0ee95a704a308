"""Forwarding: bringing a log's records to an engine outside the host, and the engines themselves.

A trail that never leaves its host is lost with it, and can be rewritten by whoever owns it. An engine, such as a
PostgreSQL database, is transport and second copy; the evidence stays the chain itself. Every append is conditional on
the head that the engine has, so each record is stored once, and a host whose log was rewritten is refused.

Everything that applications need is imported from this package; its modules are implementation details:

| module | subject |
| --- | --- |
| `identities` | which log of which host and tenant |
| `batches` | consecutive records as raw lines |
| `shipping` | one log on its way to an engine |
| `trusted_collectors` | what the known collectors say of a log |
| `forwarder` | all logs of a base directory |
| `sinks` | the engine that a URL names |
| `log_tail` | a log's acknowledged records, as raw lines |
| `sink`, `sink_errors` | what an engine can do, and how it fails |
| `directory_sink` | a directory as a sink, such as a removable medium |
| `collector`, `collector_root` | receiving logs into ordinary log directories |
| `confirmations` | what a collector has of a log, signed |
| `engine_admin` | preparing and checking an engine, and rights for hosts |
| `postgres_sink` | PostgreSQL as a sink |
| `postgres_engine`, `postgres_checks`, `postgres_schema` | preparing and checking a PostgreSQL engine |
| `postgres_connection` | connecting to it |
| `nats_sink` | NATS JetStream as a sink |
| `nats_names`, `nats_messages` | what a log is called there, and how a message looks |
| `nats_engine`, `nats_checks`, `nats_streams`, `nats_accounts` | preparing and checking a NATS engine |
| `nats_connection` | connecting to its servers |
| `worm_archive` | sealed segments in S3 Object Lock, and logs made of them again |
| `worm_bucket`, `worm_objects`, `worm_lock` | the bucket, what its objects are called, whether it really locks |
| `worm_push`, `worm_restore`, `worm_receipts` | storing, restoring, what is known to be stored |
| `worm_holds`, `worm_retention` | legal holds, and lengthening the time of what is stored |

PostgreSQL needs psycopg, which the extra `postgres` installs: `pip install 'audit-async[postgres]'`; NATS needs
nats-py, which `pip install 'audit-async[nats]'` installs; a bucket needs boto3, which `pip install 'audit-async[s3]'`
installs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from audit_async._first_use import Needed, imported_at_first_use
from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.collector import Collector, Round, Shard
from audit_async.forwarding.collector_root import CollectorRunning, Finding
from audit_async.forwarding.confirmations import (
    BucketCopy,
    Confirmation,
    ConfirmationExpired,
    ConfirmationInvalid,
    UnknownCollector,
    check_confirmations,
)
from audit_async.forwarding.directory_sink import DirectorySink
from audit_async.forwarding.engine_admin import CheckedSetting, Engine, Granted, Limits, Trimmed, open_engine
from audit_async.forwarding.forwarder import Forwarder
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.log_tail import LogDiffers, RecordsUnreadable, durable_tail
from audit_async.forwarding.shipping import ShippingFinding, ShippingState, ShippingStatus
from audit_async.forwarding.sink import Sink
from audit_async.forwarding.sink_errors import (
    HeadMoved,
    RecordTooLarge,
    SinkError,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
)
from audit_async.forwarding.sinks import open_sink

if TYPE_CHECKING:
    from audit_async.forwarding.nats_sink import NatsSink
    from audit_async.forwarding.postgres_sink import PostgresSink
    from audit_async.forwarding.worm_archive import LogInBucket, LogStatus, WormArchive
    from audit_async.forwarding.worm_holds import HeldLog
    from audit_async.forwarding.worm_push import PushedLog
    from audit_async.forwarding.worm_restore import RestoredLog
    from audit_async.forwarding.worm_retention import LengthenedLog

__all__ = [
    "Batch",
    "BucketCopy",
    "CheckedSetting",
    "Collector",
    "CollectorRunning",
    "Confirmation",
    "ConfirmationExpired",
    "ConfirmationInvalid",
    "DirectorySink",
    "Engine",
    "Finding",
    "Forwarder",
    "Granted",
    "Head",
    "HeadMoved",
    "HeldLog",
    "LengthenedLog",
    "Limits",
    "LogDiffers",
    "LogIdentity",
    "LogInBucket",
    "LogStatus",
    "NatsSink",
    "PostgresSink",
    "PushedLog",
    "RecordTooLarge",
    "RecordsUnreadable",
    "RestoredLog",
    "Round",
    "Shard",
    "ShippingFinding",
    "ShippingState",
    "ShippingStatus",
    "Sink",
    "SinkError",
    "SinkFull",
    "SinkRefused",
    "SinkUnavailable",
    "Trimmed",
    "UnknownCollector",
    "WormArchive",
    "check_confirmations",
    "durable_tail",
    "open_engine",
    "open_sink",
]

# Imported when they are first asked for, since they need extras.
_HOMES: Final = {
    "audit_async.forwarding.nats_sink": ("NatsSink",),
    "audit_async.forwarding.postgres_sink": ("PostgresSink",),
    "audit_async.forwarding.worm_archive": ("LogInBucket", "LogStatus", "WormArchive"),
    "audit_async.forwarding.worm_holds": ("HeldLog",),
    "audit_async.forwarding.worm_push": ("PushedLog",),
    "audit_async.forwarding.worm_restore": ("RestoredLog",),
    "audit_async.forwarding.worm_retention": ("LengthenedLog",),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = imported_at_first_use(
        __name__, _HOMES, Needed("psycopg", "postgres"), Needed("nats", "nats"), Needed("boto3", "s3")
    )
