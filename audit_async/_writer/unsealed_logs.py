"""What an erasure does not reach, as far as it can be said at once: logs, and parts of logs, that do not seal.

Looked at are the first records of each segment, which say whether the session that wrote them seals, and the newest
segment. A session without privacy that began and ended within one older segment is not seen; `audit-async erase
--dry-run` reads every record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audit_async._layout.age_files import ArchiveEncrypted
from audit_async._layout.chain_holds import OWN_EVENT, own_event
from audit_async._trail.log_files import (
    DAMAGED_ARCHIVE,
    SegmentDeleted,
    SegmentFile,
    find_logs,
    list_segments,
    open_segment,
    read_lines,
)
from audit_async.errors import AuditError

#: How much of a segment is looked at.
_BEGINNING_BYTES: Final = 1 << 18
#: What says whether a session seals, and by which member.
_STATING: Final = {b"log_opened": "privacy", b"segment_sealed": "erasure_epoch"}


class UnsealedLogs(NamedTuple):
    """The logs below a base directory that hold more than what is sealed, by name."""

    unsealed: tuple[str, ...]  #: that do not seal now
    partly_sealed: tuple[str, ...]  #: that seal now, and did not always
    unread: tuple[str, ...]  #: of which that can't be said, since they can't be read


def find_unsealed(base_dir: Path) -> UnsealedLogs:
    """Return which logs below a directory do not seal, or did not always; blocks, reads 256 KiB of each segment.

    Raises `TrailUnreadable` if the directory itself can't be read.
    """
    unsealed, partly_sealed, unread = [], [], []
    for log in find_logs(base_dir):
        try:
            segments = list_segments(log)
            if not _seals_now(segments):
                unsealed.append(log.name)
            elif _has_unsealed(segments):
                partly_sealed.append(log.name)
        except (AuditError, OSError, *DAMAGED_ARCHIVE):
            unread.append(log.name)
    return UnsealedLogs(tuple(unsealed), tuple(partly_sealed), tuple(unread))


def _seals_now(segments: list[SegmentFile]) -> bool:
    """Return whether any session seals of the newest segment with a record of a caller's, or of those after it.

    Not the last session alone: that may be a command's, which only looked after the log.
    """
    for segment in reversed(segments):
        stated = stated_sealing(segment)
        if any(stated):
            return True
        if stated and _has_callers_record(segment):
            return False
    return False


def _has_callers_record(segment: SegmentFile) -> bool:
    with open_segment(segment) as file:
        return any(line and own_event(line) is None for lines in read_lines(file) for line in lines.data.split(b"\n"))


def _has_unsealed(segments: list[SegmentFile]) -> bool:
    """Return whether the first session did not seal, or one that filled a segment.

    A command's session, which only looked after the log and recorded nobody, is not meant.
    """
    stated = [stated_sealing(segment, _BEGINNING_BYTES) for segment in segments]
    return next(filter(None, stated), [])[:1] == [False] or any(known[-1:] == [False] for known in stated[:-1])


def stated_sealing(segment: SegmentFile, most_bytes: int | None = None) -> list[bool]:
    """Return what a segment's records, or the first of them, state in their order: whether their session seals.

    Nothing if the segment can't be read, since it is encrypted or deleted. Raises `OSError`, `LogCorrupted` and, for a
    damaged archive, `DAMAGED_ARCHIVE`.
    """
    stated: list[bool] = []
    if not segment.is_readable:
        return stated
    try:
        with open_segment(segment) as file:
            for lines in read_lines(file, chunk_bytes=most_bytes):
                if OWN_EVENT in lines.data:
                    stated += [seals for line in lines.data.splitlines() if (seals := _seals(line)) is not None]
                if most_bytes is not None:
                    break
    except (ArchiveEncrypted, SegmentDeleted):
        pass
    return stated


def _seals(line: bytes) -> bool | None:
    """Return whether a record says that its session seals; None if it does not say."""
    member = _STATING.get(own_event(line) or b"")
    if member is None:
        return None
    try:
        return msgspec.json.decode(line)["event"].get(member) is not None
    except msgspec.DecodeError:  # a line that is being written
        return None
