"""Indexing the segments of logs, and comparing their indexes with them, in several processes if it is much."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import anyio.to_thread

from audit_async._query.index_check import CheckedIndex, check_index_of
from audit_async._query.term_index import IndexedSegment, IndexTask, index_segment, tasks_of_index
from audit_async._trail.log_files import Log
from audit_async._trail.segment_parts import parts_of
from audit_async._trail.worker_pool import processes_for, run_in_thread, run_tasks
from audit_async._trail.worker_process import Work

_Outcome = TypeVar("_Outcome")


async def index_logs(
    logs: Callable[[], list[Log]],
    *,
    again: bool,
    processes: int | None,
    progress: Callable[[int, int], None] | None,
) -> AsyncGenerator[IndexedSegment, None]:
    """Index the sealed segments that have no index; with `again` all of them."""
    for log in await anyio.to_thread.run_sync(logs):
        parts = await anyio.to_thread.run_sync(parts_of, log)
        tasks = await anyio.to_thread.run_sync(partial(tasks_of_index, log, parts, again=again))
        async with aclosing(_each(index_segment, tasks, processes, progress)) as segments:
            async for segment in segments:
                yield segment


async def compare_indexes(
    logs: Callable[[], list[Log]], *, processes: int | None, progress: Callable[[int, int], None] | None
) -> AsyncGenerator[CheckedIndex, None]:
    """Compare the index of each sealed segment with its records."""
    for log in await anyio.to_thread.run_sync(logs):
        parts = await anyio.to_thread.run_sync(parts_of, log)
        async with aclosing(_each(check_index_of, list(IndexTask.of(parts)), processes, progress)) as segments:
            async for checked in segments:
                yield checked


async def _each(
    work: Work[IndexTask, _Outcome],
    tasks: Sequence[IndexTask],
    processes: int | None,
    progress: Callable[[int, int], None] | None,
) -> AsyncGenerator[_Outcome, None]:
    """Do something with each segment of a log, and yield the outcomes in order."""
    sizes = [task.sealed.bytes for task in tasks]
    done = 0

    def advance(bytes_: int, _records: int) -> None:
        nonlocal done
        done += bytes_
        if progress is not None:
            progress(done, sum(sizes))

    if (count := processes_for(sum(sizes), processes)) > 1:
        for outcome in await run_tasks(work, tasks, sizes, count, advance):
            yield outcome
    else:
        for task in tasks:
            [outcome] = await run_in_thread(work, [task], advance)
            yield outcome
