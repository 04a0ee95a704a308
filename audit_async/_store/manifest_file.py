"""The manifest of an open log: its sealed segments, and replacing the file that names them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from audit_async._chain import FORMAT_VERSION, START, Head
from audit_async._layout.manifest import ManifestFile, SealedSegment
from audit_async._layout.names import MANIFEST_FILE
from audit_async._store.log_directory import LogDirectory
from audit_async.errors import RetentionRefused

#: What is added to a finding that a copy explains as well as an attack does: the two can't be told apart.
OR_A_COPY: Final = (
    ". If this is a copy that was taken while the log was written (with cp, tar or rsync), `audit-async restore "
    "--from-copy` makes a log of it; `audit-async backup` takes copies that need no repair"
)


class Manifest:
    """The sealed segments of an open log, oldest first. Owned by the disk thread."""

    def __init__(self, log_id: str, segments: Iterable[SealedSegment] = (), *, rebuilt: str | None = None) -> None:
        self.log_id: Final = log_id
        self.segments: tuple[SealedSegment, ...] = tuple(segments)
        self.rebuilt: Final = rebuilt

    @property
    def head(self) -> Head:
        """The chain's head after the last sealed segment."""
        return self.segments[-1].head if self.segments else START

    def find_sealed(self, segment: str) -> SealedSegment:
        """Return the entry of a segment; `RetentionRefused` if it has none."""
        for entry in self.segments:
            if entry.segment == segment:
                return entry
        raise RetentionRefused(f"{segment} is no sealed segment of this log")

    def write(self, directory: LogDirectory, segments: Iterable[SealedSegment]) -> None:
        """Replace the manifest, durably; what is held here changes only if that has succeeded.

        The directory sync makes every other name durable that was made before, checksum files among them.
        """
        segments = tuple(segments)
        file = ManifestFile(format_version=FORMAT_VERSION, log_id=self.log_id, rebuilt=self.rebuilt, segments=segments)
        directory.replace(MANIFEST_FILE, file.encode())
        directory.sync()
        self.segments = segments

    def with_changed(self, changed: SealedSegment) -> tuple[SealedSegment, ...]:
        """Return the entries with the one of that segment changed."""
        return tuple(changed if entry.segment == changed.segment else entry for entry in self.segments)
