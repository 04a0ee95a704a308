"""The power goes at every moment of publishing: no checkpoint without its tiles, and no second history after it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from audit_async.tlog.checkpoint import Checkpoint, verify_checkpoint
from audit_async.tlog.failures import InconsistentLog
from audit_async.tlog.log_monitor import check_entries, directory_source
from tests.store.chained import memory_directory
from tests.store.power_cut import Recorder, State, crash_states
from tests.tlog.trees import mth, open_publisher, publish, publish_all, records, sign, signer

SIZES = (2, 255, 256)
#: States that are tried after each call, at most: always the same ones, of up to tens of thousands that there are.
TRIED = 6


def test_every_crash_point() -> None:
    """Whatever the disk kept, the acknowledged checkpoint and its tiles are there, and no other history is signed."""
    log, other = records(260), records(260, salt="other")
    prepared: list[tuple[int, Checkpoint]] = []
    published: list[tuple[int, Checkpoint]] = []
    with memory_directory() as base, pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(base)
        recorder.install(patch)
        for size in SIZES:  # each checkpoint by another process
            publisher = open_publisher(base / "tlog", log[:size])
            publisher.append(log[publisher.size : size])
            checkpoint = publisher.prepare()
            prepared.append((len(recorder.calls), checkpoint))
            publisher.publish(sign(checkpoint))
            published.append((len(recorder.calls), checkpoint))
            publisher.close()
    chosen: dict[int, list[State]] = {}
    number: Counter[int] = Counter()
    choice = Random(1)  # noqa: S311
    for count, state in crash_states(recorder.calls):
        number[count] += 1
        tried = chosen.setdefault(count, [])
        if len(tried) < TRIED:
            tried.append(state)
        elif (at := choice.randrange(number[count])) < TRIED:
            tried[at] = state
    states = 0
    for count, state in [(count, state) for count, tried in chosen.items() for state in tried]:
        acknowledged = max((one.size for at, one in published if at <= count), default=0)
        signed = max((one.size for at, one in prepared if at <= count), default=0)
        states += 1
        with memory_directory() as base:
            state.write_to(base)
            survives(base, log, other, acknowledged=acknowledged, signed=signed)
    assert states > 300


def survives(base: Path, log: list[bytes], other: list[bytes], *, acknowledged: int, signed: int) -> None:
    """Assert that a log in this state keeps what was acknowledged, and holds to what it may have signed."""
    source = directory_source(base / "tlog")
    content = source("checkpoint")
    if content is None:
        assert not acknowledged
    else:
        checkpoint = verify_checkpoint(content, [signer().key]).checkpoint
        assert checkpoint.size >= acknowledged
        assert checkpoint.root == mth(log[: checkpoint.size])
        check_entries(source, checkpoint)
    if signed:
        for wrong in (other, log[: signed - 1]):
            with pytest.raises(InconsistentLog):
                publish_all(base / "tlog", wrong)
    publisher = open_publisher(base / "tlog", log)
    assert publisher.size >= signed
    assert publish(publisher, log).checkpoint.root == mth(log)
    publisher.close()
    check_entries(source, verify_checkpoint((base / "tlog/checkpoint").read_bytes(), [signer().key]).checkpoint)
