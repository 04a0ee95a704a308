"""Whole process trees under requests that don't stop when SIGTERM comes: what was answered is in the trail."""

from __future__ import annotations

import re
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.servers import Server, Visitors, serving
from tests.processes import wait_until
from tests.trails import check_trail, logs_below, read_events

FASTAPI = """
    from fastapi import FastAPI
    from audit_async import AuditConfig, Batched, Local
    from audit_async.integrations.fastapi import AuditMiddleware, audit_lifespan

    config = AuditConfig(mode=Local("audit"), service_id="web", flush_mode=Batched(size=5000, interval=60.0))
    app = FastAPI(lifespan=audit_lifespan(config))
    app.add_middleware(AuditMiddleware)

    @app.get("/sync/{n}")
    def in_the_thread_pool(n: int): return n

    @app.get("/async/{n}")
    async def on_the_loop(n: int): return n
"""

QUART = """
    from quart import Quart
    from audit_async import AuditConfig, AuditLogger, Local
    from audit_async.integrations.asgi import AuditMiddleware

    app = Quart(__name__)
    audit = AuditLogger(AuditConfig(mode=Local("audit"), service_id="web"))
    app.asgi_app = AuditMiddleware(app.asgi_app, audit)

    @app.while_serving
    async def trail():
        async with audit:
            yield

    @app.get("/sync/<int:n>")
    def in_the_thread_pool(n): return str(n)

    @app.get("/async/<int:n>")
    async def on_the_loop(n): return str(n)
"""

UVICORN = ["uvicorn", "app:app", "--port", "0", "--no-access-log"]
GUNICORN = ["gunicorn", "app:app", "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:0"]


def recorded(directory: Path, logs: int) -> list[dict[str, Any]]:
    """Return the requests that the trail tells of, once every chain in it is checked and was ended in order."""
    directories = logs_below(directory / "audit")
    assert len(directories) == logs
    requests = []
    for log in directories:
        check_trail(log)
        events = [record["event"] for record in read_events(log)]
        assert events[-1]["event_type"] == "audit.log_closed"
        requests += [event for event in events if event["event_type"] == "http.request"]
    return requests


def paths(requests: list[dict[str, Any]]) -> list[int]:
    """Return the numbers in the requests' paths."""
    return [int(request["path"].rpartition("/")[2]) for request in requests]


@pytest.mark.parametrize(
    ("command", "workers", "statuses"),
    [
        pytest.param([*UVICORN, "--workers", "4"], 4, {0}, id="uvicorn-4-workers"),
        pytest.param([*GUNICORN, "--workers", "2"], 2, {0}, id="gunicorn"),
        pytest.param([*GUNICORN, "--workers", "2", "--preload"], 2, {0}, id="gunicorn-preload"),
    ],
)
def test_every_answered_request_is_in_the_trail(
    tmp_path: Path, command: list[str], workers: int, statuses: set[int]
) -> None:
    """SIGTERM in the midst of requests: each that was answered is recorded, each chain closed, the status as usual."""
    (tmp_path / "app.py").write_text(textwrap.dedent(FASTAPI))
    with serving(tmp_path, command, starts=workers) as server, Visitors(server.address) as visitors:
        visitors.wait_for(200, server)
        assert server.stop(signal.SIGTERM) in statuses, server.said()
    requests = recorded(tmp_path, workers)
    assert set(visitors.answered) <= set(paths(requests))
    assert {request["route"] for request in requests} == {"/sync/{n}", "/async/{n}"}
    assert len(paths(requests)) == len(set(paths(requests))), "one event a request"


def test_a_reload_loses_nothing(tmp_path: Path) -> None:
    """`uvicorn --reload`: the process that is replaced drains its log, the next one carries the chain on."""
    app = tmp_path / "app.py"
    app.write_text(textwrap.dedent(FASTAPI))
    with serving(tmp_path, [*UVICORN, "--reload"]) as server:
        first = ask_one_by_one(server, range(50))

        def is_noticed() -> bool:
            app.touch()  # again and again: a change before uvicorn has looked for the first time is none
            return "Reloading" in server.said()

        wait_until(is_noticed, server.process, server.log)
        wait_until(lambda: server.said().count("startup complete") == 2, server.process, server.log)
        second = ask_one_by_one(server, range(50, 100))
        assert server.stop(signal.SIGTERM) == 0, server.said()
    assert paths(recorded(tmp_path, 1)) == first + second
    types = [record["event"]["event_type"] for record in read_events(tmp_path / "audit")]
    assert [each for each in types if each.startswith("audit.")] == ["audit.log_opened", "audit.log_closed"] * 2


def ask_one_by_one(server: Server, numbers: range) -> list[int]:
    """Ask for each number; return those that were answered, which are all."""
    with server.asking() as client:
        for n in numbers:
            assert client.get(f"/async/{n}").status_code == 200
    return list(numbers)


def test_a_quart_application_is_audited_under_hypercorn(tmp_path: Path) -> None:
    """Another framework and another server, with nothing but the ASGI middleware and a logger."""
    (tmp_path / "app.py").write_text(textwrap.dedent(QUART))
    command = ["hypercorn", "app:app", "--bind", "127.0.0.1:0"]
    with serving(tmp_path, command) as server, Visitors(server.address, threads=2) as visitors:
        visitors.wait_for(50, server)
        assert server.stop(signal.SIGTERM) == 0, server.said()
    assert set(visitors.answered) <= set(paths(recorded(tmp_path, 1)))


def test_a_client_that_hangs_up_is_recorded_by_a_real_server(tmp_path: Path) -> None:
    """A client that closes its connection in the middle of a stream gives one event that says so."""
    (tmp_path / "app.py").write_text(
        textwrap.dedent(FASTAPI)
        + textwrap.dedent("""
            import asyncio
            from fastapi.responses import StreamingResponse

            @app.get("/stream")
            async def stream():
                async def parts():
                    while True:
                        yield b"x" * 1000
                        await asyncio.sleep(0.001)
                return StreamingResponse(parts())
        """)
    )
    with serving(tmp_path, UVICORN) as server:
        with server.asking() as client, client.stream("GET", "/stream") as response:
            next(response.iter_bytes(10_000))
        assert server.stop(signal.SIGTERM) in {0, -signal.SIGTERM}, server.said()
    (event,) = recorded(tmp_path, 1)
    assert (event["outcome"], event["status"]) == ("client_disconnected", 200)
    assert event["bytes_out"] >= 10_000
    assert re.fullmatch(r"python-httpx/.*", event["user_agent"])
