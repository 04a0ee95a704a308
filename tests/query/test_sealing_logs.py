"""Whether a log seals what callers record: the same answer when it is asked again and again, for less reading."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from audit_async._query import sealing_logs
from audit_async._query.sealing_logs import SealingLogs, seals
from audit_async._trail.log_files import find_logs
from audit_async._trail.segment_parts import Part
from tests.trail.written import WrittenLog

_SEALING = {"event_type": "audit.log_opened", "privacy": 1}
_PLAIN = {"event_type": "audit.log_opened"}
_CALLERS = {"event_type": "t", "text": "x" * 100}
_EPOCH = {"event_type": "audit.segment_sealed", "erasure_epoch": 3}


def asked(base_dir: Path, sealing: SealingLogs) -> bool:
    """Return what is known of the one log."""
    (log,) = find_logs(base_dir)
    return sealing.includes(log)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_changes_no_answer(tmp_path: Path, seed: int) -> None:
    """Sessions of both kinds, commands that look after the log, seals, archives: as of somebody who asks once."""
    draw = random.Random(seed)  # noqa: S311 - the same in each run
    log, sealing = WrittenLog(tmp_path, max_bytes=1500), SealingLogs()
    log.write(_PLAIN)
    answers = set()
    for _ in range(25):
        event: dict[str, Any] = draw.choice([_SEALING, _PLAIN, _CALLERS, _CALLERS, _CALLERS, _EPOCH])
        log.write(*[event] * draw.choice([1, 1, 4]))
        if draw.random() < 0.2:
            log.archive(log.sealed()[:-1])
        (found,) = find_logs(tmp_path)
        answers.add(seals(found))
        assert sealing.includes(found) is seals(found)
    log.close()
    assert answers == {True, False}


def test_a_session_that_seals_is_seen_at_the_next_question(tmp_path: Path) -> None:
    """A name that is asked for from now on must not be recorded in the clear."""
    log, sealing = WrittenLog(tmp_path, max_bytes=1 << 20), SealingLogs()
    log.write(_PLAIN, *[_CALLERS] * 2_000)
    assert not asked(tmp_path, sealing)
    log.write(_SEALING)
    assert asked(tmp_path, sealing)
    log.close()


def test_an_older_copy_is_read_again(tmp_path: Path) -> None:
    """It has the same name and id, and fewer records."""
    log = WrittenLog(tmp_path / "now", max_bytes=1 << 20)
    log.write(_PLAIN, _CALLERS)
    shutil.copytree(tmp_path / "now", tmp_path / "older")
    log.write(_SEALING, _CALLERS)
    log.close()
    sealing = SealingLogs()
    assert asked(tmp_path / "now", sealing)
    shutil.rmtree(tmp_path / "now")
    (tmp_path / "older").rename(tmp_path / "now")
    assert not asked(tmp_path / "now", sealing)


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question reads the segment; the next one nothing, or the records that were added since."""
    log, sealing = WrittenLog(tmp_path, max_bytes=4 << 20), SealingLogs()
    log.write(_PLAIN, *[_CALLERS] * 5_000)
    assert not asked(tmp_path, sealing)
    after: list[int] = []
    stated_sealing = sealing_logs._stated_sealing

    def note(part: Part, seq: int) -> bool | None:
        after.append(seq)
        return stated_sealing(part, seq)

    monkeypatch.setattr(sealing_logs, "_stated_sealing", note)
    assert not asked(tmp_path, sealing)
    assert after == []
    log.write(_CALLERS)
    assert not asked(tmp_path, sealing)
    assert after == [5_000]
    log.close()


def test_a_segment_that_states_nothing_is_of_the_session_before(tmp_path: Path) -> None:
    """Callers' records may fill segments before it is recorded that the ones before were sealed, or that never is."""
    log, sealing = WrittenLog(tmp_path, max_bytes=1500), SealingLogs()
    log.write(_SEALING, *[_CALLERS] * 20)
    assert len(log.sealed()) > 1
    assert asked(tmp_path, sealing)
    log.write(_PLAIN, *[_CALLERS] * 20)
    assert not asked(tmp_path, sealing)
    log.close()
