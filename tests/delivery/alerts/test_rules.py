"""Rules as they are written: what is wrong is said with the rule's and the field's name, before anything is read."""

from __future__ import annotations

import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_async.delivery.alerts import AlertRule, read_rules, starter_rules, starter_rules_text
from audit_async.errors import ConfigError
from tests.delivery.formats.recorded_lines import built_in_types

RULE = 'name = "r"\nreason = "why"\nmatch = { event_types = ["auth.failure"] }\n'


def rules_of(path: Path, text: str) -> list[AlertRule]:
    """Return the rules of a file with this text."""
    file = path / "alerts.toml"
    file.write_text(text, encoding="utf-8")
    return read_rules(file)


def test_the_starter_set_has_twenty_rules_with_their_reasons() -> None:
    """Each has a reason for people, and asks for types that exist."""
    rules = starter_rules()
    assert len(rules) == 20
    types = built_in_types()
    for rule in rules:
        assert len(rule.reason) > 40
        for query in rule.queries():
            assert set(query.event_types) <= types.keys(), rule.name
    assert len(tomllib.loads(starter_rules_text())["rule"]) == 20


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "has no rules"),
        ("rule = 5", "has no rules"),
        ("other = 5", "other"),
        ("[[rule]]\n" + RULE + "treshold = 5", "rule.r.treshold"),
        ("[[rule]]\n" + RULE + "threshold = 5", "rule.r.window_s"),
        ("[[rule]]\n" + RULE + "threshold = 0\nwindow_s = 5", "rule.r.threshold"),
        ("[[rule]]\n" + RULE + 'threshold = "5"', "rule.r.threshold"),
        ("[[rule]]\n" + RULE + 'distinct = "event.ip"', "rule.r.distinct"),
        ("[[rule]]\n" + RULE + "silence_s = 5\nwindow_s = 5", "rule.r.window_s"),
        ("[[rule]]\n" + RULE + 'silence_s = 5\ngroup_by = "event.ip"', "rule.r.silence_s"),
        ("[[rule]]\n" + RULE + "silence_s = 5\nper_log = true", "rule.r.silence_s"),
        ("[[rule]]\n" + RULE + 'severity = "bad"', "rule.r.severity"),
        ("[[rule]]\n" + RULE + "group_by = [1]", "rule.r.group_by"),
        ("[[rule]]\n" + RULE + "[[rule]]\n" + RULE, "two rules with this name"),
        ("[[rule]]\nname = 'r'\nreason = 'w'\nmatch = { limit = 5 }", "rule.r.match.limit"),
        ("[[rule]]\nname = 'r'\nreason = 'w'\nmatch = { ip = 'x/y' }", "rule.r.match.ip"),
        ("[[rule]]\nname = 'r'\nreason = 'w'\nmatch = { evnt_types = ['a'] }", "rule.r.match.evnt_types"),
        ("[[rule]]\nname = 'r'\nreason = 'w'\nmatch = []", "rule.r.match"),
        ("[[rule]]\nname = 'R'\nreason = 'w'\nmatch = {}", "rule.R.name"),
        ("[[rule]]\nreason = 'w'\nmatch = {}", "rule number 1"),
        ("[[rule]]\nname = 'r'\nmatch = {}", "reason"),
    ],
)
def test_what_is_wrong_in_a_rule_is_named(tmp_path: Path, text: str, field: str) -> None:
    """The error names the rule and the field."""
    with pytest.raises(ConfigError) as caught:
        rules_of(tmp_path, text)
    assert field in str(caught.value)


def test_a_rule_s_queries_take_patterns(tmp_path: Path) -> None:
    """`match` is one table or several, and texts with wildcards are patterns, as on the command line."""
    text = "[[rule]]\nname='r'\nreason='w'\nmatch=[{actor='svc-*'}, {event_types=['authz.*'], context={tenant='acme'}}]"
    (rule,) = rules_of(tmp_path, text)
    assert [query.event_types for query in rule.queries()] == [(), ("authz.*",)]


def test_a_rule_that_decides_differently_has_another_digest(tmp_path: Path) -> None:
    """What was counted for another form of a rule is not gone on with."""
    (rule,) = rules_of(tmp_path, "[[rule]]\n" + RULE)
    changes: list[dict[str, Any]] = [
        {"threshold": 2, "window_s": 5},
        {"group_by": ["event.ip"]},
        {"match": [{}]},
        {"per_log": True},
    ]
    assert len({rule.digest(), *(msgspec.structs.replace(rule, **change).digest() for change in changes)}) == 5


def test_a_key_that_is_left_out_is_no_part_of_the_digest(tmp_path: Path) -> None:
    """A release that knows a further key goes on with what was counted: this digest is that of the three keys."""
    (rule,) = rules_of(tmp_path, "[[rule]]\n" + RULE)
    given = {"match": [{"event_types": ["auth.failure"]}], "name": "r", "reason": "why"}
    assert rule.digest() == sha256(msgspec.json.encode(given)).hexdigest()[:16]
