"""docs/delivery.md and the unit of systemd say what the command takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audit_async.delivery import read_deliver_settings
from audit_async.delivery.delivery_metrics import DeliveryMetrics
from tests.cli.commands import Audit
from tests.cli.conftest import audit as audit_fixture

audit = audit_fixture
PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/delivery.md").read_text(encoding="utf-8")


def test_the_page_s_configuration_is_valid(tmp_path: Path) -> None:
    """As it is."""
    block = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    path = tmp_path / "deliver.toml"
    path.write_text(block[1])
    assert [sink.name for sink in read_deliver_settings(path).sinks] == ["siem", "syslog"]


def test_options_and_metrics_that_are_named_exist(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page and in the unit, by the command's own help."""
    monkeypatch.setenv("COLUMNS", "200")
    help_text = audit("deliver", "--help").out + audit("replay", "--help").out
    unit = (PROJECT / "examples/deploy/audit-deliver.service").read_text(encoding="utf-8")
    for option in re.findall(r"(?<=[ `])--[a-z][a-z-]+", PAGE + unit):
        assert option in help_text
    names = {metric.name for metric in DeliveryMetrics(list).describe()}
    for name in re.findall(r"audit_deliver_\w+", PAGE):
        assert name in names
