"""A real process whose disk fails, or that is killed at any call: no stored key is lost, no destroyed one is left."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from audit_async.privacy import Destroyed, MasterKeyError, SqliteKeyStore, new_master_key, open_key_store
from audit_async.privacy.data_keys import day_of
from tests.campaign import Campaign
from tests.privacy.key_stores import ALICE, TODAY, copies_in_files, make_store, some_keys
from tests.store.shim import build_shim, environment

#: About how many calls that change files a whole run makes; later ones are never reached.
CALLS = 350
KINDS = ("error", "error", "after", "short", "kill-before", "kill-half", "kill-after")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


class Ended(NamedTuple):
    """What the process had acknowledged when it ended."""

    status: int
    said: dict[str, list[bytes]]
    output: str

    @property
    def stored(self) -> dict[bytes, bytes]:
        """The keys that were stored, by id."""
        values = self.said.get("stored", [])
        return dict(zip(values[::2], values[1::2], strict=True))


def parsed(output: str) -> dict[str, list[bytes]]:
    """Return what a process said, by its words."""
    said: dict[str, list[bytes]] = {}
    for line in output.splitlines():
        word, *values = line.split(" ")
        said.setdefault(word, []).extend(bytes.fromhex(value) for value in values if value)
    return said


class Process:
    """Runs `faulty_key_store` under one fault after the other, each with a store of its own."""

    def __init__(self, place: Path) -> None:
        self.shim = build_shim(place)
        self.place = place
        self.runs = 0

    def run(self, **fault: object) -> tuple[Path, Ended]:
        """Run it to its end; return the store's directory and what was said."""
        self.runs += 1
        below = self.place / str(self.runs)
        below.mkdir()
        path = make_store(below)
        new = below / "new.key"
        new.write_bytes(new_master_key())
        new.chmod(0o600)
        module = "tests.privacy.faulty_key_store"
        command = [sys.executable, "-m", module, str(path), f"file:{below / 'master.key'}", str(new)]
        done = subprocess.run(
            command, env=environment(self.shim, path, **fault), capture_output=True, timeout=180, check=False, text=True
        )
        return path, Ended(done.returncode, parsed(done.stdout), done.stdout + done.stderr)


def opened_after(path: Path, ended: Ended) -> SqliteKeyStore:
    """Open the store by the master key that it must have now."""
    old, new = f"file:{path.parent / 'master.key'}", f"file:{path.parent / 'new.key'}"
    if "rotated" in ended.said:
        with pytest.raises(MasterKeyError):
            open_key_store(path, old)
        return open_key_store(path, new)
    try:
        return open_key_store(path, old)
    except MasterKeyError:
        return open_key_store(path, new)  # killed between the commit and its acknowledgement


def check(path: Path, ended: Ended) -> None:
    """What was acknowledged holds, and what was begun can be completed."""
    store = opened_after(path, ended)
    begun, destroyed = ended.said.get("begun", []), ended.said.get("destroyed", [])
    if begun:
        assert set(begun) >= {key_id for key_id in ended.stored if key_id in set(store.find(ALICE))}
    if begun and not destroyed:  # the log would find `audit.erasure_started` in its chain
        store.destroy(begun, erasure_id="e1")
        destroyed = begun
    forgotten = ended.said.get("forgot", [])
    gone = (ended.said.get("wrapped", []) if destroyed else []) + (ended.said["wrapped-past"] if forgotten else [])
    assert copies_in_files(path, gone) == {}, ended.output
    states = store.keys(ended.stored)
    # Killed while it forgot: days before the limit may be gone, which the next call completes.
    forgetting = "wrapped-past" in ended.said and not forgotten
    for key_id, key in ended.stored.items():
        if key_id in destroyed or key_id in forgotten:
            assert isinstance(states[key_id], Destroyed), ended.output
        elif forgetting and day_of(key_id) < TODAY - 20 and isinstance(states[key_id], Destroyed):
            continue
        else:
            assert states[key_id] == key, ended.output
    assert store.lagging(1 << 40) == []  # its process is dead
    session = store.open_session("next/00")
    assert session.insert(some_keys(store, ALICE, 2)) == []
    for erasure_id in store.unfinished_erasures():
        session.passed(store.epoch())
        store.end_erasure(erasure_id)
    assert len(store.find(ALICE)) >= 2
    store.close()


def check_faults(process: Process, dice: random.Random, rounds: Iterable[int]) -> list[str]:
    """Run it under faults that are drawn; return how the runs ended."""
    ends = []
    for _ in rounds:
        kind = dice.choice(KINDS)
        times = dice.choice((1, 1, 3)) if kind == "error" else 1
        path, ended = process.run(kind=kind, call=dice.randrange(1, CALLS), times=times, errno=dice.choice(ERRORS))
        killed = ended.status == -9
        assert killed or ended.status == 0, ended.output  # every error was worth a retry
        check(path, ended)
        ends.append("killed" if killed else "unavailable" if "unavailable" in ended.output else "unharmed")
    return ends


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """Return what runs a store's process under faults."""
    return Process(tmp_path)


def test_a_store_without_a_fault_does_what_the_faulty_one_is_held_to(process: Process) -> None:
    """The control, which also says how many calls there are to fail."""
    path, ended = process.run(kind="none")
    assert ended.status == 0, ended.output
    assert "closed" in ended.said
    assert "unavailable" not in ended.output
    check(path, ended)
    hit = path.parent / "hit"
    _, late = process.run(kind="error", call=CALLS * 2, hit=hit, errno=errno.EIO)
    assert late.status == 0
    assert not hit.exists()  # the number of calls is not far off


def test_no_fault_loses_a_key_or_leaves_one(process: Process) -> None:
    """A disk that is full or fails, and kill -9, at ten calls; at each of hundreds in `make campaign`."""
    ends = check_faults(process, random.Random(7), range(10))  # noqa: S311 - the same in each run
    assert {"killed", "unavailable"} <= set(ends)


def test_a_full_disk_is_a_full_disk(process: Process) -> None:
    """The error has the number that a writer takes for a full disk, and the same keys are stored afterwards."""
    path, ended = process.run(kind="error", call=60, times=2, errno=errno.ENOSPC)
    assert ended.status == 0, ended.output
    assert f"unavailable-{errno.ENOSPC}" in ended.said, ended.output
    check(path, ended)


@pytest.mark.campaign
def test_a_campaign_of_faults(process: Process, campaign: Campaign) -> None:
    """Hundreds of faults: `make campaign`."""
    ends = check_faults(process, random.Random(campaign.seed), campaign.rounds(200))  # noqa: S311 - a scenario
    campaign.say(str(Counter(ends)))
