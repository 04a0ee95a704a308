"""How a record is shown: one line for a person, one object of JSON for a program, or all of it, member by member."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Final

import anyio.to_thread
import typer

from audit_async._query.lookup import PlacedRecord
from audit_async.cli.record_columns import (
    CLOCK,
    DETAILS,
    NAMED,
    PLACE,
    RESULT,
    TARGET,
    RecordColumn,
    ShownRecord,
    columns_named,
    shared_widths,
    without_sealed,
)
from audit_async.cli.terminal import Cell, Column, Output, Style, json_line
from audit_async.events import Record
from audit_async.events.recorded import event_members, recorded_time
from audit_async.events.registry import known_types
from audit_async.reader import AuditReader, OnDamage

__all__ = ["OnDamageChoice", "RecordLines", "RecordView", "write_record"]

#: On a terminal that is narrower, or that has no room for details, a record takes a second line for them.
_WIDE: Final = 120
_LEAST_DETAILS: Final = len("details")
#: One that is wider, and a pipe, has room for the longest type.
_WIDEST: Final = 160
#: A log's name and a sequence number get no more room than this.
_WIDEST_PLACE: Final = 28
#: So much is shown of a value among others on a terminal.
_MOST_SHOWN: Final = 48
_DEEPEST: Final = 4
#: Records that are shown before the output is flushed: often enough for a person who waits, seldom enough for speed.
_FLUSHED_AFTER: Final = 100


@dataclass(frozen=True, kw_only=True)
class OnDamageChoice:
    """The option that says what is done about a damaged record."""

    skip_damage: Annotated[
        bool,
        typer.Option(
            "--skip-damage", help="Leave damaged records out and say how many, instead of stopping at the first."
        ),
    ] = False

    @property
    def on_damage(self) -> OnDamage:
        """What the reader is asked to do about it."""
        return "skip" if self.skip_damage else "raise"


@dataclass(frozen=True, kw_only=True)
class RecordView:
    """The options that say how records are shown."""

    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="A,B,C",
            help="Only these: time, timestamp, log, seq, audit_id, service_id, type, actor, resource, ip, path, "
            "status, outcome, prev_hash, hash, or a member by its path: changes.email.after. Tab-separated in a pipe.",
        ),
    ] = None
    wide: Annotated[bool, typer.Option("--wide", help="Cut nothing, however wide the terminal is.")] = False

    def named(self) -> list[RecordColumn]:
        """Return the columns that were asked for; empty if none were. Raises `typer.BadParameter`."""
        if self.columns is None:
            return []
        names = [name.strip() for name in self.columns.split(",")]
        if not all(names):
            raise typer.BadParameter("--columns has an empty name between its commas")
        return columns_named(names)


class RecordLines:
    """Writes records below a head; for a person cut at the terminal's width, for a program as NDJSON."""

    @classmethod
    async def of(cls, reader: AuditReader, output: Output, view: RecordView) -> RecordLines:
        """Return the lines for what `reader` reads: they name the log if there are several."""
        return cls(output, [log.name for log in await anyio.to_thread.run_sync(reader.logs)], view)

    def __init__(self, output: Output, logs: Sequence[str], view: RecordView) -> None:
        self._output = output
        self._chosen = view.named()
        self._is_cut = output.is_terminal and not view.wide
        self._several_logs = len(logs) > 1
        self._is_narrow = False
        if self._chosen:
            self._columns, self._widths = self._chosen, shared_widths(self._chosen, output.width)
        else:
            self._columns, self._widths = self._overview(max(map(len, logs), default=0))
            needed = sum(self._widths) + 2 * (len(self._widths) - 1) + _LEAST_DETAILS
            self._is_narrow = self._is_cut and output.width < max(needed, _WIDE)
        if self._is_narrow:
            self._columns, self._widths = self._narrow()
        self._day = ""  # of the record written last, on a narrow terminal
        self.written = 0

    def _overview(self, log_width: int) -> tuple[list[RecordColumn], list[int]]:
        """Return the columns if none were asked for, and their widths."""
        place, result = (NAMED["seq"], 9), 9
        if self._several_logs:
            place = (PLACE, min(log_width + 7, _WIDEST_PLACE))
        longest = max(map(len, known_types()))
        event = longest if not self._is_cut or self._output.width >= _WIDEST else 26
        # Of a wider terminal those with names of any length get half.
        more = max(self._output.width - _WIDEST, 0) // 4 if self._is_cut else 0
        widths = [19, place[1], event, 14 + more, 24 + more, result, 0]
        return [NAMED["time"], place[0], NAMED["type"], NAMED["actor"], TARGET, RESULT, DETAILS], widths

    def _narrow(self) -> tuple[list[RecordColumn], list[int]]:
        """Return the columns of a narrow terminal: the day is a line of its own, and the rest is below each record."""
        result = 9
        first = [CLOCK] if self._several_logs else [CLOCK, NAMED["seq"]]
        taken = [8] if self._several_logs else [8, 7]
        room = max(self._output.width - sum(taken) - 2 * len(taken) - result - 4, 16)
        event = min(26, room * 3 // 5)
        return [*first, NAMED["type"], NAMED["actor"], RESULT], [*taken, event, room - event, 0]

    def write(self, record: Record) -> None:
        """Write one record, and the head before the first."""
        self.written += 1
        if self._output.as_json and not self._chosen:
            self._output.json_row(record.to_dict())
            return
        shown = ShownRecord.of(record, as_recorded=self._output.as_json)
        if self._output.as_json:
            self._output.json_row({column.title: column.plain(shown) for column in self._columns})
            return
        if self.written == 1:
            self._write_row([column.title for column in self._columns], ["bold"] * len(self._columns))
            if self._is_narrow:
                self._write_below([column.title for column in self._below], "bold")
        if self._is_narrow and (day := f"{record.timestamp:%Y-%m-%d}") != self._day:
            self._day = day
            self._output.line(Cell(f"{day}, UTC", "bold"))
        # One long value must not hide all others; what has a column of its own is cut at its width.
        most = _MOST_SHOWN if self._is_cut else None
        texts = [
            self._placed(shown) if column is PLACE else column.text(shown, most if column is DETAILS else None)
            for column in self._columns
        ]
        self._write_row(texts, [column.style(shown) for column in self._columns])
        if self._is_narrow:
            self._write_below(
                [self._placed(shown) if column is PLACE else column.text(shown, most) for column in self._below], "dim"
            )

    def _placed(self, shown: ShownRecord) -> str:
        """Return a record's log and sequence number; a long name is cut in its middle, so that the number is seen."""
        text = PLACE.text(shown)
        if not self._is_cut or len(text) <= _WIDEST_PLACE:
            return text
        end = max(_WIDEST_PLACE * 2 // 3, len(text) - text.rindex(":"))
        return f"{text[: max(_WIDEST_PLACE - end - 1, 1)]}…{text[-end:]}"

    @property
    def _below(self) -> list[RecordColumn]:
        """What a narrow terminal has below each record."""
        return [PLACE, TARGET, DETAILS] if self._several_logs else [TARGET, DETAILS]

    def _write_below(self, texts: Iterable[str], style: Style) -> None:
        if rest := "  ".join(filter(None, texts)):
            self._output.row(Cell(f"          {rest}", style))

    def _write_row(self, texts: Sequence[str], styles: Sequence[Style]) -> None:
        if self._chosen and not self._output.is_terminal:
            self._output.fields(texts)
            return
        cells = [Cell(text or "-", style) for text, style in zip(texts, styles, strict=True)]
        right = [column.right for column in self._columns]
        self._output.columns(cells, self._widths, cut=self._is_cut, right=right)

    async def write_all(self, records: AsyncGenerator[Record, None], *, at_once: bool = False) -> None:
        """Write records as they come; with `at_once` each of them is shown before the next one is waited for."""
        async with aclosing(records):
            async for record in records:
                self.write(record)
                if at_once or self.written % _FLUSHED_AFTER == 0:
                    self._output.flush()


def write_record(output: Output, placed: PlacedRecord) -> None:
    """Write all of one record, a line for each member, and the records before and after it."""
    record = placed.record
    rows: list[tuple[Cell | str, str]] = [
        ("log", record.log),
        ("segment", f"{placed.segment}, byte {placed.byte_offset}"),
        ("seq", str(record.seq)),
        ("audit_id", record.audit_id),
        ("timestamp", recorded_time(record.timestamp)),
        ("service_id", record.service_id),
    ]
    rows += _members("event", without_sealed(event_members(record.event)))
    rows += _members("context", without_sealed(record.context))
    output.table([Column("member"), Column("value")], rows)
    output.line()
    # Below the table, so that hashes fit a terminal of eighty columns and can be copied.
    output.pairs([("prev_hash", record.prev_hash), ("hash", record.hash), *_neighbours(placed)])
    output.line()
    if placed.is_linked:
        output.line(Cell("linked", "green"), "  It fits what is known here of the records before and after it.")
    else:
        output.line(Cell("not linked", "red"), "  The record before or after it does not fit; verify the trail.")


def _members(name: str, value: object, depth: int = 0) -> list[tuple[Cell | str, str]]:
    """Return the rows of a value: one for each member, nested ones by their dotted names, the deepest as JSON."""
    if isinstance(value, dict) and depth < _DEEPEST:
        return [row for inner, of in value.items() for row in _members(f"{name}.{inner}", of, depth + 1)]
    return [(name, value if isinstance(value, str) else json_line(value))]


def _neighbours(placed: PlacedRecord) -> Iterator[tuple[Cell, str]]:
    """Yield the records before and after a record, each with its hash unless that is shown already."""
    previous, following = placed.previous, placed.next
    if previous is None:
        first = placed.record.seq == 0
        yield Cell("previous", "dim"), "none: it is the first" if first else "not here any more, or not readable"
    else:
        yield Cell("previous", "dim"), f"seq {previous.seq}"
        if previous.hash != placed.record.prev_hash:
            yield Cell("its hash", "red"), previous.hash
    if following is None:
        yield Cell("next", "dim"), "none yet, or not readable"
    else:
        yield Cell("next", "dim"), f"seq {following.seq}"
        yield Cell("its hash", "dim"), following.hash
