"""What ties records together: the request's id, and the trace that it belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import count
from typing import Final

from audit_async.context import current_span, parse_traceparent

__all__ = ["correlation_of"]

#: What other tools make of ids: UUIDs, ULIDs, AWS's `Root=1-…`, base64. Nothing that needs escaping anywhere.
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:=@+/-]{0,127}")


class _FreshIds:
    """Ids that no other process gives: a third of what asking the OS for each one would cost."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin again with another prefix, as a forked child must."""
        self.prefix = os.urandom(8).hex()
        self.number = count().__next__


_fresh: Final = _FreshIds()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_fresh.renew)


def correlation_of(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return what to bind for a request: `request_id`, and `trace_id` and `span_id` if it belongs to a trace.

    The id is what `X-Request-ID` says if that is sane, otherwise a new one of 32 hex digits. The trace is that of
    OpenTelemetry's current span if there is one, since its middleware is further out, otherwise what `traceparent`
    says. An id or trace that the client gives is a claim: it ties records to those of the service that chose it, and
    proves nothing.
    """
    given = headers.get(b"x-request-id")
    if given is not None and _SANE_ID.fullmatch(given):
        request_id = given.decode("ascii")
    else:
        request_id = f"{_fresh.prefix}{_fresh.number():016x}"
    span = current_span()
    if span:
        return {"request_id": request_id, **span}
    traceparent = headers.get(b"traceparent")
    if traceparent is not None and (parent := parse_traceparent(traceparent)) is not None:
        return {"request_id": request_id, "trace_id": parent.trace_id, "span_id": parent.span_id}
    return {"request_id": request_id}
