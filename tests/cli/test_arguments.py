"""What may be written for times, ranges and heads."""

from __future__ import annotations

import pkgutil
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.core import TyperGroup, TyperOption

from audit_async.cli.arguments import parse_heads, parse_seq_range, parse_time
from audit_async.cli.filters import Filters
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
        Filters(limit=0).query()
    with pytest.raises(typer.BadParameter, match="--until is not later"):
        Filters(since="2026-11-22", until="2026-11-20").query()
    with pytest.raises(typer.BadParameter, match="is not NAME=VALUE"):
        Filters(context=["tenant"]).query()
    assert Filters(context=["tenant=a=b"]).query().context == {"tenant": "a=b"}


def test_each_module_is_named_after_its_command() -> None:
    """The file of a command is found by the command's name; a group of commands is one file."""
    from audit_async.cli import app, commands  # noqa: PLC0415

    root = typer.main.get_command(app.command_line())
    assert isinstance(root, TyperGroup)
    files = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    names = {name.replace("-", "_") for name in root.commands}
    renamed = {"alerts": "alert_commands", "config": "config_check", "events": "event_catalogue"}
    assert files == {renamed.get(name, name) for name in names}


def test_every_command_that_reads_records_has_the_same_filters() -> None:
    """A filter that one command has is in all of them, with the same help."""
    from audit_async.cli import app  # noqa: PLC0415

    root = typer.main.get_command(app.command_line())
    assert isinstance(root, TyperGroup)

    def options(name: str) -> dict[str, str | None]:
        return {
            parameter.opts[0]: parameter.help
            for parameter in root.commands[name].params
            if isinstance(parameter, TyperOption)
        }

    shared = {"--actor", "--resource", "--type", "--critical", "--context", "--text"}
    for name in ("tail", "stats", "export"):
        assert {o: options(name).get(o) for o in shared} == {o: options("query")[o] for o in shared}
