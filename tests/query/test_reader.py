"""The reader as a whole: beside a running writer, on the loop, recorded where it is asked to be, and left early."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditLogger, Local, LogClosed, LogCorrupted, Position
from audit_async._export.record_export import ExportFailed
from audit_async._query import opened_records
from audit_async._query import segment_scan as scan
from audit_async._trail import off_loop as pieces
from audit_async.events import AuditLogAccessed, AuthFailure, GenericEvent, Record, decode_record
from audit_async.reader import (
    AuditQuery,
    AuditReader,
    InvalidQuery,
    LastRecords,
    RecordNotFound,
    TrailUnreadable,
    audit_reader,
)
from tests.logs import ConfigFor, Counted, failure
from tests.open_files import open_files_below
from tests.trail.written import WrittenLog, hash_of

pytestmark = pytest.mark.anyio


def base_of(audit: AuditLogger) -> Path:
    """Return the base directory of a logger."""
    assert isinstance(audit.config.mode, Local)
    return Path(audit.config.mode.base_dir)


def numbered(n: int, **members: Any) -> dict[str, Any]:
    """Return an event that can be told from others."""
    return {"event_type": "test.numbered", "n": n, **members}


async def accesses(audit: AuditLogger) -> list[AuditLogAccessed]:
    """Return what the trail says of who read it."""
    await audit.flush()
    reader = AuditReader(base_of(audit))
    found = [record.event async for record in reader.query(AuditQuery(event_types=("audit.log_accessed",)))]
    assert all(isinstance(event, AuditLogAccessed) for event in found)
    return found  # type: ignore[return-value]  # just asserted


async def test_a_running_log_is_read_with_typed_events_and_its_name(config_for: ConfigFor) -> None:
    """Beside its writer, a log gives events of their own classes, unknown ones as they are, and says where from."""
    async with AuditLogger(config_for()) as audit:
        audit.emit(failure(1))
        await audit.emit_durable(Counted(producer="p", n=2))
        records = [record async for record in AuditReader(base_of(audit)).query()]
        assert [record.event.event_type for record in records] == ["audit.log_opened", "auth.failure", "test.counted"]
        assert isinstance(records[1].event, AuthFailure)
        assert {record.log for record in records} == {"orders/00"}
        assert [record.seq for record in records] == [0, 1, 2]
        assert (datetime.now(UTC) - records[0].timestamp).total_seconds() < 3600


async def test_service_and_instance_leave_others_out(tmp_path: Path) -> None:
    """A reader of one service, one instance, or one log's own directory sees no other log."""
    for service, instance in (("orders", "00"), ("orders", "01"), ("billing", "00")):
        log = WrittenLog(tmp_path, instance, service=service)
        log.write(numbered(0))
        log.close()
    for reader, names in (
        (AuditReader(tmp_path), {"billing/00", "orders/00", "orders/01"}),
        (AuditReader(str(tmp_path), service="orders"), {"orders/00", "orders/01"}),
        (AuditReader(tmp_path, instance="00"), {"billing/00", "orders/00"}),
        (AuditReader(tmp_path / "orders" / "01"), {"orders/01"}),
    ):
        assert {record.log async for record in reader.query()} == names
        assert {log.name for log in reader.logs()} == names


async def test_reading_is_recorded_with_what_was_asked_and_how_much_was_given(config_for: ConfigFor) -> None:
    """With `audit` each query, page and lookup puts an audit.log_accessed into the trail, also without results."""
    async with AuditLogger(config_for()) as audit:
        for n in range(3):
            await audit.emit_durable(failure(n))
        reader = AuditReader(base_of(audit))
        query = AuditQuery(actor="mallory", start=datetime(2020, 1, 1, tzinfo=UTC), limit=2)
        assert len([r async for r in reader.query(query, audit=audit, accessed_by="ann")]) == 2
        await reader.page(AuditQuery(text="nothing has this"), audit=audit, accessed_by="ben")
        await reader.record(1, audit=audit, accessed_by="cat")
        with pytest.raises(RecordNotFound):
            await reader.record(10**6, audit=audit, accessed_by="dan")
        assert [(event.actor, event.query, event.records) for event in await accesses(audit)] == [
            ("ann", {"actor": "mallory", "start": "2020-01-01T00:00:00Z", "limit": 2}, 2),
            ("ben", {"text": "nothing has this"}, 0),
            ("cat", {"seq": 1}, 1),
            ("dan", {"seq": 10**6}, 0),
        ]


async def test_a_query_that_is_left_early_is_recorded_too(config_for: ConfigFor) -> None:
    """Closed, cancelled or failed half-way: the trail says how many records were given by then."""
    async with AuditLogger(config_for()) as audit:
        for n in range(9):
            await audit.emit_durable(failure(n))
        reader = AuditReader(base_of(audit))
        async with aclosing(reader.query(audit=audit, accessed_by="closed")) as records:
            async for record in records:
                if record.seq == 3:
                    break
        with anyio.CancelScope() as scope:
            async with aclosing(reader.query(audit=audit, accessed_by="cancelled")) as records:
                async for _ in records:
                    scope.cancel()
                    await anyio.sleep(1)
        reader_of_nothing = AuditReader(base_of(audit), service="nobody")
        with pytest.raises(TrailUnreadable):
            _ = [r async for r in reader_of_nothing.query(audit=audit, accessed_by="failed")]
        assert [(event.actor, event.records) for event in await accesses(audit)] == [
            ("closed", 4),
            ("cancelled", 1),
            ("failed", 0),
        ]


async def test_a_reading_that_cannot_be_recorded_says_so(config_for: ConfigFor) -> None:
    """A logger without a name, a name without a logger, and a logger that is closed are errors."""
    async with AuditLogger(config_for()) as audit:
        reader = AuditReader(base_of(audit))
        with pytest.raises(InvalidQuery, match=r"^accessed_by: "):
            reader.query(audit=audit)
        with pytest.raises(InvalidQuery, match=r"^audit: "):
            reader.query(accessed_by="ann")
        with pytest.raises(InvalidQuery, match=r"^on_damage: "):
            reader.query(on_damage="ignore")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(LogClosed):
        _ = [record async for record in reader.query(audit=audit, accessed_by="ann")]


async def test_verify_checks_what_the_reader_sees(tmp_path: Path) -> None:
    """A whole log is valid, against its own head, too; not against another, and a head needs to say of which log."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(20)))
    seq, own = 19, hash_of(log.lines[19])
    log.close()
    reader = AuditReader(tmp_path)
    report = await reader.verify(expected_head=(seq, own), processes=1)
    assert report.valid
    assert report.logs[0].records == 20
    assert not (await reader.verify(expected_heads={"orders/00": Position(seq, "0" * 64)}, processes=1)).valid
    assert (await reader.verify(LastRecords(3), processes=1)).valid
    other = WrittenLog(tmp_path, "01")
    other.write(numbered(0))
    other.close()
    with pytest.raises(InvalidQuery, match=r"^expected_head: "):
        await reader.verify(expected_head=(seq, own))


async def test_an_export_is_that_of_a_query_and_recorded(config_for: ConfigFor) -> None:
    """`export` writes what the query finds, and the trail says by whom, as what, and how many records."""
    async with AuditLogger(config_for()) as audit:
        for n in range(3):
            await audit.emit_durable(failure(n))
        reader, query = AuditReader(base_of(audit)), AuditQuery(event_types=("auth.*",))
        target = base_of(audit).parent / "export.ndjson"
        report = await reader.export(target, "ndjson", query, audit=audit, accessed_by="ann")
        assert report.records == 3
        assert target.read_bytes().count(b'"auth.failure"') == 3
        with pytest.raises(ExportFailed):
            await reader.export(target, "ndjson", query, audit=audit, accessed_by="ben")
        assert [(event.actor, event.query, event.records) for event in await accesses(audit)] == [
            ("ann", {"event_types": ["auth.*"], "export": "ndjson"}, 3),
            ("ben", {"event_types": ["auth.*"], "export": "ndjson"}, None),
        ]


async def test_one_record_is_shown_with_the_hashes_beside_it(tmp_path: Path) -> None:
    """By seq or audit_id: the record, its line and place, and that both neighbours link to it, across segments."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(20)))
    names = log.sealed()
    boundary = int(names[1][:12])
    reader = AuditReader(tmp_path)
    for seq in (0, 1, boundary - 1, boundary, 19):
        placed = await reader.record(seq)
        again = await reader.record(audit_id=placed.record.audit_id)
        assert placed == again
        assert placed.line == log.lines[seq]
        assert isinstance(placed.record.event, GenericEvent)
        assert placed.record.event.fields == {"n": seq}
        assert placed.is_linked
        assert (placed.previous.seq if placed.previous else -1) == seq - 1
        assert (placed.next.seq if placed.next else 20) == seq + 1
        if placed.previous:
            assert placed.previous.hash == placed.record.prev_hash
        with (log.directory / placed.segment).open("rb") as file:
            file.seek(placed.byte_offset)
            assert file.readline() == placed.line
    log.delete(names[0])
    placed = await reader.record(boundary)
    assert placed.is_linked
    assert placed.previous == (boundary - 1, placed.record.prev_hash), "the manifest keeps the boundary"
    with pytest.raises(RecordNotFound, match=r"seq 0 in orders/00"):
        await reader.record(0)
    log.close()


async def test_a_record_that_does_not_link_is_shown_as_such(tmp_path: Path) -> None:
    """A record whose neighbour was exchanged for another genuine one is not linked."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(3)))
    log.close()
    other = WrittenLog(tmp_path, "01", max_bytes=1 << 20)
    other.write(*map(numbered, range(3)))
    other.close()
    [segment] = log.directory.glob("*.audit")
    segment.write_bytes(log.lines[0] + log.lines[1] + other.lines[2])
    reader = AuditReader(tmp_path)
    assert not (await reader.record(1, log="orders/00")).is_linked
    assert not (await reader.record(2, log="orders/00")).is_linked
    assert (await reader.record(0, log="orders/00")).is_linked


async def test_a_lookup_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    """Neither or both of seq and audit_id, a seq among several logs, and an unknown log are errors."""
    for instance in ("00", "01"):
        log = WrittenLog(tmp_path, instance)
        log.write(numbered(0), {"event_type": "test.quote", "audit_id": "0123456789abcdef-0"})
        log.close()
    reader = AuditReader(tmp_path)
    with pytest.raises(InvalidQuery, match=r"^seq: give either"):
        await reader.record()
    with pytest.raises(InvalidQuery, match=r"^seq: give either"):
        await reader.record(1, audit_id="0123456789abcdef-0")
    with pytest.raises(InvalidQuery, match=r"^log: is missing.*orders/00, orders/01"):
        await reader.record(1)
    with pytest.raises(InvalidQuery, match=r"^log: .*orders/00, orders/01"):
        await reader.record(1, log="orders/7")
    with pytest.raises(InvalidQuery, match=r"^audit_id: "):
        await reader.record(audit_id="1")
    with pytest.raises(RecordNotFound):
        await reader.record(audit_id="0123456789abcdef-0")
    assert (await reader.record(1, log="orders/01")).record.log == "orders/01"


async def test_a_damaged_record_is_not_shown(tmp_path: Path) -> None:
    """A lookup of a damaged line is LogCorrupted; damage beside the record makes only that side unknown."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(4)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"n":2', b'"n":7'))
    reader = AuditReader(tmp_path)
    with pytest.raises(LogCorrupted, match=r"line 3 \(seq 2\)"):
        await reader.record(2)
    placed = await reader.record(1)
    assert placed.next is None
    assert placed.previous is not None


async def test_the_loop_is_never_blocked_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a query reads, other tasks run: no file is read and nothing is decoded on the loop's own thread."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(500)))
    log.close()
    threads: set[int] = set()
    for module, name in ((opened_records, "decode_record"), (scan, "check_record"), (audit_reader, "find_logs")):
        plain = getattr(module, name)

        def noted(*arguments: Any, plain: Any = plain, **more: Any) -> Any:
            threads.add(threading.get_ident())
            return plain(*arguments, **more)

        monkeypatch.setattr(module, name, noted)
    assert len([record async for record in AuditReader(tmp_path).query(AuditQuery(text="numbered"))]) == 500
    assert threads
    assert threading.get_ident() not in threads


async def test_a_query_can_be_cancelled_while_it_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long search without results ends soon after it is cancelled, and lets go of its files."""

    def endless() -> Iterator[None]:
        try:
            while True:
                begun.set()
                yield None
        finally:
            ended.append(True)

    async def search() -> None:
        async for _ in pieces.in_pieces(endless()):  # type: ignore[arg-type]  # a generator, by its nature
            pass

    begun = threading.Event()
    ended: list[bool] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(search)
            while not begun.is_set():
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
    assert ended == [True]


async def test_a_query_that_is_closed_early_closes_its_files(tmp_path: Path) -> None:
    """Leaving a query early leaves no descriptor open."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(300)))
    log.close()
    records = AuditReader(tmp_path).query()
    async for _ in records:
        break
    await records.aclose()
    assert open_files_below(tmp_path) == []


async def test_a_query_reads_no_further_than_somebody_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are read as they are asked for: of a large result only a piece is in memory."""
    log = WrittenLog(tmp_path, max_bytes=1 << 24)
    log.write(*(numbered(n) for n in range(3000)))
    log.close()
    decoded = 0
    plain = decode_record

    def count(line: bytes, **more: Any) -> Record:
        nonlocal decoded
        decoded += 1
        return plain(line, **more)

    monkeypatch.setattr(opened_records, "decode_record", count)
    given = 0
    async with aclosing(AuditReader(tmp_path).query()) as records:
        async for _ in records:
            given += 1
            assert decoded < given + 500
    assert given == 3000


def test_errors_hold_no_text_of_the_trail(tmp_path: Path) -> None:
    """What a query raises for a damaged line names its place and never what stands in it."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(numbered(0, secret="hunter2"))
    log.close()
    [segment] = log.directory.glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b"hunter2", b"hunter3"))

    async def read() -> None:
        async for _ in AuditReader(tmp_path).query():
            pass

    with pytest.raises(LogCorrupted) as caught:
        anyio.run(read)
    assert not re.search("hunter", str(caught.value) + repr(caught.value.__cause__))


@pytest.mark.anyio
async def test_counting_is_a_query_whose_records_are_not_kept(tmp_path: Path) -> None:
    """`count` gives by log what a query yields, with and without an index, up to the limit, and stops at damage."""
    logs = [WrittenLog(tmp_path, name, max_bytes=1500) for name in ("00", "01", "02")]
    for number, log in enumerate(logs):
        log.write(*({"event_type": "test.counted", "n": n, "user_id": f"u{n % 3}"} for n in range(10 * number)))
        log.sealed()
    reader = AuditReader(tmp_path)
    query = AuditQuery(actor="u1")
    expected = {"orders/00": 0, "orders/01": 3, "orders/02": 7}
    assert await reader.count(query, use_index=False) == expected
    assert [segment.problem async for segment in reader.build_index() if segment.problem] == []
    assert await reader.count(query) == expected
    assert sum((await reader.count()).values()) == 30
    assert await reader.count(AuditQuery(actor="u1", limit=5)) == {"orders/00": 0, "orders/01": 3, "orders/02": 2}
    assert await reader.count(AuditQuery(actor="u1", limit=3)) == {"orders/00": 0, "orders/01": 3, "orders/02": 0}
    assert await reader.count(AuditQuery(actor="u1", newest_first=True)) == expected
    with pytest.raises(InvalidQuery, match=r"^after_seq: "):
        await reader.count(AuditQuery(after_seq=3))
    for log in logs:
        log.close()
    segment = max(logs[2].directory.glob("*.audit"))
    segment.write_bytes(segment.read_bytes().replace(b'"user_id":"u1"', b'"user_id": "u1"', 1))
    with pytest.raises(LogCorrupted):
        await reader.count(query)
    skipped = await reader.count(query, on_damage="skip")
    assert skipped == {"orders/00": 0, "orders/01": 3, "orders/02": 6}
