"""`audit-async report`: made, recorded, signed and checked from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from audit_async.delivery import FileSettings
from tests.age_keys import key_file
from tests.cli.commands import Audit, environment
from tests.cli.made_trails import failure, make_trail
from tests.delivery.delivering import deliver_once, settings
from tests.logs import segment_lines
from tests.reports.faulty_trail import FOREIGN_HEAD, FaultyTrail, leave
from tests.verify.test_encrypted_trails import make

CONFIG = """
service_id = "orders"
instance = "00"
[mode]
type = "local"
base_dir = "{base_dir}"
[transparency]
key = "{key}"
origin = "{origin}"
[retention]
min_retention_days = 90
delete_after_days = 400
"""


def recorded(base_dir: Path) -> list[dict[str, object]]:
    """Return what the command line has recorded."""
    return [json.loads(line)["event"] for line in segment_lines(base_dir / "audit-cli" / "00")]


def test_a_report_is_made_recorded_and_checked(audit: Audit, tmp_path: Path) -> None:
    """It is next to its data, the trail's own audit-cli log says who made it, and the check finds a change."""
    base_dir, page = tmp_path / "audit", tmp_path / "soc2.html"
    make_trail(base_dir, [failure("alice"), failure("bob")])
    command = ("report", base_dir, "--framework", "soc2", "--out", page, "--as", "carol")
    made = audit(*command)
    assert (made.status, made.err) == (0, "")
    assert "2 records in the period" in made.out or "3 records in the period" in made.out
    (exported,) = [event for event in recorded(base_dir) if event["event_type"] == "audit.exported"]
    assert (exported["actor"], exported["format"]) == ("carol", "report")
    checked = audit("report", "--check", page)
    assert checked.status == 0
    assert "page and data say the same" in checked.out
    assert audit(*command).status == 3  # it is there already
    assert audit(*command, "--force").status == 0
    page.write_text(page.read_text().replace("carol", "mallory"))
    changed = audit("report", "--check", page)
    assert changed.status == 1
    assert "does not say what" in changed.out


def test_a_faulty_trail_is_named_and_signed(audit: Audit, tmp_path: Path) -> None:
    """The status says that something was found, the faults are in the output, and the log's key signs the report."""
    trail: FaultyTrail = asyncio.run(leave(tmp_path))
    config = tmp_path / "orders.toml"
    config.write_text(CONFIG.format(base_dir=trail.base_dir, key=tmp_path / "orders.pem", origin=trail.signing.origin))
    page = tmp_path / "q4.html"
    made = audit(
        "report", trail.base_dir, "--config", config, "--framework", "pci_dss", "--out", page, "--as", "carol",
        "--vkey", trail.vkey,
        "--expected-head", f"orders/00={FOREIGN_HEAD.seq}:{FOREIGN_HEAD.hash}", "--json",
    )  # fmt: skip
    assert made.status == 1, made.err
    concerns = "\n".join(made.document["concerns"])
    assert "another hash than the expected head" in concerns
    assert "minimum of 90 days is SHORTER than the 366 days" in concerns
    assert made.document["signed_by"] == [trail.vkey]
    checked = audit("report", "--check", page, "--vkey", trail.vkey, "--json")
    assert (checked.status, checked.document["signed_by"]) == (0, [trail.vkey])
    page.with_suffix(".note").unlink()
    assert audit("report", "--check", page, "--vkey", trail.vkey).status == 1


def test_the_period_is_the_one_that_was_asked_for(audit: Audit, tmp_path: Path) -> None:
    """Only records of the period are counted; a time that is none is refused before anything is written."""
    make_trail(tmp_path / "audit", [failure("alice")] * 4, step_ns=3_600 * 10**9)
    command = ("report", tmp_path / "audit", "--framework", "hipaa", "--as", "carol", "--out", tmp_path / "r.html")
    made = audit(*command, "--since", "2026-11-22T13:00:00Z", "--until", "2026-11-22T15:00:00Z", "--json")
    assert (made.status, made.document["records"]) == (0, 2)
    assert audit(*command, "--since", "yesterday", "--force").status == 2


def test_a_framework_of_one_s_own(audit: Audit, tmp_path: Path) -> None:
    """A TOML file takes the place of a name; one that is wrong names the place in it."""
    make_trail(tmp_path / "audit", [failure("alice")])
    own = tmp_path / "own.toml"
    own.write_text(
        'id = "house"\nname = "House rules"\nversion = "3"\nsource = "https://house.example"\nabout = "Ours."\n'
        '[retention]\nclause = "R9"\nsays = "A week."\ndays = 7\n'
        '[[control]]\nid = "R1"\ntitle = "Log-ins"\nasks = "Log-ins are recorded."\ncannot_show = "Who it was."\n'
        'events = ["auth.*"]\n'
    )
    command = ("report", tmp_path / "audit", "--framework-file", own, "--as", "carol", "--out", tmp_path / "r.html")
    assert audit(*command).status == 0
    assert "House rules" in (tmp_path / "r.html").read_text()
    own.write_text(own.read_text().replace("events", "event"))
    wrong = audit(*command, "--force")
    assert wrong.status == 2
    assert "control 1 (R1): object contains unknown field `event`; did you mean events?" in wrong.err


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("--framework", "say which report"), ("--out", "--out FILE.html is missing"), ("--as", "--as NAME is missing")],
)
def test_what_is_missing_is_said(left_out: str, said: str, audit: Audit, tmp_path: Path) -> None:
    """Nothing is read or written without all that a report needs."""
    options = {"--framework": "soc2", "--out": str(tmp_path / "r.html"), "--as": "carol"}
    del options[left_out]
    make_trail(tmp_path / "audit", [failure("alice")])
    ended = audit("report", tmp_path / "audit", *[text for option in options.items() for text in option])
    assert ended.status == 2
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert not (tmp_path / "audit" / "audit-cli").exists()


@pytest.mark.parametrize("is_readable", [True, False])
def test_the_monthly_script_makes_last_month_s_report(is_readable: bool, tmp_path: Path) -> None:
    """What the timer runs: the month before, handed on; the record with the page's SHA-256 is delivered like others."""
    if is_readable:
        make_trail(tmp_path / "audit", [failure("alice")])
    else:
        asyncio.run(make(tmp_path / "audit"))  # of which archives are encrypted
    (tmp_path / "reports").mkdir()
    sent = tmp_path / "sent"
    send = tmp_path / "send"
    send.write_text(f'#!/bin/sh\necho "$1" > {sent}\n')
    send.chmod(0o755)
    script = Path(__file__).parents[2] / "examples" / "deploy" / "audit-report.sh"
    began = datetime.now(UTC)
    done = subprocess.run(
        [script],
        env=environment(
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            AUDIT_BASE_DIR=str(tmp_path / "audit"),
            AUDIT_REPORT_DIR=str(tmp_path / "reports"),
            AUDIT_REPORT_FRAMEWORK="soc2",
            AUDIT_REPORT_SEND=str(send),
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (0 if is_readable else 3), done.stderr
    page = Path(sent.read_text().strip())
    # The month may end meanwhile.
    months = {f"{moment.replace(day=1) - timedelta(days=1):%Y-%m}": moment for moment in (began, datetime.now(UTC))}
    (month,) = [one for one in months if page == tmp_path / "reports" / f"soc2-{one}.html"]
    data = json.loads(page.with_suffix(".json").read_bytes())
    assert data["period"]["since"] == f"{month}-01T00:00:00Z"
    assert data["period"]["until"] == f"{months[month]:%Y-%m}-01T00:00:00Z"
    out = tmp_path / "siem.ndjson"
    asyncio.run(deliver_once(settings(tmp_path, FileSettings(name="siem", path=str(out)))))
    events = [json.loads(line)["event"] for line in out.read_text().splitlines()]
    (exported,) = [event for event in events if event["event_type"] == "audit.exported"]
    assert exported["sha256"] == sha256(page.read_bytes()).hexdigest()


def test_the_schema_is_printed(audit: Audit) -> None:
    """It is JSON, and needs no trail."""
    printed = audit("report", "--schema")
    assert printed.status == 0
    assert printed.document["title"] == "audit-async report"


def test_what_can_not_be_read_is_said_with_a_status_of_its_own(audit: Audit, tmp_path: Path) -> None:
    """Encrypted archives without the identity: status 3, as of every other command, and what is not counted."""
    asyncio.run(make(tmp_path / "audit"))
    command = ("report", tmp_path / "audit", "--framework", "soc2", "--as", "carol", "--out", tmp_path / "r.html")
    closed = audit(*command, "--access-log", tmp_path / "access")
    assert closed.status == 3
    assert closed.out.startswith("NOT verified")
    assert "40 records" in " ".join(closed.out.split("Not counted:")[1].split())
    opened = audit(*command, "--access-log", tmp_path / "access", "--force", "--identity", key_file(tmp_path), "--json")
    assert (opened.status, opened.document["not_counted"]) == (0, [])


def test_a_date_as_until_is_included_whole(audit: Audit, tmp_path: Path) -> None:
    """Also with a zone the report has the period in UTC, and it ends before the next day."""
    make_trail(tmp_path / "audit", [failure("alice")] * 14, step_ns=3_600 * 10**9)  # the last two are of the next day
    page = tmp_path / "r.html"
    command = ("report", tmp_path / "audit", "--framework", "hipaa", "--as", "carol", "--out", page)
    made = audit(*command, "--since", "2026-11-22T18:45:00+05:45", "--until", "2026-11-22", "--json")
    assert (made.status, made.document["records"]) == (0, 11)
    period = json.loads(page.with_suffix(".json").read_bytes())["period"]
    assert period == {"since": "2026-11-22T13:00:00Z", "until": "2026-11-23T00:00:00Z"}
