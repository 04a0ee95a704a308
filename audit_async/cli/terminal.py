r"""What a command writes: text and tables for a person, JSON for a program; and that nothing else gets out.

A record may be old, or of another writer, and hold anything: terminal escapes, rich's markup, characters that turn
text around. So every text goes through `visible` in here, not in the commands, and JSON is written in ASCII. Colour
and progress appear on a terminal only; `NO_COLOR` is heeded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import IO, Final, Literal, NamedTuple, NoReturn

import msgspec
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from audit_async._sanitize.readable_text import byte_size, count_of, json_line, visible

__all__ = ["Cell", "Column", "Meter", "Output", "byte_size", "count_of", "json_line", "visible"]

#: How wide a table may be in a pipe, which has no width.
_PIPE_WIDTH: Final = 160
#: What is between two columns of a table, and of one that is too wide; and the least width that a column is folded to
#: for the others' sake.
_BETWEEN_COLUMNS: Final = 3
_TIGHT: Final = 2
_LEAST_FOLDED: Final = 12
#: The same if several columns are folded.
_LEAST_SHARED: Final = 4
#: Seconds after which progress is shown.
_MEASURED_AFTER_S: Final = 0.5

Style = Literal["", "bold", "dim", "red", "yellow", "green", "cyan"]


class Cell(NamedTuple):
    """A text and how it is shown."""

    text: str
    style: Style = ""


class Column(NamedTuple):
    """The head of a table's column."""

    title: str
    right: bool = False  #: numbers
    whole: bool = False  #: never folded or cut, such as a hash


class _Console(Console):
    """A console that lets the command handle a closed pipe."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def _console(file: IO[str]) -> _Console:
    # Nothing that is printed is markup, and no number or path in it is coloured.
    console = _Console(file=file, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


class Meter:
    """Progress on the terminal, nothing if standard error is none. May be called from any thread.

    It appears when the work has taken a while, so that short work doesn't flicker.
    """

    def __init__(self, progress: Progress | None, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._appears_at = time.monotonic() + _MEASURED_AFTER_S

    def show(self, done: int, total: int | None = None) -> None:
        """Show how much of how much is done; None if the total is not known."""
        if self._progress is None:
            return
        self._progress.update(self._task, completed=done, total=total)
        if time.monotonic() >= self._appears_at:
            self._progress.start()


class Output:
    """The output of a command: for a person, or with `as_json` for a program."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json: Final = as_json
        for stream in (sys.stdout, sys.stderr):
            if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
                reconfigure(errors="backslashreplace")  # an encoding without a letter must not end the command
        self._console = _console(sys.stdout)
        self._messages = _console(sys.stderr)

    @property
    def is_terminal(self) -> bool:
        """True if the output is a terminal."""
        return self._console.is_terminal

    @property
    def width(self) -> int:
        """Characters in a line."""
        return self._console.width

    # For a person.

    def line(self, *cells: Cell | str) -> None:
        """Write texts one after the other, folded at the terminal's width."""
        self._console.print(_joined(cells), soft_wrap=not self.is_terminal)

    def row(self, *cells: Cell | str) -> None:
        """Write texts one after the other on one line, cut at the terminal's width; whole if there is no terminal."""
        text = _joined(cells)
        if self.is_terminal:
            text.truncate(self.width, overflow="ellipsis")
        self._console.print(text, soft_wrap=True)

    def columns(self, cells: Sequence[Cell | str], widths: Sequence[int], *, cut: bool, right: Sequence[bool]) -> None:
        """Write texts in columns, on one line.

        Args:
            cells: the texts.
            widths: how many characters each column has; the last one has what is left.
            cut: cut what is longer than its column, and the line at the terminal's width; otherwise it moves the rest.
            right: whether a column's texts end at its right.
        """
        if not self.is_terminal and not cut:
            self._plain_columns([cell.text if isinstance(cell, Cell) else cell for cell in cells], widths, right)
            return
        line = Text()
        for number, (cell, width, is_right) in enumerate(zip(cells, widths, right, strict=True)):
            text = _shown(cell)
            is_last = number == len(cells) - 1
            if cut and not is_last:
                text.truncate(width, overflow="ellipsis")
            spaces = max(width - text.cell_len, 0)
            if is_right:
                text = Text(" " * spaces) + text
            elif not is_last:
                text.append(" " * spaces)
            line += text
            if not is_last:
                line.append("  ")
        if cut:
            line.truncate(self.width, overflow="ellipsis")
        line.rstrip()
        self._console.print(line, soft_wrap=True)

    def _plain_columns(self, texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> None:
        """Do the same in a pipe, in a tenth of the time."""
        padded = []
        for text, width, is_right in zip(map(visible, texts), widths, right, strict=True):
            spaces = " " * max(width - (len(text) if text.isascii() else _cells(text)), 0)
            padded.append(spaces + text if is_right else text + spaces)
        sys.stdout.write("  ".join(padded).rstrip() + "\n")

    def fields(self, texts: Iterable[str]) -> None:
        """Write texts with tabs between them, on one line; a tab in a text is shown as an escape."""
        sys.stdout.write("\t".join(map(visible, texts)) + "\n")

    def whole(self, *cells: Cell | str) -> None:
        """Write texts one after the other without a break, for copying; the terminal itself may wrap them."""
        self._console.print(_joined(cells), soft_wrap=True)

    def pairs(self, rows: Iterable[tuple[Cell | str, ...]]) -> None:
        """Write names, and next to each what is said of it, each folded in its own column."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        for row in rows:
            while len(grid.columns) < len(row):
                grid.add_column(overflow="fold")
            grid.add_row(*map(_shown, row))
        self._console.print(Padding(grid, (0, 0, 0, 2), expand=False))

    def items(self, mark: Cell, texts: Iterable[str]) -> None:
        """Write texts, each after a mark; what a terminal folds is below its text, and in a pipe each is a line."""
        if self.is_terminal:
            self.pairs([(mark, text) for text in texts])
            return
        for text in texts:
            self.line("  ", mark, "  ", text)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]]) -> None:
        """Write a table. If it is wider than the terminal, one column is folded, and names in the others are not.

        On a terminal that has no room for its columns each row is a list of names and values.
        """
        if self.width < (_LEAST_SHARED + _BETWEEN_COLUMNS) * len(columns):
            for row in rows:
                self.pairs([(column.title, cell) for column, cell in zip(columns, row, strict=True)])
                self.line()
            return
        shown = [[_shown(cell) for cell in row] for row in rows]
        widths = [
            max([_cells(column.title), *(row[number].cell_len for row in shown)])
            for number, column in enumerate(columns)
        ]
        between = _BETWEEN_COLUMNS
        if sum(widths) + between * (len(columns) - 1) > self.width:
            between = _TIGHT
        kept = self._columns_kept(columns, shown, widths, between)
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, between - _TIGHT),
            pad_edge=False, show_edge=False, header_style="bold",
        )  # fmt: skip
        for column, is_kept in zip(columns, kept, strict=True):
            table.add_column(
                _shown(column.title),
                justify="right" if column.right else "left",
                no_wrap=is_kept,
                overflow="fold",
            )
        for cells in shown:
            table.add_row(*cells)
        self._console.print(table)

    def grouped_table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]]) -> None:
        """Write a table; if it is too wide, one for each name in the first column, below that name, without the column.

        Rows of one name follow one another. A name is then never folded, however long it is.
        """
        rows = list(rows)
        widths = [
            max([_cells(column.title), *(_shown(row[number]).cell_len for row in rows)])
            for number, column in enumerate(columns)
        ]
        if sum(widths) + _TIGHT * (len(columns) - 1) <= self.width:
            self.table(columns, rows)
            return
        for number, (name, of_name) in enumerate(groupby(rows, key=lambda row: row[0])):
            if number:
                self.line()
            self.line(Cell(name, "bold") if isinstance(name, str) else name)
            self.table(columns[1:], [row[1:] for row in of_name])

    def _columns_kept(
        self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], widths: Sequence[int], between: int
    ) -> list[bool]:
        """Return which columns are not folded: numbers, hashes, and if one column can make the room all others."""
        kept = [column.whole or column.right for column in columns]
        gaps = between * (len(columns) - 1)
        room = self.width - sum(widths) - gaps
        able = [n for n, is_kept in enumerate(kept) if not is_kept and widths[n] + room >= _LEAST_FOLDED]
        if room < 0 and able:
            # Prose is folded between its words, so it is chosen before names.
            prose = [any(" " in row[number].plain for row in rows) for number in range(len(columns))]
            folded = max(able, key=lambda number: (prose[number], widths[number]))
            return [number != folded for number in range(len(columns))]
        least = sum(width if is_kept else _LEAST_SHARED for width, is_kept in zip(widths, kept, strict=True)) + gaps
        # What is kept and has no room would be cut without a sign, also a number.
        return kept if least <= self.width else [False] * len(columns)

    def bars(self, title: str, counts: Sequence[tuple[str, int]]) -> None:
        """Write a bar chart: a row for each name and its count, the longest bar as wide as there is room."""
        self.line(Cell(title, "bold"))
        if not counts:
            self.line("  none")
            return
        most = max(count for _, count in counts)
        names = [visible(name) for name, _ in counts]
        count_width = len(f"{most:,}")
        name_width = min(max(map(_cells, names)), max(self.width - count_width - 25, 8))
        bar_width = max(min(self.width, 120) - name_width - count_width - 6, 5)
        solid, half = ("█", "▌") if _takes(sys.stdout, "█▌") else ("#", "")
        for name, (_, count) in zip(names, counts, strict=True):
            label = Text(name)
            label.truncate(name_width, overflow="ellipsis", pad=True)
            halves = max(round(2 * bar_width * count / most), 1 if count else 0)
            bar = solid * (halves // 2) + (half or solid * (halves < 2)) * (halves % 2)
            self._console.print(
                Text.assemble("  ", label, f"  {count:>{count_width},}  ", (bar, "cyan")), soft_wrap=True
            )

    def message(self, text: str, style: Style = "") -> None:
        """Write a note to standard error, so that it does not mix with the output."""
        self._messages.print(_shown(Cell(text, style)), soft_wrap=not self._messages.is_terminal)

    def meter(self, title: str) -> AbstractContextManager[Meter]:
        """Show a bar by bytes on standard error while the block runs, if that is a terminal."""
        return self._progress(title, BarColumn(), DownloadColumn(), TimeRemainingColumn())

    def counter(self, title: str) -> AbstractContextManager[Meter]:
        """Show a growing number of records in the same way, if the total is not known."""
        return self._progress(title, SpinnerColumn(), TextColumn("{task.completed:,.0f} records", markup=False))

    @contextmanager
    def _progress(self, title: str, *columns: ProgressColumn) -> Iterator[Meter]:
        if not self._messages.is_terminal:
            yield Meter(None, TaskID(0))
            return
        description = TextColumn("{task.description}", markup=False)
        progress = Progress(description, *columns, console=self._messages, transient=True)
        try:
            yield Meter(progress, progress.add_task(visible(title), total=None))
        finally:
            progress.stop()

    # For a program.

    def document(self, value: object) -> None:
        """Write one JSON document, the only one of this command."""
        text = json.dumps(msgspec.to_builtins(value, str_keys=True), ensure_ascii=True, indent=2)
        sys.stdout.write(f"{text}\n")

    def json_row(self, value: object) -> None:
        """Write one line of NDJSON."""
        sys.stdout.write(f"{json_line(value)}\n")

    def flush(self) -> None:
        """Flush what was written; raises `BrokenPipeError` if the reader of the pipe is gone."""
        sys.stdout.flush()


def _shown(cell: Cell | str) -> Text:
    text, style = cell if isinstance(cell, Cell) else (cell, "")
    return Text(visible(text), style=style)


def _joined(cells: Iterable[Cell | str]) -> Text:
    return Text.assemble(*(_shown(cell) for cell in cells))


def _cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return Text(text).cell_len


def _takes(stream: IO[str], text: str) -> bool:
    """Return whether the stream's encoding has these characters."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
