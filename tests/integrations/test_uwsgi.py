"""A WSGI application under uWSGI: nothing answered is lost, and settings under which it would be are refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.integrations.servers import PROJECT
from tests.integrations.test_flask import SERVED
from tests.trails import check_trail, logs_below, read_events

UWSGI = shutil.which("uwsgi", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

pytestmark = pytest.mark.skipif(UWSGI is None, reason="no uwsgi: pip install pyuwsgi")

#: What uWSGI says once a process has tried to load the application.
LOADED = re.compile(r"ready in \d+ seconds|no app loaded")

SAFE = {
    "each worker loads the application": ["--enable-threads", "--lazy-apps"],
    "forked with Python's knowledge": ["--enable-threads", "--py-call-osafterfork"],
}
UNSAFE = {
    "set enable-threads = true": ["--lazy-apps"],
    "set lazy-apps = true": ["--enable-threads"],
}


@contextmanager
def serving(place: Path, options: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the application with two workers; yield the master and its address."""
    (place / "app.py").write_text(textwrap.dedent(SERVED))
    command = [str(UWSGI), "--http-socket", "127.0.0.1:0", "--master", "--processes", "2"]
    # As uWSGI's own page on containers has it; with die-on-term a worker is killed in the middle of a request.
    command += ["--hook-master-start", "unix_signal:15 gracefully_kill_them_all"]
    command += ["--wsgi-file", "app.py", "--callable", "app", "--home", sys.prefix, "--disable-logging", *options]
    log = place / "server.log"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=place, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        # A worker that is stopped while it loads the application has nothing to drain, and is no part of the test.
        loads = 2 if "--lazy-apps" in options else 1
        while not ("spawned uWSGI worker 2" in (said := log.read_text()) and len(LOADED.findall(said)) >= loads):
            assert server.poll() is None, said
            time.sleep(0.05)
        address = re.search(r"127\.0\.0\.1:[0-9]+(?= \(port)", log.read_text())
        assert address is not None, log.read_text()
        yield server, f"http://{address[0]}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # the workers as well
        server.wait(60)


def ask(address: str, number: int, answered: list[str]) -> None:
    """Ask until the server is gone; what was answered is noted. A connection for each: the server keeps none."""
    with httpx.Client(base_url=address, headers={"Connection": "close"}, timeout=30) as client:
        for count in range(100_000):
            path = f"/{number}/{count}"
            try:
                if client.get(path).status_code == 200:
                    answered.append(path)
            except httpx.HTTPError:
                return


@pytest.mark.parametrize("options", SAFE.values(), ids=SAFE)
def test_every_answered_request_is_recorded_once(tmp_path: Path, options: list[str]) -> None:
    """SIGTERM under load: each worker drains and closes a log of its own."""
    answered: list[str] = []
    with serving(tmp_path, options) as (server, address):
        clients = [threading.Thread(target=ask, args=(address, n, answered)) for n in range(4)]
        for client in clients:
            client.start()
        while len(answered) < 200:
            assert any(client.is_alive() for client in clients), (tmp_path / "server.log").read_text()
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0, (tmp_path / "server.log").read_text()
        for client in clients:
            client.join()
    check_trail(tmp_path / "audit")
    ends = [read_events(directory)[-1]["event"]["event_type"] for directory in logs_below(tmp_path / "audit")]
    assert ends.count("audit.log_closed") >= 2
    events = [record["event"] for record in read_events(tmp_path / "audit")]
    for event_type in ("auth.failure", "http.request"):
        paths = [event["path"] for event in events if event["event_type"] == event_type]
        assert set(answered) <= set(paths)
        assert len(paths) == len(set(paths))


@pytest.mark.parametrize(("what_to_do", "options"), UNSAFE.items(), ids=UNSAFE)
def test_settings_that_would_lose_events_are_refused(tmp_path: Path, what_to_do: str, options: list[str]) -> None:
    """The application is not loaded, and the log names the setting: it would answer, and record nothing."""
    with serving(tmp_path, options) as (_, address):
        assert httpx.get(f"{address}/1/1", timeout=30).status_code == 500
    assert what_to_do in (tmp_path / "server.log").read_text()
