"""`http.request` without an event: its bytes from what is known of the method, the route and the client already.

Of two requests of the same route little more than path, times and sizes differ. So what the encoder makes of the rest
is kept, and put together with what differs: a fifth of the time that an event takes, its check and its encoding. What
is not as plain as nearly every request is left to the event: see `Recorder.record`.
"""

from __future__ import annotations

from types import MethodType
from typing import Final, NamedTuple, TypeVar

from audit_async._writer.encoder import is_plain
from audit_async.ambient import AnyLogger
from audit_async.events import HttpRequest
from audit_async.events.base import encode
from audit_async.integrations._http.exchange import Arrival
from audit_async.integrations._http.http_redactor import HttpRedactor
from audit_async.logger.prepared_events import OWN_EMIT, intake_of

__all__ = ["PreparedRequests"]

#: What is kept of each kind; a client that makes up methods or user agents only has the others made again.
_MAX_KEPT: Final = 1024
_MAX_KEPT_CHARS: Final = 512

#: How an encoded request ends whose path is the last that differs.
_SIZES: Final = '0,"bytes_in":0,"bytes_out":0}'

_K = TypeVar("_K")
_V = TypeVar("_V")


class _Frame(NamedTuple):
    """What of a record is the same for all requests of a method, a route and a status."""

    before_path: str
    before_duration: str


class PreparedRequests:
    """Records requests of one log by their bytes. The path must be plain, as `http_redactor.is_plain_path` says.

    Args:
        audit: The log.
        redactor: The redactor of its configuration.
    """

    def __init__(self, audit: AnyLogger, redactor: HttpRedactor) -> None:
        self._audit: Final = audit
        self._redactor: Final = redactor
        self._intake: Final = intake_of(audit)
        # None: what is not plain, and so is not prepared.
        self._frames: Final[dict[tuple[str, str | None, int | None], _Frame | None]] = {}
        self._addresses: Final[dict[str, str | None]] = {}
        self._user_agents: Final[dict[bytes, str | None]] = {}

    @property
    def is_passed_by(self) -> bool:
        """False if the log's `emit` was overridden or patched: then that is to see each event."""
        emit = self._audit.emit
        return (
            self._intake is not None
            and type(emit) is MethodType
            and emit.__func__ is OWN_EMIT
            and emit.__self__ is self._audit
        )

    def emit(  # noqa: PLR0917 - by position, since names cost each request 0.2 us
        self,
        arrival: Arrival,
        route: str | None,
        ip: str | None,
        status: int | None,
        duration_ms: int,
        bytes_in: int,
        bytes_out: int,
    ) -> bool:
        """Record a request of nobody who is known; False if its event has to be made and emitted.

        Raises what `AuditLogger.emit` does.
        """
        intake, own = self._intake, self._audit.emit
        # A log whose `emit` was overridden or patched is to see the event: `is_passed_by`, without its call. The type
        # is looked at, since a wrapper that stands for a method (wrapt's) answers as that does.
        if (
            intake is None
            or type(own) is not MethodType
            or own.__func__ is not OWN_EMIT
            or own.__self__ is not self._audit
            or type(bytes_out) is not int  # the application says how much it has sent otherwise than in bodies
        ):
            return False
        try:
            frame = self._frames[arrival.method, route, status]
        except KeyError:
            frame = self._learn_frame(arrival.method, route, status)
        address: str | None = ""
        if ip is not None:
            try:
                address = self._addresses[ip]
            except KeyError:
                address = self._learn_address(ip)
        user_agent: str | None = ""
        given = arrival.header_map.get(b"user-agent")
        if given is not None:
            try:
                user_agent = self._user_agents[given]
            except KeyError:
                user_agent = self._learn_user_agent(given)
        if frame is None or address is None or user_agent is None:
            return False
        text = (
            f'{frame[0]}{arrival.path}{frame[1]}{duration_ms},"bytes_in":{bytes_in},"bytes_out":{bytes_out}'
            f"{address}{user_agent}}}"
        )
        return intake.emit_prepared(HttpRequest, text.encode("ascii"))

    def _learn_frame(self, method: str, route: str | None, status: int | None) -> _Frame | None:
        request = HttpRequest(
            method=method, path="", route=route, status=status, duration_ms=0, bytes_in=0, bytes_out=0
        )
        frame, encoded = None, encode(request)
        if is_plain(encoded):  # so there is no quotation mark in a text
            before_path, path_name, rest = encoded.decode().partition('"path":"')
            before_duration, duration_name, sizes = rest.partition('"duration_ms":')
            if sizes == _SIZES:
                frame = _Frame(before_path + path_name, before_duration + duration_name)
        _keep(self._frames, (method, route, status), frame, chars=len(encoded))
        return frame

    def _learn_address(self, ip: str) -> str | None:
        address = _member("ip", ip)
        _keep(self._addresses, ip, address, chars=len(ip))
        return address

    def _learn_user_agent(self, given: bytes) -> str | None:
        user_agent = _member("user_agent", self._redactor.user_agent(given))
        _keep(self._user_agents, given, user_agent, chars=len(given))
        return user_agent


def _keep(cache: dict[_K, _V], key: _K, value: _V, *, chars: int) -> None:
    """Keep what was made of a text, unless that is long; a full cache begins again."""
    if chars > _MAX_KEPT_CHARS:
        return
    if len(cache) >= _MAX_KEPT:
        cache.clear()
    cache[key] = value


def _member(name: str, value: object) -> str | None:
    """Return a member of the record, with the comma before it; None if its text is not plain."""
    encoded = encode(value)
    return f',"{name}":{encoded.decode()}' if isinstance(value, str) and is_plain(encoded) else None
