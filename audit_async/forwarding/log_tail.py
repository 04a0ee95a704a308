"""The durable tail of a log: its records as raw lines, as far as the writer has acknowledged them.

What a log's file holds after its last acknowledged record may still be taken back: a sync may fail, after which the
writer cuts the file and continues in another one, and a power cut may come first. So nothing is believed because it is
readable. The writer publishes in the file `lock` up to where it is acknowledged, and what is sealed was durable before;
all else waits. After a crash that is so until the log was opened again, which decides what of its end is kept.

Needs no lock, and only reads. A segment stays open while it is read, so it is read to its end also if it is archived or
deleted meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final, Literal

import anyio
import anyio.to_thread

from audit_async._chain import START, BadRecord, check_record
from audit_async._chain import Head as ChainHead
from audit_async._chain.bulk_check import Bad, ChainChecker
from audit_async._layout.age_files import ArchiveEncrypted
from audit_async._layout.lock_file import read_acknowledged
from audit_async._query.segment_scan import around, line_beginning
from audit_async._trail.line_search import size_of
from audit_async._trail.log_files import (
    DAMAGED_ARCHIVE,
    LONGEST_LINE,
    Log,
    SegmentDeleted,
    SegmentFile,
    find_logs,
    list_segments,
    manifest_stamp,
    open_segment,
    require_known_format,
)
from audit_async.errors import AuditError, LogCorrupted
from audit_async.forwarding.batches import MAX_BATCH_BYTES, Batch, Head

__all__ = ["LogDiffers", "LogTail", "RecordsUnreadable", "durable_tail"]

_CHUNK_BYTES: Final = 256 << 10
#: Waits of a tail that has caught up, in seconds: doubled from the first to the last while nothing comes.
_FIRST_WAIT_S: Final = 0.02
_LAST_WAIT_S: Final = 0.2


class LogDiffers(AuditError):
    """A log on the disk is not the one that a head is of.

    Args:
        kind: `fork` if another record has the head's place, `cut` if the log ends before it.
        message: What differs, and where.
    """

    def __init__(self, kind: Literal["fork", "cut"], message: str) -> None:
        self.kind: Final = kind
        super().__init__(message)


class RecordsUnreadable(AuditError):
    """The next records of a log are deleted, encrypted or damaged, or a segment can't be read."""


async def durable_tail(
    directory: str | Path,
    after: Head | None = None,
    *,
    follow: bool = True,
    max_batch_bytes: int = MAX_BATCH_BYTES,
) -> AsyncIterator[Batch]:
    """Yield a log's records as raw lines, in order, as far as they are acknowledged to be durable.

    Every hash and link is checked. Works next to a running writer, in the same process or another one, and goes on
    when segments are rotated, archived and deleted and when the writer is restarted. A log that was never written by a
    release that publishes its head gives what is sealed.

    Args:
        directory: The log's directory, the one with log.json in it.
        after: The last record that is not wanted; None to begin with record 0.
        follow: Wait for more, for ever; False ends after what is there.
        max_batch_bytes: How many bytes a batch has at most, unless it is a single record.

    Raises:
        LogDiffers: The log does not have the record `after`, or lost acknowledged records.
        RecordsUnreadable: The next records are deleted, in an encrypted archive, or damaged.
        TrailUnreadable: There is no such log, or there is no right to read it; an `AuditError`.
    """
    tail = await anyio.to_thread.run_sync(lambda: LogTail(Path(directory), max_batch_bytes=max_batch_bytes))
    try:
        await anyio.to_thread.run_sync(tail.seek, after)
        wait_s = _FIRST_WAIT_S
        while True:
            batch = await anyio.to_thread.run_sync(tail.read)
            if batch is not None:
                wait_s = _FIRST_WAIT_S
                yield batch
            elif not follow:
                return
            else:
                await anyio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LAST_WAIT_S)
    finally:
        tail.close()


_FOR_A_FORWARDER: Final = "retention with hold_unshipped=True neither deletes nor encrypts what is not shipped"


class LogTail:
    """A position in a log, from which `read` returns what is acknowledged. Blocks; for one thread at a time.

    Args:
        directory: The log's directory.
        max_batch_bytes: How many bytes a batch has at most, unless it is a single record.
        remedy: What a person can do if retention has taken the next records; a part of the message.

    Raises:
        TrailUnreadable: There is no log at `directory`, or it can't be read.
    """

    def __init__(
        self, directory: Path, *, max_batch_bytes: int = MAX_BATCH_BYTES, remedy: str = _FOR_A_FORWARDER
    ) -> None:
        self.log: Final = _log_at(directory)
        self._remedy: Final = remedy  # what the message says if retention has taken the next records
        self.max_batch_bytes = max_batch_bytes
        self._at = START
        self._acknowledged = -1  # the last seq that is known to be acknowledged
        self._manifest_stamp: tuple[int, int, int] | None = None
        self._segment: SegmentFile | None = None
        self._file: BinaryIO | None = None
        self._offset = 0  # in the open file, of the first byte that was not read
        self._unused = b""  # read, and not returned yet

    def __repr__(self) -> str:
        return f"<LogTail {self.log.directory} at={self._at.seq} acknowledged={self._acknowledged}>"

    @property
    def at(self) -> Head | None:
        """The last record that `read` has returned, or that `seek` was given."""
        return None if self._at.seq < 0 else Head(seq=self._at.seq, hash=self._at.hash.decode())

    @property
    def known_seq(self) -> int:
        """Up to which record the log was acknowledged when that was last looked at; -1 for none."""
        return max(self._acknowledged, self._at.seq)

    def acknowledged_seq(self) -> int:
        """Return up to which record the log is known to be acknowledged by now; -1 for none.

        Raises:
            RecordsUnreadable: The directory can't be read.
        """
        try:
            published = read_acknowledged(self.log.directory)
            if published is not None:
                self._acknowledged = max(self._acknowledged, published.seq)
            if self._acknowledged <= self._at.seq and (stamp := manifest_stamp(self.log)) != self._manifest_stamp:
                self._manifest_stamp = stamp
                sealed = (segment.sealed.last_seq for segment in list_segments(self.log) if segment.sealed is not None)
                self._acknowledged = max(self._acknowledged, *sealed, -1)
        except (OSError, LogCorrupted) as error:
            raise RecordsUnreadable(f"{self.log.directory} can't be read: {error}") from error
        return self._acknowledged

    def seek(self, after: Head | None) -> None:
        """Go to the place after a record, which the log must have; None is the beginning.

        Raises:
            LogDiffers: It has another record there, or ends before it.
            RecordsUnreadable: Whether it has it can't be found out.
        """
        self.close()
        self._at = START
        if after is None:
            return
        segment = self._segment_of(after.seq)
        if segment is None:
            raise self._cut(after.seq)
        sealed = segment.sealed
        if sealed is not None and after.seq == sealed.last_seq:
            found = sealed.hash
        else:
            self._open(segment, after.seq)
            line = self._next_line()
            if not line:
                raise self._cut(after.seq)
            found = self._hash_of(line, after.seq)
        if found != after.hash:
            raise LogDiffers(
                "fork",
                f"{self.log.directory}: record {after.seq} has the hash {found[:16]}..., not {after.hash[:16]}...: the "
                "log was rewritten, or continued from an older or cloned copy, or is another one",
            )
        self._at = ChainHead(after.seq, after.hash.encode())

    def read(self) -> Batch | None:
        """Return the next acknowledged records; None if there are none yet.

        Raises:
            LogDiffers: Records that were acknowledged are not there.
            RecordsUnreadable: The next ones are deleted, encrypted or damaged.
        """
        until = self.acknowledged_seq()
        if self._at.seq >= until:
            return None
        listed_again = False
        while True:
            if self._file is None:
                segment = self._segment_of(self._at.seq + 1)
                if segment is None:
                    raise self._cut(until)
                self._open(segment, self._at.seq + 1)
                listed_again = True
            lines = self._next_lines(until - self._at.seq)
            reason = "the records are not there"
            if lines:
                checked = self._check(lines)
                if isinstance(checked, Batch):
                    self._at = ChainHead(checked.last_seq, checked.last_hash.encode())
                    return checked
                reason = checked
            segment_name = "" if self._segment is None else self._segment.name
            self.close()
            # Read to its end, or cut back after a failed sync: what follows is in a later segment.
            if listed_again:
                if not lines:
                    raise self._cut(until)
                raise RecordsUnreadable(
                    f"{self.log.directory / segment_name}: record {self._at.seq + 1} is damaged: {reason}; run "
                    "audit-async verify"
                )

    def close(self) -> None:
        """Close the file; `read` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = self._segment = None
        self._unused = b""

    def _segment_of(self, seq: int) -> SegmentFile | None:
        """Return the segment that has a record, or will have it; None if the log begins after it."""
        try:
            segments = [segment for segment in list_segments(self.log) if segment.first_seq <= seq]
        except (OSError, AuditError) as error:
            raise RecordsUnreadable(str(error)) from error
        return segments[-1] if segments else None

    def _open(self, segment: SegmentFile, seq: int) -> None:
        """Open a segment at the line of a record."""
        try:
            file = open_segment(segment)
        except SegmentDeleted:
            state = "deleted" if segment.sealed is None else segment.sealed.state
            raise RecordsUnreadable(
                f"{segment.path}: record {seq} is wanted, and its segment is {state}; {self._remedy}"
            ) from None
        except ArchiveEncrypted as error:
            raise RecordsUnreadable(
                f"{segment.path}: record {seq} is wanted, and is in an encrypted archive, which is not read here; "
                f"{self._remedy}"
            ) from error
        except (OSError, LogCorrupted) as error:
            raise RecordsUnreadable(f"{segment.path}: record {seq} is wanted: {error}") from error
        self._segment, self._file, self._unused = segment, file, b""
        if file.seekable():
            self._offset, _ = around(file, size_of(file), seq) if seq > segment.first_seq else (0, 0)
        else:
            self._offset = 0
        self._skip_to(seq)

    def _skip_to(self, seq: int) -> None:
        """Leave out the lines before that of a record."""
        beginning = b'{"seq":%d,' % seq
        while lines := self._next_lines(_CHUNK_BYTES, max_bytes=_CHUNK_BYTES):
            place = line_beginning(lines, beginning)
            if place is not None:
                self._unused = lines[place:] + self._unused
                return

    def _next_line(self) -> bytes:
        return self._next_lines(1, max_bytes=1)

    def _next_lines(self, most: int, *, max_bytes: int | None = None) -> bytes:
        """Return whole lines, at least one if there is one, up to `most` and about `max_bytes`."""
        max_bytes = max_bytes or self.max_batch_bytes
        data = self._unused
        end = data.rfind(b"\n", 0, max_bytes) + 1
        while len(data) < max_bytes or not end:
            end = end or data.find(b"\n") + 1
            if (end and len(data) >= max_bytes) or not (more := self._more()):
                break
            if len(data) > LONGEST_LINE:
                raise RecordsUnreadable(
                    f"{self.log.directory}: a line is too long for a record; run audit-async verify"
                )
            data += more
            end = data.rfind(b"\n", 0, max_bytes) + 1
        end = end or data.find(b"\n") + 1
        if data.count(b"\n", 0, end) > most:
            end = sum(map(len, data[:end].split(b"\n")[:most])) + most
        self._unused = data[end:]
        return data[:end]

    def _more(self) -> bytes:
        """Read on in the open file."""
        file = self._file
        assert file is not None  # noqa: S101 - there is one while lines are read
        try:
            more = os.pread(file.fileno(), _CHUNK_BYTES, self._offset) if file.seekable() else file.read(_CHUNK_BYTES)
        except (OSError, *DAMAGED_ARCHIVE) as error:
            name = self.log.directory if self._segment is None else self._segment.path
            self.close()
            raise RecordsUnreadable(f"{name} can't be read: {error}") from error
        self._offset += len(more)
        return more

    def _check(self, lines: bytes) -> Batch | str:
        """Return the lines up to one that is not the record that is due as a batch; the reason if that is the first."""
        before = last = self._at
        for checked in ChainChecker(before).check_lines(lines):
            if isinstance(checked, Bad):
                if last == before:
                    return checked.reason
                lines, self._unused = lines[: checked.offset], lines[checked.offset :] + self._unused
                break
            last = ChainHead(checked.records[-1].seq, checked.records[-1].hash.encode())
        return Batch(
            first_seq=before.seq + 1,
            last_seq=last.seq,
            prev=before.hash.decode(),
            last_hash=last.hash.decode(),
            lines=lines,
        )

    def _hash_of(self, line: bytes, seq: int) -> str:
        try:
            record = check_record(line, None)
        except BadRecord as bad:
            raise RecordsUnreadable(
                f"{self.log.directory}: record {seq} is damaged: {bad}; run audit-async verify"
            ) from bad
        return record.hash.decode()

    def _cut(self, seq: int) -> LogDiffers:
        return LogDiffers(
            "cut",
            f"{self.log.directory}: the log ends before record {seq}, which was durable: it was cut, set back to an "
            "older copy or continued in a cloned one, or its disk lost what it had confirmed",
        )


def _log_at(directory: Path) -> Log:
    """Return the log whose directory it is."""
    logs = find_logs(directory)
    if len(logs) != 1 or logs[0].directory != Path(os.path.abspath(directory)):
        raise RecordsUnreadable(f"{directory} is no log's directory; give the one that has log.json in it")
    require_known_format(logs[0])
    return logs[0]
