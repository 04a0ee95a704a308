"""Records, pages and reports as plain data: `to_dict()`, and the body of a real FastAPI response."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI

import audit_async
from audit_async.reader import AuditQuery, AuditReader, ExportReport, Page, PlacedRecord, Record
from tests.cli.made_trails import erasure, failure, make_trail
from tests.store.chained import Chain

pytestmark = pytest.mark.anyio


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """The chain of a log with a known and a foreign event, and with one whose texts are unusual."""
    foreign = {"event_type": "billing.paid", "invoice_id": 7, "lines": [{"sum": 1.5}, None, True], "note": "ä\u2028\\"}
    return make_trail(tmp_path / "t", [failure("bob"), erasure("c-1"), json.dumps(foreign).encode(), failure("<b>")])


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a real application, without a network."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://t") as client:
        yield client


async def test_a_record_is_what_was_recorded(chain: Chain, tmp_path: Path) -> None:
    """A record's plain data are the members of its line in their order, after the log's name."""
    records = [record async for record in AuditReader(tmp_path / "t").query()]
    for record, line in zip(records, chain.lines, strict=True):
        recorded = json.loads(line)
        assert record.to_dict() == {"log": "orders/00", **recorded}
        assert list(record.to_dict())[1:] == list(recorded)
        assert dict(record) == record.to_dict()
        json.dumps(record.to_dict())


async def test_a_page_is_plain_data(chain: Chain, tmp_path: Path) -> None:
    """A page's plain data are its records and where it goes on."""
    page = await AuditReader(tmp_path / "t").page(AuditQuery(limit=2))
    assert page.to_dict() == {
        "records": [record.to_dict() for record in page.records],
        "cursor": page.cursor,
        "resume": page.resume,
    }
    assert repr(page) == "<Page 2 records, more>"
    assert json.loads(json.dumps(page.to_dict()))["records"][1]["event"]["customer_id"] == "c-1"


def application(base_dir: Path) -> FastAPI:
    """Return an application that hands on what a reader returns, as its author would write it."""
    app = FastAPI()
    reader = audit_async.AuditReader(base_dir)

    @app.get("/page")
    async def page(cursor: str | None = None) -> Page:
        return await reader.page(AuditQuery(limit=3), cursor)

    @app.get("/plain-page", response_model=None)
    async def plain_page() -> Page:
        return await reader.page(AuditQuery(limit=3))

    @app.get("/records")
    async def records() -> list[Record]:
        return [record async for record in reader.query(AuditQuery(limit=2))]

    @app.get("/by-name", response_model=None)
    async def by_name() -> dict[str, Record]:
        return {record.audit_id: record async for record in reader.query(AuditQuery(limit=2))}

    @app.get("/record/{seq}")
    async def record(seq: int) -> PlacedRecord:
        return await reader.record(seq)

    @app.get("/export")
    async def export() -> ExportReport:
        return await reader.export(base_dir.with_name("out.csv"), "csv", overwrite=True)

    return app


async def test_an_endpoint_returns_what_a_reader_returns(chain: Chain, tmp_path: Path) -> None:
    """FastAPI takes pages, records, lists of them and reports, with a response model and without."""
    recorded = [{"log": "orders/00", **json.loads(line)} for line in chain.lines]
    async with client_of(application(tmp_path / "t")) as client:
        page = (await client.get("/page")).json()
        assert page["records"] == recorded[:3]
        assert (await client.get("/page", params={"cursor": page["cursor"]})).json()["records"] == recorded[3:]
        assert (await client.get("/plain-page")).json() == page
        assert (await client.get("/records")).json() == recorded[:2]
        assert (await client.get("/by-name")).json() == {record["audit_id"]: record for record in recorded[:2]}
        placed = (await client.get("/record/1")).json()
        assert placed["record"] == recorded[1]
        assert placed["next"] == {"seq": 2, "hash": recorded[2]["hash"]}
        exported = (await client.get("/export")).json()
        assert (exported["records"], exported["format"]) == (4, "csv")
        schema = (await client.get("/openapi.json")).json()
        assert schema["paths"]["/page"]["get"]["responses"]["200"]


async def test_the_reader_is_at_the_front_door(chain: Chain, tmp_path: Path) -> None:
    """`AuditReader` and `AuditQuery` are imported from the package, and a reader shows what it reads."""
    assert audit_async.AuditReader is AuditReader
    assert audit_async.AuditQuery is AuditQuery
    assert repr(AuditReader("audit", service="orders")) == "<AuditReader audit service=orders>"
    assert await anyio.to_thread.run_sync(AuditReader(tmp_path / "t").logs)
