"""SIGKILL at random moments: what was acknowledged is there, and the log opens again without help.

`make test` kills a few dozen times; `make campaign` kills hundreds of times.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from threading import Timer

import pytest

from audit_async import AuditConfig, AuditLogger, Local
from tests.campaign import Campaign
from tests.logs import segment_lines
from tests.trails import check_trail, read_events
from tests.writer.killed_writer import MODES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def killed_after(directory: Path, mode: str, delay_s: float) -> list[tuple[int, str, int]]:
    """Run the writer, kill it that long after its first acknowledgement; return what it had acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.writer.killed_writer", directory, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # or what was read ahead of the first line would be missing from the rest
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first, process.communicate()[1].decode()
    killing = Timer(delay_s, process.kill)
    killing.start()
    rest, stderr = process.communicate()  # reads all the time, so that a full pipe does not slow the writer down
    killing.join()
    # A disk that is busy with something else is reported, and is none of this test's business.
    assert [line for line in stderr.splitlines() if b"stalled" not in line] == []
    whole_lines = (first + rest).split(b"\n")[:-1]
    return [(int(seq), audit_id, int(n)) for seq, audit_id, n in (line.decode().split() for line in whole_lines)]


def kill_again_and_again(directory: Path, mode: str, rounds: Iterable[int], seed: int) -> None:
    """Kill a writer that goes on with the same log each time, and check everything after each kill."""
    moments = random.Random(seed)  # noqa: S311 - moments, not secrets
    log = directory / "killed" / "00"
    acknowledged: dict[str, tuple[int, int]] = {}
    times = 0
    for _ in rounds:
        times += 1
        for seq, audit_id, n in killed_after(directory, mode, moments.uniform(0, 0.08)):
            acknowledged[audit_id] = (seq, n)

    async def open_and_close() -> None:
        async with AuditLogger(AuditConfig(mode=Local(directory), service_id="killed")):
            pass

    asyncio.run(open_and_close())
    check_trail(log)
    records = read_events(log)
    assert [record["seq"] for record in records] == list(range(len(records)))
    by_audit_id = {record["audit_id"]: record for record in records}
    assert len(by_audit_id) == len(records), "no audit_id is given twice"
    for audit_id, (seq, n) in acknowledged.items():
        assert (by_audit_id[audit_id]["seq"], by_audit_id[audit_id]["event"]["n"]) == (seq, n)
    sessions = [record["event"] for record in records if record["event"]["event_type"] == "audit.log_opened"]
    assert len(sessions) == times + 1
    assert len(acknowledged) > times
    assert len(list(log.glob("*.audit"))) > 1, "rotation was among what was interrupted"
    assert segment_lines(log)


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_writer_keeps_its_word(tmp_path: Path, mode: str) -> None:
    """After each SIGKILL every acknowledged record is there, nothing twice, the chain whole, no help needed."""
    kill_again_and_again(tmp_path, mode, range(6), seed=len(mode))


@pytest.mark.campaign
@pytest.mark.parametrize("mode", MODES)
def test_hundreds_of_kills(tmp_path: Path, mode: str, campaign: Campaign) -> None:
    """The same, 80 times in each flush mode."""
    kill_again_and_again(tmp_path, mode, campaign.rounds(80), campaign.seed)
