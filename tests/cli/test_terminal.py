"""What reaches a terminal: nothing that a record brings but text, whoever wrote the record."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import IO

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from audit_async._sanitize.unsafe_text import UNSAFE
from audit_async.cli import terminal
from audit_async.cli.record_view import RecordLines, RecordView
from audit_async.cli.terminal import Cell, Column, Output, byte_size, count_of, json_line, visible
from audit_async.reader import AuditQuery, AuditReader
from tests.cli.commands import (
    OWN_SEQUENCES,
    Audit,
    foreign_controls,
    run_all_on_terminal,
    run_at_once_on_terminal,
    run_in_pipes,
    run_on_terminal,
)
from tests.cli.made_trails import HOSTILE, erasure, failure, make_hostile_trail, make_trail

COMMANDS = [
    "query {trail}",
    "query {trail} --json",
    "query {trail} --wide",
    "query {trail} --columns actor,event.attempted_user,type",
    "tail {trail}",
    "tail {trail} --wide",
    "show 0 {trail}",
    "show 1 {trail}",
    "show 1 {trail} --json",
    "stats {trail}",
    "stats {trail} --json",
    "verify {trail}",
    "doctor {trail}",
    "hold show {trail}",
]


@given(st.text())
def test_visible_text_is_printable(text: str) -> None:
    """Whatever a text holds, its visible form is one line, printable, and what was printable stays as it was."""
    shown = visible(text)
    assert not UNSAFE.search(shown)
    assert "\n" not in shown
    assert shown.isprintable()
    if text.isprintable() and not UNSAFE.search(text):
        assert shown == text


@given(st.text())
def test_json_is_ascii_and_the_same_data(text: str) -> None:
    """JSON for a program holds the text as it is, spelled in printable ASCII."""
    line = json_line({text: [text]})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {text: [text]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\r", "a\\nb\\tc\\x0d"),
        ("\u202e\u2066", "\\u202e\\u2066"),
        ("\U000e0041", "\\U000e0041"),
        ("M\u00fcller \u5317\u4eac \U0001f468", "M\u00fcller \u5317\u4eac \U0001f468"),
        ("\u200d\u3164\u00ad", "\\u200d\\u3164\\xad"),
        ("a\u3164b", "a\\u3164b"),
    ],
)
def test_what_is_visible(text: str, shown: str) -> None:
    """Controls, bidirectional marks and invisible tags become escapes; other people's letters stay letters."""
    assert visible(text) == shown


def test_a_hostile_record_on_a_terminal(tmp_path: Path) -> None:
    """On a real terminal, no command lets a control character of a record through, and markup is only text."""
    make_hostile_trail(tmp_path / "t")
    commands = [command.format(trail=tmp_path / "t") for command in COMMANDS]
    for command, (status, written) in zip(commands, run_all_on_terminal(commands, columns=400), strict=True):
        assert status in {0, 1}
        assert foreign_controls(written) == set()
        if command.startswith(("query", "show 0", "tail")) and "--json" not in command:
            assert b"\\x1b[2J" in written
        if "--wide" in command:
            assert b"[red]markup[/red]" in written


def test_a_hostile_record_in_a_pipe(tmp_path: Path, audit: Audit) -> None:
    """In a pipe nothing is coloured, and nothing of a record but text gets through."""
    make_hostile_trail(tmp_path / "t")
    for command in COMMANDS:
        ended = audit(*shlex.split(command.format(trail=tmp_path / "t")))
        assert ended.status in {0, 1}
        if "--columns" in command:
            assert {line.count("\t") for line in ended.out.splitlines()} == {2}
            ended = ended._replace(out=ended.out.replace("\t", ""))
        assert foreign_controls((ended.out + ended.err).encode()) == set()
        assert "\x1b" not in ended.out + ended.err
        if "--json" in command:
            assert ended.out.isascii()
    (row, *_) = audit("query", tmp_path / "t", "--json").rows
    assert row["event"]["attempted_user"] == HOSTILE


def test_a_name_from_the_command_line_is_shown_harmless(tmp_path: Path, audit: Audit) -> None:
    """Also what comes back from the command's own arguments, in an error, is printable."""
    wrong: list[list[str | Path]] = [
        ["query", tmp_path / "\x1b[2J"],
        ["show", "\x1b[2J", tmp_path],
        ["verify", tmp_path, "--seq", "\x1b"],
    ]
    for arguments in wrong:
        ended = audit(*arguments)
        assert ended.status in {2, 3}
        assert "\x1b" not in ended.out + ended.err


def test_colour_is_for_terminals(tmp_path: Path) -> None:
    """A terminal gets colour, unless NO_COLOR is set; a pipe gets none."""
    make_trail(tmp_path / "t", [failure("bob")])
    assert b"\x1b[31mauth.failure" in run_on_terminal("query", tmp_path / "t", columns=140)[1]
    plain = run_on_terminal("query", tmp_path / "t", columns=140, NO_COLOR="1")[1]
    assert b"\x1b[3" not in plain
    assert "\x1b" not in run_in_pipes("query", tmp_path / "t").out


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_lines_fit_the_terminal(columns: int, tmp_path: Path) -> None:
    """No line of a list, table or chart is longer than the terminal is wide."""
    make_trail(tmp_path / "t", [failure("bob" * n, n) for n in range(1, 30)])
    commands = [f"{command} {tmp_path / 't'}" for command in ("query", "stats", "tail", "doctor", "retention")]
    for _, written in run_all_on_terminal(commands, columns=columns, NO_COLOR="1"):
        lines = OWN_SEQUENCES.sub(b"", written).decode().splitlines()
        assert len(lines) >= 3
        assert max(map(len, lines)) <= columns


def test_columns_on_a_narrow_terminal(tmp_path: Path) -> None:
    """On eighty columns a record is two lines under its day, so that nearly all of it is seen; columns stay columns."""
    make_trail(tmp_path / "t", [erasure("c-1"), *(failure("bob", n) for n in range(19))])
    _, written = run_on_terminal("query", tmp_path / "t", columns=80, NO_COLOR="1")
    head, below, day, *lines = OWN_SEQUENCES.sub(b"", written).decode().splitlines()[:43]
    assert head.split() == ["time", "seq", "type", "actor", "result"]
    assert below == "          target  details"
    assert day == "2026-11-22, UTC"
    assert {line.find("auth.failure") for line in lines[2::2]} == {lines[0].index("data.deleted"), head.index("type")}
    assert lines[1] == '          c-1  data_types=["orders"]  reason=gdpr_art_17'
    assert lines[2].split() == ["12:00:00", "1", "auth.failure", "bob", "failure"]
    assert lines[3] == "          /0  ip=203.0.113.9  reason=bad"
    assert len(lines) == 40


def test_a_whole_record_on_a_narrow_terminal(tmp_path: Path) -> None:
    """On eighty columns `show` folds no hash, and doctor's texts have most of the width."""
    chain = make_trail(tmp_path / "t", [erasure("c-1"), failure("bob"), failure("eve")])
    (_, shown), (_, checked) = run_all_on_terminal(
        [f"show 1 {tmp_path / 't'}", f"doctor {tmp_path / 't'}"], columns=80, NO_COLOR="1"
    )
    for head in chain.heads:
        assert head.hash in OWN_SEQUENCES.sub(b"", shown)
    lines = OWN_SEQUENCES.sub(b"", checked).decode().splitlines()
    assert lines[0] == "host"
    assert "orders/00" in lines
    assert max(len(line) - len(line.lstrip()) for line in lines) < 30


def on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> Output:
    """Return an output of this process that writes as on a terminal of this width, to the standard output."""

    def console(file: IO[str]) -> Console:
        return Console(file=file, width=width, force_terminal=True, color_system=None, markup=False, highlight=False)

    monkeypatch.setattr(terminal, "_console", console)
    return Output(as_json=False)


def test_a_table_that_is_too_wide_folds_prose_and_no_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One column makes the room, its words stay whole, names and numbers in the others too; nothing is lost."""
    columns = [Column("log"), Column("segment"), Column("seq", right=True), Column("what is wrong")]
    name, reason = "000000000000-2026-11-29.audit", "seq is 4, but 3 is due after the record before it"
    rows = [["billing-and-invoices/00", name, "1,234", reason], ["山田/00", name, "4", "short"]]
    on_a_terminal(80, monkeypatch).table(columns, rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert sum(name in line for line in lines) == 2
    assert any("billing-and-invoices/00" in line and "1,234" in line for line in lines)
    last = lines[0].index("what is wrong")
    folded = [line[last:].split() for line in lines[2:-1]]
    assert len(folded) > 1
    assert [word for words in folded for word in words] == reason.split()


def test_a_table_that_fits_is_not_folded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is one that can't fit cut without a word: then each column is folded."""
    columns, row = [Column("a"), Column("b")], ["x" * 30, "y z " * 9]
    on_a_terminal(80, monkeypatch).table(columns, [row])
    assert f"{row[0]}   {row[1].rstrip()}" in capsys.readouterr().out
    on_a_terminal(20, monkeypatch).table(columns, [row])
    narrow = capsys.readouterr().out
    assert (narrow.count("x"), narrow.count("y"), narrow.count("z")) == (30, 9, 9)
    assert max(map(len, narrow.splitlines())) <= 20


def test_a_name_that_leaves_no_room_for_the_table_is_above_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of a first column that does not fit are headings, each once and whole; one that fits stays a column."""
    columns = [Column("sink"), Column("log"), Column("state"), Column("durable", right=True)]
    long, short = "on-call-in-the-north-" * 3, "siem"
    rows = [[name, log, "caught up", "12"] for name in (long, short) for log in ("orders/00", "orders/01")]
    on_a_terminal(80, monkeypatch).grouped_table(columns, rows)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert (lines.count(long), lines.count(short)) == (1, 1)
    assert [line.split()[0] for line in lines if "12" in line] == ["orders/00", "orders/01"] * 2
    on_a_terminal(100, monkeypatch).grouped_table(columns, rows)
    assert capsys.readouterr().out.count(f"{long}  ") == 2


@pytest.mark.parametrize("width", [20, 30, 40, 50])
def test_no_number_of_a_table_is_cut(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However narrow the terminal is: a number or a hash may be folded, but each of its digits is there."""
    columns = [Column("host"), *(Column(name, right=True) for name in "abcd"), Column("e", whole=True)]
    row = ["web", *["1,234,567,890"] * 4, "f" * 16]
    on_a_terminal(width, monkeypatch).table(columns, [row])
    written = capsys.readouterr().out
    assert max(map(len, written.splitlines())) <= width
    assert (written.count("9"), written.count("f"), written.count("w")) == (4, 16, 1)


def test_what_is_folded_is_below_its_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Items after a mark: on a terminal the second line is indented, in a pipe each item is one line."""
    texts = ["word " * 30, "\x1b[2J"]
    on_a_terminal(60, monkeypatch).items(Cell("!"), texts)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("  !  word word")
    assert second.startswith("     word")
    monkeypatch.undo()
    Output(as_json=False).items(Cell("!"), texts)
    assert capsys.readouterr().out.splitlines() == [f"  !  {texts[0]}", "  !  \\x1b[2J"]


@pytest.mark.parametrize("columns", [80, 120, 126, 127, 140, 200])
def test_details_are_never_beyond_the_edge(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several logs, however long their names: each column is seen, and the sequence number whole."""
    long = "an-instance-with-a-name-of-some-length-and-more"
    for instance in ("00", long):
        make_trail(tmp_path / "t", [failure("bob" * 30, n) for n in range(12)], instance=instance)
    output = on_a_terminal(columns, monkeypatch)

    async def show() -> None:
        reader = AuditReader(tmp_path / "t")
        await (await RecordLines.of(reader, output, RecordView())).write_all(reader.query(AuditQuery()))

    anyio.run(show)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= columns
    assert any("details" in line for line in lines[:2])
    assert not any("……" in line for line in lines)
    places = re.findall(r"orders/00:[0-9]+|\borders/a\S*…\S*-more:[0-9]+", "\n".join(lines))
    assert len(places) == 24
    assert sum("ip=" in line for line in lines) == 24


@pytest.mark.parametrize(
    ("command", "title"), [("verify", "verifying"), ("stats", "counting"), ("export", "exporting")]
)
def test_long_work_shows_its_progress(command: str, title: str, tmp_path: Path) -> None:
    """A terminal sees how far it is, and nothing of that is left at the end; a pipe never does, nor does short work."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(2000)])
    target: list[str | Path] = [tmp_path / "out.csv", "--force"] if command == "export" else []
    arguments: list[str | Path] = [command, tmp_path / "t", *target]
    status, written = run_at_once_on_terminal(*arguments)
    assert status == 0
    assert title.encode() in written
    result = run_in_pipes(*arguments)
    assert title not in result.out + result.err
    assert title.encode() not in run_on_terminal(*arguments)[1]


def test_what_is_to_be_copied_is_not_cut(tmp_path: Path) -> None:
    """On the narrowest terminal, a head is written whole and without a break, to be copied."""
    chain = make_trail(tmp_path / "t", [failure("bob")])
    _, written = run_on_terminal("verify", tmp_path / "t", columns=40)
    assert b"orders/00=0:" + chain.head.hash in written


def test_an_encoding_without_the_letters(tmp_path: Path) -> None:
    """Where the output's encoding lacks a letter, it becomes an escape, and the command goes on."""
    make_trail(tmp_path / "t", [failure("M\u00fcller")])
    ended = run_in_pipes("stats", tmp_path / "t", PYTHONIOENCODING="ascii")
    assert ended.status == 0
    assert "M\\xfcller" in ended.out
    assert "####" in ended.out


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_600, "1.0 MB"), (10**13, "10 TB")]
)
def test_sizes(count: int, shown: str) -> None:
    """Sizes are in decimal units, with two or three digits."""
    assert byte_size(count) == shown


def test_one_of_a_kind() -> None:
    """One is not many."""
    assert [count_of(number, "record") for number in (0, 1, 2000)] == ["0 records", "1 record", "2,000 records"]
