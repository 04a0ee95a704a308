"""What somebody tries who may see a little: what others have is not to be learned, used up or kept busy."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, Local, audit_context
from audit_async._layout.collected_file import Collected
from audit_async._layout.names import COLLECTED_FILE
from audit_async.errors import ConfigError
from audit_async.forwarding.collector_root import CollectedStatus, CollectorStatus, prepare_root, write_status
from audit_async.reader import AuditQuery
from audit_async.viewer import EmbedLinks, Person, Roles, Viewer, ViewLimits, downloads, embed_link, viewer
from audit_async.viewer.pages.match_counts import count_matches
from audit_async.viewer.request_limits import RateLimit
from audit_async.viewer.scoped_reader import ScopedReader
from tests.logs import failure
from tests.trail.written import WrittenLog
from tests.trails import read_events
from tests.viewer.oidc_provider import running_provider
from tests.viewer.test_oidc import viewed_by_oidc
from tests.viewer.trail_to_view import (
    AUDITOR,
    HOST,
    OF_ACME,
    OF_ORDERS,
    PEOPLE,
    accesses,
    browser_of,
    make_trail,
    viewed,
)

pytestmark = pytest.mark.anyio
KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What is tested is the viewer's own, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


async def test_a_tenant_does_not_learn_the_names_of_logs(tmp_path: Path) -> None:
    """One that exists, one with damage and one that does not exist are answered alike, wherever they are named."""
    await make_trail(tmp_path)
    config = AuditConfig(mode=Local(tmp_path), service_id="secret", handle_signals=False)
    async with AuditLogger(config) as audit:
        for n in range(3):
            audit.emit(failure(n))
    (segment,) = (tmp_path / "secret/00").glob("*.audit")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:2], lines[2].replace(b"mallory", b"malcolm"), *lines[3:]]))
    paths = (
        "/records?log={}/00",
        "/records?service={}",
        "/records/counts?log={}/00",
        "/records/live?service={}",
        "/trail?actor=mallory&log={}/00",
        "/logs/{}/00/records/1",
        "/logs/{}/00/records/2",
        "/logs/{}/00/records/1/proof",
        "/logs/{}/00",
        "/download/ndjson?log={}/00",
        "/download/csv?service={}",
        "/download/bundle?log={}/00",
    )
    async with viewed(tmp_path) as app, browser_of(app, OF_ACME) as browser:
        for path in paths:
            there, nowhere = [await browser.get(path.format(name)) for name in ("secret", "nowhere")]
            assert there.status_code == nowhere.status_code, path
            assert there.text.replace("secret", "nowhere") == nowhere.text, path
    assert {access.get("records") for access in accesses(tmp_path)} <= {None, 0}


async def test_a_tenant_s_next_page_names_no_log(tmp_path: Path) -> None:
    """The link to it holds a place in each log, also in those of which the tenant knows nothing; and it works."""
    await make_trail(tmp_path)
    config = AuditConfig(mode=Local(tmp_path), service_id="secret", handle_signals=False)
    async with AuditLogger(config) as audit:
        audit.emit(failure())
    seen: list[str] = []
    cursor: str | None = None
    async with viewed(tmp_path) as app:
        for _ in range(3):
            page = await ScopedReader(app._trail, OF_ACME).page(AuditQuery(newest_first=True, limit=1), cursor)
            seen += [record.log for record in page.records]
            if (cursor := page.cursor) is None:
                break
            said = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            assert not {name for name in (b"secret", b"orders", b"billing") if name in said}
    assert sorted(seen) == ["billing/00", "orders/00"]


async def test_names_without_end_take_no_memory_of_the_counts(tmp_path: Path) -> None:
    """Nor do they fill a table; the record's own page has them."""
    written = WrittenLog(tmp_path, max_bytes=1 << 20)
    names = ["x" * 5000, "y" * 256, "bob"]
    written.write(*[{"event_type": f"t.{name}", "actor": {"user_id": name}} for name in names])
    written.close()
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        counts = await count_matches(ScopedReader(app._trail, AUDITOR), AuditQuery())
        page = (await browser.get("/records")).text
        assert "x" * 5000 in (await browser.get("/logs/orders/00/records/0")).text
    assert counts.matches == 3
    assert set(counts.actors) == {"y" * 256, "bob"}
    assert set(counts.types) == {"t.bob"}
    assert "x" * 257 not in page
    assert "x" * 200 in page


async def test_what_could_not_be_counted_is_said_with_the_counts(tmp_path: Path) -> None:
    """The counts come by themselves, and may have read more than the page next to them."""
    await make_trail(tmp_path)
    (segment,) = (tmp_path / "orders/00").glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b"orders-acme", b"orders-acne"))
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        assert "Passed over: 1 damaged place. The first: " in (await browser.get("/records/counts")).text
        page = (await browser.get("/records?actor=orders-ac*&log=orders/00")).text
    assert "No record was found in what could be searched." in page


async def test_how_many_records_were_seen_is_none_if_none_were(tmp_path: Path) -> None:
    """A record that is not found, one of another service, and the way to one by its id; then the record itself."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, OF_ORDERS) as browser:
        assert (await browser.get("/logs/orders/00/records/77")).status_code == 404
        assert (await browser.get("/logs/billing/00/records/1")).status_code == 404
        page = await browser.get("/logs/orders/00/records/1")
        assert page.status_code == 200
        by_id = await browser.get(f"/audit-ids/{re.findall('[0-9a-f]{16}-1', page.text)[0]}")
        assert by_id.headers["location"] == "/logs/orders/00/records/1"
    assert [access["records"] for access in accesses(tmp_path)] == [0, 0, 1, 0]


async def test_a_reader_is_not_shown_what_a_collector_says_of_others(tmp_path: Path) -> None:
    """Why its round failed may name any log; that it failed is said."""
    root, given = tmp_path / "collected", tmp_path / "given"
    await make_trail(given)
    prepare_root(root)
    logs = []
    for service in ("orders", "billing"):
        log_id = msgspec.json.decode((given / service / "00/log.json").read_bytes())["log_id"]
        place = root / "acme/web-1" / service / f"00.{log_id}"
        shutil.copytree(given / service / "00", place)
        collected = Collected(tenant="acme", host="web-1", service=service, instance="00", log_id=log_id)
        (place / COLLECTED_FILE).write_bytes(msgspec.json.encode(collected))
        logs.append(
            CollectedStatus(
                log=f"acme/web-1/{service}/00.{log_id}",
                tenant="acme",
                host="web-1",
                service=service,
                instance="00",
                log_id=log_id,
                seq=4,
                hash="0" * 64,
                engine_seq=4,
                last_record_at="",
                received_at=None,
            )
        )
    error = "acme/web-1/billing/00 is forked"
    status = CollectorStatus(collector="c", tenant="acme", updated_at=datetime.now(UTC), error=error, logs=tuple(logs))
    write_status(root, status)
    async with viewed(root, access_log=tmp_path / "seen") as app:
        pages = {}
        for person in (AUDITOR, OF_ORDERS):
            async with browser_of(app, person) as browser:
                pages[person.name] = (await browser.get("/logs")).text
    assert error in pages["olga"]
    assert "Its last round failed." in pages["rita"]
    assert "orders" in pages["rita"]
    assert "billing" not in pages["rita"]


async def asked(
    app: Viewer,
    path: str,
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    *,
    user: str = "",
    root: str = "",
) -> None:
    """Ask the application itself, as a server does, and never go away."""

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    name, _, query = path.partition("?")
    await app(
        {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": name, "raw_path": name.encode(), "query_string": query.encode(), "root_path": root,
            "headers": [(b"host", b"127.0.0.1:8000"), (b"x-test-user", user.encode())],
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000),
        },
        receive,
        send,
    )  # fmt: skip


async def test_a_stream_in_a_frame_ends_with_its_link(tmp_path: Path) -> None:
    """As one ends with a session: quietly, and without a record that comes later."""
    await make_trail(tmp_path)
    now = [1_000_000.0]
    links = EmbedLinks(KEY, origins=["https://app.example"], now=lambda: now[0])
    path = embed_link(HOST, key=KEY, tenant="acme", name="x", valid_s=60, now=lambda: now[0]).removeprefix(HOST)
    sent = bytearray()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.extend(message.get("body", b""))

    config = AuditConfig(mode=Local(tmp_path), service_id="shop", handle_signals=False)
    async with viewed(tmp_path, embed=links) as app, AuditLogger(config) as audit:
        with anyio.fail_after(60), audit_context(tenant="acme"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: asked(app, f"{path}/stream", send))
                while b"/login/1" not in sent:  # what is written before it is followed does not come
                    await audit.emit(failure(1))
                    await anyio.sleep(0.02)
                now[0] += 61
                await audit.emit(failure(2))
    assert b"/login/2" not in sent
    assert b"event: failed" not in sent


async def test_a_download_ends_with_the_right_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks, so that no browser takes what came for the whole."""
    await make_trail(tmp_path)
    monkeypatch.setitem(PEOPLE, "guest", Person(name="guest", role="auditor"))
    monkeypatch.setattr(downloads, "_ASKED_EACH_S", -1.0)
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        if message.get("body"):
            PEOPLE.pop("guest", None)

    config = AuditConfig(mode=Local(tmp_path), service_id="shop", handle_signals=False)
    async with AuditLogger(config) as audit:
        for n in range(3000):
            audit.emit(failure(n))
    async with viewed(tmp_path) as app:
        with pytest.raises(RuntimeError, match="response already started"):
            await asked(app, "/download/ndjson", send, user="guest")
    bodies = [message for message in sent if message["type"] == "http.response.body"]
    assert 1 <= len(bodies) < 3
    assert all(message["more_body"] for message in bodies)
    assert sum(len(message["body"]) for message in bodies) < sum(
        path.stat().st_size for path in (tmp_path / "shop/00").glob("*.audit")
    )
    recorded = [record["event"]["event_type"] for record in read_events(tmp_path / "audit-view")]
    assert "audit.log_accessed" in recorded
    assert "audit.exported" not in recorded


async def test_what_has_no_end_is_not_asked_for_without_its_content(tmp_path: Path) -> None:
    """HEAD of a download would read it all, and be recorded as one."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        assert (await browser.head("/records")).status_code == 200
        for path in ("/download/csv", "/records/stream"):
            assert (await browser.head(path)).status_code == 405


async def test_forged_answers_of_a_provider_do_not_fill_the_log(tmp_path: Path) -> None:
    """Anybody may send them: some are recorded, and then they are refused unrecorded."""
    await make_trail(tmp_path)
    with running_provider() as provider:
        async with viewed_by_oidc(tmp_path, provider) as app, browser_of(app) as browser:
            path = "/sign-in/oidc/callback?code=x&state=y"
            statuses = [(await browser.get(path)).status_code for _ in range(30)]
    assert set(statuses) == {403, 429}
    recorded = [record["event"]["event_type"] for record in read_events(tmp_path / "audit-view")]
    assert recorded.count("auth.failure") == statuses.count(403) <= 11


def test_roles_that_everybody_can_write_are_refused(tmp_path: Path) -> None:
    """Whoever has an account on the machine could become an auditor."""
    roles = tmp_path / "roles.toml"
    roles.write_text('[people.alice]\nrole = "auditor"\n')
    roles.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod o-w"):
        Roles.from_file(roles)
    roles.chmod(0o640)
    Roles.from_file(roles)


def test_one_machine_has_one_bucket_of_requests() -> None:
    """Whatever address of its IPv6 network it takes; other networks have their own."""
    limit = RateLimit(1, 3, now=lambda: 0.0)
    assert [limit.take(f"2001:db8::{n:x}") > 0 for n in range(1, 6)] == [False] * 3 + [True] * 2
    assert not limit.take("2001:db8:0:1::1")
    assert not limit.take("192.0.2.1")
    assert not limit.take("person olga")


def test_a_customer_s_name_takes_no_place_of_a_person_so_called() -> None:
    """The application chooses what customers are called."""
    customer = Person(name=AUDITOR.name, role="reader", tenant="acme", is_embed=True)
    assert customer.slot != AUDITOR.slot
    assert customer.slot != Person(name=AUDITOR.name, role="reader", tenant="umbra").slot


@pytest.mark.parametrize("name", ["search_s", "downloads", "requests_per_s", "sign_ins_per_min", "page_records"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_nothing_passes_is_refused(name: str, value: float, tmp_path: Path) -> None:
    """At once, and not by a failure at the first request."""
    with pytest.raises(ConfigError, match=name):
        viewer(tmp_path, sign_in=lambda _: None, limits=ViewLimits(**{name: value}))  # type: ignore[arg-type]
