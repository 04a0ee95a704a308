"""A log that is received from elsewhere: raw records in, checked one by one, a directory like the host's own out.

Segments end where the host's do: not by date or size, but where the chain says so. The host records
`audit.segment_sealed` a few records after it has begun the next segment, so what was received in between is moved to a
file of its own then. The files, their checksums and the manifest are then byte for byte those of the host.

No file is kept open between two batches, so a collector may have any number of logs. The log's lock is taken for each
batch; that only one process collects into a directory is the duty of the caller, which has the lock of the root.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

import msgspec

from audit_async._chain import BadRecord, CheckedRecord, Head, check_record
from audit_async._durable import disk
from audit_async._layout.access_modes import PRIVATE, Access
from audit_async._layout.chain_holds import OWN_EVENT, ChainHolds
from audit_async._layout.collected_file import Collected, read_collected
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import COLLECTED_FILE, COLLECTED_NAME, LOG_FILE, UNFINISHED, SegmentName
from audit_async._layout.regular_files import open_regular
from audit_async._store import sealing
from audit_async._store.checked_segment import CheckedSegment, segment_sealed_by
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async._store.repair import repair
from audit_async._store.survey import survey
from audit_async._store.writer_lock import WriterLock
from audit_async.errors import LogCorrupted

#: States of the active segment that are kept, so that a cut need not be looked for from the segment's beginning.
_REMEMBERED: Final = 32
_READ_BYTES: Final = 1 << 20


class StatedSegment(msgspec.Struct, frozen=True):
    """What the chain says of a segment that the host has sealed."""

    segment: str
    first_seq: int
    last_seq: int
    records: int
    bytes: int
    sha256: str


class Received(NamedTuple):
    """What an append has done; all of it is durable."""

    head: Head
    #: Segments that the host has sealed with other content than its chain has: its own file was not what it wrote.
    differing: tuple[StatedSegment, ...]


class CollectedLog:
    """One received log. Made by `open`; from one thread at a time, which owns every field."""

    def __init__(self, collected: Collected, base_dir: Path, names: tuple[str, str], access: Access) -> None:
        """Take the names; every other caller uses `open`."""
        self.collected: Final = collected
        self._base_dir: Final = base_dir
        self._names: Final = names
        self._access: Final = access
        self._manifest = Manifest(collected.log_id)
        self._active: CheckedSegment | None = None
        self._earlier: deque[CheckedSegment] = deque(maxlen=_REMEMBERED)  # of the active segment
        self._is_sound = False  # False: an append failed, or none of the files was looked at yet

    def __repr__(self) -> str:
        return f"<CollectedLog {self.path} head={self.head.seq}>"

    @classmethod
    def open(cls, path: Path, collected: Collected, document: bytes, *, access: Access = PRIVATE) -> Self:
        """Open the directory of a received log, and make it if there is none; everything that is there is durable then.

        What a crash has left is put in order, as when a host opens its log.

        Args:
            path: `<root>/<tenant>/<host>/<service>/<instance>.<log_id>`, each name escaped.
            collected: whose log it is.
            document: the host's `log.json`.
            access: the modes and the group of what is made.

        Raises:
            LogCorrupted: `document` is no log.json of this log, or the directory is damaged or another log's.
            LogLocked: another process is writing to it.
            OSError: the system refuses.
        """
        check_description(collected, document)
        log = cls(collected, path.parent.parent, (path.parent.name, path.name), access)
        with log._locked(is_made=False) as directory:
            names = directory.names()
            if COLLECTED_FILE in names:
                if read_collected(directory.path) != collected:
                    raise LogCorrupted(COLLECTED_FILE, None, None, "the directory is that of another log")
            elif any(map(SegmentName.parse, names)) or LOG_FILE in names:
                raise LogCorrupted(COLLECTED_FILE, None, None, "the file is missing, but there is a log")
            else:
                directory.replace(COLLECTED_FILE, msgspec.json.encode(collected) + b"\n")
                directory.sync()
            if LOG_FILE not in names:
                directory.replace(LOG_FILE, document)
                directory.sync()
            elif directory.read(LOG_FILE) != document:
                raise LogCorrupted(LOG_FILE, None, None, "it is not what the host's log.json was when it was received")
            log._look(directory)
        return log

    @property
    def path(self) -> Path:
        """The log's directory."""
        return self._base_dir / self._names[0] / self._names[1]

    @property
    def last_timestamp(self) -> str:
        """When the host made the last record that is here, RFC 3339; empty if there is none."""
        if self._active is not None and self._active.last is not None:
            return self._active.last.timestamp
        return self._manifest.segments[-1].last_timestamp if self._manifest.segments else ""

    @property
    def head(self) -> Head:
        """The last record that is durable here, seq -1 if there is none. After a failed append, `refresh` first."""
        return self._manifest.head if self._active is None else self._active.head

    def append(self, lines: bytes, after: Head) -> Received:
        """Check records, store them, and return once they are durable with all that their seals say.

        Args:
            lines: whole records, one or more.
            after: what they follow; it has to be the head.

        Raises:
            BadRecord: one of them is not the record that is due. Nothing was stored.
            LogCorrupted: the files are not as they were left. Nothing was stored.
            LogLocked: another process is writing to the log.
            OSError: the system refuses. Some of the records may be stored; `head` says which.
        """
        pieces, records = _checked(lines, after)
        stated = _stated_in(lines, pieces)
        self.refresh()
        if after != self.head:
            raise BadRecord(f"the records follow seq {after.seq}, but {self.head.seq + 1} is due")
        with self._locked() as directory:
            self._require_untouched(directory)
            self._is_sound = False
            sealed = self._write(directory, pieces, records, _cuts(stated))
            self._is_sound = True
        return Received(self.head, tuple(one for one in stated if _differs(one, sealed)))

    def refresh(self) -> None:
        """Read the files again if an append has failed; `head` is then what is durable. Raises as `open` does."""
        if not self._is_sound:
            with self._locked() as directory:
                self._look(directory)

    # -- the steps -----------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, *, is_made: bool = True) -> Iterator[LogDirectory]:
        service, instance = self._names
        directory = LogDirectory(
            self._base_dir, service, instance,
            access=self._access, allow_insecure_dir=False, names=COLLECTED_NAME, is_made=is_made,
        )  # fmt: skip
        try:
            lock = WriterLock(directory)
            try:
                yield directory
            finally:
                lock.close()
        finally:
            directory.close()

    def _look(self, directory: LogDirectory) -> None:
        """Judge the files, repair what a crash left, and make all of it durable."""
        found = survey(directory, self.collected.log_id)
        repair(directory, found)
        # Sealing replaces the manifest's segments, those that `repair` has sealed included.
        self._manifest = found.manifest
        self._active = found.unsealed[-1] if found.unsealed else None
        self._earlier.clear()
        self._is_sound = True

    def _require_untouched(self, directory: LogDirectory) -> None:
        """Raise `LogCorrupted` if the active segment is not as long as it was left."""
        if self._active is None:
            return
        name = str(self._active.name)
        try:
            size = os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            size = 0
        if size != self._active.bytes:
            self._is_sound = False
            reason = f"it has {size} bytes, and {self._active.bytes} were received; somebody changed it"
            raise LogCorrupted(name, None, None, reason)

    def _write(
        self, directory: LogDirectory, lines: Sequence[bytes], records: Sequence[CheckedRecord], cuts: Sequence[int]
    ) -> list[SealedSegment]:
        """Write records, begin a segment at each cut, and seal those before; return what was sealed."""
        finished: list[SealedSegment] = []
        at, first_seq = 0, records[0].seq
        for cut in cuts:
            if cut > records[-1].seq:
                break  # it states what is still to come, which no host does
            if cut < first_seq:
                if self._active is not None and self._active.name.first_seq < cut:
                    finished.append(self._split(directory, cut))
                continue
            self._extend(directory, lines[at : cut - first_seq], records[at : cut - first_seq])
            if self._active is not None and self._active.records:
                finished.append(self._active.as_sealed())
                self._active = None
                self._earlier.clear()
            at = cut - first_seq
        self._extend(directory, lines[at:], records[at:])
        if not finished:
            return []
        # The first record of the segment that follows the last of them is durable by now.
        sealing.seal(directory, self._manifest, finished, recorded=frozenset())
        return finished

    def _extend(self, directory: LogDirectory, lines: Sequence[bytes], records: Sequence[CheckedRecord]) -> None:
        """Write records to the active segment, durably, and begin one if there is none."""
        if not lines:
            return
        segment = self._active
        is_new = segment is None
        if segment is None:
            segment = _empty(SegmentName(records[0].seq, records[0].timestamp[:10]), self.head)
            fd = directory.create(str(segment.name))
        else:
            fd = open_regular(str(segment.name), dir_fd=directory.fd, writable=True)
        try:
            try:
                disk.write_at(fd, b"".join(lines), segment.bytes)
                disk.sync_data(fd)
            except OSError:
                # After a failed sync nothing that it was to sync is believed. What was durable before it stays.
                with suppress(OSError):
                    disk.truncate(fd, segment.bytes)
                raise
        finally:
            disk.close(fd)
        if is_new:
            directory.sync()
        else:
            self._earlier.append(segment)
        self._active = _grown(segment, lines, records)

    def _split(self, directory: LogDirectory, cut: int) -> SealedSegment:
        """Move the records from `cut` on out of the active segment to one of their own; return the rest, sealed.

        The new file gets its name only once it is whole and durable. After a crash between that and the cut, the old
        file's end is a copy of the new one, which opening knows and cuts off.
        """
        whole = self._active
        assert whole is not None  # noqa: S101 - the caller has looked
        before = self._state_before(directory, whole, cut)
        fd = open_regular(str(whole.name), dir_fd=directory.fd, writable=True)
        try:
            moved = _copied(directory, fd, before, whole)
            directory.sync()
            disk.truncate(fd, before.bytes)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        self._active = moved
        self._earlier.clear()
        return before.as_sealed()

    def _state_before(self, directory: LogDirectory, whole: CheckedSegment, cut: int) -> CheckedSegment:
        """Return the active segment as it was when the record before `cut` was its last."""
        earlier = list(self._earlier)
        at = bisect_left(earlier, cut, key=lambda state: state.head.seq + 1)
        state = earlier[at - 1] if at else _empty(whole.name, whole.before)
        if at < len(earlier) and earlier[at].head.seq + 1 == cut:
            return earlier[at]
        with open(open_regular(str(whole.name), dir_fd=directory.fd), "rb") as file:
            file.seek(state.bytes)
            for lines in _in_pieces(file, whole.bytes - state.bytes):
                pieces, records = _checked(lines, state.head)
                count = min(len(pieces), cut - state.head.seq - 1)
                state = _grown(state, pieces[:count], records[:count])
                if state.head.seq + 1 == cut:
                    break
        return state


def check_description(collected: Collected, document: bytes) -> None:
    """Raise `LogCorrupted` if a `log.json` is not that of this log."""
    try:
        identity = msgspec.json.decode(document, type=Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(LOG_FILE, None, None, "the host's file is not what the library writes") from error
    if (identity.log_id, identity.service_id) != (collected.log_id, collected.service):
        raise LogCorrupted(LOG_FILE, None, None, "the host's file is that of another log")


def _checked(lines: bytes, after: Head) -> tuple[list[bytes], list[CheckedRecord]]:
    """Check consecutive records; raises `BadRecord`, which names the sequence number that is due."""
    pieces = lines.split(b"\n")
    if pieces.pop() or not pieces:
        raise BadRecord(f"the records after seq {after.seq} are not whole lines")
    whole = [piece + b"\n" for piece in pieces]
    records = []
    head = after
    for line in whole:
        try:
            record = check_record(line, head)
        except BadRecord as bad:
            raise BadRecord(f"record {head.seq + 1}: {bad}") from None
        records.append(record)
        head = record.head
    return whole, records


class _Stated(msgspec.Struct):
    event: StatedSegment


_decode_stated: Final = msgspec.json.Decoder(_Stated).decode


def _stated_in(lines: bytes, pieces: Sequence[bytes]) -> list[StatedSegment]:
    """Return what the records say of sealed segments; statements that can't be right are left out."""
    if OWN_EVENT + b"segment_sealed" not in lines:
        return []
    stated = []
    for line in pieces:
        if segment_sealed_by(line) is None:
            continue
        with suppress(msgspec.MsgspecError):
            event = _decode_stated(line).event
            name = SegmentName.parse(event.segment)
            if name is not None and name.first_seq == event.first_seq <= event.last_seq:
                stated.append(event)
    return stated


def _cuts(stated: Sequence[StatedSegment]) -> list[int]:
    """Return the sequence numbers that segments begin with, ascending."""
    return sorted({seq for one in stated for seq in (one.first_seq, one.last_seq + 1) if seq})


def _differs(stated: StatedSegment, sealed: Sequence[SealedSegment]) -> bool:
    entry = next((one for one in sealed if one.segment == stated.segment), None)
    if entry is None:
        return False  # known already, or what it says can't be compared
    return (entry.last_seq, entry.records, entry.bytes, entry.sha256) != (
        stated.last_seq, stated.records, stated.bytes, stated.sha256,
    )  # fmt: skip


def _empty(name: SegmentName, before: Head) -> CheckedSegment:
    return CheckedSegment(name, before, None, None, 0, 0, 0, hashlib.sha256(), frozenset(), ChainHolds(), None)


def _grown(segment: CheckedSegment, lines: Sequence[bytes], records: Sequence[CheckedRecord]) -> CheckedSegment:
    """Return a segment with further records."""
    if not lines:
        return segment
    data = b"".join(lines)
    digest = segment.digest.copy()
    digest.update(data)
    size = segment.bytes + len(data)
    return segment._replace(
        first=segment.first or records[0],
        last=records[-1],
        records=segment.records + len(records),
        bytes=size,
        size=size,
        digest=digest,
    )


def _in_pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield whole lines of a file, up to about 1 MiB at a time, `size` bytes of it."""
    carried = b""
    while size and (block := file.read(min(_READ_BYTES, size))):
        size -= len(block)
        whole, newline, carried_on = (carried + block).rpartition(b"\n")
        carried = carried_on
        if newline:
            yield whole + newline


def _copied(directory: LogDirectory, source: int, before: CheckedSegment, whole: CheckedSegment) -> CheckedSegment:
    """Copy what `whole` has after `before` to a file of its own, durably but for its name; return that segment."""
    unfinished = f"{before.name}{UNFINISHED}"
    with suppress(FileNotFoundError):
        disk.unlink(unfinished, dir_fd=directory.fd)
    target = directory.create(unfinished)
    segment: CheckedSegment | None = None
    try:
        with open(os.dup(source), "rb") as file:
            file.seek(before.bytes)
            for data in _in_pieces(file, whole.bytes - before.bytes):
                lines, records = _checked(data, before.head if segment is None else segment.head)
                if segment is None:
                    segment = _empty(SegmentName(records[0].seq, records[0].timestamp[:10]), before.head)
                disk.write_at(target, data, segment.bytes)
                segment = _grown(segment, lines, records)
        disk.sync_data(target)
    finally:
        disk.close(target)
    if segment is None or segment.head != whole.head:
        raise LogCorrupted(str(whole.name), None, None, "its end is not what was received; somebody changed it")
    disk.rename(unfinished, str(segment.name), dir_fd=directory.fd)
    return segment
