"""Small files: replaced as a whole, and lines that a crash left unfinished are written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async._durable.whole_files import append_lines, replace_file
from audit_async.delivery.position_file import SetAside, SinkDirectory


@pytest.mark.parametrize("torn", [b"", b"{", b"x" * 200_000, b"\0" * 10])
def test_an_unfinished_line_is_written_over(tmp_path: Path, torn: bytes) -> None:
    """However long it is, and whatever a power cut has left in its place; whole lines before it stay."""
    path = tmp_path / "lines"
    for before in (b"", b"one\n", b"one\ntwo\n"):
        path.write_bytes(before + torn)
        append_lines(path, b"new\n")
        assert path.read_bytes() == before + b"new\n"
    path.unlink()
    append_lines(path, b"new\n")
    assert path.read_bytes() == b"new\n"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """What an earlier process left unfinished is in nobody's way."""
    path, unfinished = tmp_path / "file", tmp_path / "file.unfinished"
    for content in (b"one", b"another"):
        unfinished.write_bytes(b"left over")
        replace_file(path, content, unfinished=unfinished, mode=0o640)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o640
        assert not unfinished.exists()


def test_what_was_set_aside_is_readable_after_a_torn_write(tmp_path: Path) -> None:
    """A deliverer that was killed while it noted a record goes on, and what was noted before is still known."""
    sink = SinkDirectory(tmp_path, "siem")
    sink.lock()
    entry = SetAside(log_id="ab", log="orders/00", seq=7, audit_id="x-7", hash="0" * 64, reason="400", at="now")
    sink.set_aside([entry])
    with (sink.path / "set-aside.ndjson").open("ab") as file:
        file.write(b'{"log_id":"a')
    assert sink.all_set_aside() == [entry]
    sink.set_aside([entry])
    assert sink.all_set_aside() == [entry, entry]
    sink.unlock()
