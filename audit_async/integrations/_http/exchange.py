"""What is known of one request: what arrived with it, and what was seen of its answer so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import perf_counter_ns
from typing import Final

import msgspec

from audit_async.events import HttpOutcome
from audit_async.integrations._http.body_capture import BodyCapture
from audit_async.integrations._http.request_policy import Plan

__all__ = ["Arrival", "Exchange", "Headers", "path_in_application"]

Headers = Iterable[tuple[bytes, bytes]]

_COMPLETED: Final = HttpOutcome.COMPLETED  # an enum's member costs 100 ns to look up on Python 3.11


# Both classes are made once a request, by position and without a Python function: that is why they are structs.


class Arrival(msgspec.Struct, frozen=True, eq=False):
    """What came with a request or a WebSocket's handshake. Never changed."""

    method: str
    path: str  #: decoded, as the server gives it
    root_path: str  #: the prefix below which the application is served; mostly empty
    raw_path: bytes  #: as it came over the wire; empty if the server doesn't say
    query: bytes
    headers: Headers
    header_map: Mapping[bytes, bytes]  #: `headers` by name in lower case; of several the last
    peer: str | None  #: the address of the connection's other end; None on a UNIX socket
    started_ns: int  #: when it arrived, by `perf_counter_ns`

    @property
    def is_upgrade(self) -> bool:
        """Whether the client asks for a WebSocket (RFC 6455, 4.1); the application may still answer as it likes."""
        return self.method == "GET" and self.header_map.get(b"upgrade", b"").lower() == b"websocket"

    def as_web_socket(self) -> Arrival:
        """Return the same for a request that became a WebSocket: its method is `WEBSOCKET`."""
        return msgspec.structs.replace(self, method="WEBSOCKET")


class Exchange(msgspec.Struct, eq=False):
    """One request, or WebSocket, and what was seen of it so far.

    Owned by the integration that serves it, in the task of its request: it alone writes here. The recorder only reads.
    """

    arrival: Arrival
    plan: Plan
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    ended_ns: int = 0  #: when it ended, if that is not when it is recorded
    disconnected: bool = False  #: the client went away before the end
    outcome: HttpOutcome = _COMPLETED
    error: str | None = None  #: the class of the exception that the application raised
    note: str | None = None  #: what a reader of the record must know besides
    response_headers: Headers = ()
    request_capture: BodyCapture | None = None
    response_capture: BodyCapture | None = None

    @property
    def duration_ms(self) -> int:
        """Milliseconds from the request's arrival to its end."""
        return ((self.ended_ns or perf_counter_ns()) - self.arrival.started_ns + 500_000) // 1_000_000


def path_in_application(path: str, root_path: str) -> str:
    """Return a path as the application that is served below `root_path` sees it.

    Servers put their `--root-path`, and frameworks the prefix of a mount, into `root_path`, and most leave it in the
    path as well (https://asgi.readthedocs.io/en/latest/specs/www.html#http-connection-scope). A path that does not
    begin with it came without it, and is what the application sees already.
    """
    root_path = root_path.rstrip("/")
    if not root_path or not path.startswith(root_path):
        return path
    rest = path[len(root_path) :]
    return rest or "/" if not rest or rest[0] == "/" else path
