"""What may be written for times, ranges and heads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from audit_async.cli.arguments import parse_heads, parse_seq_range, parse_time
from audit_async.cli.filters import build_query
from audit_async.status import Position

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HASH = "ab" * 32


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22T10:30:00Z", datetime(2026, 11, 22, 10, 30, tzinfo=UTC)),
        ("2026-11-22T10:30:00+02:00", datetime(2026, 11, 22, 8, 30, tzinfo=UTC)),
        ("2026-11-22 10:30", datetime(2026, 11, 22, 10, 30, tzinfo=UTC)),
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
    ],
)
def test_times(text: str, time: datetime) -> None:
    """A time is RFC 3339, a date, or an age; without a zone it is UTC."""
    assert parse_time(text, "--since", now=NOW) == time


def test_a_date_as_an_end_is_the_whole_day() -> None:
    """`--until 2026-11-22` has all of that day."""
    assert parse_time("2026-11-22", "--until", now=NOW, end_of_day=True) == datetime(2026, 11, 23, tzinfo=UTC)
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    assert parse_time("2026-11-22T00:00:00Z", "--until", now=NOW, end_of_day=True) == midnight


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-7d", "99999999999d", "9999999w", "2026-02-30", "7d ago"])
def test_no_times(text: str) -> None:
    """What is no time is refused, and the message says what is one."""
    with pytest.raises(typer.BadParameter, match=r"give 2026-11-23T04:35:12Z"):
        parse_time(text, "--since", now=NOW)


def test_ranges() -> None:
    """A range is two numbers, or one."""
    assert parse_seq_range("100-250") == (100, 250)
    assert parse_seq_range("7") == (7, 7)
    for text in ("", "5-4", "a-b", "1-", "-1", "1" * 30):
        with pytest.raises(typer.BadParameter):
            parse_seq_range(text)


def test_heads() -> None:
    """A head names its log unless there is only one; its hash may be in capitals."""
    assert parse_heads([f"41:{HASH.upper()}"], ["orders/00"]) == {"orders/00": Position(41, HASH)}
    both = parse_heads([f"a/00=1:{HASH}", f"b/00=2:{HASH}"], ["a/00", "b/00"])
    assert both == {"a/00": Position(1, HASH), "b/00": Position(2, HASH)}
    for texts in ([f"41:{HASH}"], ["41"], [f"41:{HASH[1:]}"], [f"c/00=1:{HASH}"], [f"a/00=1:{HASH}"] * 2):
        with pytest.raises(typer.BadParameter):
            parse_heads(texts, ["a/00", "b/00"])


def test_a_wrong_query_names_the_option() -> None:
    """What the query refuses is reported under the option's name."""
    with pytest.raises(typer.BadParameter, match="--limit is not a whole number"):
        build_query(limit=0)
    with pytest.raises(typer.BadParameter, match="--until is not later"):
        build_query(since="2026-11-22", until="2026-11-20")
    with pytest.raises(typer.BadParameter, match="is not NAME=VALUE"):
        build_query(context=["tenant"])
    assert build_query(context=["tenant=a=b"]).context == {"tenant": "a=b"}
