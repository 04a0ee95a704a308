"""Long runs are bounded, say how far they are, and can be repeated."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext

import pytest

from tests.campaign import Campaign


def test_a_campaign_names_its_seed_and_how_much_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    """The seed is there before the first round, so also if that never ends."""
    campaign = Campaign("edits", nullcontext, {})
    rounds = campaign.rounds(3)
    assert next(rounds) == 0
    assert f"edits: seed {campaign.seed}, up to 3 rounds" in capsys.readouterr().err
    assert list(rounds) == [1, 2]
    assert re.search(r"edits: 3 of 3 rounds in \d+ s$", capsys.readouterr().err)


def test_no_two_campaigns_try_the_same() -> None:
    """Unless the seed is given; the tests' own order has no part in it."""
    assert len({Campaign("edits", nullcontext, {}).seed for _ in range(4)}) > 1
    assert Campaign("edits", nullcontext, {"CAMPAIGN_SEED": "7"}).seed == 7


def test_a_campaign_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has done one round at least, and says how many of how many."""
    now = iter(range(0, 10_000, 40))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    assert list(Campaign("edits", nullcontext, {"CAMPAIGN_MINUTES": "2"}).rounds(10_000)) == [0, 1, 2]


def test_a_campaign_takes_the_number_of_rounds_from_its_environment() -> None:
    """For one that is longer than usual."""
    assert len(list(Campaign("edits", nullcontext, {"CAMPAIGN_RUNS": "5"}).rounds(2))) == 5
