"""Following a trail: new records as they are written, across rotation, from several logs at once.

Files are polled about ten times a second: no lock and no notification, so it works over network file systems, too.
Everything here blocks. `audit_async.reader` asks `has_news` through aiofiles, and reads what is new in a worker thread:
to read, check and decode 500 records there takes one change of threads, while awaiting each read of a file takes one
for each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from typing import BinaryIO, Final

from audit_async._layout.names import SegmentName
from audit_async._query.matching import Filter
from audit_async._query.open_files import OpenFiles
from audit_async._query.segment_scan import (
    Damage,
    Found,
    around,
    last_seq_of,
    line_beginning,
    open_part,
    scan,
    seq_of,
    wanted_in,
)
from audit_async._query.time_merge import Stream, merge
from audit_async._trail.line_search import size_of
from audit_async._trail.log_files import CHUNK_BYTES, LONGEST_LINE, Lines, Log, list_segments
from audit_async._trail.segment_parts import Part, Range, parts_of

#: Returns up to which sequence number a log is durable; None if that isn't known.
Durable = Callable[[Log], int | None]

_NO_END: Final = 1 << 63
#: A directory whose time of change is older than this shows by it whether it changes again.
_TICK_OVER_NS: Final = 2 * 10**9


class Follower:
    """Follows logs: each `poll` yields what has come since the last one. From one thread at a time."""

    def __init__(self, wanted: Filter, damage: Damage, durable: Durable) -> None:
        self._wanted = wanted
        self._damage = damage
        self._durable = durable
        self._tails: dict[str, _Tail] = {}
        self._files = OpenFiles(1)

    def begin(self, logs: list[Log], *, from_now: bool, reached: Mapping[str, int]) -> None:
        """Follow these logs, each from after what was `reached` of it; others `from_now`, or from their beginning."""
        self._files = OpenFiles(len(logs))
        for log in logs:
            after = reached.get(log.name)
            if after is None:
                after = _last_seq(log, self._durable(log), self._damage) if from_now else -1
            self._tails[log.name] = _Tail(log, after, self._files)

    def add(self, logs: list[Log]) -> None:
        """Follow those of the logs, too, that are new since then; from their beginning."""
        for log in logs:
            if log.name not in self._tails:
                self._tails[log.name] = _Tail(log, -1, self._files)

    @property
    def next_seqs(self) -> dict[str, int]:
        """Return, by log, the first sequence number that was not read yet."""
        return {name: tail.next_seq for name, tail in self._tails.items()}

    def has_news(self) -> bool:
        """Return whether `poll` may yield something: a file has grown or shrunk, or there is a new segment."""
        return any(tail.has_news() for tail in self._tails.values())

    def poll(self) -> Generator[Found | None, None, None]:
        """Yield what is there by now and was not yielded yet, merged by time; and None whenever time has passed."""
        streams = [
            Stream(name, tail.read(self._wanted, self._damage, self._durable(tail.log)))
            for name, tail in self._tails.items()
            if tail.has_news()
        ]
        yield from merge(streams)

    def close(self) -> None:
        """Close all files."""
        for tail in self._tails.values():
            tail.close()


class _Tail:
    """The end of one log: how far it was read, and the segment that is being written.

    That segment's file stays open, so it is read to its end also when it is archived meanwhile.
    """

    def __init__(self, log: Log, after: int, files: OpenFiles) -> None:
        self.log = log
        self._files = files
        self._after = after  # the last seq that was read
        self._part: Part | None = None
        self._file: BinaryIO | None = None
        self._offset = 0  # in that file, of the first line that was not read
        self._listed_ns: int | None = None  # the directory's time of change when it had no later segment

    @property
    def next_seq(self) -> int:
        """The first sequence number that was not read yet."""
        return self._after + 1

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = self._part = None

    def has_news(self) -> bool:
        """Return whether there may be lines that were not read yet; False only if there are none."""
        if self._part is None:
            return True
        try:
            # By its path: of thousands of logs most files are closed, and opening them again takes too long.
            size = os.stat(self._part.segment.path).st_size
        except OSError:
            return True  # archived, or deleted: reading says what is there instead
        return size != self._offset or self._next_segment() != _NO_END

    def read(self, wanted: Filter, damage: Damage, durable: int | None) -> Generator[Found | None, None, None]:
        """Yield the wanted records of all whole lines that were not read yet, up to `durable` if that is known."""
        before = durable + 1 if durable is not None else _NO_END
        while self._after + 1 < before:
            if self._file is None:
                part = self._next_part()
                if part is None:
                    return
                if part.segment.sealed is not None:
                    yield from scan(part, wanted, Range(self._after, before), damage, files=self._files)
                    self._after = min(part.segment.sealed.last_seq, before - 1)
                    continue
                if not self._open(part, damage):
                    return  # sealed and archived since it was listed: the next poll finds it there
            # Looked for before the rest is read: when the next segment is there, this one is complete.
            next_seq = self._next_segment()
            try:
                yield from self._read_file(wanted, damage, min(before, next_seq))
            except FileNotFoundError:
                # Closed between two polls, since there are very many logs, and deleted by retention before it was
                # opened again; the next part is read, or this one is reported as missing.
                self.close()
                continue
            if next_seq >= before:
                return
            self._after = max(self._after, next_seq - 1)
            self.close()

    def _read_file(self, wanted: Filter, damage: Damage, before: int) -> Generator[Found | None, None, None]:
        """Yield what is wanted of the open file's whole lines that were not read yet and come before `before`."""
        part, file = self._part, self._file
        assert part is not None  # noqa: S101 - the two are opened together
        assert file is not None  # noqa: S101
        if size_of(file) < self._offset:
            # Cut back after a failed fsync: what was cut off is in the next segment.
            self._offset, _ = around(file, size_of(file), self._after)
        while self._after + 1 < before:
            self._offset, data = _whole_lines(file, self._offset, part, damage, self._files.chunk_bytes)
            if not data:
                return
            wanted_lines = _lines_before(data, before)
            yield from wanted_in(Lines(self._offset, wanted_lines), part, wanted, Range(self._after, before), damage)
            yield None
            self._offset += len(wanted_lines)
            self._after = max(self._after, _last_seq_in(wanted_lines, self._after))
            if len(wanted_lines) < len(data):
                return

    def _next_part(self) -> Part | None:
        """Return the first segment that has, or may get, a record after those that were read."""
        for part in parts_of(self.log):
            if part.segment.sealed is not None:
                last = part.segment.sealed.last_seq
            else:
                last = part.until_seq - 1 if part.until_seq is not None else _NO_END
            if last > self._after:
                return part
        return None

    def _open(self, part: Part, damage: Damage) -> bool:
        file = open_part(part, damage, self._files)
        if file is None:
            return False
        if not file.seekable():
            file.close()
            return False
        self._part, self._file = part, file
        self._offset, _ = around(file, size_of(file), self._after)
        return True

    def _next_segment(self) -> int:
        """Return the first seq of the segment after the open one; `_NO_END` if there is none yet."""
        assert self._part is not None  # noqa: S101
        here = self._part.segment
        try:
            changed_ns = os.stat(self.log.directory).st_mtime_ns
            if changed_ns == self._listed_ns:
                return _NO_END
            names = os.listdir(self.log.directory)
        except OSError:
            return _NO_END  # the directory is gone; what was open can still be read
        # The newest segment is always there by its name; of those between, some may be archived.
        if not any(parsed.first_seq > here.first_seq for parsed in map(SegmentName.parse, names) if parsed):
            # A change within the clock tick of this one would have the same time, so that has to be over.
            if time.time_ns() - changed_ns > _TICK_OVER_NS:
                self._listed_ns = changed_ns
            return _NO_END
        self._listed_ns = None
        return min(
            (segment.first_seq for segment in list_segments(self.log) if segment.first_seq > here.first_seq),
            default=_NO_END,
        )


def _last_seq(log: Log, durable: int | None, damage: Damage) -> int:
    """Return the last sequence number of a log that is there by now; -1 for none."""
    for part in reversed(parts_of(log)):
        last = last_seq_of(part, damage)
        if last is not None:
            return last if durable is None else min(last, durable)
    return -1


def _whole_lines(
    file: BinaryIO, offset: int, part: Part, damage: Damage, chunk_bytes: int = CHUNK_BYTES
) -> tuple[int, bytes]:
    """Read whole lines from `offset`, none if the only one is still being written; return their offset, too."""
    size = chunk_bytes
    while True:
        file.seek(offset)
        data = file.read(size)
        whole = data[: data.rfind(b"\n") + 1]
        if whole or len(data) < size:
            return offset, whole
        if size > LONGEST_LINE:
            damage.found(part, offset, "not a whole record")
            offset, size = offset + size, chunk_bytes
        else:
            size *= 2


def _lines_before(data: bytes, before: int) -> bytes:
    """Return the lines in front of the record `before`, which may be no record any more: a void copy, torn."""
    first = seq_of(data)
    if first is not None and first >= before:
        return b""
    place = line_beginning(data, b'{"seq":%d,' % (before - 1))
    if place is not None:
        return data[: data.find(b"\n", place) + 1]
    place = line_beginning(data, b'{"seq":%d,' % before)
    return data if place is None else data[:place]


def _last_seq_in(lines: bytes, after: int) -> int:
    """Return the sequence number of the last of whole lines; counted if that line is damaged."""
    seq = seq_of(lines[lines.rfind(b"\n", 0, -1) + 1 :])
    return seq if seq is not None else after + lines.count(b"\n")
