"""A stand-in for the writer: frames records and hands them to a store, and remembers what was acknowledged."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from audit_async._chain import START, Batch, Entry, Framer, Head
from audit_async._layout.manifest import SealedSegment
from audit_async._store.damage import DamagedSegment
from audit_async._store.log_store import Committed, LogStore
from audit_async.config import RotationPolicy
from tests.trails import check_trail

SERVICE = "orders"
DAY_NS = 86_400 * 10**9
#: 2026-11-22T12:00:00Z
NOON_NS = 1_795_348_800 * 10**9


class Chain:
    """One chain of records across any number of openings; `lines[seq]` is what was framed for that seq."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.heads: list[Head] = []
        self.now_ns = NOON_NS
        self.number = 0

    def batch(self, count: int = 1, *, event_bytes: int = 100, step_ns: int = 1_000_000) -> Batch:
        """Frame `count` further records of about `event_bytes`, `step_ns` apart."""
        events = [b'{"event_type":"test.filled","text":"%s"}' % (b"x" * event_bytes) for _ in range(count)]
        return self.batch_of(events, step_ns=step_ns)

    def batch_of(self, events: list[bytes], *, step_ns: int = 1_000_000) -> Batch:
        """Frame these encoded events."""
        after = self.head
        batch = Batch(after)
        entries = []
        for event in events:
            entries.append(Entry(self.number, self.now_ns, event))
            self.number += 1
            self.now_ns += step_ns
        Framer(after, audit_prefix="5f0c1e9b7a3d2c48", service_id=SERVICE).frame(entries, batch)
        self.lines += batch.lines
        self.heads += [Head(entry.seq, entry.hash.encode()) for entry in entries]
        return batch

    @property
    def head(self) -> Head:
        """The head of what was framed."""
        return self.heads[-1] if self.heads else START

    def rewind_to(self, head: Head) -> None:
        """Forget what was framed behind `head`: a crash lost it."""
        del self.lines[head.seq + 1 :]
        del self.heads[head.seq + 1 :]
        assert self.head == head

    def holds(self, head: Head) -> bool:
        """Return whether `head` is one of this chain."""
        return head == START or (head.seq < len(self.heads) and self.heads[head.seq] == head)


def open_store(
    base_dir: Path,
    *,
    max_bytes: int = 1 << 20,
    daily: bool = True,
    instance: str | None = "00",
    service: str = SERVICE,
) -> LogStore:
    """Open a log, of the service `orders` unless another is named."""
    return LogStore.open(base_dir, service, instance, rotation=RotationPolicy(max_bytes=max_bytes, daily=daily))


def log_path(base_dir: Path) -> Path:
    """Return the log's directory."""
    return base_dir / SERVICE / "00"


def segments(base_dir: Path) -> list[str]:
    """Return the names of the live segments, in order."""
    return sorted(path.name for path in log_path(base_dir).glob("*.audit"))


def stored_lines(base_dir: Path) -> list[bytes]:
    """Return every live record, in order, each seq once; the chain is verified by the independent check, too."""
    with redirect_stdout(StringIO()):  # it prints the head, thousands of times over
        check_trail(log_path(base_dir))
    by_seq: dict[bytes, bytes] = {}
    for name in segments(base_dir):
        for line in (log_path(base_dir) / name).read_bytes().splitlines(keepends=True):
            by_seq.setdefault(line.partition(b",")[0], line)
    return list(by_seq.values())


def commit_until_it_works(store: LogStore, batch: Batch | None, *, tries: int = 200) -> list[Committed]:
    """Commit and sync as the writer does: try again for as long as the disk refuses."""
    for _ in range(tries):
        try:
            return [store.commit(batch, sync=True)]
        except OSError:
            batch = None
    raise AssertionError(f"the disk was mended, but {tries} tries did not succeed")


def told(committed: list[Committed]) -> tuple[list[SealedSegment], list[DamagedSegment]]:
    """Return what was reported as sealed and as damaged."""
    return [s for c in committed for s in c.sealed], [d for c in committed for d in c.damaged]


@contextmanager
def memory_directory() -> Iterator[Path]:
    """Give a private directory in memory where there is one: for tests that open a log thousands of times."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory, prefix="audit-async-") as name:
        yield Path(name)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Like `memory_directory`, as a fixture."""
    with memory_directory() as path:
        yield path
