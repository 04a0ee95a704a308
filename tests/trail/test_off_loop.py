"""Iteration in a worker thread: what is given, and that nothing is left running or open."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from threading import Event

import pytest

from audit_async._trail.off_loop import in_pieces


def test_what_was_given_before_an_error_is_given() -> None:
    """The error comes behind the items, and the generator is closed."""

    def items() -> Generator[int | None, None, None]:
        yield 1
        yield None
        yield 2
        raise ValueError("behind them")

    async def read() -> list[int]:
        given = []
        with pytest.raises(ValueError, match="behind them"):
            async for piece in in_pieces(items()):
                given += piece
        return given

    assert asyncio.run(read()) == [1, 2]


def test_a_task_that_asyncio_cancels_is_cancelled() -> None:
    """In the middle of a piece, too; and the generator is closed once its thread has left it."""
    entered, go_on, closed = Event(), Event(), Event()

    def items() -> Generator[int | None, None, None]:
        try:
            while True:
                entered.set()
                assert go_on.wait(120)
                yield 1
        finally:
            closed.set()

    async def read() -> None:
        async for _ in in_pieces(items()):
            pass

    async def cancel() -> None:
        task = asyncio.create_task(read())
        while not entered.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not closed.is_set()
        go_on.set()
        while not closed.is_set():
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(cancel(), 120))
