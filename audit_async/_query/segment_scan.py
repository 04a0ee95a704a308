"""Reading one segment for the records that are wanted, forwards or backwards, in constant memory.

What is returned is checked: each line hashes to what it claims. What is left out is not: a query is no verification.
A line that may be wanted and is no genuine record is damage, and reported as such.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from audit_async._chain import BadRecord, check_record
from audit_async._layout.age_files import ArchiveEncrypted
from audit_async._query.matching import Filter
from audit_async._query.needles import Needles
from audit_async._query.open_files import OpenFiles
from audit_async._query.recorded_members import read_said
from audit_async._trail.line_search import bisect_lines, line_from, size_of
from audit_async._trail.log_files import (
    CHUNK_BYTES,
    DAMAGED_ARCHIVE,
    LONGEST_LINE,
    Lines,
    Log,
    SegmentDeleted,
    TrailUnreadable,
    open_segment,
    read_lines,
    unreadable,
)
from audit_async._trail.segment_parts import Part, Range
from audit_async.errors import LogCorrupted

#: How a line begins, as far as place and time need it; the whole line is checked before anything of it is returned.
_OPENING: Final = re.compile(rb'\{"seq":([0-9]{1,18}),"audit_id":"[0-9a-f-]{1,33}","timestamp":"([0-9TZ:.-]{27})"')
#: So much of an archive is kept in memory to be returned from its end.
_MOST_KEPT_BYTES: Final = 8 << 20
#: What a line takes in memory besides its bytes.
_LINE_COSTS_BYTES: Final = 200
#: After so many lines that were kept, the caller may stop.
_LINES_AT_A_TIME: Final = 256
#: Closer than this, reading on is cheaper than another step of a search.
_NEAR: Final = 1 << 16


class Found(NamedTuple):
    """A record that is wanted: a line that was checked, and its place."""

    timestamp: str
    log: Log
    seq: int
    line: bytes
    segment: str
    offset: int  #: of the line in the uncompressed segment


class Damage:
    """What is done about damage that a query comes upon: the first is an error, or all of it is passed over."""

    def __init__(self, *, skip: bool) -> None:
        self.skips: Final = skip  #: passes damage over
        self.skipped = 0  #: how often something was passed over
        self.first: LogCorrupted | None = None
        self._encrypted: dict[str, str] = {}  # segments that no identity opens, and why

    def found(self, part: Part, offset: int | None, reason: str) -> None:
        """Take note of damage at `offset` of a segment; raises `LogCorrupted` unless it is to be passed over."""
        if self.first is not None:
            self.skipped += 1
            return
        line = _line_number(part, offset) if offset is not None else None
        seq = part.segment.first_seq + (line - 1 if line is not None else 0)
        self.first = LogCorrupted(part.name, line, seq, f"{reason}; verify the trail to see all that is wrong with it")
        if not self.skips:
            raise self.first
        self.skipped = 1

    def found_encrypted(self, part: Part, error: ArchiveEncrypted) -> None:
        """Take note of a segment that can't be searched, because no identity that opens it was given."""
        self._encrypted[part.name] = error.strerror or "it is encrypted"

    @property
    def not_searched(self) -> str | None:
        """What was not searched, and what to do; None if all was that had to be."""
        if not self._encrypted:
            return None
        (name, why), count = next(iter(self._encrypted.items())), len(self._encrypted)
        which = f"{name} was" if count == 1 else f"{count} segments, of which {name} is the first, were"
        return f"{which} not searched, so the answer may lack records: {why}"

    def require_searched(self) -> None:
        """Raise `TrailUnreadable` if something was not searched, unless damage is passed over."""
        if self.not_searched is not None and not self.skips:
            raise TrailUnreadable(self.not_searched)


def _line_number(part: Part, offset: int) -> int | None:
    """Return the number of the line at `offset`, which is counted only when there is something to say of it."""
    before = 0
    try:
        with open_segment(part.segment) as file:
            for lines in read_lines(file):
                if lines.offset + len(lines.data) > offset:
                    return before + lines.data.count(b"\n", 0, offset - lines.offset) + 1
                before += lines.data.count(b"\n")
    except (OSError, *DAMAGED_ARCHIVE):
        pass
    return None


def open_part(part: Part, damage: Damage, files: OpenFiles | None = None) -> BinaryIO | None:
    """Open a segment, as one of `files`; None if it was deleted meanwhile.

    None as well if it is missing and that is passed over, or is encrypted, of which `damage` takes note.
    """
    try:
        file = open_segment(part.segment)
        return file if files is None else files.keep(file, lambda: open_segment(part.segment))
    except SegmentDeleted:
        return None
    except ArchiveEncrypted as error:
        damage.found_encrypted(part, error)
    except FileNotFoundError:
        damage.found(part, None, "the segment is missing")
    except LogCorrupted as error:
        damage.found(part, None, error.reason)
    except OSError as error:
        raise part_unreadable(part, error) from error
    return None


def part_unreadable(part: Part, error: OSError) -> TrailUnreadable:
    """Return the error for a segment that can't be read, with the path of its file or archive."""
    path = error.filename if isinstance(error.filename, str) else part.segment.path
    return unreadable(Path(path), error)


def scan(
    part: Part,
    wanted: Filter,
    seqs: Range,
    damage: Damage,
    *,
    newest_first: bool = False,
    files: OpenFiles | None = None,
) -> Iterator[Found | None]:
    """Yield the records of a segment that are wanted, in the order of the chain or against it.

    None comes after each chunk, whether something was found or not, so that the caller can stop there. With `files` the
    segment is closed and opened again as they need it.
    """
    if newest_first and wanted.needles and part.segment.is_archived:
        lines = yield from _candidates_in_archive(part, wanted, seqs, damage, files)
        if lines is not None:
            for number, line in enumerate(reversed(lines), 1):
                yield from wanted_in(line, part, wanted, seqs, damage)
                if number % _LINES_AT_A_TIME == 0:
                    yield None
            return
    for chunk in chunks_of(part, seqs, damage, newest_first=newest_first, files=files):
        if chunk is not None:
            yield from wanted_in(chunk, part, wanted, seqs, damage, newest_first=newest_first)
        yield None


def _candidates_in_archive(
    part: Part, wanted: Filter, seqs: Range, damage: Damage, files: OpenFiles | None
) -> Generator[None, None, list[Lines] | None]:
    """Return the lines of an archive that may be wanted, oldest first; None if they are too many to be kept.

    An archive can only be read forwards. Keeping the few lines that may be wanted takes less than unpacking it to a
    temporary file, which is then read backwards.
    """
    most_bytes = _MOST_KEPT_BYTES if files is None else files.chunk_bytes
    kept: list[Lines] = []
    for chunk in chunks_of(part, seqs, damage, files=files):
        if chunk is not None:
            for begin, end in candidate_lines(chunk.data, wanted.needles):
                most_bytes -= end - begin + _LINE_COSTS_BYTES
                if most_bytes < 0:
                    return None
                kept.append(Lines(chunk.offset + begin, chunk.data[begin:end]))
        yield None
    return kept


def chunks_of(
    part: Part,
    seqs: Range,
    damage: Damage,
    *,
    newest_first: bool = False,
    files: OpenFiles | None = None,
) -> Iterator[Lines | None]:
    """Yield the lines of a segment that are the chain's, unchecked, in chunks: about those in `seqs`, and maybe more.

    None says that time has passed. With `newest_first` the chunks come from the end; within one the lines are in the
    order of the chain.
    """
    file = open_part(part, damage, files)
    if file is None:
        return
    chunk_bytes = files.chunk_bytes if files is not None else CHUNK_BYTES
    chunks = _backwards if newest_first else _forwards
    try:
        if newest_first and not file.seekable():
            file = yield from unpacked(file, files)
        yield from chunks(file, part, seqs, damage, chunk_bytes)
    except DAMAGED_ARCHIVE:
        damage.found(part, None, "the archive can't be decompressed")
    except SegmentDeleted:
        return  # by retention, between two pieces of it
    except OSError as error:
        raise part_unreadable(part, error) from error
    finally:
        file.close()


def wanted_in(
    chunk: Lines, part: Part, wanted: Filter, seqs: Range, damage: Damage, *, newest_first: bool = False
) -> Iterator[Found]:
    """Yield the records that are wanted among lines."""
    places = candidate_lines(chunk.data, wanted.needles)
    for begin, end in reversed(list(places)) if newest_first else places:
        try:
            found = check(chunk.data[begin:end], chunk.offset + begin, part, wanted, seqs)
        except BadRecord as error:
            damage.found(part, chunk.offset + begin, str(error))
        else:
            if found is not None:
                yield found


def check(line: bytes, offset: int, part: Part, wanted: Filter, seqs: Range) -> Found | None:
    """Return the record in a line if it is wanted, None if it is not; raises `BadRecord` for no record."""
    if is_elsewhere(line, wanted, seqs):
        return None
    checked = check_record(line, None)
    try:
        said = read_said(line)
    except msgspec.MsgspecError as error:
        raise BadRecord("it holds a number that is too large to be read") from error
    if not wanted.wants_said(said, part.segment.log.log_id):
        return None
    return Found(checked.timestamp, part.segment.log, checked.seq, line, part.segment.name, offset)


def is_elsewhere(line: bytes, wanted: Filter, seqs: Range) -> bool:
    """Return whether a line claims a place or a time that is not wanted, so that it needs no check."""
    opening = _OPENING.match(line)
    return opening is not None and not (seqs.holds(int(opening[1])) and wanted.wants_time(opening[2].decode()))


def seq_of(line: bytes) -> int | None:
    """Return the sequence number that a line, or its beginning, claims; None if it doesn't begin like a record."""
    opening = _SEQ.match(line)
    return int(opening[1]) if opening is not None else None


def last_seq_of(part: Part, damage: Damage) -> int | None:
    """Return the last sequence number of a segment so far; None if it has no whole record."""
    if part.segment.sealed is not None:
        return part.segment.sealed.last_seq
    file = open_part(part, damage)
    if file is None:
        return None
    with file:
        for chunk in _backwards(file, part, Range(), damage, CHUNK_BYTES):
            for line in reversed(chunk.data.splitlines()):
                if (seq := seq_of(line)) is not None:
                    return seq
    return None


_SEQ: Final = re.compile(rb'\{"seq":([0-9]{1,18}),')


def candidate_lines(data: bytes, needles: Sequence[Needles]) -> Iterator[tuple[int, int]]:
    """Yield the beginning and end of each line that may be wanted: that has one of each of these needles."""
    find, size = data.find, len(data)
    if not needles:
        begin = 0
        while begin < size:
            end = find(b"\n", begin) + 1 or size
            yield begin, end
            begin = end
        return
    first, *others = needles
    done = 0
    for place in first.hits(data):
        if place < done:
            continue  # another hit in a line that was looked at
        begin = max(data.rfind(b"\n", done, place) + 1, done)
        done = find(b"\n", place) + 1 or size
        if not others or all(other.may_be_in(data[begin:done]) for other in others):
            yield begin, done


# -- chunks of lines ----------------------------------------------------------------------------------------------


def _forwards(file: BinaryIO, part: Part, seqs: Range, damage: Damage, chunk_bytes: int) -> Iterator[Lines]:
    """Yield the lines of a segment that are the chain's, from about the first that is wanted."""
    end = part.sealed_bytes
    begin = 0
    if file.seekable():
        size = size_of(file)
        if end is not None and size < end:
            damage.found(part, None, f"it has {size} bytes, {end} were sealed")
        end = min(size, end) if end is not None else size  # what is written meanwhile is for the next query
        if seqs.after >= part.segment.first_seq:
            begin, _ = around(file, end, seqs.after)
        file.seek(begin)
    at = begin
    last = b'{"seq":%d,' % (part.until_seq - 1) if part.until_seq is not None else b""
    for chunk in read_lines(file, offset=begin, chunk_bytes=chunk_bytes):
        data = chunk.data if end is None else chunk.data[: end - chunk.offset]
        at = chunk.offset + len(data)
        is_end = end is not None and at >= end
        if last and part.sealed_bytes is None and (place := line_beginning(data, last)) is not None:
            # What follows are void copies, left by a failed fsync.
            data, is_end = data[: data.find(b"\n", place) + 1 or len(data)], True
        if part.until_seq is None:
            data = _without_torn_line(data)
        yield Lines(chunk.offset, data)
        if is_end:
            return
    if end is not None and at < end:
        damage.found(part, None, f"the archive has {at} bytes, {end} were sealed")


def _backwards(file: BinaryIO, part: Part, seqs: Range, damage: Damage, chunk_bytes: int) -> Iterator[Lines]:
    """Yield the same from the end to the beginning; within a chunk the lines are in the order of the chain."""
    size = size_of(file)
    end = size
    if part.sealed_bytes is not None:
        end = min(part.sealed_bytes, size)
        if size < part.sealed_bytes:
            damage.found(part, None, f"it has {size} bytes, {part.sealed_bytes} were sealed")
    elif part.until_seq is not None:
        end = _end_of_chain(file, part.until_seq - 1, size)
    if part.until_seq is None or seqs.before < part.until_seq:
        _, end = around(file, end, seqs.before)
    torn = part.until_seq is None
    carried = b""
    while end > 0:
        begin = max(0, end - chunk_bytes)
        file.seek(begin)
        block = file.read(end - begin)
        if len(block) < end - begin:
            return  # cut off by somebody while it was read
        end = begin
        if torn:
            block = _without_torn_line(block)
            torn = not block
        first = block.find(b"\n") + 1 if begin else 0
        if begin and not first and len(carried) <= LONGEST_LINE:
            carried = block + carried
            continue
        data, carried = block[first:] + carried, block[:first]
        if chunk_bytes < CHUNK_BYTES:
            block = b""  # as in `read_lines`
        yield Lines(begin + first, data)


def unpacked(file: BinaryIO, files: OpenFiles | None = None) -> Generator[None, None, BinaryIO]:
    """Copy an archive's content to a temporary file, which can be read backwards; closes the archive.

    Without `files` it has no name, so nothing is left of it, however the process ends.
    """
    if files is not None:
        return (yield from files.unpacked(file))
    with file:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            while chunk := file.read(CHUNK_BYTES):
                copy.write(chunk)
                yield None
        except BaseException:
            copy.close()
            raise
    return copy


def _without_torn_line(data: bytes) -> bytes:
    """Return whole lines: the last line of the last segment may be half written at this very instant."""
    return data if data.endswith(b"\n") else data[: data.rfind(b"\n") + 1]


def line_beginning(data: bytes, beginning: bytes) -> int | None:
    """Return the place of the line that begins with these bytes; None if none does."""
    if data.startswith(beginning):
        return 0
    place = data.find(b"\n" + beginning)
    return place + 1 if place >= 0 else None


def _end_of_chain(file: BinaryIO, last_seq: int, size: int) -> int:
    """Return the end of the line of `last_seq`, after which come void copies; the file's end if it is not found."""
    beginning = b'{"seq":%d,' % last_seq
    file.seek(0)
    for chunk in read_lines(file):
        if (place := line_beginning(chunk.data, beginning)) is not None:
            return chunk.offset + (chunk.data.find(b"\n", place) + 1 or len(chunk.data))
    return size


def around(file: BinaryIO, size: int, seq: int) -> tuple[int, int]:
    """Return two beginnings of lines, not far apart, between which the line of `seq` is.

    The whole file if a line on the way is no record: then all of it has to be read.
    """

    def is_past(opening: bytes) -> bool | None:
        claimed = seq_of(opening)
        return None if claimed is None else claimed > seq

    places = bisect_lines(file, size, is_past, near=_NEAR, opening_bytes=32)
    if places is None:
        return 0, size
    low, high = places
    return low, min(line_from(file, high), size) if high < size else size
