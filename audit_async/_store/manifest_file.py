"""The manifest of an open log: its sealed segments, and replacing the file that names them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from audit_async._chain import FORMAT_VERSION, START, Head
from audit_async._layout.manifest import ManifestFile, SealedSegment
from audit_async._layout.names import MANIFEST_FILE
from audit_async._store.log_directory import LogDirectory


class Manifest:
    """The sealed segments of an open log, oldest first. Owned by the worker thread."""

    def __init__(self, log_id: str, segments: Iterable[SealedSegment] = ()) -> None:
        self.log_id: Final = log_id
        self.segments: tuple[SealedSegment, ...] = tuple(segments)

    @property
    def head(self) -> Head:
        """The chain's head behind the last sealed segment."""
        return self.segments[-1].head if self.segments else START

    def find(self, segment: str) -> SealedSegment:
        """Return the entry of a segment; `KeyError` where it has none."""
        for entry in self.segments:
            if entry.segment == segment:
                return entry
        raise KeyError(segment)

    def write(self, directory: LogDirectory, segments: Iterable[SealedSegment]) -> None:
        """Replace the manifest, durably; what is held here changes only when that has succeeded.

        The directory sync makes every other name durable that was made before, checksum files among them.
        """
        segments = tuple(segments)
        content = msgspec.json.encode(
            ManifestFile(format_version=FORMAT_VERSION, log_id=self.log_id, segments=segments),
        )
        directory.replace(MANIFEST_FILE, msgspec.json.format(content, indent=1) + b"\n")
        directory.sync()
        self.segments = segments

    def with_changed(self, changed: SealedSegment) -> tuple[SealedSegment, ...]:
        """Return the entries with the one of that segment changed."""
        return tuple(changed if entry.segment == changed.segment else entry for entry in self.segments)
