"""What coverage is helped with on Python 3.11 counts what runs, and changes nothing of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import pytest
import uvloop

from tests.counted_coroutines import CountedCoroutine

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on a loop of its own."""
    made: Run = request.param
    return made


async def _handles(waited_for: asyncio.Future[None]) -> BaseException | None:
    try:
        await waited_for
    except (asyncio.CancelledError, OSError) as error:
        return error
    return None


async def _outcome(waited_for: asyncio.Future[None]) -> BaseException | None:
    error = await _handles(waited_for)
    await asyncio.sleep(0)
    return error


def _counted(coroutine: Coroutine[Any, Any, BaseException | None]) -> asyncio.Task[BaseException | None]:
    return asyncio.get_running_loop().create_task(CountedCoroutine(coroutine))


async def _cancelled() -> BaseException | None:
    waiting = asyncio.get_running_loop().create_future()
    task = _counted(_outcome(waiting))
    await asyncio.sleep(0)
    task.cancel("given up")
    return await task


def test_each_return_of_a_coroutine_has_its_call(run: Run) -> None:
    """Also after an inner one has handled the exception that a task was resumed with."""
    seen: Counter[tuple[str, str]] = Counter()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        seen[frame.f_code.co_name, event] += 1
        return trace

    def traced() -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            run(_cancelled())
        finally:
            sys.settrace(before)

    thread = threading.Thread(target=traced)  # whose trace function is its own
    thread.start()
    thread.join()
    for name in ("_handles", "_outcome"):
        assert seen[name, "call"] == seen[name, "return"] > 0, name


def test_a_cancelled_wait_raises_with_its_message(run: Run) -> None:
    """As it does without."""
    error = run(_cancelled())
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("given up",)


def test_a_failed_wait_raises_that_very_error(run: Run) -> None:
    """And a result is a result."""

    async def main(error: OSError | None) -> BaseException | None:
        waiting = asyncio.get_running_loop().create_future()
        task = _counted(_outcome(waiting))
        await asyncio.sleep(0)
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)
        return await task

    failed = OSError("no disk")
    assert run(main(failed)) is failed
    assert run(main(None)) is None


def test_a_task_is_cancelled_whose_wait_has_just_ended(run: Run) -> None:
    """The wait has a result by then, and still raises that the task was cancelled."""

    async def main() -> BaseException | None:
        waiting = asyncio.get_running_loop().create_future()
        task = _counted(_outcome(waiting))
        await asyncio.sleep(0)
        waiting.set_result(None)
        task.cancel()
        return await task

    assert isinstance(run(main()), asyncio.CancelledError)
