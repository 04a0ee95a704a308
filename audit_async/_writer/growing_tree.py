"""The signed tree of a log that is being written: opened, fed with the hashes of durable records, opened again.

After any error neither the tree nor the reader of the records is believed: a reader that has passed hashes which never
arrived in the tree would leave a gap in it, or wait for ever for what it has read already. Both are then made from what
is on the disk.

A tree can grow over a record only while this host can read the record, or at least has its hash. Retention deletes and
encrypts nothing that the published tree does not cover (`CheckpointLog.cover`); a tree that is lost, or that was put
back from an earlier time, is refused when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._trail.log_files import Log
from audit_async._trail.record_hashes import RecordHashes
from audit_async.errors import ConfigError
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.failures import InconsistentLog, PublisherStopped
from audit_async.tlog.proof import TlogProof
from audit_async.tlog.signed_tree import SignedTree

#: Takes the number of durable records and a function that returns the hash of one of them, and opens the tree.
TreeOpener = Callable[[int, Callable[[int], bytes]], SignedTree]


class GrowingTree:
    """The tree of one open log, and the reader of its records.

    Called from one thread, which owns every field; any other may read `size`, `published` and the key changes.
    """

    def __init__(self, log: Log, open_tree: TreeOpener, *, records: int) -> None:
        """Open the tree of a log that has `records` durable records.

        Raises:
            InconsistentLog: The log is not what was signed before.
            ConfigError: Records that the tree needs were deleted, or are encrypted.
            TilesDamaged: A published file is missing or damaged.
            LogCorrupted, OSError: The log or the tree can't be read.
        """
        self._log: Final = log
        self._open_tree: Final = open_tree
        self._broken = False  # since an error: to be opened again before its next use
        self._tree = self._opened(records)
        self._hashes = RecordHashes(log, self._tree.size - 1)

    def __repr__(self) -> str:
        state = " broken" if self._broken else ""
        return f"<GrowingTree {self._log.name} size={self.size}{state}>"

    @property
    def size(self) -> int:
        """How many leaves it has."""
        return self._tree.size

    @property
    def published(self) -> SignedCheckpoint | None:
        """The checkpoint that readers see."""
        return self._tree.published

    @property
    def added_keys(self) -> tuple[str, ...]:
        """Keys that sign, and that the published key file did not name at the opening."""
        return self._tree.added_keys

    @property
    def retired_keys(self) -> tuple[str, ...]:
        """Keys that the published key file named at the opening, and that don't sign any more."""
        return self._tree.retired_keys

    # -- changing it: after an error it is opened again ----------------------------------------------------------------

    def append_piece(self, durable_seq: int, most: int) -> int:
        """Append about `most` hashes of the next records, none after `durable_seq`; return how many are missing then.

        Each call makes progress or raises, so a loop over it ends.
        """
        with self._changing(durable_seq + 1) as tree:
            before = tree.size
            if before > durable_seq:
                return durable_seq + 1 - before
            if self._hashes.next_seq != before:  # else another record's hash would become this leaf
                raise PublisherStopped(
                    f"the hashes of {self._log.name} are read from record {self._hashes.next_seq} on, and the tree "
                    f"needs record {before}; it is opened again"
                )
            tree.append(self._hashes.read(durable_seq, most))
            if tree.size == before:
                raise PublisherStopped(f"no hash of record {before} of {self._log.name} was found; it is opened again")
            return durable_seq + 1 - tree.size

    def prepare(self, durable_seq: int) -> Checkpoint:
        """Make durable what a checkpoint over the present tree needs, and commit the log to it."""
        with self._changing(durable_seq + 1) as tree:
            return tree.prepare()

    def publish(self, signed: SignedCheckpoint, durable_seq: int) -> None:
        """Publish a checkpoint that was prepared before."""
        with self._changing(durable_seq + 1) as tree:
            tree.publish(signed)

    @contextmanager
    def _changing(self, records: int) -> Iterator[SignedTree]:
        tree = self._current(records)
        try:
            yield tree
        except InconsistentLog:  # the tree itself refuses every further call with it
            raise
        except BaseException:
            self._broken = True
            raise

    # -- reading -------------------------------------------------------------------------------------------------------

    def prove(self, seq: int, record_hash: bytes, durable_seq: int) -> TlogProof:
        """Return the evidence for a record against the published checkpoint; raises `NotCovered` if it is in none."""
        return self._current(durable_seq + 1).prove(seq, record_hash)

    def consistency(self, old_size: int, new_size: int, durable_seq: int) -> list[bytes]:
        """Return the consistency proof between two sizes; `new_size` is that of a checkpoint."""
        return self._current(durable_seq + 1).consistency(old_size, new_size)

    # -- opening and closing -------------------------------------------------------------------------------------------

    def _current(self, records: int) -> SignedTree:
        """Return the tree, opened again if it is broken."""
        if self._broken:
            self._tree.close()
            self._tree = self._opened(records)
            self._hashes = RecordHashes(self._log, self._tree.size - 1)
            self._broken = False
        return self._tree

    def _opened(self, records: int) -> SignedTree:
        tree = self._open_tree(records, self._record_hash)
        try:
            self._require_records_from(tree.size)
        except BaseException:
            tree.close()
            raise
        return tree

    def _record_hash(self, seq: int) -> bytes:
        """Return a record's hash; one that can't be read is in the manifest if it is the last one of its segment."""
        self._require_records_from(seq + 1)
        for entry in read_manifest(self._log.directory):
            if entry.last_seq == seq and _is_unreadable(entry):
                return bytes.fromhex(entry.hash)
        return RecordHashes(self._log, seq - 1).read(seq, 1)[0]

    def _require_records_from(self, size: int) -> None:
        """Refuse a log of which this host can't read records from `size` on: the tree can never get past them.

        What the chain records of earlier checkpoints can't be read in there either, so it is not known what was signed.
        """
        unreadable = [
            entry for entry in read_manifest(self._log.directory) if _is_unreadable(entry) and entry.last_seq >= size
        ]
        if not unreadable:
            return
        states = {"encrypted" if entry.is_encrypted else entry.state for entry in unreadable}
        what = "no checkpoint was signed before" if size == 0 else f"the signed tree ends at record {size - 1}"
        raise ConfigError(
            "transparency",
            f"{self._log.name} can't be signed: records {max(size, unreadable[0].first_seq)} to "
            f"{unreadable[-1].last_seq} are {' or '.join(sorted(states))}, and {what}. A tree over a log needs the "
            "hash of every record. Set `instance` to a name "
            "that is not used yet, so that a new log begins, which is signed from its first record on (this one stays "
            "readable and verifiable by its chain); or leave `transparency` out. If its directory `tlog` was moved "
            "away, put it back",
        )

    def close(self) -> None:
        """Close all files; what was appended since the last `prepare` is appended again after the next opening."""
        self._tree.close()


def _is_unreadable(entry: SealedSegment) -> bool:
    """Return whether this host, which has no identity, can't read a segment's records."""
    return entry.state in {"deleted", "lost"} or entry.is_encrypted
