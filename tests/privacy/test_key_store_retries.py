"""Each system call of each step of a key store fails, or its process is killed at it: a second try completes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import sampled
from tests.privacy.failing_steps import ERROR_KINDS, KILL_KINDS, STEPS
from tests.privacy.key_stores import ALICE, make_store, open_store, some_keys
from tests.store.chained import memory_directory
from tests.store.shim import build_shim, environment


@sampled(5)
@pytest.mark.parametrize("step", STEPS)
def test_a_second_try_completes_what_an_error_or_a_kill_has_left(step: str, every: int, tmp_path: Path) -> None:
    """Nothing that was to be destroyed is in a journal, nothing is reported twice or not at all, and no key is lost.

    Each call fails once after it was done, the commit among them: the step took place, and says that it failed. At one
    in `every` a call fails undone, or the process is killed.
    """
    shim = build_shim(tmp_path)
    with memory_directory() as place:
        command = [sys.executable, "-m", "tests.privacy.failing_steps", step, str(place), str(every)]
        done = subprocess.run(
            command, env=environment(shim, place), capture_output=True, timeout=480, check=False, text=True
        )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "done"
    assert {line.split(" ")[0] for line in lines[:-1]} == {*ERROR_KINDS, *KILL_KINDS}
    assert len(lines) > 30  # the calls were reached


def test_a_connection_that_is_opened_again_sees_what_others_did(tmp_path: Path) -> None:
    """After an error of the disk the connection is a new one, whose counter of changes begins again."""
    make_store(tmp_path)
    ours, other = open_store(tmp_path / "keys"), open_store(tmp_path / "keys")
    for number in range(6):  # whatever number the counter begins with
        early = some_keys(ours, ALICE, 1, epoch=ours.epoch())
        ours._main.file.close()  # as an error does it
        other.begin_erasure(ALICE, f"e{number}")
        assert ours.epoch() == number + 1
        assert ours.insert(early) == [early[0].key_id]  # refused: made before the erasure
    ours.close()
    other.close()
