r"""Judging what is in a log's directory before it is written: what a crash leaves, and what no crash explains.

Reading only, so a log that is refused is left exactly as it was found; `repair` does what the survey decided.

What a crash can leave, since everything before the last sync is on stable storage:

- at the end of the last segment: part of a line; whole blocks of zeros, if the file system had noted the new size but
  not written the blocks, also with written blocks after them (writes reach a disk in any order);
- a last segment without a single record;
- after the records of a segment whose fsync failed: copies of records that are in the next segment, in which blocks may
  be zeros, and which may hold more than what of the next segment reached the disk;
- segments that should be sealed and are not in the manifest yet, seals without a checksum file or their mode;
- files of a segment that the manifest calls archived or deleted;
- files with the ending `.unfinished`.

A snapshot of a running log looks like a crash, so it is accepted as well: its manifest may be older than the segments
next to it, and segments may have no checksum file yet. All else is damage: `LogCorrupted`.

Known weaknesses. Whoever can write to the files can cut off the end of the last segment, or zero a block in it, and
make that look like a crash; what was acknowledged there is missed only by somebody who kept its position. A file system
that shows another file's old bytes after a power cut (ext4 with data=writeback) makes opening refuse. And a process
that dies between a failed fsync and the cut that follows it may leave lines that the next process can read from the
page cache, and sync, though the disk never got them (Rebello et al., USENIX ATC 2020,
https://www.usenix.org/conference/atc20/presentation/rebello).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

from audit_async._chain import START, Head
from audit_async._durable import disk
from audit_async._layout.chain_holds import ChainHolds
from audit_async._layout.crash_traces import Follower, are_void_copies, torn_by_crash
from audit_async._layout.holds_in_force import holds_in_sealed
from audit_async._layout.manifest import SealedSegment, decode_manifest_file
from audit_async._layout.names import CHECKSUM, MANIFEST_FILE, UNFINISHED, SegmentName
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, open_regular
from audit_async._store import removal
from audit_async._store.checked_segment import CheckedSegment, check_segment
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import OR_A_COPY, Manifest
from audit_async.errors import LogCorrupted


class Survey(NamedTuple):
    """What is in a log's directory, and what has to be done before it can be written."""

    manifest: Manifest  #: as it is on disk, or without entries if there is none
    unsealed: list[CheckedSegment]  #: whole segments that the manifest doesn't have; all but the last get sealed
    tails: list[Tail]  #: to be set aside
    empty: list[str]  #: segments without a record, to be removed
    unfinished: list[str]  #: files to be removed
    unchecked: list[SealedSegment]  #: sealed segments without a checksum file
    writable: list[str]  #: sealed segments whose mode is not that of a sealed one
    leftovers: list[SealedSegment]  #: segments that retention has not wholly removed
    recorded: frozenset[str]  #: segments whose `audit.segment_sealed` is in what was read
    holds: ChainHolds  #: the legal holds that the chain says are in force

    @property
    def head(self) -> Head:
        """The chain's head."""
        return self.unsealed[-1].head if self.unsealed else self.manifest.head


class Tail(NamedTuple):
    """The end of a segment that is no part of the chain."""

    segment: str
    at: int  #: byte offset
    reason: str


def survey(directory: LogDirectory, log_id: str) -> Survey:
    """Read what has to be read of a log, judge it, and change nothing.

    Sealed segments are not read: their sizes are compared with the manifest. Raises `LogCorrupted` for what no
    crash explains, `OSError` if something can't be read.
    """
    names = directory.names()
    manifest = Manifest(log_id)
    if MANIFEST_FILE in names:
        file = decode_manifest_file(directory.read(MANIFEST_FILE, max_bytes=MOST_MANIFEST_BYTES), log_id)
        manifest = Manifest(log_id, file.segments, rebuilt=file.rebuilt)
    known = {entry.segment for entry in manifest.segments}
    unsealed = [name for name in segment_names(names) if str(name) not in known]
    read = _read_unsealed(directory, unsealed, manifest.head)
    tails: list[Tail] = []
    if read and read[-1].stopped is not None:
        tails.append(_judge_end(directory, read[-1]))
    tails.extend(_void_tails(directory, read))
    unchecked, writable = [], []
    for position, entry in enumerate(manifest.segments):
        if entry.state != "live":
            continue
        mode, tail = _check_sealed(directory, manifest, position, read)
        if tail is not None:
            tails.append(tail)
        if mode & 0o777 != directory.access.sealed_mode:
            writable.append(entry.segment)
        if entry.segment + CHECKSUM not in names:
            unchecked.append(entry)
    whole = [segment for segment in read if segment.records]
    if manifest.segments and not whole:
        # A segment is sealed only if a record after it is on stable storage.
        seq = manifest.head.seq + 1
        reason = f"the segment that follows this one is missing{OR_A_COPY}"
        raise LogCorrupted(manifest.segments[-1].segment, None, seq, reason)
    return Survey(
        manifest,
        whole,
        tails,
        [str(segment.name) for segment in read if not segment.records],
        sorted(name for name in names if name.endswith(UNFINISHED)),
        unchecked,
        writable,
        removal.leftovers(directory, names, manifest.segments),
        frozenset().union(*(segment.sealings for segment in whole)),
        _holds(directory, manifest, whole),
    )


def segment_names(names: set[str]) -> list[SegmentName]:
    """Return the segments among the names of a log directory, in the order of the chain."""
    return sorted(parsed for name in names if (parsed := SegmentName.parse(name)))


def _read_unsealed(directory: LogDirectory, names: Sequence[SegmentName], head: Head) -> list[CheckedSegment]:
    """Read the segments that the manifest doesn't have, each up to the first record of the next."""
    read: list[CheckedSegment] = []
    for name, following in zip_longest(names, names[1:]):
        if name.first_seq != head.seq + 1:
            reason = f"the segment begins at seq {name.first_seq}{OR_A_COPY}"
            raise LogCorrupted(str(name), None, head.seq + 1, reason)
        if following is not None and following.first_seq == name.first_seq:
            raise LogCorrupted(str(following), None, head.seq + 1, f"begins at the same record as {name}")
        until = following.first_seq if following else None
        with open(open_regular(str(name), dir_fd=directory.fd), "rb") as file:
            segment = check_segment(file, name, head, until)
        if segment.first and segment.first.timestamp[:10] != name.date:
            raise LogCorrupted(str(name), 1, name.first_seq, "the record is not of the date that the file is named for")
        if following is not None and segment.stopped is not None:
            reason = segment.stopped + (OR_A_COPY if segment.size == segment.bytes else "")
            raise LogCorrupted(str(name), segment.records + 1, segment.head.seq + 1, reason)
        read.append(segment)
        head = segment.head
    return read


def _holds(directory: LogDirectory, manifest: Manifest, read: Sequence[CheckedSegment]) -> ChainHolds:
    """Return what the chain says of holds, going back only until a record states all of them.

    That is in the newest segment, or one segment further back if the process was killed between a rotation and the
    record of the seal, or if somebody cut the end off. Only a log that was written by a release without such
    statements is read to its beginning, once.
    """
    holds = ChainHolds()
    older: Iterator[ChainHolds] = chain(
        (segment.holds for segment in reversed(read)),
        (holds_in_sealed(directory.path, entry) for entry in reversed(manifest.segments) if entry.state != "deleted"),
    )
    for piece in older:
        holds.extend_back(piece)
        if holds.is_complete:
            break
    return holds


# -- judging what is not a record -----------------------------------------------------------------------------------


def _judge_end(directory: LogDirectory, last: CheckedSegment) -> Tail:
    """Return the tail of the last segment if a crash explains it; raises `LogCorrupted` if none does."""
    with open(open_regular(str(last.name), dir_fd=directory.fd), "rb") as file:
        reason = torn_by_crash(file, last.bytes)
    if reason is None:
        raise LogCorrupted(str(last.name), last.records + 1, last.head.seq + 1, last.stopped or "not the record due")
    return Tail(str(last.name), last.bytes, reason)


def _void_tails(directory: LogDirectory, read: Sequence[CheckedSegment]) -> Iterator[Tail]:
    """Yield what unsealed segments hold after the record before the next one's first: copies; raises if it is not."""
    for position, segment in enumerate(read[:-1]):
        if segment.size > segment.bytes:
            _check_copies(directory, str(segment.name), segment.bytes, segment.records + 1, read[position + 1 :])
            yield Tail(str(segment.name), segment.bytes, "copies of records in the next segment")


def _check_sealed(
    directory: LogDirectory, manifest: Manifest, position: int, read: Sequence[CheckedSegment]
) -> tuple[int, Tail | None]:
    """Compare a sealed segment with the manifest without reading it; return its mode, and a tail that is no part."""
    entry = manifest.segments[position]
    try:
        fd = open_regular(entry.segment, dir_fd=directory.fd)
    except FileNotFoundError:
        raise LogCorrupted(entry.segment, None, entry.first_seq, f"the sealed segment is missing{OR_A_COPY}") from None
    try:
        status = os.fstat(fd)
    finally:
        disk.close(fd)
    if status.st_size == entry.bytes:
        return status.st_mode, None
    if status.st_size < entry.bytes:
        reason = f"the sealed segment has {status.st_size} bytes, {entry.bytes} were sealed{OR_A_COPY}"
        raise LogCorrupted(entry.segment, None, entry.first_seq, reason)
    following: list[CheckedSegment | SealedSegment] = [*manifest.segments[position + 1 :], *read]
    _check_copies(directory, entry.segment, entry.bytes, entry.records + 1, following)
    return status.st_mode, Tail(entry.segment, entry.bytes, "copies of records in the next segment")


def _check_copies(
    directory: LogDirectory, segment: str, at: int, line: int, following: Sequence[CheckedSegment | SealedSegment]
) -> None:
    """Check that the bytes from `at` are void copies of the segments that follow."""
    head = following[-1].head if following else START
    with open(open_regular(segment, dir_fd=directory.fd), "rb") as copies:
        if not are_void_copies(copies, at, (_follower(directory, other) for other in following), head):
            reason = "the bytes after its records are no copies of the next segment"
            raise LogCorrupted(segment, line, None, reason)


def _follower(directory: LogDirectory, segment: CheckedSegment | SealedSegment) -> Follower:
    if isinstance(segment, SealedSegment) and segment.state != "live":
        return Follower(None, 0)
    name = segment.segment if isinstance(segment, SealedSegment) else str(segment.name)
    return Follower(lambda: open(open_regular(name, dir_fd=directory.fd), "rb"), segment.bytes)
