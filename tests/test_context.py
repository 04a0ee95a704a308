"""Context: what is bound for a task stands beside its own events, harmless and bounded."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from audit_async import AuditConfig, AuditLogger, InvalidEvent
from audit_async._chain import check_record
from audit_async._redact.redactor import Redactor
from audit_async._sanitize.context_member import context_member
from audit_async._sanitize.unsafe_text import UNSAFE
from audit_async.config import Redaction
from audit_async.context import (
    MAX_BINDINGS,
    ContextValue,
    TraceParent,
    audit_context,
    bind_context,
    current_context,
    current_span,
    parse_traceparent,
    unbind_context,
)
from audit_async.events.recorded import decode_record
from tests.logs import ConfigFor, failure, log_directory, segment_lines
from tests.trails import check_trail, read_events


def contexts_of(config: AuditConfig) -> list[Mapping[str, Any] | None]:
    """Return the context of each event that was emitted, None where the record has none."""
    records = read_events(log_directory(config))
    return [record.get("context") for record in records if not record["event"]["event_type"].startswith("audit.")]


UNREDACTED = Redaction(enabled=False)


# -- binding --------------------------------------------------------------------------------------------------


def test_nested_bindings_add_up_and_the_inner_one_wins() -> None:
    """Each block sees its own and the outer bindings; behind it, also behind an error, the outer ones are back."""
    with audit_context(request_id="r", tenant="acme"):
        with pytest.raises(RuntimeError), audit_context(tenant="other", retry=2):
            assert current_context() == {"request_id": "r", "tenant": "other", "retry": 2}
            raise RuntimeError
        assert current_context() == {"request_id": "r", "tenant": "acme"}
    assert current_context() == {}


def test_bind_and_unbind_without_a_block() -> None:
    """`unbind_context` brings back what was bound before, and a token works once."""
    token = bind_context(a=1)
    inner = bind_context(b=None)
    assert current_context() == {"a": 1, "b": None}
    unbind_context(inner)
    unbind_context(token)
    assert current_context() == {}
    with pytest.raises(RuntimeError):
        unbind_context(token)


def test_a_binding_can_be_entered_again_and_in_itself() -> None:
    """One `audit_context` object may be used more than once, as a service may keep one for its tenant."""
    tenant = audit_context(tenant="acme")
    for _ in range(2):
        with tenant, tenant:
            assert current_context() == {"tenant": "acme"}
        assert current_context() == {}


def test_what_is_returned_cannot_be_changed() -> None:
    """`current_context()` is a view that changes nothing."""
    with audit_context(a=1), pytest.raises(TypeError):
        current_context()["a"] = 2  # type: ignore[index]  # that it can't be is the promise


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", object()), ("a", b"s3cr3t"), ("a", ["s3cr3t"]), ("a", {"d": "s3cr3t"}), ("a", float("nan")),
        ("a", float("inf")),
        ("a", 2**64), ("a", -(2**63) - 1), ("1a", 1), ("a b", 1), ("é", 1), ("a" * 65, 1), ("", 1), ("reduced", 1),
    ],
)  # fmt: skip
def test_what_cannot_be_bound_is_refused_by_name(name: str, value: Any) -> None:
    """Where it is bound, not where the next event is emitted; the value is never in the message."""
    with pytest.raises(InvalidEvent) as refused:
        audit_context(**{name: value})
    assert refused.value.event_type == "context"
    assert refused.value.field in {name, ""}
    assert "s3cr3t" not in str(refused.value)
    with pytest.raises(InvalidEvent):
        bind_context(**{name: value})
    assert current_context() == {}


def test_a_subclass_is_bound_as_what_it_is() -> None:
    """A text or number of a class of its own is taken as the plain value."""

    class Tenant(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "a lie"

    with audit_context(tenant=Tenant("acme")):
        assert type(current_context()["tenant"]) is str
        assert current_context() == {"tenant": "acme"}


def test_there_is_a_limit_to_bindings() -> None:
    """At most 32 names are bound at once, over all nested blocks, and the error leaves the outer ones in place."""
    with audit_context(**{f"a{n}": n for n in range(MAX_BINDINGS)}):
        with audit_context(a0="again"):
            pass
        with pytest.raises(InvalidEvent, match="one_more"), audit_context(one_more=1):
            pass
        assert len(current_context()) == MAX_BINDINGS


def test_a_generator_that_is_finished_elsewhere_does_no_harm() -> None:
    """A framework may begin a dependency in one context and finish it in another: no error, and nothing left over."""

    def dependency() -> Generator[None, None, None]:
        with audit_context(a=1):
            yield

    begun = dependency()
    contextvars.copy_context().run(next, begun)
    assert current_context() == {}
    begun.close()
    assert current_context() == {}


# -- in the records -------------------------------------------------------------------------------------------

in_a_loop = pytest.mark.anyio


@in_a_loop
async def test_the_context_stands_behind_the_event(config_for: ConfigFor) -> None:
    """The member `context` stands where the format says, is hashed, is read back, and is left out where nothing is."""
    config = config_for()
    async with AuditLogger(config) as audit:
        audit.emit(failure(0))
        with audit_context(request_id="7f3a", tenant=None, attempt=2, ratio=0.5, cached=True):
            audit.emit(failure(1))
        audit.emit(failure(2))
    bound = {"request_id": "7f3a", "tenant": None, "attempt": 2, "ratio": 0.5, "cached": True}
    assert contexts_of(config) == [None, bound, None]
    line = next(line for line in segment_lines(log_directory(config)) if b'"7f3a"' in line)
    assert list(json.loads(line)) == [
        "seq", "audit_id", "timestamp", "service_id", "event", "context", "prev_hash", "hash",
    ]  # fmt: skip
    assert decode_record(line).context == bound
    assert check_record(line, None).seq == 2
    check_trail(log_directory(config))


@in_a_loop
async def test_every_way_of_emitting_carries_the_context(config_for: ConfigFor) -> None:
    """`emit` and `emit_durable`, from the loop, a task begun inside, and threads that anyio or asyncio enter."""
    config = config_for()
    async with AuditLogger(config) as audit:

        async def in_task() -> None:
            audit.emit(failure(1))

        with audit_context(request_id="r"):
            audit.emit(failure(0))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_task)
            await audit.emit_durable(failure(2))
            await anyio.to_thread.run_sync(audit.emit, failure(3))
            await asyncio.to_thread(audit.emit, failure(4))
    assert contexts_of(config) == [{"request_id": "r"}] * 5


@in_a_loop
async def test_a_task_or_thread_of_its_own_has_its_own_context(config_for: ConfigFor) -> None:
    """What a task binds stays in it, and a bare thread begins with nothing unless it is given a copy of the context."""
    config = config_for()
    async with AuditLogger(config) as audit:
        both_bound = anyio.Event()

        async def request(n: int) -> None:
            with audit_context(request_id=n):
                if n:
                    both_bound.set()
                await both_bound.wait()
                audit.emit(failure(n))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request, 0)
            tasks.start_soon(request, 1)
        with audit_context(request_id="outer"):
            target: Callable[[], object]
            for target in (
                lambda: contextvars.Context().run(audit.emit, failure(2)),
                lambda: audit.emit(failure(3)),
            ):
                thread = threading.Thread(target=contextvars.copy_context().run, args=(target,))
                thread.start()
                await anyio.to_thread.run_sync(thread.join)
    assert sorted(map(str, contexts_of(config))) == sorted(
        map(str, [{"request_id": 0}, {"request_id": 1}, None, {"request_id": "outer"}])
    )


@in_a_loop
async def test_the_logs_own_events_have_no_context(config_for: ConfigFor) -> None:
    """`audit.*` events tell of the log and belong to no request, also where a request opens and closes it."""
    config = config_for()
    with audit_context(request_id="r"):
        async with AuditLogger(config) as audit:
            audit.emit(failure())
    records = read_events(log_directory(config))
    assert [record["event"]["event_type"] for record in records if "context" in record] == ["auth.failure"]
    assert len(records) == 3


@in_a_loop
async def test_what_is_unsafe_is_escaped_and_what_is_long_is_cut(config_for: ConfigFor) -> None:
    """A context's text is made harmless like an event's: visible escapes, a cut, and what was cut is listed."""
    config = config_for(max_field_chars=64)
    async with AuditLogger(config) as audit:
        with audit_context(request_id="\x1b[2J\u202e", agent="x" * 100, note='say "hi" \\ é'):
            audit.emit(failure())
    (context,) = contexts_of(config)
    assert context is not None
    assert context["request_id"] == "\\x1b[2J\\u202e"
    assert context["agent"] == "x" * 64
    assert context["note"] == 'say "hi" \\ é'
    assert context["reduced"]["agent"]["chars"] == 100
    assert list(context) == ["reduced", "request_id", "agent", "note"]
    check_trail(log_directory(config))


@in_a_loop
@pytest.mark.parametrize("value", ["\x1b[2J", "x" * 65, "\u202e"])
async def test_reject_refuses_an_unsafe_binding_at_emit(config_for: ConfigFor, value: str) -> None:
    """With on_unsafe="reject", `emit` names the binding and not its text; without that binding it goes on."""
    config = config_for(max_field_chars=64, on_unsafe="reject")
    async with AuditLogger(config) as audit:
        with audit_context(request_id="r"):
            with audit_context(agent=value):
                with pytest.raises(InvalidEvent) as refused:
                    audit.emit(failure())
                with pytest.raises(InvalidEvent):
                    await audit.emit_durable(failure())
                with pytest.raises(InvalidEvent):
                    await anyio.to_thread.run_sync(audit.emit, failure())
            audit.emit(failure())
    assert (refused.value.event_type, refused.value.field) == ("context", "agent")
    assert value not in str(refused.value)
    assert contexts_of(config) == [{"request_id": "r"}]


@in_a_loop
async def test_each_log_makes_its_own_text_of_a_binding(config_for: ConfigFor) -> None:
    """Two logs with other limits share a binding, and each records it by its own."""
    short, long = config_for(service_id="short", max_field_chars=64), config_for(service_id="long")
    with audit_context(agent="x" * 100):
        async with AuditLogger(short) as one, AuditLogger(long) as other:
            for _ in range(2):
                one.emit(failure())
                other.emit(failure())
    for config, length in ((short, 64), (long, 100)):
        for context in contexts_of(config):
            assert context is not None
            assert len(context["agent"]) == length


@in_a_loop
async def test_a_secret_in_the_context_is_taken_out(config_for: ConfigFor) -> None:
    """A binding is free-form: names and forms of secrets are redacted in it, by the configuration."""
    config, trusting = config_for(), config_for(service_id="trusting", redaction=UNREDACTED)
    with audit_context(api_key="k-1234567", link="https://u:hunter2@h/"):
        for each in (config, trusting):
            async with AuditLogger(each) as audit:
                audit.emit(failure())
    assert contexts_of(config) == [{"api_key": "[redacted:api_key]", "link": "https://u:[redacted:password]@h/"}]
    assert contexts_of(trusting) == [{"api_key": "k-1234567", "link": "https://u:hunter2@h/"}]


@in_a_loop
async def test_event_and_context_together_fit_in_the_largest_event(config_for: ConfigFor) -> None:
    """However large both are, a record takes at most max_event_bytes of the buffer: the smallest one never blocks."""
    config = config_for(max_event_bytes=1024, max_field_chars=1024, buffer_bytes=4096)
    sizes = []
    async with AuditLogger(config) as audit:
        with audit_context(agent="a" * 200):
            for length in range(500, 1000, 20):
                audit.emit(type(failure())(reason="x" * length, ip="203.0.113.9", path="/"))
                await audit.emit_durable(type(failure())(reason="é" * (length // 2), ip="203.0.113.9", path="/"))
        for length in (10, 700, 1000, 5000):
            with audit_context(**{f"agent{n}": "é" * length for n in range(MAX_BINDINGS)}), anyio.fail_after(60):
                await audit.emit_durable(failure())
                await audit.emit_durable(type(failure())(reason="x" * length, ip="203.0.113.9", path="/" * length))
    for line in segment_lines(log_directory(config)):
        event = line[line.index(b'"event":') + 8 : line.rindex(b',"prev_hash"')]
        sizes.append(len(event))
    assert max(sizes) <= 1024
    assert all(context is not None for context in contexts_of(config))
    check_trail(log_directory(config))


TEXT = st.text(st.characters(codec=None) | st.sampled_from('\x1b\x7f\u202e\ud800\\"é€😀'), max_size=2000)
VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,63}", fullmatch=True).filter(lambda name: name != "reduced")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    values=st.dictionaries(NAMES, VALUES | TEXT, min_size=1, max_size=MAX_BINDINGS),
    max_chars=st.integers(64, 2000),
    max_bytes=st.integers(256, 4096),
)
def test_any_binding_becomes_one_harmless_bounded_member(
    values: dict[str, ContextValue], max_chars: int, max_bytes: int
) -> None:
    """Whatever is bound: one member, JSON, no unsafe character, within both bounds; what is short is kept."""
    redactor = Redactor(UNREDACTED)
    made = context_member(values, redactor=redactor, on_unsafe="escape", max_field_chars=max_chars, max_bytes=max_bytes)
    assert made.startswith(b',"context":{')
    assert len(made) <= max_bytes
    context = json.loads(b"{" + made[1:] + b"}")["context"]
    assert b"\n" not in made
    for name, text in context.items():
        if isinstance(text, str):
            assert not UNSAFE.search(text)
            assert len(text) <= max_chars
            if "reduced" not in context and not UNSAFE.search(str(values[name])):
                assert text == values[name]


def test_reject_refuses_a_context_that_is_too_large() -> None:
    """With on_unsafe="reject" nothing is shortened: the error says how much there is and how much may be."""
    with pytest.raises(InvalidEvent, match="more than 256"):
        context_member(
            {f"a{n}": "x" * 60 for n in range(10)},
            redactor=Redactor(),
            on_unsafe="reject",
            max_field_chars=64,
            max_bytes=256,
        )


# -- traces ---------------------------------------------------------------------------------------------------

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-ff", f" 00-{TRACE}-{SPAN}-01\t",
     f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", f"fe-{TRACE}-{SPAN}-01-"],
)  # fmt: skip
def test_a_valid_traceparent_is_read(header: str) -> None:
    """Version 00, and any later one whose beginning is the same, as W3C Trace Context asks."""
    assert parse_traceparent(header) == parse_traceparent(header.encode()) == TraceParent(TRACE, SPAN)


@pytest.mark.parametrize(
    "header",
    ["", "00", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
     f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01",
     f"00-{TRACE[:-1]}-{SPAN}-01", f"00-{TRACE}-{SPAN}0-01", f"0-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01more",
     f"00-{TRACE}-{SPAN}-0g", f"00-{TRACE[:-1]}g-{SPAN}-01", f"00-{TRACE}-{SPAN}-01\n", f"00_{TRACE}_{SPAN}_01",
     f"00-{TRACE[:-1]}\u0663-{SPAN}-01", f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"],
)  # fmt: skip
def test_an_invalid_traceparent_is_none(header: str) -> None:
    """Whatever the specification calls invalid is no trace, and never an error."""
    assert parse_traceparent(header) is None


def test_the_current_span_of_opentelemetry_can_be_bound() -> None:
    """Inside a span its ids, as other tools write them; outside, and where no span is valid, nothing."""
    assert current_span() == {}
    with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
        ids = span.get_span_context()
        with audit_context(request_id="r", **current_span()):
            assert current_context() == {
                "request_id": "r",
                "trace_id": f"{ids.trace_id:032x}",
                "span_id": f"{ids.span_id:016x}",
            }
    with trace.use_span(trace.INVALID_SPAN):
        assert current_span() == {}
