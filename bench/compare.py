"""`python -m bench.compare REF [NAME ...]`: measure benchmarks of this tree and of another commit by turns.

The other commit is checked out next to this tree, with an environment of its own that has the same packages. A round
measures both, every other round in the opposite order; a ratio is taken round by round. So a machine that was slow for
a round was slow for both, and the interval of the ratios says how much of a difference is noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

from bench import machine
from bench.__main__ import BENCHMARKS
from bench.frame import median, ratios
from bench.results import RESULTS, Row, keep, show

PROJECT: Final = Path(__file__).parents[1]
#: Checkouts and environments of other commits, kept for the next comparison; `make clean` removes them.
KEPT: Final = PROJECT / ".bench-compare"
_CONFIDENCE: Final = 0.95


class Tree(NamedTuple):
    """A checkout, and the interpreter of its environment."""

    directory: Path
    python: Path


class Figure(NamedTuple):
    """What names a figure in the results of a benchmark."""

    table: str
    subject: str
    unit: str


class CompareFailed(Exception):
    """The comparison can't be made; the message says why and what to do."""


def interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return an interval for the median of what was sampled, and how sure it is.

    Its ends are samples, so nothing is assumed about how they are spread: the closest pair of the k-th smallest and the
    k-th largest that holds the median with a probability of 95 % at least. Fewer than six samples don't reach that;
    then it is the smallest and the largest, and the probability says so.
    """
    ordered = sorted(samples)
    count = len(ordered)
    kept, outside = 0, 0.5**count  # the probability that the median is below the smallest sample
    for k in range(1, (count - 1) // 2 + 1):
        more = outside + math.comb(count, k) * 0.5**count
        if 2 * more > 1 - _CONFIDENCE:
            break
        kept, outside = k, more
    return ordered[kept], ordered[-1 - kept], 1 - 2 * outside


def figures(results: Path, names: Sequence[str]) -> dict[Figure, float]:
    """Return the numbers that a run has kept."""
    found: dict[Figure, float] = {}
    for name in names:
        for table in json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["tables"]:
            for row in table["rows"]:
                if row["value"] is not None:
                    found[Figure(table["title"], row["subject"], row["unit"])] = row["value"]
    return found


def tables_of(here: Sequence[Mapping[Figure, float]], there: Sequence[Mapping[Figure, float]]) -> dict[str, list[Row]]:
    """Return a row for each figure, by the table that it is from: this tree over the other commit."""
    tables: dict[str, list[Row]] = {}
    for figure in here[0]:
        pairs = [(a[figure], b[figure]) for a, b in zip(here, there, strict=True) if figure in a and figure in b]
        tables.setdefault(figure.table, []).append(_row(figure, pairs))
    return tables


def _row(figure: Figure, pairs: Sequence[tuple[float, float]]) -> Row:
    if not pairs:
        return Row(figure.subject, "-", "measured only here")
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    compared = f"{_short(median(ours))} here, {_short(median(theirs))} there{' ' * bool(figure.unit)}{figure.unit}"
    if not all(theirs):
        return Row(figure.subject, "-", compared)
    samples = ratios(ours, theirs)
    middle = median(samples)
    if len(samples) == 1:
        return Row(figure.subject, f"{middle:.3f}", f"{compared}; one round shows no difference", middle)
    low, high, sure = interval(samples)
    verdict = "differs" if low > 1 or high < 1 else "no difference shown"
    if sure < _CONFIDENCE:
        verdict = "too few rounds for a verdict"
    shown = f"{middle:.3f} ({low:.3f} to {high:.3f})"
    return Row(figure.subject, shown, f"{compared}; {verdict} ({sure:.0%})", middle, "", low, high)


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def commit_of(reference: str, project: Path = PROJECT) -> str:
    """Return the commit that a branch, a tag or the like names."""
    try:
        return _quietly(_git(project, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}")).strip()
    except CompareFailed as error:
        message = f"{reference!r} names no commit of {project}; try a branch, a tag, or HEAD~3"
        raise CompareFailed(message) from error


def checked_out(commit: str, kept: Path = KEPT, project: Path = PROJECT) -> Path:
    """Return the directory of a commit's checkout, which is made if it is missing."""
    directory = kept / commit / "tree"
    if not (directory / ".git").exists():
        shutil.rmtree(directory, ignore_errors=True)
        _quietly(_git(project, "worktree", "prune"))
        _quietly(_git(project, "worktree", "add", "--quiet", "--detach", str(directory), commit))
    # What --same-bench has put there the last time.
    _quietly(_git(directory, "reset", "--hard", "--quiet", commit))
    _quietly(_git(directory, "clean", "-d", "--force", "--quiet", "--", "bench"))
    return directory


def environment_of(tree: Path) -> Path:
    """Return the interpreter of a checkout's environment, made if it is missing, with the packages of this one."""
    environment = tree.with_name("venv")
    python, made = environment / "bin" / "python", environment / ".made"
    if not made.exists():
        _quietly([sys.executable, "-m", "venv", "--clear", str(environment)])
        same = environment / "constraints.txt"
        same.write_text("".join(f"{line}\n" for line in sorted(_packages())), encoding="utf-8")
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", str(same)]
        _quietly([str(python), *install, "--editable", f"{tree}[bench]"])
        made.touch()
    return python


def _packages() -> Iterator[str]:
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name and name.lower().replace("_", "-") != "audit-async":
            yield f"{name}=={distribution.version}"


def take_turns(
    here: Tree, there: Tree, names: Sequence[str], *, rounds: int, quick: bool
) -> tuple[list[dict[Figure, float]], list[dict[Figure, float]]]:
    """Measure both trees once a round; return what each round has found here and there."""
    found: dict[Tree, list[dict[Figure, float]]] = {here: [], there: []}
    for number in range(rounds):
        for tree in (here, there) if number % 2 == 0 else (there, here):
            with tempfile.TemporaryDirectory(prefix="bench-compare-") as results:
                _measure(tree, names, Path(results), quick=quick)
                found[tree].append(figures(Path(results), names))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found[here], found[there]


def _measure(tree: Tree, names: Sequence[str], results: Path, *, quick: bool) -> None:
    # The same file system for both; and no path of the caller's, by which one would import the other's package.
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "BENCH_QUICK"}}
    environment.setdefault("BENCH_DIR", str(machine.work_root()))
    command = [str(tree.python), "-m", "bench", "--results", str(results), *["--quick"] * quick, *names]
    _quietly(command, cwd=tree.directory, environment=environment)


def _git(directory: Path, *arguments: str) -> list[str]:
    return ["git", "-C", str(directory), *arguments]


def _quietly(command: list[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it prints; raise with all of it if it fails."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CompareFailed(f"{' '.join(command)} (exit status {done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


def use_bench_of(project: Path, tree: Path) -> None:
    """Replace the benchmarks of a checkout by those of this tree, so that both are measured by the same code."""
    shutil.rmtree(tree / "bench")
    shutil.copytree(project / "bench", tree / "bench", ignore=shutil.ignore_patterns("results", "__pycache__"))


def compare(reference: str, names: Sequence[str], *, rounds: int, quick: bool, same_bench: bool, results: Path) -> None:
    """Measure this tree and another commit by turns, print the ratios, and keep them as `compare`.json and .svg."""
    commit = commit_of(reference)
    directory = checked_out(commit)
    there = Tree(directory, environment_of(directory))
    if same_bench:
        use_bench_of(PROJECT, directory)
    elif _quietly(_git(PROJECT, "diff", "--name-only", commit, "--", "bench")):
        print("The benchmarks themselves differ between the two; --same-bench measures both by those of this tree.")
    here, other = take_turns(Tree(PROJECT, Path(sys.executable)), there, names, rounds=rounds, quick=quick)
    for title, rows in tables_of(here, other).items():
        show(f"{title}: here / {reference}", rows)
    about = machine.details() | {"compared_with": commit, "rounds": str(rounds), "benchmarks": ", ".join(names)}
    kept = keep("compare", about | ({"quick": "yes: not to be quoted"} if quick else {}), results)
    print("\nKept in " + ", ".join(map(str, kept)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare what the command line names; return 1, with the reason, if that can't be done."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description="Measure benchmarks of this tree, with its uncommitted changes, and of another commit by turns.",
        epilog="for example: python -m bench.compare main emit throughput --rounds 7",
    )
    parser.add_argument("reference", metavar="REF", help="the other commit: a branch, a tag, HEAD~3")
    parser.add_argument("name", nargs="+", help=f"which benchmarks: {', '.join(BENCHMARKS)}")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="short runs: shows that all works, no figures")
    parser.add_argument("--same-bench", action="store_true", help="measure both by the benchmarks of this tree")
    parser.add_argument("--results", type=Path, default=RESULTS / "compare", help="where it is kept (%(default)s)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.name if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1; 6 for an interval that holds in 95 of 100 cases")
    try:
        compare(
            options.reference,
            options.name,
            rounds=options.rounds,
            quick=options.quick,
            same_bench=options.same_bench,
            results=options.results,
        )
    except CompareFailed as error:
        print(f"bench.compare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
