"""Segments, manifest, lock, recovery, rotation, retention: bytes and files.

This room keeps a log on disk and says how far it is durable. It knows no events and no event loop and starts no
thread: every call blocks, and all calls on one log come from one thread, the worker thread, which owns its state.
"""

from audit_async.store.log_store import Committed, DamagedSegment, LogStore
from audit_async.store.manifest import SealedSegment, SegmentState, read_manifest
from audit_async.store.recovery import TornTail
from audit_async.store.retention import (
    Archive,
    Hold,
    RetentionStep,
    Stopped,
    compress_segment,
    open_segment_for_reading,
    plan_retention,
    read_hold,
)

__all__ = [
    "Archive",
    "Committed",
    "DamagedSegment",
    "Hold",
    "LogStore",
    "RetentionStep",
    "SealedSegment",
    "SegmentState",
    "Stopped",
    "TornTail",
    "compress_segment",
    "open_segment_for_reading",
    "plan_retention",
    "read_hold",
    "read_manifest",
]
