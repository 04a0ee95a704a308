"""The index is a cache: it makes queries faster, and nothing that happens to it changes what they find."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_async import LogCorrupted
from audit_async._durable import disk
from audit_async._layout.names import UNFINISHED
from audit_async._query import index_file, recorded_members, search, term_collector
from audit_async._query import segment_scan as scan
from audit_async._query import term_index as index
from audit_async._query.term_index import IndexedSegment, LogIndex
from audit_async._trail.log_files import find_logs
from audit_async._trail.segment_parts import Part, parts_of
from audit_async.reader import AuditQuery, AuditReader, Glob
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
        event = {"event_type": f"test.type_{n % 4}", "user_id": user, "doc_id": f"doc-{n % 7}"}
        log.write(msgspec.json.encode(event) + b',"context":{"tenant":"t-%d"}' % (n % 5))
    log.sealed()
    yield log
    log.close()


def eves(log: WrittenLog) -> list[str]:
    """Return the hashes of eve's records."""
    return [hash_of(line) for line in log.lines if b'"eve"' in line]


def index_of(log: WrittenLog) -> Path:
    """Return the directory of a log's index."""
    return log.directory / "index"


def build(base_dir: Path, *, again: bool = False) -> list[IndexedSegment]:
    """Index what is not indexed."""

    async def collect() -> list[IndexedSegment]:
        return [segment async for segment in AuditReader(base_dir).build_index(again=again)]

    return anyio.run(collect)


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
        AuditQuery(context={"tenant": "t-3"}),
    ],
)
def test_only_what_has_no_index_is_scanned(
    tmp_path: Path, log: WrittenLog, scanned: list[str], query: AuditQuery
) -> None:
    """A query never makes an index; of the segments that have one, only the lines it points to are read."""
    wanted = hashes(ask(tmp_path, query, use_index=False))
    assert wanted
    assert hashes(ask(tmp_path, query)) == wanted
    assert not index_of(log).exists()
    assert [made.problem for made in build(tmp_path)] == [None] * len(log.sealed())
    scanned.clear()
    assert hashes(ask(tmp_path, query)) == wanted
    assert len(scanned) == 1, "the active segment"
    for path in list(index_of(log).iterdir())[::2]:
        path.unlink()
    scanned.clear()
    assert hashes(ask(tmp_path, query)) == wanted
    assert len(scanned) == 1 + (len(log.sealed()) + 1) // 2


def test_what_is_indexed_is_not_indexed_again(tmp_path: Path, log: WrittenLog) -> None:
    """Building goes on with the segments that have no index; `again` makes all of them."""
    assert len(build(tmp_path)) == len(log.sealed())
    assert build(tmp_path) == []
    next(index_of(log).iterdir()).unlink()
    assert len(build(tmp_path)) == 1
    assert len(build(tmp_path, again=True)) == len(log.sealed())


def test_processes_share_the_work(tmp_path: Path, log: WrittenLog, scanned: list[str]) -> None:
    """With several processes the same segments are indexed, each once, and the outcomes come in order."""
    seen: list[tuple[int, int]] = []

    async def collect() -> list[IndexedSegment]:
        building = AuditReader(tmp_path).build_index(processes=3, progress=lambda *so_far: seen.append(so_far))
        return [segment async for segment in building]

    made = anyio.run(collect)
    assert [segment.segment for segment in made] == log.sealed()
    assert [segment.problem for segment in made] == [None] * len(made)
    total = sum(segment.segment_bytes for segment in made)
    assert seen[-1] == (total, total)
    assert hashes(ask(tmp_path, BY_EVE)) == eves(log)
    assert len(scanned) == 1


def test_a_time_range_opens_only_the_segments_that_lie_in_it(
    tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the index, a query for one moment reads one sealed segment, and the active one."""
    build(tmp_path)
    moment = datetime.fromisoformat(json.loads(log.lines[50])["timestamp"])
    query = AuditQuery(start=moment, end=moment + timedelta(microseconds=1))
    opened = []
    plain_open = scan.open_part

    def note(part: Part, *arguments: Any) -> Any:
        opened.append(part.segment.first_seq)
        return plain_open(part, *arguments)

    for module in (scan, search, index):
        monkeypatch.setattr(module, "open_part", note)
    assert [record.seq for record in ask(tmp_path, query)] == [50]
    assert len(opened) == 2


def test_times_are_exact_for_any_clock(tmp_path: Path, log: WrittenLog) -> None:
    """A clock that was set back for a while hides nothing from a time range, and the index knows."""
    moment = datetime.fromisoformat(json.loads(log.lines[50])["timestamp"])
    log.now_ns -= 86_400 * 10**9
    log.write({"event_type": "test.early", "user_id": "eve"})
    log.now_ns += 86_400 * 10**9
    log.write(*({"event_type": "test.filled", "text": "x" * 900} for _ in range(4)))
    log.sealed()
    build(tmp_path)
    assert ask(tmp_path, AuditQuery(actor="eve", start=moment + timedelta(days=1))) == []
    early = AuditQuery(end=moment - timedelta(hours=12))
    assert [record.seq for record in ask(tmp_path, early)] == [100]


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change a file's content."""

    def harm(path: Path) -> None:
        path.chmod(0o600)
        path.write_bytes(change(path.read_bytes()))

    return harm


def replaced(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Put something else in a file's place."""

    def harm(path: Path) -> None:
        path.unlink()
        make(path)

    return harm


def pages_at(value: int) -> Callable[[Path], None]:
    """Let all pages begin elsewhere."""

    def change(content: bytes) -> bytes:
        length = int.from_bytes(content[8:16], "little")
        pages = int(json.loads(content[-length:])["pages"])
        begin = len(content) - length - 8 * pages
        return content[:begin] + value.to_bytes(8, "little") * pages + content[-length:]

    return changed(change)


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        changed(lambda content: b"this is no index" * 1000),
        changed(lambda content: content[: len(content) // 2]),
        changed(lambda content: content + b"x"),
        changed(lambda content: content[:64] + bytes(len(content) - 64)),
        changed(lambda content: bytes(len(content))),
        changed(lambda content: b""),
        changed(lambda content: content.replace(b"AAINDEX2", b"AAINDEX1")),
        changed(lambda content: content.replace(b'"log_id":"', b'"log_id":"f')),
        changed(lambda content: content.replace(b'"sha256":"', b'"sha256":"0')),
        changed(lambda content: content[:16] + bytes(16) + content[32:]),
        pages_at(5),
        pages_at(1 << 31),
        pages_at(1 << 63),
        replaced(Path.mkdir),
        replaced(os.mkfifo),
        replaced(lambda path: path.symlink_to("/etc/passwd")),
    ],
)
@pytest.mark.parametrize("newest_first", [False, True])
def test_whatever_happens_to_it_changes_no_result(
    tmp_path: Path, log: WrittenLog, scanned: list[str], harm: Callable[[Path], None], newest_first: bool
) -> None:
    """An index that was deleted, damaged or exchanged is not used, and made again by the next building."""
    query = AuditQuery(actor="eve", event_types=("test.*_1", "test.*_3"), newest_first=newest_first)
    wanted = hashes(ask(tmp_path, query, use_index=False))
    build(tmp_path)
    for path in index_of(log).iterdir():
        harm(path)
    assert hashes(ask(tmp_path, query)) == wanted
    for path in index_of(log).iterdir():
        if path.is_dir():
            path.rmdir()
    build(tmp_path)
    scanned.clear()
    assert hashes(ask(tmp_path, query)) == wanted
    assert len(scanned) == 1, "it is in use again"


def test_it_holds_no_text_and_is_for_those_who_may_read_the_segment(tmp_path: Path, log: WrittenLog) -> None:
    """Names and resources are not in the files, only checksums; who may not read a segment may not read its index."""
    build(tmp_path)
    for path in index_of(log).iterdir():
        content = path.read_bytes()
        assert b"test.type_" in content
        for text in (b"eve", b"user-", b"doc-", b"t-3"):
            assert text not in content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(index_of(log).stat().st_mode) == 0o700


def test_it_goes_with_its_segment(tmp_path: Path, log: WrittenLog) -> None:
    """After a segment was deleted, nothing of it is in the index; what an older release kept goes, too."""
    build(tmp_path)
    first = log.sealed()[0]
    (log.directory / "index.sqlite3").touch()
    assert (index_of(log) / f"{first}.index").exists()
    log.delete(first)
    assert not (index_of(log) / f"{first}.index").exists()
    assert not (log.directory / "index.sqlite3").exists()
    assert hashes(ask(tmp_path, BY_EVE)) == eves(log)


def test_it_outlives_archiving(tmp_path: Path, log: WrittenLog, scanned: list[str]) -> None:
    """A segment that is archived keeps its index: its content is what it was, which is found out once."""
    build(tmp_path)
    log.archive(log.sealed())
    for newest_first in (False, True):
        scanned.clear()
        found = hashes(ask(tmp_path, AuditQuery(actor="eve", newest_first=newest_first)))
        assert found == (eves(log)[::-1] if newest_first else eves(log))
        assert len(scanned) == 1
    assert build(tmp_path) == []


def test_a_changed_segment_is_noticed(tmp_path: Path, log: WrittenLog) -> None:
    """A record that somebody made eve's after the segment was indexed is damage, as it is without the index."""
    build(tmp_path)
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
    problems = [made.problem for made in build(tmp_path, again=True) if made.problem]
    assert problems == ["its content is not what was sealed; verify the trail"]


def test_a_copy_is_compared_once(tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied trail has new files; their content is compared with what was indexed, and that is remembered."""
    build(tmp_path)
    shutil.copytree(tmp_path / "orders", tmp_path / "copy" / "orders")
    assert hashes(ask(tmp_path / "copy", BY_EVE)) == eves(log)
    monkeypatch.setattr(index, "sha256", lambda *_: pytest.fail("compared again"))
    assert hashes(ask(tmp_path / "copy", BY_EVE)) == eves(log)


def test_it_disturbs_neither_opening_nor_checking(tmp_path: Path, log: WrittenLog) -> None:
    """The directory is nothing to the writer, to an independent check and to verify."""
    build(tmp_path)
    log.close()
    check_trail(tmp_path)
    report = anyio.run(AuditReader(tmp_path).verify)
    assert report.valid
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
    """If the log's directory can't be written, the index is in the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build(tmp_path / "orders")
    assert hashes(ask(tmp_path / "orders", BY_EVE)) == eves(log)
    assert len(scanned) == 1
    assert not index_of(log).exists()
    [path] = (tmp_path / "cache" / "audit-async").iterdir()
    assert path.name == json.loads((log.directory / "log.json").read_bytes())["log_id"]
    log.delete(log.sealed()[0])
    build(tmp_path / "orders")
    assert len(list(path.iterdir())) == len([e for e in log.store.sealed_segments if e.state == "live"])


@pytest.mark.usefixtures("unwritable")
def test_without_a_place_for_it_segments_are_scanned(
    tmp_path: Path, log: WrittenLog, scanned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any place for an index, building says so, and queries work as without one."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    [made] = build(tmp_path / "orders")
    assert made.problem == "there is no directory that can be written for it"
    assert hashes(ask(tmp_path, BY_EVE)) == eves(log)
    assert len(scanned) > 10


def test_several_may_build_it_together(tmp_path: Path, log: WrittenLog) -> None:
    """Builders and queries that run at once disturb each other in nothing, and leave nothing unfinished."""
    found: list[list[str]] = []

    async def read() -> None:
        found.append([record.hash async for record in AuditReader(tmp_path).query(BY_EVE)])

    async def make() -> None:
        assert [made.problem async for made in AuditReader(tmp_path).build_index(again=True) if made.problem] == []

    async def all_together() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(make)
                group.start_soon(read)

    anyio.run(all_together)
    assert found == [eves(log)] * 4
    assert sorted(path.name for path in index_of(log).iterdir()) == [f"{name}.index" for name in log.sealed()]


def test_a_builder_that_is_behind_leaves_newer_files(tmp_path: Path, log: WrittenLog) -> None:
    """A builder that listed the segments before others were sealed and indexed takes no file for a left-over."""
    [as_read] = find_logs(tmp_path)
    listed = parts_of(as_read)
    sealed_before = len(log.sealed())
    log.write(*({"event_type": "test.more", "user_id": "eve"} for _ in range(30)))
    assert len(log.sealed()) > sealed_before
    build(tmp_path)
    assert list(index.build_index(as_read, listed)) == []
    assert sorted(path.name for path in index_of(log).iterdir()) == [f"{name}.index" for name in log.sealed()]


def test_a_file_that_is_being_written_is_no_left_over(tmp_path: Path, log: WrittenLog) -> None:
    """What a builder writes is locked, and what a killed one has left is not, whatever process has its id by now.

    In containers ids are few, and the first process is always 1: that of a builder before may be our own.
    """
    build(tmp_path)
    unfinished = index_of(log) / f"{log.sealed()[0]}.index.{os.getpid()}.abcd{UNFINISHED}"
    fd = disk.create_file(str(unfinished), dir_fd=None)
    disk.lock(fd)
    build(tmp_path)
    assert unfinished.exists()
    disk.close(fd)
    build(tmp_path)
    assert not unfinished.exists()


@pytest.mark.parametrize("when", ["before the lock", "during the removal"])
def test_a_file_that_was_taken_for_a_left_over_is_made_again(
    tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """It looks like one between its making and its lock; another builder may remove it then."""
    lock = disk.lock
    removing: list[int] = []

    def lock_too_late(fd: int, **how: bool) -> None:
        if not removing:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            removing.append(disk.open_file(str(path), writable=True))
            if when == "during the removal":
                lock(removing[0])
            path.unlink()
        lock(fd, **how)

    monkeypatch.setattr(disk, "lock", lock_too_late)
    assert [made.problem for made in build(tmp_path)] == [None] * len(log.sealed())
    os.close(removing[0])
    assert sorted(path.name for path in index_of(log).iterdir()) == [f"{name}.index" for name in log.sealed()]


def test_a_file_without_a_kind_of_terms_is_used_for_the_others(
    tmp_path: Path, log: WrittenLog, scanned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an older release indexed stays usable; a question it can't answer scans, until it is indexed again."""
    log.write(*({"event_type": "test.from", "ip": f"10.0.0.{n}", "user_id": "eve"} for n in range(40)))
    monkeypatch.setattr(index, "KINDS", ("actor", "context", "resource", "type"))
    build(tmp_path)
    assert len(hashes(ask(tmp_path, BY_EVE))) == 50
    assert len(scanned) == 1
    by_ip = AuditQuery(ip="10.0.0.7")
    assert len(ask(tmp_path, by_ip)) == 1
    assert len(scanned) == 1 + len(log.sealed()) + 1
    monkeypatch.undo()
    assert len(build(tmp_path)) == len(log.sealed())
    assert build(tmp_path) == []
    assert len(ask(tmp_path, by_ip)) == 1


def test_a_killed_building_leaves_whole_files_and_goes_on(tmp_path: Path, log: WrittenLog) -> None:
    """Killed at any point, a builder leaves whole index files; the next one clears up and makes the others."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from audit_async._durable import disk\n"
        "from audit_async._query.term_index import build_index\n"
        "from audit_async._trail.log_files import find_logs\n"
        "from audit_async._trail.segment_parts import parts_of\n"
        "left = int(sys.argv[2])\n"
        "def counted(call):\n"
        "    def count(*arguments, **more):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left < 0:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return call(*arguments, **more)\n"
        "    return count\n"
        "for name in ('create_file', 'change_mode', 'sync_data', 'rename', 'unlink'):\n"
        "    setattr(disk, name, counted(getattr(disk, name)))\n"
        "[log] = find_logs(Path(sys.argv[1]))\n"
        "list(build_index(log, parts_of(log)))\n"
    )
    for calls in range(9):
        command = [sys.executable, "-c", program, str(tmp_path), str(calls)]
        assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
        assert hashes(ask(tmp_path, BY_EVE)) == eves(log)
    build(tmp_path)
    assert sorted(path.name for path in index_of(log).iterdir()) == [f"{name}.index" for name in log.sealed()]


def test_a_long_segment_is_indexed_in_blocks_of_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scanned: list[str]
) -> None:
    """Of a segment with many pages and blocks only the page is searched that a value is on, whichever it is."""
    log = WrittenLog(tmp_path, max_bytes=1 << 26)
    log.write(*({"event_type": "test.many", "doc_id": f"d{n}", "user_id": "eve"} for n in range(20_000)))
    log.now_ns += 86_400 * 10**9
    log.write({"event_type": "test.last", "user_id": "eve"})
    [sealed] = log.sealed()
    monkeypatch.setattr(index_file, "_BLOCK_ENTRIES", 1500)
    monkeypatch.setattr(index_file, "_PAGES_IN_BLOCK", 3)
    monkeypatch.setattr(index_file, "_TERM", 3.0)
    build(tmp_path)
    [part, _] = parts_of(find_logs(tmp_path)[0])
    with LogIndex(find_logs(tmp_path)[0]).opened(part) as opened:
        assert opened is not None
        assert opened.header.pages > 20
        assert len(opened.header.blocks) > 5
    assert hashes(ask(tmp_path, BY_EVE)) == list(map(hash_of, log.lines))
    scanned.clear()
    for n in (0, 1, 9_999, 10_000, 19_998, 19_999):
        [record] = ask(tmp_path, AuditQuery(resource_id=f"d{n}"))
        assert record.seq == n
    assert scanned == [parts_of(find_logs(tmp_path)[0])[1].segment.name] * 6, "the active segment"
    assert sealed not in scanned
    log.close()


def test_terms_with_the_same_checksum_are_told_apart(
    tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages to which the index leads by chance are searched for nothing."""
    monkeypatch.setattr(index_file, "term_of", lambda seed, value: len(value))
    monkeypatch.setattr(term_collector, "terms_of", lambda seed, values: map(len, values))
    build(tmp_path)
    assert hashes(ask(tmp_path, BY_EVE)) == eves(log)


def test_an_index_of_another_state_of_the_log_is_not_believed(tmp_path: Path, log: WrittenLog) -> None:
    """A directory that was put back from a backup, under an index of what came later, gives what is in it now."""
    build(tmp_path)
    newer = {path.name: path.read_bytes() for path in index_of(log).iterdir()}
    old_id = json.loads((log.directory / "log.json").read_bytes())["log_id"]
    log.close()
    shutil.rmtree(log.directory)
    again = WrittenLog(tmp_path)
    again.write(*({"event_type": "test.other", "user_id": "eve", "n": n} for n in range(60)))
    again.sealed()
    identity = json.loads((again.directory / "log.json").read_bytes())
    index_of(again).mkdir()
    for name, content in newer.items():
        (index_of(again) / name).write_bytes(content.replace(old_id.encode(), identity["log_id"].encode()))
    assert hashes(ask(tmp_path, BY_EVE)) == eves(again)
    assert len(eves(again)) == 60
    again.close()


SEALED = json.loads((Path(__file__).parents[2] / "docs" / "vectors" / "sealed.json").read_bytes())["sealed"][0][
    "sealed"
]
VALUES = st.sampled_from(["eve", "e", "", "ev\u00e9", "doc-1", "7", "\u202e", "200", "failure", SEALED])
SCALARS = VALUES | st.integers(-1, 10) | st.sampled_from([None, True, False, 1.0, 1, 200, 404, 1 << 64, 2.5])
ANYTHING = (
    SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["user_id", "ip", "status"]), SCALARS)
)
MEMBERS = (
    *("user_id", "actor", "actor_id", "attempted_user", "requester", "doc_id", "subject", "resource", "ip", "path"),
    *("route", "status", "outcome", "result", "note"),
)
PATHS_ASKED: tuple[str | Glob | None, ...] = (None, None, "eve", "200", Glob("e*"))
STATUSES_ASKED: tuple[str | int | None, ...] = (None, None, 200, "4xx")
TYPES = st.sampled_from(["a.b", "a.c", "b", "", "auth.failure", "http.request", "authz.granted"])


@st.composite
def events(draw: st.DrawFn) -> dict[str, object]:
    """Give an event in which any member may hold anything."""
    event: dict[str, object] = {"event_type": draw(TYPES | SCALARS)}
    for member in draw(st.lists(st.sampled_from(MEMBERS), unique=True, max_size=7)):
        event[member] = draw(ANYTHING)
    return event


@settings(max_examples=300, deadline=None)
@given(made=st.lists(events(), min_size=1, max_size=12), context=st.dictionaries(VALUES, ANYTHING, max_size=2))
def test_a_page_has_the_terms_of_each_of_its_records_and_no_others(
    made: list[dict[str, object]], context: dict[str, object]
) -> None:
    """What is collected from many lines at once is what a query looks at in each of them."""
    lines = [msgspec.json.encode({"event": event, "context": context, "timestamp": "2026"}) for event in made]
    collector = term_collector.TermCollector(b"salt")
    expected: set[int] = set()
    for line in lines:
        expected |= term_collector.terms_of_record(b"salt", recorded_members.read_said(line))
    assert set(collector.terms_in(b"".join(line + b"\n" for line in lines))) == expected


def checked(base_dir: Path) -> list[str | None]:
    """Return what is wrong with each index of a trail."""

    async def collect() -> list[str | None]:
        return [found.problem async for found in AuditReader(base_dir).check_index()]

    return anyio.run(collect)


def without_terms(content: bytes) -> bytes:
    """Remove an entry from an index file, as somebody would who hides a record."""
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[-length:])
    header["blocks"][0][0] -= 1
    encoded = json.dumps(header).encode()
    return content[:8] + len(encoded).to_bytes(8, "little") + content[16:32] + content[40:-length] + encoded


def disordered(content: bytes) -> bytes:
    """Exchange the first two entries of an index file, so that a search misses them."""
    return content[:32] + content[40:48] + content[32:40] + content[48:]


def of_another_term(content: bytes) -> bytes:
    """Put another term in the place of the first."""
    return content[:32] + bytes(8) + content[40:]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (changed(without_terms), "it does not have all"),
        (changed(of_another_term), "it does not have all"),
        (changed(disordered), "it is damaged; queries may miss records"),
        (pages_at(5), "it does not have all"),
        (pages_at(1 << 31), "it is damaged"),
        (changed(lambda content: content[:-1]), "it is damaged or of another content"),
        (changed(lambda content: content.replace(b'"test.type_1"', b'"test.type_9"')), "it does not have all"),
        (changed(lambda content: re.sub(rb'"latest":"....', b'"latest":"1999', content)), "it does not have all"),
    ],
)
def test_a_check_finds_a_file_that_hides_records(
    tmp_path: Path, log: WrittenLog, harm: Callable[[Path], None], problem: str
) -> None:
    """Whatever somebody takes out of an index file is missed; the file stays, and the log is none the worse."""
    build(tmp_path)
    assert checked(tmp_path) == [None] * len(log.sealed())
    paths = sorted(index_of(log).iterdir())
    harm(paths[1])
    first, second, *others = checked(tmp_path)
    assert first is None
    assert (second or "").startswith(problem)
    assert set(others) == {None}
    assert sorted(index_of(log).iterdir()) == paths
    assert anyio.run(AuditReader(tmp_path).verify).valid


def test_a_check_finds_terms_of_no_record(tmp_path: Path, log: WrittenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with more than its segment has is named, and one without a kind of terms is not."""
    plain = term_collector.TermCollector.terms_in
    monkeypatch.setattr(term_collector.TermCollector, "terms_in", lambda self, page: [*plain(self, page), 1 << 31])
    build(tmp_path)
    assert set(checked(tmp_path)) == {"it has what is in no record; queries search in vain"}
    monkeypatch.undo()
    build(tmp_path, again=True)
    assert set(checked(tmp_path)) == {None}


def test_a_segment_that_is_deleted_meanwhile_leaves_no_index(tmp_path: Path, log: WrittenLog) -> None:
    """What retention deletes while it is being indexed is gone with its index."""
    [first, *_] = index.tasks_of_index(find_logs(tmp_path)[0], parts_of(find_logs(tmp_path)[0]))
    deleted: list[bool] = []

    def delete(_bytes: int, _records: int) -> None:
        if not deleted:
            deleted.append(True)
            log.delete(first.sealed.segment)

    assert index.index_segment(first, delete).problem == "it was deleted meanwhile"
    assert list(index_of(log).iterdir()) == []


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_results_are_equal_with_it_and_without(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Over random trails, clocks, archives, deletions and half-made indexes, no query finds more or less with it."""
    base_dir = tmp_path_factory.mktemp("trail")
    log = WrittenLog(base_dir, max_bytes=data.draw(st.sampled_from([1024, 2000, 1 << 20])))
    for _ in range(data.draw(st.integers(1, 30))):
        event = data.draw(events())
        log.now_ns += data.draw(st.integers(-(10**12), 10**12))
        encoded = msgspec.json.encode(event)
        context = (
            b',"context":' + msgspec.json.encode({"tenant": data.draw(VALUES)}) if data.draw(st.booleans()) else b""
        )
        log.write(encoded + context)
    sealed = log.sealed()
    if sealed:
        log.archive(data.draw(st.lists(st.sampled_from(sealed), unique=True)))
    build(base_dir)
    for path in index_of(log).iterdir() if index_of(log).exists() else ():
        if data.draw(st.booleans()):
            path.unlink()
    for _ in range(8):
        query = AuditQuery(
            actor=data.draw(st.none() | st.sampled_from(["eve", "ev\u00e9", "7"])),
            resource_id=data.draw(st.none() | st.sampled_from(["doc-1", "7"])),
            ip=data.draw(st.none() | st.sampled_from(["eve", "7"])),
            path=data.draw(st.sampled_from(PATHS_ASKED)),
            status=data.draw(st.sampled_from(STATUSES_ASKED)),
            outcome=data.draw(st.none() | st.sampled_from(["success", "failure", "completed"])),
            event_types=data.draw(st.sampled_from([(), ("a.*",), ("b",)])),
            context=data.draw(st.sampled_from([{}, {"tenant": "eve"}])),
            newest_first=data.draw(st.booleans()),
        )
        assert hashes(ask(base_dir, query)) == hashes(ask(base_dir, query, use_index=False))
    assert set(checked(base_dir)) <= {None}
    log.close()
