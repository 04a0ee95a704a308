"""`AuditInterceptor`: calls of a real grpc.aio server, made by a real client over loopback."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest

from audit_async import ActorInfo, AuditLogger, ConfigError, current_actor, get_audit
from audit_async.integrations.grpc import AuditInterceptor
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio's own loop, which grpc.aio is made for."""
    return "asyncio"


def recorded(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the records but the log's own, after an independent check of the whole."""
    check_trail(log_directory(config_for()))
    records = read_events(log_directory(config_for()))
    return [record for record in records if not record["event"]["event_type"].startswith("audit.")]


def calls(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the recorded calls."""
    return [record["event"] for record in recorded(config_for) if record["event"]["event_type"] == "rpc.ended"]


async def refund(request: bytes, context: Any) -> bytes:
    """Answer one message with one; emit an event on behalf of whoever calls."""
    if request == b"missing":
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
    if request == b"quiet":
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
    if request == b"broken":
        raise KeyError("hunter2")
    if request == b"slow":
        await asyncio.sleep(600)
    if request == b"actor":
        actor = current_actor()
        get_audit().emit(Counted(producer="" if actor is None else actor.user_id, n=1))
    return b"refunded " + request


async def collect(requests: AsyncIterator[bytes], _: Any) -> bytes:
    """Answer a stream with one message."""
    return b"+".join([request async for request in requests])


async def count(request: bytes, _: Any) -> AsyncIterator[bytes]:
    """Answer one message with a stream."""
    for number in range(int(request)):
        yield str(number).encode()


async def echo(_: object, context: Any) -> None:
    """Answer a stream with a stream, by reading and writing."""
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request)


HANDLERS = {
    "Refund": grpc.unary_unary_rpc_method_handler(refund),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Plain": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
}


@asynccontextmanager
async def served(interceptor: AuditInterceptor) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a server with this interceptor."""
    server = grpc.aio.server(interceptors=[interceptor])
    for service in ("shop.Orders", "grpc.health.v1.Health"):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(5)


def count_of_minutes() -> Iterator[float]:
    """Yield the times of a clock on which a minute passes between any two looks."""
    return itertools.count(time.monotonic(), 60)


async def _all_of(stream: Any) -> list[bytes]:
    return [answer async for answer in stream]


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    """Return the status that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_calls_of_every_kind_are_recorded_with_what_passed(config_for: ConfigFor) -> None:
    """One record for each call, with its status, the peer's address and the number of messages both ways."""
    async with AuditLogger(config_for()) as audit, served(AuditInterceptor(audit)) as channel:
        assert await channel.unary_unary("/shop.Orders/Refund")(b"7") == b"refunded 7"
        assert await channel.stream_unary("/shop.Orders/Collect")(iter([b"a", b"b", b"c"])) == b"a+b+c"
        assert [answer async for answer in channel.unary_stream("/shop.Orders/Count")(b"4")] == [b"0", b"1", b"2", b"3"]
        assert [answer async for answer in channel.stream_stream("/shop.Orders/Echo")(iter([b"x", b"y"]))] == [
            b"x",
            b"y",
        ]
    found = calls(config_for)
    assert [(call["method"], call["status"], call["messages_in"], call["messages_out"]) for call in found] == [
        ("/shop.Orders/Refund", "OK", 1, 1),
        ("/shop.Orders/Collect", "OK", 3, 1),
        ("/shop.Orders/Count", "OK", 1, 4),
        ("/shop.Orders/Echo", "OK", 2, 2),
    ]
    assert {call["ip"] for call in found} == {"127.0.0.1"}
    assert not any("actor" in call or "error" in call or "metadata" in call for call in found)


async def test_what_does_not_end_well_is_recorded_as_the_client_sees_it(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of the handler's, an exception by its class, a deadline, a client that goes away, an unknown method."""
    # gRPC sends a deadline rounded up, so that the client's cancellation may come before it has passed here.
    monkeypatch.setattr("audit_async.integrations.grpc.time", SimpleNamespace(monotonic=count_of_minutes().__next__))
    async with AuditLogger(config_for()) as audit, served(AuditInterceptor(audit)) as channel:
        call: Callable[..., Any] = channel.unary_unary("/shop.Orders/Refund")
        seen = [await code_of(call(request)) for request in (b"missing", b"quiet", b"broken")]
        seen.append(await code_of(call(b"slow", timeout=2)))  # a call whose time is over before it arrives is none
        seen.append(await code_of(channel.unary_unary("/shop.Orders/Nothing")(b"")))
        stream = channel.unary_stream("/shop.Orders/Count")(b"1000000")
        assert await stream.read() == b"0"
        stream.cancel()
        with anyio.fail_after(60):
            while audit.stats().records < 7:
                await asyncio.sleep(0.02)
    found = calls(config_for)
    statuses = ["NOT_FOUND", "FAILED_PRECONDITION", "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"]
    assert [code.name for code in seen] == statuses
    assert sorted(call["status"] for call in found) == sorted([*statuses, "CANCELLED"])
    assert [call.get("error") for call in found if call["status"] == "UNKNOWN"] == ["KeyError"]
    assert sum("error" in call for call in found) == 1
    assert "hunter2" not in str(found)


async def test_who_calls_is_who_the_service_says(config_for: ConfigFor) -> None:
    """The function is asked once; what the handler emits has the same actor and id as the record of the call."""
    asked: list[object] = []

    def actor(context: Any) -> ActorInfo | str | None:
        asked.append(context)
        return dict(context.invocation_metadata()).get("user")

    token = ("authorization", "Bearer abcdefgh12345678")
    metadata = (("user", "dana"), ("x-request-id", "r-1"), token, ("x-team", "a"))
    chosen = ["X-Team", "authorization"]
    async with (
        AuditLogger(config_for()) as audit,
        served(AuditInterceptor(audit, actor=actor, metadata=chosen)) as channel,
    ):
        await channel.unary_unary("/shop.Orders/Refund")(b"actor", metadata=metadata)
    own, call = recorded(config_for)
    assert own["event"]["producer"] == "dana"
    assert own["context"] == call["context"] == {"request_id": "r-1"}
    assert call["event"]["actor"] == {"user_id": "dana"}
    assert sorted(call["event"]["metadata"]) == ["authorization: [redacted:authorization]", "x-team: a"]
    assert len(asked) == 1


async def test_an_actor_that_can_t_be_found_loses_no_record(config_for: ConfigFor) -> None:
    """The call is recorded without it, and the log counts that."""

    def actor(_: Any) -> ActorInfo:
        raise LookupError("hunter2")

    async with AuditLogger(config_for()) as audit, served(AuditInterceptor(audit, actor=actor)) as channel:
        assert await channel.unary_unary("/shop.Orders/Refund")(b"7") == b"refunded 7"
        assert audit.stats().dropped_by_type == {"rpc.ended": 1}
    [call] = calls(config_for)
    assert "actor" not in call


async def test_fail_closed_answers_what_can_t_be_recorded_with_unavailable(config_for: ConfigFor) -> None:
    """No log, and a closed one: the handler does not run."""
    for fail_closed, code in ((True, grpc.StatusCode.UNAVAILABLE), (False, grpc.StatusCode.OK)):
        async with AuditLogger(config_for()) as closed:
            pass
        for source in (lambda: None, closed):
            interceptor = AuditInterceptor(source, fail_closed=fail_closed)
            async with served(interceptor) as channel:
                assert await code_of(channel.unary_unary("/shop.Orders/Refund")(b"7")) == code
                assert await code_of(_all_of(channel.unary_stream("/shop.Orders/Count")(b"2"))) == code


async def test_the_health_service_is_not_recorded(config_for: ConfigFor) -> None:
    """Unless the service wants it."""
    async with AuditLogger(config_for()) as audit:
        async with served(AuditInterceptor(audit)) as channel:
            await channel.unary_unary("/grpc.health.v1.Health/Refund")(b"7")
        async with served(AuditInterceptor(audit, skip=["/shop."])) as channel:
            await channel.unary_unary("/grpc.health.v1.Health/Refund")(b"7")
            await channel.unary_unary("/shop.Orders/Refund")(b"7")
    assert [call["method"] for call in calls(config_for)] == ["/grpc.health.v1.Health/Refund"]


async def test_a_plain_function_is_refused(config_for: ConfigFor) -> None:
    """It would stop the server's loop while it runs; it is not served unrecorded instead."""
    async with AuditLogger(config_for()) as audit, served(AuditInterceptor(audit)) as channel:
        assert await code_of(channel.unary_unary("/shop.Orders/Plain")(b"7")) != grpc.StatusCode.OK


def test_wrong_arguments_are_refused() -> None:
    """When the interceptor is made."""
    with pytest.raises(ConfigError, match=r"^audit: "):
        AuditInterceptor("audit")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"^actor: "):
        AuditInterceptor(lambda: None, actor="dana")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"^metadata: "):
        AuditInterceptor(lambda: None, metadata="x-team")


def test_a_server_with_threads_says_that_it_is_not_supported(caplog: pytest.LogCaptureFixture) -> None:
    """Its calls fail, each with the reason in the log; the thread that serves all of them goes on."""
    handler = grpc.method_handlers_generic_handler(
        "Shop", {"Refund": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    )
    server = grpc.server(ThreadPoolExecutor(1), interceptors=[AuditInterceptor(lambda: None)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary("/Shop/Refund")(b"17", timeout=60, wait_for_ready=True)
                assert refused.value.code() is grpc.StatusCode.UNKNOWN
    finally:
        server.stop(0).wait(60)
    assert "grpc.aio.server" in caplog.text
