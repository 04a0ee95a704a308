"""The end of a log, read backwards: its last record, and how its last session was opened and ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from audit_async._chain import BadRecord, check_record
from audit_async._layout.crash_traces import torn_by_crash as explained_by_crash
from audit_async._trail.log_files import LONGEST_LINE, Log, SegmentFile, open_segment
from audit_async.events import AuditLogClosed, AuditLogOpened, NotARecord, Record, decode_record

__all__ = ["LastSession", "last_session"]

_BLOCK: Final = 1 << 18
_OPENED: Final = b'"event_type":"audit.log_opened"'
#: How much is read in search of the opening; a busy log may have been opened long ago.
_MOST_READ: Final = 256 << 20


class LastSession(NamedTuple):
    """What the end of a log says."""

    last: Record | None  #: the last whole record
    torn_bytes: int  #: bytes after it that are no records
    torn_by_crash: bool  #: a crash leaves such bytes, so opening the log repairs it; otherwise opening refuses
    closed: bool  #: the session ended in order
    flush_mode: str | None  #: as `audit.log_opened` has it; None if that was not found


def last_session(log: Log, segments: list[SegmentFile]) -> LastSession:
    """Read as much of a log's end as it takes; from live segments only."""
    last: Record | None = None
    torn_bytes = 0
    torn_by_crash = True
    flush_mode: str | None = None
    read = 0
    for segment in reversed(segments):
        if segment.sealed is not None and segment.sealed.state not in {"live", "damaged"}:
            break
        try:
            file = open_segment(segment)
        except FileNotFoundError:
            break  # what is missing is reported by another check
        with file:
            tail_bytes = 0  # bytes of this file after which no record comes
            for line in _lines_backwards(file):
                read += len(line)
                if last is None:
                    last = _record(line, log)
                    if last is None:
                        tail_bytes += len(line)
                        continue
                if _OPENED in line and (found := _record(line, log)) and isinstance(found.event, AuditLogOpened):
                    flush_mode = found.event.flush_mode
                if flush_mode is not None or read > _MOST_READ:
                    break
            torn_bytes += tail_bytes
            if tail_bytes and explained_by_crash(file, file.seek(0, 2) - tail_bytes) is None:
                torn_by_crash = False
        if flush_mode is not None:
            break
    return LastSession(
        last, torn_bytes, torn_by_crash, last is not None and isinstance(last.event, AuditLogClosed), flush_mode
    )


def _record(line: bytes, log: Log) -> Record | None:
    try:
        check_record(line, None)
        return decode_record(line, log=log.name)
    except (BadRecord, NotARecord):
        return None


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file from its end, the last first; that one may lack its line end.

    A line that is too long for a record comes in pieces, so that a file without line ends costs no memory.
    """
    at = file.seek(0, 2)
    carried = b""
    while at:
        size = min(max(_BLOCK, len(carried)), at)  # doubled for a long line, so that it is copied a few times only
        at -= size
        file.seek(at)
        first, *rest = (file.read(size) + carried).split(b"\n")  # a line ends there and nowhere else
        if rest:
            if rest[-1]:
                yield rest[-1]
            yield from (line + b"\n" for line in reversed(rest[:-1]))
            carried = first + b"\n"
        elif len(first) > LONGEST_LINE:
            yield first
            carried = b""
        else:
            carried = first
    if carried:
        yield carried
