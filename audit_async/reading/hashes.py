"""The hashes of a log's records, in order, read from its segments as they are written: leaves for the Merkle tree."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Final

from audit_async.chain.record import HASH_AT, PREV_AT
from audit_async.errors import LogCorrupted
from audit_async.reading.scan import Part, parts_of
from audit_async.reading.trail import DAMAGED_ARCHIVE, Log, open_segment, read_lines


class RecordHashes:
    """Reads a log's record hashes from some record on; remembers where it is. For one thread at a time.

    It checks that each record links to the one before and no more: that a line hashes to what it claims is for
    `verify` to say.
    """

    def __init__(self, log: Log, after_seq: int) -> None:
        """Begin behind `after_seq`; -1 is the beginning."""
        self._log: Final = log
        self._seq = after_seq
        self._last_hash: bytes | None = None  # of the record at _seq, once that was read here
        # How far which segment was read: the offset of a line, and the seq of that line.
        self._segment = ""
        self._offset = 0
        self._offset_seq = 0

    def read(self, up_to_seq: int, most: int) -> list[bytes]:
        """Return the next hashes, 32 bytes each: up to that of `up_to_seq`, and about `most` of them at once.

        `up_to_seq` must be on the disk. Empty where all of them were read. Raises `LogCorrupted` where a record is
        missing, was deleted by retention, or does not follow the one before, and `OSError`.
        """
        hashes: list[bytes] = []
        while self._seq < up_to_seq and len(hashes) < most:
            part = self._part_of_next()
            before = self._seq
            with closing(self._read_part(part, up_to_seq)) as pieces:
                for piece in pieces:
                    hashes += piece
                    if len(hashes) >= most:
                        break
            if self._seq == before:
                raise LogCorrupted(part.name, None, self._seq + 1, "a record that should be on the disk is not there")
        return hashes

    def _part_of_next(self) -> Part:
        due = self._seq + 1
        for part in parts_of(self._log):
            if part.segment.first_seq <= due and (part.until_seq is None or due < part.until_seq):
                return part
        raise LogCorrupted(self._log.name, None, due, "the record is in no segment that is still there")

    def _read_part(self, part: Part, up_to_seq: int) -> Generator[list[bytes], None, None]:
        """Give the hashes of one segment, chunk by chunk."""
        segment = part.segment
        until = min(up_to_seq, part.until_seq - 1) if part.until_seq is not None else up_to_seq
        if self._segment != segment.name:
            self._segment, self._offset, self._offset_seq = segment.name, 0, segment.first_seq
        try:
            with open_segment(segment) as file:
                if file.seekable():
                    file.seek(self._offset)
                else:  # an archive: what was read of it before is read again, and left out
                    self._offset, self._offset_seq = 0, segment.first_seq
                for lines in read_lines(file, offset=self._offset):
                    piece: list[bytes] = []
                    for line in _whole_lines(lines.data):
                        if self._offset_seq > until:
                            break
                        if self._offset_seq > self._seq:
                            piece.append(self._take(part, self._offset_seq, line))
                        self._offset += len(line)
                        self._offset_seq += 1
                    if piece:
                        yield piece
                    if self._offset_seq > until:
                        return
        except DAMAGED_ARCHIVE as error:
            raise LogCorrupted(part.name, None, self._seq + 1, "the archive can't be decompressed") from error

    def _take(self, part: Part, seq: int, line: bytes) -> bytes:
        hash_, previous = line[HASH_AT : HASH_AT + 64], line[PREV_AT : PREV_AT + 64]
        if self._last_hash is not None and previous != self._last_hash:
            raise LogCorrupted(part.name, None, seq, "the record does not follow the one before")
        try:
            raw = bytes.fromhex(hash_.decode("ascii"))
        except ValueError:
            raise LogCorrupted(part.name, None, seq, "the line is not a record") from None
        if len(raw) != 32:
            raise LogCorrupted(part.name, None, seq, "the line is not a record")
        self._seq, self._last_hash = seq, hash_
        return raw


def _whole_lines(data: bytes) -> list[bytes]:
    """Return the lines that are whole, each with its line feed; there are no other line ends."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]
