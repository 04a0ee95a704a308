"""The links of a report lead to the record, and to its proof, in a real viewer of these logs."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from audit_async import AuditConfig, AuditLogger, Local, Transparency
from audit_async._layout.names import COLLECTOR_FILE
from audit_async.reader import InvalidQuery
from audit_async.tlog.signing_keys import new_key, write_key
from tests.cli.made_trails import failure, make_trail
from tests.logs import failure as failed_log_in
from tests.reports.reporting import written
from tests.viewer.trail_to_view import AUDITOR, HOST, browser_of, viewed

pytestmark = pytest.mark.anyio


class Links(HTMLParser):
    """The links of a page that lead out of it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep where a link leads to."""
        target = dict(attrs).get("href") or ""
        if tag == "a" and not target.startswith("#"):
            self.found.add(target)


async def test_each_link_shows_the_record_of_its_example(tmp_path: Path) -> None:
    """In a log that signs: the record's page has its audit_id and hash, and the proof is of it."""
    base_dir, key = tmp_path / "audit", tmp_path / "log.pem"
    write_key(key, new_key())
    config = AuditConfig(
        mode=Local(base_dir), service_id="orders", instance="00", handle_signals=False,
        transparency=Transparency(key=key, origin="host.example/orders/00", interval=3600.0),
    )  # fmt: skip
    async with AuditLogger(config) as audit:
        for number in range(3):
            audit.emit(failed_log_in(number))
        await audit.checkpoint()
    report, files = await written(base_dir, tmp_path, viewer_url=HOST)
    examples = {one.seq: one for control in report.controls for one in control.examples}
    assert len(examples) >= 3
    links = Links(files.page).found
    async with viewed(base_dir) as app, browser_of(app, AUDITOR) as browser:
        for example in examples.values():
            url = f"{HOST}/logs/orders/00/records/{example.seq}"
            assert {url, f"{url}/proof"} <= links
            shown = await browser.get(url)
            assert shown.status_code == 200
            assert example.audit_id in shown.text
            assert example.hash in shown.text
        for link in links:
            answer = await browser.get(link)
            if not link.endswith("/proof"):
                assert answer.status_code == 200, link
        proof = await browser.get(f"{HOST}/logs/orders/00/records/{min(examples)}/proof")
    assert proof.status_code == 200
    assert examples[min(examples)].audit_id in proof.text


async def test_links_lead_to_a_viewer_of_a_collector_s_root(tmp_path: Path) -> None:
    """Logs of several hosts have longer names, also with dots; below a proxy's path the links have it as well."""
    root = tmp_path / "root"
    for host in ("web-1", "ip-10-0-12-155%2Eeu-west-1"):
        make_trail(root / "acme" / host, [failure("alice"), failure("bob")])
    (root / COLLECTOR_FILE).write_text("{}")
    _, files = await written(root, tmp_path, viewer_url="https://audit.example/trail/")
    records = [urlsplit(link) for link in Links(files.page).found if not link.endswith("/proof")]
    assert {link.path.split("/")[4] for link in records} == {"web-1", "ip-10-0-12-155.eu-west-1"}
    async with viewed(root) as app, browser_of(app, AUDITOR) as browser:
        for link in records:
            assert link.path.startswith("/trail/logs/acme/")
            answer = await browser.get(f"{HOST}{link.path.removeprefix('/trail')}")
            assert answer.status_code == 200, link
            assert "auth.failure" in answer.text


@pytest.mark.parametrize(
    "url",
    [
        "audit.example", "ftp://audit.example", "https://", "https://carol:secret@audit.example", "https://a.example/?q=",
        "https://a.example/#top", "https://a.example/ b", "https://a.example/\n", "https://[::1", "https://a.example:x/",
    ],
)  # fmt: skip
async def test_an_address_that_links_can_not_begin_with_is_refused(url: str, tmp_path: Path) -> None:
    """Before anything is read; a password in it would be in the report, and is not in the message."""
    make_trail(tmp_path / "audit", [failure("alice")])
    with pytest.raises(InvalidQuery, match="viewer_url") as refused:
        await written(tmp_path / "audit", tmp_path, viewer_url=url)
    assert "secret" not in str(refused.value)
    assert "audit.log_accessed" not in json.dumps([p.read_text() for p in (tmp_path / "access").rglob("*.audit")])
