"""`emit`, the `emit` of other threads, `emit_durable` and what integrations encode themselves: four ways to one record.

They repeat each other's steps on purpose, for speed; so whatever they are given, they have to agree.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async import AuditConfig, AuditError, AuditEvent, AuditLogger, BufferFull, Local, Receipt, audit_context
from audit_async._writer.buffer import Outlet
from audit_async._writer.encoder import is_plain
from audit_async._writer.home_loop import HomeLoop
from audit_async._writer.receipts import Acknowledgements
from audit_async.config import Privacy, Redaction
from audit_async.events import ActorInfo, AuthFailure, HttpRequest, ModelAccessed, PoolModified
from audit_async.events.base import encode
from audit_async.privacy.sealer import Sealer
from tests.privacy.key_stores import make_store, open_store

Way = Callable[[AuditLogger, AuditEvent], Receipt]


def emit_durably(audit: AuditLogger, event: AuditEvent) -> Receipt:
    """Do what `emit_durable` does before it waits; if it waits for room, that is an answer, too."""
    coroutine = audit._intake.emit_durably(event)
    try:
        coroutine.send(None)
    except StopIteration as end:
        receipt: Receipt = end.value
        return receipt
    coroutine.close()
    raise BufferFull("it waits for room")


def prepared(encoded: bytes) -> Way:
    """Return the way of integrations that have encoded an event; what is not taken so is emitted."""

    def emit(audit: AuditLogger, event: AuditEvent) -> Receipt:
        if not audit._intake.emit_prepared(type(event), encoded):
            return audit.emit(event)
        assert audit._buffer.chunk is not None
        return audit._buffer.chunk[-1]

    return emit


WAYS: dict[str, Way] = {
    "here": lambda audit, event: audit.emit(event),
    "elsewhere": lambda audit, event: audit._intake.emit_elsewhere(event),
    "durable": emit_durably,
}


#: In a log that seals: a subject has one key a session and day; nonce, ciphertext and commitment are new each time, and
#: so is the digest of sealed members that were too large.
RANDOM = re.compile(rb'(sealed:1:[A-Za-z0-9_-]{22}):[^"]*|("sha256":")[0-9a-f]{64}')


class Outcome(NamedTuple):
    """What came of one way."""

    recorded: bytes  #: without what is random in it
    error: str
    events: int  #: of the buffer, that it takes
    bytes: int
    dropped: int


def outcome_of(way: Way, audit: AuditLogger, event: AuditEvent) -> Outcome:
    """Go one way and say what has changed."""
    buffer, dropped = audit._buffer, audit._intake.drops.total
    buffer.empty_inbox()
    events, bytes_, recorded, error = buffer.held_events, buffer.held_bytes, b"", ""
    try:
        recorded = way(audit, event).event
        if audit.config.privacy is not None:
            recorded = RANDOM.sub(rb"\1\2", recorded)
    except AuditError as refusal:
        error = type(refusal).__name__ if isinstance(refusal, BufferFull) else repr(refusal)
    return Outcome(
        recorded,
        error,
        buffer.held_events - events,
        buffer.held_bytes - bytes_,
        audit._intake.drops.total - dropped,
    )


def opened_in_memory(config: AuditConfig, sealer: Callable[[AuditLogger], Sealer] | None = None) -> AuditLogger:
    """Return a logger that takes events of the running loop, and that nobody writes."""
    audit = AuditLogger(config)
    if sealer is not None:
        audit._encoder.seal_with(sealer(audit))
    acknowledgements = Acknowledgements(HomeLoop(), "0123456789abcdef", -1)
    audit._intake.open(acknowledgements, Outlet(lambda chunk: None, lambda: None), critical_at_once=True)
    return audit


#: What one of the checks is there for; the last ones are as long as an event may be that is not looked into, or longer.
HARD = [
    *("", "plain", "sealed:1:x", "\x1b[2J", "\u202eevil", "\ud800", "a\\b", "\x7f", "\x80", '"', "password=x " * 9),
    *("x" * length for length in (*range(1900, 2060, 10), 4096, 4097, 70000)),
]
TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(HARD), st.integers(60, 4000).map(lambda count: "x" * count))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)
EVENTS = st.one_of(
    st.builds(AuthFailure, attempted_user=st.none() | TEXTS, reason=TEXTS, ip=TEXTS, path=TEXTS),
    st.builds(ModelAccessed, customer_id=TEXTS, model_ref=TEXTS, access_type=TEXTS),
    st.builds(
        PoolModified,
        actor=st.builds(ActorInfo, user_id=TEXTS, ip=st.none() | TEXTS),
        pool_id=TEXTS,
        changes=st.dictionaries(TEXTS | st.just("password"), VALUES, max_size=4),
    ),
    st.builds(
        HttpRequest,
        method=st.just("GET"),
        path=TEXTS,
        duration_ms=st.just(1),
        bytes_in=st.just(0),
        bytes_out=st.just(0),
    ),
)
CONTEXTS = st.none() | st.dictionaries(
    st.sampled_from(["request_id", "user_id", "tenant", "note"]),
    st.one_of(TEXTS, st.integers(-5, 5), st.just("7f3a41c29d0e4b5f8a6c1d2e3f405162")),
    min_size=1,
)
SETTINGS = st.builds(
    lambda limits, **others: {"max_field_chars": limits[0], "max_event_bytes": limits[1]} | others,
    limits=st.sampled_from([(64, 1024), (1024, 1024), (4096, 65536)]),
    on_unsafe=st.sampled_from(["escape", "reject"]),
    redaction=st.sampled_from([Redaction(), Redaction(enabled=False)]),
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Privacy, Any]]:
    """Give the settings of a log that seals, and its key store."""
    path = make_store(tmp_path_factory.mktemp("ways"))
    store = open_store(path)
    privacy = Privacy(
        key_store=str(path), master_key=f"file:{path.parent / 'master.key'}", context=("user_id:user", "note")
    )
    yield privacy, store
    store.close()


def check_that_the_ways_agree(audit: AuditLogger, event: AuditEvent, context: dict[str, Any] | None) -> None:
    """Compare all ways in this context."""
    with ExitStack() as stack:
        if context is not None:
            stack.enter_context(audit_context(**context))
        found = {name: outcome_of(way, audit, event) for name, way in WAYS.items()}
        if isinstance(event, HttpRequest) and event.path.isascii() and is_plain(encoded := encode(event)):
            found["prepared"] = outcome_of(prepared(encoded), audit, event)
    assert len(set(found.values())) == 1, found


@pytest.mark.skipif("sys.platform != 'linux'", reason="key stores are kept on Linux")
@settings(max_examples=100)
@given(events=st.lists(EVENTS, min_size=1, max_size=3), context=CONTEXTS, given_settings=SETTINGS, seals=st.booleans())
def test_all_ways_make_the_same_record_or_refuse_it_alike(
    keys: tuple[Privacy, Any],
    events: list[AuditEvent],
    context: dict[str, Any] | None,
    given_settings: dict[str, Any],
    seals: bool,
) -> None:
    """The same bytes, the same error, the same room in the buffer; whatever the settings are."""
    privacy, store = keys
    config = AuditConfig(
        mode=Local(Path("/nowhere")), service_id="orders", privacy=privacy if seals else None, **given_settings
    )

    def sealer(audit: AuditLogger) -> Sealer:
        changed = audit._encoder.forget_context_texts
        return Sealer(privacy, store, "0" * 32, epoch=store.epoch(), changed=changed)

    async def compare() -> None:
        audit = opened_in_memory(config, sealer if seals else None)
        for event in events:
            check_that_the_ways_agree(audit, event, context)

    asyncio.run(compare())


@pytest.mark.parametrize("context", [None, {"request_id": "7f3a41c29d0e4b5f8a6c1d2e3f405162", "note": "\x7f"}])
def test_all_ways_agree_on_what_each_check_is_for(context: dict[str, Any] | None) -> None:
    """Each hard text in an ordinary event, a critical one, and one that integrations encode themselves."""

    async def compare() -> None:
        audit = opened_in_memory(AuditConfig(mode=Local(Path("/nowhere")), service_id="orders"))
        for text in HARD:
            for event in (
                ModelAccessed(customer_id="c", model_ref=text, access_type="r"),
                AuthFailure(reason="r", ip="192.0.2.1", path=text),
                HttpRequest(method="GET", path=text, duration_ms=1, bytes_in=0, bytes_out=0),
            ):
                check_that_the_ways_agree(audit, event, context)

    asyncio.run(compare())


@pytest.mark.parametrize("filled", [8, 9, 10])
@pytest.mark.parametrize("event", [ModelAccessed(customer_id="c", model_ref="m", access_type="r"),
                                   AuthFailure(reason="r", ip="192.0.2.1", path="/")])  # fmt: skip
@pytest.mark.parametrize("bound", ["events", "bytes"])
def test_all_ways_have_the_same_room(filled: int, event: AuditEvent, bound: str) -> None:
    """Nine tenths for ordinary events, all of it for critical ones; a refusal counts once, and takes no room."""

    async def compare() -> None:
        audit = opened_in_memory(AuditConfig(mode=Local(Path("/nowhere")), service_id="orders"))
        bounds = audit._buffer.bounds
        left = (10 - filled) / 10
        if bound == "events":
            audit._buffer.free_events = int(bounds.events * left) - (bounds.events - bounds.ordinary_events)
        else:
            audit._buffer.free_bytes = int(bounds.bytes * left) - (bounds.bytes - bounds.ordinary_bytes)
        found = {}
        for name, way in WAYS.items():
            events, bytes_ = audit._buffer.free_events, audit._buffer.free_bytes
            found[name] = outcome_of(way, audit, event)
            audit._buffer.free_events, audit._buffer.free_bytes = events, bytes_
        is_refused = filled == 10 or (filled == 9 and not type(event).critical)
        assert (found["here"].error == "BufferFull") is is_refused
        assert found["here"] == found["elsewhere"]
        # One that waits for room is no loss.
        assert found["durable"] == found["here"]._replace(dropped=0)

    asyncio.run(compare())


@pytest.mark.parametrize("name", WAYS)
def test_a_critical_event_is_urgent_whichever_way_it_comes(name: str) -> None:
    """So hybrid mode makes it durable at once; an ordinary one only if somebody waits for it."""

    async def compare() -> None:
        for event, is_critical in (
            (ModelAccessed(customer_id="c", model_ref="m", access_type="r"), False),
            (AuthFailure(reason="r", ip="192.0.2.1", path="/"), True),
        ):
            audit = opened_in_memory(AuditConfig(mode=Local(Path("/nowhere")), service_id="orders"))
            WAYS[name](audit, event)
            audit._buffer.empty_inbox()
            assert audit._buffer.chunk_is_urgent is (is_critical or name == "durable")

    asyncio.run(compare())
