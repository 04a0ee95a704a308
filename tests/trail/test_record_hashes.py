"""The hashes of a log's records are read in order, each once, while the log is written, rotated and archived."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async._trail import record_hashes as hashes
from audit_async._trail.log_files import Log, find_logs
from audit_async._trail.record_hashes import RecordHashes
from audit_async._trail.segment_parts import Part, parts_of
from audit_async.errors import LogCorrupted
from tests.trail.lived import LivedLog


@pytest.fixture
def log(tmp_path: Path) -> LivedLog:
    """A log with several segments."""
    return LivedLog(tmp_path / "audit").session()


def reader(log: LivedLog, after_seq: int = -1) -> RecordHashes:
    """Read a log's hashes from some record on."""
    return RecordHashes(find_logs(log.base_dir)[0], after_seq)


def expected(log: LivedLog) -> list[bytes]:
    """Return the hashes of what was framed."""
    return [bytes.fromhex(head.hash.decode()) for head in log.chain.heads]


@pytest.mark.parametrize("chunk_bytes", [100, 700, 64 << 10])
@pytest.mark.parametrize("most", [1, 2, 7, 1000])
def test_pieces_of_any_size_make_up_the_whole(
    log: LivedLog, most: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is read at a time, and from whichever record on, no hash is left out and none comes twice."""
    monkeypatch.setattr(hashes, "_CHUNK_BYTES", chunk_bytes)
    wanted = expected(log)
    for after_seq in (-1, 0, 5, len(wanted) - 2, len(wanted) - 1):
        hashes_of = reader(log, after_seq)
        read: list[bytes] = []
        for up_to_seq in (3, 3, len(wanted) // 2, len(wanted) - 1):
            while piece := hashes_of.read(up_to_seq, most):
                read += piece
            assert len(read) == max(0, up_to_seq - after_seq)
        assert read == wanted[after_seq + 1 :]


def test_more_hashes_than_are_taken_apart_at_once(tmp_path: Path) -> None:
    """Hundreds of records in one chunk."""
    log = LivedLog(tmp_path / "audit").session(batches=1, per_batch=700, max_bytes=1 << 20)
    assert reader(log).read(len(log.chain.heads) - 1, 1000) == expected(log)


def test_a_log_that_goes_on_meanwhile(log: LivedLog) -> None:
    """Segments that are begun, sealed, archived and deleted between two reads are found where they are by then."""
    early, half = reader(log), reader(log)
    seen = len(log.chain.heads)
    assert len(half.read(seen // 2, 1000)) == seen // 2 + 1
    log.session().retain(archived=2).session()
    wanted = expected(log)
    assert half.read(len(wanted) - 1, 1000) == wanted[seen // 2 + 1 :]
    assert early.read(len(wanted) - 1, 1000) == wanted
    first = reader(log)
    assert first.read(0, 1) == wanted[:1]
    log.retain(deleted=2)
    with pytest.raises(LogCorrupted, match="in no segment that is still there"):
        first.read(len(wanted) - 1, 1000)


def test_segments_are_not_listed_for_each_piece(log: LivedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log's list of segments is read once a segment, however small the pieces are."""
    listed: list[str] = []

    def counting(log: Log) -> list[Part]:
        listed.append(log.name)
        return parts_of(log)

    monkeypatch.setattr(hashes, "parts_of", counting)
    monkeypatch.setattr(hashes, "_CHUNK_BYTES", 400)
    one_by_one = reader(log)
    last = len(log.chain.heads) - 1
    while one_by_one.read(last, 1):
        pass
    assert len(listed) == len(log.segments) < last


def test_what_is_not_there_or_does_not_follow_is_named(log: LivedLog) -> None:
    """A record that is missing, out of its place, or none at all is an error with its sequence number."""
    last = len(log.chain.heads) - 1
    with pytest.raises(LogCorrupted, match="should be on the disk") as caught:
        reader(log).read(last + 1, 1000)
    assert caught.value.seq == last + 1
    path, before = log.segments[0], log.segments[0].read_bytes()
    for change, reason in (
        (lambda lines: [*lines[:2], *lines[3:]], "does not follow"),
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"hash":"', b'"hash":"x')[:-4] + b'"}\n', *lines[3:]],
            "not a record",
        ),
        (lambda lines: [*lines[:1], b"nonsense\n", *lines[2:]], "follow"),
        (lambda lines: [lines[0][:-10] + b'       "}\n', *lines[1:]], "not a record"),
    ):
        log.edit(path, change)
        with pytest.raises(LogCorrupted, match=reason):
            reader(log).read(last, 1000)
        log.edit(path, lambda _: [before])
    path.rename(path.with_suffix(".gone"))
    with pytest.raises((LogCorrupted, FileNotFoundError)):
        reader(log).read(last, 1000)
