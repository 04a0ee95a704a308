"""How a record is shown: one line for a person, one object of JSON for a program, or all of it, member by member."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

import anyio.to_thread
import typer

from audit_async._query.lookup import PlacedRecord
from audit_async._query.recorded_members import actors_of, type_of
from audit_async.cli.terminal import Cell, Column, Output, json_line
from audit_async.events import AuditEvent, Record
from audit_async.events.recorded import event_members, recorded_time
from audit_async.events.registry import known_types
from audit_async.privacy.sealed_text import SEALED, is_sealed
from audit_async.reader import AuditReader, OnDamage

__all__ = ["OnDamageChoice", "RecordLines", "write_record"]

#: Members that the line shows in a column of their own, or that say nothing more.
_SHOWN_ELSEWHERE: Final = frozenset({"event_type", "reduced"})
#: On a terminal that is narrower a record takes two lines.
_WIDE: Final = 120
#: A log's name and a sequence number get no more room than this.
_WIDEST_PLACE: Final = 28
#: One that is wider, and a pipe, has room for the longest type.
_WIDEST: Final = 160
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


class RecordLines:
    """Writes records, one a line; for a person cut at the terminal's width, for a program as NDJSON."""

    @classmethod
    async def of(cls, reader: AuditReader, output: Output) -> RecordLines:
        """Return the lines for what `reader` reads: they name the log if there are several."""
        return cls(output, [log.name for log in await anyio.to_thread.run_sync(reader.logs)])

    def __init__(self, output: Output, logs: Sequence[str]) -> None:
        self._output = output
        self._several_logs = len(logs) > 1
        self._critical = frozenset(tag for tag, cls in known_types().items() if cls.critical)
        self._is_narrow = output.is_terminal and output.width < _WIDE
        self._place_width = min(max(map(len, logs), default=0) + 7, _WIDEST_PLACE) if self._several_logs else 9
        self._event_width = max(map(len, known_types())) if output.width >= _WIDEST else 26
        self._has_head = not output.is_terminal
        self._day = ""  # of the record written last, on a narrow terminal
        self.written = 0

    def write(self, record: Record) -> None:
        """Write one record."""
        self.written += 1
        if self._output.as_json:
            self._output.json_row(record.to_dict())
            return
        event = readable_members(record.event)
        event_type = type_of(event)
        shown = Cell(event_type, "red" if event_type in self._critical else "cyan")
        actor = next(actors_of(event), "")
        place = f"{record.log}:{record.seq}" if self._several_logs else str(record.seq)
        details = " ".join(_details(event, actor))
        if self._is_narrow:
            self._write_two_lines(record.timestamp, place, shown, f"{actor}  {details}".strip())
            return
        if not self._has_head:
            self._has_head = True
            head = "log:seq" if self._several_logs else "seq"
            self._write_row(Cell("time (UTC)         ", "bold"), head, Cell("event", "bold"), "actor", "details")
        self._write_row(Cell(f"{record.timestamp:%Y-%m-%d %H:%M:%S}", "dim"), place, shown, actor or "-", details)

    def _write_two_lines(self, time: datetime, place: str, event: Cell, rest: str) -> None:
        """Write what happened, and below it who did it and the rest: on one line most of it would be cut off."""
        day = f"{time:%Y-%m-%d}"
        if day != self._day:
            self._day = day
            self._output.line(Cell(f"{day}, UTC", "bold"))
        self._output.row(Cell(f"{time:%H:%M:%S}", "dim"), f"  {place:<{self._place_width}}  ", event)
        if rest:
            self._output.row(f"          {rest}")

    async def write_all(self, records: AsyncGenerator[Record, None], *, at_once: bool = False) -> None:
        """Write records as they come; with `at_once` each of them is shown before the next one is waited for."""
        async with aclosing(records):
            async for record in records:
                self.write(record)
                if at_once or self.written % _FLUSHED_AFTER == 0:
                    self._output.flush()

    def _write_row(self, time: Cell, place: str, event: Cell, actor: str, details: str) -> None:
        self._output.row(
            time,
            f"  {place:>{self._place_width}}  ",
            Cell(f"{event.text:<{self._event_width}}", event.style),
            f"  {actor:<14}  {details}",
        )


def readable_members(event: AuditEvent) -> dict[str, object]:
    """Return an event's members as a person reads them: `[sealed]` in place of each sealed text."""
    return without_sealed(event_members(event))


def without_sealed(members: dict[str, object]) -> dict[str, object]:
    """Return members with `[sealed]` in place of each sealed text, at the depths that are shown in full."""
    return {name: _readable(value) for name, value in members.items()}


def _readable(value: object, depth: int = 0) -> object:
    if isinstance(value, str):
        return SEALED if is_sealed(value) else value
    if depth > _DEEPEST:
        return value
    if isinstance(value, dict):
        return {name: _readable(of, depth + 1) for name, of in value.items()}
    if isinstance(value, list):
        return [_readable(of, depth + 1) for of in value]
    return value


def _details(event: dict[str, object], actor: str) -> Iterator[str]:
    """Yield what an event says besides its type and its actor, as `name=value`."""
    for name, value in event.items():
        if name in _SHOWN_ELSEWHERE or value == actor:
            continue
        if name == "actor" and isinstance(value, dict):
            yield from (f"{inner}={_short(of)}" for inner, of in value.items() if of != actor)
        else:
            yield f"{name}={_short(value)}"


def _short(value: object) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else f'"{value}"'
    return json_line(value)


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
    rows += _members("event", readable_members(record.event))
    rows += _members("context", without_sealed(record.context))
    output.table([Column("member"), Column("value")], rows)
    output.line()
    # Below the table, so that hashes fit a terminal of eighty columns and can be copied.
    output.pairs([("prev_hash", record.prev_hash), ("hash", record.hash), *_neighbours(placed)])
    output.line()
    if placed.is_linked:
        output.line(Cell("linked", "green"), "  It fits the records before and after it.")
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
        yield Cell("previous", "dim"), "none, or not here any more"
    else:
        yield Cell("previous", "dim"), f"seq {previous.seq}"
        if previous.hash != placed.record.prev_hash:
            yield Cell("its hash", "red"), previous.hash
    if following is None:
        yield Cell("next", "dim"), "none yet"
    else:
        yield Cell("next", "dim"), f"seq {following.seq}"
        yield Cell("its hash", "dim"), following.hash
