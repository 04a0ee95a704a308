"""Running blocking iteration off the event loop: a worker thread takes it a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from threading import Lock
from time import monotonic
from typing import Final, Generic, TypeVar

import anyio.to_thread

#: A piece ends after so many items or so long, whichever comes first: long enough that going to the thread and back,
#: about 100 us, doesn't count; short enough that the first results come at once and a cancellation doesn't wait.
_PIECE_ITEMS: Final = 500
_PIECE_S: Final = 0.02

_T = TypeVar("_T")


async def in_pieces(items: Generator[_T | None, None, None]) -> AsyncGenerator[list[_T], None]:
    """Yield what `items` yields in lists, none of them empty; None, which says that time has passed, is left out.

    `items` only ever runs in worker threads, one at a time, and is closed when this is; if asyncio cancels the task
    in the middle of a piece, which anyio can't put off, it is closed as soon as that piece is done. What it yields
    before it raises is yielded, too.
    """
    run = _Run(items)
    is_over = False
    try:
        while not is_over:
            # Not abandoned when cancelled: a generator that runs in a thread could not be closed.
            piece, is_over = await anyio.to_thread.run_sync(run.next_piece)
            if piece:
                yield piece
    finally:
        run.close()


class _Run(Generic[_T]):
    """A generator that runs a piece at a time, and is closed by its thread or its owner, whichever is last."""

    def __init__(self, items: Generator[_T | None, None, None]) -> None:
        self._items = items
        self._raised: Exception | None = None
        self._running = Lock()  # held while a thread is in the generator
        self._unwanted = False

    def next_piece(self) -> tuple[list[_T], bool]:
        """Return the next items, and whether they are the last; blocks."""
        try:
            with self._running:
                return self._next_piece()
        finally:
            if self._unwanted:
                self.close()

    def close(self) -> None:
        """Close the generator; if a thread is in it at this moment, that thread does it."""
        self._unwanted = True  # first: the thread looks at it after releasing the lock
        if self._running.acquire(blocking=False):
            try:
                self._items.close()
            finally:
                self._running.release()

    def _next_piece(self) -> tuple[list[_T], bool]:
        if self._raised is not None:
            raise self._raised
        piece: list[_T] = []
        until = monotonic() + _PIECE_S
        try:
            for item in self._items:
                if item is not None:
                    piece.append(item)
                if len(piece) >= _PIECE_ITEMS or monotonic() >= until:
                    return piece, False
        except Exception as error:
            if not piece:
                raise
            self._raised = error
            return piece, False
        return piece, True


async def only_one(items: Generator[_T | None, None, None]) -> _T:
    """Return the one item that `items` yields."""
    async with aclosing(in_pieces(items)) as pieces:
        async for piece in pieces:
            return piece[0]
    raise AssertionError("nothing was yielded")
