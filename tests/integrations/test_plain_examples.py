"""The examples without a web framework, each run as its users run it: the asyncio worker and the Typer script."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.processes import started
from tests.test_examples import PROJECT, run_example
from tests.trails import check_trail, read_events


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """Where an example leaves its trail."""
    return tmp_path / "trail"


def task_ids(trail: Path, event_type: str) -> list[str]:
    """Return the tasks of all events of a type, in order."""
    return [record["event"]["task_id"] for record in read_events(trail) if record["event"]["event_type"] == event_type]


def start_worker(trail: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run the worker with pipes at both its ends."""
    command = [sys.executable, "-m", "examples.asyncio_worker", str(trail)]
    pipe = subprocess.PIPE
    return started(command, cwd=PROJECT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_the_worker_finishes_what_it_has_taken_at_sigterm(trail: Path) -> None:
    """SIGTERM while jobs are under way: each that was taken is finished and recorded, and the exit status is 0."""
    with start_worker(trail) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        for n in range(40):
            worker.stdin.write(f"t{n} 20000\n")
        worker.stdin.flush()
        taken = [worker.stdout.readline().split()[1] for _ in range(10)]
        worker.send_signal(signal.SIGTERM)  # and stdin stays open
        *more, done = worker.stdout.read().splitlines()
        assert worker.wait(60) == 0, worker.stderr and worker.stderr.read()
        worker.stdin.close()
    taken += [line.split()[1] for line in more]
    assert task_ids(trail, "task.submitted") == taken
    assert sorted(task_ids(trail, "task.completed")) == sorted(taken)
    assert done == f"done: {len(read_events(trail))} records are durable"
    assert read_events(trail)[-1]["event"]["event_type"] == "audit.log_closed"
    check_trail(trail)


def test_the_worker_ends_with_its_input(trail: Path) -> None:
    """At the end of the input all jobs are done; half a line is none."""
    with start_worker(trail) as worker:
        said, error = worker.communicate("a 10\nb 20\nc 3", timeout=60)
        assert (worker.returncode, error) == (0, "")
    assert said.splitlines() == ["took a", "took b", "done: 6 records are durable"]
    assert sorted(task_ids(trail, "task.completed")) == ["a", "b"]
    check_trail(trail)


def test_a_bad_job_ends_the_worker_but_not_the_jobs_before(trail: Path) -> None:
    """An error of the worker's own leaves a trail that is closed in order."""
    with start_worker(trail) as worker:
        _, error = worker.communicate("a 10\nnonsense\n", timeout=60)
        assert worker.returncode == 1
    assert "ValueError" in error
    assert task_ids(trail, "task.completed") == ["a"]
    assert read_events(trail)[-1]["event"]["event_type"] == "audit.log_closed"
    check_trail(trail)


def test_the_script_records_its_commands(trail: Path) -> None:
    """Each command leaves one durable record and says where; a wrong use leaves none."""
    granted = run_example("typer_script", "grant", "dana", "admin", "--by", "root", "--audit-dir", trail)
    forgotten = run_example("typer_script", "forget", "c-1", "gdpr_art_17", "--audit-dir", trail)
    refused = run_example("typer_script", "grant", "dana", "--audit-dir", trail)
    assert [run.returncode for run in (granted, forgotten, refused)] == [0, 0, 2]
    records = {record["seq"]: record for record in read_events(trail)}
    events = [record["event"] for record in records.values() if not record["event"]["event_type"].startswith("audit.")]
    assert events == [
        {
            "event_type": "authz.permission_changed",
            "actor": {"user_id": "root", "auth_method": "internal"},
            "subject": "dana",
            "old_permissions": [],
            "new_permissions": ["admin"],
        },
        {"event_type": "data.deleted", "customer_id": "c-1", "data_types": ["orders"], "reason": "gdpr_art_17"},
    ]
    assert granted.stdout == f"record 1, {records[1]['hash'][:16]}…\n"
    assert forgotten.stdout == f"record 4, {records[4]['hash'][:16]}…\n"
    check_trail(trail)
