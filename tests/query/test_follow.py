"""Following: new records come as they are written, each once and in order, whatever becomes of the files."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditLogger, Batched, LogCorrupted
from audit_async._query import follow
from audit_async._query.follow import Follower
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage
from audit_async._trail import log_files as trail
from audit_async._trail.log_files import Log
from audit_async.events import AuditLogAccessed, Record
from audit_async.reader import AuditQuery, AuditReader, InvalidQuery, TrailUnreadable
from tests.logs import ConfigFor, failure
from tests.open_files import open_files_below
from tests.trail.written import WrittenLog

pytestmark = pytest.mark.anyio


def numbered(n: int, **members: Any) -> dict[str, Any]:
    """Return an event that can be told from others."""
    return {"event_type": "test.numbered", "n": n, **members}


class Seen:
    """What a following task has seen so far."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    @property
    def seqs(self) -> list[int]:
        """The sequence numbers, as they came."""
        return [record.seq for record in self.records]

    async def until(self, count: int) -> None:
        """Wait for so many records."""
        with anyio.fail_after(60):
            while len(self.records) < count:
                await anyio.sleep(0.005)


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note when followers have begun and when they poll, so that a test can wait for it."""
    noted: list[str] = []
    begin, poll = Follower.begin, Follower.poll

    def noted_begin(self: Follower, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        noted.append("begin")

    def noted_poll(self: Follower) -> Any:
        noted.append("poll")
        return poll(self)

    monkeypatch.setattr(Follower, "begin", noted_begin)
    monkeypatch.setattr(Follower, "poll", noted_poll)
    return noted


async def until_noted(steps: list[str], step: str, count: int) -> None:
    """Wait until a step was taken so often."""
    with anyio.fail_after(60):
        while steps.count(step) < count:
            await anyio.sleep(0.005)


@asynccontextmanager
async def following(base_dir: Path, steps: list[str], **how: Any) -> AsyncIterator[Seen]:
    """Follow in a task while the block runs; on entry it has begun."""
    seen = Seen()
    begun = steps.count("begin")

    async def run() -> None:
        async with aclosing(AuditReader(base_dir).follow(**how)) as records:
            async for record in records:
                seen.records.append(record)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until_noted(steps, "begin", begun + 1)
        yield seen
        group.cancel_scope.cancel()


async def test_new_records_come_in_order_across_rotation(tmp_path: Path, steps: list[str]) -> None:
    """From now on, each new record comes once, also through several rotations and an archiving."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(7)))
    async with following(tmp_path, steps) as seen:
        for n in range(7, 60):
            log.write(numbered(n))
            if n % 20 == 0:
                log.archive(log.sealed())
        await seen.until(53)
        assert seen.seqs == list(range(7, 60))
        assert len(log.sealed()) > 5
    log.close()


async def test_from_the_beginning_all_there_is_comes_first(tmp_path: Path, steps: list[str]) -> None:
    """With from_now=False archived, sealed and active segments come, then what is new; filtered by the query."""
    log = WrittenLog(tmp_path)
    log.write(*(numbered(n, user_id="even" if n % 2 == 0 else "odd") for n in range(40)))
    log.archive(log.sealed()[:2])
    query = AuditQuery(actor="even")
    async with following(tmp_path, steps, from_now=False, query=query) as seen:
        await seen.until(20)
        log.write(numbered(40, user_id="even"), numbered(41, user_id="odd"), numbered(42, user_id="even"))
        await seen.until(22)
        assert seen.seqs == [*range(0, 40, 2), 40, 42]
    log.close()


async def test_it_goes_on_where_a_page_ended(tmp_path: Path, steps: list[str]) -> None:
    """`after` takes the end of a page, of an old one or the last, and leaves nothing out."""
    log, other = WrittenLog(tmp_path, "00"), WrittenLog(tmp_path, "01")
    log.write(*map(numbered, range(10)))
    query = AuditQuery(limit=4)
    page = await AuditReader(tmp_path).page(query)
    other.write(numbered(0))
    async with following(tmp_path, steps, after=page.resume, query=AuditQuery()) as seen:
        await seen.until(7)
        log.write(numbered(10))
        await seen.until(8)
    assert {(record.log, record.seq) for record in seen.records} == {
        *(("orders/00", seq) for seq in range(4, 11)),
        ("orders/01", 0),
    }
    with pytest.raises(InvalidQuery, match=r"^cursor: "):
        AuditReader(tmp_path).follow(after=page.resume, query=AuditQuery(actor="x"))
    log.close()
    other.close()


async def test_after_seq_and_limit_hold(tmp_path: Path) -> None:
    """`after_seq` says where to begin, and after `limit` records it ends by itself."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(30)))
    log.close()
    query = AuditQuery(after_seq=11, limit=5)
    seqs = [record.seq async for record in AuditReader(tmp_path).follow(query=query)]
    assert seqs == [12, 13, 14, 15, 16]


async def test_the_last_records_come_first_and_nothing_between_is_lost(tmp_path: Path, steps: list[str]) -> None:
    """`last` gives so many of those that are there and wanted, oldest first, then what came since it began."""
    log, other = WrittenLog(tmp_path, "00"), WrittenLog(tmp_path, "01")
    log.write(*(numbered(n, user_id="odd" if n % 2 else "even") for n in range(20)))
    other.now_ns += 10**9
    other.write(numbered(0, user_id="even"))
    async with following(tmp_path, steps, last=3, query=AuditQuery(actor="even")) as seen:
        log.write(numbered(20, user_id="even"))
        await seen.until(4)
    assert [(record.log[-2:], record.seq) for record in seen.records] == [("00", 16), ("00", 18), ("01", 0), ("00", 20)]
    limited = AuditReader(tmp_path).follow(last=3, query=AuditQuery(actor="even", limit=2))
    assert [record.seq async for record in limited] == [18, 20]
    for how in ({"from_now": False}, {"query": AuditQuery(after_seq=1)}, {"after": "x"}):
        with pytest.raises(InvalidQuery):
            AuditReader(tmp_path).follow(last=3, **how)
    with pytest.raises(InvalidQuery, match=r"^last: "):
        AuditReader(tmp_path).follow(last=-1)
    log.close()
    other.close()


async def test_a_log_that_is_made_meanwhile_is_followed(tmp_path: Path, steps: list[str]) -> None:
    """Another instance that starts later is seen from its first record."""
    log = WrittenLog(tmp_path, "00")
    log.write(numbered(0))
    async with following(tmp_path, steps) as seen:
        other = WrittenLog(tmp_path, "01")
        other.write(*map(numbered, range(3)))
        await seen.until(3)
        log.write(numbered(1))
        await seen.until(4)
    assert [(record.log, record.seq) for record in seen.records] == [
        ("orders/01", 0),
        ("orders/01", 1),
        ("orders/01", 2),
        ("orders/00", 1),
    ]
    log.close()
    other.close()


async def test_with_the_logger_only_what_is_durable_comes(config_for: ConfigFor, steps: list[str]) -> None:
    """With `audit`, records that are written and not synced yet are held back; without it they come."""
    config = config_for(flush_mode=Batched(size=9000, interval=3600.0))
    base_dir = Path(config.mode.base_dir)  # type: ignore[union-attr]  # it is Local
    async with (
        AuditLogger(config) as audit,
        following(base_dir, steps) as all_seen,
        following(base_dir, steps, audit=audit) as seen,
    ):
        for n in range(5):
            audit.emit(failure(n))
        await all_seen.until(5)
        assert audit.health().durable_seq < all_seen.seqs[0]
        # Each of the two polls, pauses, and polls again: after eight polls both have looked.
        await until_noted(steps, "poll", steps.count("poll") + 8)
        assert seen.records == []
        await audit.flush()
        await seen.until(5)
        assert seen.seqs == all_seen.seqs


async def test_following_is_recorded_when_asked_for(config_for: ConfigFor) -> None:
    """With `accessed_by`, the end of a following is in the trail: who, what was asked, how many records."""
    config = config_for()
    async with AuditLogger(config) as audit:
        reader = AuditReader(config.mode.base_dir)  # type: ignore[union-attr]  # it is Local
        query = AuditQuery(event_types=("auth.*",), limit=2)
        for n in range(2):
            audit.emit(failure(n))
        await audit.flush()
        async for _ in reader.follow(from_now=False, query=query, audit=audit, accessed_by="auditor"):
            pass
        await audit.flush()
        [record] = [r async for r in reader.query(AuditQuery(event_types=("audit.log_accessed",)))]
        assert isinstance(record.event, AuditLogAccessed)
        assert (record.event.actor, record.event.records) == ("auditor", 2)
        assert record.event.query == {"event_types": ["auth.*"], "limit": 2}


async def test_cancellation_closes_every_file(tmp_path: Path, steps: list[str]) -> None:
    """A following that is cancelled leaves no descriptor open."""
    log = WrittenLog(tmp_path)
    log.write(numbered(0))
    before = len(open_files_below(tmp_path))  # the writer's
    async with following(tmp_path, steps, from_now=False) as seen:
        await seen.until(1)
        assert len(open_files_below(tmp_path)) > before
    assert len(open_files_below(tmp_path)) == before
    log.close()


async def test_nothing_is_read_while_nothing_is_new(tmp_path: Path, steps: list[str]) -> None:
    """Between records a follower only asks whether a file has changed; then it reads, also in a new segment."""
    log = WrittenLog(tmp_path)
    log.write(numbered(0))
    asked = 0
    has_news = Follower.has_news

    def counted(self: Follower) -> bool:
        nonlocal asked
        asked += 1
        return has_news(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Follower, "has_news", counted)
        async with following(tmp_path, steps, from_now=False) as seen:
            await seen.until(1)
            before, polls = asked, steps.count("poll")
            with anyio.fail_after(60):
                while asked < before + 5:
                    await anyio.sleep(0.01)
            assert steps.count("poll") <= polls + 1  # the one that found the end
            log.write(*map(numbered, range(1, 30)))
            await seen.until(30)
            assert len(log.sealed()) > 1
    log.close()


async def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """newest_first, a logger without a name, and a directory without logs are errors."""
    with pytest.raises(InvalidQuery, match=r"^newest_first: "):
        AuditReader(tmp_path).follow(query=AuditQuery(newest_first=True))
    with pytest.raises(InvalidQuery, match=r"^audit: "):
        AuditReader(tmp_path).follow(accessed_by="auditor")
    with pytest.raises(TrailUnreadable):
        async for _ in AuditReader(tmp_path).follow():
            pass


# One step at a time: what a poll sees.


def follower(base_dir: Path, *, from_now: bool = True, skip: bool = False, durable: int | None = None) -> Follower:
    """Return a follower that has begun."""
    made = Follower(Filter(AuditQuery()), Damage(skip=skip), lambda log: durable)
    made.begin(AuditReader(base_dir).logs(), from_now=from_now, reached={})
    return made


def polled(one: Follower) -> list[int]:
    """Return the sequence numbers that a poll gives."""
    return [found.seq for found in one.poll() if found is not None]


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    """At any byte at which a write may be interrupted, nothing is given until the line is whole."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(3)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    content = segment.read_bytes()
    first, second = len(log.lines[0]), len(log.lines[0]) + len(log.lines[1])
    os.truncate(segment, first)
    one = follower(tmp_path)
    with segment.open("ab", buffering=0) as file:
        for at in range(first, second - 1, 7):
            file.write(content[at : min(at + 7, second - 1)])
            assert polled(one) == []
        file.write(content[second - 1 : second + 10])
        assert polled(one) == [1]
        file.write(content[second + 10 :])
        assert polled(one) == [2]
    one.close()


def test_a_segment_that_is_archived_while_it_is_open_is_read_to_its_end(tmp_path: Path) -> None:
    """The rest of a segment is not lost when it is rotated, archived and removed between two polls."""
    log = WrittenLog(tmp_path)
    log.write(numbered(0))
    one = follower(tmp_path)
    assert polled(one) == []
    log.write(*map(numbered, range(1, 25)))
    log.archive(log.sealed())
    assert polled(one) == list(range(1, 25))
    log.write(*map(numbered, range(25, 30)))
    log.delete(log.sealed()[0])
    assert polled(one) == list(range(25, 30))
    assert polled(one) == []
    one.close()
    log.close()


def test_what_is_deleted_before_it_was_read_is_passed_over(tmp_path: Path) -> None:
    """Retention that is faster than the follower leaves a gap, not an error."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(20)))
    names = log.sealed()
    one = follower(tmp_path, from_now=False)
    log.delete(names[0])
    seqs = polled(one)
    assert seqs == list(range(int(names[1][:12]), 20))
    one.close()
    log.close()


def test_a_segment_that_is_cut_back_gives_nothing_twice(tmp_path: Path) -> None:
    """After a failed fsync the same records stand in a new segment: those that were seen don't come again."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(8)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    one = follower(tmp_path, from_now=False)
    content = segment.read_bytes()
    segment.write_bytes(b"".join(log.lines[:6]) + log.lines[6][:50])
    assert polled(one) == [0, 1, 2, 3, 4, 5]
    (log.directory / "000000000004-2026-11-22.audit").write_bytes(b"".join(log.lines[4:]))
    os.truncate(segment, len(b"".join(log.lines[:4])))
    assert polled(one) == [6, 7]
    assert content.startswith(log.lines[0])
    one.close()


def test_a_segment_that_was_written_anew_is_read_from_a_line_on(tmp_path: Path) -> None:
    """Where what was seen was lost and other records took its place, those behind it come, and no half lines."""
    log, other = WrittenLog(tmp_path, "00", max_bytes=1 << 20), WrittenLog(tmp_path / "other", max_bytes=1 << 20)
    log.write(*map(numbered, range(6)))
    other.write(*(numbered(n, text="x" * 33) for n in range(8)))
    log.close()
    other.close()
    [segment] = log.directory.glob("*.audit")
    one = follower(tmp_path, from_now=False)
    assert polled(one) == [0, 1, 2, 3, 4, 5]
    os.truncate(segment, len(log.lines[0]))
    assert polled(one) == []
    with segment.open("ab") as file:
        file.write(b"".join(other.lines[1:]))
    assert polled(one) == [6, 7]
    one.close()


def test_void_lines_are_not_read(tmp_path: Path) -> None:
    """Where the old segment was not cut back, what stands at or past the next one's first seq is left alone."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(8)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    segment.write_bytes(b"".join(log.lines[:4]) + b"\0" * 100 + log.lines[5])
    (log.directory / "000000000004-2026-11-22.audit").write_bytes(b"".join(log.lines[4:]))
    one = follower(tmp_path, from_now=False)
    assert polled(one) == list(range(8))
    one.close()


def test_durable_is_a_limit_in_any_segment(tmp_path: Path) -> None:
    """Nothing behind the durable seq comes, be it in the active or in a sealed segment; then it does."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(30)))
    log.sealed()
    limit = -1
    one = Follower(Filter(AuditQuery()), Damage(skip=False), lambda _: limit)
    one.begin(AuditReader(tmp_path).logs(), from_now=False, reached={})
    seqs: list[int] = []
    for limit in range(-1, 30):
        seqs += polled(one)
        assert seqs == list(range(limit + 1))
    one.close()
    log.close()


def test_from_now_is_from_what_is_durable_now(tmp_path: Path) -> None:
    """What is written and not durable at the beginning comes when it is."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(6)))
    limit = 2
    one = Follower(Filter(AuditQuery()), Damage(skip=False), lambda _: limit)
    one.begin(AuditReader(tmp_path).logs(), from_now=True, reached={})
    assert polled(one) == []
    limit = 5
    assert polled(one) == [3, 4, 5]
    one.close()
    log.close()


def test_damage_ends_it_or_is_passed_over(tmp_path: Path) -> None:
    """A line that is no record raises LogCorrupted with its place; with skip, what stands behind it comes."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(5)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    segment.write_bytes(b"".join(log.lines).replace(b'"n":3', b'"n":4'))
    one = follower(tmp_path, from_now=False)
    with pytest.raises(LogCorrupted, match=r"line 4 \(seq 3\)"):
        polled(one)
    one.close()
    another = follower(tmp_path, from_now=False, skip=True)
    assert polled(another) == [0, 1, 2, 4]
    another.close()


def test_a_file_without_line_ends_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that end nowhere are damage; with skip they are passed over piece by piece."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(3)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    segment.write_bytes(log.lines[0] + b"x" * 300_000 + b"\n" + log.lines[1] + log.lines[2])
    for module in (follow, trail):
        monkeypatch.setattr(module, "CHUNK_BYTES", 10_000)
        monkeypatch.setattr(module, "LONGEST_LINE", 50_000)
    one = follower(tmp_path, from_now=False)
    with pytest.raises(LogCorrupted, match="not a whole record"):
        polled(one)
    one.close()
    another = follower(tmp_path, from_now=False, skip=True)
    assert polled(another) == [0, 1, 2]
    another.close()


def test_beside_a_busy_writer_nothing_is_lost(tmp_path: Path) -> None:
    """While a thread writes, rotates and archives as it likes, a follower sees every record once and in order."""
    log = WrittenLog(tmp_path, max_bytes=4096)
    log.write(numbered(0))
    one = follower(tmp_path, from_now=False)
    done = threading.Event()
    total = 1000

    def write() -> None:
        choose = random.Random(7)  # noqa: S311 - reproducible
        try:
            while len(log.lines) < total:
                count = choose.randint(1, 30)
                log.write(*(numbered(n) for n in range(count)))
                if choose.random() < 0.05:
                    log.archive(log.sealed())
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seqs: list[int] = []
    while not done.is_set():
        seqs += polled(one)
    writer.join()
    seqs += polled(one)
    assert len(log.lines) >= total
    assert seqs == list(range(len(log.lines)))
    one.close()
    log.close()


def test_logs_are_named(tmp_path: Path) -> None:
    """A follower of several logs merges what a poll finds by time."""
    logs = [WrittenLog(tmp_path, name) for name in ("00", "01")]
    for n in range(10):
        log = logs[n % 2]
        log.now_ns = logs[0].now_ns + 1000 * n
        log.write(numbered(n), step_ns=0)
        logs[0].now_ns = log.now_ns - 1000 * n
    one = follower(tmp_path, from_now=False)
    found = [found for found in one.poll() if found is not None]
    assert [f.timestamp for f in found] == sorted(f.timestamp for f in found)
    assert len(found) == 10
    assert isinstance(found[0].log, Log)
    one.close()
    for log in logs:
        log.close()
