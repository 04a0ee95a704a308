"""However a program without an event loop ends, what was emitted is in the trail, once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from audit_async.reader import AuditReader
from tests.sync.sync_program import WAYS
from tests.trails import read_events

STATUS = {"exit": 3, "error": 1, "term": -signal.SIGTERM, "int": -signal.SIGINT, "handled": 7}


@pytest.mark.parametrize("how", WAYS)
def test_what_was_emitted_is_recorded_once(how: str, tmp_path: Path) -> None:
    """Acknowledged or not; every log is closed in order, and the process ends as it would have ended anyway."""
    command = [sys.executable, "-m", "tests.sync.sync_program", how, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == STATUS.get(how, 0), ended.stderr
    emitted = [line[1:] for line in ended.stdout.splitlines()]
    logs = sorted(path.parent for path in tmp_path.rglob("log.json"))
    records = [record["event"] for log in logs for record in read_events(log)]
    found = [event["attempted_user"] for event in records if event["event_type"] == "auth.failure"]
    if how != "threads":
        assert sorted(found) == sorted(emitted)
    else:  # one that was taken may not have been reported
        assert set(emitted) <= set(found)
        assert len(set(found)) == len(found)
    assert len(emitted) >= 20
    processes = {name.partition("-")[0] for name in emitted}
    assert len(processes) == {"os-fork": 2, "fork": 3, "forkserver": 3, "spawn": 3}.get(how, 1)
    assert len(logs) <= len(processes)
    closed = [event for event in records if event["event_type"] == "audit.log_closed"]
    opened = [event for event in records if event["event_type"] == "audit.log_opened"]
    assert len(closed) == len(opened) == len(processes), ended.stderr
    report = anyio.run(AuditReader(tmp_path).verify)
    assert report.valid
    assert "Traceback" not in ended.stderr or how in {"error", "int"}


def test_a_program_that_replaces_itself_gets_its_log_back(tmp_path: Path) -> None:
    """`exec` ends no interpreter, so the log is left as after a kill; what was acknowledged is there, in one chain."""
    program = """
import os, sys
from audit_async import AuditConfig, Local
from audit_async.sync import SyncAuditLogger
from tests.sync.sync_program import failure

directory, turn = sys.argv[1:]
with SyncAuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as audit:
    audit.emit_durable(failure(int(turn)), 120)
    if turn == "0":
        os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], directory, "1"])
"""
    command = [sys.executable, "-c", program, str(tmp_path), "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    (log,) = (path.parent for path in tmp_path.rglob("log.json"))
    events = [record["event"] for record in read_events(log)]
    users = [event["attempted_user"] for event in events if event["event_type"] == "auth.failure"]
    assert [user.partition("-")[2] for user in users] == ["0", "1"]
    assert [event["event_type"] for event in events].count("audit.log_closed") == 1
    assert anyio.run(AuditReader(tmp_path).verify).valid
