"""`audit-async monitor`: each way in which a published log can turn into another is told, and the evidence kept."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.log_monitor import load_seen
from audit_async.tlog.signing_keys import new_key, write_key
from tests.cli.commands import COMMAND, Audit, Ended, environment, run_on_terminal
from tests.processes import started
from tests.tlog.test_log_monitor import static_server
from tests.tlog.trees import Cosigner
from tests.trail.signed import ORIGIN, SigningLog, changed, without_checkpoints


@pytest.fixture
def log(tmp_path: Path) -> SigningLog:
    """A log of two sessions, signed up to its last record."""
    return SigningLog(tmp_path / "audit").session().session()


class Monitor:
    """A monitor of one log, with its state."""

    def __init__(self, audit: Audit, log: SigningLog, state: Path) -> None:
        self._audit = audit
        self._log = log
        self.state = state

    def look(self, *options: str | Path, source: str | Path | None = None) -> Ended:
        """Look once."""
        place = source if source is not None else self._log.directory / "tlog"
        trust = [] if "--policy" in options else ["--vkey", self._log.vkey]
        return self._audit("monitor", place, "--state", self.state, "--once", *trust, *options)

    def outcome(self, *options: str | Path, source: str | Path | None = None) -> tuple[int, str]:
        """Look once; return the exit status and what was seen."""
        ended = self.look("--json", *options, source=source)
        (row,) = ended.rows
        return ended.status, row["outcome"]


@pytest.fixture
def monitor(log: SigningLog, tmp_path: Path, audit: Audit) -> Monitor:
    """A monitor that has seen nothing yet."""
    return Monitor(audit, log, tmp_path / "seen")


def test_a_log_that_grows(log: SigningLog, monitor: Monitor) -> None:
    """A log that only grows is well; how much is new is shown, and what was seen is kept."""
    ended = monitor.look()
    assert (ended.status, ended.err) == (0, "")
    assert "nothing to compare them with yet" in ended.out
    before = log.size
    assert monitor.outcome() == (0, "unchanged")
    log.session()
    ended = monitor.look("--entries", "--json")
    assert ended.status == 0
    (row,) = ended.rows
    assert (row["outcome"], row["size"], row["new_records"]) == ("grown", log.size, log.size - before)
    seen = load_seen(monitor.state)
    assert seen is not None
    assert seen.note.encode() == log.checkpoint


def test_a_fork_is_told_and_its_evidence_kept(log: SigningLog, monitor: Monitor, tmp_path: Path) -> None:
    """History rewritten and signed anew by somebody with the key: exit status 1, and two notes that convict the log."""
    monitor.look()
    before = log.checkpoint
    log.rewrite(lambda lines: without_checkpoints(changed(2)(lines))).publish_anew().session()
    assert log.size > SignedCheckpoint.parse(before).checkpoint.size
    ended = monitor.look()
    assert ended.status == 1
    assert "fork" in ended.out
    assert "records were changed, removed or inserted" in ended.out
    evidence = {path.read_bytes() for path in tmp_path.glob("seen.evidence-*")}
    assert evidence == {before, log.checkpoint}
    for note in evidence:
        log.policy.verify(note)
    assert load_seen(monitor.state).note.encode() == before  # type: ignore[union-attr]  # it was seen
    assert monitor.outcome() == (1, "fork")
    assert len(list(tmp_path.glob("seen.evidence-*"))) == 2


def test_a_rollback_is_told_and_its_evidence_kept(log: SigningLog, monitor: Monitor, tmp_path: Path) -> None:
    """An older state of everything that came back, then one that has gone on from there, are both found."""
    shutil.copytree(log.directory, tmp_path / "backup")
    log.session()
    monitor.look()
    shutil.rmtree(log.directory)
    shutil.copytree(tmp_path / "backup", log.directory)
    assert monitor.outcome() == (1, "rollback")
    assert len(list(tmp_path.glob("seen.evidence-*"))) == 2
    log.session(checkpoints=4)
    assert monitor.outcome() == (1, "fork")


def test_two_trees_of_one_size(log: SigningLog, monitor: Monitor) -> None:
    """Two checkpoints of the same size and different roots are a fork."""
    monitor.look()
    (log.directory / "tlog/checkpoint").write_bytes(log.sign(log.size, bytes(32)))
    assert monitor.outcome() == (1, "fork")


def test_a_tree_without_the_key(log: SigningLog, monitor: Monitor, tmp_path: Path) -> None:
    """A rewritten chain and tree that somebody else has signed is not accepted, and not remembered."""
    monitor.look()
    state = monitor.state.read_bytes()
    other = tmp_path / "other.pem"
    write_key(other, new_key())
    log.rewrite(changed(2)).publish_anew(other)
    assert monitor.outcome() == (1, "not_accepted")
    assert monitor.state.read_bytes() == state


def test_other_trouble_is_told_as_what_it_is(log: SigningLog, monitor: Monitor, tmp_path: Path) -> None:
    """Damaged bundles, too few witnesses, nothing there: neither a fork nor well; the state stays."""
    monitor.look()
    state = monitor.state.read_bytes()
    policy = tmp_path / "policy"
    policy.write_text(f"log {log.vkey}\nwitness w {Cosigner(1).key}\nquorum w\n")
    assert monitor.outcome("--policy", policy) == (1, "not_cosigned")
    assert monitor.outcome(source=tmp_path) == (3, "unreachable")
    log.session()
    (bundle,) = (log.directory / "tlog/tile/entries/000.p").glob(str(log.size))
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"x")
    assert monitor.outcome("--entries") == (1, "damaged")
    assert monitor.state.read_bytes() == state
    (log.directory / "tlog/checkpoint").write_bytes(b"<html>")
    assert monitor.outcome() == (1, "damaged")
    assert monitor.look(source="http://user@host").status == 2
    monitor.state.write_bytes(b"{}")
    ended = monitor.look()
    assert ended.status == 3
    assert "not a monitor's state" in ended.err


def test_watching_from_another_machine(log: SigningLog, monitor: Monitor, tmp_path: Path) -> None:
    """Over HTTP it goes on looking, takes up trouble that passes, and ends by itself with status 1 at a fork."""
    moved = tmp_path / "moved"
    with static_server(log.directory / "tlog") as url:
        command = ["monitor", url, "--vkey", log.vkey, "--state", str(monitor.state), "--every", "0.1", "--json"]
        with started(
            [*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            rows = map(json.loads, process.stdout)
            saw = partial(next_outcome, rows)
            saw("first")
            saw("unchanged")
            (log.directory / "tlog/checkpoint").rename(moved)
            saw("unreachable")
            moved.rename(log.directory / "tlog/checkpoint")
            saw("unchanged")
            log.session()
            saw("grown", size=log.size)
            forgery = tmp_path / "forgery"
            forgery.write_bytes(log.sign(log.size, bytes(32)))
            forgery.rename(log.directory / "tlog/checkpoint")
            saw("fork")
            assert process.wait(timeout=60) == 1
            assert process.stderr.read() == b""


def next_outcome(rows: map[dict[str, object]], wanted: str, *, size: int | None = None) -> None:
    """Read on until a look has this outcome, and shows this size; looks at what comes between are well."""
    for row in rows:
        if row["outcome"] == wanted and size in (None, row["size"]):
            return
        assert row["outcome"] in {"unchanged", "grown", "unreachable"}, row
    raise AssertionError(f"it ended before it saw {wanted}")


def test_a_person_can_stop_it(log: SigningLog, tmp_path: Path) -> None:
    """On a terminal each look is a line, and Ctrl-C ends it."""
    status, written = run_on_terminal(
        "monitor", log.directory / "tlog", "--vkey", log.vkey, "--state", tmp_path / "seen", "--every", "0.1",
        until=lambda so_far: b"unchanged" in so_far, columns=200,
    )  # fmt: skip
    assert status == 130
    assert f"{ORIGIN}: {log.size} records".encode() in written
