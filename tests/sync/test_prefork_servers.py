"""A WSGI application under gunicorn's workers, with the log opened before the fork or in each worker."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path

import pytest

from tests.integrations.servers import Visitors, serving
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
    command = ["gunicorn", "app:app", "--bind", "127.0.0.1:0", "--workers", "2"]
    command += ["--worker-class", worker, "--threads", "2" if worker == "gthread" else "1", "--log-level", "info"]
    # On a busy machine a worker may get no turn for as long as gunicorn waits by default before it kills one.
    command += ["--timeout", "120", "--graceful-timeout", "120"]
    command += ["--preload"] if preload else []
    # Both workers have opened their logs then: one that is stopped while it loads the application has nothing to drain.
    with serving(tmp_path, command) as server, Visitors(server.address, threads=4, path=path_of) as visitors:
        visitors.wait_for(200, server)
        assert server.stop(signal.SIGTERM) == 0, server.said()
    answered = set(map(path_of, visitors.answered))
    recorded: list[str] = []
    for directory in sorted(path.parent for path in (tmp_path / "audit").rglob("log.json")):
        check_trail(directory)
        events = [record["event"] for record in read_events(directory)]
        assert events[-1]["event_type"] == "audit.log_closed"
        recorded += [event["path"] for event in events if event["event_type"] == "auth.failure"]
    assert answered <= set(recorded)
    assert len(recorded) == len(set(recorded))


def path_of(number: int) -> str:
    """Return the path of a request."""
    return f"/{number % 4}/{number}"
