"""`confirmed.json`: only copies that still count do, and a damaged file confirms nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from audit_async._layout.confirmed_file import Confirmed, ConfirmedCopy, encode_confirmed, read_confirmed
from audit_async.errors import LogCorrupted

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def a_copy(seq: int, *, copies: int = 1, days: int = 1) -> ConfirmedCopy:
    """Return what a collector has."""
    return ConfirmedCopy(
        collector=f"c{seq}", seq=seq, hash="0" * 64, copies=copies, expires_at=NOW + timedelta(days=days)
    )


def test_copies_are_counted(tmp_path: Path) -> None:
    """Each collector's as many as it vouches for; expired ones do not count."""
    confirmed = Confirmed(log_id="l", confirmed=(a_copy(5), a_copy(9), a_copy(7, copies=2), a_copy(99, days=0)))
    assert [confirmed.up_to(copies, now=NOW) for copies in (1, 2, 3, 4, 5)] == [9, 7, 7, 5, None]
    assert read_confirmed(tmp_path) is None
    (tmp_path / "confirmed.json").write_bytes(encode_confirmed(confirmed))
    assert read_confirmed(tmp_path) == confirmed


def test_a_place_that_several_name_counts_once() -> None:
    """A bucket that the host and two collectors push to has what any of them says, and is one copy."""
    named = [msgspec.structs.replace(a_copy(seq), collector="s3://b") for seq in (4, 9, 6)]
    confirmed = Confirmed(log_id="l", confirmed=(*named, a_copy(5)))
    assert [confirmed.up_to(copies, now=NOW) for copies in (1, 2, 3)] == [9, 5, None]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"log_id":"l","confirmed":[{"seq":1}]}', b"\xff"])
def test_a_damaged_file_confirms_nothing(tmp_path: Path, content: bytes) -> None:
    """It is reported, and not taken for the absence of one."""
    (tmp_path / "confirmed.json").write_bytes(content)
    with pytest.raises(LogCorrupted):
        read_confirmed(tmp_path)
