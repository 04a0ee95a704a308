"""Frameworks are data files: those of the package hold what they claim, and a user's own is checked with the place."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import audit_async
from audit_async.config.presets import PRESETS
from audit_async.config.segments import RetentionPolicy
from audit_async.errors import ConfigError
from audit_async.events.registry import known_types
from audit_async.reports import framework_names, load_framework
from audit_async.reports.topics import TOPICS

FRAMEWORKS = Path(audit_async.__file__).parent / "reports" / "frameworks"


def test_the_frameworks_that_are_promised_are_there() -> None:
    """Each name of the command's option loads, and says its edition and where it is published."""
    promised = {"soc2", "iso27001", "pci_dss", "hipaa", "gdpr", "nis2", "dora", "eu_ai_act"}
    assert set(framework_names()) == promised
    for name in promised:
        framework = load_framework(name)
        assert framework.id == name
        assert framework.source.startswith("https://")
        assert re.search(r"20\d\d|45 CFR", framework.version)


@pytest.mark.parametrize("name", framework_names())
def test_each_pattern_of_a_framework_finds_a_type(name: str) -> None:
    """A misspelt event type would look as if nothing had been recorded."""
    known = known_types()
    for control in load_framework(name).controls:
        for pattern in control.events:
            assert any(fnmatchcase(tag, pattern) for tag in known), f"{control.id}: {pattern}"


@pytest.mark.parametrize("name", sorted(set(framework_names()) & set(PRESETS)))
def test_a_preset_keeps_records_as_long_as_its_framework_asks(name: str) -> None:
    """The preset of the same name promises at least the days that the report compares with."""
    retention = PRESETS[name]["retention"]
    assert isinstance(retention, RetentionPolicy)
    assert retention.min_retention_days >= (load_framework(name).retention.days or 0)


def test_each_topic_speaks_for_a_control() -> None:
    """No topic is left out by all frameworks."""
    used = {
        topic for name in framework_names() for control in load_framework(name).controls for topic in control.topics
    }
    assert used == set(TOPICS)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('cannot_show = "The pur', 'cannot_shows = "The pur', "control 1 (Art. 5(1)(e)): object contains unknown"),
        ('cannot_show = "The pur', 'cannot_shows = "The pur', "`cannot_shows`; did you mean cannot_show?"),
        ('"erasures", "holds"]', '"erasure", "holds"]', "topics: no such topic; did you mean erasures?"),
        ('id = "Art. 15"', 'id = "Art. 17"', "control 5 (Art. 17): its id was given to a control before"),
        ('title = "Erasure"', "title = 5", "control 5 (Art. 17), title: expected `str`, got `int`"),
        ('clause = "Art. 5(1)(e)"', "", "retention: object missing required field `clause`"),
        ('id = "gdpr"', 'id = "<b>"', "id: expected `str` matching regex"),
        ('events = ["compliance.gdpr_data_export"]', "", "control 6 (Art. 20): nothing of a trail speaks for it"),
    ],
)  # fmt: skip
def test_a_wrong_file_names_the_place(old: str, new: str, place: str, tmp_path: Path) -> None:
    """The error has the file, the control by number and id, the member, and what to give instead."""
    content = (FRAMEWORKS / "gdpr.toml").read_text(encoding="utf-8")
    assert old in content
    path = tmp_path / "own.toml"
    path.write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_framework(path)
    assert str(path) in str(raised.value)
    assert place in str(raised.value)


def test_an_unknown_name_says_which_was_meant(tmp_path: Path) -> None:
    """A name is looked up in the package, a path on the disk."""
    with pytest.raises(ConfigError, match="did you mean pci_dss"):
        load_framework("pcidss")
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "none.toml"))):
        load_framework(tmp_path / "none.toml")
