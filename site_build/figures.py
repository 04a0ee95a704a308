"""What was measured, published: `python -m site_build.figures` writes all that shows figures from bench/results.json.

That is docs/benchmarks.md with a chart for each benchmark, and the part of README.md between its two markers. A test
fails if one of them is out of date. `--take bench/results/*.json` takes over what `make bench` has kept: the newest
run of a benchmark replaces the one before as a whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from bench.__main__ import BENCHMARKS
from bench.chart import draw
from bench.results import Row, Table, panels_of

PROJECT: Final = Path(__file__).parents[1]
RESULTS: Final = PROJECT / "bench" / "results.json"
README: Final = PROJECT / "README.md"
PAGE: Final = PROJECT / "docs" / "benchmarks.md"
CHARTS: Final = PROJECT / "docs" / "assets" / "benchmarks"
BEGIN: Final = "<!-- figures: begin. Made by `python -m site_build.figures` from bench/results.json. -->"
END: Final = "<!-- figures: end -->"
_OPENING: Final = Path(__file__).with_name("benchmark_page_opening.md")
#: What each run states of its machine, in this order.
_MACHINE: Final = (
    "cpu",
    "cpus",
    "memory",
    "kernel",
    "file_system",
    "python",
    "packages",
    "load_average",
    "commit",
    "note",
)
_NAMED: Final = {"cpus": "{} CPUs", "load_average": "load {}", "commit": "commit {}"}


class Run(NamedTuple):
    """What one run of a benchmark has found."""

    name: str
    date: str  #: a day, or a moment
    command: str
    about: Mapping[str, str]
    tables: tuple[Table, ...]

    @property
    def day(self) -> str:
        """The day as people write it."""
        moment = datetime.fromisoformat(self.date)
        return f"{moment.day} {moment:%B %Y}"

    def row(self, table: str, subject: str) -> Row:
        """Return a row by how its table's title begins, and by its subject or how that begins."""
        found = [
            row
            for candidate in self.tables
            if candidate.title.startswith(table)
            for row in candidate.rows
            if row.subject.startswith(subject)
        ]
        exact = [row for row in found if row.subject == subject]
        if not found:
            raise FiguresRefused(
                f"{self.name} has no row {subject!r} in a table {table!r} for README: see README_FIGURES"
            )
        return (exact or found)[0]


class ReadmeFigure(NamedTuple):
    """A line of README's table: what it is called there, and which row of which run it is."""

    text: str
    run: str
    table: str
    subject: str


README_FIGURES: Final = (
    ReadmeFigure(
        "`emit` of a plain event, to its caller", "emit", "emit: the cost to its caller, p50", "emit, plain event"
    ),
    ReadmeFigure(
        "events made durable, one producer, `Immediate()`", "throughput", "throughput: durable events", "immediate"
    ),
    ReadmeFigure("the same, of what `Batched()` takes", "throughput", "throughput: ratios", "immediate / batched"),
    ReadmeFigure(
        "one lone acknowledged event, of a raw write and sync",
        "latency",
        "latency: one lone event, uvloop",
        "emit_durable / raw",
    ),
    ReadmeFigure(
        "until an event of 1,000 tasks at once is acknowledged",
        "latency",
        "latency: until an event is acknowledged, uvloop",
        "1,000 emitters, immediate",
    ),
    ReadmeFigure(
        "CPU that recording adds to a request, of what a structlog access log adds, httptools",
        "web",
        "web: FastAPI under uvicorn (httptools)",
        "audited: CPU time added, of what structlog adds",
    ),
    ReadmeFigure(
        "the same with `Immediate(max_delay=0.002)`",
        "web",
        "web: FastAPI under uvicorn (httptools)",
        "delayed: CPU time added, of what structlog adds",
    ),
    ReadmeFigure(
        "CPU that recording adds to a request, of what a structlog access log adds, h11",
        "web",
        "web: FastAPI under uvicorn (h11)",
        "audited: CPU time added, of what structlog adds",
    ),
    ReadmeFigure(
        "the same with `Immediate(max_delay=0.002)`, h11",
        "web",
        "web: FastAPI under uvicorn (h11)",
        "delayed: CPU time added, of what structlog adds",
    ),
    ReadmeFigure("records verified, one CPU", "verify", "verify: ", "verify, 1 CPU"),
    ReadmeFigure(
        "a new process finds 100 of ten million records, no index",
        "scale",
        "scale: 100 records",
        "audit-async, no index",
    ),
    ReadmeFigure("the same, with the index", "scale", "scale: 100 records", "audit-async, index"),
)


class FiguresRefused(Exception):
    """A figure can't be published; the message says why."""


def runs(path: Path = RESULTS) -> list[Run]:
    """Return what is published, in the order of the benchmarks."""
    published = [_run(kept) for kept in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    return sorted(published, key=lambda run: list(BENCHMARKS).index(run.name))


def _run(kept: Mapping[str, object]) -> Run:
    """Return a run as `bench.results.keep` writes it."""
    name, date, command, about, tables = (kept.get(key) for key in ("name", "date", "command", "about", "tables"))
    if name not in BENCHMARKS:
        raise FiguresRefused(f"{name!r} is no benchmark: nothing is published but what `python -m bench` has measured")
    if not (isinstance(about, dict) and isinstance(tables, list) and date and command):
        raise FiguresRefused(f"the result of {name} does not say when, by which command and on what it was measured")
    if "quick" in about:
        raise FiguresRefused(f"the result of {name} is of a quick run, which measures nothing: run it without --quick")
    rows = [
        Table(table["title"], tuple(Row(**{key: row[key] for key in Row._fields}) for row in table["rows"]))
        for table in tables
    ]
    return Run(str(name), str(date), str(command), about, tuple(rows))


def take(files: Sequence[Path], path: Path = RESULTS) -> list[str]:
    """Take over results that `make bench` has kept; return the names of the benchmarks.

    Raises:
        FiguresRefused: One is of a quick run, or does not say how it was measured. Nothing is taken over then.
    """
    published = {kept["name"]: kept for kept in json.loads(path.read_text(encoding="utf-8"))["runs"]}
    new = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for kept in new:
        _run(kept)
        published[kept["name"]] = kept
    text = json.dumps({"runs": [published[name] for name in sorted(published)]}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return [str(kept["name"]) for kept in new]


def charts(published: Sequence[Run]) -> dict[str, str]:
    """Return the chart of each run that has numbers, by its file name."""
    found = {}
    for run in published:
        if panels := panels_of(run.tables):
            footnote = f"{run.day}, {run.about['cpu']}, {run.about['python']}"
            found[f"{run.name}.svg"] = draw(panels, footnote, BENCHMARKS[run.name].subject)
    return found


def page(published: Sequence[Run]) -> str:
    """Return the page of the documentation site."""
    return "\n".join([_OPENING.read_text(encoding="utf-8"), *(line for run in published for line in _section(run))])


def _section(run: Run) -> Iterator[str]:
    subject = BENCHMARKS[run.name].subject
    yield f"## `{run.name}`\n"
    yield f"{subject[0].upper()}{subject[1:]}.\n"
    yield f"Measured {run.day}: `{run.command}`. {'; '.join(_machine(run.about))}.\n"
    if panels_of(run.tables):
        yield f"![Bars of what is in the tables below: {_cell(subject)}](assets/benchmarks/{run.name}.svg)\n"
    for table in run.tables:
        yield f"**{_cell(table.title)}**\n"
        yield "| | figure | target | measured next to it |"
        yield "| --- | --- | --- | --- |"
        for row in table.rows:
            yield f"| {_cell(row.subject)} | {_cell(row.figure)} | {_target(row)} | {_cell(row.compared)} |"
        yield ""


def readme_table(published: Sequence[Run]) -> str:
    """Return what is between README's markers."""
    by_name = {run.name: run for run in published}
    lines = ["| | measured | target | |", "| --- | --- | --- | --- |"]
    for shown in README_FIGURES:
        run = by_name[shown.run]
        row = run.row(shown.table, shown.subject)
        lines.append(f"| {shown.text} | {_cell(row.figure)} | {_target(row)} | {run.day} |")
    machines = sorted(
        {f"{run.about['cpu']}, {run.about['cpus']} CPUs, {run.about['python']}" for run in by_name.values()}
    )
    lines += ["", f"On {'; '.join(machines)}."]
    return "\n".join(lines)


def with_figures(readme: str, table: str) -> str:
    """Return README's text with its part between the markers replaced."""
    before, found, rest = readme.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise FiguresRefused(f"README.md lacks a marker; the figures belong between these two lines:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _target(row: Row) -> str:
    """Return the target and whether it is met; a target that is missed can't be overlooked."""
    if not row.target:
        return ""
    bounds, _, verdict = row.target.removeprefix("target ").rpartition(": ")
    return f"{_cell(bounds)}: {'met' if verdict == 'met' else '**missed**'}"


def _machine(about: Mapping[str, str]) -> Iterator[str]:
    for key in _MACHINE:
        if text := about.get(key):
            yield _cell(_NAMED.get(key, "{}").format(text))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


def write() -> list[Path]:
    """Write all that shows figures; return the paths of what was written."""
    published = runs()
    CHARTS.mkdir(exist_ok=True)
    drawn = charts(published)
    for old in CHARTS.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for name, chart in drawn.items():
        (CHARTS / name).write_text(chart, encoding="utf-8")
    PAGE.write_text(page(published), encoding="utf-8")
    README.write_text(with_figures(README.read_text(encoding="utf-8"), readme_table(published)), encoding="utf-8")
    return [PAGE, README, *(CHARTS / name for name in drawn)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Take over the results that are named, and write all that shows figures; return 1 if that is refused."""
    parser = argparse.ArgumentParser(
        prog="python -m site_build.figures",
        description="Write the page of benchmarks, its charts and README's figures from bench/results.json.",
        epilog="for example, after `make bench`: python -m site_build.figures --take bench/results/*.json",
    )
    parser.add_argument(
        "--take", type=Path, nargs="+", default=[], metavar="FILE", help="results to publish from now on"
    )
    options = parser.parse_args(arguments)
    try:
        taken = take(options.take)
        written = write()
    except FiguresRefused as error:
        sys.stderr.write(f"figures: {error}\n")
        return 1
    sys.stdout.write("".join(f"{name} is published\n" for name in taken) + "".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
