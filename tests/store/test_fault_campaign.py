"""A real process whose system calls fail, write half, fail after success, or kill it: nothing acknowledged is lost.

With a signed tree, retention and rotation at work. A short run is part of the suite; `make campaign` runs hundreds.
"""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from audit_async._layout.archive_reading import open_segment_for_reading
from audit_async._layout.manifest import read_manifest
from audit_async.tlog import new_key, write_key
from tests.campaign import Campaign
from tests.cli.commands import COMMAND
from tests.store.shim import build_shim, environment

EVENTS = 24
#: About how many calls that change files a whole run makes; later ones are never reached.
CALLS = 300
KINDS = ("error", "error", "after", "short", "kill-before", "kill-half", "kill-after")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EINTR)


class Fault(NamedTuple):
    """What goes wrong in one run."""

    kind: str
    call: int
    times: int
    number: int


class Faults:
    """Runs the service under one fault after the other, and checks after each that the log holds what it promised."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place = place
        self.random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self.shim = build_shim(place)
        self.key = place / "key.pem"
        write_key(self.key, new_key())
        self.counts: Counter[str] = Counter()

    def fault(self) -> Fault:
        """Draw a fault."""
        kind = self.random.choice(KINDS)
        times = self.random.choice((1, 1, 2, 5)) if kind == "error" else 1
        return Fault(kind, self.random.randrange(1, CALLS), times, self.random.choice(ERRORS))

    def run(self, number: int) -> None:
        """Run the service once or twice into the same log, each time under a fault; then without one, and check."""
        directory = self.place / f"log {number}"
        directory.mkdir(mode=0o700)
        acknowledged: dict[int, str] = {}
        faults = [self.fault() for _ in range(self.random.choice((1, 2)))]
        for fault in faults:
            acknowledged |= self.service(directory, fault)
        acknowledged |= self.service(directory, None)
        self.check(directory, acknowledged, faults)

    def service(self, directory: Path, fault: Fault | None) -> dict[int, str]:
        """Run the service; return what it has acknowledged, by seq."""
        hit = self.place / "hit"
        hit.unlink(missing_ok=True)
        settings = dict(environment(self.shim, directory)) if fault is None else environment(
            self.shim, directory, kind=fault.kind, call=fault.call, times=fault.times, errno=fault.number, hit=hit
        )  # fmt: skip
        command = [sys.executable, "-m", "tests.store.faulty_service", str(directory), str(self.key), str(EVENTS)]
        ended = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)
        lines = [line.split() for line in ended.stdout.splitlines()]
        self.counts["runs"] += 1
        self.counts["acknowledgements"] += len(lines)
        if fault is not None and hit.exists():
            self.counts[fault.kind] += 1
        if fault is None or not fault.kind.startswith("kill"):
            assert "LogCorrupted" not in ended.stderr, f"{fault}\n{ended.stderr}"
        if fault is None:
            assert ended.returncode == 0, ended.stderr
            assert len(lines) == EVENTS
        return {int(seq): digest for seq, digest in lines}

    def check(self, directory: Path, acknowledged: dict[int, str], faults: list[Fault]) -> None:
        """See that `verify` finds nothing wrong, and that each acknowledged record is in its place."""
        command = [*COMMAND, "verify", str(directory), "--json"]
        verified = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert verified.returncode == 0, f"{faults}\n{verified.stdout}\n{verified.stderr}"
        recorded = hashes(directory / "faulty" / "00")
        lost = {seq: digest for seq, digest in acknowledged.items() if recorded.get(seq) != digest}
        assert not lost, f"{faults}: acknowledged and not there"


def hashes(log: Path) -> dict[int, str]:
    """Return the hash of each record of a log, by seq, archived or not."""
    found: dict[int, str] = {}
    sealed = read_manifest(log)
    active = [path for path in sorted(log.glob("*.audit")) if path.name not in {entry.segment for entry in sealed}]
    for file in (*(open_segment_for_reading(log, entry) for entry in sealed), *(path.open("rb") for path in active)):
        with file:
            for line in file:
                record = json.loads(line)
                found[record["seq"]] = record["hash"]
    return found


def test_a_short_campaign(tmp_path: Path) -> None:
    """Faults at a few random calls; each kind of them is met in the long runs of `make campaign`."""
    faults = Faults(tmp_path, seed=1)
    for number in range(3):
        faults.run(number)
    assert faults.counts["acknowledgements"] >= 3 * EVENTS


@pytest.mark.campaign
def test_a_long_campaign(tmp_path: Path, campaign: Campaign) -> None:
    """Hundreds of faults at random calls: nothing acknowledged is lost, and no log is refused afterwards."""
    faults = Faults(tmp_path, campaign.seed)
    for number in campaign.rounds(200):
        faults.run(number)
    campaign.say(str(dict(sorted(faults.counts.items()))))
    assert faults.counts["runs"] < 200 or faults.counts.keys() >= {*KINDS}
