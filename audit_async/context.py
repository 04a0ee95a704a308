"""What is bound for a task: names and values that stand beside every event it emits, in the record's member `context`.

    with audit_context(request_id="7f3a", tenant="acme"):
        audit.emit(...)        # the record has "context":{"request_id":"7f3a","tenant":"acme"}

Bindings live in a context variable. So a task that is started inside sees them, and so does a thread that is entered by
`anyio.to_thread.run_sync` or `asyncio.to_thread`; a bare `threading.Thread` or `run_in_executor` does not (before
Python 3.14), unless it is given `contextvars.copy_context().run`. What a task binds, its caller never sees.

A binding knows no log: the text that it becomes depends on the log's configuration (what is unsafe, how long a text may
be, what is redacted). Each log makes it at its first event under the binding and keeps it there, so events pay for a
look-up and a copy, and a request that records nothing pays for nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import Final

import msgspec

from audit_async.errors import InvalidEvent

__all__ = ["MAX_BINDINGS", "Bound", "ContextValue", "audit_context", "bind_checked", "bind_context", "bound_here",
           "current_context", "unbind_context"]  # fmt: skip

#: What may be bound.
ContextValue = str | int | float | bool | None

#: How many names may be bound at once, over all nested bindings.
MAX_BINDINGS: Final = 32

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Bound(msgspec.Struct, eq=False):
    """All that is bound at one place, outer bindings included. Never changed but for what the logs keep in it."""

    values: Mapping[str, ContextValue]
    #: The member as a log writes it, by the log's own key. Threads may race to make the same text, harmlessly.
    texts: dict[int, bytes] = {}


_current: Final[ContextVar[Bound | None]] = ContextVar("audit_context", default=None)

#: Return what is bound here, None where nothing is. The bound method itself: 25 ns, and no Python function in `emit`.
bound_here: Final[Callable[[], Bound | None]] = _current.get

_NOTHING: Final[Mapping[str, ContextValue]] = MappingProxyType({})


class audit_context:  # noqa: N801 - used like a function, as contextlib's own are
    """Bind names and values for the events that are emitted inside the `with` block.

    Nested bindings add up, and the inner one wins. Values are str, int, float, bool or None; names are identifiers of
    at most 64 characters, at most 32 of them in all. Texts are recorded like those of an event: made harmless, and cut
    at `max_field_chars`; the whole takes at most 4 KiB, and at most a quarter of `max_event_bytes`.

    Raises `InvalidEvent`, which names the binding and never its value, for a name or value that can't be bound. With
    `on_unsafe="reject"` it is `emit` that raises, for it is the log that knows what is unsafe.
    """

    __slots__ = ("_bindings", "_tokens")

    def __init__(self, **bindings: ContextValue) -> None:
        self._bindings = {name: _checked(name, value) for name, value in bindings.items()}
        self._tokens: list[Token[Bound | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(bind_checked(self._bindings))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token = self._tokens.pop()
        # A ValueError: a generator that was begun in one task and finished in another, as frameworks do with
        # dependencies. The binding was the first one's alone, so there is nothing to undo here.
        with suppress(ValueError):
            _current.reset(token)


def bind_context(**bindings: ContextValue) -> Token[Bound | None]:
    """Bind names and values from here on, as `audit_context` does; return what `unbind_context` takes."""
    return bind_checked({name: _checked(name, value) for name, value in bindings.items()})


def unbind_context(token: Token[Bound | None]) -> None:
    """Bring back what was bound before `bind_context` returned `token`.

    Once for each token, and in the task or thread that bound: else what `ContextVar.reset` raises, a RuntimeError or
    ValueError.
    """
    _current.reset(token)


def current_context() -> Mapping[str, ContextValue]:
    """Return what is bound here, by name, as it was bound; it can't be changed."""
    bound = _current.get()
    return _NOTHING if bound is None else MappingProxyType(bound.values)


def bind_checked(bindings: Mapping[str, ContextValue]) -> Token[Bound | None]:
    """Bind what is known to be fit to be bound, as `bind_context` does; a third of its price, which a request pays.

    The mapping is kept, and must not be changed any more. Raises `InvalidEvent` for one binding too many.
    """
    outer = _current.get()
    values = bindings if outer is None else {**outer.values, **bindings}
    if len(values) > MAX_BINDINGS:
        name = list(values)[MAX_BINDINGS]
        raise InvalidEvent("context", name, f"is one binding too many; at most {MAX_BINDINGS} may be bound at once")
    return _current.set(Bound(values) if values else None)


def _checked(name: str, value: object) -> ContextValue:
    """Return the value as one of the built-in types themselves; a subclass has no say in what is recorded."""
    if not _NAME.fullmatch(name):
        shown = name if name.isascii() and name.isprintable() and len(name) <= 64 else ""
        raise InvalidEvent("context", shown, "is no name: ASCII letters, digits and _, at most 64, no digit first")
    if name == "reduced":
        raise InvalidEvent("context", name, "is where the log lists what it cut; bind it under another name")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        if -(2**63) <= number < 2**64:
            return number
        raise InvalidEvent("context", name, "is an integer outside 64 bits; bind it as text")
    if isinstance(value, float):
        fraction = float.__float__(value)
        if math.isfinite(fraction):
            return fraction
        raise InvalidEvent("context", name, "is NaN or infinite, which JSON has no place for; bind it as text")
    kind = type(value).__name__
    raise InvalidEvent("context", name, f"is of type {kind}; bind text, a number, true, false or None, as str() of it")
