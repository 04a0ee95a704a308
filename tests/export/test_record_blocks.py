"""An export takes exactly what the query finds, in its order, although it checks many lines at once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async._export.record_blocks import blocks_of, last_seqs_of
from audit_async._query import search
from audit_async._query.audit_query import AuditQuery
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._query.term_index import Place, build_index
from audit_async._trail.log_files import Log, find_logs
from audit_async._trail.segment_parts import Part, parts_of
from audit_async.errors import LogCorrupted
from tests.cli.made_trails import erasure, failure, make_trail, rehashed
from tests.trail.written import WrittenLog

QUERIES: Final = (
    AuditQuery(),
    AuditQuery(limit=7),
    AuditQuery(newest_first=True),
    AuditQuery(newest_first=True, limit=7),
    AuditQuery(actor="bob"),
    AuditQuery(actor="b\u00f6b"),
    AuditQuery(actor="bob", newest_first=True),
    AuditQuery(resource_id="c-7"),
    AuditQuery(event_types=("data.*",)),
    AuditQuery(event_types=("auth.failure",), limit=3),
    AuditQuery(text="/3"),
    AuditQuery(critical=True),
    AuditQuery(start=datetime(2026, 11, 22, 12, 0, 0, 20_000, UTC)),
    AuditQuery(end=datetime(2026, 11, 22, 12, 0, 0, 30_000, UTC), actor="bob"),
    AuditQuery(start=datetime(2026, 11, 22, 12, 0, 0, 5_000, UTC), end=datetime(2026, 11, 22, 12, 0, 0, 9_000, UTC)),
)


def events(count: int, seed: int) -> Iterator[bytes]:
    """Yield some events of each kind, in an order of their own; also such as this library would spell otherwise."""
    random_ = random.Random(seed)  # noqa: S311 - it repeats
    for number in range(count):
        yield random_.choice(
            [
                failure(random_.choice(["bob", "b\u00f6b", "alice"]), number),
                failure("bob").replace(b'"bob"', b'"\\u0062ob"'),
                failure("bob").replace(b'":"', b'" : "'),
                erasure(f"c-{number}"),
                b'{"event_type":"a.b","n":[1.5,1e99],"actor":7}',
            ]
        )


def found_by_query(logs: list[Log], query: AuditQuery, *, use_index: bool) -> list[tuple[str, bytes]]:
    """Return the log and line of each record that a query finds."""
    found: list[tuple[str, bytes]] = []
    with closing(Search(logs, query, Damage(skip=False), use_index=use_index).run()) as run:
        for one in run:
            if one is not None:
                found.append((one.log.name, one.line))
            if len(found) == query.limit:
                break
    return found


def exported(logs: list[Log], query: AuditQuery, *, use_index: bool) -> list[tuple[str, bytes]]:
    """Return the same of an export."""
    found: list[tuple[str, bytes]] = []
    for block in blocks_of(logs, query, Damage(skip=False), use_index=use_index):
        if block is not None:
            assert len(found) < (query.limit or 1 << 30)
            names = [log.name for log, count in block.sources for _ in range(count)]
            found += zip(names, block.lines, strict=True)
            if block.records is not None:
                assert [record.hash.encode() for record in block.records] == [line[-67:-3] for line in block.lines]
    return found


@pytest.mark.parametrize("query", QUERIES, ids=repr)
@pytest.mark.parametrize("use_index", [False, True])
def test_an_export_takes_what_the_query_finds(query: AuditQuery, *, use_index: bool, tmp_path: Path) -> None:
    """Of one log and of several, over segments, with an index and without."""
    for instance, step_ns in (("00", 1_000_000), ("01", 700_000), ("02", 1_000_000)):
        make_trail(tmp_path / "t", events(80, int(instance)), instance=instance, step_ns=step_ns, max_bytes=6000)
    logs = find_logs(tmp_path / "t")
    if use_index:
        for log in logs:
            for _ in build_index(log, parts_of(log)):
                pass
    for some in (logs, logs[:1]):
        assert exported(some, query, use_index=use_index) == found_by_query(some, query, use_index=use_index)


class Harm(NamedTuple):
    """What is done to a segment."""

    changed: list[tuple[float, int]]  #: a place in it, and the byte that is there then
    torn_bytes: int
    is_sealed_again: bool  #: with hashes that fit


HARM = st.builds(
    Harm,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=2),
    st.integers(0, 300),
    st.booleans(),
)


@given(st.integers(0, 1 << 30), st.sampled_from(QUERIES), HARM)
@settings(max_examples=80, deadline=None)
def test_damage_is_reported_as_the_query_reports_it(seed: int, query: AuditQuery, harm: Harm) -> None:
    """With changed bytes and a torn end: the same records, or the same line that is none."""
    with TemporaryDirectory() as directory:
        base_dir = Path(directory)
        make_trail(base_dir, events(40, seed))
        (segment,) = (base_dir / "orders" / "00").glob("*.audit")
        content = bytearray(segment.read_bytes())
        for place, byte in harm.changed:
            content[int(place * len(content))] = byte
        whole = rehashed(bytes(content)) if harm.is_sealed_again else bytes(content)
        segment.write_bytes(whole[: len(whole) - harm.torn_bytes])
        logs = find_logs(base_dir)
        outcomes: list[object] = []
        for read in (found_by_query, exported):
            try:
                outcomes.append(read(logs, query, use_index=False))
            except LogCorrupted as error:
                outcomes.append((error.segment, error.line, error.reason))
    assert outcomes[0] == outcomes[1]


def test_a_segment_in_which_much_is_found_is_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going to each page that an index names costs more than reading all, if there are many."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(200)], max_bytes=40_000)
    logs = find_logs(tmp_path / "t")
    for _ in build_index(logs[0], parts_of(logs[0])):
        pass
    went_to: list[int] = []

    def counting(part: Part, pages: Sequence[Place], *rest: Any, **how: Any) -> Iterator[Found | None]:
        went_to.append(len(pages))
        return search.search_pages(part, pages, *rest, **how)

    monkeypatch.setattr("audit_async._export.record_blocks.search_pages", counting)
    sealed = sum(part.sealed_bytes is not None for part in parts_of(logs[0]))
    assert sealed
    assert len(exported(logs, AuditQuery(actor="bob"), use_index=True)) == 200
    assert went_to == []
    assert exported(logs, AuditQuery(actor="nobody"), use_index=True) == []
    assert went_to == [0] * sealed


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_archives_and_a_place_to_end_at(query: AuditQuery, tmp_path: Path) -> None:
    """Compressed segments are read as the others, and with an end no later record comes, wherever it is."""
    log = WrittenLog(tmp_path / "t", max_bytes=3000)
    for event in events(60, 1):
        log.write(event)
    log.archive(log.sealed()[::2])
    log.close()
    logs = find_logs(tmp_path / "t")
    assert list((tmp_path / "t").rglob("*.zst"))
    expected = found_by_query(logs, query, use_index=False)
    assert exported(logs, query, use_index=False) == expected
    if query.newest_first or query.limit is not None:
        return
    assert last_seqs_of(logs) == {"orders/00": 59}
    for end in (-1, 0, 17, 40, 59, 99):
        blocks = blocks_of(logs, query, Damage(skip=False), use_index=False, ends={"orders/00": end})
        lines = [line for block in blocks if block is not None for line in block.lines]
        assert lines == [line for _, line in expected if json.loads(line)["seq"] <= end]
