"""Comparing index files with their segments: each page has the terms of its records, and no others.

The terms are taken from one record after another by the definitions in `recorded_members`, not as they were collected.
An index is a cache: a file that is wrong says nothing about the log, but queries that use it may miss records.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec.structs import replace

from audit_async._query.index_file import KINDS, IndexWrong, SegmentIndex
from audit_async._query.recorded_members import read_said, type_of
from audit_async._query.segment_scan import Damage, open_part
from audit_async._query.term_collector import terms_of_record
from audit_async._query.term_index import IndexTask, LogIndex
from audit_async._trail.log_files import DAMAGED_ARCHIVE, why_unreadable
from audit_async._trail.worker_process import Advance

_OF_OTHER_CONTENT: Final = "it is damaged or of another content; queries don't use it"
_DISORDERED: Final = "it is damaged; queries may miss records"
_INCOMPLETE: Final = "it does not have all that is in the records; queries may miss some"
_EXCESSIVE: Final = "it has what is in no record; queries search in vain"
_NO_SEGMENT: Final = "its segment can't be read"


class CheckedIndex(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about the index of one segment."""

    log: str
    segment: str  #: file name
    index_bytes: int = 0  #: of the file; 0 if the segment has no index
    problem: str | None = None  #: what is wrong with the file; None if all is well, or if there is none


def check_index_of(task: IndexTask, advance: Advance | None = None) -> CheckedIndex:
    """Compare a segment's index, wherever it is, with its records. Changes nothing."""
    part = task.part
    checked = CheckedIndex(log=part.segment.log.name, segment=part.segment.name)
    for path in LogIndex(part.segment.log).paths(part):
        try:
            size = path.stat().st_size
            problem = _problem_of(path, task, advance)
        except FileNotFoundError:
            continue
        except OSError as error:
            size, problem = 0, f"it can't be read: {why_unreadable(error)}"
        checked = replace(checked, index_bytes=checked.index_bytes + size, problem=checked.problem or problem)
    return checked


def _problem_of(path: Path, task: IndexTask, advance: Advance | None) -> str | None:
    try:
        index = SegmentIndex.open(path, log_id=task.log_id, segment=task.sealed.segment, sha256=task.sealed.sha256)
    except IndexWrong:
        return _OF_OTHER_CONTENT
    try:
        file = open_part(task.part, Damage(skip=True))
        if file is None:
            return _NO_SEGMENT
        with file:
            return _compare(index, file, task, advance)
    except IndexWrong:
        return _DISORDERED
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, *DAMAGED_ARCHIVE):
        return _NO_SEGMENT
    finally:
        index.close()


def _compare(index: SegmentIndex, file: BinaryIO, task: IndexTask, advance: Advance | None) -> str | None:
    header, kinds = index.header, frozenset(KINDS).intersection(index.header.kinds)
    types: set[str] = set()
    earliest, latest = "~", ""
    at = 0
    for begin, end, terms in index.terms_by_page():
        if begin != at:
            return _INCOMPLETE
        at = end
        expected: set[int] = set()
        lines = file.read(end - begin).split(b"\n")[:-1]
        for said in map(read_said, lines):
            expected |= terms_of_record(bytes.fromhex(header.salt), said, kinds)
            types.add(type_of(said.event))
            earliest, latest = min(earliest, said.timestamp), max(latest, said.timestamp)
        if not expected <= terms:
            return _INCOMPLETE
        if expected != terms and kinds.issuperset(header.kinds):
            return _EXCESSIVE
        if advance is not None:
            advance(end - begin, len(lines))
    if at != task.sealed.bytes or earliest < header.earliest or latest > header.latest:
        return _INCOMPLETE
    return None if sorted(types) == header.types else _INCOMPLETE
