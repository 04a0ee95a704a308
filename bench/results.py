"""What a run found: printed as Markdown tables, kept as JSON in `bench/results/`, drawn as a chart."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.chart import Bar, Panel, draw

RESULTS = Path(__file__).parent / "results"


class Row(NamedTuple):
    """One line of a result: a figure, and what it is measured against."""

    subject: str
    figure: str  #: as it is printed
    compared: str = ""  #: the limit or the rival from the same run, or how it was measured
    value: float | None = None  #: the figure as a number, for JSON and the chart; None keeps it out of the chart
    unit: str = ""  #: of the numbers
    low: float | None = None  #: the smallest sample, or the lower end of what is shown
    high: float | None = None  #: the largest
    floor: float | None = None  #: the target: at least this
    ceiling: float | None = None  #: the target: at most this

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.value is None or (self.floor is None and self.ceiling is None):
            return None
        return (self.floor is None or self.value >= self.floor) and (self.ceiling is None or self.value <= self.ceiling)

    @property
    def target(self) -> str:
        """The target and whether it is met, in words; empty if there is none."""
        bounds = [
            f"{sign} {bound:,.12g}" for sign, bound in ((">=", self.floor), ("<=", self.ceiling)) if bound is not None
        ]
        return "" if self.met is None else f"target {' and '.join(bounds)}: {'met' if self.met else 'MISSED'}"


class Table(NamedTuple):
    """Results that belong together."""

    title: str
    rows: tuple[Row, ...]


_shown: list[Table] = []


def show(title: str, rows: Sequence[Row]) -> None:
    """Print the results as a Markdown table, and remember them for `keep`."""
    _shown.append(Table(title, tuple(rows)))
    cells = [("subject", "figure", "compared with")]
    cells += [(row.subject, row.figure, "; ".join(filter(None, (row.compared, row.target)))) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    cells.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2]))
    print(f"\n## {title}\n")
    for line in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |", flush=True)


def keep(name: str, about: dict[str, str], directory: Path = RESULTS) -> list[Path]:
    """Write what was shown since the last call as `name`.json and `name`.svg; return the paths of what was written.

    `about` says on what machine and from which commit. Where nothing shown has a number there is nothing to draw.
    """
    tables = tuple(_shown)
    _shown.clear()
    directory.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    result = {
        "name": name,
        "date": date,
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "about": about,
        "tables": [
            {"title": table.title, "rows": [row._asdict() | {"met": row.met} for row in table.rows]} for table in tables
        ],
    }
    written = [directory / f"{name}.json"]
    written[0].write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    panels = panels_of(tables)
    if panels:
        footnote = (
            f"{date[:10]}, commit {about.get('commit', 'unknown')}, {about.get('cpu', '')}, {about.get('python', '')}"
        )
        written.append(directory / f"{name}.svg")
        written[1].write_text(draw(panels, footnote))
    return written


def panels_of(tables: Iterable[Table]) -> list[Panel]:
    """Return the panels of a chart of all that has a number."""
    return [panel for table in tables for panel in _panels(table)]


def _panels(table: Table) -> list[Panel]:
    """Return a panel for each unit of a table: only figures of one unit can share an axis."""
    panels: dict[str, list[Bar]] = {}
    for row in table.rows:
        if row.value is not None:
            target = row.floor if row.ceiling is None else row.ceiling
            bar = Bar(row.subject, row.value, row.low, row.high, target, missed=row.met is False)
            panels.setdefault(row.unit, []).append(bar)
    return [Panel(table.title, unit, tuple(bars)) for unit, bars in panels.items()]
