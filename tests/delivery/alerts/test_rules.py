"""Rules as they are written: what is wrong is said with the rule's and the field's name, before anything is read."""

from __future__ import annotations

import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_async.delivery.alerts import AlertRule, notes_on, read_rules, starter_rules, starter_rules_text
from audit_async.delivery.alerts.alert_rules import _ALLOWED
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
    """The error names the file, the rule and the field."""
    with pytest.raises(ConfigError) as caught:
        rules_of(tmp_path, text)
    assert field in str(caught.value)
    assert "alerts.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'severity = "urgent"',
            "'urgent' is not allowed; allowed: info, low, medium, high or critical",
        ),
        ("threshold = 1.5", "rule.r.threshold: 1.5 is not allowed; allowed: a whole number from 1 to 10,000"),
        ("window_s = 0", "rule.r.window_s: 0 is not allowed; allowed: a whole number of seconds from 1 to 604,800"),
        ("group_by = [1]", "rule.r.group_by: [1] is not allowed; allowed: a member's path"),
        ("per_log = 1", "rule.r.per_log: 1 is not allowed; allowed: true or false"),
        ("max_groups = -1", "rule.r.max_groups: -1 is not allowed"),
        ("cool_down_s = true", "rule.r.cool_down_s: True is not allowed; allowed: a whole number of seconds, 0 or"),
    ],
)
def test_an_error_says_what_is_allowed(tmp_path: Path, line: str, message: str) -> None:
    """In words, for whoever writes a rule."""
    with pytest.raises(ConfigError) as caught:
        rules_of(tmp_path, "[[rule]]\n" + RULE + line)
    assert message in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """The first one in full, and the places of the others."""
    second = RULE.replace('"r"', '"second"')
    text = f"[[rule]]\n{RULE}threshold = 5\n[[rule]]\n{second}severity = 5\n[[rule]]\nname = 'third'\n"
    with pytest.raises(ConfigError, match=r"wrong as well: rule\.second\.severity, rule\.third\.reason") as caught:
        rules_of(tmp_path, text)
    assert caught.value.field == "rule.r.window_s"


def test_every_key_says_what_it_may_be() -> None:
    """A key that is added has its words, or an error could not say them."""
    assert _ALLOWED.keys() == set(AlertRule.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            "match = {event_types = ['auth.failures']}",
            ["the type auth.failures; did you mean auth.f"],
        ),
        ("match = {event_types = 'auth.failures'}", ["auth.failures"]),
        ("match = [{event_types = ['authx.*']}, {event_types = ['auth.*']}]", ["no known event has the type authx.*"]),
        (
            "match = {event_types = ['auth.failure']}\ngroup_by = 'event.ipp'",
            ["rule.r.group_by: no known event that it is about has a member ipp; did you mean ip?"],
        ),
        ("match = {event_types = ['auth.*']}\nthreshold = 2\nwindow_s = 5\ndistinct = 'attempted'", ["r.distinct"]),
        ("match = {}\ngroup_by = ['event.nothing', 'context.nothing', 'event_type']", ["member nothing"]),
        ("match = {event_types = ['shop.own']}\ngroup_by = 'event.own'", ["no known event has the type shop.own"]),
        ("match = {event_types = ['auth.*', 'data.exported']}\ngroup_by = ['actor.user_id', 'ip']", []),
    ],
)
def test_what_is_probably_a_mistake_is_noted(tmp_path: Path, text: str, notes: list[str]) -> None:
    """A type or a member that no known event has; it may be one of the service's own, so it is no error."""
    found = notes_on(rules_of(tmp_path, f"[[rule]]\nname = 'r'\nreason = 'why'\n{text}"))
    assert len(found) == len(notes)
    for note, expected in zip(found, notes, strict=True):
        assert expected in note


def test_there_are_no_notes_on_the_starter_set() -> None:
    """Its types and members are those of built-in events."""
    assert notes_on(starter_rules()) == []


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
