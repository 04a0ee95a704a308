"""Long runs that draw what they try: how much of it, with which seed, and what they print meanwhile.

What a campaign tries differs between its runs, so it can fail on one machine and not on another: it is no part of
`make test`, which runs a sample with a seed of its own. A test takes the fixture `campaign` and marks itself:

    @pytest.mark.campaign
    def test_ten_thousand_edits(campaign: Campaign) -> None:
        for number in campaign.rounds(10_000):
            check_edit(random.Random(f"{campaign.seed} {number}"))

A test that goes through all of something is `@sampled(5)` and takes `every`: 5 in `make test`, 1 in `make campaign`.

`CAMPAIGN_SEED` repeats one, `CAMPAIGN_RUNS` sets another number of rounds, `CAMPAIGN_MINUTES` another bound for each.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from random import SystemRandom
from typing import Final

import pytest

#: With two processes at a time, a dozen of them end well within an hour.
_MINUTES: Final = 5.0
_PRINTED_EVERY_S: Final = 30.0


def sampled(every: int) -> pytest.MarkDecorator:
    """Give a test the argument `every`: try one case in so many in `make test`, and all of them in `make campaign`."""
    return pytest.mark.parametrize(
        "every", [pytest.param(every, id="sample"), pytest.param(1, id="all", marks=pytest.mark.campaign)]
    )


class Campaign:
    """One long run; a failure is repeated with the seed that its first line names.

    Args:
        name: The test's.
        uncaptured: Lets what is printed get to the terminal while it is open.
        settings: Where `CAMPAIGN_SEED` and the others are.
    """

    def __init__(
        self,
        name: str,
        uncaptured: Callable[[], AbstractContextManager[None]],
        settings: os._Environ[str] | dict[str, str] = os.environ,
    ) -> None:
        self.name: Final = name
        self.seed: Final = int(settings.get("CAMPAIGN_SEED") or SystemRandom().randrange(1 << 32))
        self._uncaptured = uncaptured
        self._most: Final = int(settings["CAMPAIGN_RUNS"]) if settings.get("CAMPAIGN_RUNS") else None
        self._bound_s: Final = 60 * float(settings.get("CAMPAIGN_MINUTES") or _MINUTES)

    def rounds(self, most: int) -> Iterator[int]:
        """Yield the numbers of the rounds, at least one, until there were enough of them or the time is up."""
        most = self._most or most
        began = printed = time.monotonic()
        self.say(f"seed {self.seed}, up to {most:,} rounds, up to {self._bound_s / 60:g} minutes")
        for number in range(most):
            yield number
            now = time.monotonic()
            if now - printed >= _PRINTED_EVERY_S or number + 1 == most or now - began >= self._bound_s:
                printed = now
                self.say(f"{number + 1:,} of {most:,} rounds in {now - began:,.0f} s")
            if now - began >= self._bound_s:
                return

    def say(self, text: str) -> None:
        """Print a line at once, also in a process of xdist, whose standard error is the session's."""
        with self._uncaptured():
            sys.stderr.write(f"\n{self.name}: {text}")
            sys.stderr.flush()
