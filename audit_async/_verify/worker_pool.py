"""Running tasks: in worker threads, or over several processes, with the same outcome.

A process takes 0.1 s to start, so a small trail is checked in a thread. If processes can't be started or die, what
they had is checked here: it takes longer, and nothing else is different.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from audit_async._verify.segment_check import check_segment
from audit_async._verify.segment_verdict import SegmentTask, SegmentVerdict
from audit_async._verify.worker_process import Message, Unreported

#: Bytes to check from which a further process is worth its start.
_BYTES_A_PROCESS: Final = 32 << 20
#: A verdict is bounded by the findings and records that are kept of a segment.
_LONGEST_MESSAGE: Final = 256 << 20

#: How long a process that has nothing more to do may take to end.
_END_TIMEOUT_S: Final = 5.0

#: Called with bytes and records that were checked since the last call.
Advance = Callable[[int, int], None]


def processes_for(total_bytes: int, processes: int | None) -> int:
    """Return how many processes to use for so many bytes; 1 means none but this one."""
    if processes is not None:
        return max(1, processes)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, total_bytes // _BYTES_A_PROCESS))


async def run_tasks(
    tasks: Sequence[SegmentTask], sizes: Sequence[int], processes: int, advance: Advance
) -> list[SegmentVerdict]:
    """Run the tasks, the largest first, and return their verdicts in the tasks' order; `advance` is called here."""
    verdicts: dict[int, SegmentVerdict] = {}
    waiting = deque(sorted(range(len(tasks)), key=lambda index: -sizes[index]))

    async def elsewhere() -> None:
        async with _worker() as ask:
            while waiting and ask is not None:
                index = waiting.popleft()
                verdict = await ask(tasks[index], advance)
                if verdict is None:  # the process died
                    waiting.appendleft(index)
                    break
                verdicts[index] = verdict

    if processes > 1 and len(tasks) > 1:
        async with anyio.create_task_group() as group:
            for _ in range(min(processes, len(tasks))):
                group.start_soon(elsewhere)
    left = sorted(waiting)
    verdicts |= zip(left, await check_in_thread([tasks[index] for index in left], advance), strict=True)
    return [verdicts[index] for index in range(len(tasks))]


async def check_in_thread(tasks: Sequence[SegmentTask], advance: Advance) -> list[SegmentVerdict]:
    """Check tasks one after another in a worker thread of this process."""

    def report(bytes_: int, records: int) -> None:
        anyio.from_thread.check_cancelled()
        anyio.from_thread.run_sync(advance, bytes_, records)

    unreported = Unreported(report)

    def check_all() -> list[SegmentVerdict]:
        return [check_segment(task, unreported.add) for task in tasks]

    if not tasks:
        return []
    verdicts = await anyio.to_thread.run_sync(check_all)
    advance(unreported.bytes, unreported.records)
    return verdicts


_Ask = Callable[[SegmentTask, Advance], Awaitable[SegmentVerdict | None]]


@asynccontextmanager
async def _worker() -> AsyncIterator[_Ask | None]:
    """Start a process that checks tasks, and yield what asks it; None if none can be started."""
    # The caller's sys.path, and not -m: the package may be found by way of it alone.
    program = f"import sys; sys.path[:] = {sys.path!r}\nfrom audit_async._verify.worker_process import main\nmain()"
    try:
        process = await anyio.open_process([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    except (OSError, ValueError):
        yield None
        return
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101 - as well
    stdin, messages = process.stdin, BufferedByteReceiveStream(process.stdout)

    async def ask(task: SegmentTask, advance: Advance) -> SegmentVerdict | None:
        try:
            await stdin.send(msgspec.json.encode(task) + b"\n")
            while True:
                line = await messages.receive_until(b"\n", _LONGEST_MESSAGE)
                message = msgspec.json.decode(line, type=Message)
                advance(message.bytes, message.records)
                if message.verdict is not None:
                    return message.verdict
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            return None
        except (anyio.DelimiterNotFound, msgspec.MsgspecError):
            return None

    try:
        yield ask
        with anyio.move_on_after(_END_TIMEOUT_S):
            await stdin.aclose()  # no more tasks: it ends
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
