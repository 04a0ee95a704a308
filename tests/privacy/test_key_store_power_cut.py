"""The power goes, at any call that SQLite or we make: a stored key is there, a destroyed one is not.

The model of `tests.store.power_cut`, for files that are overwritten in place: a write or cut is durable once a sync of
its file has returned, a name once a sync of its directory has. Until then each may have reached the disk or not, each
block of a write for itself.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from audit_async.privacy import new_master_key
from tests.campaign import Campaign
from tests.privacy.key_stores import make_store
from tests.privacy.test_key_store_faults import Ended, check, parsed
from tests.store.chained import memory_directory
from tests.store.shim import build_shim

_BLOCK = 512


class Call(NamedTuple):
    """One call that changed a file, or what the process said."""

    kind: str
    path: str
    offset: int
    data: bytes


class File:
    """What is durable of a file, and what was done to it since."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.pending: list[Call] = []

    def do(self, call: Call, content: bytearray, blocks: list[bool] | None = None) -> None:
        """Apply a call to a content, of a write only some blocks."""
        if call.kind == "truncate":
            del content[call.offset :]
            content.extend(bytes(max(0, call.offset - len(content))))
            return
        content.extend(bytes(max(0, call.offset + len(call.data) - len(content))))
        for number, at in enumerate(range(0, len(call.data), _BLOCK)):
            if blocks is None or blocks[number % len(blocks)]:
                part = call.data[at : at + _BLOCK]
                content[call.offset + at : call.offset + at + len(part)] = part

    def sync(self) -> None:
        """Make all of it durable."""
        for call in self.pending:
            self.do(call, self.durable)
        self.pending.clear()

    def after_the_cut(self, dice: random.Random) -> bytes:
        """Return what may be on the disk."""
        content = bytearray(self.durable)
        share = dice.choice((0.0, 0.5, 0.9, 1.0))
        for call in self.pending:
            if dice.random() < share:
                self.do(call, content, dice.choice((None, None, [dice.random() < 0.5 for _ in range(8)])))
        return bytes(content)


class Disk:
    """A store's files as the calls leave them."""

    def __init__(self, path: Path) -> None:
        self.names = {str(file): File(file.read_bytes()) for file in path.rglob("*") if file.is_file()}
        self.live = dict(self.names)
        self.changes: list[tuple[str, File | None]] = []  # names that were made or removed, and are not durable

    def do(self, call: Call) -> None:
        """Do what the process did."""
        if call.kind == "create":
            self.live[call.path] = File()
            self.changes.append((call.path, self.live[call.path]))
        elif call.kind == "unlink":
            del self.live[call.path]
            self.changes.append((call.path, None))
        elif call.kind == "sync" and call.path in self.live:
            self.live[call.path].sync()
        elif call.kind == "sync":
            for path, file in [change for change in self.changes if os.path.dirname(change[0]) == call.path]:
                self._name(self.names, path, file)
                self.changes.remove((path, file))
        else:
            self.live[call.path].pending.append(call)

    @staticmethod
    def _name(names: dict[str, File], path: str, file: File | None) -> None:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file

    def write_what_is_left(self, place: Path, old_place: str, dice: random.Random) -> None:
        """Make what may be on the disk after a cut, below a new directory."""
        names = dict(self.names)
        for path, file in self.changes:
            if dice.random() < 0.5:
                self._name(names, path, file)
        (place / "sessions").mkdir(mode=0o700, parents=True)
        place.chmod(0o700)
        for path, file in names.items():
            target = place / os.path.relpath(path, old_place)
            target.write_bytes(file.after_the_cut(dice))
            target.chmod(0o600)


def calls_of(recorded: bytes) -> Iterator[Call]:
    """Yield the calls that the shim wrote down."""
    at = 0
    while at < len(recorded):
        end = recorded.index(b"\n", at)
        kind, offset, size, path = recorded[at:end].decode().split(" ", 3)
        yield Call(kind, path, int(offset), recorded[end + 1 : end + 1 + int(size)])
        at = end + 2 + int(size)


class Life:
    """A recorded life of a key store, which can be cut anywhere."""

    def __init__(self, place: Path) -> None:
        shim = build_shim(place, Path(__file__).with_name("record_shim.c"))
        self.store = make_store(place)
        (place / "new.key").write_bytes(new_master_key())
        (place / "new.key").chmod(0o600)
        self.first = Disk(self.store)
        arguments = [str(self.store), f"file:{place / 'master.key'}", str(place / "new.key")]
        recording = {"LD_PRELOAD": str(shim), "RECORD_BELOW": str(self.store), "RECORD_TO": str(place / "calls")}
        command = [sys.executable, "-m", "tests.privacy.faulty_key_store", *arguments]
        done = subprocess.run(command, env=os.environ | recording, capture_output=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        self.calls = list(calls_of((place / "calls").read_bytes()))
        assert {"write", "sync", "create", "unlink", "said"} <= {call.kind for call in self.calls}

    def cut(self, dice: random.Random, *, every: int) -> int:
        """Cut the power after some of the calls, one in `every`; return how often."""
        disk, said, cuts = self.first, b"", 0
        for call in self.calls:
            if call.kind == "said":
                said += call.data
            else:
                disk.do(call)
            if dice.randrange(every):
                continue
            cuts += 1
            with memory_directory() as place:
                for key in ("master.key", "new.key"):
                    shutil.copy2(self.store.parent / key, place / key)
                disk.write_what_is_left(place / "keys", str(self.store), dice)
                check(place / "keys", Ended(0, parsed(said.decode()), f"cut {cuts}: {said.decode()}"))
        return cuts


def test_a_power_cut_loses_no_key_and_leaves_none(tmp_path: Path) -> None:
    """At an eighth of the calls; after every call in `make campaign`."""
    assert Life(tmp_path).cut(random.Random(1), every=8) > 10  # noqa: S311 - the same in each run


@pytest.mark.campaign
def test_a_campaign_of_power_cuts(tmp_path: Path, campaign: Campaign) -> None:
    """After every call, with several things that the disk may have kept: `make campaign`."""
    for number in campaign.rounds(4):
        place = tmp_path / str(number)
        place.mkdir()
        dice = random.Random(f"{campaign.seed} {number}")  # noqa: S311 - a scenario
        assert Life(place).cut(dice, every=1) > 300
