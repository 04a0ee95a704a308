"""A record is found by its `audit_id` without reading the log; whatever is not found so is never a wrong record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_async._query import counted_ids
from audit_async._query.counted_ids import find_counted
from audit_async._query.segment_scan import Found
from audit_async._trail.log_files import find_logs
from audit_async._trail.segment_parts import parts_of
from tests.trail.lived import LivedLog, changed
from tests.trail.signed import SigningLog


def find(log: LivedLog | SigningLog, audit_id: str) -> Found | None:
    """Look for a record."""
    return find_counted(parts_of(find_logs(log.base_dir)[0]), audit_id)


def id_of(line: bytes) -> str:
    """Return a record's id."""
    audit_id: str = json.loads(line)["audit_id"]
    return audit_id


@pytest.mark.parametrize("near", [1, 300, 32 << 10])
def test_each_record_is_found_where_it_is_due(near: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In sealed segments and in the one that is open, the first and the last of each as well."""
    monkeypatch.setattr(counted_ids, "_NEAR", near)
    log = LivedLog(tmp_path / "audit").session(30)
    for seq, line in enumerate(log.chain.lines):
        found = find(log, id_of(line))
        assert found is not None
        assert (found.seq, found.line) == (seq, line)
    assert find(log, "5f0c1e9b7a3d2c48-ffff") is None
    assert find(log, "0000000000000000-0") is None


def test_each_opening_counts_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several openings in a segment the first is searched, the others are left to whoever reads it all."""
    monkeypatch.setattr(counted_ids, "_NEAR", 1)
    log = SigningLog(tmp_path / "audit").session().session().session()
    ids = [id_of(line) for line in log.lines]
    found = [find(log, audit_id) for audit_id in ids]
    assert len({audit_id[:16] for audit_id in ids}) == 3
    for seq, (audit_id, record) in enumerate(zip(ids, found, strict=True)):
        assert record is None or (record.seq, record.line) == (seq, log.lines[seq])
        assert (record is not None) == (audit_id[:16] == ids[0][:16])


def test_an_id_in_an_event_is_no_record(tmp_path: Path) -> None:
    """Whoever writes another record's beginning into his own does not become it."""
    log = LivedLog(tmp_path / "audit").session()
    wanted = "5f0c1e9b7a3d2c48-fff"
    text = json.dumps(f'\n{{"seq":1,"audit_id":"{wanted}","timestamp":"2026-11-22T12:00:00.000000Z",').encode()
    log.edit(
        log.segments[-1], lambda lines: [*lines, lines[-1].replace(b'"event_type"', b'"text":%s,"event_type"' % text)]
    )
    assert find(log, wanted) is None


@pytest.mark.parametrize("wrong", ["", "1", "x", "5f0c1e9b7a3d2c48-", '5f0c1e9b7a3d2c48-1",', "5f0c1e9b7a3d2c48-.*"])
def test_what_is_no_id_is_not_found(wrong: str, tmp_path: Path) -> None:
    """Nothing of it is taken for a pattern."""
    assert find(LivedLog(tmp_path / "audit").session(), wrong) is None


def test_damage_and_archives_are_left_to_who_reads_the_log(tmp_path: Path) -> None:
    """A line that does not hash to what it claims is not returned; no error is raised here."""
    log = LivedLog(tmp_path / "audit").session()
    first, last = log.chain.lines[1], log.chain.lines[-1]
    log.edit(log.segments[0], lambda lines: [*lines[:1], changed(lines[1]), *lines[2:]])
    assert find(log, id_of(first)) is None
    log.edit(log.segments[0], lambda _: [b"nonsense\n"] * 3000)
    assert find(log, id_of(first)) is None
    log.segments[-1].unlink()
    assert find(log, id_of(last)) is None
    log = LivedLog(tmp_path / "other").session().retain(archived=1)
    assert find(log, id_of(log.chain.lines[0])) is None
    assert find(log, id_of(log.chain.lines[-1])) is not None
