"""Signal handlers that emit, or raise as `sys.exit` in one does, at every moment at which CPython calls them.

Whatever they interrupt, the log goes on: what `emit` has returned for is recorded, once, and so is what comes later.
CPython calls a handler as a Python function begins and after a call of a C function, which is what a profiler sees.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

import anyio
import pytest

from audit_async import AuditLogger, Receipt
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


class _Stop(BaseException):
    """What the handler raises."""


def _handler(what: str, emit: Callable[[str], object]) -> Callable[[], object]:
    def handle() -> None:
        if what != "raises":
            emit("handler")
        if what != "emits":
            raise _Stop

    return handle


@contextmanager
def interrupted(moment: int, inside: CodeType, handler: Callable[[], object]) -> Iterator[list[int]]:
    """Let the handler of a real signal run at that moment of a function.

    The list that it gives says whether the signal came: the function has fewer moments otherwise.
    """
    came: list[int] = []
    depth = moments = 0

    def handle(signum: int, _frame: FrameType | None) -> None:
        sys.setprofile(None)
        came.append(signum)
        handler()

    def look(frame: FrameType, event: str, _called: object) -> None:
        nonlocal depth, moments
        if frame.f_code is inside:
            depth += {"call": 1, "return": -1}.get(event, 0)
        if depth and event in {"call", "c_return"}:
            moments += 1
            if moments == moment:
                signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    gc.disable()  # what is raised in a finalizer is only reported
    sys.setprofile(look)
    try:
        yield came
    except _Stop:
        assert came
    finally:
        sys.setprofile(None)
        gc.enable()
        signal.signal(signal.SIGUSR1, before)


def assert_recorded(config_for: ConfigFor, returned: list[Receipt]) -> None:
    """Check that each event is recorded once for which `emit` has returned; one whose `emit` has not may be."""
    directory = log_directory(config_for())
    check_trail(directory)
    recorded = [r["audit_id"] for r in read_events(directory) if r["event"]["event_type"] == "test.counted"]
    assert len(set(recorded)) == len(recorded)
    assert {receipt.audit_id for receipt in returned} <= set(recorded)


@pytest.mark.parametrize("what", ["raises", "emits and raises", "emits"])
def test_the_log_goes_on_after_an_interrupted_emit_of_its_own_thread(config_for: ConfigFor, what: str) -> None:
    """As `emit` opens a chunk and wakes the writer; the next event finds both as they should be."""
    returned: list[Receipt] = []

    async def main() -> None:
        async with AuditLogger(config_for()) as audit:

            def emit(producer: str) -> None:
                returned.append(audit.emit(Counted(producer=producer, n=moment)))

            moment, came = 0, [0]
            emit("first")  # learns the class
            await returned[-1].durable()
            while came:
                moment += 1
                with interrupted(moment, AuditLogger.emit.__code__, _handler(what, emit)) as came:
                    emit("interrupted")
                emit("next")
                with anyio.fail_after(60):
                    for receipt in returned[-3:]:
                        await receipt.durable()
            assert moment > 20
            assert audit.stats().waiting == audit.stats().waiting_bytes == 0

    asyncio.run(main())
    assert_recorded(config_for, returned)


@pytest.mark.parametrize("what", ["raises", "emits and raises", "emits"])
def test_closing_after_an_interrupted_emit_loses_nothing(config_for: ConfigFor, what: str) -> None:
    """Of the events before, of the handler's and of those after; the log's end is recorded, too."""
    returned: list[Receipt] = []

    async def interrupt_and_close(moment: int) -> bool:
        async with AuditLogger(config_for()) as audit:

            def emit(producer: str) -> None:
                returned.append(audit.emit(Counted(producer=producer, n=moment)))

            emit("first")  # learns the class
            await returned[-1].durable()
            with interrupted(moment, AuditLogger.emit.__code__, _handler(what, emit)) as came:
                emit("interrupted")
            emit("next")
        assert returned[-1].is_durable
        assert audit.stats().waiting == 0
        return bool(came)

    async def main() -> None:
        moment = 1
        while await interrupt_and_close(moment):
            moment += 1
        assert moment > 20
        ends = [r for r in read_events(log_directory(config_for())) if r["event"]["event_type"] == "audit.log_closed"]
        assert len(ends) == moment

    asyncio.run(main())
    assert_recorded(config_for, returned)
