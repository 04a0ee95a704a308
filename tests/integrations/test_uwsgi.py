"""A WSGI application under uWSGI: nothing answered is lost, and settings under which it would be are refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integrations.servers import Server, Visitors, serving
from tests.integrations.test_flask import SERVED, assert_recorded_once, path_of
from tests.processes import wait_until
from tests.trails import logs_below, read_events

UWSGI = shutil.which("uwsgi", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

pytestmark = pytest.mark.skipif(UWSGI is None, reason="no uwsgi: pip install pyuwsgi")

#: What uWSGI says once a process has tried to load the application.
LOADED = re.compile(r"ready in \d+ seconds|no app loaded")

SAFE = {
    "each worker loads the application": ["--enable-threads", "--lazy-apps"],
    "forked with Python's knowledge": ["--enable-threads", "--py-call-uwsgi-fork-hooks"],
}
if sys.version_info < (3, 13):  # with which it ends the workers: https://github.com/unbit/uwsgi/issues/2710
    SAFE["forked with Python's knowledge, the older option"] = ["--enable-threads", "--py-call-osafterfork"]
UNSAFE = {
    "set enable-threads = true": ["--lazy-apps"],
    "set lazy-apps = true": ["--enable-threads"],
}


@contextmanager
def running(place: Path, options: list[str]) -> Iterator[Server]:
    """Run the application with two workers."""
    (place / "app.py").write_text(textwrap.dedent(SERVED))
    command = [str(UWSGI), "--http-socket", "127.0.0.1:0", "--master", "--processes", "2"]
    # As uWSGI's own page on containers has it; with die-on-term a worker is killed in the middle of a request.
    command += ["--hook-master-start", "unix_signal:15 gracefully_kill_them_all"]
    command += ["--wsgi-file", "app.py", "--callable", "app", "--home", sys.prefix, "--disable-logging", *options]
    with serving(place, command, program=()) as server:
        # A worker that is stopped while it loads the application has nothing to drain, and is no part of the test.
        loads = 2 if "--lazy-apps" in options else 1

        def is_loaded() -> bool:
            said = server.said()
            return "spawned uWSGI worker 2" in said and len(LOADED.findall(said)) >= loads

        wait_until(is_loaded, server.process, server.log)
        yield server


@pytest.mark.parametrize("options", SAFE.values(), ids=SAFE)
def test_every_answered_request_is_recorded_once(tmp_path: Path, options: list[str]) -> None:
    """SIGTERM under load: each worker drains and closes a log of its own."""
    trail = tmp_path / "audit"
    headers = {"Connection": "close"}  # the server keeps none
    with (
        running(tmp_path, options) as server,
        Visitors(server.address, threads=4, path=path_of, headers=headers) as visitors,
    ):
        visitors.wait_for(200, server)
        # Which worker answers is the system's choice; both have begun once both have a log.
        wait_until(lambda: len(logs_below(trail)) >= 2, server.process, server.log)
        assert server.stop(signal.SIGTERM) == 0, server.said()
    assert_recorded_once(trail, visitors.answered)
    ends = [read_events(directory)[-1]["event"]["event_type"] for directory in logs_below(trail)]
    assert ends.count("audit.log_closed") >= 2


@pytest.mark.parametrize(("what_to_do", "options"), UNSAFE.items(), ids=UNSAFE)
def test_settings_that_would_lose_events_are_refused(tmp_path: Path, what_to_do: str, options: list[str]) -> None:
    """The application is not loaded, and the log names the setting: it would answer, and record nothing."""
    with running(tmp_path, options) as server, server.asking() as client:
        assert client.get("/1/1").status_code == 500
    assert what_to_do in server.said()
