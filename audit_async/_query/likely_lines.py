"""Finding the lines that may be wanted in many segments at once, in several processes, before a query reads them.

What a process returns is where lines are that hold the bytes which a wanted line needs; the query reads and checks
those, as it does what an index points to. So this can only save time: a segment about which a process can't say
everything is scanned by the query itself. Encrypted archives are, too, since no identity is given to another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio.to_thread
import msgspec

from audit_async._layout.manifest import SealedSegment
from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.needles import Needles
from audit_async._query.segment_scan import candidate_lines
from audit_async._query.term_index import LogIndex, Place, sealed_lines
from audit_async._trail.log_files import DAMAGED_ARCHIVE, Log, SegmentFile
from audit_async._trail.segment_parts import Part, parts_of
from audit_async._trail.worker_pool import processes_for, take_answers
from audit_async._trail.worker_process import Advance
from audit_async.errors import AuditError

#: With more lines than these a segment is scanned: checking them takes longer than finding them.
_MOST_LINES: Final = 10_000
#: The segments of more logs than these are small, or too many to be listed twice.
_MOST_LOGS: Final = 100
#: From so many bytes on it is worth starting processes, and reading all of it before the first record is returned.
WORTH_BYTES: Final = 512 << 20


class LikelyTask(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed segment, and what its lines are searched for; it travels between processes as JSON."""

    directory: str  #: the log's
    sealed: SealedSegment
    needles: tuple[Needles, ...]


class LikelyLines(msgspec.Struct, frozen=True):
    """Where the lines of a segment are that may be wanted, ascending; None if it has to be scanned."""

    places: list[Place] | None


#: The same by log id and segment.
Likely = dict[tuple[str, str], Sequence[Place]]


def find_lines(task: LikelyTask, advance: Advance) -> LikelyLines:
    """Search one segment; of one that is not all there, nothing is said."""
    places: list[Place] = []
    size = 0
    sealed = task.sealed
    path = Path(task.directory)
    log = Log(path, path.parent.name, path.name, "")
    segment = SegmentFile(log, sealed.segment, sealed.first_seq, sealed.first_timestamp[:10], sealed)
    try:
        for chunk in sealed_lines(Part(segment, sealed.last_seq + 1)):
            found = candidate_lines(chunk.data, task.needles)
            places += [(chunk.offset + begin, chunk.offset + end) for begin, end in found]
            size += len(chunk.data)
            advance(len(chunk.data), 0)
            if len(places) > _MOST_LINES:
                return LikelyLines(None)
    except (OSError, AuditError, *DAMAGED_ARCHIVE):
        return LikelyLines(None)
    return LikelyLines(places if size == sealed.bytes else None)


def tasks_of_query(logs: Sequence[Log], wanted: Filter, *, use_index: bool) -> list[tuple[str, LikelyTask]]:
    """Return what processes can search for a query, each with its log's id: segments that no index speaks for.

    None at all if it is not worth it.
    """
    if not wanted.needles:
        return []
    tasks: list[tuple[str, LikelyTask]] = []
    for log in logs:
        index = LogIndex(log) if use_index and wanted.is_indexed else None
        for part in parts_of(log):
            sealed = part.segment.sealed
            if sealed is None or part.sealed_bytes is None or part.segment.needs_identity:
                continue
            if index is not None and index.has(part):
                continue
            task = LikelyTask(directory=str(log.directory), sealed=sealed, needles=wanted.needles)
            tasks.append((log.log_id, task))
    return tasks if sum(task.sealed.bytes for _, task in tasks) >= WORTH_BYTES else []


async def likely_lines(logs: Sequence[Log], query: AuditQuery, wanted: Filter, *, use_index: bool) -> Likely:
    """Return what processes have found for a query; nothing if it is small, or ends early."""
    if query.limit is not None or len(logs) > _MOST_LOGS:
        return {}
    tasks = await anyio.to_thread.run_sync(lambda: tasks_of_query(logs, wanted, use_index=use_index))
    return await search_in_processes(tasks)


async def search_in_processes(tasks: Sequence[tuple[str, LikelyTask]]) -> Likely:
    """Search the segments, in as many processes as there are cores; cancelling it ends them."""
    likely: Likely = {}
    sizes = [task.sealed.bytes for _, task in tasks]

    def take(number: int, answer: LikelyLines) -> None:
        log_id, task = tasks[number]
        if answer.places is not None:
            likely[log_id, task.sealed.segment] = answer.places

    if tasks and (processes := processes_for(sum(sizes), None)) > 1:
        only = [task for _, task in tasks]
        await take_answers(find_lines, only, sizes, processes=processes, advance=lambda *_: None, take=take)
    return likely
