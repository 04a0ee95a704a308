r"""Recovery: what a crash leaves in a log, told from what no crash explains, and put right.

Two steps, strictly apart: `survey` reads and judges and changes nothing; `put_right` does what the survey decided.
So a log that is refused is left exactly as it was found.

What a crash can leave, since everything before the last sync is on stable storage:

- at the end of the last segment: part of a line; whole blocks of zeros, where the file system had noted the new size
  but not written the blocks, also with written blocks behind them (writes reach a disk in any order);
- a last segment without a single record;
- behind the records of a segment whose fsync failed: copies of records that stand in the next segment, in which
  blocks may be zeros, and which may go on past what of the next segment reached the disk;
- segments that should be sealed and are not in the manifest yet, seals without a checksum file or mode 0400;
- files of a segment that the manifest calls archived or deleted;
- files with the ending `.unfinished`.

All else is damage: `LogCorrupted`.

Known weaknesses. Whoever can write to the files can cut off the end of the last segment, or zero a block in it, and
make that look like a crash; what stood there and was acknowledged is missed only by somebody who kept its position.
A file system that shows another file's old bytes after a power cut (ext4 with data=writeback) makes opening refuse.
And a process that dies between a failed fsync and the cut that follows it may leave lines that the next process can
read from the page cache, and sync, though the disk never got them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from audit_async._chain import START, BadRecord, CheckedRecord, Head, check_record
from audit_async._durable import disk
from audit_async._layout.crash_traces import LONGEST_LINE, Follower, are_void_copies, torn_by_crash
from audit_async._layout.manifest import SealedSegment, decode_manifest
from audit_async._layout.names import CHECKSUM, MANIFEST_FILE, TORN, UNFINISHED, SegmentName
from audit_async._layout.regular_files import open_regular
from audit_async._store import retention_steps as retention
from audit_async._store import sealing
from audit_async._store.active_segment import Extent, Segment
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async.errors import LogCorrupted

if TYPE_CHECKING:
    from hashlib import _Hash

_CHUNK: Final = 1 << 20

# The library's own record of a seal. In JSON no quote of a text is left unescaped, and before the first
# `,"event":` of a line stand only members that the store checks, so nobody can write this by way of a text.
_SEALING_EVENT: Final = re.compile(rb'\{"event_type":"audit\.segment_sealed","segment":"([0-9-]+\.audit)"')
_EVENT_MEMBER: Final = b',"event":'


class TornTail(NamedTuple):
    """What recovery put aside, for `audit.log_recovered`."""

    bytes: int
    sha256: str  #: of what was put aside, 64 hex digits
    file: str  #: where it is now, relative to the log directory
    segment: str  #: where it was
    reason: str


class Survey(NamedTuple):
    """What is in a log's directory, and what has to be done before it can be written."""

    manifest: Manifest  #: as it is on disk, or without entries where there is none
    unsealed: list[Walk]  #: whole segments that the manifest doesn't have; all but the last get sealed
    tails: list[Tail]  #: to be put aside
    empty: list[str]  #: segments without a record, to be removed
    unfinished: list[str]  #: files to be removed
    unchecked: list[SealedSegment]  #: sealed segments without a checksum file
    writable: list[str]  #: sealed segments whose mode is not 0400
    leftovers: list[SealedSegment]  #: segments that retention has not wholly removed
    head: Head  #: the chain's head
    recorded: frozenset[str]  #: segments whose `audit.segment_sealed` stands in what was read


class Tail(NamedTuple):
    """The end of a segment that is no part of the chain."""

    segment: str
    at: int  #: byte offset
    reason: str


class Walk(NamedTuple):
    """A segment that was read: the records that hold, from its first, and what stopped the reading."""

    name: SegmentName
    before: Head  #: the chain's head before its first record
    first: CheckedRecord | None
    last: CheckedRecord | None
    records: int
    bytes: int  #: of the records that hold
    size: int  #: of the file
    digest: _Hash  #: over the records that hold
    sealings: frozenset[str]  #: segments whose `audit.segment_sealed` is among the records
    stopped: str | None  #: why the line behind them is not the record that is due; None at the end of what was asked

    @property
    def head(self) -> Head:
        """The chain's head behind the records that hold."""
        return self.last.head if self.last else self.before

    def as_sealed(self) -> SealedSegment:
        """Return the manifest's entry for the records that hold."""
        assert self.first is not None  # noqa: S101 - a segment without a record is never sealed
        assert self.last is not None  # noqa: S101
        return SealedSegment(
            segment=str(self.name),
            first_seq=self.first.seq,
            last_seq=self.last.seq,
            first_timestamp=self.first.timestamp,
            last_timestamp=self.last.timestamp,
            records=self.records,
            bytes=self.bytes,
            sha256=self.digest.hexdigest(),
            prev_hash=self.first.prev_hash.decode(),
            hash=self.last.hash.decode(),
        )


def segment_names(names: set[str]) -> list[SegmentName]:
    """Return the segments among the names of a log directory, in the order of the chain."""
    return sorted(parsed for name in names if (parsed := SegmentName.parse(name)))


def survey(directory: LogDirectory, log_id: str) -> Survey:
    """Read what has to be read of a log, judge it, and change nothing.

    Sealed segments are not read: their sizes are compared with the manifest. Raises `LogCorrupted` for what no
    crash explains, `OSError` where something can't be read.
    """
    names = directory.names()
    manifest = Manifest(log_id)
    if MANIFEST_FILE in names:
        manifest = Manifest(log_id, decode_manifest(directory.read(MANIFEST_FILE), log_id))
    known = {entry.segment: entry for entry in manifest.segments}
    unsealed = [name for name in segment_names(names) if str(name) not in known]
    walks = _walk_unsealed(directory, unsealed, manifest.head)
    tails: list[Tail] = []
    last = walks[-1] if walks else None
    if last is not None and last.stopped is not None:
        tails.append(_judge_end(directory, last))
    tails.extend(_void_tails(directory, walks))
    unchecked, writable = [], []
    for position, entry in enumerate(manifest.segments):
        if entry.state != "live":
            continue
        mode, tail = _check_sealed(directory, manifest, position, walks)
        if tail is not None:
            tails.append(tail)
        if mode & 0o777 != disk.SEALED_FILE:
            writable.append(entry.segment)
        if entry.segment + CHECKSUM not in names:
            unchecked.append(entry)
    empty = [str(walk.name) for walk in walks if not walk.records]
    whole = [walk for walk in walks if walk.records]
    if manifest.segments and not whole:
        # A segment is sealed only when a record behind it is on stable storage.
        seq = manifest.head.seq + 1
        raise LogCorrupted(manifest.segments[-1].segment, None, seq, "the segment that follows this one is missing")
    return Survey(
        manifest,
        whole,
        tails,
        empty,
        sorted(name for name in names if name.endswith(UNFINISHED)),
        unchecked,
        writable,
        retention.leftovers(directory, names, manifest.segments),
        whole[-1].head if whole else manifest.head,
        frozenset().union(*(walk.sealings for walk in whole)),
    )


# -- reading ------------------------------------------------------------------------------------------------------


def _walk_unsealed(directory: LogDirectory, names: Sequence[SegmentName], head: Head) -> list[Walk]:
    """Read the segments that the manifest doesn't have, each up to the first record of the next."""
    walks: list[Walk] = []
    for name, following in zip_longest(names, names[1:]):
        if name.first_seq != head.seq + 1:
            raise LogCorrupted(str(name), None, head.seq + 1, f"the segment begins at seq {name.first_seq}")
        if following is not None and following.first_seq == name.first_seq:
            raise LogCorrupted(str(following), None, head.seq + 1, f"begins where {name} begins")
        until = following.first_seq if following else None
        fd = open_regular(str(name), dir_fd=directory.fd)
        with open(fd, "rb") as file:
            walk = _walk(file, name, head, until)
        if walk.first and walk.first.timestamp[:10] != name.date:
            raise LogCorrupted(str(name), 1, name.first_seq, "the record is not of the date that the file is named for")
        if following is not None and walk.stopped is not None:
            raise LogCorrupted(str(name), walk.records + 1, walk.head.seq + 1, walk.stopped)
        walks.append(walk)
        head = walk.head
    return walks


def _walk(file: BinaryIO, name: SegmentName, before: Head, until_seq: int | None) -> Walk:
    """Check record by record from where the file stands, up to `until_seq` (exclusive) or its end."""
    head = before
    first = last = None
    records = size = 0
    digest = hashlib.sha256()
    sealings: set[str] = set()
    stopped: str | None = None
    while until_seq is None or head.seq + 1 < until_seq:
        line = file.readline(LONGEST_LINE)
        if not line:
            if until_seq is not None:
                stopped = f"the file ends, but the next begins at seq {until_seq}"
            break
        try:
            last = check_record(line, head)
        except BadRecord as error:
            stopped = str(error)
            break
        first = first or last
        head = last.head
        records += 1
        size += len(line)
        digest.update(line)
        if (sealing_of := sealed_by(line)) is not None:
            sealings.add(sealing_of)
    size_of_file = os.fstat(file.fileno()).st_size
    return Walk(name, before, first, last, records, size, size_of_file, digest, frozenset(sealings), stopped)


def sealed_by(line: bytes) -> str | None:
    """Return the segment of which this record is the `audit.segment_sealed`; None for any other record."""
    if b'"audit.segment_sealed"' not in line:
        return None
    match = _SEALING_EVENT.match(line, line.index(_EVENT_MEMBER) + len(_EVENT_MEMBER))
    return match[1].decode() if match else None


# -- judging ------------------------------------------------------------------------------------------------------


def _judge_end(directory: LogDirectory, walk: Walk) -> Tail:
    """Return the tail of the last segment where a crash explains it; raises `LogCorrupted` where none does."""
    fd = open_regular(str(walk.name), dir_fd=directory.fd)
    with open(fd, "rb") as file:
        reason = torn_by_crash(file, walk.bytes)
    if reason is None:
        raise LogCorrupted(str(walk.name), walk.records + 1, walk.head.seq + 1, walk.stopped or "not the record due")
    return Tail(str(walk.name), walk.bytes, reason)


def _void_tails(directory: LogDirectory, walks: Sequence[Walk]) -> Iterator[Tail]:
    """Return what unsealed segments hold behind the first record of the next: copies, or a finding."""
    for position, walk in enumerate(walks[:-1]):
        if walk.size > walk.bytes:
            _check_copies(directory, str(walk.name), walk.bytes, walk.records + 1, walks[position + 1 :])
            yield Tail(str(walk.name), walk.bytes, "copies of records in the next segment")


def _check_sealed(
    directory: LogDirectory, manifest: Manifest, position: int, walks: Sequence[Walk]
) -> tuple[int, Tail | None]:
    """Compare a sealed segment with the manifest without reading it; return its mode, and a tail that is no part."""
    entry = manifest.segments[position]
    try:
        fd = open_regular(entry.segment, dir_fd=directory.fd)
    except FileNotFoundError:
        raise LogCorrupted(entry.segment, None, entry.first_seq, "the sealed segment is missing") from None
    try:
        status = os.fstat(fd)
    finally:
        disk.close(fd)
    if status.st_size == entry.bytes:
        return status.st_mode, None
    if status.st_size < entry.bytes:
        reason = f"the sealed segment has {status.st_size} bytes, {entry.bytes} were sealed"
        raise LogCorrupted(entry.segment, None, entry.first_seq, reason)
    following: list[Walk | SealedSegment] = [*manifest.segments[position + 1 :], *walks]
    _check_copies(directory, entry.segment, entry.bytes, entry.records + 1, following)
    return status.st_mode, Tail(entry.segment, entry.bytes, "copies of records in the next segment")


def _check_copies(
    directory: LogDirectory, segment: str, at: int, line: int, following: Sequence[Walk | SealedSegment]
) -> None:
    """Check that the bytes from `at` are void copies of the segments that follow."""
    head = following[-1].head if following else START
    with open(open_regular(segment, dir_fd=directory.fd), "rb") as copies:
        if not are_void_copies(copies, at, (_follower(directory, other) for other in following), head):
            reason = "the bytes after its records are no copies of the next segment"
            raise LogCorrupted(segment, line, None, reason)


def _follower(directory: LogDirectory, segment: Walk | SealedSegment) -> Follower:
    if isinstance(segment, SealedSegment) and segment.state != "live":
        return Follower(None, 0)
    name = segment.segment if isinstance(segment, SealedSegment) else str(segment.name)
    return Follower(lambda: open(open_regular(name, dir_fd=directory.fd), "rb"), segment.bytes)


# -- putting right ------------------------------------------------------------------------------------------------


def put_right(directory: LogDirectory, found: Survey) -> tuple[TornTail, ...]:
    """Do what the survey decided; return what was put aside.

    In order: tails are copied to `torn/` and synced before they are cut off; segments without a record are removed;
    what is left of unfinished files is removed; the last segment is synced, as its bytes may be in the page cache
    only; seals are completed, and so is what retention had begun to remove. After a crash anywhere in between, the
    next survey finds what is left to do (a tail may then be in `torn/` twice). Raises `OSError`; opening may be tried
    again.
    """
    torn = tuple(_put_aside(directory, tail, found.manifest.segments) for tail in found.tails)
    for name in [*found.empty, *found.unfinished]:
        disk.unlink(name, dir_fd=directory.fd)
    for walk in found.unsealed:
        fd = open_regular(str(walk.name), dir_fd=directory.fd, writable=walk is found.unsealed[-1])
        try:
            disk.sync_data(fd)
        finally:
            disk.close(fd)
    directory.sync()
    for entry in found.unchecked:
        sealing.write_checksum(directory, entry)
    for name in found.writable:
        sealing.make_read_only(directory, name)
    retention.finish(directory, found.leftovers)
    finished = [walk.as_sealed() for walk in found.unsealed[:-1]]
    if finished:
        sealing.seal(directory, found.manifest, finished, recorded=found.recorded)
    elif found.unchecked:
        directory.sync()
    return torn


def _put_aside(directory: LogDirectory, tail: Tail, sealed: Sequence[SealedSegment]) -> TornTail:
    """Copy the end of a segment to `torn/`, make that durable, then cut it off, durably."""
    torn_fd = directory.open_subdirectory(TORN)
    try:
        fd = open_regular(tail.segment, dir_fd=directory.fd)
        try:
            size = os.fstat(fd).st_size
            name = free_name(f"{tail.segment}.{tail.at}", dir_fd=torn_fd)
            copy = disk.create_file(name, dir_fd=torn_fd)
            try:
                digest = _copy(fd, copy, tail.at, size)
                disk.sync_data(copy)
            except BaseException:  # each opening on a full disk would leave another part of the copy there
                with suppress(OSError):
                    disk.unlink(name, dir_fd=torn_fd)
                raise
            finally:
                disk.close(copy)
            disk.sync_directory(torn_fd)
        finally:
            disk.close(fd)
    finally:
        disk.close(torn_fd)
    _cut_off(directory, tail, sealed)
    return TornTail(size - tail.at, digest, f"{TORN}/{name}", tail.segment, tail.reason)


def free_name(name: str, *, dir_fd: int) -> str:
    """Return `name`, or it with a number behind, whichever no file has: what was put aside is never replaced."""
    taken = set(os.listdir(dir_fd))
    number = 0
    free = name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    return free


def _copy(fd: int, target: int, begin: int, end: int) -> str:
    digest = hashlib.sha256()
    at = begin
    while at < end:
        chunk = disk.read_at(fd, min(_CHUNK, end - at), at)
        if not chunk:
            break
        disk.write_at(target, chunk, at - begin)
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def _cut_off(directory: LogDirectory, tail: Tail, sealed: Sequence[SealedSegment]) -> None:
    fd = _open_writable(directory, tail.segment)
    try:
        disk.truncate(fd, tail.at)
        disk.sync_data(fd)
    finally:
        disk.close(fd)
    if any(entry.segment == tail.segment for entry in sealed):
        sealing.make_read_only(directory, tail.segment)


def _open_writable(directory: LogDirectory, name: str) -> int:
    """Open a segment for writing, also one whose mode says that it is sealed."""
    fd = open_regular(name, dir_fd=directory.fd)
    try:
        if os.fstat(fd).st_mode & 0o777 != disk.PRIVATE_FILE:
            disk.change_mode(fd, disk.PRIVATE_FILE)
    finally:
        disk.close(fd)
    return open_regular(name, dir_fd=directory.fd, writable=True)


def reopen(directory: LogDirectory, walk: Walk) -> Segment:
    """Open the last segment to go on writing it; it was read, put right and synced."""
    fd = _open_writable(directory, str(walk.name))
    assert walk.first is not None  # noqa: S101 - the survey keeps only segments with a record
    assert walk.last is not None  # noqa: S101
    segment = Segment(
        fd,
        walk.name,
        str(directory.path / str(walk.name)),
        prev_hash=walk.first.prev_hash,
        extent=Extent(walk.bytes, walk.head, walk.last.timestamp),
        digest=walk.digest,
        timestamp=walk.first.timestamp,
    )
    segment.name_durable = True
    return segment
