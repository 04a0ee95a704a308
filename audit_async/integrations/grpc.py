"""`AuditInterceptor`: every call that a gRPC server answers, in the trail.

    server = grpc.aio.server(interceptors=[AuditInterceptor(audit)])

For `grpc.aio` (https://grpc.github.io/grpc/python/grpc_asyncio.html). Inside a call `get_audit` is the log,
`current_actor` whoever calls, and the context has `request_id`, and the trace if the metadata names one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import Token
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import unquote

from audit_async._first_use import installed_by

with installed_by("audit-async[grpc]", __name__):
    import grpc
    import grpc.aio

from audit_async._sanitize.foreign_values import exception_name
from audit_async.ambient import bind_actor, unbind_actor
from audit_async.ambient.ambient_log import audit_here, stand_in
from audit_async.context import bind_context, unbind_context
from audit_async.errors import AuditError, BufferFull, ConfigError, InvalidEvent
from audit_async.events import ActorInfo, AuthMethod, RpcEnded
from audit_async.integrations._http.admission import Admission
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.http_redactor import HttpRedactor
from audit_async.integrations._logger_source import AnyLogger, LoggerSource, check_source, logger_from, shown
from audit_async.status import describe_error

__all__ = ["AuditInterceptor"]

_log: Final = logging.getLogger("audit_async")

_Context = Any  #: a `grpc.aio.ServicerContext`, whose class has no types
#: Says who calls: of a call's context.
ActorOf = Callable[[_Context], ActorInfo | str | None]

_STATUS_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
_HEALTH: Final = "/grpc.health.v1.Health/"


class AuditInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Records each call that a server answers as `rpc.ended`: of any kind, with its status, also if it is not known.

    The record is made after the call. A call that could not be recorded is counted as lost by the log; with
    `fail_closed` calls are answered UNAVAILABLE as long as the trail can't take their records.

    Handlers must be coroutine functions or asynchronous generators, as grpc.aio's own are; a plain function raises.

    Args:
        audit: The logger, or a function that returns it.
        actor: Says who calls, of the call's context and before it is served: an `ActorInfo`, a user id, or None. By
            default the common name of a client's certificate that the server has verified, otherwise nobody.
        metadata: The names of the metadata that are recorded, without what looks like a secret.
        skip: The beginnings of the methods that are not recorded; by default the health service.
        fail_closed: Answer UNAVAILABLE instead of serving what can't be recorded.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(
        self,
        audit: LoggerSource,
        *,
        actor: ActorOf | None = None,
        metadata: Iterable[str] = (),
        skip: Iterable[str] = (_HEALTH,),
        fail_closed: bool = False,
    ) -> None:
        if actor is not None and (isinstance(actor, type) or not callable(actor)):
            raise ConfigError("actor", f"must be a function of a call's context, not {shown(actor)}")
        for name, several in (("metadata", metadata), ("skip", skip)):
            if isinstance(several, str):
                raise ConfigError(name, f"must be several, such as ({several!r},)")
        self._source: Final = check_source(audit)
        self._actor: Final = _of_certificate if actor is None else actor
        self._metadata: Final = frozenset(name.lower() for name in metadata)
        self._skip: Final = tuple(skip)
        self._fail_closed: Final = fail_closed
        self._admission: Final = Admission()
        self._redactor: tuple[AnyLogger, HttpRedactor] | None = None

    @property
    def refused(self) -> int:
        """How many calls were answered UNAVAILABLE because they could not have been recorded."""
        return self._admission.refused

    def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: Any,  # noqa: ANN401 - grpc's
    ) -> Awaitable[Any]:
        """Wrap the handler of a call; the server calls this.

        Raises:
            ConfigError: The server is a `grpc.server`, which would take the answer for a handler; its thread that
                serves all calls would end.
        """
        if asyncio._get_running_loop() is None:  # noqa: SLF001 - None instead of an error
            raise ConfigError("interceptors", "AuditInterceptor is for grpc.aio.server(), not for grpc.server()")
        return self._intercepted(continuation, handler_call_details)

    async def _intercepted(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:  # noqa: ANN401 - grpc's
        handler, method = await continuation(handler_call_details), str(handler_call_details.method)
        if method.startswith(self._skip):
            return handler
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(self._answered(method, _unimplemented))
        for kind in ("unary_unary", "stream_unary", "unary_stream", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                wrapped = self._streamed if kind.endswith("_stream") else self._answered
                made = getattr(grpc, f"{kind}_rpc_method_handler")
                return made(
                    wrapped(method, behaviour),
                    request_deserializer=handler.request_deserializer,
                    response_serializer=handler.response_serializer,
                )
        return handler

    def _answered(self, method: str, behaviour: Any) -> Any:  # noqa: ANN401 - grpc's
        """Return a handler that answers with one message."""
        _refuse_plain(method, behaviour)

        async def answer(request: object, context: _Context) -> object:
            with self._call(method, context) as call:
                if call is None:
                    await self._refuse(context)
                    return None
                response: object = await behaviour(call.received(request), call.context)
                call.messages_out += 1
                return response

        return answer

    def _streamed(self, method: str, behaviour: Any) -> Any:  # noqa: ANN401 - grpc's
        """Return a handler that answers with a stream: what an asynchronous generator yields, or a coroutine writes."""
        _refuse_plain(method, behaviour)
        yields = inspect.isasyncgenfunction(behaviour)

        async def answer(request: object, context: _Context) -> AsyncIterator[object]:
            with self._call(method, context) as call:
                if call is None:
                    await self._refuse(context)
                elif yields:
                    async for response in behaviour(call.received(request), call.context):
                        call.messages_out += 1
                        yield response
                else:
                    await behaviour(call.received(request), call.context)

        return answer

    @contextmanager
    def _call(self, method: str, context: _Context) -> Iterator[_Call | None]:
        """Yield a call that is under way, and record it at the end; None if it is not let in."""
        audit = stand_in() or logger_from(self._source)  # a test's log takes the place of the application's
        if audit is None:
            if not self._fail_closed:
                _log.error("a call of %s is not recorded: there is no audit log yet", method)
            yield None if self._fail_closed else _Call(context, None)
            return
        with self._admission.admit(audit) if self._fail_closed else nullcontext(True) as is_admitted:
            if not is_admitted:
                yield None
                return
            try:
                actor, actor_is_known = self._actor_of(context), True
            except Exception as error:  # noqa: BLE001 - it is the application's own code; the call counts for more
                actor, actor_is_known = None, False
                _log.error("the actor of a call of %s is left out: %s was raised", method, type(error).__name__)
            call = _Call(context, actor)
            tokens = _bind(audit, call)
            try:
                yield call
            except BaseException as error:
                self._record(audit, method, call, error)
                raise
            else:
                self._record(audit, method, call, None)
            finally:
                if not actor_is_known:
                    audit.count_lost("rpc.ended", "recorded_without_actor")
                with suppress(ValueError):  # a stream that the garbage collector ends, in another context
                    _unbind(tokens)

    @staticmethod
    async def _refuse(context: _Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the audit trail can't take the record of this call")

    def _actor_of(self, context: _Context) -> ActorInfo | None:
        given = self._actor(context)
        if given is None or isinstance(given, ActorInfo):
            return given
        if isinstance(given, str):
            return ActorInfo(user_id=given)
        raise ConfigError("actor", f"returned {shown(given)}; return an ActorInfo, a user id, or None")

    def _record(self, audit: AnyLogger, method: str, call: _Call, error: BaseException | None) -> None:
        redactor = self._redactor_for(audit)
        chosen = [(name, value) for name, value in call.metadata if name.decode() in self._metadata]
        try:
            audit.emit(
                RpcEnded(
                    actor=call.actor,
                    method=redactor.path(method),
                    status=call.status(error),
                    duration_ms=round((time.monotonic() - call.began) * 1000),
                    messages_in=call.messages_in,
                    messages_out=call.messages_out,
                    ip=call.ip,
                    error=None if error is None or _is_answer(error) else exception_name(type(error)),
                    metadata=redactor.headers(chosen) or None,
                )
            )
        except BufferFull:
            self._admission.close_for_a_while("the buffer is full")  # the log has counted it
        except AuditError as failure:
            audit.count_lost("rpc.ended", "invalid_event" if isinstance(failure, InvalidEvent) else "emit_failed")
            self._admission.close_for_a_while(describe_error(failure))
            _log.error("a call of %s could not be recorded: %s", method, describe_error(failure))

    def _redactor_for(self, audit: AnyLogger) -> HttpRedactor:
        if self._redactor is None or self._redactor[0] is not audit:
            self._redactor = audit, HttpRedactor(audit.config)
        return self._redactor[1]


class _Call:
    """One call that is under way.

    What the context knows of the client is read now: once a client is gone, asking for it ends the process.
    """

    def __init__(self, context: _Context, actor: ActorInfo | None) -> None:
        self.began: Final = time.monotonic()
        self.actor: Final = actor
        self.messages_in = 0
        self.messages_out = 0
        self.context: Final = _CountedContext(context, self)
        self.ip: Final = _address_of(str(context.peer()))
        self.metadata: Final = [
            (name.encode(), value if isinstance(value, bytes) else value.encode("utf-8", "replace"))
            for name, value in context.invocation_metadata() or ()
        ]
        self._code: Final = context.code
        left_s = context.time_remaining()
        self._deadline: Final = None if left_s is None else self.began + left_s

    def status(self, error: BaseException | None) -> str:
        """Return the status that the call ends with, by name."""
        code = self._code()
        number = code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
        if number or error is None:
            return str(_STATUS_NAMES.get(number, number))
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            is_over = self._deadline is not None and time.monotonic() >= self._deadline
            return "DEADLINE_EXCEEDED" if is_over else "CANCELLED"
        return "UNKNOWN"

    def received(self, request: Any) -> object:  # noqa: ANN401 - grpc's
        """Return a call's request, or its stream, and count what it has."""
        if not hasattr(request, "__aiter__"):
            self.messages_in += 1
            return request
        return self._counted(request)

    async def _counted(self, requests: AsyncIterator[object]) -> AsyncIterator[object]:
        async for request in requests:
            self.messages_in += 1
            yield request


class _CountedContext:
    """A call's context, which counts what is read and written by it."""

    def __init__(self, context: _Context, call: _Call) -> None:
        self._context: Final = context
        self._call: Final = call

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - grpc's
        return getattr(self._context, name)

    async def read(self) -> object:
        """Read the next message of the client's stream."""
        request = await self._context.read()
        if request is not grpc.aio.EOF:
            self._call.messages_in += 1
        return request

    async def write(self, message: object) -> None:
        """Write a message of the answer's stream."""
        await self._context.write(message)
        self._call.messages_out += 1


def _bind(audit: AnyLogger, call: _Call) -> tuple[Token[Any], Token[Any], Token[Any]]:
    return audit_here.set(audit), bind_actor(call.actor), bind_context(**correlation_of(dict(call.metadata)))


def _unbind(tokens: tuple[Token[Any], Token[Any], Token[Any]]) -> None:
    log, actor, bound = tokens
    unbind_context(bound)
    unbind_actor(actor)
    audit_here.reset(log)


def _is_answer(error: BaseException) -> bool:
    """Return whether an exception is how a handler, or the client, ends a call: it is no fault of the service."""
    return isinstance(error, grpc.aio.AbortError | asyncio.CancelledError | GeneratorExit)


def _address_of(peer: str) -> str | None:
    """Return the address in `ipv4:203.0.113.9:50051` or `ipv6:%5B::1%5D:50051`; none of a Unix socket."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return None
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def _of_certificate(context: _Context) -> ActorInfo | None:
    """Return whom a client's certificate names, which the server has verified; None without one."""
    names = context.auth_context().get("x509_common_name") if context.peer_identities() else None
    if not names:
        return None
    return ActorInfo(user_id=names[0].decode("utf-8", "replace"), auth_method=AuthMethod.MTLS)


def _refuse_plain(method: str, behaviour: object) -> None:
    if not (inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)):
        raise ConfigError("handler", f"that of {method} is a plain function; make it a coroutine function")


async def _unimplemented(_: object, context: _Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
