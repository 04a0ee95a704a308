"""A report as files: page and data say the same, need nothing else, are harmless, and are what was signed."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import msgspec
import pytest

import audit_async
from audit_async import AuditConfig, AuditLogger, AuditReader, Local, Receipt, RetentionPolicy
from audit_async._layout.names import COLLECTOR_FILE
from audit_async.errors import WriteFailed
from audit_async.privacy import open_key_store
from audit_async.reader import ExportFailed
from audit_async.reports import (
    InvalidReport,
    check_report,
    framework_names,
    load_framework,
    make_report,
    report_schema,
    write_report,
)
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.cli.made_trails import HOSTILE, failure, make_hostile_trail, make_trail
from tests.logs import segment_lines
from tests.reports.faulty_trail import FaultyTrail, leave
from tests.reports.reporting import access_log, written
from tests.trail.lived import LivedLog, changed

pytestmark = pytest.mark.anyio

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'></style></td>&amp;"


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element's name and attributes."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Keep a text."""
        self.text += data


async def test_hostile_texts_are_shown_harmlessly(tmp_path: Path) -> None:
    """Whatever records, file names and a framework hold, the page shows it, and has no element or control of it."""
    base_dir = tmp_path / f"base {MARKUP.replace('/', '_')}"
    make_hostile_trail(base_dir)
    make_trail(base_dir, [failure(MARKUP), json.dumps({"event_type": MARKUP, MARKUP: MARKUP}).encode()], instance="01")
    content = (Path(audit_async.__file__).parent / "reports" / "frameworks" / "soc2.toml").read_text()
    hostile = re.sub(
        r'^(title|asks|cannot_show|name) = ".*"$',
        lambda found: f"{found[1]} = {json.dumps(MARKUP)}",
        content,
        flags=re.MULTILINE,
    )
    own = tmp_path / "own.toml"
    own.write_text(hostile.replace('"auth.*", ', '"*", '))
    report, files = await written(base_dir, tmp_path, own)
    page = Page(files.page)
    assert set(page.tags) <= {
        "html", "head", "meta", "title", "style", "body", "header", "main", "section", "article", "h1", "h2", "h3",
        "h4", "p", "ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "span", "strong",
        "code", "div", "a",
    }  # fmt: skip
    assert page.tags.count("style") == 1
    assert not any(name.startswith("on") or name in {"src", "style"} for name, _ in page.attributes)
    assert "<script>alert(1)</script>" in page.text
    assert all(character.isprintable() or character == "\n" for character in page.text)
    assert "\\x1b]52;c;" in page.text
    assert report.records == 5


async def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    """No request leaves it: its policy forbids any, its links lead into itself or to the viewer that was named."""
    make_trail(tmp_path / "audit", [failure("alice")])
    _, files = await written(tmp_path / "audit", tmp_path, viewer_url="https://audit.example/v/")
    page = Page(files.page)
    policies = [value or "" for name, value in page.attributes if name == "content"]
    assert any(value.startswith("default-src 'none'; style-src 'sha256-") for value in policies)
    links = [value or "" for name, value in page.attributes if name == "href"]
    assert all(link.startswith(("#control-", "https://audit.example/v/logs/orders/00/records/")) for link in links)
    assert any(link.endswith("/records/0/proof") for link in links)
    assert not re.search(r"url\(|@import", Path(files.page).read_text())


async def test_each_printed_sheet_says_of_which_report_it_is(tmp_path: Path) -> None:
    """Its foot has the framework, the time, and the beginning of the SHA-256 of the JSON; hostile names stay a text."""
    make_trail(tmp_path / "audit", [failure("alice")])
    hostile = msgspec.structs.replace(load_framework("soc2"), name=f'"; }} }} * {{ display: none }} \\{MARKUP}')
    async with access_log(tmp_path) as audit:
        report = await make_report(AuditReader(tmp_path / "audit"), hostile, audit=audit, accessed_by="carol")
        files = await write_report(report, tmp_path / "r.html", audit=audit, accessed_by="carol")
    (foot,) = re.findall(r'@bottom-left \{ content: "([\\0-9A-Za-z]*)"; \}', Path(files.page).read_text())
    said = re.sub(r"\\([0-9a-f]{6})", lambda found: chr(int(found[1], 16)), foot)
    assert said.startswith(f"{hostile.name}: what the audit trail shows. Made 20")
    assert said.endswith(f"JSON SHA-256 {files.data_sha256[:16]}")


async def test_the_data_fit_their_schema(tmp_path: Path) -> None:
    """Of each framework the JSON is what the schema says, and no member is unknown to it."""
    make_trail(tmp_path / "audit", [failure("alice")])
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    async with access_log(tmp_path) as audit:
        for framework in framework_names():
            reader = AuditReader(tmp_path / "audit")
            report = await make_report(reader, framework, audit=audit, accessed_by="carol", processes=1)
            target = tmp_path / f"{framework}.html"
            files = await write_report(report, target, audit=audit, accessed_by="carol")
            jsonschema.validate(json.loads(Path(files.data).read_bytes()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"format": 1}, schema)


async def test_page_and_data_are_compared(tmp_path: Path) -> None:
    """A page that was changed, data that were changed, and a file that is missing are found."""
    make_trail(tmp_path / "audit", [failure("alice")])
    _, files = await written(tmp_path / "audit", tmp_path)
    assert check_report(files.page).page == check_report(files.data).page == "same"
    page, data = Path(files.page), Path(files.data)
    genuine = page.read_bytes(), data.read_bytes()
    page.write_bytes(genuine[0].replace(b"carol", b"mallory"))
    with pytest.raises(InvalidReport, match="does not say what"):
        check_report(files.page)
    page.write_bytes(genuine[0])
    data.write_bytes(genuine[1].replace(b'"valid": true', b'"valid": false'))
    with pytest.raises(InvalidReport, match="does not say what"):
        check_report(files.page)
    data.write_bytes(b"{}")
    with pytest.raises(InvalidReport, match="is no report"):
        check_report(files.page)
    data.unlink()
    with pytest.raises(InvalidReport, match="is missing"):
        check_report(files.page)


async def test_what_was_signed_is_checked(tmp_path: Path) -> None:
    """Only the files that a trusted key has signed are valid: not others that somebody without it made again."""
    make_trail(tmp_path / "audit", [failure("alice")])
    for name in ("log", "other"):
        write_key(tmp_path / f"{name}.pem", new_key())
    signer, other = (load_signer(tmp_path / f"{name}.pem", origin="host/orders/00") for name in ("log", "other"))
    _, files = await written(tmp_path / "audit", tmp_path, signers=(signer,))
    policy = Policy.of([signer.key])
    assert check_report(files.page, policy).signed_by == (str(signer.key),) == files.signed_by
    with pytest.raises(InvalidReport, match="not signed by any trusted key"):
        check_report(files.page, Policy.of([other.key]))
    assert files.note is not None
    note = Path(files.note).read_bytes()
    async with access_log(tmp_path) as audit:
        forged = await make_report(AuditReader(tmp_path / "audit"), "soc2", audit=audit, accessed_by="mallory")
        with pytest.raises(ExportFailed, match="--force"):
            await write_report(forged, files.page, audit=audit, accessed_by="mallory")
        await write_report(forged, files.page, audit=audit, accessed_by="mallory", overwrite=True)
    assert not Path(files.note).exists()
    with pytest.raises(InvalidReport, match="not signed"):
        check_report(files.page, policy)
    Path(files.note).write_bytes(note)
    with pytest.raises(InvalidReport, match="is of other files"):
        check_report(files.page, policy)


async def test_a_report_is_recorded_before_it_is_there(tmp_path: Path) -> None:
    """Who asked, and the page's SHA-256, are durable records; the files are closed to others."""
    make_trail(tmp_path / "audit", [failure("alice"), failure("bob")])
    _, files = await written(tmp_path / "audit", tmp_path)
    events = [json.loads(line)["event"] for line in segment_lines(tmp_path / "access" / "audit-cli" / "00")]
    accessed = next(event for event in events if event["event_type"] == "audit.log_accessed")
    exported = next(event for event in events if event["event_type"] == "audit.exported")
    assert (accessed["actor"], accessed["records"]) == ("carol", 2)
    assert (exported["actor"], exported["format"], exported["records"]) == ("carol", "report", 2)
    assert exported["sha256"] == files.page_sha256
    assert not exported["unsealed"]
    assert {Path(path).stat().st_mode & 0o777 for path in (files.page, files.data)} == {0o600}


async def test_the_page_waits_for_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page gets its name only once the record of it is durable; if that fails there is none."""
    make_trail(tmp_path / "audit", [failure("alice")])

    async def refused(receipt: Receipt) -> None:
        raise WriteFailed("the disk is full")

    monkeypatch.setattr(Receipt, "durable", refused)
    with pytest.raises(WriteFailed):
        await written(tmp_path / "audit", tmp_path)
    assert not (tmp_path / "report.html").exists()


async def test_unsealed_shows_who_it_was(tmp_path: Path) -> None:
    """With the key store names are in the clear, an erased one is not, and page and record say so."""
    trail: FaultyTrail = await leave(tmp_path)
    store = open_key_store(tmp_path / "keys", f"file:{tmp_path / 'master.key'}", trail=trail.base_dir)
    try:
        async with access_log(tmp_path) as audit:
            reader = AuditReader(trail.base_dir, key_store=store)
            report = await make_report(reader, "hipaa", audit=audit, accessed_by="carol")
            files = await write_report(report, tmp_path / "r.html", audit=audit, accessed_by="carol")
    finally:
        store.close()
    actors = {example.actor for control in report.controls for example in control.examples}
    assert "bob" in actors
    assert any(actor.startswith("[erased") for actor in actors)
    assert report.made.unsealed
    assert "no erasure reaches this file" in Page(files.page).text
    events = [json.loads(line)["event"] for line in segment_lines(tmp_path / "access" / "audit-cli" / "00")]
    assert next(event for event in events if event["event_type"] == "audit.exported")["unsealed"]


async def test_retention_is_compared(tmp_path: Path) -> None:
    """A configured minimum below the framework's days is named, and one that meets them too."""
    make_trail(tmp_path / "audit", [failure("alice")])
    short = RetentionPolicy(min_retention_days=30, delete_after_days=400)
    report, _ = await written(tmp_path / "audit", tmp_path, "pci_dss", retention=short)
    assert any("minimum of 30 days is SHORTER than the 366 days of 10.5.1" in text for text in report.concerns)
    async with access_log(tmp_path) as audit:
        report = await make_report(
            AuditReader(tmp_path / "audit"), "pci_dss", audit=audit, accessed_by="carol", retention=RetentionPolicy()
        )
    assert "A minimum of 2,555 days meets the 366 days of 10.5.1." in report.retention.assessment
    assert report.concerns == () or not any("SHORTER" in text for text in report.concerns)


async def test_the_policy_that_a_log_states_is_compared(tmp_path: Path) -> None:
    """The least of what openings of the period state counts; a session that applies none by itself states none."""
    for days, automatic in ((90, True), (200, True), (7, False)):
        policy = RetentionPolicy(min_retention_days=days, delete_after_days=400, automatic=automatic)
        config = AuditConfig(
            mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, instance="00", retention=policy
        )
        async with AuditLogger(config):
            pass
    report, _ = await written(tmp_path / "audit", tmp_path, "eu_ai_act")
    assert report.retention.stated_min_days == 90
    assert "2 openings of the period with a policy" in report.retention.assessment[0]
    assert any("minimum of 90 days is SHORTER than the 184 days" in text for text in report.concerns)


async def test_what_was_deleted_early_is_named(tmp_path: Path) -> None:
    """The age of the youngest record that retention deleted is compared with the framework's days."""
    log = LivedLog(tmp_path / "audit").session().retain(deleted=1)
    report, _ = await written(log.base_dir, tmp_path, "hipaa")
    assert report.retention.deleted_segments == 1
    assert report.retention.youngest_deleted_days == 0
    assert any("EARLIER than the 2,192 days of 164.316(b)(2)(i)" in text for text in report.concerns)


async def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    """Damage does not keep the rest from being reported, and no damaged record is counted."""
    log = LivedLog(tmp_path / "audit").session()
    log.edit(log.segments[1], lambda lines: [changed(lines[0]), *lines[1:]])
    report, files = await written(log.base_dir, tmp_path)
    whole, _ = await written(LivedLog(tmp_path / "whole").session().base_dir, tmp_path / "whole")
    assert report.records == whole.records - 1
    assert not report.verification.valid
    assert log.segments[1].name in Page(files.page).text


async def test_logs_of_many_hosts_are_one_report(tmp_path: Path) -> None:
    """A collector's root is a place like any other: each log by its whole name, and all of them counted."""
    for host in ("web-1", "web-2"):
        make_trail(tmp_path / "root" / "acme" / host, [failure("alice"), failure("bob")])
    (tmp_path / "root" / COLLECTOR_FILE).write_text("{}")
    report, _ = await written(tmp_path / "root", tmp_path)
    assert [log.log for log in report.logs] == ["acme/web-1/orders/00", "acme/web-2/orders/00"]
    assert report.records == 4
    assert {example.log for control in report.controls for example in control.examples} == {
        log.log for log in report.logs
    }


async def test_the_page_prints(tmp_path: Path) -> None:
    """Chromium makes a document of several pages of it, and its console has nothing to say."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed")
    make_trail(tmp_path / "audit", [failure(MARKUP), failure(HOSTILE)])
    _, files = await written(tmp_path / "audit", tmp_path)
    target = tmp_path / "report.pdf"
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={target}", files.page,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    content = target.read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 2


async def test_no_byte_of_the_files_can_be_changed(tmp_path: Path) -> None:
    """A letter, a digit, a space, a line end, case: changed, removed or added anywhere, in page, data or note."""
    make_trail(tmp_path / "audit", [failure("alice")])
    write_key(tmp_path / "log.pem", new_key())
    signer = load_signer(tmp_path / "log.pem", origin="host/orders/00")
    own = tmp_path / "own.toml"
    own.write_text(
        'id = "house"\nname = "House"\nversion = "3"\nsource = "https://house.example"\nabout = "Ours."\n'
        '[retention]\nclause = "R9"\nsays = "A week."\ndays = 7\n'
        '[[control]]\nid = "R1"\ntitle = "Log-ins"\nasks = "A record."\ncannot_show = "Who."\nevents = ["auth.*"]\n'
    )
    _, files = await written(tmp_path / "audit", tmp_path, own, signers=(signer,))
    assert files.note is not None
    policy = Policy.of([signer.key])
    dice = random.Random(7)  # noqa: S311 - no secret
    for path in (Path(files.page), Path(files.data), Path(files.note)):
        genuine = path.read_bytes()
        digits = [match.start() for match in re.finditer(rb"[0-9]", genuine)]
        places = [0, len(genuine) - 1, *digits[:3], *dice.sample(range(len(genuine)), 8)]
        for at in places:
            for instead in (bytes([genuine[at] ^ 1]), bytes([genuine[at] ^ 0x20]), b"", genuine[at : at + 1] + b" "):
                path.write_bytes(genuine[:at] + instead + genuine[at + 1 :])
                with pytest.raises(InvalidReport):
                    check_report(files.page, policy)
                if path.suffix != ".note":
                    with pytest.raises(InvalidReport):
                        check_report(files.page)
        path.write_bytes(genuine)
    assert check_report(files.page, policy).signed_by == (str(signer.key),)
