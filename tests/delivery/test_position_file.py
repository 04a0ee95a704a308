"""A stored position that is not the log's: nothing is delivered by it, and what to do is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async._durable import disk
from audit_async.delivery.position_file import DelivererRuns, Position, SetAside, SinkDirectory, StateUnusable


@pytest.fixture
def sink(tmp_path: Path) -> SinkDirectory:
    """The directory of a sink with the position of a log."""
    directory = SinkDirectory(tmp_path, "siem")
    directory.path.mkdir()
    directory.write(Position(log_id="aa", log="orders/00", seq=7, hash="0" * 64, delivered=8))
    return directory


def test_the_position_of_another_log_is_not_used(sink: SinkDirectory) -> None:
    """As after a file was copied: the records of this log up to there would never be delivered."""
    (sink.path / "bb.json").write_bytes((sink.path / "aa.json").read_bytes())
    with pytest.raises(StateUnusable, match=r"bb\.json is of another log, 'aa'; move it away"):
        sink.read("bb")


@pytest.mark.parametrize("content", [b"", b"{", b'{"log_id":"aa"}', b"\xff", b'{"log_id":"\xff"}', b"[" * 10_000])
def test_a_damaged_position_is_said(sink: SinkDirectory, content: bytes) -> None:
    """And not taken for a log of which nothing was delivered yet."""
    (sink.path / "aa.json").write_bytes(content)
    with pytest.raises(StateUnusable, match=r"aa\.json can't be read: it is damaged; repair it, or move it away"):
        sink.read("aa")
    (sink.path / "aa.json").unlink()
    (sink.path / "aa.json").mkdir()
    with pytest.raises(StateUnusable, match=r"aa\.json can't be read: "):
        sink.read("aa")


def test_damaged_notes_of_refused_records_are_said(sink: SinkDirectory) -> None:
    """A comparison with the receiver would count those as missing."""
    entry = SetAside(log_id="aa", log="orders/00", seq=7, audit_id="x-7", hash="0" * 64, reason="400", at="now")
    sink.set_aside([entry])
    with (sink.path / "set-aside.ndjson").open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(StateUnusable, match=r"set-aside\.ndjson can't be read: it is damaged"):
        sink.all_set_aside()


def test_who_only_looks_whether_a_deliverer_runs_keeps_none_from_starting(
    sink: SinkDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`deliver status` has the lock for an instant, which is not another deliverer."""
    lock = disk.lock
    refused: list[int] = []

    def taken_for_an_instant(fd: int, *, shared: bool = False) -> None:
        if not refused:
            refused.append(fd)
            raise BlockingIOError
        lock(fd, shared=shared)

    monkeypatch.setattr(disk, "lock", taken_for_an_instant)
    sink.lock()
    assert refused
    with pytest.raises(DelivererRuns, match="another deliverer runs"):
        SinkDirectory(sink.path.parent, sink.name).lock()
    sink.unlock()
