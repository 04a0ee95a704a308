"""A viewer of a trail that seals: what it shows, what leaves it as a file, and what it records of who looked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from audit_async import AuditConfig, AuditLogger, AuditQuery, AuditReader, Local
from audit_async.events.recorded import event_members
from audit_async.viewer import Viewer
from tests.forwarding.stored_logs import sealing
from tests.privacy.key_stores import open_store
from tests.privacy.sealed_logs import success
from tests.trails import read_events
from tests.viewer.test_hostile_readers import asked
from tests.viewer.trail_to_view import AUDITOR, accesses, browser_of, viewed

pytestmark = pytest.mark.anyio


def config_of(tmp_path: Path) -> AuditConfig:
    """Return the configuration of a log that seals."""
    return AuditConfig(
        mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, privacy=sealing(tmp_path)
    )


async def make_trail(tmp_path: Path) -> None:
    """Record a log-in each of two persons."""
    async with AuditLogger(config_of(tmp_path)) as audit:
        audit.emit(success("zoltan", display_name="Zoltan Kis"))
        audit.emit(success("bob", display_name="Bob"))


async def erase_zoltan(tmp_path: Path) -> None:
    """Erase one of them in a later session of the log."""
    async with AuditLogger(config_of(tmp_path)) as audit:
        await audit.erase_subject("zoltan", reason="asked", requested_by="dpo")


def everything_below(directory: Path) -> bytes:
    """Return the bytes of all files below a directory."""
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


async def page_of(app: Viewer, path: str, **asked: str) -> str:
    """Return a page."""
    async with browser_of(app, AUDITOR) as browser:
        answer = await browser.get(f"{path}?{urlencode(asked)}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_whom_a_search_was_about_is_sealed_and_erased_with_him(tmp_path: Path) -> None:
    """No byte of the trail names him; with the keys the log of who looked says it, until he is erased."""
    await make_trail(tmp_path)
    store = open_store(tmp_path / "keys")
    try:
        async with viewed(tmp_path / "audit", key_store=store) as app:
            page = await page_of(app, "/records", actor="zoltan")
        assert ">zoltan<" in page
        assert ">bob<" not in page
        assert b"zoltan" not in everything_below(tmp_path / "audit").lower()
        assert b"olga" not in everything_below(tmp_path / "audit")
        assert await asked_about(tmp_path) == [("olga", "zoltan")]
        await erase_zoltan(tmp_path)
        [(who, whom)] = await asked_about(tmp_path)
        assert who == "olga"
        assert whom.startswith("[erased 2")
    finally:
        store.close()


async def asked_about(tmp_path: Path) -> list[tuple[Any, Any]]:
    """Return who searched for whom, as a reader with the keys sees it."""
    store = open_store(tmp_path / "keys")
    try:
        reader = AuditReader(tmp_path / "audit", service="audit-view", key_store=store)
        query = AuditQuery(event_types=("audit.log_accessed",))
        events: list[dict[str, Any]] = [event_members(record.event) async for record in reader.query(query)]
    finally:
        store.close()
    return sorted({(event["actor"], event["query"]["actor"]) for event in events if "actor" in event["query"]})


async def test_without_the_keys_it_is_left_out_whom_a_search_was_about(tmp_path: Path) -> None:
    """The log of who looked can't seal it then."""
    await make_trail(tmp_path)
    async with viewed(tmp_path / "audit") as app:
        assert "zoltan" not in (await page_of(app, "/records", actor="*")).lower()
        await page_of(app, "/records", actor="zoltan", text="Kis")
        await page_of(app, "/download/csv", actor="zoltan")
    assert b"zoltan" not in everything_below(tmp_path / "audit").lower()
    queries = [event["query"] for event in accesses(tmp_path / "audit") if "actor" in event["query"]]
    assert queries
    assert {query["actor"] for query in queries} == {"[not recorded]"}


@pytest.mark.parametrize("name", ["ndjson", "csv", "parquet", "bundle"])
async def test_what_leaves_as_a_file_stays_sealed(tmp_path: Path, name: str) -> None:
    """Also from a viewer that opens what it shows: no erasure reaches a file that somebody has saved."""
    await make_trail(tmp_path)
    store = open_store(tmp_path / "keys")
    try:
        async with viewed(tmp_path / "audit", key_store=store) as app, browser_of(app, AUDITOR) as browser:
            answer = await browser.get(f"/download/{name}", params={"type": "auth.*"})
        assert answer.status_code == 200
    finally:
        store.close()
    content = answer.content
    if name == "bundle":
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            content = b"".join(bundle.read(member) for member in bundle.namelist())
    assert b"sealed:1:" in content
    assert b"zoltan" not in content.lower()
    assert b"203.0.113.9" not in content


@pytest.mark.parametrize("name", ["ndjson", "bundle"])
async def test_a_file_from_which_records_may_be_missing_is_none(tmp_path: Path, name: str) -> None:
    """A page says how many it could not search; a file can't, and would be taken for all that there is of a person."""
    await make_trail(tmp_path)
    async with viewed(tmp_path / "audit") as app, browser_of(app, AUDITOR) as browser:
        answer = await browser.get(f"/download/{name}", params={"actor": "zoltan"})
        assert answer.status_code == 409
        if name == "ndjson":  # in a bundle of nothing that is said
            assert "2 records in which what was asked for is sealed" in answer.text
        assert (await browser.get(f"/download/{name}", params={"type": "auth.*"})).status_code == 200
    exports = [event for event in view_events(tmp_path) if event["event_type"] == "audit.exported"]
    assert [event["format"] for event in exports] == [name]


async def test_a_download_breaks_off_if_records_may_be_missing(tmp_path: Path) -> None:
    """It has begun by then, since some of what was asked for was recorded before the log sealed."""
    plain = AuditConfig(mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False)
    async with AuditLogger(plain) as audit:
        audit.emit(success("zoltan"))
    await make_trail(tmp_path)
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with viewed(tmp_path / "audit") as app:
        with pytest.raises(RuntimeError, match="response already started"):
            await asked(app, "/download/ndjson?actor=zoltan", send, user=AUDITOR.name)
    bodies = [message for message in sent if message["type"] == "http.response.body"]
    assert b"zoltan" in b"".join(message["body"] for message in bodies)
    assert all(message["more_body"] for message in bodies)
    assert not [event for event in view_events(tmp_path) if event["event_type"] == "audit.exported"]


def view_events(tmp_path: Path) -> list[dict[str, Any]]:
    """Return the events of the log of who looked."""
    return [record["event"] for record in read_events(tmp_path / "audit" / "audit-view")]


async def test_a_viewer_that_runs_shows_nothing_more_of_who_is_erased(tmp_path: Path) -> None:
    """It has the keys of earlier pages in memory no longer than the erasure takes."""
    await make_trail(tmp_path)
    store = open_store(tmp_path / "keys")
    try:
        async with viewed(tmp_path / "audit", key_store=store) as app:
            assert ">zoltan<" in await page_of(app, "/records", type="auth.*")
            await erase_zoltan(tmp_path)
            for path in ("/records", "/logs/orders/00/records/1", "/records/counts"):
                page = await page_of(app, path)
                assert "zoltan" not in page.lower(), path
            assert ">bob<" in await page_of(app, "/records", type="auth.*")
    finally:
        store.close()
