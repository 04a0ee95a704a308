"""What the machine can do without this library: the limits that figures are shown next to, from the same run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from time import perf_counter

#: The size that the limits are taken at: what a well-filled group commit hands over at a time.
BATCH_BYTES = 256 * 1024


class RawFile:
    """Write and fdatasync on a file of its own, nothing else."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(directory / "raw", flags, 0o600)

    def write_and_sync(self, data: bytes) -> float:
        """Append `data` and sync; return how many seconds it took."""
        began = perf_counter()
        os.write(self._descriptor, data)
        os.fdatasync(self._descriptor)
        return perf_counter() - began

    def write_in_batches(self, total_bytes: int, batch_bytes: int = BATCH_BYTES) -> float:
        """Append `total_bytes`, syncing each batch; return how many seconds it took."""
        batch = os.urandom(batch_bytes)
        return sum(self.write_and_sync(batch) for _ in range(max(1, total_bytes // batch_bytes)))

    def write_in_sequence(self, total_bytes: int, batch_bytes: int = BATCH_BYTES) -> float:
        """Append `total_bytes` and sync once at the end; return how many seconds it took."""
        batch = os.urandom(batch_bytes)
        began = perf_counter()
        for _ in range(max(1, total_bytes // batch_bytes)):
            os.write(self._descriptor, batch)
        os.fdatasync(self._descriptor)
        return perf_counter() - began

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def hashing(total_bytes: int, record_bytes: int) -> float:
    """Return how many seconds SHA-256 takes over that many bytes in records of that size: hashlib, nothing else."""
    record = os.urandom(record_bytes)
    sha256 = hashlib.sha256
    began = perf_counter()
    for _ in range(max(1, total_bytes // record_bytes)):
        sha256(record).hexdigest()
    return perf_counter() - began
