"""More logs than a process may have files open: each query finds what it finds in few, and no descriptor is left."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Generator, Iterator
from contextlib import aclosing
from itertools import chain
from pathlib import Path

import anyio
import pytest

from audit_async._query import open_files
from audit_async._query.follow import Follower
from audit_async._query.matching import Filter
from audit_async._query.open_files import OpenFiles, ReopenedFile
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._query.time_merge import Stream, _Newest, _Oldest, merge
from audit_async._trail.log_files import Log
from audit_async.reader import AuditQuery, AuditReader, Record
from tests.trail.written import WrittenLog, ask

resource = pytest.importorskip("resource", reason="limits of a process are of POSIX")

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")


def event(n: int) -> dict[str, object]:
    """Return an event of one of three users."""
    return {"event_type": "test.numbered", "n": n, "user_id": ("eve", "bob", "joe")[n % 3], "text": "x" * 100}


def copies_of(log: WrittenLog, base_dir: Path, number: int) -> None:
    """Copy a log to further instances of the same service."""
    for n in range(1, number):
        shutil.copytree(log.directory, base_dir / "orders" / f"i{n:04d}", ignore=shutil.ignore_patterns("lock", "tlog"))


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Allow this process 256 descriptors while a test runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def build_index(base_dir: Path) -> None:
    """Index all segments."""

    async def build() -> None:
        async for made in AuditReader(base_dir).build_index():
            assert made.problem is None

    anyio.run(build)


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("newest_first", [False, True])
def test_merging_compares_few(newest_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many logs a record costs some comparisons, not one for each log."""
    compared = 0

    def counted(self: _Oldest, other: _Oldest) -> bool:
        nonlocal compared
        compared += 1
        return plain(self, other)

    ranked: type[_Oldest] = _Newest if newest_first else _Oldest
    plain = ranked.__lt__
    monkeypatch.setattr(ranked, "__lt__", counted)
    log = Log(tmp_path, "orders", "00", "")
    logs = [[Found(f"{n * 331 % 257 + m:04d}", log, m, b"", "", 0) for m in range(10)] for n in range(256)]
    if newest_first:
        logs = [found[::-1] for found in logs]
    merged = list(
        merge([Stream(f"{n:03d}", iter_of(found)) for n, found in enumerate(logs)], newest_first=newest_first)
    )
    assert [found.timestamp for found in merged if found] == sorted(
        (found.timestamp for found in chain(*logs)), reverse=newest_first
    )
    assert compared < 2560 * 20


def iter_of(found: list[Found]) -> Generator[Found | None, None, None]:
    """Yield what a log has, and None before it."""
    for one in found:
        yield None
        yield one


def test_a_thousand_logs_in_the_order_of_time(tmp_path: Path, few_descriptors: None) -> None:
    """With 256 descriptors a thousand logs are merged by time, both ways, as a page, and followed."""
    log = WrittenLog(tmp_path, "i0000")
    log.write(*(event(n) for n in range(3)))
    copies_of(log, tmp_path, 1000)
    log.close()
    before = descriptors()
    for newest_first in (False, True):
        found = ask(tmp_path, AuditQuery(newest_first=newest_first))
        assert len(found) == 3000
        places = [(record.timestamp, record.log) for record in found]
        assert places == sorted(places, reverse=newest_first)

    async def follow() -> list[Record]:
        with anyio.fail_after(60):
            query = AuditQuery(limit=3000)
            async with aclosing(AuditReader(tmp_path).follow(from_now=False, query=query)) as records:
                return [record async for record in records]

    assert {(record.log, record.seq) for record in anyio.run(follow)} == {
        (f"orders/i{n:04d}", seq) for n in range(1000) for seq in range(3)
    }
    assert descriptors() <= before + 2  # a loop's own may be kept by its thread


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("query", [AuditQuery(), AuditQuery(actor="eve"), AuditQuery(text="xxx", actor="bob")])
def test_few_files_find_what_many_find(
    query: AuditQuery, newest_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a handful of open files, rotated and archived segments give the same records in the same order."""
    base_dir, log = tmp_path / "t", WrittenLog(tmp_path / "t", "i0000")
    for n in range(60):
        log.write(event(n))
    log.archive(log.sealed()[1:4:2])
    copies_of(log, base_dir, 10)
    log.close()
    query = AuditQuery(actor=query.actor, text=query.text, newest_first=newest_first)
    expected = [(record.log, record.hash) for record in ask(base_dir, query, use_index=False)]
    opened: list[int] = []
    monkeypatch.setattr(open_files, "open_file_limit", lambda: 4)
    monkeypatch.setattr("audit_async._query.search.open_file_limit", lambda: 4)
    monkeypatch.setattr(open_files, "_ALL_CHUNKS_BYTES", 1)  # pieces as small as they get, so files are left often
    monkeypatch.setattr(open_files, "_LEAST_CHUNK_BYTES", 512)
    used = OpenFiles.used

    def counted(self: OpenFiles, file: ReopenedFile) -> None:
        used(self, file)
        opened.append(sum(one._file is not None for one in self._open))

    monkeypatch.setattr(OpenFiles, "used", counted)
    before = descriptors()
    for how in ({"use_index": False}, {}, {"indexed": True}):
        if how.pop("indexed", False):
            build_index(base_dir)
        opened.clear()
        assert [(record.log, record.hash) for record in ask(base_dir, query, **how)] == expected
        assert opened
        assert max(opened) <= 4
    assert descriptors() <= before + 2
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("audit-async-*/tmp*"))


def test_a_file_is_opened_again_where_it_was_left(tmp_path: Path) -> None:
    """Reading goes on at the same byte, in a file as in what can't be sought in."""
    path = tmp_path / "f"
    path.write_bytes(bytes(range(256)) * 8)
    files = OpenFiles(2, most=1)
    first = files.keep(path.open("rb"), lambda: path.open("rb"))
    second = files.keep(path.open("rb"), lambda: path.open("rb"))
    content = [b"", b""]
    for size in (1, 7, 300, 0, 900, 5000):
        for n, file in enumerate((first, second)):
            content[n] += file.read(size)
            assert file.tell() == len(content[n])
    assert content == [path.read_bytes()] * 2
    assert first.seek(-1, os.SEEK_END) == 2047
    second.seek(10)
    assert first.read() == b"\xff"
    assert second.readline() == bytes(range(10, 11))
    first.close()
    second.close()
    assert files._open == {}


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_log_that_waits_for_others_costs_little_memory(
    newest_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many logs as leave the least piece to each, one that waits for its turn holds less than 16 KiB."""
    log = WrittenLog(tmp_path, "i0000", max_bytes=100_000)
    log.write(*map(event, range(200)))
    log.close()
    number = 150
    copies_of(log, tmp_path, number)
    monkeypatch.setattr(open_files, "_ALL_CHUNKS_BYTES", 0)
    monkeypatch.setattr(open_files, "_MOST", 8)
    logs = AuditReader(tmp_path).logs()
    assert len(logs) == number
    tracemalloc.start()
    try:
        search = Search(logs, AuditQuery(newest_first=newest_first), Damage(skip=False)).run()
        assert next(found for found in search if found is not None)
        held, _ = tracemalloc.get_traced_memory()
        search.close()
    finally:
        tracemalloc.stop()
    assert held < number * (16 << 10)


def test_counting_opens_one_log_at_a_time(tmp_path: Path, few_descriptors: None) -> None:
    """With 256 descriptors, all but a few of them taken, the records of some hundred logs are counted."""
    log = WrittenLog(tmp_path, "i0000", max_bytes=2000)
    log.write(*map(event, range(30)))
    log.sealed()
    log.close()
    copies_of(log, tmp_path, 300)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(256 - descriptors() - 16)]
    try:
        counted = anyio.run(AuditReader(tmp_path).count, AuditQuery(actor="eve"))
    finally:
        for descriptor in taken:
            os.close(descriptor)
    assert set(counted.values()) == {10}
    assert len(counted) == 300


def test_following_looks_for_segments_only_if_a_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log without news the directory is not listed again and again; its next segment is found all the same."""
    log = WrittenLog(tmp_path, max_bytes=4000)
    log.write(*map(event, range(3)))
    follower = Follower(Filter(AuditQuery()), Damage(skip=False), lambda _: None)
    follower.begin(AuditReader(tmp_path).logs(), from_now=False, reached={})
    assert len([found for found in follower.poll() if found]) == 3
    listed = 0

    def list_directory(path: Path) -> list[str]:
        nonlocal listed
        listed += 1
        return plain_listdir(path)

    plain_listdir = os.listdir
    monkeypatch.setattr(os, "listdir", list_directory)
    os.utime(log.directory, (1, 1))  # as if it had not changed for long
    for _ in range(5):
        assert not follower.has_news()
    assert listed == 1
    log.write(*map(event, range(3, 40)))
    assert len(log.sealed()) >= 2
    seen = [found.seq for _ in range(9) for found in follower.poll() if found is not None]
    assert seen == list(range(3, 40))
    follower.close()
    log.close()
