"""Readiness: a service is told when its trail takes nothing any more, and strangers are told nothing else."""

from __future__ import annotations

import errno
import json
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from audit_async import AuditConfig, AuditLogger, BufferFull, ConfigError, Disabled
from audit_async._store.log_store import LogStore
from audit_async.integrations.health import ReadinessEndpoint, readiness
from tests.logs import ConfigFor, Counted, failure

pytestmark = pytest.mark.anyio


async def test_ready_from_the_start_to_the_end(config_for: ConfigFor) -> None:
    """A log is ready while it is open, and not before or after; a disabled one always."""
    audit = AuditLogger(config_for())
    assert readiness(lambda: None) == (False, {"status": "not_started"})
    assert readiness(audit) == (False, {"status": "not_started"})
    async with audit:
        assert readiness(audit) == (True, {"status": "ok"})
        assert readiness(lambda: audit) == (True, {"status": "ok"})
    assert readiness(audit) == (False, {"status": "closed"})
    assert readiness(AuditLogger(AuditConfig(mode=Disabled(), service_id="orders"))) == (True, {"status": "disabled"})


async def test_a_failing_disk_is_not_ready_and_strangers_learn_no_path(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing becomes durable the answer is one word; the reason, with its paths, is among the details."""
    broken = True
    commit = LogStore.commit

    def failing(self: LogStore, batch: Any, *, sync: bool) -> Any:
        if broken:
            commit(self, batch, sync=False)
            raise OSError(errno.ENOSPC, "No space left on device", str(self.directory))
        return commit(self, batch, sync=sync)

    async with AuditLogger(config_for()) as audit:
        monkeypatch.setattr(LogStore, "commit", failing)
        audit.emit(failure())
        with anyio.fail_after(60):
            while readiness(audit)[0]:
                await anyio.sleep(0.001)
        assert readiness(audit) == (False, {"status": "degraded"})
        ready, answer = readiness(audit, details=True)
        assert not ready
        assert str(audit.directory) in str(answer["reason"])
        assert (answer["waiting_events"], answer["durable_seq"]) == (1, 0)
        json.dumps(answer)
        broken = False
        await audit.flush()
        assert readiness(audit) == (True, {"status": "ok"})


async def test_a_buffer_that_takes_critical_events_only_is_not_ready(config_for: ConfigFor) -> None:
    """As soon as ordinary events are refused, a service that must record them takes no traffic."""
    async with AuditLogger(config_for(buffer_events=20)) as audit:
        for n in range(18):
            assert readiness(audit)[0]
            audit.emit(Counted(producer="p", n=n))
        assert readiness(audit) == (False, {"status": "buffer_full"})
        with pytest.raises(BufferFull):
            audit.emit(Counted(producer="p", n=18))
        await audit.flush()
        assert readiness(audit) == (True, {"status": "ok"})


async def test_the_endpoint_answers_a_load_balancer(config_for: ConfigFor) -> None:
    """200 while ready and 503 otherwise, never from a cache; HEAD without a body, and nothing but reading."""
    audit = AuditLogger(config_for())
    transport = httpx.ASGITransport(ReadinessEndpoint(audit))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        early = await client.get("/")
        assert (early.status_code, early.json()) == (503, {"status": "not_started"})
        async with audit:
            ready = await client.get("/")
            assert (ready.status_code, ready.json()) == (200, {"status": "ok"})
            assert ready.headers["content-type"] == "application/json"
            assert ready.headers["cache-control"] == "no-store"
            head = await client.head("/")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == ready.headers["content-length"]
            posted = await client.post("/")
            assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
        assert (await client.get("/")).status_code == 503


def test_the_endpoint_in_frameworks(config_for: ConfigFor) -> None:
    """It is mounted in Starlette and in FastAPI, runs as an application of its own, and refuses WebSockets."""
    audit = AuditLogger(config_for(mode=Disabled()))
    endpoint = ReadinessEndpoint(lambda: audit, details=True)
    fastapi = FastAPI()
    fastapi.mount("/ready", endpoint)
    for app, path in ((Starlette(routes=[Mount("/ready", endpoint)]), "/ready/"), (fastapi, "/ready"), (endpoint, "/")):
        with TestClient(app) as client:
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.json()["status"] == "disabled"
            assert answer.json()["free_bytes"] is None
    with TestClient(endpoint) as client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
        pass


def test_a_wrong_source_is_refused() -> None:
    """Something else than a logger is a ConfigError when the service is put together."""
    with pytest.raises(ConfigError, match=r"^audit: "):
        ReadinessEndpoint("audit")  # type: ignore[arg-type]  # on purpose
