"""Each figure that is published is one that was measured, with its date and its machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.results import RESULTS, Row, keep, show
from site_build import figures
from site_build.figures import (
    BEGIN,
    CHARTS,
    END,
    PAGE,
    README,
    FiguresRefused,
    charts,
    page,
    readme_table,
    runs,
    take,
    with_figures,
)

_SVG = "{http://www.w3.org/2000/svg}"


def test_all_that_shows_figures_is_up_to_date() -> None:
    """`python -m site_build.figures` makes the page, its charts and README's table again."""
    published = runs()
    readme = README.read_text(encoding="utf-8")
    assert readme == with_figures(readme, readme_table(published))
    assert PAGE.read_text(encoding="utf-8") == page(published)
    assert {path.name: path.read_text(encoding="utf-8") for path in CHARTS.glob("*.svg")} == charts(published)


def test_every_figure_says_when_and_on_what_it_was_measured() -> None:
    """The page has the day, the command and the machine of each run, and each row that was published."""
    shown = page(runs())
    for run in runs():
        section = shown.partition(f"## `{run.name}`\n")[2].partition("\n## ")[0]
        assert f"Measured {run.day}: `{run.command}`" in section
        assert run.about["cpu"] in section
        assert run.about["commit"] in section
        for table in run.tables:
            assert len([line for line in section.splitlines() if line.startswith("| ")]) >= len(table.rows)
        assert section.count("**missed**") == sum(row.met is False for table in run.tables for row in table.rows)


def test_verdicts_are_those_of_the_numbers() -> None:
    """A file that was edited by hand can't call a target met that its own numbers miss."""
    for run in json.loads((figures.RESULTS).read_text(encoding="utf-8"))["runs"]:
        for row in (row for table in run["tables"] for row in table["rows"]):
            assert Row(**{key: row[key] for key in Row._fields}).met == row["met"], row


def test_each_chart_can_be_read_aloud() -> None:
    """It has the role of an image, a title, and its figures as text, to which its labels refer."""
    for name, text in charts(runs()).items():
        chart = ET.fromstring(text)  # noqa: S314 - our own
        assert chart.get("role") == "img", name
        named = {
            element.get("id") for element in chart if element.tag in {f"{_SVG}title", f"{_SVG}desc"} and element.text
        }
        assert set((chart.get("aria-labelledby") or "").split()) == named
        assert "prefers-color-scheme:dark" in text


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Copy what is published."""
    return Path(shutil.copy(figures.RESULTS, tmp_path))


def kept_run(tmp_path: Path, value: float, **about: str) -> Path:
    """Keep a result as `make bench` does; return its file."""
    show("emit: the cost to its caller, p50 of each burst", [Row("emit, plain event", f"{value} ns", "", value, "ns")])
    machine = {"cpu": "a CPU", "cpus": "2", "python": "CPython 3.11.7", "commit": "0123abc"}
    return keep("emit", machine | about, tmp_path)[0]


def test_a_run_is_taken_over_as_a_whole(published: Path, tmp_path: Path) -> None:
    """Its figures replace those of the run before, and those of other benchmarks stay."""
    before = {run.name: run for run in runs(published)}
    assert take([kept_run(tmp_path, 555.0)], published) == ["emit"]
    after = {run.name: run for run in runs(published)}
    assert {name: run for name, run in after.items() if name != "emit"} == {
        name: run for name, run in before.items() if name != "emit"
    }
    assert [row.value for table in after["emit"].tables for row in table.rows] == [555.0]
    assert after["emit"].about["commit"] == "0123abc"
    assert after["emit"].command.startswith("python ")
    assert "555.0 ns" in page(runs(published))


def test_a_quick_run_is_not_published(published: Path, tmp_path: Path) -> None:
    """It measures nothing; the message says what to do, and nothing is changed."""
    before = published.read_bytes()
    with pytest.raises(FiguresRefused, match="run it without --quick"):
        take([kept_run(tmp_path, 1.0, quick="yes: not to be quoted")], published)
    kept = kept_run(tmp_path, 1.0)
    changed: dict[str, Any] = json.loads(kept.read_text())
    del changed["date"]
    kept.write_text(json.dumps(changed))
    with pytest.raises(FiguresRefused, match="does not say when"):
        take([kept], published)
    assert published.read_bytes() == before


def test_readmes_figures_are_replaced_between_their_markers() -> None:
    """What is before and after them stays; without the markers nothing is written, and the message shows them."""
    table = readme_table(runs())
    readme = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_figures(readme, table) == f"before\n{BEGIN}\n{table}\n{END}\nafter\n"
    with pytest.raises(FiguresRefused, match="lacks a marker"):
        with_figures("before\nafter\n", table)


def test_a_row_that_readme_shows_and_a_run_lacks_is_named(published: Path, tmp_path: Path) -> None:
    """A benchmark whose subjects were renamed does not empty README's table."""
    show("emit: the cost to its caller, p50 of each burst", [Row("emit, another event", "1 ns", "", 1.0, "ns")])
    take([keep("emit", {"cpu": "a CPU", "cpus": "2", "python": "CPython", "commit": "0"}, tmp_path)[0]], published)
    with pytest.raises(FiguresRefused, match="emit has no row 'emit, plain event'"):
        readme_table(runs(published))


def test_what_a_run_keeps_is_not_what_is_published() -> None:
    """A run on any machine changes no file that is under version control."""
    assert RESULTS != figures.RESULTS
    assert RESULTS.name == "results"
