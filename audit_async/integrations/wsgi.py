"""Every request of a WSGI application in the trail: Flask, Bottle, Pyramid, Django, or any other.

    application = AuditMiddleware(application, audit, policy=Policy([Rule("/health", level="none")]))

It records what the ASGI middleware records, by the same policy, with the same redaction and the same events. It holds
nothing back: parts of an answer pass one by one. An exchange gives one event, when the application has given the last
byte of its answer to the server, or when it ends without one: by an exception, or since the server gives the answer up.

`AuditedApp(application, config)` is the same with a log of its own. What differs, since WSGI shows less: of a client
that went away it is recorded that the server gave up the answer (`cancelled`); a file passes through Python, since the
server's own `wsgi.file_wrapper` would send it unseen; and header names are as CGI has them, `_` and `-` are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Unpack

from audit_async.ambient import AnyLogger, bind_actor, get_audit
from audit_async.ambient.ambient_log import audit_here, stand_in
from audit_async.config import AuditConfig
from audit_async.context import bind_checked
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo, HttpOutcome
from audit_async.integrations._http.actor import identity_of
from audit_async.integrations._http.admission import REFUSAL, REFUSAL_HEADERS
from audit_async.integrations._http.body_capture import BodyCapture
from audit_async.integrations._http.client_address import ForwardedHeader
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.exchange import Arrival, Exchange
from audit_async.integrations._http.recorder import Recorder, SourceView
from audit_async.integrations._http.request_policy import Level, Policy, Rule
from audit_async.integrations._http.settings import ActorHook, MiddlewareSettings, Settings, check_config
from audit_async.integrations._logger_source import shown
from audit_async.sync import SyncAuditLogger

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = [
    "ActorHook",
    "AuditMiddleware",
    "AuditedApp",
    "ForwardedHeader",
    "Level",
    "MiddlewareSettings",
    "Policy",
    "Rule",
    "actor_of",
    "actor_of_environ",
]

#: Where the middleware leaves in the environment what `actor_of` needs.
_SERVED: Final = "audit_async.served"
_METADATA: Final = Level.METADATA  # as in `recorder`: an enum's member costs 100 ns to look up

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class AuditMiddleware:
    """Records every request of `app`, by the rules of a policy; from any thread.

    What the application emits meanwhile has the same `request_id`, `trace_id` and `span_id` in its context, and
    `get_audit()` and `current_actor()` return the log and the actor of the request. Nothing that goes wrong here
    reaches a request, except that `fail_closed` refuses it.

    Args:
        app: The WSGI application.
        audit: The log, or a function that returns it for an environment. Left out, it is what `get_audit()` returns.
        settings: Those of `audit_async.integrations.asgi.AuditMiddleware`; the `actor` hook is called with the
            environment.
        route_of: Returns the template that the request's path matched, of the environment; None if it is not known.

    Raises:
        ConfigError: A setting has a wrong value, or a name that is none.
    """

    def __init__(
        self,
        app: WSGIApplication,
        audit: AnyLogger | Callable[[WSGIEnvironment], AnyLogger] | None = None,
        *,
        route_of: Callable[[WSGIEnvironment], str | None] | None = None,
        **settings: Unpack[MiddlewareSettings[WSGIEnvironment]],
    ) -> None:
        given: object = app  # which is not what its annotation promises, if the caller made a mistake
        if not callable(given) or isinstance(given, AnyLogger | AuditConfig):
            raise ConfigError("app", f"must be a WSGI application, not a {type(app).__name__}")
        checked = Settings(settings, default_actor=actor_of_environ)
        self.app: Final = app
        self._find_audit: Final = _finder(audit)
        self._recorder: Final = Recorder(checked, SourceView(route_of or _no_route, _shows_certificate))
        self._send_request_id: Final = checked.send_request_id

    def __repr__(self) -> str:
        closed = "" if self._recorder.admission is None else " fail_closed"
        return f"<AuditMiddleware{closed} unrecorded={self.unrecorded} refused={self.refused} {self._recorder.policy}>"

    @property
    def unrecorded(self) -> int:
        """Requests that were served and could not be recorded, since the start."""
        return self._recorder.unrecorded

    @property
    def refused(self) -> int:
        """Requests that were answered 503 because they could not have been recorded, since the start."""
        return 0 if self._recorder.admission is None else self._recorder.admission.refused

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        audit = self._find_audit(environ)
        recorder = self._recorder
        relay = _Relay(recorder, audit, environ, start_response)
        if recorder.admission is not None:
            if isinstance(audit, SyncAuditLogger):
                audit.open_in_child()  # or a forked child would be judged by its parent's log, which it can't use
            if not recorder.admission.enter(audit):
                return relay.refuse()
            relay.is_let_in = True
        arrival = relay.exchange.arrival
        bindings = correlation_of(arrival.header_map)
        if self._send_request_id:
            relay.request_id = bindings["request_id"]
        # A context of its own: the parts of an answer are asked for later, after this has returned.
        context = copy_context()
        context.run(bind_checked, bindings)
        context.run(audit_here.set, audit)
        context.run(bind_actor, partial(recorder.actor_of, arrival, environ))
        relay.context = context
        if relay.exchange.plan.begin and not context.run(recorder.record_start_blocking, audit, arrival):
            return relay.refuse()
        try:
            answer = context.run(self.app, environ, relay.start_response)
        except BaseException as error:
            relay.failed(error)
            raise
        return relay.answer_with(answer)


class AuditedApp:
    """Opens a `SyncAuditLogger` and records every request of `app` as `AuditMiddleware` does.

        application = AuditedApp(application, config)

    The log is opened at once, and by each forked worker for itself; it is drained and closed as the process ends. It
    is at `audited.audit`, and `get_audit()` returns it inside requests.

    Args:
        app: The WSGI application.
        config: The configuration of the log; leave `instance` out of it if the server forks.
        route_of: As for `AuditMiddleware`.
        settings: Those of `AuditMiddleware`.

    Raises:
        ConfigError: A setting has a wrong value, or a name that is none.
        LogLocked, LogCorrupted, WriteFailed: The log can't be opened.
    """

    def __init__(
        self,
        app: WSGIApplication,
        config: AuditConfig,
        *,
        route_of: Callable[[WSGIEnvironment], str | None] | None = None,
        **settings: Unpack[MiddlewareSettings[WSGIEnvironment]],
    ) -> None:
        self.audit: Final = SyncAuditLogger(check_config(config, "AuditedApp"))
        self._middleware: Final = AuditMiddleware(app, self.audit, route_of=route_of, **settings)
        if stand_in() is None:
            self.audit.start(blocks_event_loop=True)

    def __repr__(self) -> str:
        return f"<AuditedApp {self.audit!r} {self._middleware!r}>"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self._middleware(environ, start_response)


def actor_of(environ: WSGIEnvironment) -> ActorInfo:
    """Return who asks, exactly as the record of the request names the actor: for the application's own events.

    `current_actor()` returns the same without the environment.

    Args:
        environ: The request's environment.

    Returns:
        The actor; `anonymous`, with its address, if nobody is authenticated.

    Raises:
        ConfigError: The request is not served by an `AuditMiddleware`.
        Exception: Whatever the actor hook raises.
    """
    served = environ.get(_SERVED)
    if not isinstance(served, _Relay):
        raise ConfigError("audit", "the request is not served by an AuditMiddleware, so its actor is not known")
    return served.actor()


def actor_of_environ(environ: WSGIEnvironment) -> ActorInfo | str | None:
    """Return who asked, as the server's or a middleware's authentication left the user in `REMOTE_USER`.

    Args:
        environ: The request's environment. What a client sends can't be in this variable: its headers are `HTTP_…`.
    """
    return identity_of(environ.get("REMOTE_USER"))


class _Relay:
    """One request on its way through. Owned by the thread that serves it, one after the other if there are several."""

    request_id: str | None = None  #: to be sent back with the answer
    is_let_in = False  #: an admission keeps room for its record
    _is_recorded = False
    _is_withheld = False
    _refusal_is_given = False
    _has_passed = False  #: a part of the answer, so that its beginning can't be taken back
    _content_length = -1  #: what the answer says of its body's size

    def __init__(
        self, recorder: Recorder[Any], audit: AnyLogger, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        arrival = _arrival_of(environ)
        self.exchange: Final = Exchange(arrival, recorder.plan(arrival.method, arrival.path, arrival.root_path))
        self.context: Context | None = None
        self._recorder: Final = recorder
        self._audit: Final = audit
        self._environ: Final = environ
        self._start_response: Final = start_response
        self._outer: Final = environ.get(_SERVED)
        environ[_SERVED] = self
        if self.exchange.plan.capture > _METADATA:
            self.exchange.request_capture = recorder.capture_for(arrival.header_map)
        if environ.get("CONTENT_LENGTH", "0") not in {"0", ""} or "HTTP_TRANSFER_ENCODING" in environ:
            environ["wsgi.input"] = _CountedInput(environ["wsgi.input"], self.exchange)

    def actor(self) -> ActorInfo:
        """Return who asks."""
        return self._recorder.actor_of(self.exchange.arrival, self._environ)

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """Pass on the beginning of the answer, which the application may take back as long as nothing was sent."""
        exchange = self.exchange
        exchange.status = int(status[:3]) if status[:3].isdigit() else None
        if self.request_id is not None and not any(name.lower() == "x-request-id" for name, _ in headers):
            headers = [*headers, ("X-Request-ID", self.request_id)]
        noted = [(n.lower().encode("latin-1", "replace"), v.encode("latin-1", "replace")) for n, v in headers]
        exchange.response_headers = noted
        lengths = (int(value) for name, value in noted if name == b"content-length" and value.isdigit())
        self._content_length = next(lengths, -1)
        if exchange.plan.capture > _METADATA:
            exchange.response_capture = self._recorder.capture_for_answer(exchange, noted)
        if self._recorder.admission is not None:
            obstacle = self._recorder.withhold(self._audit, exchange, self._environ)
            if obstacle is not None:
                self._is_withheld = True
                exchange.note = f"the application's answer with status {exchange.status} was withheld: {obstacle}"
                exchange.response_capture = None
                self._begin_refusal(exc_info)
                return lambda _data: None
        write = self._start_response(status, headers, exc_info) if exc_info else self._start_response(status, headers)

        def counted_write(data: bytes) -> object:
            self._passed(data)
            return write(data)

        return counted_write

    def answer_with(self, answer: Iterable[bytes]) -> Iterable[bytes]:
        """Return the parts of the answer for the server."""
        sized = isinstance(answer, list | tuple) and not self._is_withheld
        return (_SizedAnswer if sized else _Answer)(self, answer)

    def next_of(self, parts: Iterator[bytes]) -> bytes:
        """Return the next part of the answer."""
        assert self.context is not None  # noqa: S101 - the application was asked
        if self._is_withheld:
            return self._next_of_refusal()
        try:
            part = self.context.run(next, parts)
        except StopIteration:
            if self._is_withheld:  # the answer was begun only just now
                return self._next_of_refusal()
            self._complete()
            raise
        except BaseException as error:
            self.failed(error)
            raise
        if self._is_withheld:
            return self._next_of_refusal()
        self._passed(part)
        if self.exchange.bytes_out == self._content_length and self.exchange.status is not None:
            self._complete()
        return part

    def _next_of_refusal(self) -> bytes:
        """Return the body of a 503 in place of the application's."""
        if self._refusal_is_given or self.exchange.arrival.method == "HEAD":
            self._complete()
            raise StopIteration
        self._refusal_is_given = True
        self.exchange.bytes_out = len(REFUSAL)
        self._complete()
        return REFUSAL

    def close(self, answer: object) -> None:
        """Pass on that the server needs no more of the answer, and record a request whose end was not seen."""
        close = getattr(answer, "close", None)
        try:
            if close is not None and self.context is not None:
                self.context.run(close)
        except BaseException as error:
            self.failed(error)
            raise
        finally:
            self._gave_up()

    def failed(self, error: BaseException) -> None:
        """Record that the application raised."""
        exchange = self.exchange
        if not self._is_recorded:
            exchange.error, exchange.outcome = type(error).__name__, HttpOutcome.FAILED
            if not self._has_passed and isinstance(error, Exception):
                exchange.status, exchange.bytes_out = 500, 0  # what every server answers then
        self._record()

    def refuse(self) -> Iterable[bytes]:
        """Answer 503 without asking the application; that is not recorded."""
        self._is_recorded = True
        self._leave()
        self._begin_refusal(None)
        return [] if self.exchange.arrival.method == "HEAD" else [REFUSAL]

    def _begin_refusal(self, exc_info: _ExcInfo | None) -> None:
        exchange = self.exchange
        exchange.status, exchange.response_headers = 503, REFUSAL_HEADERS
        headers = [(name.decode().title(), value.decode()) for name, value in REFUSAL_HEADERS]
        if self.request_id is not None:
            headers.append(("X-Request-ID", self.request_id))
        arguments = (exc_info,) if exc_info else ()
        self._start_response("503 Service Unavailable", headers, *arguments)

    def _passed(self, part: bytes) -> None:
        exchange = self.exchange
        exchange.bytes_out += len(part)
        self._has_passed = self._has_passed or bool(part)
        if exchange.response_capture is not None:
            exchange.response_capture.add(part)

    def _complete(self) -> None:
        if not self._is_recorded and self.exchange.status is None:
            self.exchange.outcome, self.exchange.status = HttpOutcome.NO_RESPONSE, 500  # as above
        self._record()

    def _gave_up(self) -> None:
        exchange = self.exchange
        if not self._is_recorded and exchange.arrival.method != "HEAD":  # of which servers may not ask for the body
            exchange.outcome = HttpOutcome.CANCELLED
            exchange.note = exchange.note or "the server ended the answer before its last byte"
        self._record()

    def _record(self) -> None:
        if self._is_recorded:
            return
        self._is_recorded = True
        try:
            if self.exchange.arrival.method == "HEAD":
                self.exchange.bytes_out = 0  # the server sends none of it
            assert self.context is not None  # noqa: S101 - what was refused is not recorded
            self.context.run(self._recorder.record, self._audit, self.exchange, self._environ)
        finally:
            self._leave()
            self._environ[_SERVED] = self._outer  # not this: that cycle would keep the request until it is collected

    def _leave(self) -> None:
        if self.is_let_in and self._recorder.admission is not None:
            self.is_let_in = False
            self._recorder.admission.leave()


class _Answer:
    """The parts of an answer on their way to the server, one by one."""

    def __init__(self, relay: _Relay, answer: Iterable[bytes]) -> None:
        self._relay: Final = relay
        self._answer: Final = answer
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._parts is None:
            self._parts = iter(self._answer)
        return self._relay.next_of(self._parts)

    def close(self) -> None:
        """End the answer; every server calls this."""
        self._relay.close(self._answer)


class _SizedAnswer(_Answer):
    """An answer of which a server may count the parts, to know its length."""

    def __len__(self) -> int:
        return len(self._answer)  # type: ignore[arg-type]  # a list or tuple


class _CountedInput:
    """The body of a request as the application reads it; counted, and its beginning kept if the policy asks for it."""

    def __init__(self, body: Any, exchange: Exchange) -> None:  # noqa: ANN401 - whatever the server gives
        self._body: Final = body
        self._exchange: Final = exchange
        self._capture: Final[BodyCapture | None] = exchange.request_capture

    def _passed(self, data: bytes) -> bytes:
        self._exchange.bytes_in += len(data)
        if self._capture is not None:
            self._capture.add(data)
        return data

    def read(self, *size: int) -> bytes:
        """Read as a file does."""
        return self._passed(self._body.read(*size))

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read as a raw file does."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readline(self, *size: int) -> bytes:
        """Read a line as a file does."""
        return self._passed(self._body.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        """Read lines as a file does."""
        return [self._passed(line) for line in self._body.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        for line in self._body:
            yield self._passed(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._body, name)


def _arrival_of(environ: WSGIEnvironment) -> Arrival:
    root_path = _text(environ.get("SCRIPT_NAME", ""))
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for name, header in (("CONTENT_TYPE", b"content-type"), ("CONTENT_LENGTH", b"content-length")):
        if environ.get(name):
            headers.append((header, environ[name].encode("latin-1", "replace")))
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    return Arrival(
        environ["REQUEST_METHOD"],
        root_path + (_text(environ.get("PATH_INFO", "")) or ("" if root_path else "/")),
        root_path,
        raw.partition("?")[0].encode("latin-1", "replace"),
        environ.get("QUERY_STRING", "").encode("latin-1", "replace"),
        headers,
        dict(headers),
        environ.get("REMOTE_ADDR") or None,  # empty on a UNIX socket
        perf_counter_ns(),
    )


def _text(value: str) -> str:
    """Return a text of the environment, in which each character is a byte (PEP 3333)."""
    return value if value.isascii() else value.encode("latin-1", "replace").decode("utf-8", "replace")


def _finder(audit: object) -> Callable[[WSGIEnvironment], AnyLogger]:
    if audit is None:
        return lambda _environ: get_audit()
    if isinstance(audit, AnyLogger):
        return lambda _environ: stand_in() or audit
    if callable(audit) and not isinstance(audit, type):
        return lambda environ: stand_in() or audit(environ)
    raise ConfigError(
        "audit", f"must be a SyncAuditLogger or a function that returns it for an environment, not {shown(audit)}"
    )


def _no_route(_environ: WSGIEnvironment) -> None:
    return None


def _shows_certificate(environ: WSGIEnvironment) -> bool:
    """Return whether the server says that the client proved itself by a TLS certificate."""
    return environ.get("SSL_CLIENT_VERIFY") == "SUCCESS"
