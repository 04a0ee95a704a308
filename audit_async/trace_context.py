"""Distributed traces: which request of which other service a task belongs to, so that a record can name both.

    with audit_context(request_id=..., **current_span()):
        audit.emit(...)

A span is bound once, where a request begins, and not looked up at each event: OpenTelemetry's look-up takes about as
long as all of `emit` (python -m bench emit), and an event that belongs to an inner span is found by its trace as well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["TraceParent", "current_span", "parse_traceparent"]

# https://www.w3.org/TR/trace-context-1/#traceparent-header: version, trace-id, parent-id, trace-flags. Of a version yet
# to come more may follow, behind a dash.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class TraceParent(NamedTuple):
    """The caller's place in a trace."""

    trace_id: str  #: 32 lower-case hex digits, not all zero
    span_id: str  #: 16 lower-case hex digits, not all zero: the caller's span


def parse_traceparent(header: str | bytes) -> TraceParent | None:
    """Return what a `traceparent` header says, None where it is not valid by W3C Trace Context, level 1.

    Not valid are upper-case digits, the version ff, ids of zeros alone, and in version 00 anything behind the flags.
    White space around the value is not part of it.
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
    """Return `trace_id` and `span_id` of OpenTelemetry's current span, to be bound; nothing where there is none.

    The package is not imported for it: where nobody has, no span can be current.
    """
    if "opentelemetry.trace" not in sys.modules:
        return {}
    context = _context_look_up()()
    if not context:  # nothing at all is current, so no span is: a quarter of what asking for one costs
        return {}
    from opentelemetry import trace  # noqa: PLC0415 - an extra, and only looked up where it is in use

    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}


@cache
def _context_look_up() -> Callable[[], Context]:
    """Return OpenTelemetry's function for what is current; an import statement at each request costs more than that."""
    from opentelemetry.context import get_current  # noqa: PLC0415 - as above

    return get_current
