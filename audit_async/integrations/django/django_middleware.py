"""The middleware: records each request by the rules of a policy, and says who acts for what is done meanwhile.

One class for WSGI and ASGI, `def` and `async def` views, as Django asks for it. What differs from the ASGI middleware,
since Django shows less: an answer is recorded as it leaves the middleware, a streamed one at its last part; WebSockets
are none of Django's.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, Self

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import got_request_exception
from django.http import HttpRequest as DjangoRequest
from django.http import HttpResponse

from audit_async.ambient import bind_actor, get_audit, unbind_actor
from audit_async.context import bind_checked, unbind_context
from audit_async.errors import AuditError
from audit_async.events import HttpOutcome
from audit_async.integrations._http.admission import REFUSAL, RETRY_AFTER_S
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.exchange import Arrival, Exchange
from audit_async.integrations._http.recorder import Recorder, SourceView
from audit_async.integrations._http.request_policy import Level
from audit_async.integrations._http.settings import Settings
from audit_async.integrations.django.django_settings import middleware_settings
from audit_async.integrations.django.process_log import lose_event
from audit_async.integrations.django.request_actor import (
    ServedRequest,
    actor_of_served,
    keep_served,
    request_here,
    served_of,
    user_of,
)
from audit_async.sync import SyncAuditLogger

__all__ = ["AuditMiddleware"]

_log: Final = logging.getLogger("audit_async")

_METADATA: Final = Level.METADATA


class AuditMiddleware:
    """Records every request, and names the actor of whatever is recorded while it is served.

    The first in `MIDDLEWARE`, so that it sees what the others answer. Its settings are in `AUDIT_MIDDLEWARE`, under the
    names that `audit_async.integrations.asgi.AuditMiddleware` has; `policy` and `actor` may be dotted names. The
    `actor` hook is called with Django's request. The log is opened as the server loads the middleware, unless the
    application has set another with `set_audit`.

    Args:
        get_response: What Django calls next.

    Raises:
        ImproperlyConfigured: A setting is wrong, or the log can't be opened.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[DjangoRequest], Any]) -> None:
        self._get_response: Final = get_response
        self._is_async: Final = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        try:
            settings: Settings[DjangoRequest] = Settings(middleware_settings(), default_actor=user_of)
            get_audit()
        except (AuditError, OSError) as error:
            raise ImproperlyConfigured(f"the audit trail can't be written: {error}") from error
        self._settings: Final = settings
        self._recorder: Final = Recorder(settings, SourceView(_route_of, _shows_certificate))
        got_request_exception.connect(_note_exception, dispatch_uid="audit_async.exception")

    def __repr__(self) -> str:
        return f"<AuditMiddleware unrecorded={self._recorder.unrecorded} {self._recorder.policy}>"

    def __call__(self, request: DjangoRequest) -> Any:
        """Serve one request."""
        if self._is_async:
            return self._serve_async(request)
        audit = _log_for_request()
        with self._admitted(audit) as admitted:
            if not admitted:
                return _refusal()
            with _Serving(self._served(request), audit) as serving:
                if serving.begins and not serving.record_start():
                    return _refusal()
                return serving.finish(self._get_response(request))

    async def _serve_async(self, request: DjangoRequest) -> Any:
        audit = _log_for_request()
        with self._admitted(audit) as admitted:
            if not admitted:
                return _refusal()
            with _Serving(self._served(request), audit) as serving:
                if serving.begins and not await serving.record_start_async():
                    return _refusal()
                return serving.finish(await self._get_response(request))

    def _admitted(self, audit: Any) -> AbstractContextManager[bool]:
        admission = self._recorder.admission
        if admission is None:
            return nullcontext(enter_result=True)
        if isinstance(audit, SyncAuditLogger):
            try:
                audit.open_in_child()  # or a forked child would be judged by its parent's log, which it can't use
            except (AuditError, OSError) as error:
                _log.error("requests are refused: the audit log of a forked process can't be opened: %s", error)
                return nullcontext(enter_result=False)
        return nullcontext(enter_result=False) if audit is None else admission.admit(audit)

    def _served(self, request: DjangoRequest) -> ServedRequest:
        arrival = _arrival_of(request)
        recorder, settings = self._recorder, self._settings
        exchange = Exchange(arrival, recorder.plan(arrival.method, arrival.path, arrival.root_path))
        if exchange.plan.capture > _METADATA:
            exchange.request_capture = recorder.capture_for(arrival.header_map)
        proxies = settings.proxies
        ip = arrival.peer if proxies.trusts_none else proxies.client_of(arrival.peer, arrival.headers)
        return ServedRequest(recorder, exchange, request, ip, send_request_id=settings.send_request_id)


class _Serving:
    """One request on its way through: what is bound for it, and the record of its end. Used by its own task only."""

    def __init__(self, served: ServedRequest, audit: Any) -> None:
        self._served: Final = served
        self._audit: Final = audit
        self._recorded = False
        self._context: Context | None = None  #: of the request, for what its stream records after it was left

    @property
    def begins(self) -> bool:
        """Whether the policy wants the request's start recorded."""
        return self._served.exchange.plan.begin and self._audit is not None

    def __enter__(self) -> Self:
        served = self._served
        keep_served(served)
        _count_reads(served)
        bindings = correlation_of(served.arrival.header_map)
        self._request_id = bindings["request_id"]
        self._tokens = (
            bind_checked(bindings),
            request_here.set(served),
            bind_actor(partial(actor_of_served, served)),
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and not self._recorded:
                exchange = self._served.exchange
                exchange.error = type(error).__name__
                # Django cancels the task of a request whose client went away; whoever else does, it was cancelled.
                is_cancelled = isinstance(error, asyncio.CancelledError)
                exchange.outcome = HttpOutcome.CANCELLED if is_cancelled else HttpOutcome.FAILED
                self._record()
        finally:
            bound, here, actor = self._tokens
            unbind_actor(actor)
            request_here.reset(here)
            unbind_context(bound)

    def record_start(self) -> bool:
        """Record the request as it arrives, and wait until that is durable; return whether it may be served."""
        served = self._served
        return self._may_be_served(served.recorder.record_start_blocking(self._audit, served.arrival))

    async def record_start_async(self) -> bool:
        """Do what `record_start` does, in an event loop."""
        served = self._served
        return self._may_be_served(await served.recorder.record_start(self._audit, served.arrival))

    def _may_be_served(self, answer: bool) -> bool:
        self._recorded = not answer  # a request that is refused has no end to be recorded
        return answer

    def finish(self, response: Any) -> Any:
        """Note the answer and record it, or have its stream do so at its end; return what is to be answered."""
        response = self._unless_withheld(response)
        exchange = self._served.exchange
        if self._served.send_request_id:
            response.headers.setdefault("X-Request-ID", self._request_id)
        exchange.status = response.status_code
        exchange.response_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()
        ]
        if exchange.plan.capture > _METADATA:
            exchange.response_capture = self._served.recorder.capture_for_answer(exchange, exchange.response_headers)
        if response.status_code < 500:  # noqa: SIM102 - see below
            if exchange.outcome is HttpOutcome.FAILED:  # an exception that became an answer after all
                exchange.outcome, exchange.error = HttpOutcome.COMPLETED, None
        if response.streaming:
            self._follow_stream(response)
        else:
            if exchange.arrival.method != "HEAD":
                exchange.bytes_out = len(response.content)
                if exchange.response_capture is not None:
                    exchange.response_capture.add(response.content)
            self._record()
        return response

    def _unless_withheld(self, response: Any) -> Any:
        """Return the answer; with `fail_closed` a 503 in its place if it could not be recorded."""
        recorder, exchange = self._served.recorder, self._served.exchange
        if recorder.admission is None or self._audit is None:
            return response
        exchange.status = response.status_code
        obstacle = recorder.withhold(self._audit, exchange, self._served.request)
        if obstacle is None:
            return response
        exchange.note = f"the application's answer with status {response.status_code} was withheld: {obstacle}"
        response.close()
        return _refusal()

    def _follow_stream(self, response: Any) -> None:
        """Count the parts of a streamed answer, and record it as it is closed: the server closes each."""
        self._context = copy_context()
        exchange = self._served.exchange
        is_head = exchange.arrival.method == "HEAD"
        file = getattr(response, "file_to_stream", None)
        if file is not None:  # the server may hand it to the kernel, and only its length is seen
            if not is_head:
                exchange.bytes_out = int(response.headers.get("Content-Length") or 0)
        elif response.is_async:
            response.streaming_content = self._counted_async(response.streaming_content)
        else:
            response.streaming_content = self._counted(response.streaming_content)
        response._resource_closers.append(self._record)

    def _counted(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        try:
            for part in parts:
                self._count(part)
                yield part
        except Exception as error:
            self._note_broken(error)
            raise

    async def _counted_async(self, parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        try:
            async for part in parts:
                self._count(part)
                yield part
        except Exception as error:
            self._note_broken(error)
            raise

    def _count(self, part: bytes) -> None:
        exchange = self._served.exchange
        exchange.bytes_out += len(part)
        if exchange.response_capture is not None:
            exchange.response_capture.add(part)

    def _note_broken(self, error: Exception) -> None:
        exchange = self._served.exchange
        exchange.error, exchange.outcome = type(error).__name__, HttpOutcome.FAILED

    def _record(self) -> None:
        if self._recorded:
            return
        self._recorded = True
        if self._audit is None:
            return
        served = self._served
        if self._context is None:
            served.recorder.record(self._audit, served.exchange, served.request)
        else:
            self._context.run(served.recorder.record, self._audit, served.exchange, served.request)


class _CountedBody:
    """The body of a request as the view reads it: what it has read has arrived."""

    def __init__(self, stream: Any, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def read(self, *size: Any) -> bytes:
        """Read, and count what came."""
        return self._counted(self._stream.read(*size))

    def readline(self, *size: Any) -> bytes:
        """Read a line, and count it."""
        return self._counted(self._stream.readline(*size))

    def _counted(self, part: bytes) -> bytes:
        self._exchange.bytes_in += len(part)
        if self._exchange.request_capture is not None:
            self._exchange.request_capture.add(part)
        return part

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _count_reads(served: ServedRequest) -> None:
    request = served.request
    stream = getattr(request, "_stream", None)
    if stream is not None:
        request._stream = _CountedBody(stream, served.exchange)


def _log_for_request() -> Any:
    try:
        return get_audit()
    except Exception as error:  # noqa: BLE001 - a worker whose log can't be opened; the request is served all the same
        lose_event("http.request", error)
        return None


def _refusal() -> HttpResponse:
    return HttpResponse(
        REFUSAL, status=503, content_type="text/plain; charset=utf-8", headers={"Retry-After": str(RETRY_AFTER_S)}
    )


def _arrival_of(request: DjangoRequest) -> Arrival:
    """Return what came with a request, as an ASGI or a WSGI server gives it."""
    scope = getattr(request, "scope", None)
    meta = request.META
    if isinstance(scope, Mapping):
        headers = [(bytes(name).lower(), bytes(value)) for name, value in scope.get("headers", ())]
        raw_path = scope.get("raw_path") or b""
        query = scope.get("query_string", b"")
    else:
        headers = list(_headers_of(meta))
        raw_path = (
            str(meta.get("RAW_URI") or meta.get("REQUEST_URI") or "").partition("?")[0].encode("latin-1", "replace")
        )
        query = str(meta.get("QUERY_STRING", "")).encode("latin-1", "replace")
    return Arrival(
        request.method or "",
        request.path,
        str(meta.get("SCRIPT_NAME", "")).rstrip("/"),
        raw_path,
        query,
        headers,
        dict(headers),
        meta.get("REMOTE_ADDR") or None,
        perf_counter_ns(),
    )


def _headers_of(meta: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in meta.items():
        if name.startswith("HTTP_"):
            name = name[5:]  # noqa: PLW2901 - the header's own name
        elif name not in {"CONTENT_TYPE", "CONTENT_LENGTH"} or not value:
            continue
        yield name.replace("_", "-").lower().encode("latin-1", "replace"), str(value).encode("latin-1", "replace")


def _route_of(request: DjangoRequest) -> str | None:
    """Return the pattern that Django's resolver matched, such as `/orders/<int:pk>/`; a regular expression as it is."""
    match = getattr(request, "resolver_match", None)
    route = None if match is None else match.route
    if route is None:
        return None
    return str(route) if route.startswith("^") else f"/{route}"


def _shows_certificate(request: DjangoRequest) -> bool:
    """Return whether the server says that the client proved itself by a TLS certificate."""
    scope = getattr(request, "scope", None)
    if isinstance(scope, Mapping):
        return bool(((scope.get("extensions") or {}).get("tls") or {}).get("client_cert_name"))
    return bool(request.META.get("SSL_CLIENT_VERIFY") == "SUCCESS")


def _note_exception(request: DjangoRequest | None = None, **_: object) -> None:
    """Note what a view or an inner middleware raised; Django calls this as it makes a 500 of it."""
    served = None if request is None else served_of(request)
    error = sys.exc_info()[1]
    if served is not None and error is not None:
        served.exchange.error, served.exchange.outcome = type(error).__name__, HttpOutcome.FAILED
