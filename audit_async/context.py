"""What is bound for a task: names and values that every event it emits carries, in the record's member `context`.

    with audit_context(request_id="7f3a", tenant="acme", **current_span()):
        audit.emit(...)        # the record has "context":{"request_id":"7f3a","tenant":"acme"}

Bindings live in a context variable. So a task that is started inside sees them, and so does a thread that is entered by
`anyio.to_thread.run_sync` or `asyncio.to_thread`; a bare `threading.Thread` or `run_in_executor` does not (before
Python 3.14), unless it is given `contextvars.copy_context().run`. What a task or a thread binds, its caller never sees.

A span of a distributed trace is bound once, where a request begins, and not looked up at each event: OpenTelemetry's
look-up takes about as long as all of `emit` (python -m bench emit), and an event that belongs to an inner span is found
by its trace as well.

A binding knows no log: the text that it becomes depends on the log's configuration (what is unsafe, how long a text may
be, what is redacted). Each log makes it at its first event under the binding and keeps it there, so events pay for a
look-up and a copy, and a request that records nothing pays for nothing.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from functools import cache
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from audit_async.errors import InvalidEvent

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = [
    "MAX_BINDINGS",
    "Bound",
    "ContextValue",
    "TraceParent",
    "audit_context",
    "bind_checked",
    "bind_context",
    "bound_here",
    "current_context",
    "current_span",
    "extend_binding",
    "parse_traceparent",
    "reset_bound",
    "set_bound",
    "unbind_context",
]

_log = logging.getLogger("audit_async")

#: What may be bound.
ContextValue = str | int | float | bool | None

#: How many names may be bound at once, over all nested bindings.
MAX_BINDINGS: Final = 32

# https://www.w3.org/TR/trace-context-1/#traceparent-header: version, trace-id, parent-id, trace-flags. In a version yet
# to come more may follow, after a dash.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Bound(msgspec.Struct, eq=False):
    """All that is bound at one place, outer bindings included. Never changed but for what the logs keep in it."""

    values: Mapping[str, ContextValue]
    #: The member as a log writes it, by the log's own key. Threads may race to make the same text, harmlessly.
    texts: dict[int, bytes] = {}


_current: Final[ContextVar[Bound | None]] = ContextVar("audit_context", default=None)

#: Return what is bound here, None if nothing is. The bound method itself: 25 ns, and no Python function in `emit`.
bound_here: Final[Callable[[], Bound | None]] = _current.get

# For integrations that bind for each request, likewise without a Python function: `bind_checked` for a task for which
# nothing is bound yet, and `unbind_context`.
set_bound: Final[Callable[[Bound | None], Token[Bound | None]]] = _current.set
reset_bound: Final[Callable[[Token[Bound | None]], None]] = _current.reset

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
        try:
            _current.reset(token)
        except ValueError:
            # A generator that was begun in one context and finished in another, as frameworks do with dependencies. The
            # binding was the first one's alone, so there is nothing to undo here; but whoever wrote it must know.
            _log.warning(
                "audit_context(%s) was entered in one task or thread and left in another, so what was emitted in "
                "between may lack its bindings: a `def` dependency that yields runs in threads of its own. Make it "
                "`async def`, or use bind_request of the integration",
                ", ".join(self._bindings),
            )


def bind_context(**bindings: ContextValue) -> Token[Bound | None]:
    """Bind names and values from here on, as `audit_context` does; return what `unbind_context` takes.

    Raises `InvalidEvent` for a name or value that can't be bound.
    """
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


class TraceParent(NamedTuple):
    """The caller's place in a trace."""

    trace_id: str  #: 32 lower-case hex digits, not all zero
    span_id: str  #: 16 lower-case hex digits, not all zero: the caller's span


def parse_traceparent(header: str | bytes) -> TraceParent | None:
    """Return what a `traceparent` header says; None if it is not valid by W3C Trace Context, level 1.

    Not valid are upper-case digits, the version ff, ids of zeros alone, and in version 00 anything after the flags.
    White space around the value is not part of it.

    Args:
        header: The header's value (https://www.w3.org/TR/trace-context-1/#traceparent-header).
    """
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    found = _TRACEPARENT.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, more = found.groups()
    if version == "ff" or (version == "00" and more is not None) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceParent(trace_id, span_id)


def current_span() -> dict[str, str]:
    """Return `trace_id` and `span_id` of OpenTelemetry's current span, to be bound; empty if there is none.

    The package is not imported for it: if nothing else has, no span can be current.
    """
    if "opentelemetry.trace" not in sys.modules:
        return {}
    context = _context_look_up()()
    if not context:  # nothing at all is current, so no span is: a quarter of what asking for one costs
        return {}
    from opentelemetry import trace  # noqa: PLC0415 - an extra, and looked up only if it is in use

    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}


@cache
def _context_look_up() -> Callable[[], Context]:
    """Return OpenTelemetry's function for what is current; an import statement at each request costs more than that."""
    from opentelemetry.context import get_current  # noqa: PLC0415 - as above

    return get_current


def extend_binding(bound: Bound, bindings: Mapping[str, ContextValue]) -> None:
    """Add to what is bound at one place, for everything that is emitted under it from now on; from any thread.

    Raises `InvalidEvent` as `bind_context` does.
    """
    values = {**bound.values, **{name: _checked(name, value) for name, value in bindings.items()}}
    if len(values) > MAX_BINDINGS:
        name = list(values)[MAX_BINDINGS]
        raise InvalidEvent("context", name, f"is one binding too many; at most {MAX_BINDINGS} may be bound at once")
    bound.values = values
    bound.texts = {}  # in this order: a text that is made in between is made of the new values, or made again


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
