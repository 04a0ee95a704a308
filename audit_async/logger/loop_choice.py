"""Running a service on the fastest event loop that the platform has."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, overload

import anyio

__all__ = ["run"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


@overload
def run(main: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T: ...
@overload
def run(main: Coroutine[Any, Any, _T]) -> _T: ...
def run(main: Callable[[*_Args], Awaitable[_T]] | Coroutine[Any, Any, _T], *args: *_Args) -> _T:
    """Run an async function on uvloop, if the platform has it, and return its result.

    Like `asyncio.run`, SIGINT included; uvloop makes a service's loop, not the log, faster.

    Args:
        main: The async function, or, as `asyncio.run` takes it, a coroutine: `run(main())`.
        *args: What the function is called with.

    Returns:
        What `main` returns.

    Raises:
        TypeError: `main` is neither, or a coroutine with arguments.
    """
    options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    if inspect.iscoroutine(main):
        if args:
            main.close()
            raise TypeError("run(main(...)) takes no further arguments: write run(main, *args)")
        result: _T = anyio.run(_await_it, main, backend="asyncio", backend_options=options)
        return result
    if not callable(main):
        raise TypeError(f"run() takes an async function or a coroutine, not {type(main).__name__}")
    return anyio.run(main, *args, backend="asyncio", backend_options=options)


async def _await_it(coroutine: Awaitable[_T]) -> _T:
    return await coroutine
