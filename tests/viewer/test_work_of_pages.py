"""How much of a trail a page reads: counts that are the same on every machine, and no times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from audit_async._chain import CheckedRecord, Head, check_record
from audit_async._query.needles import Needles
from audit_async._query.segment_scan import candidate_lines
from audit_async._trail.log_files import CHUNK_BYTES
from audit_async.reader import AuditQuery, AuditReader
from audit_async.viewer import ViewLimits
from audit_async.viewer.pages import match_counts
from audit_async.viewer.pages.match_counts import MatchCounts, count_matches
from audit_async.viewer.scoped_reader import ScopedReader
from bench.long_trail import Shape, write_log
from tests.viewer.trail_to_view import AUDITOR, OF_ORDERS, browser_of, viewed

pytestmark = pytest.mark.anyio

_RECORDS = 6_000
_SHAPE = Shape(_RECORDS, segments=3, actors=500, resources=500, rare_hits=10)
#: Records that say whether the log seals names, however many others there are.
_OF_THE_LOG = 5


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail of three segments, two of them sealed and indexed."""
    base_dir = tmp_path_factory.mktemp("trail")
    write_log(base_dir, _SHAPE, service="orders")

    async def build() -> None:
        async for _ in AuditReader(base_dir).build_index(processes=1):
            pass

    anyio.run(build)
    return base_dir


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the lines that are checked by their hash, and the bytes that are searched for lines."""
    counted: Counter[str] = Counter()

    def count_and_check(line: bytes, after: Head | None) -> CheckedRecord:
        counted["checked"] += 1
        return check_record(line, after)

    def count_and_search(data: bytes, needles: Sequence[Needles]) -> Iterator[tuple[int, int]]:
        counted["searched bytes"] += len(data)
        return candidate_lines(data, needles)

    monkeypatch.setattr("audit_async._query.segment_scan.check_record", count_and_check)
    for module in ("segment_scan", "search"):
        monkeypatch.setattr(f"audit_async._query.{module}.candidate_lines", count_and_search)
    return counted


@pytest.mark.parametrize(
    ("params", "most"),
    [({}, 51), ({"actor": _SHAPE.rare_actor}, 10), ({"actor": "nobody"}, 0), ({"text": "no such text"}, 0)],
    ids=["newest", "one actor", "no match, by actor", "no match, by text"],
)
async def test_a_page_checks_the_records_that_it_shows_and_one_more(
    trail: Path, work: Counter[str], tmp_path: Path, params: dict[str, str], most: int
) -> None:
    """However long the trail is: those that can't match are left out by the index or their bytes."""
    async with viewed(trail, access_log=tmp_path) as app, browser_of(app, AUDITOR) as browser:
        assert (await browser.get("/records", params=params)).status_code == 200
    assert work["checked"] <= most + _OF_THE_LOG


async def test_the_next_page_searches_no_more_than_it_shows(trail: Path, work: Counter[str], tmp_path: Path) -> None:
    """What the first question had to read, whether the log seals names, is known: one chunk from the end is read."""
    async with viewed(trail, access_log=tmp_path) as app, browser_of(app, AUDITOR) as browser:
        await browser.get("/records")
        work.clear()
        assert (await browser.get("/records")).status_code == 200
    assert work["searched bytes"] <= CHUNK_BYTES
    assert work["checked"] == 51


async def test_a_live_page_begins_at_the_end(trail: Path, work: Counter[str], tmp_path: Path) -> None:
    """It knows from the pages before whether the log seals names, so that it reads the newest records and no others."""
    async with viewed(trail, access_log=tmp_path) as app, browser_of(app, AUDITOR) as browser:
        await browser.get("/records")
        work.clear()
        with anyio.fail_after(60):
            async with aclosing(ScopedReader(app._trail, AUDITOR).follow(last=3)) as records:
                assert (await anext(records)).seq == _RECORDS + 1
    assert work["searched bytes"] <= CHUNK_BYTES


async def test_counts_read_no_more_than_they_say(
    trail: Path, work: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest matches up to the bound; that older ones are not counted is on the page."""
    monkeypatch.setattr(match_counts, "MOST_MATCHES", 1_000)
    async with viewed(trail, access_log=tmp_path) as app, browser_of(app, AUDITOR) as browser:
        page = (await browser.get("/records/counts")).text
    assert "<b>1,000</b> matches" in page
    assert "older ones are not counted" in page
    assert work["checked"] <= 1_001 + _OF_THE_LOG


async def test_counting_ends_sooner_if_others_wait(trail: Path, tmp_path: Path) -> None:
    """With one place for a search, whoever waits gets it before the trail is counted, and the counts say how far."""
    async with viewed(trail, access_log=tmp_path, limits=ViewLimits(searches=1)) as app:
        everything = await count_matches(ScopedReader(app._trail, AUDITOR), AuditQuery())
        assert (everything.matches, everything.is_complete) == (_RECORDS + 4, True)
        counted: list[MatchCounts] = []

        async def count() -> None:
            counted.append(await count_matches(ScopedReader(app._trail, AUDITOR), AuditQuery()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            await anyio.lowlevel.checkpoint()  # it has the place
            page = await ScopedReader(app._trail, OF_ORDERS).page(AuditQuery())
    assert len(page.records) == 50
    assert not counted[0].is_complete
    assert match_counts.ENOUGH_MATCHES <= counted[0].matches < _RECORDS
    assert counted[0].oldest is not None
