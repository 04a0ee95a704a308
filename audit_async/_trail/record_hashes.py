"""The hashes of a log's records, in order, read from its segments as they are written: leaves for the Merkle tree."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import closing
from struct import Struct
from typing import Final

from audit_async._chain.record_format import HASH_AT, PREV_AT
from audit_async._trail.log_files import DAMAGED_ARCHIVE, Log, open_segment, read_lines
from audit_async._trail.segment_parts import Part, parts_of
from audit_async.errors import LogCorrupted

_HASH_BYTES: Final = 32
#: Read at a time: what it takes to go through them holds the GIL for 0.1 ms. Larger blocks are no faster, or slower,
#: since the allocator gives them back to the system each time.
_CHUNK_BYTES: Final = 64 << 10
# Where the hashes are in a line without its line end.
_HASH: Final = slice(HASH_AT + 1, HASH_AT + 1 + 64)
_PREVIOUS: Final = slice(PREV_AT + 1, PREV_AT + 1 + 64)
_HEX: Final = re.compile(rb"[0-9a-fA-F]{64}")
#: Takes apart as many hashes as it has fields, in a quarter of the time that slices take.
_HASHES: Final = Struct(f"{_HASH_BYTES}s" * 64)


class RecordHashes:
    """Reads a log's record hashes from some record on, and remembers its position. For one thread at a time.

    It checks that each record links to the one before, and nothing else: whether a line hashes to what it claims is
    judged in `_verify`.
    """

    def __init__(self, log: Log, after_seq: int) -> None:
        """Begin after `after_seq`; -1 is the beginning."""
        self._log: Final = log
        self._seq = after_seq
        self._last_hash: bytes | None = None  # of the record at _seq, once that was read here
        # The segment that is being read, as it was listed; the offset of its next line, and that line's seq.
        self._part: Part | None = None
        self._segment = ""
        self._offset = 0
        self._offset_seq = 0

    @property
    def next_seq(self) -> int:
        """The record whose hash `read` returns first."""
        return self._seq + 1

    def read(self, up_to_seq: int, most: int) -> list[bytes]:
        """Return the next hashes, 32 bytes each: up to that of `up_to_seq`, and about `most` of them at once.

        `up_to_seq` must be on the disk. Empty if all of them were read.

        Raises:
            LogCorrupted: A record is missing, was deleted by retention, or does not follow the one before.
            OSError: A segment can't be read.
        """
        hashes: list[bytes] = []
        while self._seq < up_to_seq and len(hashes) < most:
            listed, before = self._part, self._seq
            part = listed or self._part_of_next()
            try:
                with closing(self._read_part(part, up_to_seq)) as pieces:
                    for piece in pieces:
                        hashes += piece
                        if len(hashes) >= most:
                            break
            except FileNotFoundError:
                if listed is None:
                    raise
            # A segment without more records is read to its end, or was archived or deleted since it was listed. Not
            # listed for each piece: with hundreds of segments that takes longer than reading one.
            self._part = part if self._seq > before else None
            if self._seq == before and listed is None:
                raise LogCorrupted(part.name, None, self._seq + 1, "a record that should be on the disk is not there")
        return hashes

    def _part_of_next(self) -> Part:
        due = self._seq + 1
        for part in parts_of(self._log):
            if part.segment.first_seq <= due and (part.until_seq is None or due < part.until_seq):
                return part
        raise LogCorrupted(self._log.name, None, due, "the record is in no segment that is still there")

    def _read_part(self, part: Part, up_to_seq: int) -> Generator[list[bytes], None, None]:
        """Yield the hashes of one segment, chunk by chunk."""
        segment = part.segment
        until = min(up_to_seq, part.until_seq - 1) if part.until_seq is not None else up_to_seq
        if self._segment != segment.name:
            self._segment, self._offset, self._offset_seq = segment.name, 0, segment.first_seq
        if self._offset_seq > until:
            return
        try:
            with open_segment(segment) as file:
                if file.seekable():
                    file.seek(self._offset)
                else:  # an archive: what was read of it before is read again, and left out
                    self._offset, self._offset_seq = 0, segment.first_seq
                for chunk in read_lines(file, offset=self._offset, chunk_bytes=_CHUNK_BYTES):
                    # Whole lines, which end at a line feed and nowhere else.
                    lines = chunk.data.split(b"\n")[:-1][: until + 1 - self._offset_seq]
                    piece = self._take(part, lines[max(0, self._seq + 1 - self._offset_seq) :])
                    self._offset += sum(map(len, lines)) + len(lines)
                    self._offset_seq += len(lines)
                    if piece:
                        yield piece
                    if self._offset_seq > until:
                        return
        except DAMAGED_ARCHIVE as error:
            raise LogCorrupted(part.name, None, self._seq + 1, "the archive can't be decompressed") from error

    def _take(self, part: Part, lines: list[bytes]) -> list[bytes]:
        """Return the hashes of the next records.

        All lines of a chunk at once: this holds the GIL next to a busy writer (python -m bench transparency).
        """
        if not lines:
            return []
        hashes = [line[_HASH] for line in lines]
        previous = [line[_PREVIOUS] for line in lines]
        before = previous[0] if self._last_hash is None else self._last_hash
        try:
            raw = bytes.fromhex(b"".join(hashes).decode("ascii"))
        except ValueError:
            raw = b""
        if len(raw) != _HASH_BYTES * len(lines) or previous != [before, *hashes[:-1]]:
            raise self._damage(part, [before, *hashes], previous)
        self._seq, self._last_hash = self._seq + len(lines), hashes[-1]
        taken: list[bytes] = []
        whole = len(raw) - len(raw) % _HASHES.size
        for at in range(0, whole, _HASHES.size):
            taken += _HASHES.unpack_from(raw, at)
        return taken + [raw[at : at + _HASH_BYTES] for at in range(whole, len(raw), _HASH_BYTES)]

    def _damage(self, part: Part, hashes: list[bytes], previous: list[bytes]) -> LogCorrupted:
        """Return the error for the first line that is wrong; `hashes` begins with that of the record before."""
        for seq, (before, linked, own) in enumerate(zip(hashes, previous, hashes[1:], strict=False), self._seq + 1):
            if linked != before:
                return LogCorrupted(part.name, None, seq, "the record does not follow the one before")
            if not _HEX.fullmatch(own):
                break
        return LogCorrupted(part.name, None, seq, "the line is not a record")
