"""Segments that are finished and wait for their seal, and seals that wait for their record in the chain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from audit_async._durable import disk
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.regular_files import open_regular
from audit_async._store import sealing
from audit_async._store.checked_segment import segment_sealed_by
from audit_async._store.log_directory import LogDirectory
from audit_async._store.manifest_file import Manifest
from audit_async.errors import LogCorrupted

#: After a failed sealing, commits that pass before the next try: doubled from 1 up to this.
_MOST_COMMITS_BETWEEN_TRIES: Final = 1024


class SealingQueue:
    """What sealing has to do and has done. Owned by the disk thread; `LogStore` reads the fields without underscore."""

    def __init__(self, unrecorded: Iterable[str], recorded: Iterable[str]) -> None:
        """Begin empty; `unrecorded` are sealed segments of whose seal the chain has no record, `recorded` the others.

        `recorded` are those of which the manifest does not say so yet.
        """
        #: Why the last try failed. No record is at risk: the next tries, and the next opening, do it.
        self.error: OSError | None = None
        self._unrecorded = set(unrecorded)
        self._recorded = set(recorded)
        self.finished: list[SealedSegment] = []  #: waiting for their seal, oldest first
        self._uncut: set[str] = set()  # names of those that could not be cut back to what was acknowledged
        self.unreported: list[SealedSegment] = []  #: sealed since `take_sealed`, also by a commit that raised
        self._pause = self._commits_to_pause = 0
        #: Records of seals are due, so accepted lines have to be looked at.
        self.is_recording = bool(self._unrecorded)

    def add(self, segment: SealedSegment, *, uncut: bool = False) -> None:
        """Take a finished segment; `uncut` if it has lines after its records, which its cut could not remove."""
        self.finished.append(segment)
        if uncut:
            self._uncut.add(segment.segment)

    def records_accepted(self, lines: Iterable[bytes]) -> None:
        """Look for records of seals in lines that were accepted; only if `is_recording`."""
        self._recorded |= self._unrecorded & {segment_sealed_by(line) for line in lines}
        self._unrecorded -= self._recorded
        self.is_recording = bool(self._unrecorded)

    def retry_now(self) -> None:
        """Have the next `seal` try again, however recently it failed."""
        self._commits_to_pause = 0

    def seal(self, directory: LogDirectory, manifest: Manifest) -> Sequence[SealedSegment]:
        """Seal what is finished and return it; everything accepted is durable, which is the caller's duty.

        A failure is kept in `error`, not raised: the records are durable, and acknowledged.
        """
        if self._commits_to_pause:
            self._commits_to_pause -= 1
            return ()
        try:
            self._cut_void_lines(directory)
            sealed = sealing.seal(directory, manifest, self.finished, recorded=frozenset(self._recorded))
        except OSError as error:
            self.error = error
            self._pause = min(2 * self._pause or 1, _MOST_COMMITS_BETWEEN_TRIES)
            self._commits_to_pause = self._pause
            return ()
        self.finished.clear()
        self.error = None
        self._pause = 0
        self._recorded.clear()
        self._unrecorded.update(segment.segment for segment in sealed)
        self.is_recording = True
        self.unreported.extend(sealed)
        return sealed

    def take_sealed(self) -> tuple[SealedSegment, ...]:
        """Return what was sealed since the last call, for the chain."""
        taken = tuple(self.unreported)
        self.unreported.clear()
        return taken

    def _cut_void_lines(self, directory: LogDirectory) -> None:
        """Cut finished segments that could not be cut when their sync failed."""
        for segment in self.finished:
            if segment.segment in self._uncut and segment.state == "live":
                with suppress(FileNotFoundError, LogCorrupted):  # sealing marks it as lost
                    fd = open_regular(segment.segment, dir_fd=directory.fd, writable=True)
                    try:
                        disk.truncate(fd, segment.bytes)
                    finally:
                        disk.close(fd)
        self._uncut.clear()
