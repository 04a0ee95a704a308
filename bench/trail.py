"""Long trails for the benchmarks, written through the store: gigabytes in seconds."""

from __future__ import annotations

import time
from pathlib import Path

from audit_async._chain import Batch, Entry, Framer
from audit_async._store.log_store import LogStore
from audit_async.config import RotationPolicy

SERVICE = "bench"
_EVENT = b'{"event_type":"bench.filled","text":"%s"}' % (b"x" * 160)
_BATCH = 500


def open_store(base_dir: Path, max_bytes: int) -> LogStore:
    """Open the log; a segment of `max_bytes` is sealed."""
    return LogStore.open(base_dir, SERVICE, "00", rotation=RotationPolicy(max_bytes=max_bytes, daily=False))


def fill(base_dir: Path, *, sealed: int, sealed_bytes: int, active_bytes: int) -> int:
    """Write a log of so many sealed segments and an active one after them; return how many records it has.

    The active segment has the same length, to within a record, however many are sealed.
    """
    store = open_store(base_dir, sealed_bytes)
    framer = Framer(store.head, audit_prefix="0" * 16, service_id=SERVICE)
    records = 0
    while _sealed(base_dir) < sealed:
        records = _append(store, framer, records, _BATCH)
    while (room := active_bytes - _newest_bytes(base_dir)) > 0:
        records = _append(store, framer, records, min(_BATCH, 1 + room // 500))
    store.close()
    return records


def _append(store: LogStore, framer: Framer, number: int, count: int) -> int:
    batch = Batch(framer.head)
    now_ns = time.time_ns()
    framer.frame([Entry(number + n, now_ns, _EVENT) for n in range(count)], batch)
    store.commit(batch, sync=store.unsynced_bytes > 8 << 20)
    return number + count


def _sealed(base_dir: Path) -> int:
    return sum(1 for _ in base_dir.rglob("*.audit")) - 1


def _newest_bytes(base_dir: Path) -> int:
    return max(base_dir.rglob("*.audit")).stat().st_size
