"""Real servers, real requests, SIGTERM: their own signal handling works, and so does ours."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path

import pytest

from tests.integrations.servers import serving
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
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    with serving(tmp_path, command, starts=workers) as server:
        with server.asking() as client:
            for n in range(60):
                assert client.get(f"/{('sync', 'async')[n % 2]}/{n}").status_code == 200
        assert server.stop(signal.SIGTERM) in statuses, server.said()
    logs = logs_below(tmp_path / "audit")
    assert len(logs) == workers
    recorded = []
    for log in logs:
        check_trail(log)
        records = read_events(log)
        assert records[-1]["event"]["event_type"] == "audit.log_closed"
        recorded += [int(record["event"]["model_ref"]) for record in records if "model_ref" in record["event"]]
    assert sorted(recorded) == list(range(60))
