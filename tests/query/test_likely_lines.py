"""Searching many segments in processes: it finds what a scan finds, and speaks only of what it has read whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit_async._query import likely_lines, search
from audit_async._query.likely_lines import LikelyTask, find_lines
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import scan
from audit_async._trail import worker_pool
from audit_async._trail.segment_parts import Part
from audit_async.errors import LogCorrupted
from audit_async.reader import AuditQuery, AuditReader, Record
from tests.trail.written import WrittenLog, hashes

pytestmark = pytest.mark.anyio

BY_EVE = AuditQuery(actor="eve")
QUERIES = (
    BY_EVE,
    AuditQuery(actor="eve", newest_first=True),
    AuditQuery(actor="eve", event_types=("t.1",)),
    AuditQuery(text="\u202e"),
    AuditQuery(actor="nobody"),
    AuditQuery(event_types=("t.*",)),
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WrittenLog]:
    """A log of several segments, some archived, one line spelled otherwise than the library does it."""
    log = WrittenLog(tmp_path)
    for number in range(60):
        actor = "eve" if number % 4 == 0 else f"other-{number}"
        log.write({"event_type": f"t.{number % 3}", "user_id": actor, "note": "\u202e" if number == 7 else "x"})
    log.write(b'{"event_type":"t.1","user_id":"\\u0065ve"}')
    for _ in range(20):
        log.write({"event_type": "t.2", "user_id": "bob"})
    log.archive(log.sealed()[:3])
    yield log
    log.close()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take two processes, however little there is to search."""
    monkeypatch.setattr(likely_lines, "WORTH_BYTES", 1)
    monkeypatch.setattr(worker_pool, "_BYTES_A_PROCESS", 1)
    monkeypatch.setattr(likely_lines, "processes_for", lambda total, processes: 2)


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the segments that the query itself scans."""
    names: list[str] = []

    def note(part: Part, *arguments: Any, **more: Any) -> Any:
        names.append(part.segment.name)
        return scan(part, *arguments, **more)

    monkeypatch.setattr(search, "scan", note)
    return names


async def ask(base_dir: Path, query: AuditQuery, **how: Any) -> list[Record]:
    """Return what a query gives."""
    return [record async for record in AuditReader(base_dir).query(query, **how)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the processes are the same
@pytest.mark.parametrize("query", QUERIES, ids=repr)
async def test_processes_find_what_a_scan_finds(
    tmp_path: Path, log: WrittenLog, request: pytest.FixtureRequest, query: AuditQuery
) -> None:
    """In the same order, from segments and archives, and counted alike."""
    expected = hashes(await ask(tmp_path, query))
    request.getfixturevalue("processes")
    assert hashes(await ask(tmp_path, query)) == expected
    assert hashes(await ask(tmp_path, query, use_index=False)) == expected
    assert sum((await AuditReader(tmp_path).count(query)).values()) == len(expected)
    assert (len(expected) > 0) is (query.actor != "nobody")


@pytest.mark.usefixtures("processes")
async def test_only_the_open_segment_is_scanned_by_the_query(
    tmp_path: Path, log: WrittenLog, scanned: list[str]
) -> None:
    """The sealed ones were searched; one that has an index is left to that; a limit is left to the scan."""
    found = hashes(await ask(tmp_path, BY_EVE))
    assert len(found) == 16
    assert len(scanned) == 1
    scanned.clear()
    assert [made.problem async for made in AuditReader(tmp_path).build_index()]
    assert likely_lines.tasks_of_query(AuditReader(tmp_path).logs(), Filter(BY_EVE), use_index=True) == []
    assert hashes(await ask(tmp_path, BY_EVE)) == found
    assert len(scanned) == 1
    scanned.clear()
    limited = AuditQuery(actor="eve", limit=1)
    assert len(await ask(tmp_path, limited, use_index=False)) == 1
    assert scanned


@pytest.mark.usefixtures("processes")
async def test_damage_is_reported_as_ever(tmp_path: Path, log: WrittenLog) -> None:
    """A segment that is cut short, and a wanted line that was changed, are errors that name the segment."""
    live = next(entry for entry in log.store.sealed_segments if entry.state == "live").segment
    path = log.directory / live
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-40])
    with pytest.raises(LogCorrupted, match=live):
        await ask(tmp_path, BY_EVE)
    place = content.index(b'"eve"')
    path.write_bytes(content[:place] + content[place:].replace(b'"x"', b'"y"', 1))
    with pytest.raises(LogCorrupted, match=live):
        await ask(tmp_path, BY_EVE)


async def test_nothing_is_said_of_a_segment_that_is_not_all_there(log: WrittenLog) -> None:
    """Missing, cut short, a broken archive, too many hits: then the query scans it."""
    needles = Filter(BY_EVE).needles

    def search_of(name: str) -> object:
        entry = next(entry for entry in log.store.sealed_segments if entry.segment == name)
        task = LikelyTask(directory=str(log.directory), sealed=entry, needles=needles)
        return find_lines(task, lambda *_: None).places

    archived = [entry.segment for entry in log.store.sealed_segments if entry.state == "archived"]
    live = [entry.segment for entry in log.store.sealed_segments if entry.state == "live"]
    assert search_of(archived[0])
    assert search_of(live[0]) is not None
    archive = log.directory / "archive" / f"{archived[0]}.zst"
    archive.chmod(0o600)
    archive.write_bytes(archive.read_bytes()[:-9])
    path = log.directory / live[0]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    (log.directory / live[1]).unlink()
    assert [search_of(name) for name in (archived[0], live[0], live[1])] == [None, None, None]
