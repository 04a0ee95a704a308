"""Trails for the tests of reading: written record by record, with any clock, rotated, archived and deleted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import msgspec

from audit_async._chain import Batch, Entry, Framer, Head
from audit_async._store.archiving import compress_segment
from audit_async._store.log_store import LogStore
from audit_async.config import RotationPolicy
from audit_async.events import Record
from audit_async.reader import AuditQuery, AuditReader
from tests.store.chained import NOON_NS, SERVICE


class WrittenLog:
    """One log that a test writes as the writer would, one commit at a time; `lines` holds all that was written."""

    def __init__(self, base_dir: Path, instance: str = "00", *, max_bytes: int = 2048, service: str = SERVICE) -> None:
        rotation = RotationPolicy(max_bytes=max_bytes)
        self.name = f"{service}/{instance}"
        self.directory = base_dir / service / instance
        self.store = LogStore.open(base_dir, service, instance, rotation=rotation)
        self.lines: list[bytes] = []
        self.now_ns = NOON_NS
        prefix = sha256(self.name.encode()).hexdigest()[:16]
        self._framer = Framer(self.store.head, audit_prefix=prefix, service_id=service)

    def write(self, *events: bytes | dict[str, Any], step_ns: int = 1_000_000, sync: bool = True) -> Head:
        """Commit a record for each event: JSON as it stands (also with a context behind it), or plain data."""
        batch = Batch(self._framer.head)
        entries: list[Entry] = []
        for event in events:
            encoded = event if isinstance(event, bytes) else msgspec.json.encode(event)
            entries.append(Entry(len(self.lines) + len(entries), self.now_ns, encoded))
            self.now_ns += step_ns
        self._framer.frame(entries, batch)
        self.lines += batch.lines
        self.store.commit(batch, sync=sync)
        return batch.head

    def sealed(self) -> Sequence[str]:
        """Return the names of the sealed segments, oldest first, once all that are finished are."""
        self.store.commit(None, sync=True)
        return [entry.segment for entry in self.store.sealed_segments]

    def archive(self, names: Iterable[str]) -> None:
        """Archive these segments, as far as they are not."""
        entries = {entry.segment: entry for entry in self.store.sealed_segments if entry.state == "live"}
        for name in entries.keys() & set(names):
            self.store.archive_segments([compress_segment(self.directory, entries[name])])

    def delete(self, name: str) -> None:
        """Delete a segment, and forget its lines."""
        entry = next(entry for entry in self.store.sealed_segments if entry.segment == name)
        self.store.delete_segments([name])
        for seq in range(entry.first_seq, entry.last_seq + 1):
            self.lines[seq] = b""

    def close(self) -> None:
        """Let go of the log."""
        self.store.close()


def ask(base_dir: Path, query: AuditQuery | None = None, **how: Any) -> list[Record]:
    """Return all that a query gives, from a loop of its own."""

    async def collect() -> list[Record]:
        return [record async for record in AuditReader(base_dir).query(query or AuditQuery(), **how)]

    return anyio.run(collect)


def hashes(records: Iterable[Record]) -> list[str]:
    """Return what tells records apart."""
    return [record.hash for record in records]


def hash_of(line: bytes) -> str:
    """Return the hash that a line claims."""
    return line[-67:-3].decode()
