"""What is under way ends if its reader may see nothing any more; and what an auditor sees is not shown to others."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.viewer import Person
from audit_async.viewer.pages import event_stream
from audit_async.viewer.web_sessions import WebSessions
from tests.logs import failure
from tests.viewer.trail_to_view import AUDITOR, OPERATOR, PEOPLE, browser_of, make_trail, viewed

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What is tested is the viewer's own, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


def asked(method: str, path: str, user: str, **headers: str) -> dict[str, Any]:
    """Return what a server hands to the application for a request."""
    headers = {"host": "127.0.0.1:8000", "x-test-user": user, **headers}
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000),
    }  # fmt: skip


@pytest.mark.parametrize("quiet", [False, True], ids=["records come", "nothing happens"])
async def test_a_stream_ends_with_the_right_to_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    """As after a sign-out: no record that comes later is sent, and the answer ends, also if none comes."""
    if quiet:
        monkeypatch.setattr(event_stream, "_HEARTBEAT_S", 0.05)
    await make_trail(tmp_path)
    monkeypatch.setitem(PEOPLE, "guest", Person(name="guest", role="auditor"))
    sent, ended = bytearray(), anyio.Event()

    async def receive() -> dict[str, Any]:
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.extend(message.get("body", b""))

    async def wait_for(text: bytes) -> None:
        with anyio.fail_after(60):
            while text not in sent:
                await anyio.sleep(0.02)

    scope = asked("GET", "/records/stream", "guest")
    config = AuditConfig(mode=Local(tmp_path), service_id="shop", handle_signals=False)
    async with viewed(tmp_path) as app, AuditLogger(config) as audit:

        async def stream() -> None:
            await app(scope, receive, send)
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream)
            await wait_for(b"retry:")
            with anyio.fail_after(60):
                while b"/login/1" not in sent:  # what is written before it is followed does not come
                    await audit.emit(failure(1))
                    await anyio.sleep(0.02)
            PEOPLE.pop("guest")
            if not quiet:
                await audit.emit(failure(2))
            with anyio.fail_after(60):
                await ended.wait()
    assert b"/login/2" not in sent


def test_asking_again_does_not_make_a_session_last() -> None:
    """Or a page with live records would never be signed out for being idle."""
    now = [0.0]
    sessions = WebSessions(idle_s=10.0, now=lambda: now[0])
    number = sessions.begin("dana")  # type: ignore[arg-type]  # whoever it is
    for now[0] in (4.0, 8.0):
        assert sessions.find(number, is_use=False) is not None
    now[0] = 11.0
    assert sessions.find(number) is None


async def test_an_auditors_verification_is_not_shown_to_an_operator(tmp_path: Path) -> None:
    """It has the log of who has looked, which only auditors see."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app:
        for person, sees in ((AUDITOR, True), (OPERATOR, False)):
            async with browser_of(app, person) as browser:
                page = await browser.get("/verification")
                assert "audit-view/00" not in page.text
                token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
                await browser.post(
                    "/verification", data={"csrf_token": token}, headers={"Origin": "http://127.0.0.1:8000"}
                )
                with anyio.fail_after(60):
                    while "verdict" not in (page := await browser.get("/verification")).text:
                        await anyio.sleep(0.05)
                assert ("audit-view/00" in page.text) == sees


async def test_a_verification_whose_asker_is_gone_holds_up_no_other(tmp_path: Path) -> None:
    """Its answer can't be sent, so it does not begin; the page says so, and the next one runs."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        page = await browser.get("/verification")
        token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        body = f"csrf_token={token}".encode()
        form = {"content-type": "application/x-www-form-urlencoded", "content-length": str(len(body))}
        scope = asked("POST", "/verification", AUDITOR.name, origin="http://127.0.0.1:8000", cookie=cookies, **form)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def refuse(message: MutableMapping[str, Any]) -> None:
            raise OSError(f"the client is gone: {message['type']}")

        with pytest.raises(OSError, match="the client is gone"):
            await app(scope, receive, refuse)
        assert "whoever asked for it was gone" in (await browser.get("/verification")).text
        await browser.post("/verification", data={"csrf_token": token}, headers={"Origin": "http://127.0.0.1:8000"})
        with anyio.fail_after(60):
            while "verdict" not in (await browser.get("/verification")).text:
                await anyio.sleep(0.05)
