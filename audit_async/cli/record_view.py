"""How a record is shown: one line for a person, one object of JSON for a program, or all of it, member by member."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Final

import anyio.to_thread
import typer

from audit_async._query.lookup import PlacedRecord
from audit_async._query.matching import actors_of, type_of
from audit_async.cli.terminal import Cell, Column, Output, json_line
from audit_async.events.recorded import Record, event_members, recorded_time
from audit_async.events.registry import known_types
from audit_async.reader import AuditReader, OnDamage
from audit_async.status import Position

__all__ = ["OnDamageChoice", "RecordLines", "write_record"]

#: Members that the line shows in a column of their own, or that say nothing more.
_SHOWN_ELSEWHERE: Final = frozenset({"event_type", "reduced"})
#: A terminal that is narrower has room for two columns, place and event; then one text follows the other.
_WIDE: Final = 120
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
        logs = await anyio.to_thread.run_sync(reader.logs)
        return cls(output, several_logs=len(logs) > 1)

    def __init__(self, output: Output, *, several_logs: bool) -> None:
        self._output = output
        self._several_logs = several_logs
        self._critical = frozenset(tag for tag, cls in known_types().items() if cls.critical)
        # The widths of the columns: place, event, actor.
        if output.width >= _WIDEST:
            self._widths = (18 if several_logs else 9, max(map(len, known_types())), 14)
        elif output.width >= _WIDE:
            self._widths = (18 if several_logs else 9, 26, 14)
        else:
            self._widths = (14 if several_logs else 6, 18, 0)
        self._has_head = not output.is_terminal or output.width < _WIDE
        self.written = 0

    def write(self, record: Record) -> None:
        """Write one record."""
        self.written += 1
        if self._output.as_json:
            self._output.json_row(record.to_dict())
            return
        if not self._has_head:
            self._has_head = True
            place = "log:seq" if self._several_logs else "seq"
            self._write_row(Cell("time (UTC)         ", "bold"), place, Cell("event", "bold"), "actor", "details")
        event = event_members(record.event)
        event_type = type_of(event)
        actor = next(actors_of(event), "-")
        self._write_row(
            Cell(f"{record.timestamp:%Y-%m-%d %H:%M:%S}", "dim"),
            f"{record.log}:{record.seq}" if self._several_logs else str(record.seq),
            Cell(event_type, "red" if event_type in self._critical else "cyan"),
            actor,
            " ".join(_details(event, actor)),
        )

    async def write_all(self, records: AsyncGenerator[Record, None], *, at_once: bool = False) -> None:
        """Write records as they come; with `at_once` each of them is shown before the next one is waited for."""
        async with aclosing(records):
            async for record in records:
                self.write(record)
                if at_once or self.written % _FLUSHED_AFTER == 0:
                    self._output.flush()

    def _write_row(self, time: Cell, place: str, event: Cell, actor: str, details: str) -> None:
        place_width, event_width, actor_width = self._widths
        self._output.row(
            time,
            f"  {place:>{place_width}}  ",
            Cell(f"{event.text:<{event_width}}", event.style),
            f"  {actor:<{actor_width}}  {details}",
        )


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
    rows += _members("event", event_members(record.event))
    rows += _members("context", record.context)
    rows += [
        ("prev_hash", record.prev_hash),
        ("hash", record.hash),
        (Cell("previous", "dim"), _place(placed.previous, "none, or not here any more")),
        (Cell("next", "dim"), _place(placed.next, "none yet")),
    ]
    output.table([Column("member"), Column("value")], rows)
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


def _place(position: Position | None, absent: str) -> str:
    return f"seq {position.seq}, {position.hash}" if position is not None else absent
