"""The manifest of an open log: its sealed segments, and replacing the file that names them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from audit_async._chain import FORMAT_VERSION, START, Head
from audit_async._layout.manifest import ManifestFile, SealedSegment, encode_entries
from audit_async._layout.names import MANIFEST_FILE, SegmentName
from audit_async._store.log_directory import LogDirectory
from audit_async.errors import RetentionRefused

#: What is added to a finding that a copy explains as well as an attack does: the two can't be distinguished.
OR_A_COPY: Final = (
    ". If this is a copy that was taken while the log was written (with cp, tar or rsync), `audit-async restore "
    "--from-copy` makes a log of it; `audit-async backup` takes copies that need no repair"
)

#: Entries that are encoded together: a seal encodes the last ones, and a change those around it.
_CHUNK_ENTRIES: Final = 256


class Manifest:
    """The sealed segments of an open log, oldest first. Owned by the disk thread."""

    def __init__(self, log_id: str, segments: Iterable[SealedSegment] = (), *, rebuilt: str | None = None) -> None:
        self.log_id: Final = log_id
        self.segments: tuple[SealedSegment, ...] = tuple(segments)
        self.rebuilt: Final = rebuilt
        # What was encoded for the last write, so that the next need not hold the GIL for all of it: of 20,000 entries
        # that is 10 MB, and 13 to 30 ms.
        self._encoded: list[tuple[tuple[SealedSegment, ...], bytes]] = []

    @property
    def head(self) -> Head:
        """The chain's head after the last sealed segment."""
        return self.segments[-1].head if self.segments else START

    def find_sealed(self, segment: str) -> SealedSegment:
        """Return the entry of a segment; `RetentionRefused` if it has none."""
        if (name := SegmentName.parse(segment)) is not None:
            position = bisect_left(self.segments, name.first_seq, key=lambda entry: entry.first_seq)
            if position < len(self.segments) and self.segments[position].segment == segment:
                return self.segments[position]
        raise RetentionRefused(f"{segment} is no sealed segment of this log")

    def write(self, directory: LogDirectory, segments: Iterable[SealedSegment]) -> None:
        """Replace the manifest, durably; what is held here changes only if that has succeeded.

        The directory sync makes every other name durable that was made before, checksum files among them.
        """
        segments = tuple(segments)
        file = ManifestFile(format_version=FORMAT_VERSION, log_id=self.log_id, rebuilt=self.rebuilt, segments=())
        directory.replace(MANIFEST_FILE, file.encode_with(self._encode(segments)))
        directory.sync()
        self.segments = segments

    def _encode(self, segments: tuple[SealedSegment, ...]) -> list[bytes]:
        """Return the encoded entries in pieces; those that are as they were are not encoded again."""
        chunks = [segments[begin : begin + _CHUNK_ENTRIES] for begin in range(0, len(segments), _CHUNK_ENTRIES)]
        before = self._encoded
        self._encoded = [
            # Entries that did not change are the same objects, so comparing them costs little.
            before[number] if number < len(before) and before[number][0] == chunk else (chunk, encode_entries(chunk))
            for number, chunk in enumerate(chunks)
        ]
        return [encoded for _, encoded in self._encoded]

    def with_changed(self, changed: Iterable[SealedSegment]) -> tuple[SealedSegment, ...]:
        """Return the entries with those of the same segments changed."""
        new = {entry.segment: entry for entry in changed}
        return tuple(new.get(entry.segment, entry) for entry in self.segments)
