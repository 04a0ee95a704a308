"""The index is a cache: it makes queries faster, and nothing that happens to it changes what they find."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import LogCorrupted
from audit_async._query import index_file, search
from audit_async._query import segment_scan as scan
from audit_async._query import term_index as index
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage
from audit_async._query.term_index import LogIndex
from audit_async._trail.segment_parts import Part, parts_of
from audit_async.reader import AuditQuery, AuditReader
from tests.store.chained import open_store
from tests.trail.written import WrittenLog, ask, hash_of, hashes
from tests.trails import check_trail

BY_EVE = AuditQuery(actor="eve")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WrittenLog]:
    """Give a log of a hundred records in a dozen segments; every tenth is eve's, of various types."""
    log = WrittenLog(tmp_path)
    for n in range(100):
        user = "eve" if n % 10 == 3 else f"user-{n}"
        log.write({"event_type": f"test.type_{n % 4}", "user_id": user, "doc_id": f"doc-{n % 7}"})
    log.sealed()
    yield log
    log.close()


def eves(log: WrittenLog) -> list[str]:
    """Return the hashes of eve's records."""
    return [hash_of(line) for line in log.lines if b'"eve"' in line]


def index_of(log: WrittenLog) -> Path:
    """Return where a log's index stands."""
    return log.directory / "index.sqlite3"


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the segments that are scanned."""
    names: list[str] = []
    plain_scan = scan.scan

    def note(part: Part, *arguments: Any, **more: Any) -> Any:
        names.append(part.segment.name)
        return plain_scan(part, *arguments, **more)

    monkeypatch.setattr(search, "scan", note)
    return names


@pytest.mark.parametrize(
    "query",
    [
        BY_EVE,
        AuditQuery(resource_id="doc-3"),
        AuditQuery(event_types=("test.type_2",)),
        AuditQuery(actor="eve", event_types=("*_1", "*_3"), newest_first=True),
        AuditQuery(actor="eve", resource_id="doc-2"),
    ],
)
def test_sealed_segments_are_scanned_only_without_it(
    tmp_path: Path, log: WrittenLog, scanned: list[str], query: AuditQuery
) -> None:
    """Once a sealed segment is in the index, only the lines it points to are read; the active one is always scanned."""
    wanted = hashes(ask(tmp_path, query, use_index=False))
    assert wanted
    assert len(scanned) > 10
    assert not index_of(log).exists()
    for _ in range(2):
        scanned.clear()
        assert hashes(ask(tmp_path, query)) == wanted
        assert len(scanned) == 1


def test_a_time_range_opens_only_the_segments_that_lie_in_it(
    tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the index, a query for one moment reads one sealed segment, and the active one."""
    moment = datetime.fromisoformat(json.loads(log.lines[50])["timestamp"])
    query = AuditQuery(start=moment, end=moment + timedelta(microseconds=1))
    assert [record.seq for record in ask(tmp_path, query)] == [50]
    opened = []
    plain_open = scan.open_part

    def note(part: Part, damage: Damage) -> Any:
        opened.append(part.segment.first_seq)
        return plain_open(part, damage)

    for module in (scan, search, index):
        monkeypatch.setattr(module, "open_part", note)
    assert [record.seq for record in ask(tmp_path, query)] == [50]
    assert len(opened) == 2


def test_a_time_range_alone_is_no_reason_to_read_the_terms(tmp_path: Path, log: WrittenLog) -> None:
    """Segments outside the range get into the index with their times only; those are exact for any clock."""
    moment = datetime.fromisoformat(json.loads(log.lines[50])["timestamp"])
    log.now_ns -= 86_400 * 10**9
    log.write({"event_type": "test.early", "user_id": "eve"})
    log.now_ns += 86_400 * 10**9
    log.write(*({"event_type": "test.filled", "text": "x" * 900} for _ in range(4)))
    log.sealed()
    assert ask(tmp_path, AuditQuery(actor="eve", start=moment + timedelta(days=1))) == []
    database = sqlite3.connect(index_of(log))
    rows = database.execute("SELECT count(*), sum(has_terms) FROM segments").fetchone()
    database.close()
    assert rows[0] > 12
    assert rows[1] == 0
    early = AuditQuery(end=moment - timedelta(hours=12))
    assert [record.seq for record in ask(tmp_path, early)] == [100]


def garbage(path: Path) -> None:
    """Make it something else."""
    path.write_bytes(b"this is no database" * 1000)


def cut(path: Path) -> None:
    """Cut it in the middle."""
    os.truncate(path, path.stat().st_size // 2)


def zero_pages(path: Path) -> None:
    """Lose its pages but the first."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))


def statement(sql: str) -> Callable[[Path], None]:
    """Change it by SQL."""

    def change(path: Path) -> None:
        with sqlite3.connect(path, isolation_level=None) as database:
            database.execute(sql)
        database.close()

    change.__name__ = sql.replace(" ", "_")[:40]
    return change


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        garbage,
        cut,
        zero_pages,
        lambda path: path.write_bytes(b""),
        statement("PRAGMA user_version = 999"),
        statement("PRAGMA application_id = 7"),
        statement("UPDATE log SET log_id = 'another'"),
        statement("UPDATE log SET byte_order = 'middle'"),
        statement("UPDATE segments SET sha256 = 'other'"),
        statement("UPDATE segments SET first_seq = first_seq + 1000"),
        statement("UPDATE segments SET ctime_ns = 0"),
        statement("DROP TABLE postings"),
        statement("DROP TABLE types"),
        statement("DROP TABLE segments"),
        statement("ALTER TABLE segments DROP COLUMN earliest"),
        statement("UPDATE postings SET offsets = x'01'"),
        statement("UPDATE postings SET offsets = 'text'"),
        statement("UPDATE postings SET offsets = 7"),
        statement("UPDATE postings SET offsets = NULL"),
        statement("UPDATE postings SET offsets = x'05000000'"),
        statement("UPDATE postings SET offsets = x'ffffffff'"),
        statement("UPDATE postings SET offsets = offsets || x'00000000'"),
    ],
)
@pytest.mark.parametrize("newest_first", [False, True])
def test_whatever_happens_to_it_is_mended(
    tmp_path: Path, log: WrittenLog, scanned: list[str], harm: Callable[[Path], None], newest_first: bool
) -> None:
    """An index that was deleted, damaged or changed so that it doesn't fit is made anew; the results stay the same."""
    query = AuditQuery(actor="eve", event_types=("test.*_1", "test.*_3"), newest_first=newest_first)
    wanted = hashes(ask(tmp_path, query, use_index=False))
    assert hashes(ask(tmp_path, query)) == wanted
    harm(index_of(log))
    assert hashes(ask(tmp_path, query)) == wanted
    assert hashes(ask(tmp_path, query)) == wanted
    scanned.clear()
    assert hashes(ask(tmp_path, query)) == wanted
    assert len(scanned) == 1, "it is in use again"


def test_it_holds_no_text_and_only_for_its_owner(tmp_path: Path, log: WrittenLog) -> None:
    """Names and resources are not in the file, only hashes; other users can't read it."""
    ask(tmp_path, BY_EVE)
    content = index_of(log).read_bytes()
    assert b"test.type_3" in content
    assert b"eve" not in content
    assert b"user-5" not in content
    assert b"doc-3" not in content
    assert stat.S_IMODE(index_of(log).stat().st_mode) == 0o600


def test_what_retention_deletes_vanishes_from_it(tmp_path: Path, log: WrittenLog) -> None:
    """After a segment was deleted, the next query takes out all that the index held of it."""
    ask(tmp_path, BY_EVE)
    first = log.sealed()[0]
    log.delete(first)
    ask(tmp_path, BY_EVE)
    database = sqlite3.connect(index_of(log))
    for table in ("segments", "types", "postings"):
        assert database.execute(f"SELECT min(first_seq) FROM {table}").fetchone()[0] > 0  # noqa: S608 - ours
    database.close()
    assert hashes(ask(tmp_path, BY_EVE)) == eves(log)


def test_it_outlives_archiving(tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that is archived stays in the index: its content is what it was."""
    ask(tmp_path, BY_EVE)
    log.archive(log.sealed())
    monkeypatch.setattr(LogIndex, "_learn", lambda *_, **__: pytest.fail("read into the index again"))
    for newest_first in (False, True):
        found = hashes(ask(tmp_path, AuditQuery(actor="eve", newest_first=newest_first)))
        assert found == (eves(log)[::-1] if newest_first else eves(log))


def test_a_changed_segment_is_noticed(tmp_path: Path, log: WrittenLog) -> None:
    """A record that somebody made eve's after the segment was indexed is damage, as it is without the index."""
    ask(tmp_path, BY_EVE)
    segment = log.directory / log.sealed()[2]
    segment.chmod(0o600)
    content = segment.read_bytes()
    other = next(line for line in content.splitlines() if b'"eve"' not in line).split(b'"user_id":"')[1].split(b'"')[0]
    before = segment.stat()
    segment.write_bytes(content.replace(b'"%s"' % other, b'"eve"'.ljust(len(other) + 2), 1))
    os.utime(segment, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert segment.stat().st_size == before.st_size
    for use_index in (True, False):
        with pytest.raises(LogCorrupted, match="the hash is not the hash of this record"):
            ask(tmp_path, BY_EVE, use_index=use_index)


def test_it_disturbs_neither_opening_nor_checking(tmp_path: Path, log: WrittenLog) -> None:
    """The file in the log's directory is nothing to the writer and to an independent check."""
    ask(tmp_path, BY_EVE)
    log.close()
    assert index_of(log).exists()
    check_trail(tmp_path)
    store = open_store(tmp_path)
    assert store.head.seq == 99
    assert not store.recovered
    store.close()


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the logs' directories be read-only, also for a superuser."""
    monkeypatch.setattr(os, "access", lambda *_: False)


@pytest.mark.usefixtures("unwritable")
def test_read_only_media_have_it_in_the_cache(
    tmp_path: Path, log: WrittenLog, scanned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the log's directory can't be written, the index stands in the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        scanned.clear()
        assert hashes(ask(tmp_path / "orders", BY_EVE)) == eves(log)
    assert len(scanned) == 1
    assert not index_of(log).exists()
    [path] = (tmp_path / "cache" / "audit-async").iterdir()
    assert path.stem == json.loads((log.directory / "log.json").read_bytes())["log_id"]


@pytest.mark.usefixtures("unwritable")
def test_where_nothing_can_be_written_segments_are_scanned(
    tmp_path: Path, log: WrittenLog, scanned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any place for an index, queries work as without one."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert hashes(ask(tmp_path, BY_EVE)) == eves(log)
    assert len(scanned) > 10


def test_an_index_in_use_by_another_is_not_waited_for_long(
    tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody else has the file locked, queries read the segments, and leave the file alone."""
    ask(tmp_path, BY_EVE)
    monkeypatch.setattr(index_file, "_BUSY_S", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = sqlite3.connect(index_of(log), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert hashes(ask(tmp_path / "orders", BY_EVE)) == eves(log)
    other.execute("ROLLBACK")
    assert other.execute("SELECT count(*) FROM segments").fetchone()[0] > 10
    other.close()


def test_readers_may_build_it_together(tmp_path: Path, log: WrittenLog) -> None:
    """Several queries that begin at once, with no index yet, all find everything, and leave a whole index."""
    found: list[list[str]] = []

    async def read() -> None:
        found.append([record.hash async for record in AuditReader(tmp_path).query(BY_EVE)])

    async def read_together() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(read)

    anyio.run(read_together)
    assert found == [eves(log)] * 6
    database = sqlite3.connect(index_of(log))
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*) FROM segments").fetchone() == (len(log.sealed()),)
    database.close()


def test_a_reading_that_is_given_up_leaves_nothing_half(
    tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that is closed while a segment is read into the index leaves that segment out of it."""
    monkeypatch.setattr(index, "_MAX_TERMS", 1)  # so that some of it is written by then
    [one] = AuditReader(tmp_path).logs()
    parts = parts_of(one)
    opened = LogIndex.open(one, parts)
    assert opened is not None
    learning = opened.offsets(parts[0], Filter(BY_EVE))
    next(learning)
    learning.close()
    opened.close()
    database = sqlite3.connect(index_of(log))
    assert database.execute("SELECT count(*) FROM segments").fetchone() == (0,)
    assert database.execute("SELECT count(*) FROM postings").fetchone() == (0,)
    database.close()
    assert hashes(ask(tmp_path, BY_EVE)) == eves(log)


def test_terms_are_written_out_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment with more terms than are held in memory is indexed all the same."""
    log = WrittenLog(tmp_path, max_bytes=1 << 26)
    log.write(*({"event_type": "test.many", "doc_id": f"d{n}", "user_id": "eve"} for n in range(20_000)))
    log.now_ns += 86_400 * 10**9
    log.write({"event_type": "test.last", "user_id": "eve"})
    assert len(log.sealed()) == 1
    monkeypatch.setattr(index, "_MAX_TERMS", 500)
    for _ in range(2):
        assert hashes(ask(tmp_path, BY_EVE)) == list(map(hash_of, log.lines))
        [record] = ask(tmp_path, AuditQuery(resource_id="d19999"))
        assert record.seq == 19_999
    database = sqlite3.connect(index_of(log))
    assert database.execute("SELECT max(part) FROM postings").fetchone()[0] > 5
    database.close()
    log.close()


def test_terms_with_the_same_hash_are_told_apart(
    tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines to which the index leads by chance are left out when they are read."""
    monkeypatch.setattr(index, "_term", lambda salt, kind, value: len(value))
    for _ in range(2):
        assert hashes(ask(tmp_path, BY_EVE)) == eves(log)


def test_an_index_of_another_state_of_the_log_is_not_believed(tmp_path: Path, log: WrittenLog) -> None:
    """A directory that was put back from a backup, under an index of what came later, gives what is in it now."""
    ask(tmp_path, BY_EVE)
    newer = index_of(log).read_bytes()
    log.close()
    shutil.rmtree(log.directory)
    again = WrittenLog(tmp_path)
    again.write(*({"event_type": "test.other", "user_id": "eve", "n": n} for n in range(60)))
    again.sealed()
    identity = json.loads((again.directory / "log.json").read_bytes())
    index_of(again).write_bytes(newer)
    statement(f"UPDATE log SET log_id = '{identity['log_id']}'")(index_of(again))  # noqa: S608 - ours
    assert hashes(ask(tmp_path, BY_EVE)) == eves(again)
    assert len(eves(again)) == 60
    again.close()
