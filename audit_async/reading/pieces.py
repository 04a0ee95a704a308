"""Taking blocking iteration off the event loop: a worker thread goes through it a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from time import monotonic
from typing import Final, TypeVar

import anyio.to_thread

#: A piece ends after so many items or so long, whichever comes first: long enough that the hop to the thread, about
#: 100 us, doesn't count; short enough that the first results come at once and a cancellation doesn't wait.
_PIECE_ITEMS: Final = 500
_PIECE_S: Final = 0.02

_T = TypeVar("_T")


async def in_pieces(items: Generator[_T | None, None, None]) -> AsyncGenerator[list[_T], None]:
    """Give what `items` gives in lists, none of them empty; None, which says that time has passed, is left out.

    `items` is only ever run in worker threads, one at a time, and is closed when this is. What it gives before it
    raises is given, too.
    """
    raised: list[Exception] = []

    def next_piece() -> tuple[list[_T], bool]:
        if raised:
            raise raised.pop()
        piece: list[_T] = []
        until = monotonic() + _PIECE_S
        try:
            for item in items:
                if item is not None:
                    piece.append(item)
                if len(piece) >= _PIECE_ITEMS or monotonic() >= until:
                    return piece, False
        except Exception as error:
            if not piece:
                raise
            raised.append(error)
            return piece, False
        return piece, True

    is_over = False
    try:
        while not is_over:
            # Not abandoned when cancelled: a generator that runs in a thread could not be closed.
            piece, is_over = await anyio.to_thread.run_sync(next_piece)
            if piece:
                yield piece
    finally:
        items.close()


async def only_one(items: Generator[_T | None, None, None]) -> _T:
    """Return the one thing that `items` gives."""
    async with aclosing(in_pieces(items)) as pieces:
        async for piece in pieces:
            return piece[0]
    raise AssertionError("nothing was given")
