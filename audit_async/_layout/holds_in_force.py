"""Which legal holds are in force for a log, for who has no lock: `hold.json` and the end of the chain, read only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from audit_async._layout.archive_reading import DAMAGED_ARCHIVE, open_binary, open_segment_for_reading
from audit_async._layout.chain_holds import OWN_EVENT, ChainHolds
from audit_async._layout.crash_traces import LONGEST_LINE
from audit_async._layout.hold_file import Hold, read_hold
from audit_async._layout.manifest import SealedSegment, read_manifest
from audit_async._layout.names import SegmentName
from audit_async._layout.regular_files import NO_DESCRIPTORS
from audit_async.errors import LogCorrupted

_CHUNK_BYTES: Final = 1 << 20


def find_holds(directory: Path) -> tuple[Hold, ...]:
    """Return the legal holds that are in force for the log in `directory`, the oldest first.

    Needs no lock. The chain is not checked, only read, from its end back to the first record that states all holds.

    Args:
        directory: The log's own directory.

    Raises:
        LogCorrupted: `hold.json` can't be understood, and the chain states no hold, so it can't be said.
        OSError: The same, of a file that can't be read.
    """
    holds = ChainHolds()
    for piece in _pieces(directory):
        holds.extend_back(piece)
        if holds.is_complete:
            break
    try:
        hold = read_hold(directory)
    except (LogCorrupted, OSError):
        if not holds.in_force:
            raise
    else:
        if hold is not None:
            holds.add_stated(hold)
    return tuple(sorted(holds.in_force.values(), key=lambda hold: hold.since))


def holds_in_sealed(directory: Path, segment: SealedSegment) -> ChainHolds:
    """Return what a sealed segment says of holds; nothing if it can't be read, which `verify` finds.

    Raises `OSError` if this process has no file descriptor left: a hold that is in the segment must not be missed.
    """
    holds = ChainHolds()
    try:
        with open_segment_for_reading(directory, segment) as file:
            _read_all(file, holds)
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise
    except (LogCorrupted, *DAMAGED_ARCHIVE):
        pass
    return holds


def _pieces(directory: Path) -> Iterator[ChainHolds]:
    """Yield what each segment says, the newest first."""
    sealed: dict[str, SealedSegment] = {}
    with suppress(LogCorrupted):  # the segments in the directory are read all the same
        sealed = {entry.segment: entry for entry in read_manifest(directory)}
    live = {name for name in os.listdir(directory) if SegmentName.parse(name) is not None}
    for name in sorted(live - sealed.keys(), reverse=True):
        holds = ChainHolds()
        with suppress(FileNotFoundError, LogCorrupted), open_binary(directory / name) as file:
            _read_all(file, holds)
        yield holds
    for entry in reversed(sealed.values()):
        if entry.state != "deleted":
            yield holds_in_sealed(directory, entry)


def _read_all(file: BinaryIO, holds: ChainHolds) -> None:
    """Take what the records of a file say of holds; the others are passed over without being split into lines.

    A log of a release that did not repeat holds is read to its beginning, so this is what its first opening costs.
    """
    while chunk := file.read(_CHUNK_BYTES):
        chunk += file.readline(LONGEST_LINE)
        at = chunk.find(OWN_EVENT)
        while at >= 0:
            begin = chunk.rfind(b"\n", 0, at) + 1
            end = chunk.find(b"\n", at) + 1 or len(chunk)
            holds.read(chunk[begin:end])
            at = chunk.find(OWN_EVENT, end)
