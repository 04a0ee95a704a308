"""A WSGI application under gunicorn's workers, with the log opened before the fork or in each worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.trails import check_trail, read_events

APP = """
    from pathlib import Path
    from audit_async import AuditConfig, Local
    from audit_async.config import Batched
    from audit_async.events import AuthFailure
    from audit_async.sync import SyncAuditLogger

    waits = Batched(size=1000, interval=30.0)
    audit = SyncAuditLogger(AuditConfig(mode=Local(Path("audit")), service_id="shop", flush_mode=waits))
    audit.start()

    def app(environ, start_response):
        audit.emit(AuthFailure(reason="bad_password", ip="192.0.2.1", path=environ["PATH_INFO"]))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_every_answered_request_is_in_the_trail(tmp_path: Path, worker: str, preload: bool) -> None:
    """SIGTERM under load: each worker drains and closes a log of its own, and none is lost or recorded twice."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    command = [sys.executable, "-m", "gunicorn", "app:app", "--bind", "127.0.0.1:0", "--workers", "2"]
    command += ["--worker-class", worker, "--threads", "2" if worker == "gthread" else "1", "--log-level", "info"]
    # On a busy machine a worker may get no turn for as long as gunicorn waits by default before it kills one.
    command += ["--timeout", "120", "--graceful-timeout", "120"]
    log = (tmp_path / "server.log").open("w+")
    server = subprocess.Popen(
        [*command, *(["--preload"] if preload else [])], cwd=tmp_path, stdout=log, stderr=log, env=os.environ
    )
    answered: list[str] = []
    try:
        address = _address(tmp_path, server)
        threads = [threading.Thread(target=_ask, args=(address, number, answered), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        while len(answered) < 200:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=180) == 0, (tmp_path / "server.log").read_text()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
    finally:
        server.kill()
        server.wait()
        log.close()
    recorded: list[str] = []
    for directory in sorted(path.parent for path in (tmp_path / "audit").rglob("log.json")):
        check_trail(directory)
        events = [record["event"] for record in read_events(directory)]
        assert events[-1]["event_type"] == "audit.log_closed"
        recorded += [event["path"] for event in events if event["event_type"] == "auth.failure"]
    assert set(answered) <= set(recorded)
    assert len(recorded) == len(set(recorded))


def _address(place: Path, server: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while True:
        said = (place / "server.log").read_text()
        assert server.poll() is None, said
        assert time.monotonic() < deadline, said
        found = re.search(r"Listening at: (http://[0-9.:]+)", said)
        if found is not None and said.count("Booting worker") >= 2:
            return found[1]
        time.sleep(0.05)


def _ask(address: str, number: int, answered: list[str]) -> None:
    """Ask until the server is gone; what was answered is noted."""
    with httpx.Client(base_url=address, timeout=120) as client:
        for count in range(100_000):
            path = f"/{number}/{count}"
            try:
                if client.get(path).status_code == 200:
                    answered.append(path)
            except httpx.HTTPError:
                return
