"""`audit-async alerts`: rules checked and tried from the command line."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from audit_async.delivery.alerts import read_rules, starter_rules
from audit_async.events import AuditEvent, AuthFailure, HttpRequest
from tests.cli.commands import Audit
from tests.delivery.delivering import lines_of_log, write_events

RULE = """
[[rule]]
name = "five"
reason = "five of an address"
match = { event_types = ["auth.failure"] }
threshold = 5
window_s = 60
group_by = "event.ip"
"""


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """Return a trail with six failures of one address, and another record."""
    events: list[AuditEvent] = [
        AuthFailure(attempted_user="alice", reason="x", ip="203.0.113.9", path="/login\x1b[2J") for _ in range(6)
    ]
    events.append(HttpRequest(method="GET", path="/", duration_ms=1, bytes_in=0, bytes_out=0, status=200))
    anyio.run(lambda: write_events(tmp_path / "audit", *events))
    return tmp_path / "audit"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return a file with one rule."""
    file = tmp_path / "alerts.toml"
    file.write_text(RULE, encoding="utf-8")
    return file


def test_the_starter_set_is_a_file_to_begin_with(audit: Audit, tmp_path: Path) -> None:
    """What is printed is read as the same rules, and `-` names them."""
    ended = audit("alerts", "starter")
    assert (ended.status, ended.err) == (0, "")
    (tmp_path / "mine.toml").write_text(ended.out, encoding="utf-8")
    assert read_rules(tmp_path / "mine.toml") == starter_rules()
    assert audit("alerts", "check", tmp_path / "mine.toml").out == "20 rules, all of them right\n"
    assert len(audit("alerts", "check", "-", "--json").document["rules"]) == 20


def test_what_is_wrong_in_a_file_of_rules_is_a_usage_error(audit: Audit, rules: Path, tmp_path: Path) -> None:
    """The rule and the field are named, and nothing was read."""
    rules.write_text(RULE.replace("window_s", "windows"), encoding="utf-8")
    ended = audit("alerts", "check", rules)
    assert (ended.status, ended.out) == (2, "")
    assert "rule.five.windows" in ended.err
    assert "window_s" in ended.err
    assert str(rules.name) in ended.err
    assert audit("alerts", "test", rules, tmp_path / "nothing").status == 2
    assert audit("alerts", "check", tmp_path / "missing.toml").status == 2


def test_what_is_probably_a_mistake_is_noted(audit: Audit, rules: Path, tmp_path: Path) -> None:
    """A type that no known event has; a module with the service's own events makes them known."""
    rules.write_text(RULE.replace("auth.failure", "shop_own.refunded"), encoding="utf-8")
    ended = audit("alerts", "check", rules)
    assert ended.status == 0
    note, summary = ended.out.splitlines()
    assert note.startswith("note: rule.five.match: no known event has the type shop_own.refunded")
    assert summary == "1 rule, all of them right"
    assert audit("alerts", "check", rules, "--json").document["notes"] == [note.removeprefix("note: ")]
    ended = audit("alerts", "check", rules, "--module", "own_missing")
    assert (ended.status, "own_missing" in ended.err) == (2, True)
    own = "tests.delivery.alerts.own_events"
    assert audit("alerts", "check", rules, "--module", own).out == "1 rule, all of them right\n"


def test_rules_are_tried_on_a_trail(audit: Audit, rules: Path, trail: Path) -> None:
    """Each alert is a line with its rule, its group and the record; the last one says how many."""
    ended = audit("alerts", "test", rules, trail)
    assert (ended.status, ended.err) == (0, "")
    alert, summary = ended.out.splitlines()
    assert "five  high  5 x  orders/00 seq 5  event.ip=203.0.113.9" in alert
    assert summary == "9 records, 1 alert of 1 rule (of 1)"
    document = audit("alerts", "test", rules, trail, "--json").document
    assert document["by_rule"] == {"five": 1}
    assert document["alerts"][0]["group"] == {"event.ip": "203.0.113.9"}
    assert (trail / "orders" / "00").exists()
    assert not (trail / "audit-deliver").exists()


def test_a_period_and_a_service_narrow_the_trial(audit: Audit, rules: Path, trail: Path) -> None:
    """The options of other commands that read a trail mean the same here."""
    assert audit("alerts", "test", rules, trail, "--until", "2020-01-01").out.startswith("0 records, 0 alerts")
    assert audit("alerts", "test", "-", trail, "--service", "orders").out.splitlines()[-1].endswith("(of 20)")
    assert audit("alerts", "test", rules, trail / "missing").status == 3


def test_copies_are_compared_with_the_trail(audit: Audit, trail: Path, tmp_path: Path) -> None:
    """A receiver's export: status 0 if all of it is of the trail, 1 and the members if something was changed."""
    lines = [line.decode() for line in lines_of_log(trail / "orders/00")]
    export = tmp_path / "export.ndjson"
    export.write_text("\n".join([*lines, ""]), encoding="utf-8")
    ended = audit("check-copies", export, trail)
    assert (ended.status, ended.out) == (0, f"{len(lines)} copies: {len(lines)} genuine, 0 not\n")
    export.write_text("\n".join([lines[1].replace("203.0.113.9", "203.0.113.8"), *lines[2:]]), encoding="utf-8")
    ended = audit("check-copies", export, trail, "--format", "record")
    assert ended.status == 1
    assert "says something else than the record: event.ip" in ended.out
    assert audit("check-copies", export, trail, "--json").document["findings"][0]["members"] == ["event.ip"]
    export.write_text("seq,log\n" * 500, encoding="utf-8")
    ended = audit("check-copies", export, trail, "--format", "ocsf")
    assert (ended.status, ended.out.count("\n"), "in the format ocsf" in ended.out) == (1, 2, True)


def test_the_command_imports_modules(tmp_path: Path, audit: Audit) -> None:
    """A module that can't be imported is a usage error, which names it."""
    (tmp_path / "copies").write_text("{}\n", encoding="utf-8")
    ended = audit("check-copies", tmp_path / "copies", tmp_path, "--module", "own_missing")
    assert ended.status == 2
    assert "own_missing" in ended.err
