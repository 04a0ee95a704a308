"""Signal handlers that call the log in the middle of a call of their own thread: none of them waits for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.trails import check_trail, read_events

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

#: A signal comes while the main thread waits for a commit: the observer is called in the log's own thread.
COMMON = """
import os, signal, sys, threading
from audit_async import AuditConfig, AuditError, Local
from audit_async.events import DataDeleted
from audit_async.sync import SyncAuditLogger

config = AuditConfig(mode=Local(sys.argv[1]), service_id="orders", handle_signals=False)
audit = SyncAuditLogger(config)

def event(name):
    return DataDeleted(customer_id=name, data_types=[], reason="r")

def handle(signum, frame):
    handled.append(signum)
    during()

def interrupt(commit):
    if not handled:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

handled = []
signal.signal(signal.SIGUSR1, handle)
"""


def run(tmp_path: Path, program: str) -> str:
    """Run a program, which has to end well; return what it has printed."""
    path = tmp_path / "program.py"
    path.write_text(COMMON + textwrap.dedent(program))
    command = [sys.executable, str(path), str(tmp_path / "audit")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def recorded(directory: Path) -> list[str]:
    """Return the types of a log's records, or whom they are about, after a check of the chain."""
    check_trail(directory)
    events = [record["event"] for record in read_events(directory)]
    return [event.get("customer_id", event["event_type"]) for event in events]


def test_a_handler_that_closes_the_log_during_its_closing(tmp_path: Path) -> None:
    """As a service's handler of SIGTERM does, which comes while `with` ends: the first closing goes on to its end."""
    program = """
        during = audit.close
        audit.start()
        audit.emit(event("first"))
        audit.flush()
        audit.observe_commits(interrupt)
        audit.close()
        assert handled
    """
    run(tmp_path, program)
    assert recorded(tmp_path / "audit/orders/00") == ["audit.log_opened", "first", "audit.log_closed"]


def test_a_handler_that_closes_the_log_during_its_start(tmp_path: Path) -> None:
    """A log that was closed is never open afterwards: the start raises, and what it has opened is closed."""
    program = """
        during = audit.close
        audit.observe_commits(interrupt)
        try:
            audit.start()
        except AuditError as error:
            print(type(error).__name__)
        assert handled
        try:
            audit.emit(event("late"))
        except AuditError as error:
            print(type(error).__name__)
        assert audit.health().status.name == "CLOSED"
    """
    assert run(tmp_path, program).split() == ["LogClosed", "LogClosed"]
    assert recorded(tmp_path / "audit/orders/00") == ["audit.log_opened", "audit.log_closed"]


def test_a_handler_that_emits_while_a_child_opens_its_log(tmp_path: Path) -> None:
    """The child's first event opens a log; one of a handler meanwhile is refused, and both it and the child go on."""
    program = """
        def during():
            try:
                audit.emit(event("handler"))
            except AuditError as error:
                print(type(error).__name__, flush=True)

        audit.start()
        audit.observe_commits(interrupt)
        child = os.fork()
        if child == 0:
            audit.emit(event("child"))
            audit.emit(event("child again"))
            audit.close()
            os._exit(0 if handled else 1)
        assert os.waitpid(child, 0)[1] == 0
        handled.append(0)  # none comes in the parent
        audit.close()
    """
    assert run(tmp_path, program).split() == ["LogClosed"]
    assert recorded(tmp_path / "audit/orders/00") == ["audit.log_opened", "audit.log_closed"]
    assert recorded(tmp_path / "audit/orders/01") == ["audit.log_opened", "child", "child again", "audit.log_closed"]


def test_a_loss_of_a_child_whose_log_is_not_open_yet_is_counted(tmp_path: Path) -> None:
    """One that a handler counts while the log is opened, and one while it can't be opened: both are in its chain."""
    program = """
        import logging
        logging.disable()  # each loss is reported as well
        audit.start()
        child = os.fork()
        if child == 0:
            os.rename(sys.argv[1], sys.argv[1] + ".away")
            open(sys.argv[1], "x").close()
            audit.count_lost("no.directory", "emit_failed")
            os.unlink(sys.argv[1])
            os.rename(sys.argv[1] + ".away", sys.argv[1])

            def during():
                audit.count_lost("in.handler", "emit_failed")

            audit.observe_commits(interrupt)
            audit.emit(event("child"))
            assert audit.health().dropped == 2
            audit.close()
            os._exit(0 if handled else 1)
        assert os.waitpid(child, 0)[1] == 0
        audit.close()
    """
    run(tmp_path, program)
    check_trail(tmp_path / "audit/orders/01")
    events = [record["event"] for record in read_events(tmp_path / "audit/orders/01")]
    dropped = [event["by_type"] for event in events if event["event_type"] == "audit.events_dropped"]
    assert sorted(kind for by_type in dropped for kind in by_type.items()) == [("in.handler", 1), ("no.directory", 1)]
