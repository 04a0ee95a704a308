"""Two commits are measured by turns, and a difference is told from noise."""

from __future__ import annotations

import subprocess
import sys
from math import comb
from pathlib import Path

import pytest

from bench.compare import (
    CompareFailed,
    Figure,
    Tree,
    checked_out,
    commit_of,
    interval,
    main,
    tables_of,
    take_turns,
    use_bench_of,
)

#: A benchmark that notes that it ran, and finds what the tree says.
BENCHMARK = """
import argparse, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--results", type=pathlib.Path)
parser.add_argument("--quick", action="store_true")
parser.add_argument("name")
options = parser.parse_args()
value = float(pathlib.Path("speed").read_text())
with open(os.environ["RUNS"], "a") as runs:
    runs.write(f"{value} {options.quick} {os.environ['BENCH_DIR']}\\n")
row = {"subject": "emit", "value": value, "unit": "ns"}
(options.results / f"{options.name}.json").write_text(json.dumps({"tables": [{"title": "cost", "rows": [row]}]}))
"""


def git(directory: Path, *arguments: str) -> None:
    """Run git without the settings of this machine."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a repository with two commits: one that took 200 ns, and one that takes 100."""
    project = tmp_path / "project"
    (project / "bench").mkdir(parents=True)
    (project / "bench" / "__init__.py").touch()  # or the package of this tree would be found before it
    (project / "bench" / "__main__.py").write_text(BENCHMARK)
    git(project, "init", "--quiet")
    for speed in ("200", "100"):
        (project / "speed").write_text(speed)
        git(project, "add", ".")
        git(project, "commit", "--quiet", "--message", speed)
    return project


def test_two_commits_take_turns(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round runs both in processes of their own, every other round in the opposite order, on one file system."""
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BENCH_DIR", str(tmp_path))
    monkeypatch.setenv("BENCH_QUICK", "1")  # of the caller, and not of what it compares
    there = checked_out(commit_of("HEAD~1", project), tmp_path / "kept", project)
    trees = Tree(project, Path(sys.executable)), Tree(there, Path(sys.executable))
    here, other = take_turns(*trees, ["emit"], rounds=3, quick=False)
    figure = Figure("cost", "emit", "ns")
    assert (here, other) == ([{figure: 100.0}] * 3, [{figure: 200.0}] * 3)
    runs = [line.split() for line in (tmp_path / "runs").read_text().splitlines()]
    assert [run[0] for run in runs] == ["100.0", "200.0", "200.0", "100.0", "100.0", "200.0"]
    assert {tuple(run[1:]) for run in runs} == {("False", str(tmp_path))}
    (row,) = tables_of(here, other)["cost"]
    assert (row.figure, row.value) == ("0.500 (0.500 to 0.500)", 0.5)
    assert row.compared == "100 here, 200 there ns; too few rounds for a verdict (75%)"
    (row,) = tables_of(here * 2, other * 2)["cost"]
    assert row.compared == "100 here, 200 there ns; differs (97%)"


def test_a_checkout_is_kept_and_is_always_the_commit(project: Path, tmp_path: Path) -> None:
    """The benchmarks of this tree, which a comparison has put into it, are gone in the next one."""
    commit = commit_of("HEAD~1", project)
    there = checked_out(commit, tmp_path / "kept", project)
    (project / "bench" / "new.py").write_text("")
    use_bench_of(project, there)
    assert (there / "bench" / "new.py").exists()
    assert checked_out(commit, tmp_path / "kept", project) == there
    assert not (there / "bench" / "new.py").exists()
    assert (there / "speed").read_text() == "200"


def test_an_interval_holds_the_median_as_often_as_it_says() -> None:
    """Its probability is that of the binomial distribution; with less than six rounds it does not reach 95 %."""
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0, 0.75)
    assert interval([float(n) for n in range(5)])[2] < 0.95
    for count in range(6, 30):
        low, high, sure = interval([float(n) for n in range(count)])
        below = sum(comb(count, k) for k in range(int(low) + 1)) / 2**count
        assert high == count - 1 - low
        assert sure == pytest.approx(1 - 2 * below)
        assert sure >= 0.95
        assert 1 - 2 * (below + comb(count, int(low) + 1) / 2**count) < 0.95  # the next one would be too narrow


def test_noise_is_no_difference() -> None:
    """A ratio whose interval holds 1 is not called a difference; what one side lacks, or is zero, has no ratio."""
    noisy, absent, zero = Figure("t", "noisy", "ns"), Figure("t", "absent", "ns"), Figure("t", "zero", "")
    here = [{noisy: float(n), absent: 1.0, zero: 0.0} for n in (9, 12, 8, 11, 10, 13)]
    there = [{noisy: 10.0, zero: 0.0}] * 6
    rows = {row.subject: row for row in tables_of(here, there)["t"]}
    assert rows["noisy"].compared.endswith("no difference shown (97%)")
    assert rows["absent"].compared == "measured only here"
    assert rows["zero"].value is None
    (once,) = tables_of(here[:1], there[:1])["t"][:1]
    assert "one round shows no difference" in once.compared


def test_what_is_no_commit_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names it; so does the one for a benchmark that there is not."""
    with pytest.raises(CompareFailed, match="'gone' names no commit"):
        commit_of("gone", project)
    assert main(["no-such-commit-at-all", "emit"]) == 1
    assert "'no-such-commit-at-all' names no commit" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["HEAD", "speed"])
    assert "'speed'" in capsys.readouterr().err
