"""The current search as a file: what it holds, and that it is recorded before its first byte and at its end."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import anyio
import pyarrow.parquet as pq
import pytest

from audit_async.tlog import TlogProof, verify_proof
from tests.trail.signed import SigningLog
from tests.trails import read_events
from tests.viewer.trail_to_view import AUDITOR, browser_of, make_trail, viewed

pytestmark = pytest.mark.anyio


async def test_a_search_is_downloaded_in_each_format(tmp_path: Path) -> None:
    """With the records that the search finds and no others; each time `audit.exported` says what has left."""
    await make_trail(tmp_path)
    found = {}
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        for name in ("ndjson", "csv", "parquet", "bundle"):
            answer = await browser.get(f"/download/{name}", params={"type": "auth.*", "log": "orders/00"})
            assert answer.status_code == 200
            assert "attachment" in answer.headers["content-disposition"]
            found[name] = answer.content
    assert len(found["ndjson"].splitlines()) == 3
    assert len(found["csv"].splitlines()) == 4
    assert pq.read_table(io.BytesIO(found["parquet"])).num_rows == 3
    with zipfile.ZipFile(io.BytesIO(found["bundle"])) as bundle:
        assert "verify_trail.py" in bundle.namelist()
    events = [record["event"] for record in read_events(tmp_path / "audit-view")]
    exported = [event for event in events if event["event_type"] == "audit.exported"]
    assert [(event["format"], event["records"], event["actor"]) for event in exported] == [
        (name, 3, "olga") for name in found
    ]
    asked = [event for event in events if event["event_type"] == "audit.log_accessed"]
    assert [event.get("records") for event in asked[:2]] == [None, 3]  # before it begins, and at its end


async def test_a_download_that_fails_early_is_an_error_and_not_an_empty_file(tmp_path: Path) -> None:
    """A bundle of nothing can't be made; a search that makes no sense is said."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        nothing = await browser.get("/download/bundle", params={"actor": "nobody"})
        assert nothing.status_code == 409
        assert "attachment" not in nothing.headers.get("content-disposition", "")
        assert (await browser.get("/download/csv", params={"since": "yesterdayish"})).status_code == 400


async def test_the_proof_of_a_record_needs_a_log_that_signs(tmp_path: Path) -> None:
    """Without a checkpoint it is said that there is none."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        answer = await browser.get("/logs/orders/00/records/1/proof")
    assert answer.status_code == 409
    assert "publishes no checkpoint" in answer.text


async def test_a_record_is_downloaded_with_a_proof_that_holds(tmp_path: Path) -> None:
    """The two files that `audit-async prove` writes: the line as it is in the log, and its place in the signed tree."""
    log = await anyio.to_thread.run_sync(SigningLog(tmp_path / "audit").session)
    async with viewed(log.base_dir) as app, browser_of(app, AUDITOR) as browser:
        answer = await browser.get("/logs/orders/00/records/3/proof")
    assert answer.status_code == 200
    line = log.lines[3]
    audit_id = json.loads(line)["audit_id"]
    assert answer.headers["content-disposition"] == f'attachment; filename="{audit_id}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as files:
        assert sorted(files.namelist()) == [f"{audit_id}.json", f"{audit_id}.tlog-proof"]
        assert files.read(f"{audit_id}.json").strip() == line.strip()
        proof = TlogProof.parse(files.read(f"{audit_id}.tlog-proof"))
    record_hash = bytes.fromhex(json.loads(log.lines[4])["prev_hash"])
    proven = verify_proof(proof, index=3, record_hash=record_hash, policy=log.policy)
    assert proven.checkpoint.size == log.size
