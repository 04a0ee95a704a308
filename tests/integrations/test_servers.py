"""Real servers, real requests, SIGTERM: their own signal handling works, and so does ours."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.trails import check_trail, logs_below, read_events

APP = """
    from contextlib import asynccontextmanager
    from fastapi import FastAPI
    from audit_async import AuditConfig, AuditLogger, Batched, Local
    from audit_async.events import ModelAccessed

    config = AuditConfig(mode=Local("audit"), service_id="web", flush_mode=Batched(size=5000, interval=60.0))

    @asynccontextmanager
    async def lifespan(app):
        async with AuditLogger(config) as app.state.audit:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/sync/{n}")
    def in_the_thread_pool(n: int):
        app.state.audit.emit(ModelAccessed(customer_id="c", model_ref=str(n), access_type="sync"))

    @app.get("/async/{n}")
    async def on_the_loop(n: int):
        app.state.audit.emit(ModelAccessed(customer_id="c", model_ref=str(n), access_type="async"))
"""

UVICORN = ["uvicorn", "app:app", "--port", "0"]
GUNICORN = ["gunicorn", "app:app", "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:0"]


@contextmanager
def serving(directory: Path, command: list[str], workers: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server on a port of the system's choice; give the process and the address once all workers are up."""
    (directory / "app.py").write_text(textwrap.dedent(APP))
    with (directory / "server.log").open("w+") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=directory, stdout=log, stderr=log, text=True)
        try:
            said, address = "", None
            while address is None or said.count("Application startup complete") < workers:
                said = (directory / "server.log").read_text()
                assert process.poll() is None, said
                address = re.search(r"(?:running on|Listening at:) (http://[0-9.:]+)", said)
            yield process, address[1]
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("command", "workers", "statuses"),
    [
        pytest.param(UVICORN, 1, {0, -signal.SIGTERM}, id="uvicorn"),
        pytest.param([*GUNICORN, "--workers", "2"], 2, {0}, id="gunicorn"),
        pytest.param([*GUNICORN, "--workers", "2", "--preload"], 2, {0}, id="gunicorn-preload"),
    ],
)
def test_every_answered_request_is_in_the_trail(
    tmp_path: Path, command: list[str], workers: int, statuses: set[int]
) -> None:
    """Each worker has a chain of its own, drained and closed at SIGTERM, and the server ends as it always does."""
    with serving(tmp_path, command, workers) as (process, address):
        with httpx.Client(base_url=address) as client:
            for n in range(60):
                assert client.get(f"/{('sync', 'async')[n % 2]}/{n}").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in statuses, (tmp_path / "server.log").read_text()
    logs = logs_below(tmp_path / "audit")
    assert len(logs) == workers
    recorded = []
    for log in logs:
        check_trail(log)
        records = read_events(log)
        assert records[-1]["event"]["event_type"] == "audit.log_closed"
        recorded += [int(record["event"]["model_ref"]) for record in records if "model_ref" in record["event"]]
    assert sorted(recorded) == list(range(60))
