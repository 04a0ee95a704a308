"""The benchmarks run, and what they keep says what was measured; whether that is fast is not asked here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import __main__ as command
from bench import rival, rivals, strace
from bench.chart import Bar, Panel, draw
from bench.frame import in_turn, percentile, ratios, row_of
from bench.results import Row, keep, show
from tests.store.chained import memory_directory

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a directory in memory, below which the benchmarks write, and take the shortest runs."""
    with memory_directory() as path:
        monkeypatch.setenv("BENCH_QUICK", "1")
        monkeypatch.setenv("BENCH_DIR", str(path))
        yield path


def run_bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Call `python -m bench` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    command.main()


@pytest.mark.parametrize("name", [name for name, benchmark in command.BENCHMARKS.items() if benchmark.by_default])
def test_a_benchmark_runs_and_keeps_what_it_found(
    name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each prints a Markdown table and keeps the same rows as JSON, with machine, commit and date, and as a chart."""
    run_bench(monkeypatch, "--quick", "--results", str(quick), name)
    printed = capsys.readouterr().out
    kept = json.loads((quick / f"{name}.json").read_text())
    assert kept["name"] == name
    assert kept["about"].keys() >= {"cpu", "kernel", "file_system", "python", "packages", "commit", "quick"}
    assert kept["date"].endswith("Z")
    rows = [row for table in kept["tables"] for row in table["rows"]]
    assert rows
    assert all(row["subject"] in printed and row["figure"] in printed for row in rows)
    if any(row["value"] is not None for row in rows):
        chart = ET.parse(quick / f"{name}.svg").getroot()  # noqa: S314 - we have just written it
        labels = [text.text for text in chart.iter(f"{_SVG}text")]
        assert any(row["subject"] in labels for row in rows)


def test_a_name_that_is_no_benchmark_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names what was asked for and what there is."""
    with pytest.raises(SystemExit):
        run_bench(monkeypatch, "speed")
    said = capsys.readouterr().err
    assert "'speed'" in said
    assert "throughput" in said


def test_subjects_take_turns_after_a_round_that_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither order nor warm-up favours one of them: the order turns round each round, and the first is dropped."""
    monkeypatch.delenv("BENCH_QUICK", raising=False)
    called: list[str] = []

    def note(name: str) -> int:
        called.append(name)
        return len(called)

    measured = in_turn({"a": lambda: note("a"), "b": lambda: note("b")}, rounds=3)
    assert called == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert measured == {"a": [4, 5, 8], "b": [3, 6, 7]}


def test_a_row_says_spread_and_target() -> None:
    """The figure is the median, with the extremes next to it; a target is met or missed, in words and in the JSON."""
    row = row_of("subject", [3.0, 1.0, 2.0], "us", digits=1, ceiling=2.5)
    assert row.figure == "2.0 (1.0 to 3.0) us"
    assert (row.low, row.high) == (1.0, 3.0)
    assert row.target == "target <= 2.5: met"
    assert row_of("subject", [0.4], "", digits=1, floor=0.5).target == "target >= 0.5: MISSED"
    assert Row("subject", "no number").target == ""


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that was slow for a round was slow for both."""
    assert ratios([10.0, 1.0], [20.0, 2.0]) == [0.5, 0.5]


def test_percentiles_are_samples() -> None:
    """No percentile is made up between two samples, and none lies beyond the last."""
    samples = [float(n) for n in range(100, 0, -1)]
    assert [percentile(samples, percent) for percent in (0, 50, 99, 99.9, 100)] == [1, 51, 100, 100, 100]


def test_a_chart_shows_each_value_and_its_axis() -> None:
    """Values are at their bars, lengths follow them, and an axis that is logarithmic says so."""
    panel = Panel("speeds & <limits>", "events/s", (Bar("slow", 100.0), Bar("fast", 250_000.0, 200_000.0, 300_000.0)))
    chart = ET.fromstring(draw([panel], "today"))  # noqa: S314 - we have just made it
    texts = [text.text for text in chart.iter(f"{_SVG}text")]
    assert {"speeds & <limits>", "slow", "fast", "100", "250 k", "events/s, logarithmic"} <= set(texts)
    assert any(text and text.startswith("today; ") for text in texts)
    slow, fast = (float(bar.attrib["width"]) for bar in chart.iter(f"{_SVG}rect") if bar.attrib["class"] == "bar")
    assert 0 < slow < fast
    linear = draw([Panel("", "ms", (Bar("one", 1.0), Bar("two", 2.0)))], "")
    assert "logarithmic" not in linear
    bars = [bar for bar in ET.fromstring(linear).iter(f"{_SVG}rect") if bar.attrib["class"] == "bar"]  # noqa: S314
    one, two = (float(bar.attrib["width"]) for bar in bars)
    assert two == pytest.approx(2 * one, abs=0.2)


def test_results_of_one_benchmark_are_not_kept_with_those_of_the_next(tmp_path: Path) -> None:
    """What was shown is kept once."""
    show("first", [Row("a", "1")])
    keep("first", {}, tmp_path)
    show("second", [Row("b", "2")])
    keep("second", {}, tmp_path)
    tables = json.loads((tmp_path / "second.json").read_text())["tables"]
    assert [table["title"] for table in tables] == ["second"]
    assert not (tmp_path / "second.svg").exists()


def test_every_rival_is_described() -> None:
    """No rival is measured without a word on what it syncs, what waits for it and how a change is found."""
    assert rivals.ABOUT.keys() == rival.RIVALS.keys()


@pytest.mark.skipif(not strace.works(), reason="strace is missing or not allowed to trace")
def test_strace_counts_what_a_process_does(tmp_path: Path) -> None:
    """Those calls that are asked for, each as often as it is made."""
    program = (
        "import os; descriptor = os.open('file', os.O_CREAT | os.O_WRONLY)\nfor _ in range(3): os.fsync(descriptor)"
    )
    command = [*strace.counted_into(tmp_path / "summary", ["fsync"]), sys.executable, "-S", "-c", program]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    assert strace.read_counts(tmp_path / "summary") == {"fsync": 3}


def test_system_calls_are_read_from_straces_summary(tmp_path: Path) -> None:
    """With and without a column of errors, and without the total."""
    summary = tmp_path / "summary"
    summary.write_text(
        "% time     seconds  usecs/call     calls    errors syscall\n"
        "------ ----------- ----------- --------- --------- ----------------\n"
        " 49.27    0.006574          65       100           fdatasync\n"
        "  5.82    0.000776           3       201        21 openat\n"
        "100.00    0.013343           6      2156       216 total\n"
    )
    assert strace.read_counts(summary) == {"fdatasync": 100, "openat": 201}


@pytest.mark.campaign
def test_scale_runs_and_says_what_it_could_not_measure(
    quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a few thousand records each row has a figure, or the reason why it has none: a tool that is missing."""
    monkeypatch.setenv("BENCH_SCALE_RECORDS", "0")  # restored after the test, which sets them
    monkeypatch.setenv("BENCH_VIEWER_RECORDS", "0")
    monkeypatch.setenv("PATH", str(quick))
    for tool in ("grep",):  # jq is missing, wherever this runs
        (quick / tool).symlink_to(shutil.which(tool, path="/usr/bin:/bin") or "")
    run_bench(monkeypatch, "--quick", "--records", "3000", "--results", str(quick), "scale")
    kept = json.loads((quick / "scale.json").read_text())
    rows = {row["subject"]: row for table in kept["tables"] for row in table["rows"]}
    assert {"first query by actor / grep -c", "making the index / verify", "verify, 200 segments / 50"} <= rows.keys()
    unmeasured = {row["subject"]: row["compared"] for row in rows.values() if row["value"] is None}
    assert "jq is not installed" in unmeasured.pop("jq, one segment")
    assert all("not installed" in reason for reason in unmeasured.values()), unmeasured
    assert "3,0" in capsys.readouterr().out


@pytest.mark.campaign
def test_viewer_runs_and_is_next_to_a_service(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few thousand records each row has a figure, and no reader is refused."""
    monkeypatch.setenv("BENCH_SCALE_RECORDS", "0")
    monkeypatch.setenv("BENCH_VIEWER_RECORDS", "0")
    run_bench(monkeypatch, "--quick", "--records", "3000", "--results", str(quick), "viewer")
    kept = json.loads((quick / "viewer.json").read_text())
    rows = {row["subject"]: row["value"] for table in kept["tables"] for row in table["rows"]}
    assert {"newest records", "one actor: page / query", "a download of all as CSV", "readers / alone"} <= rows.keys()
    assert None not in rows.values()
    assert rows["pages that were refused"] == 0


@pytest.mark.parametrize("name", ["scale", "viewer"])
def test_a_benchmark_of_long_trails_asks_for_room_first(
    quick: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A trail that the disk can't hold is not begun, and the message says what to change."""
    monkeypatch.setenv("BENCH_SCALE_RECORDS", "0")
    monkeypatch.setenv("BENCH_VIEWER_RECORDS", "0")
    with pytest.raises(SystemExit, match="BENCH_DIR"):
        run_bench(monkeypatch, "--quick", "--records", str(10**12), "--results", str(quick), name)
    assert not list(quick.rglob("*.audit"))
