"""How long opening takes with a long trail behind it, beside the same active segment alone."""

from __future__ import annotations

import time
from pathlib import Path
from time import perf_counter

from audit_async.chain import Batch, Entry, Framer
from audit_async.config import RotationPolicy
from audit_async.store import LogStore
from bench.frame import Row, median, show, work_directory

_SEALED = 100
_SEGMENT_BYTES = 10 << 20  # 100 of them: a GiB
_ACTIVE_BYTES = 5 << 20
_ROUNDS = 7
_EVENT = b'{"event_type":"bench.filled","text":"%s"}' % (b"x" * 160)


def _open(base_dir: Path) -> LogStore:
    return LogStore.open(base_dir, "bench", "00", rotation=RotationPolicy(max_bytes=_SEGMENT_BYTES))


def _fill(base_dir: Path, *, sealed: int) -> None:
    """Write a log of so many sealed segments and half a segment behind them."""
    store = _open(base_dir)
    framer = Framer(store.head, audit_prefix="0" * 16, service_id="bench")
    written = number = 0
    while written < sealed * _SEGMENT_BYTES + _ACTIVE_BYTES:
        batch = Batch(framer.head)
        now_ns = time.time_ns()
        framer.frame([Entry(number + n, now_ns, _EVENT) for n in range(2000)], batch)
        store.commit(batch, sync=False)
        number += 2000
        written += batch.size
        if store.unsynced_bytes > 8 << 20:
            store.commit(None, sync=True)
    store.commit(None, sync=True)
    store.close()


def _alone(long: Path, short: Path) -> None:
    """Make a log whose only segment is as long as the active one of `long`, to the byte."""
    size = max((long / "bench" / "00").glob("*.audit")).stat().st_size
    store = _open(short)
    framer = Framer(store.head, audit_prefix="0" * 16, service_id="bench")
    number = written = 0
    while True:
        batch = Batch(framer.head)
        framer.frame([Entry(number, time.time_ns(), _EVENT)], batch)
        if written + batch.size > size:
            break
        store.commit(batch, sync=False)
        number += 1
        written += batch.size
    store.commit(None, sync=True)
    store.close()


def _opening_ms(base_dir: Path) -> float:
    began = perf_counter()
    store = _open(base_dir)
    took_ms = (perf_counter() - began) * 1e3
    store.close()
    return took_ms


def run() -> None:
    """Measure, alternating between the two, and print."""
    with work_directory() as directory:
        long, short = directory / "long", directory / "short"
        _fill(long, sealed=_SEALED)
        _alone(long, short)
        in_turn = [(_opening_ms(long), _opening_ms(short)) for _ in range(_ROUNDS)]
        log = long / "bench" / "00"
        segments = sorted(log.glob("*.audit"))
        total_mib = sum(path.stat().st_size for path in segments) / (1 << 20)
        active_mib = segments[-1].stat().st_size / (1 << 20)
    long_ms, short_ms = (median([pair[which] for pair in in_turn]) for which in (0, 1))
    show(
        f"Opening: {len(segments) - 1} sealed segments and an active one ({total_mib:.0f} MiB), and the active alone",
        [
            Row("with the sealed segments", f"{long_ms:.1f} ms"),
            Row(f"the active segment alone ({active_mib:.1f} MiB)", f"{short_ms:.1f} ms"),
            Row("ratio", f"{long_ms / short_ms:.3f}", "<= 1.2"),
        ],
    )
