"""Cosigning the checkpoints of collected logs: a collector is a witness that has seen every record.

A log that signs puts each checkpoint into its own chain, so it comes with the records. The collector computes the tree
itself, from the records that it has checked and stored, and cosigns a checkpoint only if it is that tree's. A C2SP
witness is shown that a tree only grew; this one knows what is in it.

    <log>/tlog/witnessed.json   what was cosigned last, and the tree's right edge; durable before the key is asked
    <log>/tlog/checkpoint       the log's checkpoint with the collector's cosignature, as `verify` looks for it

An origin belongs to the log that used it first: another tree under the same name is what a witness never cosigns. A
log of which one checkpoint was refused is cosigned no more until the collector is started again.

Source: https://c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from anyio import to_thread
from msgspec import Struct

from audit_async._layout.chain_holds import OWN_EVENT
from audit_async._layout.regular_files import read_bounded
from audit_async._trail.log_files import find_logs
from audit_async._trail.record_hashes import RecordHashes
from audit_async.errors import ConfigError, LogCorrupted
from audit_async.forwarding.identities import LogIdentity
from audit_async.tlog.checkpoint import SignedCheckpoint, VerifiedCheckpoint, verify_checkpoint
from audit_async.tlog.failures import InvalidSignature, Malformed
from audit_async.tlog.merkle import RightEdge, leaf_hashes
from audit_async.tlog.notes import Note, VerifierKey
from audit_async.tlog.published_files import PublishedFiles

if TYPE_CHECKING:
    from audit_async.tlog.signing_keys import Signer

__all__ = ["CheckpointRefused", "CheckpointWitness"]

_CHECKPOINT: Final = OWN_EVENT + b'checkpoint"'
_TREE: Final = "tlog"
_STATE: Final = "witnessed.json"
_PUBLISHED: Final = "checkpoint"
_AT_ONCE: Final = 4096


class CheckpointRefused(Exception):
    """A checkpoint is not cosigned, and why: a finding."""

    def __init__(self, size: int, reason: str) -> None:
        super().__init__(reason)
        self.size: Final = size


class _Witnessed(Struct, frozen=True, kw_only=True):
    """What was cosigned of a log last."""

    origin: str
    size: int
    root: str  #: hex
    edge: tuple[str, ...]  #: hex; the complete subtrees of the tree, the largest first


class _Event(Struct):
    event_type: str
    note: str = ""


class _Line(Struct):
    event: _Event


_decode_line: Final = msgspec.json.Decoder(_Line).decode


class CheckpointWitness:
    """Cosigns checkpoints of the logs of one collector. From one event loop.

    Args:
        signer: the collector's key, with which it also confirms; the two kinds of statement can't be mixed up.
        log_keys: the verifier keys of the logs whose checkpoints are cosigned; each is named after its log's origin.

    Raises:
        ConfigError: one of these is no verifier key.
    """

    def __init__(self, signer: Signer, log_keys: Sequence[str]) -> None:
        try:
            keys = [VerifierKey.parse(key) for key in log_keys]
        except ValueError as error:
            raise ConfigError("log_keys", str(error)) from None
        self._signer: Final = signer
        self._keys: Final = tuple(keys)
        self._names: Final = {key.name for key in keys}
        self._owners: Final[dict[str, str]] = {}  # by origin, the log that used it first
        self._refused: Final[set[str]] = set()

    @staticmethod
    def checkpoint_in(lines: bytes) -> bytes | None:
        """Return the note of the last checkpoint in records, None if there is none; nothing of it is verified."""
        if _CHECKPOINT not in lines:
            return None
        for line in reversed(lines.splitlines()):
            if _CHECKPOINT in line:
                with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    event = _decode_line(line).event
                    if event.event_type == "audit.checkpoint":
                        return event.note.encode()
        return None

    def add(self, log: LogIdentity, directory: Path) -> None:
        """Learn what was cosigned of a log before. Raises `LogCorrupted`, `OSError`."""
        state = _read(directory)
        if state is not None:
            self._owners[state.origin] = log.path()

    async def cosign(self, log: LogIdentity, directory: Path, content: bytes, *, records: int) -> bool:
        """Cosign a log's checkpoint and publish it with the records; False if there is nothing to do.

        Args:
            log: whose checkpoint it is.
            directory: the log's, in which all records that it covers are durable.
            content: the signed note, as the chain has it.
            records: how many records are durable there.

        Raises:
            CheckpointRefused: it contradicts the records, or what was cosigned before.
            SigningFailed: the collector's key can't be used now.
            LogCorrupted: records that were stored can't be read.
            OSError: the system refuses.
        """
        if log.path() in self._refused:
            return False
        try:
            signed = self._verified(content)
            if signed is None or not await self._remember(log, directory, signed, records):
                return False
        except CheckpointRefused:
            self._refused.add(log.path())
            raise
        from audit_async.tlog.signing_keys import cosign_note  # noqa: PLC0415 - needs the extra tlog

        note = await cosign_note(signed.note, self._signer, timestamp=int(time.time()))
        await to_thread.run_sync(_publish, directory, note)
        return True

    async def _remember(self, log: LogIdentity, directory: Path, signed: VerifiedCheckpoint, records: int) -> bool:
        origin, size = signed.checkpoint.origin, signed.checkpoint.size
        is_new = origin not in self._owners
        owner = self._owners.setdefault(origin, log.path())
        if owner != log.path():
            raise CheckpointRefused(
                size,
                f"it is of {origin!a}, which is the log {owner} here; a log that begins again needs another origin",
            )
        if size > records:
            raise CheckpointRefused(size, f"it is of {size} records, and {records} came up to it")
        try:
            return await to_thread.run_sync(_remember, directory, signed)
        except CheckpointRefused:
            if is_new:
                del self._owners[origin]
            raise

    def _verified(self, content: bytes) -> VerifiedCheckpoint | None:
        """Return a checkpoint that its log's key has signed, None if no key is known for it."""
        try:
            origin = SignedCheckpoint.parse(content).checkpoint.origin
        except Malformed:
            return None
        if origin not in self._names:
            return None
        try:
            return verify_checkpoint(content, self._keys, origin=origin)
        except (InvalidSignature, Malformed) as wrong:
            raise CheckpointRefused(-1, str(wrong)) from None


class _Place(NamedTuple):
    state: _Witnessed | None
    edge: RightEdge


def _read(directory: Path) -> _Witnessed | None:
    try:
        content = read_bounded(directory / _TREE / _STATE)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=_Witnessed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(_STATE, None, None, f"the file in {directory / _TREE} is not the collector's") from error


def _place(directory: Path) -> _Place:
    state = _read(directory)
    try:
        edge = RightEdge() if state is None else RightEdge(state.size, [bytes.fromhex(one) for one in state.edge])
    except ValueError as error:
        raise LogCorrupted(_STATE, None, None, f"the file in {directory / _TREE} is not the collector's") from error
    return _Place(state, edge)


def _remember(directory: Path, signed: VerifiedCheckpoint) -> bool:
    """Compare a checkpoint with the records, and remember it, durably; False if it was cosigned before."""
    checkpoint, (state, edge) = signed.checkpoint, _place(directory)
    if checkpoint.size < edge.size:
        return False  # recorded late
    if state is None or checkpoint.size > state.size:
        hashes = RecordHashes(find_logs(directory)[0], edge.size - 1)
        while edge.size < checkpoint.size:
            edge.append(leaf_hashes(hashes.read(checkpoint.size - 1, _AT_ONCE)))
    if edge.root() != checkpoint.root:
        raise CheckpointRefused(
            checkpoint.size, f"the log has signed another tree of {checkpoint.size} records than those that came"
        )
    if state is not None and state.size == checkpoint.size and (directory / _TREE / _PUBLISHED).exists():
        return False
    new = _Witnessed(
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=checkpoint.root.hex(),
        edge=tuple(one.hex() for one in edge.edge),
    )
    _store(directory, _STATE, msgspec.json.encode(new) + b"\n")
    return True


def _publish(directory: Path, note: Note) -> None:
    _store(directory, _PUBLISHED, note.encode())


def _store(directory: Path, name: str, content: bytes) -> None:
    files = PublishedFiles(directory / _TREE, public=False)
    try:
        files.stage(name, content)
        files.make_durable()
    finally:
        files.close()
