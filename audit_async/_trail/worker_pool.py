"""Running tasks: in worker threads, or over several processes, with the same outcome.

A process takes 0.1 s to start, so a small trail is read in a thread. If processes can't be started or die, what
they had is done here: it takes longer, a warning in the log says so, and nothing else is different.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from audit_async._trail.worker_process import Advance, Message, Unreported, Work, command_for, types_of_work

_log: Final = logging.getLogger("audit_async")

#: Bytes to read from which a further process is worth its start.
_BYTES_A_PROCESS: Final = 32 << 20
#: So many small tasks, of so many bytes to read, are asked for at once.
_MOST_AT_ONCE: Final = 100
_BYTES_AT_ONCE: Final = 8 << 20
#: What fits into a pipe, on every platform.
_PIPE_BYTES: Final = 32 << 10
#: The longest answer is a verdict, which the findings and records that are kept of a segment bound.
_LONGEST_MESSAGE: Final = 256 << 20

#: How long a process that has nothing more to do may take to end.
_END_TIMEOUT_S: Final = 5.0

_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")


def processes_for(total_bytes: int, processes: int | None) -> int:
    """Return how many processes to use for so many bytes; 1 means none but this one."""
    if processes is not None:
        return max(1, processes)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, total_bytes // _BYTES_A_PROCESS))


async def run_tasks(
    work: Work[_Task, _Answer], tasks: Sequence[_Task], sizes: Sequence[int], processes: int, advance: Advance
) -> list[_Answer]:
    """Do the tasks, the largest first, and return the answers in the tasks' order; `advance` is called here."""
    answers: dict[int, _Answer] = {}
    await take_answers(work, tasks, sizes, processes=processes, advance=advance, take=answers.__setitem__)
    return [answers[index] for index in range(len(tasks))]


async def take_answers(
    work: Work[_Task, _Answer],
    tasks: Sequence[_Task],
    sizes: Sequence[int],
    *,
    processes: int,
    advance: Advance,
    take: Callable[[int, _Answer], None],
) -> None:
    """Do the tasks, the largest first, and give each answer to `take` as it comes, with the task's number."""
    waiting = deque(sorted(range(len(tasks)), key=lambda index: -sizes[index]))
    failures: list[str] = []

    async def elsewhere() -> None:
        async with _worker(work, failures) as ask:
            while waiting and ask is not None:
                asked = _some_of(waiting, sizes)
                unanswered = deque(asked)
                async for answer in ask([tasks[index] for index in asked], advance):
                    take(unanswered.popleft(), answer)
                if unanswered:  # the process died
                    waiting.extendleft(reversed(unanswered))
                    break

    if processes > 1 and len(tasks) > 1:
        async with anyio.create_task_group() as group:
            for _ in range(min(processes, len(tasks))):
                group.start_soon(elsewhere)
    if failures:
        _log.warning("reading goes on with fewer processes, which takes longer: %s", "; ".join(sorted(set(failures))))
    left = deque(sorted(waiting))
    while left:
        together = _some_of(left, sizes)
        answers = await run_in_thread(work, [tasks[index] for index in together], advance)
        for index, answer in zip(together, answers, strict=True):
            take(index, answer)


def _fitting_pipe(lines: deque[bytes]) -> list[bytes]:
    """Take the next line off, or as many as fit into an empty pipe: none is read while an answer is written."""
    taken = [lines.popleft()]
    bytes_ = len(taken[0])
    while lines and bytes_ + len(lines[0]) <= _PIPE_BYTES:
        taken.append(lines.popleft())
        bytes_ += len(taken[-1])
    return taken


def _some_of(waiting: deque[int], sizes: Sequence[int]) -> list[int]:
    """Take the next task off what is waiting, or several that are small: a message costs as much as a small task."""
    taken = [waiting.popleft()]
    bytes_ = sizes[taken[0]]
    while waiting and len(taken) < _MOST_AT_ONCE and bytes_ + sizes[waiting[0]] <= _BYTES_AT_ONCE:
        taken.append(waiting.popleft())
        bytes_ += sizes[taken[-1]]
    return taken


async def run_in_thread(work: Work[_Task, _Answer], tasks: Sequence[_Task], advance: Advance) -> list[_Answer]:
    """Do tasks one after another in a worker thread of this process."""

    def report(bytes_: int, records: int) -> None:
        anyio.from_thread.check_cancelled()
        anyio.from_thread.run_sync(advance, bytes_, records)

    unreported = Unreported(report)

    def do_all() -> list[_Answer]:
        return [work(task, unreported.add) for task in tasks]

    if not tasks:
        return []
    answers = await anyio.to_thread.run_sync(do_all)
    advance(unreported.bytes, unreported.records)
    return answers


_Ask = Callable[[Sequence[_Task], Advance], AsyncIterator[_Answer]]


@asynccontextmanager
async def _worker(work: Work[_Task, _Answer], failures: list[str]) -> AsyncIterator[_Ask[_Task, _Answer] | None]:
    """Start a process that does tasks, and yield what asks it; None if none can be started. Failures are noted."""
    command = command_for("audit_async._trail.worker_process", work.__module__, work.__name__)
    try:
        process = await anyio.open_process(command, stderr=subprocess.DEVNULL)
    except (OSError, ValueError) as error:
        failures.append(f"a process could not be started: {error}")
        yield None
        return
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101 - as well
    stdin, messages = process.stdin, BufferedByteReceiveStream(process.stdout)
    decode = msgspec.json.Decoder(types_of_work(work)[1]).decode

    async def ask(tasks: Sequence[_Task], advance: Advance) -> AsyncIterator[_Answer]:
        """Yield the answers in the tasks' order; fewer if the process dies."""
        lines = deque(msgspec.json.encode(task) + b"\n" for task in tasks)
        left = 0  # of those that were sent
        try:
            while left or lines:
                if not left:
                    together = _fitting_pipe(lines)
                    left = len(together)
                    await stdin.send(b"".join(together))
                line = await messages.receive_until(b"\n", _LONGEST_MESSAGE)
                message = msgspec.json.decode(line, type=Message)
                advance(message.bytes, message.records)
                if bytes(message.answer):
                    left -= 1
                    yield decode(message.answer)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            failures.append("a process ended before it had answered")
        except (anyio.DelimiterNotFound, msgspec.MsgspecError):
            failures.append("the answer of a process was not understood")

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
