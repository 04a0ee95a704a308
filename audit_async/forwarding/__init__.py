"""Forwarding: bringing a log's records to an engine outside the host, and the engines themselves.

A trail that never leaves its host is lost with it, and can be rewritten by whoever owns it. An engine, such as a
PostgreSQL database, is transport and second copy; the evidence stays the chain itself. Every append is conditional on
the head that the engine has, so each record is stored once, and a host whose log was rewritten is refused.

Everything that applications need is imported from this package; its modules are implementation details:

| module | subject |
| --- | --- |
| `identities` | which log of which host and tenant |
| `batches` | consecutive records as raw lines |
| `sink`, `sink_errors` | what an engine can do, and how it fails |
"""

from __future__ import annotations

from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.sink import Sink
from audit_async.forwarding.sink_errors import (
    HeadMoved,
    RecordTooLarge,
    SinkError,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
)

__all__ = [
    "Batch",
    "Head",
    "HeadMoved",
    "LogIdentity",
    "RecordTooLarge",
    "Sink",
    "SinkError",
    "SinkFull",
    "SinkRefused",
    "SinkUnavailable",
]
