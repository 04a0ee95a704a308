"""The trail end to end: what is emitted is on the disk, once, in order, chained, when the log says so."""

from __future__ import annotations

import ipaddress
import json
import os
from collections import defaultdict
from pathlib import Path
from threading import Thread

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_async import (
    ActorInfo,
    AuditConfig,
    AuditEvent,
    AuditLogger,
    AuthMethod,
    Batched,
    BufferFull,
    Disabled,
    HealthStatus,
    Hybrid,
    Immediate,
    InvalidEvent,
    Local,
    LogLocked,
    Receipt,
)
from audit_async._sanitize.unsafe_text import UNSAFE
from audit_async.config import FlushMode
from audit_async.events import AuditLogClosed, AuthFailure, PoolModified
from audit_async.events.base import encode
from tests.logs import ConfigFor, Counted, failure, log_directory, segment_lines
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio

ALL_MODES = [
    pytest.param(Immediate(), id="immediate"),
    pytest.param(Batched(size=100, interval=1.0), id="batched"),
    pytest.param(Hybrid(), id="hybrid"),
]


async def test_the_example_of_the_design(config_for: ConfigFor) -> None:
    """An event is in the trail, durable, with the audit_id that its receipt named and the position it gave."""
    config = config_for()
    async with AuditLogger(config) as audit:
        receipt = audit.emit(failure())
        position = await receipt.durable()
        assert receipt.is_durable
        await audit.flush()
    opened, record, closed = read_events(log_directory(config))
    assert opened["event"]["event_type"] == "audit.log_opened"
    assert closed["event"]["event_type"] == "audit.log_closed"
    assert record["event"] == {
        "event_type": "auth.failure",
        "attempted_user": "mallory",
        "reason": "bad_password",
        "ip": "203.0.113.9",
        "path": "/login/0",
    }
    assert (record["audit_id"], record["seq"], record["hash"]) == (receipt.audit_id, position.seq, position.hash)
    check_trail(log_directory(config))


@pytest.mark.parametrize("flush_mode", ALL_MODES)
async def test_all_that_was_emitted_is_there_after_the_end(config_for: ConfigFor, flush_mode: FlushMode) -> None:
    """Leaving the context manager drains: nothing that `emit` took is missing, in its order."""
    config = config_for(flush_mode=flush_mode)
    async with AuditLogger(config) as audit:
        for n in range(3000):
            audit.emit(Counted(producer="one", n=n))
    records = read_events(log_directory(config))
    assert [record["event"]["n"] for record in records if "n" in record["event"]] == list(range(3000))
    check_trail(log_directory(config))


async def test_the_event_is_as_it_was_when_emitted(config_for: ConfigFor) -> None:
    """`emit` takes a snapshot: a dict that is changed afterwards changes nothing in the record."""
    config = config_for()
    changes = {"replicas": 2}
    actor = ActorInfo(user_id="ada", ip=ipaddress.ip_address("2001:db8::1"), auth_method=AuthMethod.API_KEY)
    async with AuditLogger(config) as audit:
        audit.emit(PoolModified(actor=actor, pool_id="p1", changes=changes))
        changes["replicas"] = 99
    (record,) = (each for each in read_events(log_directory(config)) if each["event"]["event_type"] == "pool.modified")
    assert record["event"]["changes"] == {"replicas": 2}
    assert record["event"]["actor"]["ip"] == "2001:db8::1"


async def test_a_log_goes_on_where_it_ended(config_for: ConfigFor) -> None:
    """A restart continues the chain: no gap in seq, every link holds, no audit_id is given twice."""
    config = config_for()
    receipts: list[Receipt] = []
    for _ in range(3):
        async with AuditLogger(config) as audit:
            receipts += [audit.emit(failure(n)) for n in range(10)]
    records = read_events(log_directory(config))
    assert [record["seq"] for record in records] == list(range(3 * 12))
    assert len({record["audit_id"] for record in records}) == len(records)
    assert {receipt.audit_id for receipt in receipts} < {record["audit_id"] for record in records}
    check_trail(log_directory(config))


async def test_a_log_has_one_writer(config_for: ConfigFor) -> None:
    """A second writer of a named instance is refused with the pid of the first, and works once that is closed."""
    config = config_for(instance="blue")
    async with AuditLogger(config):
        with pytest.raises(LogLocked, match=str(os.getpid())):
            await AuditLogger(config).start()
    async with AuditLogger(config) as audit:
        audit.emit(failure())
    check_trail(log_directory(config, "blue"))


async def test_unnamed_writers_each_get_a_chain(config_for: ConfigFor) -> None:
    """Without a name each further writer takes the next free slot, and a restart carries the slots on."""
    config = config_for()
    for _ in range(2):
        async with AuditLogger(config) as first, AuditLogger(config) as second:
            first.emit(failure(1))
            second.emit(failure(2))
    for instance, path in (("00", "/login/1"), ("01", "/login/2")):
        records = read_events(log_directory(config, instance))
        assert [r["event"]["path"] for r in records if "path" in r["event"]] == [path, path]
        check_trail(log_directory(config, instance))


async def test_many_tasks_and_threads_at_once(config_for: ConfigFor) -> None:
    """100 tasks and 8 threads emit 50,000 events, ten buffers full: each is there once, in each producer's order."""
    config = config_for(buffer_events=5_000, buffer_bytes=64 << 20)
    tasks, threads, each = 100, 8, 463
    assert (tasks + threads) * each > 50_000

    async with AuditLogger(config) as audit:

        async def produce(producer: str) -> None:
            for n in range(each):
                while True:
                    try:
                        audit.emit(Counted(producer=producer, n=n))
                        break
                    except BufferFull:
                        await checkpoint()
                if n % 50 == 0:
                    await checkpoint()

        def produce_in_thread(producer: str) -> None:
            for n in range(each):
                while True:
                    try:
                        audit.emit(Counted(producer=producer, n=n))
                        break
                    except BufferFull:
                        anyio.from_thread.run(checkpoint)

        async with anyio.create_task_group() as group:
            for i in range(threads):
                group.start_soon(anyio.to_thread.run_sync, produce_in_thread, f"thread{i}")
            for i in range(tasks):
                group.start_soon(produce, f"task{i}")

    recorded: defaultdict[str, list[int]] = defaultdict(list)
    audit_ids = set()
    for line in segment_lines(log_directory(config)):
        record = json.loads(line)
        audit_ids.add(record["audit_id"])
        if record["event"]["event_type"] == "test.counted":
            recorded[record["event"]["producer"]].append(record["event"]["n"])
    assert len(recorded) == tasks + threads
    assert all(ns == list(range(each)) for ns in recorded.values())
    assert len(audit_ids) == record["seq"] + 1
    check_trail(log_directory(config))


@pytest.mark.parametrize("way", ["emit", "emit_prepared"])
async def test_what_a_thread_did_before_stands_before(config_for: ConfigFor, way: str) -> None:
    """An event from a thread that has ended stands before what the loop emits next, though the loop had no turn.

    So an event of an endpoint that runs in a thread stands before its request, which integrations encode themselves.
    """
    config = config_for()
    async with AuditLogger(config) as audit:
        for n in range(100):
            thread = Thread(target=audit.emit, args=(Counted(producer="thread", n=n),))
            thread.start()
            thread.join()
            event = Counted(producer="loop", n=n)
            if way == "emit":
                audit.emit(event)
            else:
                assert audit._intake.emit_prepared(Counted, encode(event))
    counted = [r["event"] for r in read_events(log_directory(config)) if r["event"]["event_type"] == "test.counted"]
    assert [(e["producer"], e["n"]) for e in counted] == [(p, n) for n in range(100) for p in ("thread", "loop")]


async def test_what_the_log_itself_records_comes_after_what_a_thread_did_before(config_for: ConfigFor) -> None:
    """Who reads has seen what threads had emitted by then, so the record of it may not be before theirs."""
    config = config_for()
    async with AuditLogger(config) as audit:
        for n in range(10):
            thread = Thread(target=audit.emit, args=(Counted(producer="thread", n=n),))
            thread.start()
            thread.join()
            audit.record_access("olga", {"n": n})
    order = [r["event"].get("n", r["event"].get("query", {}).get("n")) for r in read_events(log_directory(config))]
    assert [n for n in order if n is not None] == [n for n in range(10) for _ in range(2)]
    types = [r["event"]["event_type"] for r in read_events(log_directory(config))]
    assert types[1:-1] == ["test.counted", "audit.log_accessed"] * 10


async def test_a_thread_can_emit_while_the_loop_is_busy(config_for: ConfigFor) -> None:
    """`emit` in a thread does not wait for the loop: it returns while the loop's thread is blocked."""
    config = config_for()
    async with AuditLogger(config) as audit:
        receipts: list[Receipt] = []
        thread = Thread(target=lambda: receipts.extend(audit.emit(failure(n)) for n in range(500)))
        thread.start()
        thread.join()  # blocks the loop for as long as the thread takes
        assert len(receipts) == 500
        assert not any(receipt.is_durable for receipt in receipts)
        await receipts[-1].durable()
        assert all(receipt.is_durable for receipt in receipts)


async def test_a_receipt_can_be_awaited_on_another_loop(config_for: ConfigFor) -> None:
    """`durable()`, `emit_durable` and `flush` work on any thread's event loop, not only the log's own."""
    config = config_for()
    async with AuditLogger(config) as audit:
        early = audit.emit(failure(0))

        async def elsewhere() -> int:
            await early.durable()
            await audit.emit(failure(1)).durable()
            await audit.flush()
            return (await audit.emit_durable(failure(2))).seq

        assert await anyio.to_thread.run_sync(anyio.run, elsewhere) == 3


async def test_giving_up_on_a_receipt_harms_nothing(config_for: ConfigFor) -> None:
    """Cancelling one who waits for durability neither stops the record nor the others who wait for it."""
    config = config_for(flush_mode=Batched(size=1000, interval=30.0))
    async with AuditLogger(config) as audit:
        receipt = audit.emit(failure())
        async with anyio.create_task_group() as group:
            group.start_soon(receipt.durable)
            with anyio.move_on_after(0.01):
                await receipt.durable()
            assert not receipt.is_durable
            await audit.flush()
        assert receipt.is_durable


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({"event_type": "auth.failure"}, id="a dict"),
        pytest.param("auth.failure", id="a text"),
        pytest.param(None, id="nothing"),
        pytest.param(AuditLogClosed(), id="the log's own event"),
    ],
)
@pytest.mark.parametrize("from_thread", [False, True], ids=["loop", "thread"])
async def test_what_is_no_event_is_refused_at_the_caller(
    config_for: ConfigFor, event: AuditEvent, from_thread: bool
) -> None:
    """Only events get into the trail, and nobody but the log can emit `audit.*`: its end can't be forged."""
    config = config_for()
    async with AuditLogger(config) as audit:
        with pytest.raises(InvalidEvent):
            await anyio.to_thread.run_sync(audit.emit, event) if from_thread else audit.emit(event)
        audit.emit(failure())
    assert [r["event"]["event_type"] for r in read_events(log_directory(config))] == [
        "audit.log_opened",
        "auth.failure",
        "audit.log_closed",
    ]


async def test_every_naughty_string_is_recorded_and_harmless(
    config_for: ConfigFor, naughty_strings: list[str], tmp_path: Path
) -> None:
    """No text can break a line, the chain or a terminal, or keep the log from opening again."""
    config = config_for()
    nasty = [
        *naughty_strings,
        "\u2028",
        "\u0085",
        "\ud800",
        "\r\n",
        "\x1b[2J",
        "\u202egpj.exe",
        "a\x00b",
        "\x7f",
        "\ufeff",
    ]
    async with AuditLogger(config) as audit:
        for text in nasty:
            audit.emit(AuthFailure(attempted_user=text, reason=text, ip="203.0.113.9", path=text))
            audit.emit(PoolModified(actor=actor(), pool_id=text, changes={text: [text, {"k": text}]}))
    lines = segment_lines(log_directory(config))
    assert len(lines) == 2 + 2 * len(nasty)
    unsafe = set(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x200B, 0x2028, 0x2029, 0x202E, 0x2066, 0xFEFF])) - {
        "\n",
        "\t",
    }
    for line in lines:
        texts: list[str] = []
        collect_texts(json.loads(line.decode()), texts)
        assert not any(unsafe & set(text) for text in texts)
    check_trail(log_directory(config))
    async with AuditLogger(config) as audit:
        audit.emit(failure())
    check_trail(log_directory(config))


def collect_texts(value: object, texts: list[str]) -> None:
    """Append every text in decoded JSON, keys included."""
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, dict):
        for key, member in value.items():
            collect_texts(key, texts)
            collect_texts(member, texts)
    elif isinstance(value, list):
        for member in value:
            collect_texts(member, texts)


def actor() -> ActorInfo:
    """Return somebody."""
    return ActorInfo(user_id="ada", auth_method=AuthMethod.BEARER_TOKEN)


@pytest.mark.parametrize("from_thread", [False, True], ids=["loop", "thread"])
async def test_free_form_values_that_json_cannot_hold_are_not_lost(config_for: ConfigFor, from_thread: bool) -> None:
    """NaN, infinities and huge integers are recorded as readable text, not silently as null."""
    config = config_for()
    changes = {"nan": float("nan"), "inf": float("-inf"), "huge": 10**400, "nested": [{"deep": float("inf")}]}
    event = PoolModified(actor=actor(), pool_id="p", changes=changes)
    async with AuditLogger(config) as audit:
        await anyio.to_thread.run_sync(audit.emit, event) if from_thread else audit.emit(event)
    recorded = read_events(log_directory(config))[1]["event"]["changes"]
    assert recorded == {"nan": "NaN", "inf": "-Infinity", "huge": str(10**400), "nested": [{"deep": "Infinity"}]}


@pytest.mark.parametrize("from_thread", [False, True], ids=["loop", "thread"])
async def test_reject_mode_names_the_field_and_never_the_text(config_for: ConfigFor, from_thread: bool) -> None:
    """With on_unsafe="reject" the caller learns which field and why; the trail stays as it was."""
    async with AuditLogger(config_for(on_unsafe="reject")) as audit:
        event = AuthFailure(attempted_user="mal\x1b[2Jlory", reason="r", ip="203.0.113.9", path="/")
        with pytest.raises(InvalidEvent, match="attempted_user") as caught:
            await anyio.to_thread.run_sync(audit.emit, event) if from_thread else audit.emit(event)
        assert "mal" not in str(caught.value)
        assert (await audit.emit_durable(failure())).seq == 1


async def test_a_disabled_logger_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Disabled()` has the whole interface, keeps no promise and makes none, and leaves the disk alone."""
    monkeypatch.chdir(tmp_path)
    async with AuditLogger(AuditConfig(mode=Disabled())) as audit:
        receipt = audit.emit(failure())
        assert not receipt.is_durable
        assert (await receipt.durable()).seq == (await audit.emit_durable(failure())).seq == -1
        await audit.flush()
        assert audit.health().status is HealthStatus.DISABLED
    assert not list(tmp_path.iterdir())


async def test_stats_and_health_say_what_is_so(config_for: ConfigFor) -> None:
    """The counters count every record of the session, and health follows the life of the log."""
    audit = AuditLogger(config_for())
    assert audit.health().status is HealthStatus.NOT_STARTED
    assert not audit.health().ok
    async with audit:
        for n in range(10):
            audit.emit(failure(n))
        assert audit.stats().waiting == 10
        assert audit.health().buffer_fill > 0
        await audit.flush()
        stats, health = audit.stats(), audit.health()
        assert (stats.records, stats.durable, stats.waiting, stats.waiting_bytes) == (11, 11, 0, 0)
        assert (stats.dropped, stats.write_errors, stats.head_seq) == (0, 0, 10)
        assert stats.syncs >= 2
        assert (health.ok, health.durable_seq, health.buffer_fill) == (True, 10, 0.0)
    assert audit.health().status is HealthStatus.CLOSED


any_text = st.text(st.characters(), max_size=1500)  # every code point, surrogates too
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@given(events=st.lists(st.tuples(any_text, any_json), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_users_send_is_one_harmless_line_each(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str, events: list[tuple[str, object]]
) -> None:
    """Any text and any free-form data: one line a record, no unsafe text, chain intact, and the log opens again."""
    config = AuditConfig(mode=Local(tmp_path_factory.mktemp("any")), service_id="orders", handle_signals=False)

    async def record() -> None:
        async with AuditLogger(config) as audit:
            for text, data in events:
                audit.emit(AuthFailure(attempted_user=text, reason=text, ip="203.0.113.9", path=text))
                audit.emit(PoolModified(actor=actor(), pool_id=text, changes={"any": data, text: [data]}))

    for opening in (1, 2):
        anyio.run(record)
        lines = segment_lines(log_directory(config))
        assert len(lines) == opening * (2 + 2 * len(events))
        texts: list[str] = []
        for line in lines:
            collect_texts(json.loads(line.decode()), texts)
        assert not any(UNSAFE.search(text) for text in texts)
        check_trail(log_directory(config))
