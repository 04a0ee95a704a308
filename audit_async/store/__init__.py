"""The store: segments, manifest, lock, recovery, rotation. Bytes and files; no events, no loop, no threads."""

from audit_async.store.log_store import Committed, DamagedSegment, LogStore
from audit_async.store.manifest import SealedSegment
from audit_async.store.recovery import TornTail

__all__ = ["Committed", "DamagedSegment", "LogStore", "SealedSegment", "TornTail"]
