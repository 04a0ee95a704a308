"""Watching a published log from elsewhere, to see that it is still the log that was there before.

A monitor remembers the largest checkpoint that it has seen, which is all it needs: each new one must be signed as the
policy says and follow from that one. It trusts nothing that it reads but what a signature or a proof bears out, and
one that runs on another machine, for another person, is what makes rewriting history dangerous.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audit_async._durable import disk
from audit_async._durable.lock_waits import one_at_a_time
from audit_async._durable.whole_files import remove_left_over, replace_shared_file
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint, VerifiedCheckpoint
from audit_async.tlog.failures import InvalidProof, LogForked, LogRolledBack, Malformed, SourceFailed, TilesDamaged
from audit_async.tlog.http_client import Endpoint, request
from audit_async.tlog.merkle import complete_root, consistency_proof, leaf_hashes, verify_consistency
from audit_async.tlog.notes import MAX_NOTE_BYTES
from audit_async.tlog.policy import Policy
from audit_async.tlog.signed_tree import CHECKPOINT_FILE
from audit_async.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, FileReader, Tile, TileReader

_LARGEST_FILE: Final = 1 << 24
_STATE_VERSION: Final = 1
#: How long another look is waited for that keeps what it has seen; one that was stopped is passed by then.
_WAIT_S: Final = 10.0


# -- reading a published log -----------------------------------------------------------------------------------------


def http_source(url: str, *, timeout_s: float = 10.0) -> FileReader:
    """Return a reader of the files below a URL prefix; it blocks.

    Args:
        url: The prefix, http or https.
        timeout_s: Time for each file, in seconds.

    Raises:
        Malformed: It is no such URL. The reader raises `SourceFailed`.
    """
    endpoint = Endpoint.parse(url)

    def read(path: str) -> bytes | None:
        answer = request(endpoint, path, timeout_s=timeout_s, max_bytes=_LARGEST_FILE)
        if answer.status in {404, 410}:
            return None
        if answer.status != 200:
            raise SourceFailed(f"{endpoint}/{path}: status {answer.status}")
        return answer.body

    return read


def directory_source(path: str | os.PathLike[str]) -> FileReader:
    """Return a reader of the files below a directory; it raises `SourceFailed`."""
    root = Path(path)

    def read(name: str) -> bytes | None:
        try:
            with open(root / name, "rb") as file:
                return file.read(_LARGEST_FILE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceFailed(f"{root / name}: {error.strerror}") from error

    return read


# -- what was seen ---------------------------------------------------------------------------------------------------


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a monitor remembers of a log."""

    version: int
    note: str  #: the largest checkpoint that was accepted, signatures and all: the evidence, should it come to that

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint in the note."""
        return SignedCheckpoint.parse(self.note.encode()).checkpoint


class Observation(NamedTuple):
    """What one look at a log has shown; all is well."""

    latest: VerifiedCheckpoint
    previous: Checkpoint | None
    seen: Seen  #: to be remembered


def observe(
    read_file: FileReader, policy: Policy, seen: Seen | None, *, origin: str | None = None, entries: bool = False
) -> Observation:
    """Look at a published log once, and compare it with what was seen before.

    With `entries` every record's hash that is new since then is read, and must lead to the signed root; that finds
    tiles and bundles that are missing or wrong before somebody needs them.

    Args:
        read_file: Reads a published file; see `http_source` and `directory_source`.
        policy: Whose signatures count.
        seen: What the last look returned, None at the first.
        origin: The log's name; None takes the one that was seen before, or any that the policy knows.
        entries: Whether to read every new record's hash.

    Raises:
        LogForked: The log shows another history; the two notes are the evidence.
        LogRolledBack: The log has become smaller; the two notes are the evidence.
        InvalidSignature, QuorumNotMet: The policy does not accept the checkpoint.
        TilesDamaged, Malformed, SourceFailed: The log can't be read.
    """
    content = read_file(CHECKPOINT_FILE)
    if content is None:
        raise SourceFailed("the log publishes no checkpoint; the URL or directory is not a log's, or it was removed")
    if len(content) > MAX_NOTE_BYTES:
        raise Malformed("checkpoint", f"{len(content)} bytes, and no note is longer than {MAX_NOTE_BYTES}")
    previous = seen.checkpoint if seen is not None else None
    if previous is not None and origin is None:
        origin = previous.origin
    latest = policy.verify(content, origin=origin)
    if seen is not None and previous is not None:
        _compare(previous, latest.checkpoint, read_file, evidence=(seen.note.encode(), content))
    if entries:
        check_entries(read_file, latest.checkpoint, since=previous.size if previous is not None else 0)
    kept = seen if previous == latest.checkpoint and seen is not None else None
    return Observation(latest, previous, kept or Seen(version=_STATE_VERSION, note=content.decode()))


def _compare(old: Checkpoint, new: Checkpoint, read_file: FileReader, *, evidence: tuple[bytes, bytes]) -> None:
    if new.size < old.size:
        raise LogRolledBack(
            f"{old.origin} had {old.size} records and shows {new.size}: records were removed, or an older state came "
            "back",
            evidence=evidence,
        )
    if new.size == old.size:
        if new.root != old.root:
            raise LogForked(f"{old.origin} shows two different trees of {old.size} records", evidence=evidence)
        return
    reader = TileReader(new.size, read_file)
    proof = consistency_proof(old.size, new.size, reader)
    reader.check(new.root)  # else a damaged tile would look like another history
    try:
        verify_consistency(old.size, new.size, old.root, new.root, proof)
    except InvalidProof as error:
        raise LogForked(
            f"what {old.origin} shows at size {new.size} does not follow from what it showed at size {old.size}: "
            "records were changed, removed or inserted",
            evidence=evidence,
        ) from error


def check_entries(read_file: FileReader, checkpoint: Checkpoint, *, since: int = 0) -> None:
    """Read every entry from `since` on, compare it with its tile, and every tile with the signed root.

    Keeps no full tile of the lowest level, only those above: the hashes of one record in 256. Raises `TilesDamaged`.
    """
    if not checkpoint.size:
        return
    reader = TileReader(checkpoint.size, read_file)
    for number in range(min(since, checkpoint.size) // TILE_WIDTH, -(-checkpoint.size // TILE_WIDTH)):
        hashes = leaf_hashes(reader.bundle(number))
        tile = Tile(0, number, len(hashes))
        if b"".join(hashes) != reader.content(0, number):
            raise TilesDamaged(tile.path, "its hashes are not those of the entries in its bundle")
        if tile.width == TILE_WIDTH and reader(TILE_HEIGHT, number) != complete_root(hashes):
            raise TilesDamaged(tile.path, "its hashes do not lead to the one in the tile above")
    reader.check(checkpoint.root)


# -- keeping state ---------------------------------------------------------------------------------------------------


def load_seen(path: str | os.PathLike[str]) -> Seen | None:
    """Return what a monitor's state file remembers, None if there is no such file.

    Raises:
        TilesDamaged: The file is no state; a monitor that forgets silently could be made to forget.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(2 * MAX_NOTE_BYTES)
    except FileNotFoundError:
        return None
    try:
        seen = msgspec.json.decode(content, type=Seen)
        if seen.version != _STATE_VERSION:
            raise Malformed("monitor state", f"version {seen.version}, and this release reads {_STATE_VERSION}")
        SignedCheckpoint.parse(seen.note.encode())
    except (msgspec.MsgspecError, Malformed, UnicodeError) as error:
        reason = (
            "not a monitor's state; put back the file that was there, or name another and start from what you trust"
        )
        raise TilesDamaged(os.fspath(path), reason) from error
    return seen


def save_seen(
    path: str | os.PathLike[str], seen: Seen, *, after: Seen | None = None, read_file: FileReader | None = None
) -> None:
    """Keep a monitor's state in a file, durably, whole or not at all.

    A larger checkpoint of the same log stays: another look, which began later or was faster, has kept it since. What
    such a look has kept is compared with this one first, since each alone may be a history of its own.

    Args:
        path: The file.
        seen: What is to be remembered.
        after: What this look began from; `observe` has compared the two.
        read_file: Reads a published file, to compare checkpoints of different sizes; None compares only equal sizes.

    Raises:
        LogForked: Another look has kept another history; the two notes are the evidence.
        TilesDamaged: What is in the file is no state, or what the log has published is damaged.
        Malformed, SourceFailed: The log can't be read for the comparison.
        OSError: It can't be written.
    """
    target = Path(os.path.abspath(path))
    directory = disk.open_directory(str(target.parent), follow=True)
    try:
        while True:
            there = load_seen(target)
            if there is not None and there != after:
                _compare_looks(there, seen, read_file)
            with one_at_a_time(directory, _WAIT_S):
                if load_seen(target) != there:
                    continue  # to be compared as well
                if there is None or not _is_larger(there, seen):
                    replace_shared_file(directory, target.name, msgspec.json.encode(seen) + b"\n")
                    remove_left_over(directory, target.name)
                return
    finally:
        disk.close(directory)


def _compare_looks(there: Seen, seen: Seen, read_file: FileReader | None) -> None:
    """Raise `LogForked` if one of two checkpoints of a log does not follow from the other."""
    small, large = sorted((there, seen), key=lambda one: one.checkpoint.size)
    old, new = small.checkpoint, large.checkpoint
    if old.origin != new.origin:
        return
    if old.size == new.size:
        if old.root != new.root:
            raise LogForked(
                f"{old.origin} shows two different trees of {old.size} records",
                evidence=(there.note.encode(), seen.note.encode()),
            )
    elif read_file is not None:
        _compare(old, new, read_file, evidence=(small.note.encode(), large.note.encode()))


def _is_larger(there: Seen, seen: Seen) -> bool:
    old, new = there.checkpoint, seen.checkpoint
    return old.origin == new.origin and old.size > new.size
