"""Whatever is done to a trail, verifying ends in a report, and a report says so; the independent check agrees."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from audit_async._trail.log_files import TrailUnreadable
from audit_async.status import Position
from tests.campaign import Campaign
from tests.store.chained import log_path, memory_directory
from tests.trail.lived import LivedLog, note_kinds, verify
from tests.trail.mutations import contents, mutate
from tests.trails import _check_log

#: What is noted, and is no finding, since a crash or a copy leaves it as well.
_LIKE_A_CRASH = {"torn_tail", "void_copies", "leftover", "incomplete"}
#: Findings that a chain alone shows, in the segments that the independent check reads.
_OF_THE_CHAIN = {"record", "sequence", "link"}


class Kept:
    """A good log with a bit of everything, and another one; copied for each edit."""

    def __init__(self, base_dir: Path) -> None:
        log = LivedLog(base_dir / "kept").session(14, closed=False).session(8)
        log.retain(archived=2, deleted=1)
        log.chain.now_ns += 3_600 * 10**9
        log.session(6)
        other = LivedLog(base_dir / "other")
        other.chain.now_ns += 1_000_000
        other.session(10).retain(archived=1)
        self.log, self.other = log, other
        self.head = log.head
        assert len(log.segments) >= 5
        assert log.report(expected=self.head).valid

    def copy_to(self, base_dir: Path) -> Path:
        """Copy the log below a fresh base directory; return its directory there."""
        shutil.copytree(self.log.base_dir, base_dir)
        return log_path(base_dir)


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    """The logs, in memory."""
    with memory_directory() as base_dir:
        yield Kept(base_dir)


def independent_findings(log: Path) -> list[str]:
    """Return what the independent check finds; an error of it is one, as it says on its command line."""
    with redirect_stdout(StringIO()):
        try:
            return _check_log(log)
        except Exception as error:  # noqa: BLE001 - as it does itself
            return [repr(error)]


def check_edit(kept: Kept, base_dir: Path, seed: str) -> None:
    """Edit a copy of the log, one to three times; what matters must be found, and nothing else."""
    random_ = random.Random(seed)  # noqa: S311 - for repeating a run, not for secrets
    log = kept.copy_to(base_dir)
    try:
        before = contents(log)
        done = [mutate(log, kept.other.directory, random_) for _ in range(random_.choice([1, 1, 1, 2, 3]))]
        after = contents(log)
        expected: dict[str, Position] = {"orders/00": kept.head}
        try:
            report = verify(base_dir, expected=expected)
        except TrailUnreadable:
            assert not any(name in {"log.json", "manifest.json"} or name.endswith(".audit") for name in after)
            return
        told = not report.valid or not _LIKE_A_CRASH.isdisjoint(note_kinds(report))
        assert told or before == after, f"seed {seed}: not found: {done}"
        assert report.valid or before != after, f"seed {seed}: {done}: {report.findings}"
        independent = independent_findings(log)
        if independent and before == after:
            return  # it asks for more than the manifest's format does
        if independent:
            assert told, f"seed {seed}: {done}: {independent}"
        else:
            live = {path.name for path in log.glob("*.audit")}
            missed = [f for f in report.findings if f.kind in _OF_THE_CHAIN and f.segment in live]
            assert not missed, f"seed {seed}: {done}: the independent check missed {missed}"
    finally:
        shutil.rmtree(base_dir)


def test_a_sample_of_random_edits_is_found(kept: Kept) -> None:
    """Four hundred edits, the same in every run."""
    with memory_directory() as base_dir:
        for number in range(400):
            check_edit(kept, base_dir / "edited", f"sample {number}")


@pytest.mark.campaign
def test_ten_thousand_random_edits_are_found(kept: Kept, campaign: Campaign) -> None:
    """Others in every run; a failure names the seed."""
    with memory_directory() as base_dir:
        for number in campaign.rounds(10_000):
            check_edit(kept, base_dir / "edited", f"campaign {campaign.seed} {number}")
