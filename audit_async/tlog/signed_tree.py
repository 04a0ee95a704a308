"""A log's tree on disk, and the checkpoints that it may sign: never two that contradict each other.

The story of a checkpoint, each step durable before the next:

    append      record hashes in; full tiles and bundles are written as they fill
    prepare     partial tiles and bundles, all synced; then the guard: from now on this is our only history
    (sign)      by the caller, with keys.sign_checkpoint
    publish     `vkey`, then `checkpoint` is replaced

A crash between any two steps leaves a log that goes on: the next opening begins at the guard, with the tiles that
were durable before it. What would make two histories is refused by `LogForked` or `LogRolledBack`, before anything
is signed: every checkpoint that is known (from the guards, the published one, those that the caller brings) must be
what the records lead to.

What local files can't show is found by others: if log, guards and publication all came back from one backup, only a
witness or a monitor remembers more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from audit_async.errors import ConfigError
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.commitments import Commitments
from audit_async.tlog.failures import InvalidSignature, LogForked, Malformed, NotCovered, PublisherStopped, TilesDamaged
from audit_async.tlog.guard import GUARD_FILE, Guard
from audit_async.tlog.merkle import HASH_SIZE, complete_root, consistency_proof, leaf_hash, leaf_hashes, tree_root
from audit_async.tlog.notes import VerifierKey, verify_note
from audit_async.tlog.proof import TlogProof, make_proof
from audit_async.tlog.published_files import PublishedFiles
from audit_async.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, Tile, TileReader, tile_width

CHECKPOINT_FILE: Final = "checkpoint"
VKEY_FILE: Final = "vkey"

_ENTRY_LENGTH: Final = HASH_SIZE.to_bytes(2, "big")


class SignedTree:
    """One log's tree, open for appending.

    Made by `open`. Owned by one task, which makes its calls one after the other in a worker thread; `prove` and
    `consistency` only read, and may be called from any thread. After an `OSError` every further call raises
    `PublisherStopped`: what was not synced is not believed, so close it and open it again. After a `LogForked` every
    further call raises that one: no mistake of a caller gets a second history signed.
    """

    def __init__(
        self, origin: str, keys: Sequence[VerifierKey], files: PublishedFiles, guards: Sequence[Guard]
    ) -> None:
        """Take over open files; for `open`, which every other caller uses."""
        self.origin: Final = origin
        self._keys: Final = tuple(keys)
        self._files: Final = files
        self._guards: Final = tuple(guards)
        self._commitments = Commitments()
        self._committed: Checkpoint | None = None
        self._published: SignedCheckpoint | None = None
        #: Keys that the published `vkey` file names and that no longer sign, and the other way round.
        self.retired_keys: tuple[str, ...] = ()
        self.added_keys: tuple[str, ...] = ()
        # The right edge: of each level the hashes in its last, partial tile; of the bundles the last one's entries.
        self.size = 0
        self._levels: list[list[bytes]] = [[]]
        self._entries: list[bytes] = []
        self._sizes_to_check: list[int] = []
        self._superseded: list[Tile] = []
        self._stopped_by: OSError | LogForked | None = None

    def __repr__(self) -> str:
        stopped = f" stopped by {type(self._stopped_by).__name__}" if self._stopped_by is not None else ""
        published = self._published.checkpoint.size if self._published is not None else None
        return f"<SignedTree {self.origin} size={self.size} published={published}{stopped}>"

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        origin: str,
        keys: Sequence[VerifierKey],
        records: int,
        record_hash: Callable[[int], bytes],
        publish_dir: Path | None = None,
        guard: Path | None = None,
        known: Iterable[tuple[Checkpoint, str]] = (),
        rebuild: bool = False,
    ) -> Self:
        """Open the tree of a log that has `records` durable records.

        On return the caller appends the hashes of the records from `size` on.

        Args:
            directory: The log's own `tlog/`.
            origin: The log's name in its checkpoints.
            keys: The keys that sign.
            records: How many durable records the log has.
            record_hash: Returns the 32-byte hash of a record. It is asked for one: the last that is in the tree, which
                through the chain vouches for all before it.
            publish_dir: Directory for the files that others may read; None is `directory`.
            guard: A guard elsewhere.
            known: Further checkpoints, for instance those that the chain records or that witnesses remember, each with
                words for its place.
            rebuild: Begin at record 0, because the tiles are lost.

        Raises:
            LogRolledBack, LogForked: The log is not what was signed before.
            TilesDamaged: A published file is missing or damaged.
            ConfigError: A directory can't be used, or belongs to another log.
            OSError: The system refuses.
        """
        files = PublishedFiles(publish_dir or directory, public=publish_dir is not None)
        guards: list[Guard] = []
        try:
            if publish_dir is not None:
                PublishedFiles(directory, public=False).close()  # made, for the guard
            guards.append(Guard(directory / GUARD_FILE))
            if guard is not None:
                guards.append(Guard(guard))
            tree = cls(origin, keys, files, guards)
            tree._begin(records, record_hash, known, rebuild=rebuild)
        except BaseException:
            files.close()
            for opened in guards:
                opened.close()
            raise
        return tree

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _begin(
        self,
        records: int,
        record_hash: Callable[[int], bytes],
        known: Iterable[tuple[Checkpoint, str]],
        *,
        rebuild: bool,
    ) -> None:
        seen = [(checkpoint, str(guard.path)) for guard in self._guards if (checkpoint := guard.read()) is not None]
        self._published = self._read_published()
        if self._published is not None:
            seen.append((self._published.checkpoint, str(self._files.path / CHECKPOINT_FILE)))
        own = [checkpoint for checkpoint, _ in seen]
        seen += known
        for checkpoint, place in seen:
            if checkpoint.origin != self.origin:
                raise ConfigError(
                    "transparency.origin",
                    f"{place} is of the log {checkpoint.origin[:200]!a}, and this one is called {self.origin!a}; give "
                    "each log an origin, a guard and a publish_dir of its own, and never another one later",
                )
        self._commitments = Commitments(seen)
        self._commitments.refuse_smaller(records)
        if not rebuild:
            self._resume(own)
        if self.size:
            self.check_record(self.size - 1, record_hash(self.size - 1))
        self._commitments.check_all(self.size, self._tiles(self.size))
        self._sizes_to_check = self._commitments.sizes_above(self.size)
        self._committed = max(own, key=lambda checkpoint: checkpoint.size, default=None)
        self._remove_stale_partials()

    def _read_published(self) -> SignedCheckpoint | None:
        place = str(self._files.path / CHECKPOINT_FILE)
        vkeys = self._read_vkeys()
        content = self._files.read(CHECKPOINT_FILE)
        if content is None:
            return None
        try:
            published = SignedCheckpoint.parse(content)
            verify_note(published.note, list(dict.fromkeys([*self._keys, *vkeys])))
        except (Malformed, InvalidSignature) as error:
            raise TilesDamaged(
                place,
                f"{error}; put back the checkpoint that was there, or name the key that signed it next to the new",
            ) from error
        return published

    def _read_vkeys(self) -> list[VerifierKey]:
        content = self._files.read(VKEY_FILE)
        if content is None:
            return []
        try:
            vkeys = [VerifierKey.parse(line) for line in content.decode().split("\n") if line]
        except (Malformed, UnicodeDecodeError) as error:
            raise TilesDamaged(str(self._files.path / VKEY_FILE), "not what the library writes") from error
        self.retired_keys = tuple([str(key) for key in vkeys if key not in self._keys])
        self.added_keys = tuple([str(key) for key in self._keys if key not in vkeys])
        return vkeys

    def _resume(self, own: Sequence[Checkpoint]) -> None:
        """Rebuild the right edge from the tiles of the largest checkpoint that has all of them.

        A smaller one than the largest will do, because the records in between are appended again and must then lead
        to the largest one's root.
        """
        damage: TilesDamaged | None = None
        for checkpoint in sorted(own, key=lambda checkpoint: checkpoint.size, reverse=True):
            reader = self._tiles(checkpoint.size)
            try:
                if tree_root(checkpoint.size, reader) != checkpoint.root:
                    raise TilesDamaged(
                        str(self._files.path),
                        f"the tiles of size {checkpoint.size} do not lead to the root that was signed; rebuild them "
                        "from the records",
                    )
                self._load_edge(checkpoint.size, reader)
            except TilesDamaged as error:
                if error.path == str(self._files.path):
                    raise
                damage = damage or error
                continue
            return
        if damage is not None:
            raise TilesDamaged(damage.path, f"{damage.reason}; rebuild the tiles from the records")

    def _load_edge(self, size: int, reader: TileReader) -> None:
        levels: list[list[bytes]] = []
        while count := size >> (TILE_HEIGHT * len(levels)):
            partial = count % TILE_WIDTH
            levels.append(reader.hashes(len(levels), count // TILE_WIDTH) if partial else [])
        entries = reader.bundle(size // TILE_WIDTH) if size % TILE_WIDTH else []
        if entries and leaf_hashes(entries) != levels[0]:
            path = Tile(None, size // TILE_WIDTH, size % TILE_WIDTH).path
            raise TilesDamaged(path, "its entries are not those of the tile")
        self.size, self._levels, self._entries = size, [list(level) for level in levels] or [[]], list(entries)

    def _remove_stale_partials(self) -> None:
        """Remove what a crash between publishing and removing has left: at most one directory a level."""
        for level in (None, *range(len(self._levels))):
            count = self.size >> (TILE_HEIGHT * (level or 0))
            if count >= TILE_WIDTH:
                self._files.remove_partials(Tile(level, count // TILE_WIDTH - 1))

    # -- appending -------------------------------------------------------------------------------------------------

    def append(self, record_hashes: Sequence[bytes]) -> None:
        """Append the next records' 32-byte hashes; full tiles are written, durable at the next `prepare`.

        Raises `LogForked` at the first size at which they do not lead to what was signed, and `OSError`.
        """
        with self._stopping():
            self._append(record_hashes)

    def _append(self, record_hashes: Sequence[bytes]) -> None:
        if record_hashes and set(map(len, record_hashes)) != {HASH_SIZE}:
            raise ValueError(f"a record's hash has {HASH_SIZE} bytes")
        at = 0
        while at < len(record_hashes):
            room = TILE_WIDTH - len(self._entries)
            if self._sizes_to_check:
                room = min(room, self._sizes_to_check[0] - self.size)
            part = record_hashes[at : at + room]
            at += len(part)
            self._entries += part
            self._levels[0] += leaf_hashes(part)
            self.size += len(part)
            if len(self._entries) == TILE_WIDTH:
                self._finish_tiles()
            if self._sizes_to_check and self.size == self._sizes_to_check[0]:
                self._commitments.check(self._sizes_to_check.pop(0), tree_root(self.size, self._read_edge))

    def _finish_tiles(self) -> None:
        """Write the bundle and every tile that is full now, and carry each tile's root to the level above."""
        index = self.size // TILE_WIDTH - 1
        self._files.stage(Tile(None, index).path, _encode_entries(self._entries))
        self._entries = []
        self._supersede(None, index)
        level = 0
        while len(self._levels[level]) == TILE_WIDTH:
            index = (self.size >> (TILE_HEIGHT * (level + 1))) - 1
            hashes, self._levels[level] = self._levels[level], []
            self._files.stage(Tile(level, index).path, b"".join(hashes))
            self._supersede(level, index)
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(complete_root(hashes))

    def _supersede(self, level: int | None, index: int) -> None:
        """Remember a tile whose partial versions may go: those of tiles that were partial at the last checkpoint."""
        if self._committed is not None and 0 < tile_width(level, index, self._committed.size) < TILE_WIDTH:
            self._superseded.append(Tile(level, index))

    def _read_edge(self, level: int, index: int) -> bytes:
        """Return the hash of one of the complete subtrees that make up the tree; they are all in partial tiles."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        at = (index << height) % TILE_WIDTH
        return complete_root(self._levels[tile_level][at : at + (1 << height)])

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def prepare(self) -> Checkpoint:
        """Make everything that a checkpoint of the present tree needs durable, and commit the log to it.

        On return the checkpoint may be signed. Raises `LogForked` and `LogRolledBack` instead of committing to what
        contradicts an earlier one, and `OSError`.
        """
        with self._stopping():
            return self._prepare()

    def _prepare(self) -> Checkpoint:
        self._commitments.refuse_smaller(self.size)
        checkpoint = Checkpoint(self.origin, self.size, tree_root(self.size, self._read_edge))
        self._commitments.check(checkpoint.size, checkpoint.root)
        if self._entries:
            bundle = Tile(None, self.size // TILE_WIDTH, len(self._entries))
            self._files.stage(bundle.path, _encode_entries(self._entries))
        for level, hashes in enumerate(self._levels):
            if hashes:
                index = (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH
                self._files.stage(Tile(level, index, len(hashes)).path, b"".join(hashes))
        self._files.make_durable()
        for guard in self._guards:
            guard.write(checkpoint)
        self._commitments.add(checkpoint, f"{self._guards[0].path}")
        self._committed = checkpoint
        return checkpoint

    def publish(self, signed: SignedCheckpoint) -> bool:
        """Publish a checkpoint that was prepared before; again with cosignatures, once witnesses have given them.

        Returns:
            False, and nothing is changed, if a larger one is published already.

        Raises:
            InvalidSignature: None of the log's keys has signed it.
            LogForked: It was not prepared here.
            OSError: The disk refuses; call nothing more, and open the tree again.
        """
        with self._stopping():
            return self._publish(signed)

    def _publish(self, signed: SignedCheckpoint) -> bool:
        checkpoint = signed.checkpoint
        verify_note(signed.note, self._keys)
        if self._published is not None and checkpoint.size < self._published.checkpoint.size:
            return False
        if checkpoint.origin != self.origin or not self._has_prepared(checkpoint):
            raise LogForked(f"a checkpoint of size {checkpoint.size} was signed that this log did not prepare")
        vkeys = "".join([f"{key}\n" for key in self._keys]).encode()
        if self._files.read(VKEY_FILE) != vkeys:
            self._files.replace(VKEY_FILE, vkeys)
        self._files.replace(CHECKPOINT_FILE, signed.encode())
        self._published = signed
        self._commitments.forget_below(checkpoint.size)
        superseded, self._superseded = self._superseded, []
        for tile in superseded:
            if tile_width(tile.level, tile.number, checkpoint.size) == TILE_WIDTH:
                self._files.remove_partials(tile)
            else:  # filled after this checkpoint was prepared
                self._superseded.append(tile)
        return True

    def _has_prepared(self, checkpoint: Checkpoint) -> bool:
        """Return whether the tree had this root, as it remembers, or, from before it was opened, as its tiles show."""
        if self._commitments.holds(checkpoint):
            return True
        if self._committed is None or checkpoint.size > self._committed.size:
            return False
        try:
            return tree_root(checkpoint.size, self._tiles(checkpoint.size)) == checkpoint.root
        except TilesDamaged:  # the partial tiles of a size are there from `prepare` until a larger one is published
            return False

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Let no call go on after an error that leaves in doubt what is on disk, or which history this is."""
        if isinstance(self._stopped_by, LogForked):
            raise LogForked(str(self._stopped_by), evidence=self._stopped_by.evidence) from self._stopped_by
        if self._stopped_by is not None:
            raise PublisherStopped(
                f"the tree of {self.origin} could not be written before; close it and open it again"
            ) from self._stopped_by
        try:
            yield
        except (OSError, LogForked) as error:
            self._stopped_by = error
            raise

    @property
    def committed(self) -> Checkpoint | None:
        """The largest checkpoint that may have been signed; if it is larger than `published`, sign and publish it."""
        return self._committed

    @property
    def published(self) -> SignedCheckpoint | None:
        """The checkpoint that readers see."""
        return self._published

    # -- proofs ----------------------------------------------------------------------------------------------------

    def prove(self, index: int, record_hash: bytes) -> TlogProof:
        """Return the evidence for a record, against the published checkpoint and its cosignatures.

        Raises:
            NotCovered: It is in none yet.
            LogForked: Another record is in its place.
            TilesDamaged: A published file is missing or damaged.
        """
        published = self._published
        if published is None:
            raise NotCovered(f"{self.origin} has published no checkpoint yet")
        return make_proof(self._files.read, published, index=index, record_hash=record_hash)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return the consistency proof between two sizes; `new_size` is a checkpoint's."""
        return consistency_proof(old_size, new_size, self._tiles(new_size))

    def check_record(self, index: int, record_hash: bytes) -> None:
        """Compare a record's hash with its leaf; raises `LogForked` if it is another."""
        reader = self._tiles(self.size)
        tile, at = divmod(index, TILE_WIDTH)
        if reader.hashes(0, tile)[at] != leaf_hash(record_hash):
            reader.check(tree_root(self.size, self._read_edge))
            raise LogForked(
                f"record {index} of the log is not the one that a checkpoint was signed for: records were changed, or "
                "log and tiles are not of one origin; keep both as evidence"
            )

    def _tiles(self, size: int) -> TileReader:
        return TileReader(size, self._files.read)

    def close(self) -> None:
        """Close all files. What was appended since the last `prepare` is appended again after the next opening."""
        self._files.close()
        for guard in self._guards:
            guard.close()


def _encode_entries(record_hashes: Sequence[bytes]) -> bytes:
    """Return the bundle of entries of one length: each with its length, two bytes big-endian, before it."""
    return _ENTRY_LENGTH + _ENTRY_LENGTH.join(record_hashes)
