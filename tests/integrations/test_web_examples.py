"""The web examples, each served as its users serve it, asked over HTTP, stopped by SIGTERM, and their trails read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.integrations.servers import PROJECT, serving
from tests.trails import check_trail, read_events


def recorded(directory: Path) -> list[tuple[str, object, object]]:
    """Return type, actor and path, or what stands in their place, of all that happened in a service."""
    check_trail(directory / "audit")
    seen = []
    for record in read_events(directory / "audit"):
        event: dict[str, Any] = record["event"]
        who = event.get("actor", {}).get("user_id") or event.get("attempted_user") or event.get("customer_id")
        what = event.get("path") or event.get("resource", {}).get("resource_id")
        seen.append((event["event_type"], who, what))
    assert [each[0] for each in (seen[0], seen[-1])] == ["audit.log_opened", "audit.log_closed"]
    return seen[1:-1]


def test_the_fastapi_example_tells_who_saw_and_erased_what(tmp_path: Path) -> None:
    """Log-ins, refusals, an export and an erasure, from `def` and `async def` handlers, with their actors."""
    passwords = {"alice": "wonderland-7", "dora": "data-protection-9"}
    environment = {"ORDERS_PASSWORDS": json.dumps(passwords)}
    command = ["uvicorn", "examples.fastapi_orders:app", "--port", "0"]
    with serving(tmp_path, command, environment=environment) as server:
        with server.asking() as client:

            def ask(method: str, path: str, token: str = "", **content: Any) -> httpx.Response:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                return client.request(method, path, headers=headers, **content)

            assert ask("POST", "/login", json={"user": "alice", "password": "a guess"}).status_code == 401
            alice = ask("POST", "/login", json={"user": "alice", "password": passwords["alice"]}).json()["token"]
            dora = ask("POST", "/login", json={"user": "dora", "password": passwords["dora"]}).json()["token"]
            assert ask("GET", "/orders/1").status_code == 401
            assert ask("GET", "/orders/1", alice).json()["items"] == ["tea"]
            assert ask("GET", "/orders/2", alice).status_code == 403
            assert len(ask("GET", "/customers/alice/export", alice).json()) == 1
            assert ask("DELETE", "/customers/alice", alice).status_code == 403
            assert ask("DELETE", "/customers/alice", dora).status_code == 204
            assert ask("GET", "/orders/1", alice).status_code == 404
            assert ask("POST", "/logout", alice).status_code == 204
            assert ask("GET", "/health").json() == {"audit": "ok"}
        assert server.stop(signal.SIGTERM) in {0, -signal.SIGTERM}, server.said()
    assert recorded(tmp_path) == [
        ("auth.failure", "alice", "/login"),
        ("http.request", None, "/login"),
        ("auth.success", "alice", "/login"),
        ("token.created", "alice", None),
        ("http.request", None, "/login"),
        ("auth.success", "dora", "/login"),
        ("token.created", "dora", None),
        ("http.request", None, "/login"),
        ("auth.failure", None, "/orders/1"),
        ("http.request", "alice", "/orders/1"),
        ("authz.denied", "alice", "/orders/2"),
        ("compliance.gdpr_data_access_request", "alice", None),
        ("compliance.gdpr_data_export", "alice", None),
        ("http.request", "alice", "/customers/alice/export"),
        ("authz.denied", "alice", "/customers/alice"),
        ("http.request", "alice", "/customers/alice"),
        ("data.deleted", "alice", None),
        ("compliance.gdpr_right_to_erasure", "alice", None),
        ("http.request", "dora", "/customers/alice"),
        ("http.request", "alice", "/orders/1"),
        ("token.revoked", "alice", None),
        ("http.request", "alice", "/logout"),
    ]
    written = b"".join(path.read_bytes() for path in (tmp_path / "audit").rglob("*.audit"))
    for secret in (alice, dora, *passwords.values()):
        assert secret.encode() not in written


def test_the_litestar_example_knows_its_api_keys(tmp_path: Path) -> None:
    """Keys, owners and refusals, under uvicorn."""
    environment = {"DOCUMENTS_KEYS": json.dumps({"key-of-alice-1": "alice"})}
    command = ["uvicorn", "examples.litestar_service:app", "--port", "0"]
    with serving(tmp_path, command, environment=environment) as server:
        with server.asking() as client:
            assert client.get("/documents/doc-1").status_code == 401
            client.headers["X-API-Key"] = "key-of-alice-1"
            assert client.get("/documents/doc-1").json()["owner"] == "alice"
            assert client.get("/documents/doc-2").status_code == 403
            assert client.delete("/documents/doc-1").status_code == 204
            assert client.get("/nowhere").status_code == 404
            assert client.get("/health").text == "ok"
        assert server.stop(signal.SIGTERM) in {0, -signal.SIGTERM}, server.said()
    assert recorded(tmp_path) == [
        ("auth.failure", None, "/documents/doc-1"),
        ("data.model_accessed", "alice", None),
        ("http.request", "alice", "/documents/doc-1"),
        ("authz.denied", "alice", "/documents/doc-2"),
        ("data.deleted", "alice", None),
        ("http.request", "alice", "/documents/doc-1"),
        ("http.request", None, "/nowhere"),
    ]


def test_the_aiohttp_example_knows_its_sessions(tmp_path: Path) -> None:
    """Browser sessions, owners and refusals, under aiohttp's own server."""
    with serving(tmp_path, ["examples.aiohttp_service"]) as server:
        with server.asking() as client:
            assert client.get("/notes/note-1").status_code == 401
            assert client.post("/login", data={"user": "alice"}).status_code == 200
            assert client.get("/notes/note-1").json() == {"owner": "alice"}
            assert client.get("/notes/note-2").status_code == 403
            assert client.delete("/notes/note-1").status_code == 204
            assert client.get("/notes/note-1").status_code == 404
            assert client.get("/health").text == "ok"
            session = client.cookies["session"]
        assert server.stop(signal.SIGTERM) == 0, server.said()
    assert recorded(tmp_path) == [
        ("auth.failure", None, "/notes/note-1"),
        ("auth.success", "alice", "/login"),
        ("http.request", None, "/login"),
        ("http.request", "alice", "/notes/note-1"),
        ("authz.denied", "alice", "/notes/note-2"),
        ("data.deleted", "alice", None),
        ("http.request", "alice", "/notes/note-1"),
        ("http.request", "alice", "/notes/note-1"),
    ]
    written = b"".join(path.read_bytes() for path in (tmp_path / "audit").rglob("*.audit"))
    assert session.encode() not in written


def test_the_django_example_records_log_ins_and_orders(tmp_path: Path) -> None:
    """A refused log-in, one that succeeds, an order, and all of them cancelled in one statement."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "examples.django_shop"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    shutil.rmtree(tmp_path / "audit")  # of the process that made the database and its user
    server_command = ["gunicorn", "examples.django_shop:application", "--bind", "127.0.0.1:0"]
    with serving(tmp_path, server_command) as server:
        with server.asking() as client:
            assert client.post("/orders", data={"item": "tea"}).status_code == 403
            assert client.post("/login", data={"user": "alice", "password": "a guess"}).status_code == 400
            assert client.post("/login", data={"user": "alice", "password": "wonderland-7"}).status_code == 200
            assert client.post("/orders", data={"item": "tea"}).json() == {"order": 1}
            assert client.post("/orders/cancel-open").json() == {"cancelled": 1}
        assert server.stop(signal.SIGTERM) == 0, server.said()
    seen = recorded(tmp_path)
    assert [kind for kind, _who, _what in seen] == [
        "authz.denied",
        "auth.failure",
        "http.request",
        "session.started",
        "http.request",
        "resource.created",
        "http.request",
        "resource.bulk_changed",
        "http.request",
    ]
    assert [who for kind, who, _what in seen if kind.startswith("resource.")] == ["alice", "alice"]
