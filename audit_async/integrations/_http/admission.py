"""Which requests are let in with `fail_closed`: those whose record the trail has room for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import Final

from audit_async.ambient import AnyLogger

__all__ = ["REFUSAL", "REFUSAL_HEADERS", "RETRY_AFTER_S", "Admission"]

_log = logging.getLogger("audit_async")

#: When a client that was answered 503 is asked to try again, and how long requests are refused after one was lost.
RETRY_AFTER_S: Final = 5

#: The body of a 503 to a request that is refused because it could not be recorded.
REFUSAL: Final = b"The service can't record requests at the moment, and serves none unrecorded. Try again later.\n"
REFUSAL_HEADERS: Final = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(REFUSAL)),
    (b"retry-after", b"%d" % RETRY_AFTER_S),
)

#: What the record of a request takes in the buffer, about: metadata, and two bodies of the default limit.
_RESERVED_BYTES: Final = 16 * 1024
#: The last tenth of the buffer is kept for critical events.
_OPEN_SHARE: Final = 0.9


class Admission:
    """Lets requests in, one by one, as long as the trail can take their records.

    From any thread: a WSGI server has many.
    """

    def __init__(self) -> None:
        self.refused = 0  #: requests that were answered 503 because they could not have been recorded
        self._under_way = 0  #: requests that were let in and have not ended yet
        self._refusing = False
        self._closed_until_s = 0.0  #: by the monotonic clock
        self._closed_because = ""
        self._lock: Final = Lock()

    @contextmanager
    def admit(self, audit: AnyLogger) -> Iterator[bool]:
        """Yield whether a request is let in; if so, room for its record is kept until the end of the block."""
        admitted = self.enter(audit)
        try:
            yield admitted
        finally:
            if admitted:
                self.leave()

    def enter(self, audit: AnyLogger) -> bool:
        """Return whether a request is let in; if so, room for its record is kept until `leave` is called for it."""
        with self._lock:
            if self._admits(audit):
                self._under_way += 1
                return True
            self.refused += 1
            return False

    def leave(self) -> None:
        """End a request that was let in."""
        with self._lock:
            self._under_way -= 1

    def close_for_a_while(self, because: str) -> None:
        """Refuse every request for some seconds: one was served just now and could not be recorded.

        Whatever the cause is, the next request may meet it as well. After the pause requests are let in again, and the
        first that is lost closes the door again.
        """
        self._closed_until_s = monotonic() + RETRY_AFTER_S
        self._closed_because = because

    def refuse(self) -> None:
        """Count a request that is answered 503 after all, since its record turned out to be impossible."""
        with self._lock:
            self.refused += 1

    def _admits(self, audit: AnyLogger) -> bool:
        health = audit.health()
        config = audit.config
        share = max(1 / config.buffer_events, _RESERVED_BYTES / config.buffer_bytes)
        has_room = health.ok and health.buffer_fill + (self._under_way + 1) * share < _OPEN_SHARE
        admitted = has_room and monotonic() >= self._closed_until_s
        if admitted is self._refusing:
            self._refusing = not admitted
            if admitted:
                _log.warning("requests are served again: the audit trail takes their records")
            else:
                full = health.reason or f"health {health.status.value}, buffer {health.buffer_fill:.0%} full"
                reason = self._closed_because if has_room else full
                _log.warning("requests are answered 503, because the trail can't take their records: %s", reason)
        return admitted
